"""GitLab's REST API (v4), at gitlab.com and self-managed."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from reconciler.adapters.forge.client import ForgeClient
from reconciler.adapters.forge.comments import GONE_OR_ANOTHERS, marked, put_marked, shortened
from reconciler.core.errors import ForgeError
from reconciler.core.ports.forge import CommitState, CommitStatus, PullRequest

_LONGEST = 255  # characters, of a description, a name and an address
_STATES = {CommitState.PENDING: "pending", CommitState.SUCCESS: "success", CommitState.FAILURE: "failed"}
_DEVELOPER = 30  # the least access level that may set statuses


def bearer_headers(token: str) -> Mapping[str, str]:
    """What GitLab and Bitbucket Server accept from every kind of access token."""
    return {"Authorization": f"Bearer {token}"}


class GitLabForge:
    """The ``Forge`` port for one project ("group/subgroup/name"); a merge request's number is its ``iid``."""

    def __init__(self, client: ForgeClient, repository: str) -> None:
        self._client = client
        self._repository = repository
        self._path = f"/projects/{quote(repository, safe='')}"

    async def set_status(self, status: CommitStatus) -> None:
        """A status that is pending cannot become pending again (400): it is canceled first, and made once more."""
        path = f"{self._path}/statuses/{status.commit}"
        body = {
            "state": _STATES[status.state],
            "name": shortened(status.context, _LONGEST),
            "description": shortened(status.summary, _LONGEST),
            **({"target_url": status.url} if 0 < len(status.url) <= _LONGEST else {}),
        }
        if status.state is not CommitState.PENDING:
            await self._client.ask("POST", path, body=body)
            return
        answer = await self._client.ask("POST", path, body=body, accept=(400,))
        if answer.status == 400:
            if "annot transition" not in answer.message:
                raise self._client.refusal(answer, f"POST {path}")
            await self._client.ask("POST", path, body={**body, "state": "canceled"})
            await self._client.ask("POST", path, body=body)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        query = {"state": "opened", "target_branch": target}
        items = await self._client.pages(f"{self._path}/merge_requests", query)
        return tuple(
            PullRequest(
                item["iid"],
                str(item.get("source_branch", "")),
                str(item.get("sha", "")),
                str(item.get("target_branch", "")),
                fork=item.get("source_project_id") is None
                or item.get("source_project_id") != item.get("target_project_id"),
            )
            for item in items
            if isinstance(item.get("iid"), int)
        )

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        path = f"{self._path}/repository/commits/{commit}/merge_requests"
        answer = await self._client.ask("GET", path, query={"per_page": "100"})
        merged = [item for item in answer.items() if item.get("state") == "merged"]
        numbers = [item.get("iid") for item in merged if item.get("target_branch") == target]
        return min((number for number in numbers if isinstance(number, int)), default=None)

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        path = f"{self._path}/merge_requests/{number}/notes"
        comments = await self._client.pages(path, {"sort": "asc", "order_by": "created_at"})
        body = {"body": marked(marker, text)}
        await put_marked(
            ((item.get("id"), item.get("body")) for item in comments),
            marker,
            edit=lambda identity: self._client.ask("PUT", f"{path}/{identity}", body=body, accept=GONE_OR_ANOTHERS),
            add=lambda: self._client.ask("POST", path, body=body, repeat=False),
        )

    async def examine(self) -> str:
        """An access token says its scopes; the project says what its user may do there."""
        token = await self._client.ask("GET", "/personal_access_tokens/self", accept=(401, 403, 404))
        scopes = token.data.get("scopes") if token.status == 200 and isinstance(token.data, dict) else None
        if isinstance(scopes, list) and "api" not in scopes:
            hint = "Make a token with the scope api (docs/forge.md)"
            raise ForgeError("the token lacks the scope api", where=self._client.host, hint=hint, id="forge-permission")
        project = await self._client.ask("GET", self._path)
        access = project.data.get("permissions") if isinstance(project.data, dict) else None
        levels = [level.get("access_level") for level in (access or {}).values() if isinstance(level, dict)]
        if not any(isinstance(level, int) and level >= _DEVELOPER for level in levels):
            problem = f"the token's user is no Developer of {self._repository}"
            hint = "Give it that role, which setting statuses needs"
            raise ForgeError(problem, where=self._client.host, hint=hint, id="forge-permission")
        return f"{self._client.host} lets us set statuses in {self._repository}"
