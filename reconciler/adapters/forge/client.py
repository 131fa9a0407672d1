"""Requests to a forge's API: JSON over HTTPS, with limits on time, size and number.

Redirects are not followed: the token would go along. A forge that asks us to wait is asked nothing until then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reconciler.adapters.imports import import_aiohttp, trust
from reconciler.core.errors import ForgeError
from reconciler.core.text import printable

if TYPE_CHECKING:
    import aiohttp

    from reconciler.adapters.forge.credentials import Credentials

PAGE = 100
"""How many items we ask for at once; every forge allows as many."""

_MOST_PAGES = 10
_TIMEOUT = 15.0  # seconds for a whole request
_LARGEST_ANSWER = 8 * 1024 * 1024
_LONGEST_MESSAGE = 200
_AT_THE_SAME_TIME = 4
_ATTEMPTS = 3  # where the forge fails; what it refuses is asked once
_FIRST_PAUSE = 1.0  # seconds
_LONGEST_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class ForgeAnswer:
    """A response; ``data`` is its JSON, None where it has none. Header names are in lower case."""

    status: int
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def items(self, *keys: str) -> list[dict[str, Any]]:
        """The objects of a list, at ``keys`` of the data; none where the answer has another shape."""
        data = self.data
        for key in keys:
            data = data.get(key) if isinstance(data, dict) else None
        return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    @property
    def message(self) -> str:
        """What the forge says of an error, as one harmless line; "" if it says nothing that we understand."""
        return printable(" ".join(_message(self.data).split()))[:_LONGEST_MESSAGE]


class _UnreachableError(ForgeError):
    """Nothing has answered, or not to the end."""

    id = "forge-unreachable"


class ForgeClient:
    """The API at ``url``. ``headers`` give the token its form; ``count`` takes the result of every request."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        headers: Callable[[str], Mapping[str, str]],
        count: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Any] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._headers = headers
        self._count = count
        self._sleep = sleep
        self._now = now
        self._turns = asyncio.Semaphore(_AT_THE_SAME_TIME)
        self._closed_until = 0.0
        self._session: aiohttp.ClientSession | None = None
        self.host = urlsplit(url).netloc

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        accept: tuple[int, ...] = (),
        repeat: bool = True,
    ) -> ForgeAnswer:
        """Given a path below the API's address, return the answer, whose status is 2xx or in ``accept``.

        ``repeat``: where the forge fails, it is asked again, because asking twice does no harm. Raises ForgeError.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS or not repeat
            try:
                answer = await self._ask_once(method, path, query, body)
            except _UnreachableError:
                self._count("failed")
                if last:
                    raise
            else:
                wait = _seconds_to_wait(answer, self._now())
                if 200 <= answer.status < 300 or (answer.status in accept and not wait):
                    self._count("ok")
                    return answer
                error = self._rate_limited(wait) if wait else self.refusal(answer, f"{method} {path}")
                self._count(_result(answer.status, error))
                if last or answer.status < 500 or error.retry_after:
                    raise error
            await self._sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        raise AssertionError

    async def pages(
        self, path: str, query: Mapping[str, str], *keys: str, size: str = "per_page", length: int = PAGE
    ) -> list[dict[str, Any]]:
        """All objects of a list, at most ten numbered pages; ``keys`` as in ``ForgeAnswer.items``. ``size`` is what the
        forge calls the ``length`` of a page."""
        items: list[dict[str, Any]] = []
        for page in range(1, _MOST_PAGES + 1):
            answer = await self.ask("GET", path, query={**query, size: str(length), "page": str(page)})
            items += (new := answer.items(*keys))
            total = answer.headers.get("x-total-count", "")  # a server may allow shorter pages than we ask for
            if not new or (len(items) >= int(total[:9]) if total.isdecimal() else len(new) < length):
                break
        return items

    async def _ask_once(self, method: str, path: str, query: Mapping[str, str] | None, body: object) -> ForgeAnswer:
        import_aiohttp()
        import aiohttp

        async with self._turns:
            if (wait := self._closed_until - self._now()) > 0:
                raise _wait(self.host, wait)
            token = await self._credentials.token()
            headers = {"Accept": "application/json", "User-Agent": "reconciler", **self._headers(token)}
            try:
                async with self._open().request(
                    method,
                    self._url + path,
                    params=query,
                    json=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=(proxy := _proxy(self._url)),
                    ssl=trust(self._url, proxy or ""),
                ) as response:
                    content = await _content(response, self.host)
                    names = {name.lower(): value for name, value in response.headers.items()}
                    return ForgeAnswer(response.status, _json(content), names)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _unreachable(self.host, error) from None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _rate_limited(self, seconds: float) -> ForgeError:
        self._closed_until = self._now() + seconds
        return _wait(self.host, seconds)

    def refusal(self, answer: ForgeAnswer, request: str) -> ForgeError:
        """What a status other than 2xx means, where it is not a rate limit."""
        said = f': "{answer.message}"' if answer.message else ""
        problem = f"answered {request} with {answer.status}{said}"
        if answer.status == 401:
            self._credentials.refused()
            hint = "Renew the token: it is unknown here, expired or revoked"
            return ForgeError(problem, where=self.host, hint=hint, id="forge-token")
        if 300 <= answer.status < 400:
            hint = "Correct forge.api_url or forge.repository: redirects are not followed"
            return ForgeError(problem, where=self.host, hint=hint)
        if answer.status in (403, 404):
            lacking = answer.headers.get("x-accepted-github-permissions") or answer.headers.get(
                "x-accepted-oauth-scopes"
            )
            named = f" ({printable(lacking)[:_LONGEST_MESSAGE]})" if lacking else ""
            hint = f"Give the token the permissions that docs/forge.md names{named}, or correct forge.repository"
            return ForgeError(problem, where=self.host, hint=hint, id="forge-permission")
        return ForgeError(problem, where=self.host, hint="Will retry")


def _result(status: int, error: ForgeError) -> str:
    return "rate_limited" if error.retry_after else "failed" if status >= 500 else "refused"


def _wait(host: str, seconds: float) -> ForgeError:
    problem = f"wants no requests for {seconds:.0f} s: its rate limit is reached"
    hint = "Will retry then. A token of its own has a limit of its own"
    return ForgeError(problem, where=host, hint=hint, id="forge-rate-limit", retry_after=seconds)


def _unreachable(host: str, error: Exception) -> _UnreachableError:
    reason = "it took too long" if isinstance(error, TimeoutError) else _reason(error)
    hint = "Will retry. Check forge.api_url, and whether this machine reaches it"
    return _UnreachableError(f"does not answer ({reason})", where=host, hint=hint)


def _reason(error: Exception) -> str:
    """What of an error of aiohttp's may be shown: never a header."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return printable(error.os_error.strerror or "connection failed")
    return type(error).__name__


