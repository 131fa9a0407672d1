"""The REST API (v1) of Gitea and Forgejo."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from reconciler.adapters.forge.client import ForgeClient
from reconciler.adapters.forge.comments import GONE_OR_ANOTHERS, marked, put_marked, shortened
from reconciler.adapters.forge.github import pull_request
from reconciler.core.errors import ForgeError
from reconciler.core.ports.forge import CommitStatus, PullRequest

_LONGEST_SUMMARY = 255  # characters; there is no limit, and no room on the page for more
_PAGE = 50  # what they allow at most unless configured otherwise


def gitea_headers(token: str) -> Mapping[str, str]:
    return {"Authorization": f"token {token}"}


class GiteaForge:
    """The ``Forge`` port for one repository ("owner/name")."""

    def __init__(self, client: ForgeClient, repository: str) -> None:
        self._client = client
        self._repository = repository
        self._path = f"/repos/{quote(repository)}"

    async def set_status(self, status: CommitStatus) -> None:
        body = {
            "state": status.state.value,
            "context": status.context,
            "description": shortened(status.summary, _LONGEST_SUMMARY),
            "target_url": status.url,
        }
        await self._client.ask("POST", f"{self._path}/statuses/{status.commit}", body=body)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        items = await self._client.pages(f"{self._path}/pulls", {"state": "open"}, size="limit", length=_PAGE)
        pulls = [pull for item in items if (pull := pull_request(item))]
        return tuple(pull for pull in pulls if pull.target == target)

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        """Only the commit that a merge has made is known to be of a pull request."""
        answer = await self._client.ask("GET", f"{self._path}/commits/{commit}/pull", accept=(404,))
        if answer.status == 404 or not isinstance(answer.data, dict) or not answer.data.get("merged"):
            return None
        pull = pull_request(answer.data)
        return pull.number if pull and pull.target == target else None

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        path = f"{self._path}/issues/{number}/comments"
        comments = (await self._client.ask("GET", path)).items()  # all of them: this list has no pages
        body = {"body": marked(marker, text)}
        await put_marked(
            ((item.get("id"), item.get("body")) for item in comments),
            marker,
            edit=lambda identity: self._client.ask(
                "PATCH", f"{self._path}/issues/comments/{identity}", body=body, accept=GONE_OR_ANOTHERS
            ),
            add=lambda: self._client.ask("POST", path, body=body, repeat=False),
        )

    async def examine(self) -> str:
        """The repository says what the token's user may do; a scope that the token lacks shows only on use."""
        answer = await self._client.ask("GET", self._path)
        access = answer.data.get("permissions") if isinstance(answer.data, dict) else None
        if not isinstance(access, dict) or not access.get("push"):
            problem = f"the token's user may not write to {self._repository}"
            hint = "Make it a collaborator who may write, which setting statuses needs"
            raise ForgeError(problem, where=self._client.host, hint=hint, id="forge-permission")
        return f"{self._client.host} lets us write to {self._repository}"
