"""GitHub's REST API, at github.com and at GitHub Enterprise Server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from reconciler.adapters.forge.client import ForgeAnswer, ForgeClient
from reconciler.adapters.forge.comments import GONE_OR_ANOTHERS, marked, put_marked, shortened
from reconciler.adapters.forge.credentials import AppCredentials, Credentials
from reconciler.core.errors import ForgeError
from reconciler.core.ports.forge import CommitStatus, PullRequest

_LONGEST_SUMMARY = 140  # characters, or it answers 422
_NO_COMMIT = "0" * 40
# All that the calls below need: https://docs.github.com/rest/authentication/permissions-required-for-github-apps
_PERMISSIONS = {"statuses": "write", "pull_requests": "write"}


def github_headers(token: str) -> Mapping[str, str]:
    """What GitHub wants beside the token."""
    return {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {token}",
        "X-GitHub-Api-Version": "2022-11-28",
    }


class GitHubForge:
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
            **({"target_url": status.url} if status.url else {}),
        }
        await self._client.ask("POST", f"{self._path}/statuses/{status.commit}", body=body)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        pulls = await self._client.pages(f"{self._path}/pulls", {"state": "open", "base": target})
        return tuple(pull for item in pulls if (pull := pull_request(item)))

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        answer = await self._client.ask(
            "GET", f"{self._path}/commits/{commit}/pulls", query={"per_page": "100"}, accept=(422,)
        )
        merged = [item for item in answer.items() if item.get("merged_at")]
        numbers = [pull.number for item in merged if (pull := pull_request(item)) and pull.target == target]
        return min(numbers, default=None)

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        comments = await self._client.pages(f"{self._path}/issues/{number}/comments", {})
        body = {"body": marked(marker, text)}
        await put_marked(
            ((item.get("id"), item.get("body")) for item in comments),
            marker,
            edit=lambda identity: self._client.ask(
                "PATCH", f"{self._path}/issues/comments/{identity}", body=body, accept=GONE_OR_ANOTHERS
            ),
            add=lambda: self._client.ask("POST", f"{self._path}/issues/{number}/comments", body=body, repeat=False),
        )

    async def examine(self) -> str:
        """A status on a commit that cannot exist is refused with 422 by whoever would let us set one."""
        repository = await self._client.ask("GET", self._path)
        self._check_scopes(repository)
        body = {"state": "pending", "context": "reconciler/doctor", "description": "not a commit"}
        await self._client.ask("POST", f"{self._path}/statuses/{_NO_COMMIT}", body=body, accept=(422,))
        return f"{self._client.host} lets us set statuses in {self._repository}"

    def _check_scopes(self, answer: ForgeAnswer) -> None:
        """A classic token names its scopes; others do not."""
        named = answer.headers.get("x-oauth-scopes")
        if named is None:
            return
        scopes = {scope.strip() for scope in named.split(",")}
        data = answer.data
        private = bool(data.get("private")) if isinstance(data, dict) else True
        needed = "repo" if private else "public_repo"
        if not scopes & {"repo", needed}:
            problem = f"the token lacks the scope {needed}"
            hint = "Add the scope, or use a fine-grained token (docs/forge.md)"
            raise ForgeError(problem, where=self._client.host, hint=hint, id="forge-permission")


def pull_request(item: Mapping[str, Any]) -> PullRequest | None:
    """A pull request as GitHub and Gitea describe it; None for anything else. One whose branch's repository is gone
    counts as one from a fork."""
    head, base, number = item.get("head"), item.get("base"), item.get("number")
    if not (isinstance(head, dict) and isinstance(base, dict) and isinstance(number, int)):
        return None
    source, target = (_repository(side) for side in (head, base))
    fork = source is None or source != target
    return PullRequest(number, str(head.get("ref", "")), str(head.get("sha", "")), str(base.get("ref", "")), fork)


def _repository(side: Mapping[str, Any]) -> object:
    repository = side.get("repo")
    return repository.get("id") if isinstance(repository, dict) else None


def app_credentials(
    url: str,
    repository: str,
    *,
    app: str,
    key_file: str,
    installation: int | None,
    count: Callable[[str], None] = lambda _: None,
) -> AppCredentials:
    """The credentials of a GitHub App that is installed on the repository. Their token is for that repository alone,
    and for what we do there."""

    async def request(jwt: str) -> Any:
        client = ForgeClient(url, _Jwt(jwt), headers=github_headers, count=count)
        try:
            number = installation
            if number is None:
                answer = await client.ask("GET", f"/repos/{quote(repository)}/installation")
                number = answer.data["id"] if isinstance(answer.data, dict) else 0
            body = {"repositories": [repository.rpartition("/")[2]], "permissions": _PERMISSIONS}
            answer = await client.ask("POST", f"/app/installations/{number}/access_tokens", body=body)
            return answer.data if isinstance(answer.data, dict) else {}
        finally:
            await client.close()

    return AppCredentials(app, key_file, request)


class _Jwt(Credentials):
    def __init__(self, jwt: str) -> None:
        self._jwt = jwt

    async def token(self) -> str:
        return self._jwt

    def refused(self) -> None:
        pass
