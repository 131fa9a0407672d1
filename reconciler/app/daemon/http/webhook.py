"""The webhook: whether a request comes from the forge, and what it starts.

Nothing of its content is believed: it can only start a question to git or to the forge, or start nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

from reconciler.app.daemon.http.webhook_senders import (
    Announcement,
    EventKind,
    Proof,
    Sender,
    announcement_of,
    delivery_in,
    is_unsigned_ping,
    payload_in,
    proofs_of,
)
from reconciler.app.daemon.logs import RepeatedWarnings, get_logger
from reconciler.core.errors import ConfigError

_LARGEST_BODY = 1024 * 1024
_BODY_TIME = 8.0  # seconds for all of it; less than the whole request may take
_ROOM = 2 * 1024 * 1024  # bytes of bodies that are kept at the same time, until their signatures are known
_LARGEST_SECRET = 4096
_HEADS = "refs/heads/"

_FORGED = "the signature or token does not match webhook.secret_file"
_NO_SIGNATURE = "no signature or token of a known form"
_NOTHING = {
    EventKind.PUSH: "nothing to do: a push to another branch",
    EventKind.PULL_REQUEST: "nothing to do: pull requests are not planned here",
    EventKind.PING: "pong",
    EventKind.ELSE: "nothing to do: this event starts nothing",
}


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What the webhook answers, and whether that starts a poll of git, or a look at the open pull requests."""

    status: int
    text: str
    polls: bool = False
    plans: bool = False


def read_webhook_secret(path: str) -> bytes:
    """The secret that signs announcements. Raises ConfigError: an empty one lets anybody in."""
    hint = "Put the secret there, or correct webhook.secret_file"
    try:
        with open(path, "rb") as file:
            secret = file.read(_LARGEST_SECRET).strip()
    except OSError as error:
        problem = f"cannot read the webhook secret ({os.strerror(error.errno or 0)})"
        raise ConfigError(problem, where=path, hint=hint, id="webhook-secret") from error
    if not secret:
        raise ConfigError("the webhook secret is empty", where=path, hint=hint, id="webhook-secret")
    return secret


class WebhookReceiver:
    """Judges the requests to the webhook. The secret is read again for each, so that it can be replaced at any time.

    A push counts where it is to ``branch``, or to one that is ``planned`` before the merge.
    """

    def __init__(self, secret_file: str, branch: str, planned: Callable[[str], bool] | None = None) -> None:
        self._secret_file = secret_file
        self._ref = f"{_HEADS}{branch}"
        self._planned = planned
        self._kept = 0

    async def judge(self, request: web.Request, warnings: RepeatedWarnings) -> WebhookAnswer:
        """What to answer; nothing of a body is read where no signature or token can make it good."""
        if (request.content_length or 0) > _LARGEST_BODY:
            return self._refused(request, warnings, 413, "the body is too large")
        if is_unsigned_ping(request.headers):
            return WebhookAnswer(200, f"{_NOTHING[EventKind.PING]}; this test is not signed, so it proves no secret")
        try:
            secret = read_webhook_secret(self._secret_file)
        except ConfigError as error:
            warnings.note("webhook secret cannot be used", error_id=error.id, reason=str(error))
            return WebhookAnswer(503, "webhook.secret_file cannot be used; the daemon's log says why")
        proofs = proofs_of(request.headers, secret)
        if not proofs:
            return self._refused(request, warnings, 403, _NO_SIGNATURE)
        with self._keeping() as body:
            try:
                async with asyncio.timeout(_BODY_TIME):
                    complete = await self._read(request, proofs, body)
            except TimeoutError:
                return self._refused(request, warnings, 408, "the body did not arrive in time")
            if not complete:
                return self._refused(request, warnings, 413, "the body is too large")
            payload = payload_in(request.headers, bytes(body.data)) if body.whole else None
            senders = _proved(proofs) or _proved_by_payload(request, secret, payload, body)
            if not senders:
                return self._refused(request, warnings, 403, _FORGED)
            return self._accepted(announcement_of(senders, request.headers, payload))

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[_Body]:
        body = _Body()
        try:
            yield body
        finally:
            self._kept -= len(body.data)

    async def _read(self, request: web.Request, proofs: list[tuple[Sender, Proof]], body: _Body) -> bool:
        """Read the body; return whether it has an acceptable size. Where there is no room to keep it, it is only
        summed up: then nobody knows what it announces."""
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > _LARGEST_BODY:
                return False
            for _, proof in proofs:
                proof.update(chunk)
            self._keep(body, chunk)
        return True

    def _keep(self, body: _Body, chunk: bytes) -> None:
        if body.whole and self._kept + len(chunk) <= _ROOM:
            body.data += chunk
            self._kept += len(chunk)
        elif body.whole:
            body.whole = False
            self._kept -= len(body.data)
            body.data.clear()

    def _accepted(self, announcement: Announcement) -> WebhookAnswer:
        answer = self._answer_to(announcement)
        get_logger().info(
            "webhook",
            sender=announcement.sender,
            announces=announcement.event or announcement.kind.value,
            delivery=announcement.delivery,
            answer=answer.text,
        )
        return answer

    def _answer_to(self, announcement: Announcement) -> WebhookAnswer:
        kind, refs = announcement.kind, announcement.refs
        if kind is EventKind.PUSH and (refs is None or self._ref in refs):
            return WebhookAnswer(202, "reconciling", polls=True)
        branches = [ref.removeprefix(_HEADS) for ref in refs or () if ref.startswith(_HEADS)]
        if self._planned and (kind is EventKind.PULL_REQUEST or any(map(self._planned, branches))):
            return WebhookAnswer(202, "planning", plans=True)
        return WebhookAnswer(200, _NOTHING[kind])

    def _refused(self, request: web.Request, warnings: RepeatedWarnings, status: int, reason: str) -> WebhookAnswer:
        peer, delivery = request.remote or "", delivery_in(request.headers)
        warnings.note(f"webhook refused: {reason}", error_id="webhook-refused", peer=peer, delivery=delivery)
        return WebhookAnswer(status, reason)


class _Body:
    """What is kept of a body; ``whole``: all of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.whole = True


def _proved(proofs: list[tuple[Sender, Proof]]) -> list[Sender]:
    return [sender for sender, proof in proofs if proof.good]


def _proved_by_payload(request: web.Request, secret: bytes, payload: bytes | None, body: _Body) -> list[Sender]:
    """Gitea, Forgejo and Gogs sign the JSON text, also where they send it in a form."""
    if payload is None or payload == body.data:
        return []
    proofs = proofs_of(request.headers, secret)
    for _, proof in proofs:
        proof.update(payload)
    return _proved(proofs)
