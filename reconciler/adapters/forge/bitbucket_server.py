"""The REST API of Bitbucket Server and Data Center, from 7.14 on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from reconciler.adapters.forge.bitbucket import STATES, build_key
from reconciler.adapters.forge.client import PAGE, ForgeAnswer, ForgeClient
from reconciler.adapters.forge.comments import GONE_OR_ANOTHERS, marked_by_reference, put_marked, shortened
from reconciler.core.ports.forge import CommitStatus, PullRequest

_LONGEST = 255  # characters, of a key, a name and a description
_MOST_PAGES = 10


class BitbucketServerForge:
    """The ``Forge`` port for one repository ("PROJECT/name", "~user/name"). ``web_url`` is where people see it: every
    status needs an address."""

    def __init__(self, client: ForgeClient, repository: str, web_url: str) -> None:
        self._client = client
        self._repository = repository
        self._web_url = web_url
        project, _, name = repository.partition("/")
        self._path = f"/api/latest/projects/{quote(project)}/repos/{quote(name)}"

    async def set_status(self, status: CommitStatus) -> None:
        body = {
            "key": build_key(status.context, _LONGEST),
            "name": shortened(status.context, _LONGEST),
            "state": STATES[status.state],
            "description": shortened(status.summary, _LONGEST),
            "url": status.url or f"{self._web_url}/commits/{status.commit}",
        }
        await self._client.ask("POST", f"{self._path}/commits/{status.commit}/builds", body=body)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        query = {"state": "OPEN", "at": f"refs/heads/{target}"}
        items = await self._pages(f"{self._path}/pull-requests", query)
        return tuple(pull for item in items if (pull := _pull_request(item)) and pull.target == target)

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        items = await self._pages(f"{self._path}/commits/{commit}/pull-requests", {})
        merged = [pull for item in items if item.get("state") == "MERGED" and (pull := _pull_request(item))]
        return min((pull.number for pull in merged if pull.target == target), default=None)

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        path = f"{self._path}/pull-requests/{number}"
        activities = await self._pages(f"{path}/activities", {})
        comments = {item["id"]: item for activity in activities if (item := _comment(activity))}
        whole = marked_by_reference(marker, text)

        async def edit(identity: int) -> ForgeAnswer:
            body = {"text": whole, "version": comments[identity].get("version", 0)}
            return await self._client.ask("PUT", f"{path}/comments/{identity}", body=body, accept=GONE_OR_ANOTHERS)

        await put_marked(
            ((identity, item.get("text")) for identity, item in comments.items()),
            marker,
            edit=edit,
            add=lambda: self._client.ask("POST", f"{path}/comments", body={"text": whole}, repeat=False),
        )

    async def examine(self) -> str:
        """Whoever may read the repository may set statuses and comment."""
        await self._client.ask("GET", self._path)
        return f"{self._client.host} lets us read {self._repository}"

    async def _pages(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        start: object = 0
        for _ in range(_MOST_PAGES):
            answer = await self._client.ask("GET", path, query={**query, "limit": str(PAGE), "start": str(start)})
            items += answer.items("values")
            start = answer.data.get("nextPageStart") if isinstance(answer.data, dict) else None
            if not isinstance(start, int):
                break
        return items


def _comment(activity: Mapping[str, Any]) -> dict[str, Any] | None:
    comment = activity.get("comment")
    known = activity.get("action") == "COMMENTED" and isinstance(comment, dict) and isinstance(comment.get("id"), int)
    return comment if known else None


def _pull_request(item: Mapping[str, Any]) -> PullRequest | None:
    source, target, number = item.get("fromRef"), item.get("toRef"), item.get("id")
    if not (isinstance(source, dict) and isinstance(target, dict) and isinstance(number, int)):
        return None
    ids = [(side.get("repository") or {}).get("id") for side in (source, target)]
    names = [str(side.get("id", "")).removeprefix("refs/heads/") for side in (source, target)]
    return PullRequest(number, names[0], str(source.get("latestCommit", "")), names[1], fork=ids[0] != ids[1])
