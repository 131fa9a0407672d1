"""What each forge sends to the webhook, in its own form, and what that starts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from reconciler.app.daemon.http import webhook
from reconciler.app.daemon.http.webhook import WebhookReceiver
from reconciler.app.daemon.logs import RepeatedWarnings

SECRET = b"the webhook's own secret"
STANDARD = b"whsec_" + base64.b64encode(b"a signing token of 32 bytes, ok.")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEST_OF_BITBUCKET = {"X-Event-Key": "diagnostics:ping"}
MAIN, OTHER, TAG = "refs/heads/main", "refs/heads/feature", "refs/tags/main"

Post = Callable[[bytes, dict[str, str]], Awaitable[int]]


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    return tmp_path / "secret"


@pytest.fixture
def polls() -> list[str]:
    return []


@pytest.fixture
def plans() -> list[str]:
    return []


@pytest.fixture
async def post(
    request: pytest.FixtureRequest, secret_file: Path, polls: list[str], plans: list[str]
) -> AsyncIterator[Post]:
    """Send a body to the webhook; returns the status. Its parameter says which branches are planned."""
    planned, warnings = getattr(request, "param", None), RepeatedWarnings()
    receiver = WebhookReceiver(str(secret_file), "main", planned)

    async def handle(request: web.Request) -> web.Response:
        answer = await receiver.judge(request, warnings)
        polls.extend([answer.text] if answer.polls else [])
        plans.extend([answer.text] if answer.plans else [])
        return web.Response(status=answer.status, text=answer.text)

    app = web.Application(client_max_size=10 * 1024 * 1024)
    app.add_routes([web.post("/webhook", handle)])
    async with TestClient(TestServer(app)) as client:

        async def send(body: bytes, headers: dict[str, str]) -> int:
            async with client.post("/webhook", data=body, headers=headers) as response:
                return response.status

        yield send
        assert receiver._kept == 0


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def signed(body: bytes, secret: bytes = SECRET) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def pushed(ref: str) -> bytes:
    commit = {"id": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "message": "Rotate", "added": [], "modified": ["a.env"]}
    return json.dumps({"ref": ref, "before": "0" * 40, "after": "1" * 40, "commits": [commit]}).encode()


def pushed_at_bitbucket(ref: str) -> bytes:
    kind, name = ("tag" if ref.startswith("refs/tags/") else "branch"), ref.split("/", 2)[2]
    side = {"type": kind, "name": name, "target": {"type": "commit", "hash": "1" * 40}}
    return json.dumps({"push": {"changes": [{"old": None, "new": side, "created": True}]}}).encode()


def pushed_at_bitbucket_server(ref: str) -> bytes:
    changed = {"ref": {"id": ref, "displayId": "x"}, "refId": ref, "toHash": "1" * 40, "type": "UPDATE"}
    return json.dumps({"eventKey": "repo:refs_changed", "changes": [changed]}).encode()


def headers_like_github(body: bytes, event: str = "push", *families: str) -> dict[str, str]:
    """Gitea and Forgejo send the headers of their ancestors too."""
    headers = {"X-Hub-Signature-256": f"sha256={signed(body)}", "X-Hub-Signature": f"sha1={'0' * 40}"}
    for family in ("GitHub", *families):
        headers |= {f"X-{family}-Event": event, f"X-{family}-Delivery": f"{family}-1"}
    return headers | {f"X-{family}-Signature": signed(body) for family in families}


def headers_of_gitlab(body: bytes, event: str = "Push Hook") -> dict[str, str]:
    return {"X-Gitlab-Event": event, "X-Gitlab-Token": SECRET.decode(), "X-Gitlab-Event-UUID": "gitlab-1"}


def headers_of_bitbucket(body: bytes, event: str = "repo:push") -> dict[str, str]:
    return {"X-Event-Key": event, "X-Hub-Signature": f"sha256={signed(body)}", "X-Request-UUID": "bitbucket-1"}


def headers_of_bitbucket_server(body: bytes, event: str = "repo:refs_changed") -> dict[str, str]:
    return {"X-Event-Key": event, "X-Hub-Signature": f"sha256={signed(body)}", "X-Request-Id": "server-1"}


FORGES: list[Any] = [
    pytest.param(pushed, headers_like_github, "push", "GitHub-1", id="GitHub"),
    pytest.param(
        pushed, lambda body, event: headers_like_github(body, event, "Gitea", "Gogs"), "push", "Gitea-1", id="Gitea"
    ),
    pytest.param(
        pushed,
        lambda body, event: headers_like_github(body, event, "Forgejo", "Gitea", "Gogs"),
        "push",
        "Forgejo-1",
        id="Forgejo",
    ),
    pytest.param(pushed, lambda body, event: headers_like_github(body, event, "Gogs"), "push", "Gogs-1", id="Gogs"),
    pytest.param(pushed, headers_of_gitlab, "Push Hook", "gitlab-1", id="GitLab"),
    pytest.param(pushed_at_bitbucket, headers_of_bitbucket, "repo:push", "bitbucket-1", id="Bitbucket"),
    pytest.param(
        pushed_at_bitbucket_server, headers_of_bitbucket_server, "repo:refs_changed", "server-1", id="Bitbucket Server"
    ),
    pytest.param(
        pushed,
        lambda body, _: {"X-Signature-256": f"sha256={signed(body)}", "X-Request-Id": "any-1"},
        "push",
        "any-1",
        id="another",
    ),
]


@pytest.mark.parametrize(("write", "headers", "event", "delivery"), FORGES)
async def test_a_push_to_the_branch_polls_and_any_other_starts_nothing(
    post: Post, polls: list[str], lines: list[Any], write: Any, headers: Any, event: str, delivery: str
) -> None:
    for ref, status in ((OTHER, 200), (TAG, 200), (MAIN, 202)):
        assert polls == []
        body = write(ref)
        assert await post(body, headers(body, event)) == status
        forged = {name: value.replace(SECRET.decode(), "a guess") for name, value in headers(body, event).items()}
        assert await post(body if "X-Gitlab-Token" in forged else body + b" ", forged) == 403
    if delivery != "any-1":  # the only one without names of events
        assert await post(write(MAIN), headers(write(MAIN), "issues")) == 200
    assert len(polls) == 1
    assert [line["delivery"] for line in lines if line["event"] != "webhook"] == [delivery]  # refused thrice, one line
    said = [line for line in lines if "answer" in line]
    assert {line["answer"].partition(":")[0] for line in said} == {"nothing to do", "reconciling"}
    assert {line["delivery"] for line in said} == {delivery}


async def test_the_newer_signature_of_gitlab_covers_id_and_time(
    post: Post, secret_file: Path, polls: list[str]
) -> None:
    secret_file.write_bytes(STANDARD)
    key, body = base64.b64decode(STANDARD[6:]), pushed(MAIN)
    digest = base64.b64encode(hmac.new(key, b"msg-1.1764400000." + body, hashlib.sha256).digest()).decode()
    headers = {
        "X-Gitlab-Event": "Push Hook",
        "webhook-id": "msg-1",
        "webhook-timestamp": "1764400000",
        "webhook-signature": f"v1,{'A' * 43}= v1,{digest}",
    }
    assert await post(body, headers) == 202
    assert await post(body, headers | {"webhook-id": "msg-2"}) == 403
    assert await post(pushed(OTHER), headers) == 403
    secret_file.write_bytes(b"whsec_not base64")
    assert await post(body, headers) == 403
    assert len(polls) == 1


@pytest.mark.parametrize("signs", ["form", "payload"], ids=["GitHub signs the form", "Gitea signs its payload"])
async def test_a_form_is_read_like_json(post: Post, polls: list[str], signs: str) -> None:
    for ref, status in ((OTHER, 200), (MAIN, 202)):
        form = urllib.parse.urlencode({"payload": pushed(ref).decode(), "else": "1"}).encode()
        signature = signed(form if signs == "form" else pushed(ref))
        name = "X-Hub-Signature-256" if signs == "form" else "X-Gitea-Signature"
        assert await post(form, FORM | {name: signature if signs == "payload" else f"sha256={signature}"}) == status
        assert await post(form + b"&", FORM | {name: signed(b"something else")}) == 403
    assert len(polls) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(lambda body: headers_like_github(body, "ping"), 200, id="GitHub's ping"),
        pytest.param(lambda body: headers_like_github(body, "issues"), 200, id="another event"),
        pytest.param(lambda body: headers_like_github(body, "pull_request"), 200, id="a pull request, not planned"),
        pytest.param(lambda body: headers_of_gitlab(body, "Merge Request Hook"), 200, id="a merge request"),
        pytest.param(lambda body: headers_of_bitbucket_server(body, "pr:opened"), 200, id="Bitbucket's"),
        pytest.param(lambda _: TEST_OF_BITBUCKET, 200, id="Bitbucket Server's test, not signed"),
        pytest.param(
            lambda _: {"X-Event-Key": "diagnostics:ping", "X-Hub-Signature": "sha256=" + "0" * 64},
            403,
            id="forged test",
        ),
        pytest.param(lambda _: {"X-GitHub-Event": "ping"}, 403, id="GitHub's ping, not signed"),
        pytest.param(lambda body: {"X-Hub-Signature": f"sha1={'0' * 40}"}, 403, id="SHA-1"),
        pytest.param(lambda body: {"X-Gitlab-Token": "\xff"}, 403, id="bytes"),
    ],
)
async def test_what_is_no_push_starts_nothing(post: Post, polls: list[str], headers: Any, status: int) -> None:
    body = pushed(MAIN)
    assert (await post(body, headers(body)), polls) == (status, [])


@pytest.mark.parametrize("post", [lambda branch: branch == "feature"], indirect=True)
async def test_where_branches_are_planned_what_concerns_them_starts_a_plan(
    post: Post, polls: list[str], plans: list[str]
) -> None:
    requests = [
        headers_like_github(pushed(OTHER)),
        headers_like_github(pushed(OTHER), "pull_request"),
        headers_of_gitlab(pushed(OTHER), "Merge Request Hook"),
        headers_of_bitbucket(pushed(OTHER), "pullrequest:updated"),
        headers_of_bitbucket_server(pushed(OTHER), "pr:from_ref_updated"),
    ]
    assert [await post(pushed(OTHER), headers) for headers in requests] == [202] * 5
    assert await post(pushed("refs/heads/unplanned"), headers_like_github(pushed("refs/heads/unplanned"))) == 200
    assert (polls, plans) == ([], ["planning"] * 5)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[" * 500_000, id="nested"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="nested objects"),
        pytest.param(b'{"ref": ' + b"9" * 500_000 + b"}", id="a number without end"),
        pytest.param(b'{"ref": 1e999, "changes": [1, {}, {"new": 7}]}', id="wrong types"),
        pytest.param(b'{"push": {"changes": [{"new": {"type": "branch", "name": ["main"]}}]}}', id="no name"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b'{"ref": "refs/heads/x", "ref": "refs/heads/main"}', id="a key twice"),
    ],
)
async def test_a_signed_body_that_cannot_be_understood_is_a_poll(post: Post, polls: list[str], body: bytes) -> None:
    assert await post(body, headers_like_github(body)) == 202
    assert len(polls) == 1


async def test_a_secret_that_cannot_be_read_refuses_everything_until_it_is_back(
    post: Post, secret_file: Path, lines: list[Any], polls: list[str]
) -> None:
    body = pushed(MAIN)
    secret_file.write_bytes(b"\n")
    assert [await post(body, headers_like_github(body)) for _ in range(3)] == [503] * 3
    assert [line["error_id"] for line in lines] == ["webhook-secret"]
    secret_file.write_bytes(b"replaced")
    assert await post(body, headers_like_github(body)) == 403
    assert await post(body, headers_of_gitlab(body) | {"X-Gitlab-Token": "replaced"}) == 202
    assert len(polls) == 1


async def test_where_there_is_no_room_for_a_body_only_its_signature_counts(
    post: Post, polls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "_ROOM", 10)
    body = pushed(OTHER)
    assert await post(body + b" ", headers_like_github(body)) == 403
    assert await post(body, headers_like_github(body)) == 202
    assert len(polls) == 1
