"""The forges' adapters, against servers that answer as those do."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from reconciler.adapters.forge.bitbucket import BitbucketForge, bitbucket_headers
from reconciler.adapters.forge.bitbucket_server import BitbucketServerForge
from reconciler.adapters.forge.client import ForgeClient
from reconciler.adapters.forge.credentials import TokenCommand, TokenFile
from reconciler.adapters.forge.gitea import GiteaForge, gitea_headers
from reconciler.adapters.forge.github import GitHubForge, app_credentials, github_headers
from reconciler.adapters.forge.gitlab import GitLabForge, bearer_headers
from reconciler.core.errors import ForgeError
from reconciler.core.ports.forge import CommitState, CommitStatus, Forge, PullRequest
from tests.support.forge import TOKEN, FakeForge, ForgeRequest, Pull, fake_forge
from tests.support.https import refusing_server

COMMIT = "a" * 40
MARKER = "reconciler-rollback-0123456789abcdef"
PENDING = CommitStatus(COMMIT, "reconciler/production@web-1", CommitState.PENDING, "reconciling")
SUCCESS = replace(PENDING, state=CommitState.SUCCESS, summary="applied and healthy", url="https://ops.example.org/1")

Adapter = Callable[[ForgeClient, str], Forge]
WEB = "https://forge.example.org/acme/config"
KINDS: dict[str, tuple[Adapter, Callable[[str], Mapping[str, str]]]] = {
    "github": (GitHubForge, github_headers),
    "gitlab": (GitLabForge, bearer_headers),
    "gitea": (GiteaForge, gitea_headers),
    "bitbucket": (lambda client, repository: BitbucketForge(client, repository, WEB), bitbucket_headers),
    "bitbucket-server": (lambda client, repository: BitbucketServerForge(client, repository, WEB), bearer_headers),
}


# What is the same for all of them is tested once.
OF_THE_CLIENT = pytest.mark.parametrize("kind", ["github"], indirect=True)


class Pauses:
    """Instead of waiting: how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Built:
    """A forge of one kind, and our adapter for it."""

    def __init__(self, kind: str, fake: FakeForge, token_file: Path) -> None:
        self.fake = fake
        self.results: list[str] = []
        self.pauses = Pauses()
        self.headers = KINDS[kind][1]
        self.client = ForgeClient(
            fake.url,
            TokenFile(str(token_file)),
            headers=self.headers,
            count=self.results.append,
            sleep=self.pauses,
        )
        self.forge = KINDS[kind][0](self.client, fake.repository)


@pytest.fixture
async def built(kind: str, token_file: Path) -> AsyncIterator[Built]:
    with fake_forge(kind) as fake:
        built = Built(kind, fake, token_file)
        yield built
        await built.client.close()


async def test_a_status_is_set_and_replaced(built: Built) -> None:
    await built.forge.set_status(PENDING)
    await built.forge.set_status(replace(PENDING, summary="held: " + "a reason " * 100))
    await built.forge.set_status(SUCCESS)
    await built.forge.set_status(replace(SUCCESS, state=CommitState.FAILURE, summary="rolled back"))
    statuses = [status for status in built.fake.statuses if status["state"] != "canceled"]
    assert [(status["commit"], status["context"]) for status in statuses] == [(COMMIT, PENDING.context)] * 4
    assert statuses[0]["summary"] == "reconciling"
    assert statuses[1]["summary"].endswith("…")
    assert statuses[2]["url"] == "https://ops.example.org/1"
    assert len({status["state"] for status in statuses}) == 3


async def test_long_names_stay_apart(built: Built) -> None:
    contexts = [f"{PENDING.context}.a-long-name-of-a-machine.example.org/{number}" for number in (1, 2)]
    for context in contexts:
        await built.forge.set_status(replace(PENDING, context=context))
    assert [known["context"] for known in built.fake.statuses] == contexts
    keys = {
        request.body.get("key", request.body.get("context", request.body.get("name")))
        for request in built.fake.requests
    }
    assert len(keys) == 2


