"""The REST API (2.0) of Bitbucket Cloud."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from reconciler.adapters.forge.client import ForgeClient
from reconciler.adapters.forge.comments import GONE_OR_ANOTHERS, marked_by_reference, put_marked, shortened
from reconciler.core.errors import ForgeError
from reconciler.core.ports.forge import CommitState, CommitStatus, PullRequest

_LONGEST_KEY = 40
_LONGEST = 255
_PAGE = 50  # more is refused for pull requests
STATES = {CommitState.PENDING: "INPROGRESS", CommitState.SUCCESS: "SUCCESSFUL", CommitState.FAILURE: "FAILED"}
"""The states of a build, in Bitbucket Cloud and Server."""


def bitbucket_headers(token: str) -> Mapping[str, str]:
    """An access token of a repository, or a user's: email and API token with a colon between them."""
    if ":" in token:
        return {"Authorization": f"Basic {base64.b64encode(token.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"}


def build_key(context: str, most: int) -> str:
    """What identifies a build: the context or, where that is too long, its hash."""
    return context if len(context) <= most else hashlib.sha256(context.encode()).hexdigest()[:most]


class BitbucketForge:
    """The ``Forge`` port for one repository ("workspace/name"). ``web_url`` is where people see it: every status needs
    an address."""

    def __init__(self, client: ForgeClient, repository: str, web_url: str) -> None:
        self._client = client
        self._repository = repository
        self._web_url = web_url
        self._path = f"/repositories/{quote(repository)}"

    async def set_status(self, status: CommitStatus) -> None:
        body = {
            "key": build_key(status.context, _LONGEST_KEY),
            "name": shortened(status.context, _LONGEST),
            "state": STATES[status.state],
            "description": shortened(status.summary, _LONGEST),
            "url": status.url or f"{self._web_url}/commits/{status.commit}",
        }
        await self._client.ask("POST", f"{self._path}/commit/{status.commit}/statuses/build", body=body)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        query = {"q": f'state="OPEN" AND destination.branch.name="{_quoted(target)}"'}
        items = await self._client.pages(f"{self._path}/pullrequests", query, "values", size="pagelen", length=_PAGE)
        return tuple(pull for item in items if (pull := _pull_request(item)) and pull.target == target)

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        """Among the last that were merged. Asking for those of a commit needs an app that the owner installs."""
        query = {
            "q": f'state="MERGED" AND destination.branch.name="{_quoted(target)}"',
            "sort": "-updated_on",
            "pagelen": str(_PAGE),
        }
        answer = await self._client.ask("GET", f"{self._path}/pullrequests", query=query)
        for item in answer.items("values"):
            merge = item.get("merge_commit")
            hash = merge.get("hash") if isinstance(merge, dict) else None  # often abbreviated
            pull = _pull_request(item)
            if pull and pull.target == target and isinstance(hash, str) and len(hash) >= 12 and commit.startswith(hash):
                return pull.number
        return None

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        path = f"{self._path}/pullrequests/{number}/comments"
        comments = await self._client.pages(path, {}, "values", size="pagelen")
        body = {"content": {"raw": marked_by_reference(marker, text)}}
        await put_marked(
            ((item.get("id"), _raw(item)) for item in comments if not item.get("deleted")),
            marker,
            edit=lambda identity: self._client.ask("PUT", f"{path}/{identity}", body=body, accept=GONE_OR_ANOTHERS),
            add=lambda: self._client.ask("POST", path, body=body, repeat=False),
        )

    async def examine(self) -> str:
        """Every answer names the scopes of the token."""
        answer = await self._client.ask("GET", self._path)
        named = answer.headers.get("x-oauth-scopes")
        scopes = {scope.strip() for scope in (named or "").split(",")}
        lacking = [scope for scope in ("repository", "pullrequest") if not _has(scopes, scope)] if named else []
        if lacking:
            problem = f"the token lacks the scope {' and '.join(lacking)}"
            hint = "Make a token with the scopes that docs/forge.md names"
            raise ForgeError(problem, where=self._client.host, hint=hint, id="forge-permission")
        return f"{self._client.host} lets us read {self._repository}"


def _has(scopes: set[str], scope: str) -> bool:
    """Whether they hold the scope or a wider one, in the old words (repository:write) or the new
    (read:repository:bitbucket)."""
    return any(scope in part.split(":") for part in scopes)


def _pull_request(item: Mapping[str, Any]) -> PullRequest | None:
    source, target = _side(item.get("source")), _side(item.get("destination"))
    number = item.get("id")
    if source is None or target is None or not isinstance(number, int):
        return None
    fork = not source[2] or source[2] != target[2]
    return PullRequest(number, source[0], source[1], target[0], fork)


def _side(side: object) -> tuple[str, str, str] | None:
    """The branch, the commit and the repository of one side; "" for what is gone."""
    if not isinstance(side, dict):
        return None
    branch, commit, repository = (side.get(name) or {} for name in ("branch", "commit", "repository"))
    if not all(isinstance(part, dict) for part in (branch, commit, repository)):
        return None
    return str(branch.get("name", "")), str(commit.get("hash", "")), str(repository.get("full_name") or "")


def _raw(item: Mapping[str, Any]) -> object:
    content = item.get("content")
    return content.get("raw") if isinstance(content, dict) else None


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
