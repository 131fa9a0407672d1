"""A forge on loopback: a real HTTP server with the endpoints that the adapters use, as GitHub, GitLab, Gitea, Bitbucket
Cloud and Bitbucket Server have them, with their status codes, limits and refusals."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

TOKEN = "forge-token-0123456789"

# A reply: its status, and its body.
Reply = tuple[int, Any]
Route = tuple[str, re.Pattern[str], Callable[..., Reply]]


@dataclass(frozen=True, slots=True)
class ForgeRequest:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class Pull:
    """A pull request, merged by ``merged`` (a commit id; "" while it is open)."""

    number: int
    branch: str = "change"
    head: str = "c" * 40
    target: str = "main"
    fork: bool = False
    merged: str = ""


@dataclass(slots=True)
class FakeForge:
    """``statuses`` are all that were set, in order: commit, context, state, summary and url as this forge calls them.
    ``comments`` are by pull request, each with its id, author and text; ``moderates`` is whether we may edit those of
    others. ``next_answers`` are given instead of the real ones, in order: status, headers, body. ``gate`` is passed
    before a status is stored."""

    url: str
    repository: str
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    pulls: list[Pull] = field(default_factory=list)
    statuses: list[dict[str, str]] = field(default_factory=list)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[ForgeRequest] = field(default_factory=list)
    next_answers: list[tuple[int, Mapping[str, str], Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    may_write: bool = True
    moderates: bool = False
    gate: Callable[[], object] = lambda: None
    app_key: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def states(self, context: str) -> list[str]:
        return [status["state"] for status in self.statuses if status["context"] == context]

    def store(self, status: dict[str, str]) -> None:
        self.gate()
        self.statuses.append(status)

    def add_comment(self, number: int, text: str, author: str = "us") -> dict[str, Any]:
        thread = self.comments.setdefault(number, [])
        comment = {"id": number * 1000 + len(thread) + 1, "author": author, "text": text}
        thread.append(comment)
        return comment

    def comment(self, identity: str) -> dict[str, Any] | None:
        known = [comment for thread in self.comments.values() for comment in thread]
        return next((comment for comment in known if str(comment["id"]) == identity), None)

    def edit(self, identity: str, text: str, shape: Callable[[dict[str, Any]], Any]) -> Reply:
        comment = self.comment(identity)
        if comment is None:
            return 404, {"message": "Not Found"}
        if comment["author"] != "us" and not self.moderates:
            return 403, {"message": "Must have admin rights to Repository."}
        comment["text"] = text
        return 200, shape(comment)


@contextlib.contextmanager
def fake_forge(kind: str, repository: str = "acme/config") -> Iterator[FakeForge]:
    """A forge of this kind: github, gitlab, gitea, bitbucket or bitbucket-server."""
    forge = FakeForge("", repository)
    routes = ROUTES[kind](forge)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(forge, routes, _AUTHORIZATION[kind])) as server:
        forge.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield forge
        finally:
            server.shutdown()
            thread.join()


_AUTHORIZATION = {
    "github": "Bearer",
    "gitlab": "Bearer",
    "gitea": "token",
    "bitbucket": "Bearer",
    "bitbucket-server": "Bearer",
}


def _handler(forge: FakeForge, routes: list[Route], scheme: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(content) if content else None
            request = ForgeRequest(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            with forge.lock:
                forge.requests.append(request)
                scripted = forge.next_answers.pop(0) if forge.next_answers else None
            status, extra, data = scripted or (*_answer(forge, routes, scheme, request),)
            text = json.dumps(data).encode() if data is not None else b""
            self.send_response(status)
            for name, value in {**forge.headers, **extra}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        # One packet for all: otherwise the client delays its acknowledgement of the first, by 40 ms.
        wbufsize = -1
        do_GET = do_POST = do_PATCH = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _answer(
    forge: FakeForge, routes: list[Route], scheme: str, request: ForgeRequest
) -> tuple[int, Mapping[str, str], Any]:
    """A path that is quoted otherwise than the forge's own is unknown."""
    for method, pattern, route in routes:
        if method == request.method and (match := pattern.fullmatch(request.path)):
            known = {f"{scheme} {token}" for token in forge.tokens}
            if route.__name__ != "unguarded" and request.headers.get("authorization") not in known:
                return 401, {}, {"message": "Bad credentials"}
            status, data = route(request, *map(unquote, match.groups()))
            return status, {}, data
    return 404, {}, {"message": "Not Found"}


def _route(method: str, pattern: str, answer: Callable[..., Reply]) -> Route:
    return method, re.compile(pattern), answer