async def test_pull_requests_are_found(built: Built) -> None:
    pulls = [Pull(7, "change"), Pull(8, "other", fork=True), Pull(9, target="develop"), Pull(5, merged=COMMIT)]
    built.fake.pulls += pulls
    pull_requests = await built.forge.open_pull_requests("main")
    assert [replace(pull, head=pull.head[:12]) for pull in pull_requests] == [
        PullRequest(7, "change", "c" * 12, "main", fork=False),
        PullRequest(8, "other", "c" * 12, "main", fork=True),
    ]
    assert await built.forge.merged_pull_request(COMMIT, "main") == 5
    assert await built.forge.merged_pull_request("d" * 40, "main") is None
    assert await built.forge.merged_pull_request(COMMIT, "develop") is None


async def test_one_comment_is_updated_and_nobody_elses(built: Built) -> None:
    built.fake.pulls.append(Pull(7))
    built.fake.moderates = True
    for number in range(130):
        built.fake.add_comment(7, f"comment {number}", author="them")
    await built.forge.put_comment(7, MARKER, "first **text**")
    copied = built.fake.add_comment(7, built.fake.comments[7][-1]["text"], author="them")
    await built.forge.put_comment(7, MARKER, "second text")
    ours = [comment["text"] for comment in built.fake.comments[7] if comment["author"] == "us"]
    assert len(ours) == 1
    assert "second text" in ours[0]
    assert MARKER in ours[0]
    assert "first **text**" in copied["text"]


async def test_a_comment_of_a_former_token_is_followed_by_a_new_one(built: Built) -> None:
    built.fake.pulls.append(Pull(7))
    built.fake.add_comment(7, f"<!-- {MARKER} -->\nold", author="former")
    for text in ("first", "second"):
        await built.forge.put_comment(7, MARKER, text)
    assert [comment["author"] for comment in built.fake.comments[7]] == ["former", "us"]
    assert "second" in built.fake.comments[7][1]["text"]


@OF_THE_CLIENT
async def test_the_token_is_read_for_every_request(built: Built, token_file: Path) -> None:
    await built.forge.set_status(PENDING)
    built.fake.tokens = {"the-next-one"}
    with pytest.raises(ForgeError, match="Renew the token") as refused:
        await built.forge.set_status(SUCCESS)
    assert refused.value.id == "forge-token"
    assert TOKEN not in str(refused.value)
    token_file.write_text("the-next-one")
    await built.forge.set_status(SUCCESS)
    assert built.results == ["ok", "refused", "ok"]


async def test_what_the_token_lacks_is_said(built: Built) -> None:
    assert built.fake.repository in await built.forge.examine()
    assert built.fake.statuses == []
    built.fake.may_write = False
    with pytest.raises(ForgeError) as refused:
        await built.forge.examine()
    assert refused.value.id == "forge-permission"


async def test_many_pull_requests_are_read_page_by_page(built: Built) -> None:
    built.fake.pulls += [Pull(number) for number in range(1, 131)]
    pull_requests = await built.forge.open_pull_requests("main")
    assert [pull.number for pull in pull_requests] == list(range(1, 131))


@OF_THE_CLIENT
async def test_a_failing_forge_is_asked_again_and_then_given_up(built: Built) -> None:
    built.fake.next_answers += [(502, {}, None), (503, {}, {"message": "down"})]
    await built.forge.set_status(PENDING)
    assert built.pauses.seconds == [1.0, 2.0]
    built.fake.next_answers += [(500, {}, None)] * 3
    with pytest.raises(ForgeError, match="500"):
        await built.forge.set_status(SUCCESS)
    assert built.results == ["failed", "failed", "ok", "failed", "failed", "failed"]


@OF_THE_CLIENT
@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        pytest.param(429, {"Retry-After": "40"}, 40, id="retry-after"),
        pytest.param(403, {"Retry-After": "7"}, 7, id="secondary-limit"),
        pytest.param(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "in 90 s"}, 90, id="reset"),
        pytest.param(503, {"Retry-After": "5"}, 5, id="maintenance"),
        pytest.param(429, {}, 60, id="no-time"),
        pytest.param(429, {"Retry-After": "999999999999"}, 3600, id="absurd"),
    ],
)
async def test_a_rate_limit_is_respected(built: Built, status: int, headers: dict[str, str], seconds: int) -> None:
    headers = {name: str(int(time.time()) + 90) if "in 90 s" in value else value for name, value in headers.items()}
    built.fake.next_answers.append((status, headers, {"message": "slow down"}))
    with pytest.raises(ForgeError) as limited:
        await built.forge.set_status(PENDING)
    assert limited.value.retry_after == pytest.approx(seconds, abs=2)
    with pytest.raises(ForgeError) as waiting:
        await built.forge.set_status(PENDING)
    assert waiting.value.id == "forge-rate-limit"
    assert len(built.fake.requests) == 1
    assert built.pauses.seconds == []


