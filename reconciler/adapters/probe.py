"""HTTP health checks of a manifest. The reader of the manifest has already refused hosts the server does not allow."""

from __future__ import annotations

from reconciler.core.model import HttpCheck

_TIMEOUT = 5.0  # seconds


class HttpHealth:
    """The ``HttpProbe`` port."""

    async def ok(self, check: HttpCheck) -> bool:
        import aiohttp

        try:
            # Redirects are not followed: they could lead to a host the server's file does not allow.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session,
                session.get(check.url, allow_redirects=False) as answer,
            ):
                return answer.status == check.status
        except (aiohttp.ClientError, TimeoutError):
            return False