def _page(items: list[Any], request: ForgeRequest, size: str = "per_page") -> list[Any]:
    number = int(request.query.get("page", "1"))
    length = int(request.query.get(size, "30"))
    return items[(number - 1) * length : number * length]


def _github(forge: FakeForge) -> list[Route]:
    base = f"/repos/{forge.repository}"

    def repository(_: ForgeRequest) -> Reply:
        return 200, {"id": 1, "full_name": forge.repository, "private": True}

    def set_status(request: ForgeRequest, sha: str) -> Reply:
        body = request.body
        if not forge.may_write:
            return 403, {"message": "Resource not accessible by personal access token", "status": "403"}
        if body.get("state") not in ("error", "failure", "pending", "success"):
            return 422, {"message": "Validation Failed", "errors": [{"field": "state", "code": "custom"}]}
        if len(body.get("description") or "") > 140:
            message = "description is too long (maximum is 140 characters)"
            errors = [{"resource": "Status", "field": "description", "code": "custom", "message": message}]
            return 422, {"message": "Validation Failed", "errors": errors}
        if not re.fullmatch("[0-9a-f]{40}", sha) or set(sha) == {"0"}:
            return 422, {"message": f"No commit found for SHA: {sha}"}
        context, summary = body.get("context", "default"), body.get("description", "")
        forge.store(_status(sha, context, body["state"], summary, body.get("target_url") or ""))
        return 201, {"id": len(forge.statuses), "state": body["state"], "context": context}

    def shape(pull: Pull) -> dict[str, Any]:
        repo = {"id": 2 if pull.fork else 1}
        return {
            "number": pull.number,
            "state": "closed" if pull.merged else "open",
            "merged_at": "2026-01-01T00:00:00Z" if pull.merged else None,
            "head": {"ref": pull.branch, "sha": pull.head, "repo": repo},
            "base": {"ref": pull.target, "sha": "b" * 40, "repo": {"id": 1}},
        }

    def pulls(request: ForgeRequest) -> Reply:
        wanted = [pull for pull in forge.pulls if not pull.merged and pull.target == request.query["base"]]
        return 200, _page([shape(pull) for pull in wanted], request)

    def pulls_of(request: ForgeRequest, sha: str) -> Reply:
        return 200, _page([shape(pull) for pull in forge.pulls if sha in (pull.merged, pull.head)], request)

    def written(comment: dict[str, Any]) -> dict[str, Any]:
        return {"id": comment["id"], "body": comment["text"], "user": {"login": comment["author"]}}

    def comments(request: ForgeRequest, number: str) -> Reply:
        return 200, _page([written(comment) for comment in forge.comments.get(int(number), [])], request)

    def add(request: ForgeRequest, number: str) -> Reply:
        if len(request.body["body"]) > 65536:
            return 422, {"message": "Validation Failed"}
        return 201, written(forge.add_comment(int(number), request.body["body"]))

    def edit(request: ForgeRequest, identity: str) -> Reply:
        return forge.edit(identity, request.body["body"], written)

    def unguarded(request: ForgeRequest, *_: str) -> Reply:
        return _installation(forge, request)

    return [
        _route("GET", base, repository),
        _route("POST", rf"{base}/statuses/([^/]+)", set_status),
        _route("GET", rf"{base}/pulls", pulls),
        _route("GET", rf"{base}/commits/([^/]+)/pulls", pulls_of),
        _route("GET", rf"{base}/issues/(\d+)/comments", comments),
        _route("POST", rf"{base}/issues/(\d+)/comments", add),
        _route("PATCH", rf"{base}/issues/comments/(\d+)", edit),
        _route("GET", rf"{base}/installation", unguarded),
        _route("POST", r"/app/installations/(\d+)/access_tokens", unguarded),
    ]


def _installation(forge: FakeForge, request: ForgeRequest) -> Reply:
    """What an App may ask with its JWT, whose signature and times are checked."""
    claims = forge.app_key and forge.app_key(request.headers.get("authorization", "").removeprefix("Bearer "))
    if not claims:
        return 401, {"message": "A JSON web token could not be decoded"}
    if request.method == "GET":
        return 200, {"id": 77, "app_id": int(claims["iss"])}
    if request.path != "/app/installations/77/access_tokens":
        return 404, {"message": "Not Found"}
    token = f"ghs_{len(forge.tokens)}"
    forge.tokens.add(token)
    return 201, {"token": token, "expires_at": "2100-01-01T01:00:00Z", "permissions": request.body["permissions"]}


def _status(commit: str, context: str, state: str, summary: str, url: str) -> dict[str, str]:
    return {"commit": commit, "context": context, "state": state, "summary": summary, "url": url}