@OF_THE_CLIENT
async def test_redirects_are_not_followed(built: Built) -> None:
    built.fake.next_answers.append((302, {"Location": f"{built.fake.url}/elsewhere"}, None))
    with pytest.raises(ForgeError, match="redirects are not followed"):
        await built.forge.set_status(PENDING)
    assert len(built.fake.requests) == 1


@OF_THE_CLIENT
async def test_an_answer_is_bounded(built: Built) -> None:
    built.fake.next_answers.append((200, {}, "x" * (9 * 1024 * 1024)))
    with pytest.raises(ForgeError, match="sent more than 8 MiB"):
        await built.client.ask("GET", "/anything", repeat=False)


async def test_an_answer_may_be_anything(built: Built) -> None:
    hostile = "no\x1b[31m\n@everyone " + "x" * 1000
    built.fake.next_answers.append((422, {}, {"message": hostile, "errors": [7]}))
    with pytest.raises(ForgeError) as refused:
        await built.forge.set_status(PENDING)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()
    for data in ([], {}, "text", 7, [{"number": "7"}, None], {"values": [{"id": None}]}):
        built.fake.next_answers.append((200, {}, data))
        assert await built.forge.open_pull_requests("main") == ()


async def test_a_forge_that_cannot_be_reached_is_said_to_be(token_file: Path) -> None:
    pauses = Pauses()
    client = ForgeClient("http://127.0.0.1:1", TokenFile(str(token_file)), headers=github_headers, sleep=pauses)
    with pytest.raises(ForgeError, match="does not answer") as unreachable:
        await GitHubForge(client, "acme/config").set_status(PENDING)
    assert unreachable.value.id == "forge-unreachable"
    await client.close()


async def test_the_token_goes_to_nobody_whose_certificate_is_not_trusted(tmp_path: Path, token_file: Path) -> None:
    with refusing_server(tmp_path / "server") as server:
        url = server.url.removesuffix("/config.git")
        client = ForgeClient(url, TokenFile(str(token_file)), headers=github_headers, sleep=Pauses())
        with pytest.raises(ForgeError, match="its certificate is not trusted"):
            await GitHubForge(client, "acme/config").set_status(PENDING)
        await client.close()
        assert server.accounts == []


@OF_THE_CLIENT
@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
async def test_the_proxy_of_the_environment_is_used(
    built: Built, token_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, built.fake.url)
    client = ForgeClient("http://forge.invalid", TokenFile(str(token_file)), headers=built.headers)
    await client.ask("GET", "/anything", accept=(404,))
    assert built.fake.requests[-1].headers["host"] == "forge.invalid"
    monkeypatch.setenv("no_proxy", "forge.invalid")
    with pytest.raises(ForgeError, match="does not answer"):
        await client.ask("GET", "/anything", accept=(404,), repeat=False)
    await client.close()


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        pytest.param("", 0o600, "is not a token", id="empty"),
        pytest.param("two words", 0o600, "is not a token", id="words"),
        pytest.param("a\r\nX-Header: b", 0o600, "is not a token", id="header"),
        pytest.param("tökén", 0o600, "is not a token", id="not-ascii"),
        pytest.param(TOKEN, 0o644, "others may read", id="mode"),
        pytest.param(None, 0, "cannot be used", id="missing"),
    ],
)
async def test_a_file_without_a_usable_token(token_file: Path, content: str | None, mode: int, problem: str) -> None:
    if content is None:
        token_file.unlink()
    else:
        token_file.write_text(content)
        token_file.chmod(mode)
    with pytest.raises(ForgeError, match=problem) as unusable:
        await TokenFile(str(token_file)).token()
    assert not content or content not in str(unusable.value)


async def test_a_command_prints_the_token(tmp_path: Path) -> None:
    assert await TokenCommand(["/bin/echo", TOKEN]).token() == TOKEN
    with pytest.raises(ForgeError, match=r"false gave no token \(exit 1\)"):
        await TokenCommand(["/bin/false"]).token()
    with pytest.raises(ForgeError, match="cannot be started"):
        await TokenCommand([str(tmp_path / "missing")]).token()