async def _content(response: aiohttp.ClientResponse, host: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _LARGEST_ANSWER:
            raise ForgeError(f"sent more than {_LARGEST_ANSWER // 1024**2} MiB", where=host, hint="Will retry")
    return bytes(content)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return None


def _message(data: Any) -> str:
    """GitHub, Gitea: message; GitLab: message or error; Bitbucket: error.message, Server: errors[0].message."""
    if not isinstance(data, dict):
        return ""
    details = data.get("errors")
    first = details[0] if isinstance(details, list) and details else None
    more = first.get("message") if isinstance(first, dict) else first
    error = data.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    texts = [text for text in (data.get("message"), inner, more) if isinstance(text, str | dict | list)]
    return "; ".join(text if isinstance(text, str) else json.dumps(text) for text in texts)


def _seconds_to_wait(answer: ForgeAnswer, now: float) -> float:
    """How long the forge wants us to wait; 0 where that is not why it refuses."""
    headers = answer.headers
    exhausted = headers.get("x-ratelimit-remaining") == "0"
    limited = answer.status == 429 or (answer.status in (403, 503) and ("retry-after" in headers or exhausted))
    if not limited:
        return 0.0
    after, reset = (
        headers.get("retry-after", ""),
        headers.get("x-ratelimit-reset") or headers.get("ratelimit-reset", ""),
    )
    if after.isdecimal():
        seconds = float(after[:9])
    elif reset.isdecimal():
        seconds = float(reset[:12]) - now
    else:
        seconds = 60.0
    return min(max(seconds, 1.0), _LONGEST_WAIT)


def _proxy(url: str) -> str | None:
    """The proxy that the environment variables name for this address, as git uses it too; SOCKS is not supported."""
    import urllib.request

    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    known = urllib.request.getproxies()
    proxy = known.get(parts.scheme) or known.get("all", "")
    return proxy if proxy.startswith(("http://", "https://")) else None
