"""Who may read: whoever sends the token of ``http.token_file``, or has logged in with it at /login."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, quote, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from reconciler.app.config.sections import Http
from reconciler.app.daemon.http.answers import is_api, refuse
from reconciler.app.daemon.http.connections import Connection
from reconciler.app.daemon.http.guard import is_allowed_host, local_address, without_port
from reconciler.app.daemon.logs import RepeatedWarnings
from reconciler.core.decide.private_files import is_exposed
from reconciler.core.errors import ConfigError, RefusedError

_OPEN = frozenset({"/healthz", "/login"})
_TOKEN = re.compile(rb"[\x21-\x7e]+")
_SHORTEST_TOKEN = 20
_LONGEST_TOKEN = 4096
_SESSION = 12 * 3600  # seconds: a working day
_TURN = 1.0  # seconds between two attempts to log in from one address
_LONGEST_WAIT = 5.0  # seconds an attempt waits for its turn
_MOST_ADDRESSES = 1024  # that have to wait for their turn
_IN_QUERY = ("token", "access_token")  # what clients call it that send it in the address
_WRONG = "the token is missing or wrong"
_SEND_IT = "Send `Authorization: Bearer TOKEN`, or log in at /login"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer, a browser would post the form without its origin
    "X-Frame-Options": "DENY",
}


def read_token(path: str) -> bytes:
    """The token in the file. Raises ConfigError where it cannot be used, or others may read it."""

    def unusable(problem: str, hint: str = "Write a new one: `openssl rand -hex 32`") -> ConfigError:
        return ConfigError(problem, where=path, hint=hint, id="http-token")

    try:
        # Without waiting for the other end of a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise unusable("is not a file", "Correct http.token_file")
            data = file.read(_LONGEST_TOKEN + 1)
    except OSError as error:
        problem = f"cannot read the token ({os.strerror(error.errno or 0)})"
        raise unusable(problem, "Put it there, or correct http.token_file") from error
    mode = stat.S_IMODE(status.st_mode)
    if is_exposed(path, mode, os.environ.get("CREDENTIALS_DIRECTORY", "")):
        raise unusable(f"has mode {mode:04o}: others may read the token", f"`chmod 0600 {path}`")
    token = data.strip()
    if not token:
        raise unusable("the token is empty")
    if len(data) > _LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise unusable("the token is not one word of printable ASCII, which a header can carry")
    if len(token) < _SHORTEST_TOKEN:
        raise unusable(f"the token has fewer than {_SHORTEST_TOKEN} characters, so it could be guessed")
    return token


class Access:
    """Lets requests pass that have the token or a session, and lets browsers log in.

    A session is a keyed value in a cookie: it ends after 12 hours, with another token, and with the process. Browsers
    send the cookies of all ports of a host, so its name is of this process too.
    """

    def __init__(self, http: Callable[[], Http], warnings: RepeatedWarnings) -> None:
        self._http = http
        self._warnings = warnings
        self._key = secrets.token_bytes(32)
        self._cookie = f"reconciler-{secrets.token_hex(4)}"
        self._turns = Turns()

    def guard(self) -> Middleware:
        """The middleware that refuses everybody else; it answers /login itself."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            http = self._http()
            # The route, not the path: they cannot differ in how they are written.
            resource = request.match_info.route.resource
            path = resource.canonical if resource else ""
            if http.token_file is None or path == "/webhook":  # which has a secret of its own
                return await handler(request)
            if any(name in request.query for name in _IN_QUERY):
                return self._refuse(request, 400, "the token is in the address, which logs and histories keep")
            if path in _OPEN or (path == "/metrics" and http.public_metrics):
                return await handler(request)
            try:
                token = read_token(http.token_file)
                known = self._has_token(request, token) or self._has_session(request, token)
                refusal = None if known else self._ask_for_token
            except ConfigError as error:
                refusal = functools.partial(self._without_token, error=error)
            if path == "/readyz" and refusal:
                return _first_line(await handler(request))
            return refusal(request) if refusal else await handler(request)

        return guard

    async def show_login(self, request: web.Request) -> web.Response:
        """GET /login: the form."""
        page = _page_in(request.query.get("page", ""))
        return _login_page(page) if self._http().token_file else _go_to(f".{page}")

    async def log_in(self, request: web.Request) -> web.Response:
        """POST /login: the token gives a session. One attempt a second from an address; a right one need not wait
        for the attempts of others."""
        path = self._http().token_file
        if path is None:
            return _go_to("./")
        if not _is_own_form(request):
            return self._refuse(request, 403, "the form was sent by another site")
        fields = await _form_in(request)
        page = _page_in(fields.get("page", ""))
        wait = self._turns.wait(client_of(request))
        if wait > _LONGEST_WAIT:
            self._note(request, "too many attempts to log in")
            return _login_page(page, "Too many attempts. Wait a minute.", status=429, headers={"Retry-After": "60"})
        await asyncio.sleep(wait)
        try:
            token = read_token(path)
        except ConfigError as error:
            return self._without_token(request, error)
        if not _same(fields.get("token", "").strip().encode(errors="surrogateescape"), token):
            self._note(request, "wrong token at /login")
            return _login_page(page, "This is not the token.", status=403)
        self._turns.forget(client_of(request))
        response = _go_to(f".{page}")
        response.set_cookie(
            self._cookie,
            self._new_session(token),
            max_age=_SESSION,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=_is_encrypted(request),
        )
        return response

    def _has_token(self, request: web.Request, token: bytes) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and _same(given.strip().encode(errors="surrogateescape"), token)

    def _has_session(self, request: web.Request, token: bytes) -> bool:
        ends, _, rest = request.cookies.get(self._cookie, "").partition(".")
        if not re.fullmatch("[0-9]{1,12}", ends):
            return False
        good = _same(rest.encode(errors="surrogateescape"), self._keyed(ends, rest.partition(".")[0], token).encode())
        return good and time.time() < int(ends)

    def _new_session(self, token: bytes) -> str:
        ends = str(int(time.time()) + _SESSION)
        return f"{ends}.{self._keyed(ends, secrets.token_hex(16), token)}"

    def _keyed(self, ends: str, nonce: str, token: bytes) -> str:
        text = f"{ends}.{nonce}.".encode(errors="surrogateescape") + hashlib.sha256(token).digest()
        return f"{nonce}.{hmac.new(self._key, text, hashlib.sha256).hexdigest()}"

    def _ask_for_token(self, request: web.Request) -> web.Response:
        is_page = "text/html" in request.headers.get("Accept", "") and not is_api(request.path)
        if not is_page or request.method not in ("GET", "HEAD"):
            self._note(request, _WRONG)
            error = RefusedError(
                _WRONG, hint="Send `Authorization: Bearer TOKEN`, or log in at /login", id="http-access"
            )
            return refuse(request, 401, error, {"WWW-Authenticate": 'Bearer realm="reconciler"'})
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A link on another site, to which the browser sends no strict cookie. The page's own reload has it.
            text = '<!DOCTYPE html><meta http-equiv="refresh" content="0"><title>reconciler</title>'
            return web.Response(text=text, content_type="text/html", headers=_HEADERS)
        up = "../" * (request.rel_url.raw_path.count("/") - 1)
        return _go_to(f"./{up}login?page={quote(request.path_qs, safe='')}")

    def _refuse(self, request: web.Request, status: int, reason: str) -> web.Response:
        self._note(request, reason)
        return refuse(request, status, RefusedError(reason, hint=_SEND_IT, id="http-access"))

    def _without_token(self, request: web.Request, error: ConfigError) -> web.Response:
        self._warnings.note("HTTP requests are refused for want of a token", error_id=error.id, reason=str(error))
        problem, hint = "http.token_file cannot be used", "The daemon's log says why: `journalctl -u reconciler`"
        return refuse(request, 503, RefusedError(problem, hint=hint, id=error.id))

    def _note(self, request: web.Request, reason: str) -> None:
        peer = client_of(request)
        self._warnings.note(
            "HTTP request refused", of=f"{peer} {reason}", error_id="http-access", peer=peer, reason=reason
        )