def _gitlab(forge: FakeForge) -> list[Route]:
    """A pending status cannot become pending again, as GitLab's state machine has it."""
    base = f"/projects/{quote(forge.repository, safe='')}"

    def project(_: ForgeRequest) -> Reply:
        level = 30 if forge.may_write else 20
        return 200, {"id": 1, "permissions": {"project_access": None, "group_access": {"access_level": level}}}

    def token(_: ForgeRequest) -> Reply:
        return 200, {"id": 1, "scopes": ["api"]}

    def set_status(request: ForgeRequest, sha: str) -> Reply:
        body = request.body
        states = [
            known["state"] for known in forge.statuses if (known["commit"], known["context"]) == (sha, body["name"])
        ]
        if body["state"] not in ("pending", "running", "success", "failed", "canceled"):
            return 400, {"error": "state does not have a valid value"}
        if any(len(body.get(name, "")) > 255 for name in ("name", "description", "target_url")):
            return 400, {"message": {"description": ["is too long (maximum is 255 characters)"]}}
        if body["state"] == "pending" and states[-1:] == ["pending"]:
            reason = 'Status cannot transition via "enqueue"'
            return 400, {"message": f"Cannot transition status via :enqueue from :pending (Reason(s): {reason})"}
        forge.store(_status(sha, body["name"], body["state"], body.get("description", ""), body.get("target_url", "")))
        return 201, {"id": len(forge.statuses), "status": body["state"]}

    def shape(pull: Pull) -> dict[str, Any]:
        return {
            "id": 1000 + pull.number,
            "iid": pull.number,
            "state": "merged" if pull.merged else "opened",
            "source_branch": pull.branch,
            "sha": pull.head,
            "target_branch": pull.target,
            "source_project_id": 2 if pull.fork else 1,
            "target_project_id": 1,
        }

    def requests(request: ForgeRequest) -> Reply:
        assert request.query["state"] == "opened"
        wanted = [pull for pull in forge.pulls if not pull.merged and pull.target == request.query["target_branch"]]
        return 200, _page([shape(pull) for pull in wanted], request)

    def requests_of(_: ForgeRequest, sha: str) -> Reply:
        return 200, [shape(pull) for pull in forge.pulls if sha in (pull.merged, pull.head)]

    def written(comment: dict[str, Any]) -> dict[str, Any]:
        return {"id": comment["id"], "body": comment["text"], "system": False}

    def notes(request: ForgeRequest, number: str) -> Reply:
        return 200, _page([written(comment) for comment in forge.comments.get(int(number), [])], request)

    def add(request: ForgeRequest, number: str) -> Reply:
        return 201, written(forge.add_comment(int(number), request.body["body"]))

    def edit(request: ForgeRequest, _: str, identity: str) -> Reply:
        return forge.edit(identity, request.body["body"], written)

    return [
        _route("GET", base, project),
        _route("GET", r"/personal_access_tokens/self", token),
        _route("POST", rf"{base}/statuses/([^/]+)", set_status),
        _route("GET", rf"{base}/merge_requests", requests),
        _route("GET", rf"{base}/repository/commits/([^/]+)/merge_requests", requests_of),
        _route("GET", rf"{base}/merge_requests/(\d+)/notes", notes),
        _route("POST", rf"{base}/merge_requests/(\d+)/notes", add),
        _route("PUT", rf"{base}/merge_requests/(\d+)/notes/(\d+)", edit),
    ]


