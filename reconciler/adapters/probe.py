"""HTTP health checks of a manifest. The reader of the manifest has already refused hosts the server does not allow."""

from __future__ import annotations

import aiohttp

from reconciler.core.model import HttpCheck

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class HttpHealth:
    """The ``HttpProbe`` port."""

    async def ok(self, check: HttpCheck) -> bool:
        try:
            # Redirects are not followed: they could lead to a host the server's file does not allow.
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(check.url, allow_redirects=False) as answer,
            ):
                return answer.status == check.status
        except (aiohttp.ClientError, TimeoutError):
            return False