class Turns:
    """When the next attempt of each address may be judged. It bounds attempts, not who makes them."""

    def __init__(self) -> None:
        self._free: dict[str, float] = {}

    def wait(self, address: str) -> float:
        """Take a turn; return the seconds until it. Above _LONGEST_WAIT there is none."""
        now = asyncio.get_running_loop().time()
        self._free = {known: free for known, free in self._free.items() if free > now}
        start = max(now, self._free.get(address, now))
        if start - now <= _LONGEST_WAIT and (address in self._free or len(self._free) < _MOST_ADDRESSES):
            self._free[address] = start + _TURN
        return start - now

    def forget(self, address: str) -> None:
        """The address has the token, so it need not wait."""
        self._free.pop(address, None)


def _first_line(response: web.StreamResponse) -> web.Response:
    """What /readyz says to anybody: not which engines do not answer, and why."""
    text = response.text if isinstance(response, web.Response) else None
    return web.Response(status=response.status, text=f"{(text or '').partition(chr(10))[0]}\n")


def client_of(request: web.Request) -> str:
    """The client's address, for a log; of a proxy on this machine, the one that the proxy names."""
    connection = cast(Connection, request.protocol)
    if connection.from_this_machine:
        forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            return str(ipaddress.ip_address(forwarded))
        except ValueError:
            pass
    return connection.peer


def _is_encrypted(request: web.Request) -> bool:
    """Whether the browser came over TLS, as a proxy on this machine says: another client says it of itself only."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    return cast(Connection, request.protocol).from_this_machine and forwarded == "https"


def _is_own_form(request: web.Request) -> bool:
    """Whether our own page has sent the form, or no browser. Without TLS, browsers say no more than its origin."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    own = without_port(request.headers.get("Host", ""))
    return is_allowed_host(host, local_address(request), (own,))


async def _form_in(request: web.Request) -> dict[str, str]:
    """The fields of the form; {} of anything else. Raises HTTPRequestEntityTooLarge."""
    body = b""
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > 2 * _LONGEST_TOKEN:
            raise web.HTTPRequestEntityTooLarge(2 * _LONGEST_TOKEN, len(body))
    try:
        fields = parse_qs(body.decode(errors="surrogateescape"), errors="surrogateescape", max_num_fields=4)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


def _page_in(text: str) -> str:
    """The page to go to after the login: one of ours, never another site."""
    return text if re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", text) else "/"


def _go_to(location: str) -> web.Response:
    """``location`` is relative, for a proxy that serves us below a path."""
    return web.Response(status=303, headers={**_HEADERS, "Location": location})


def _login_page(
    page: str, problem: str = "", *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    from reconciler.app.pages.html import csp_hash, render_html, stylesheet

    policy = (
        f"default-src 'none'; style-src {csp_hash(stylesheet())}; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    text = render_html("login.html", page=page, problem=problem)
    known = {**_HEADERS, "Content-Security-Policy": policy, **(headers or {})}
    return web.Response(status=status, text=text, content_type="text/html", headers=known)


def _same(given: bytes, secret: bytes) -> bool:
    """Compare in a time that says nothing of either, its length included."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(secret).digest())