# --- GitHub ---


@pytest.fixture(scope="module")
def app_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _verified(key: rsa.RSAPrivateKey, jwt: str) -> dict[str, Any] | None:
    """The claims of a token that GitHub would accept."""

    def decoded(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    try:
        header, payload, signature = jwt.split(".")
        signed = f"{header}.{payload}".encode()
        key.public_key().verify(decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature):
        return None
    claims = json.loads(decoded(payload))
    good = json.loads(decoded(header))["alg"] == "RS256" and claims["iat"] <= time.time() < claims["exp"]
    return claims if good and claims["exp"] - claims["iat"] <= 600 else None


@pytest.mark.parametrize("installation", [77, None])
async def test_a_github_app(tmp_path: Path, app_key: rsa.RSAPrivateKey, installation: int | None) -> None:
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    key_file = tmp_path / "app.pem"
    key_file.write_bytes(app_key.private_bytes(*pem))
    key_file.chmod(0o600)
    with fake_forge("github") as fake:
        fake.app_key = lambda jwt: _verified(app_key, jwt)
        credentials = app_credentials(
            fake.url, fake.repository, app="4711", key_file=str(key_file), installation=installation
        )
        client = ForgeClient(fake.url, credentials, headers=github_headers)
        forge = GitHubForge(client, fake.repository)
        await forge.set_status(PENDING)
        await forge.set_status(SUCCESS)
        made = [request for request in fake.requests if request.path.endswith("/access_tokens")]
        assert [request.body for request in made] == [
            {"repositories": ["config"], "permissions": {"statuses": "write", "pull_requests": "write"}}
        ]
        fake.tokens.clear()  # revoked
        with pytest.raises(ForgeError):
            await forge.set_status(PENDING)
        await forge.set_status(PENDING)
        assert fake.states(PENDING.context) == ["pending", "success", "pending"]
        key_file.write_text("not a key")
        fake.tokens.clear()
        for problem in ("Renew", "not an RSA private key"):
            with pytest.raises(ForgeError, match=problem):
                await forge.set_status(SUCCESS)
        await client.close()


# The requests that we make, as GitHub's OpenAPI description has them (the same names, types and limits).
_TEXT = {"type": "string"}
_GITHUB = {
    ("POST", "/statuses/"): {
        "type": "object",
        "required": ["state"],
        "additionalProperties": False,
        "properties": {
            "state": {"type": "string", "enum": ["error", "failure", "pending", "success"]},
            "target_url": {"type": ["string", "null"]},
            "description": {"type": ["string", "null"]},
            "context": {"type": "string", "default": "default"},
        },
    },
    ("POST", "/comments"): {
        "type": "object",
        "required": ["body"],
        "additionalProperties": False,
        "properties": {"body": _TEXT},
    },
    ("PATCH", "/comments/"): {
        "type": "object",
        "required": ["body"],
        "additionalProperties": False,
        "properties": {"body": _TEXT},
    },
}
_GITHUB_QUERY = {
    "/pulls": {"state", "head", "base", "sort", "direction", "per_page", "page"},
    "/comments": {"since", "per_page", "page"},
}


async def test_requests_to_github_have_the_shape_of_its_description(token_file: Path) -> None:
    with fake_forge("github") as fake:
        built = Built("github", fake, token_file)
        fake.pulls += [Pull(7), Pull(5, merged=COMMIT)]
        await built.forge.set_status(SUCCESS)
        await built.forge.open_pull_requests("main")
        await built.forge.merged_pull_request(COMMIT, "main")
        for text in ("first", "second"):
            await built.forge.put_comment(7, MARKER, text)
        await built.client.close()
    assert {request.method for request in fake.requests} == {"GET", "POST", "PATCH"}
    for request in fake.requests:
        _check_request(request)
        assert request.headers["x-github-api-version"] == "2022-11-28"


def _check_request(request: ForgeRequest) -> None:
    if request.method == "GET":
        known = next(names for ending, names in _GITHUB_QUERY.items() if request.path.endswith(ending))
        assert set(request.query) <= known
    else:
        keys = (key for key in _GITHUB if key[0] == request.method and key[1] in request.path)
        jsonschema.validate(request.body, _GITHUB[next(keys)])