def _gitea(forge: FakeForge) -> list[Route]:
    base = f"/repos/{forge.repository}"

    def repository(_: ForgeRequest) -> Reply:
        return 200, {"id": 1, "permissions": {"admin": False, "push": forge.may_write, "pull": True}}

    def set_status(request: ForgeRequest, sha: str) -> Reply:
        body = request.body
        if body["state"] not in ("pending", "success", "error", "failure", "warning"):
            return 422, {"message": "unknown state"}
        forge.store(_status(sha, body["context"], body["state"], body["description"], body["target_url"]))
        return 201, {"id": len(forge.statuses), "status": body["state"]}

    def shape(pull: Pull) -> dict[str, Any]:
        source = {"id": 2 if pull.fork else 1}
        return {
            "number": pull.number,
            "state": "closed" if pull.merged else "open",
            "merged": bool(pull.merged),
            "head": {"ref": pull.branch, "sha": pull.head, "repo": source, "repo_id": source["id"]},
            "base": {"ref": pull.target, "sha": "b" * 40, "repo": {"id": 1}, "repo_id": 1},
        }

    def pulls(request: ForgeRequest) -> Reply:
        """A server whose pages are shorter than what is asked for, and which says how many there are."""
        wanted = [shape(pull) for pull in forge.pulls if not pull.merged]
        forge.headers["X-Total-Count"] = str(len(wanted))
        first = (int(request.query["page"]) - 1) * 20
        return 200, wanted[first : first + min(20, int(request.query["limit"]))]

    def pull_of(_: ForgeRequest, sha: str) -> Reply:
        merged = [pull for pull in forge.pulls if pull.merged == sha]
        return (200, shape(merged[0])) if merged else (404, {"message": "pull request does not exist"})

    def written(comment: dict[str, Any]) -> dict[str, Any]:
        return {"id": comment["id"], "body": comment["text"]}

    def comments(_: ForgeRequest, number: str) -> Reply:
        return 200, [written(comment) for comment in forge.comments.get(int(number), [])]

    def add(request: ForgeRequest, number: str) -> Reply:
        return 201, written(forge.add_comment(int(number), request.body["body"]))

    def edit(request: ForgeRequest, identity: str) -> Reply:
        return forge.edit(identity, request.body["body"], written)

    return [
        _route("GET", base, repository),
        _route("POST", rf"{base}/statuses/([^/]+)", set_status),
        _route("GET", rf"{base}/pulls", pulls),
        _route("GET", rf"{base}/commits/([^/]+)/pull", pull_of),
        _route("GET", rf"{base}/issues/(\d+)/comments", comments),
        _route("POST", rf"{base}/issues/(\d+)/comments", add),
        _route("PATCH", rf"{base}/issues/comments/(\d+)", edit),
    ]


def _bitbucket(forge: FakeForge) -> list[Route]:
    base = f"/repositories/{forge.repository}"

    def error(message: str, status: int = 400) -> Reply:
        return status, {"type": "error", "error": {"message": message}}

    def repository(_: ForgeRequest) -> Reply:
        forge.headers["X-OAuth-Scopes"] = "repository, pullrequest:write" if forge.may_write else "repository:write"
        return 200, {"full_name": forge.repository}

    def build(request: ForgeRequest, sha: str) -> Reply:
        body = request.body
        if len(body["key"]) > 40:
            return error(f"key: Ensure this value has at most 40 characters (it has {len(body['key'])}).")
        if not body.get("url", "").startswith("http"):
            return error("url: required key not provided")
        if body["state"] not in ("INPROGRESS", "SUCCESSFUL", "FAILED", "STOPPED"):
            return error("state: not a valid choice")
        if max(len(body["name"]), len(body["description"])) > 255:
            return error("Ensure this value has at most 255 characters.")
        forge.store(_status(sha, body["name"], body["state"], body["description"], body["url"]))
        return 201, {"key": body["key"], "state": body["state"]}

    def shape(pull: Pull) -> dict[str, Any]:
        fork = {"full_name": "them/config"}
        return {
            "id": pull.number,
            "state": "MERGED" if pull.merged else "OPEN",
            "merge_commit": {"hash": pull.merged[:12]} if pull.merged else None,
            "source": {
                "branch": {"name": pull.branch},
                "commit": {"hash": pull.head[:12]},
                "repository": fork if pull.fork else {"full_name": forge.repository},
            },
            "destination": {"branch": {"name": pull.target}, "repository": {"full_name": forge.repository}},
        }

    def paged(items: list[Any], request: ForgeRequest, most: int) -> Reply:
        if int(request.query.get("pagelen", "10")) > most:
            return error("Invalid pagelen")
        return 200, {"size": len(items), "values": _page(items, request, "pagelen")}

    def pulls(request: ForgeRequest) -> Reply:
        match = re.fullmatch(r'state="(OPEN|MERGED)" AND destination\.branch\.name="(.+)"', request.query["q"])
        assert match
        wanted = [pull for pull in map(shape, forge.pulls) if pull["state"] == match[1]]
        return paged([pull for pull in wanted if pull["destination"]["branch"]["name"] == match[2]], request, 50)

    def written(comment: dict[str, Any]) -> dict[str, Any]:
        return {"id": comment["id"], "content": {"raw": comment["text"]}, "deleted": False}

    def comments(request: ForgeRequest, number: str) -> Reply:
        return paged([written(comment) for comment in forge.comments.get(int(number), [])], request, 100)

    def add(request: ForgeRequest, number: str) -> Reply:
        return 201, written(forge.add_comment(int(number), request.body["content"]["raw"]))

    def edit(request: ForgeRequest, _: str, identity: str) -> Reply:
        return forge.edit(identity, request.body["content"]["raw"], written)

    return [
        _route("GET", base, repository),
        _route("POST", rf"{base}/commit/([^/]+)/statuses/build", build),
        _route("GET", rf"{base}/pullrequests", pulls),
        _route("GET", rf"{base}/pullrequests/(\d+)/comments", comments),
        _route("POST", rf"{base}/pullrequests/(\d+)/comments", add),
        _route("PUT", rf"{base}/pullrequests/(\d+)/comments/(\d+)", edit),
    ]


