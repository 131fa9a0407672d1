"""Whether a webhook request comes from the git server. Its body is only summed up, never kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re

from aiohttp import web

_LARGEST_BODY = 1024 * 1024
_BODY_TIME = 8.0  # seconds for all of it; less than the whole request may take
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")

ACCEPTED, FORGED, TOO_SLOW, TOO_LARGE = 202, 403, 408, 413


async def judge_announcement(request: web.Request, secret: bytes | None) -> int:
    """Return the status to answer with. GitHub, Gitea and Forgejo sign the body (HMAC-SHA256); GitLab sends the token.

    Nothing of a body is read where no signature or token can make it good.
    """
    token = request.headers.get("X-Gitlab-Token", "")
    signature = _SIGNATURE.fullmatch(request.headers.get("X-Hub-Signature-256", ""))
    if (request.content_length or 0) > _LARGEST_BODY:
        return TOO_LARGE
    if secret is None:
        return FORGED
    # A header may hold any byte, which aiohttp decodes with surrogates.
    if hmac.compare_digest(token.encode(errors="surrogateescape"), secret):
        return ACCEPTED
    if signature is None:
        return FORGED
    try:
        async with asyncio.timeout(_BODY_TIME):
            return await _judge_body(request, secret, signature[1])
    except TimeoutError:
        return TOO_SLOW


async def _judge_body(request: web.Request, secret: bytes, signature: str) -> int:
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > _LARGEST_BODY:
            return TOO_LARGE
        digest.update(chunk)
    return ACCEPTED if hmac.compare_digest(signature, digest.hexdigest()) else FORGED
