"""Who may read over HTTP, and where it listens: on real sockets, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
import structlog

from reconciler.app.config.listening import LISTEN
from reconciler.app.config.sections import Http
from reconciler.app.daemon.http import access as http_access
from reconciler.app.daemon.http import connections
from reconciler.app.daemon.http import guard as http_guard
from reconciler.app.daemon.http.access import read_token
from reconciler.app.daemon.http.interfaces import CurrentViews, Interfaces, Views, serve_interfaces
from reconciler.app.daemon.loop import Daemon
from reconciler.core.errors import ConfigError, ReconcilerError
from reconciler.core.history.chain import HistoryHead
from reconciler.core.ports.store import Store

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROWSER = {"Accept": "text/html,application/xhtml+xml"}
ELSEWHERE = "http://127.0.0.1:9464"


class Site:
    """Both interfaces, and a client that keeps no cookies and follows no redirects."""

    def __init__(self, interfaces: Interfaces, where: str, session: aiohttp.ClientSession, daemon: Any) -> None:
        self.interfaces = interfaces
        self.daemon = daemon
        self.where = where
        self.session = session

    @property
    def port(self) -> int:
        return int(self.where.rpartition(":")[2])

    async def ask(self, path: str, method: str = "GET", **given: Any) -> Answer:
        base = "http://localhost" if self.where.startswith("unix:") else f"http://127.0.0.1:{self.port}"
        async with self.session.request(method, f"{base}{path}", allow_redirects=False, **given) as response:
            return Answer(response.status, response.headers, await response.text(errors="replace"))

    async def log_in(self, token: str = TOKEN, page: str = "/", **headers: str) -> Answer:
        return await self.ask("/login", "POST", data={"token": token, "page": page}, headers=headers)


class Answer(SimpleNamespace):
    def __init__(self, status: int, headers: Any, text: str) -> None:
        super().__init__(status=status, headers=headers, text=text)

    @property
    def session(self) -> dict[str, str]:
        """The header that sends back the cookie which was set."""
        return {"Cookie": self.headers["Set-Cookie"].partition(";")[0]}


async def no_request(*_: Any) -> Any:
    raise NotImplementedError


@contextlib.asynccontextmanager
async def serving(directory: Path, listen: str = "127.0.0.1:0", **settings: Any) -> AsyncIterator[Site]:
    """The interfaces of a daemon that is well and has no runs."""
    daemon = SimpleNamespace(alive=True, ready=True, environments=(), engines_away={}, reconcilers={})
    store = SimpleNamespace(
        history=lambda *_, **__: (), history_of=lambda _: None, history_head=HistoryHead, environments=lambda: ()
    )
    views = Views(cast(Daemon, daemon), cast(Store, store), lambda: b"# metrics\n", no_request)
    source = CurrentViews()
    async with serve_interfaces(
        source, reload=no_request, control_socket=str(directory / "control.sock"), descriptors=1024
    ) as interfaces:
        where = await interfaces.listen(http(listen, **settings))
        path = where.removeprefix("unix:")
        connector = aiohttp.UnixConnector(path) if path != where else None
        jar = aiohttp.DummyCookieJar()
        async with source.provide(views), aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
            yield Site(interfaces, where, session, daemon)


def http(listen: str = "127.0.0.1:0", **settings: Any) -> Http:
    return Http().model_copy(update={"listen": LISTEN.read(listen), **settings})


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return written(tmp_path / "token", f"{TOKEN}\n")


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.fixture
async def site(tmp_path: Path, token_file: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, token_file=str(token_file)) as running:
        yield running


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


# --- the token ---


@pytest.mark.parametrize(
    ("method", "path", "without", "with_it"),
    [
        ("GET", "/healthz", 200, 200),
        ("GET", "/readyz", 200, 200),
        ("GET", "/login", 200, 200),
        ("POST", "/webhook", 404, 404),  # none is configured
        ("GET", "/metrics", 401, 200),
        ("GET", "/api/v1/status", 401, 200),
        ("GET", "/api/v1/history", 401, 200),
        ("GET", "/api/v1/runs/x", 401, 404),
        ("GET", "/api/v1/comparison", 401, 200),
        ("GET", "/openapi.json", 401, 200),
        ("GET", "/elsewhere", 401, 404),
        ("GET", "/healthz/", 401, 404),
        ("GET", "/metrics/../healthz", 200, 200),  # the client itself shortens it
        ("GET", "//healthz", 401, 404),
        ("POST", "/healthz", 401, 405),
        ("OPTIONS", "/api/v1/status", 401, 405),
    ],
)
async def test_all_but_health_and_the_webhook_needs_the_token(
    site: Site, method: str, path: str, without: int, with_it: int
) -> None:
    assert (await site.ask(path, method)).status == without
    assert (await site.ask(path, method, headers=BEARER)).status == with_it


async def test_readiness_says_only_with_the_token_which_engine_is_away(site: Site, token_file: Path) -> None:
    site.daemon.engines_away = {"production@web-2": "its engine does not answer"}
    away = "ready\nproduction@web-2: its engine does not answer\n"
    assert (await site.ask("/readyz")).text == "ready\n"
    assert (await site.ask("/readyz", headers=BEARER)).text == away
    site.daemon.ready = False
    token_file.unlink()
    answer = await site.ask("/readyz", headers=BEARER)
    assert (answer.status, answer.text) == (503, "the first reconciliation has not ended\n")


async def test_metrics_can_be_public_and_then_nothing_else_is(tmp_path: Path, token_file: Path) -> None:
    async with serving(tmp_path, token_file=str(token_file), public_metrics=True) as site:
        assert (await site.ask("/metrics")).status == 200
        assert (await site.ask("/api/v1/status")).status == 401


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {OTHER}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN} x",
        f"Bearer {TOKEN.upper()}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}\udc80",
        "Bearer " + "x" * 7000,
    ],
)
async def test_anything_but_the_token_is_refused_in_the_form_of_every_error(site: Site, given: str) -> None:
    raw = f"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {given}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(raw.encode(errors="surrogateescape"))
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'WWW-Authenticate: Bearer realm="reconciler"' in answer
    assert b'{"schema": 1, "error": {"what": "the token is missing or wrong", "where": "", "hint": "Send' in answer
    assert b'"id": "http-access"}}' in answer


async def test_the_scheme_may_be_written_in_any_case_and_http_1_0_is_held_to_the_token_too(site: Site) -> None:
    assert (await site.ask("/metrics", headers={"Authorization": f"bearer  {TOKEN}"})).status == 200
    for header, status in ((f"Authorization: Bearer {TOKEN}\r\n", b"200"), ("", b"401")):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"GET /metrics HTTP/1.0\r\n{header}\r\n".encode())
        assert (await reader.read()).split()[1] == status
        writer.close()


async def test_a_new_token_counts_immediately_and_an_unusable_one_opens_nothing(
    site: Site, token_file: Path, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_access, "_TURN", 0.0)
    session = (await site.log_in()).session
    assert (await site.ask("/metrics", headers=session)).status == 200
    written(token_file, OTHER)
    assert (await site.ask("/metrics", headers=BEARER)).status == 401
    assert (await site.ask("/metrics", headers=session)).status == 401
    assert (await site.ask("/metrics", headers={"Authorization": f"Bearer {OTHER}"})).status == 200
    for spoil in (lambda: token_file.write_text("\n"), lambda: token_file.chmod(0o644), token_file.unlink):
        spoil()
        answer = await site.ask("/metrics", headers={"Authorization": "Bearer"})
        assert (answer.status, "[http-token]" in answer.text) == (503, True)
        assert (await site.log_in("")).status == 503
    assert (await site.ask("/healthz")).status == 200
    (reason,) = [line["reason"] for line in lines if line["error_id"] == "http-token"]
    assert "the token is empty" in reason


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        pytest.param(TOKEN, 0o640, "has mode 0640: others may read the token", id="group"),
        pytest.param(TOKEN, 0o604, "has mode 0604", id="others"),
        pytest.param(b"", 0o600, "is empty", id="empty"),
        pytest.param(b" \n\n", 0o600, "is empty", id="blank"),
        pytest.param("0123456789abcdef012", 0o600, "fewer than 20 characters", id="short"),
        pytest.param(f"{TOKEN}\n{OTHER}\n", 0o600, "is not one word", id="two lines"),
        pytest.param("correct horse battery staple", 0o600, "is not one word", id="spaces"),
        pytest.param(TOKEN.encode() + b"\0", 0o600, "is not one word", id="NUL"),
        pytest.param("schlüssel-mit-umlauten-im-text", 0o600, "is not one word", id="not ASCII"),
        pytest.param(b"x" * 5000, 0o600, "is not one word", id="large"),
    ],
)
def test_a_token_that_is_weak_or_no_header_can_carry_is_refused(
    tmp_path: Path, content: str | bytes, mode: int, says: str
) -> None:
    path = written(tmp_path / "token", content, mode)
    with pytest.raises(ConfigError, match=says) as error:
        read_token(str(path))
    assert error.value.id == "http-token"
    assert TOKEN not in str(error.value)


def test_only_a_file_is_a_token_file_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "missing", "."):
        with pytest.raises(ConfigError, match=r"http\.token_file"):
            read_token(str(tmp_path / name))
    assert read_token(str(written(tmp_path / "token", f"\n{TOKEN} \r\n"))) == TOKEN.encode()


@pytest.mark.parametrize("query", [f"token={TOKEN}", f"access_token={TOKEN}", f"a=b&token={TOKEN}", "token="])
async def test_a_token_in_the_address_is_refused_and_never_logged(site: Site, query: str, lines: list[Any]) -> None:
    for path in ("/metrics", "/api/v1/status", "/login", "/elsewhere", "/healthz"):
        answer = await site.ask(f"{path}?{query}", headers={**BEARER, **BROWSER})
        assert (answer.status, "the token is in the address" in answer.text) == (400, True)
        assert TOKEN not in answer.text
    assert [line["reason"] for line in lines] == ["the token is in the address, which logs and histories keep"]
    assert TOKEN not in str(lines)


async def test_refusals_are_logged_once_for_each_client_and_reason(site: Site, lines: list[Any]) -> None:
    for address in ("203.0.113.7", "203.0.113.8", "not an address"):
        for _ in range(3):
            await site.ask("/metrics", headers={"X-Forwarded-For": f"198.51.100.1, {address}"})
    await site.log_in("wrong")
    assert [(line["peer"], line["reason"], line["count"], line["error_id"]) for line in lines] == [
        ("203.0.113.7", "the token is missing or wrong", 1, "http-access"),
        ("203.0.113.8", "the token is missing or wrong", 1, "http-access"),
        ("127.0.0.1", "the token is missing or wrong", 1, "http-access"),
        ("127.0.0.1", "wrong token at /login", 1, "http-access"),
    ]


# --- the session ---


async def test_a_browser_logs_in_and_gets_where_it_wanted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_access, "_TURN", 0.0)
    answer = await site.ask("/runs/a?b=c%20d&e=f", headers=BROWSER)
    assert (answer.status, answer.headers["Location"]) == (303, "./../login?page=%2Fruns%2Fa%3Fb%3Dc%2520d%26e%3Df")
    form = await site.ask(answer.headers["Location"].removeprefix("./.."))
    assert 'name="page" type="hidden" value="/runs/a?b=c%20d&amp;e=f"' in form.text
    assert "form-action 'self'" in form.headers["Content-Security-Policy"]
    assert "default-src 'none'" in form.headers["Content-Security-Policy"]

    wrong = await site.log_in(OTHER, "/runs/a")
    assert (wrong.status, "Set-Cookie" in wrong.headers) == (403, False)
    assert 'role="alert"' in wrong.text
    assert OTHER not in wrong.text

    good = await site.log_in(TOKEN, "/runs/a")
    assert (good.status, good.headers["Location"]) == (303, "./runs/a")
    name, _, rest = good.headers["Set-Cookie"].partition("=")
    assert re.fullmatch("reconciler-[0-9a-f]{8}", name)
    assert rest.partition("; ")[2].split("; ") == ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict"]
    assert TOKEN not in rest
    assert (await site.ask("/metrics", headers=good.session)).status == 200


async def test_a_session_is_of_one_daemon_and_no_part_of_it_can_be_changed(
    site: Site, tmp_path: Path, token_file: Path
) -> None:
    cookie = (await site.log_in()).session["Cookie"]
    name, _, value = cookie.partition("=")
    ends, nonce, mac = value.split(".")
    forged = [
        "",
        value[:-1],
        f"{value}0",
        f"{int(ends) + 1}.{nonce}.{mac}",
        f"0{ends}.{nonce}.{mac}",
        f"{ends}.{nonce[:-1]}.{mac}",
        f"{ends}.{nonce}.{mac.upper()}",
        f"{ends}..{mac}",
        f"٤.{nonce}.{mac}",
        TOKEN,
    ]
    for changed in forged:
        assert (await site.ask("/metrics", headers={"Cookie": f"{name}={changed}"})).status == 401, changed
    (tmp_path / "neighbour").mkdir()
    async with serving(tmp_path / "neighbour", token_file=str(token_file)) as neighbour:
        theirs = (await neighbour.log_in()).session["Cookie"]
        assert theirs.partition("=")[0] != name
        renamed = f"{name}={theirs.partition('=')[2]}"
        assert (await site.ask("/metrics", headers={"Cookie": renamed})).status == 401
        assert (await site.ask("/metrics", headers={"Cookie": f"{theirs}; {cookie}; junk; =; ü=1"})).status == 200


async def test_a_session_ends_after_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    session = (await site.log_in()).session
    now = http_access.time.time()
    for passed, status in ((12 * 3600 - 60, 200), (12 * 3600 + 1, 401)):
        monkeypatch.setattr(http_access.time, "time", lambda passed=passed: now + passed)
        assert (await site.ask("/metrics", headers=session)).status == status


@pytest.mark.parametrize(
    ("forwarded", "secure"), [("https", True), ("http, https", True), ("https, http", False), ("", False)]
)
async def test_the_cookie_is_secure_where_a_proxy_here_says_so(site: Site, forwarded: str, secure: bool) -> None:
    answer = await site.log_in(**({"X-Forwarded-Proto": forwarded} if forwarded else {}))
    assert ("Secure" in answer.headers["Set-Cookie"]) is secure


async def test_what_a_client_elsewhere_says_of_itself_does_not_count(
    site: Site, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "is_loopback", lambda _: False)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    assert "Secure" not in (await site.log_in(**headers)).headers["Set-Cookie"]
    await site.ask("/metrics", headers=headers)
    assert [line["peer"] for line in lines] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://deploy.example.org"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": ELSEWHERE}, 303),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Host": "127.0.0.1"}, 403),
        ({"Origin": "http://[::x"}, 403),
    ],
)
async def test_another_site_cannot_log_a_browser_in(site: Site, headers: dict[str, str], status: int) -> None:
    answer = await site.log_in(**headers)
    assert (answer.status, "Set-Cookie" in answer.headers) == (status, status == 303)


@pytest.mark.parametrize("host", ["web-1", "web-1:8080", "[::1]", "[::1]:8080"])
async def test_without_tls_the_origin_alone_says_whose_form_it_is(tmp_path: Path, token_file: Path, host: str) -> None:
    async with serving(tmp_path, token_file=str(token_file), allowed_hosts=("web-1", "::1")) as site:
        assert (await site.log_in(Host=host, Origin=f"http://{host}")).status == 303
        assert (await site.log_in(Host=host, Origin="http://web-2")).status == 403


@pytest.mark.parametrize(
    "page", ["", "runs", "//evil.example", "/\\evil.example", "https://evil.example", "/\r\nX: y", "/\x00", "/a\\b"]
)
async def test_a_login_leads_to_a_page_of_ours_only(site: Site, page: str) -> None:
    assert (await site.log_in(TOKEN, page)).headers["Location"] == "./"


async def test_a_link_from_another_site_gets_by_a_reload_what_the_strict_cookie_allows(site: Site) -> None:
    answer = await site.ask("/runs/a", headers={**BROWSER, "Sec-Fetch-Site": "cross-site"})
    assert (answer.status, 'http-equiv="refresh"' in answer.text) == (200, True)
    assert (await site.ask("/runs/a", headers={**BROWSER, "Sec-Fetch-Site": "same-origin"})).status == 303


async def test_attempts_wait_for_their_turn_by_address_and_nobody_else_does() -> None:
    turns = http_access.Turns()
    waits = [round(turns.wait("203.0.113.7")) for _ in range(8)]
    assert waits == [0, 1, 2, 3, 4, 5, 6, 6]
    assert turns.wait("203.0.113.8") == 0
    turns.forget("203.0.113.7")
    assert turns.wait("203.0.113.7") == 0
    for number in range(3000):
        assert turns.wait(f"2001:db8::{number:x}") == 0
    assert len(turns._free) <= 1024


async def test_an_address_that_guesses_too_often_gets_429_and_the_right_token_logs_in_from_another(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_access, "_LONGEST_WAIT", 0.0)
    assert (await site.log_in("guess")).status == 403
    again = await site.log_in(TOKEN)
    assert (again.status, again.headers["Retry-After"], "Set-Cookie" in again.headers) == (429, "60", False)
    for _ in range(2):
        assert (await site.log_in(TOKEN, **{"X-Forwarded-For": "203.0.113.8"})).status == 303
    assert (await site.ask("/metrics", headers=BEARER)).status == 200


async def test_a_form_that_is_large_slow_or_no_form_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_access, "_TURN", 0.0)
    assert (await site.log_in("x" * 20_000)).status == 413
    for body in (b"", b"\xff\xfe\x00", b"token", b"token=&" * 50, b"=%ff%00", b"{}"):
        assert (await site.ask("/login", "POST", data=body)).status == 403, body
    monkeypatch.setattr(http_guard, "_TIME", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"token="
        await asyncio.sleep(3600)

    with contextlib.suppress(aiohttp.ClientError):  # it may close the connection before it is read
        assert (await site.ask("/login", "POST", data=slowly())).status == 503


async def test_without_a_token_file_there_is_nothing_to_log_in_to(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert (await site.ask("/api/v1/status")).status == 200
        assert (await site.ask("/login?page=/runs/a")).headers["Location"] == "./runs/a"
        assert "Set-Cookie" not in (await site.log_in()).headers


# --- where it listens ---


async def test_a_name_that_leads_beyond_loopback_needs_a_token(tmp_path: Path, token_file: Path) -> None:
    with pytest.raises(ReconcilerError, match=r"0:0: lets other machines connect \(0\.0\.0\.0\).*token_file") as error:
        async with serving(tmp_path, "0:0"):  # to the resolver, 0 is a name of 0.0.0.0
            pass
    assert error.value.id == "http-token-missing"
    async with serving(tmp_path, "0:0", token_file=str(token_file)) as site:
        with pytest.raises(ReconcilerError, match="token_file"):
            await site.interfaces.listen(http("0:0"))
        assert (await site.ask("/metrics")).status == 401  # the former settings stay


async def test_a_socket_is_for_its_group_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    async with serving(tmp_path, f"unix:{path}") as site:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for host, status in (("localhost", 200), ("localhost:80", 200), ("deploy.example.org", 421), ("", 421)):
            assert (await site.ask("/healthz", headers={"Host": host})).status == status, host
        await site.interfaces.listen(http(f"unix:{path}", allowed_hosts=("deploy.example.org",)))
        assert (await site.ask("/healthz", headers={"Host": "deploy.example.org"})).status == 200

        path.unlink()  # by somebody else: a reload makes it again
        await site.interfaces.listen(http(f"unix:{path}"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

        moved = tmp_path / "moved.sock"
        await site.interfaces.listen(http(f"unix:{moved}"))
        assert (path.exists(), moved.is_socket()) == (False, True)
        moved.unlink()
        moved.write_text("of somebody else")
    assert moved.read_text() == "of somebody else"


@pytest.mark.root
async def test_a_socket_gets_its_group(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    async with serving(tmp_path, f"unix:{path}", socket_group="12345") as site:
        assert path.stat().st_gid == 12345
        await site.interfaces.listen(http(f"unix:{path}", socket_group="daemon"))
        assert path.stat().st_gid == 1
        with pytest.raises(ReconcilerError, match="there is no group nobody-has-this"):
            await site.interfaces.listen(http(f"unix:{path}", socket_group="nobody-has-this"))


async def test_only_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(tmp_path, f"unix:{path}") as site:
        assert (await site.ask("/healthz")).status == 200
        (tmp_path / "second").mkdir()
        with pytest.raises(ReconcilerError, match="Address already in use"):
            async with serving(tmp_path / "second", f"unix:{path}"):
                pass
        assert (await site.ask("/healthz")).status == 200
    target = written(tmp_path / "target", "kept")
    path.symlink_to(target)
    for make in (lambda: None, lambda: written(path, "kept"), path.mkdir):
        make()
        with pytest.raises(ReconcilerError, match="File exists"):
            async with serving(tmp_path, f"unix:{path}"):
                pass
        assert path.is_symlink() or path.is_dir() or path.read_text() == "kept"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert target.read_text() == "kept"
    tmp_path.chmod(0o1777)
    with pytest.raises(ReconcilerError, match="others could replace the socket"):
        async with serving(tmp_path, f"unix:{path}"):
            pass


async def test_a_socket_needs_no_token_but_honours_one(tmp_path: Path, token_file: Path) -> None:
    async with serving(tmp_path, f"unix:{tmp_path}/http.sock", token_file=str(token_file)) as site:
        assert (await site.ask("/metrics")).status == 401
        assert (await site.ask("/metrics", headers=BEARER)).status == 200