def _bitbucket_server(forge: FakeForge) -> list[Route]:
    """An edited comment must name the version that it replaces."""
    project, _, name = forge.repository.partition("/")
    base = f"/api/latest/projects/{project}/repos/{name}"

    def repository(_: ForgeRequest) -> Reply:
        refused = {"errors": [{"message": "You are not permitted to access this resource"}]}
        return (200, {"id": 1}) if forge.may_write else (403, refused)

    def build(request: ForgeRequest, sha: str) -> Reply:
        body = request.body
        if not body.get("url") or not body.get("key"):
            return 400, {"errors": [{"message": "A build status requires a key and a URL"}]}
        if body["state"] not in ("INPROGRESS", "SUCCESSFUL", "FAILED", "CANCELLED", "UNKNOWN"):
            return 400, {"errors": [{"message": "Unknown state"}]}
        if any(len(body[field]) > 255 for field in ("key", "name", "description")):
            return 400, {"errors": [{"message": "size must be between 0 and 255"}]}
        forge.store(_status(sha, body["name"], body["state"], body["description"], body["url"]))
        return 204, None

    def shape(pull: Pull) -> dict[str, Any]:
        source = {"id": 2 if pull.fork else 1}
        return {
            "id": pull.number,
            "state": "MERGED" if pull.merged else "OPEN",
            "fromRef": {"id": f"refs/heads/{pull.branch}", "latestCommit": pull.head, "repository": source},
            "toRef": {"id": f"refs/heads/{pull.target}", "repository": {"id": 1}},
        }

    def paged(items: list[Any], request: ForgeRequest) -> Reply:
        start, limit = int(request.query["start"]), int(request.query["limit"])
        last = start + limit >= len(items)
        page = {"values": items[start : start + limit], "isLastPage": last}
        return 200, page if last else {**page, "nextPageStart": start + limit}

    def pulls(request: ForgeRequest) -> Reply:
        wanted = [shape(pull) for pull in forge.pulls if not pull.merged]
        return paged([pull for pull in wanted if pull["toRef"]["id"] == request.query["at"]], request)

    def pulls_of(request: ForgeRequest, sha: str) -> Reply:
        return paged([shape(pull) for pull in forge.pulls if sha in (pull.merged, pull.head)], request)

    def written(comment: dict[str, Any]) -> dict[str, Any]:
        return {"id": comment["id"], "text": comment["text"], "version": comment.get("version", 0)}

    def activities(request: ForgeRequest, number: str) -> Reply:
        thread = forge.comments.get(int(number), [])
        comments = [{"action": "COMMENTED", "comment": written(comment)} for comment in thread]
        return paged([*reversed(comments), {"action": "OPENED"}], request)  # the newest come first

    def add(request: ForgeRequest, number: str) -> Reply:
        return 201, written(forge.add_comment(int(number), request.body["text"]))

    def edit(request: ForgeRequest, _: str, identity: str) -> Reply:
        comment = forge.comment(identity)
        if comment is not None and request.body["version"] != comment.get("version", 0):
            return 409, {
                "errors": [{"message": "You are attempting to modify a comment based on out-of-date information"}]
            }
        answer = forge.edit(identity, request.body["text"], written)
        if answer[0] == 200 and comment is not None:
            comment["version"] = comment.get("version", 0) + 1
        return answer

    return [
        _route("GET", base, repository),
        _route("POST", rf"{base}/commits/([^/]+)/builds", build),
        _route("GET", rf"{base}/pull-requests", pulls),
        _route("GET", rf"{base}/commits/([^/]+)/pull-requests", pulls_of),
        _route("GET", rf"{base}/pull-requests/(\d+)/activities", activities),
        _route("POST", rf"{base}/pull-requests/(\d+)/comments", add),
        _route("PUT", rf"{base}/pull-requests/(\d+)/comments/(\d+)", edit),
    ]


ROUTES: dict[str, Callable[[FakeForge], list[Route]]] = {
    "github": _github,
    "gitlab": _gitlab,
    "gitea": _gitea,
    "bitbucket": _bitbucket,
    "bitbucket-server": _bitbucket_server,
}
