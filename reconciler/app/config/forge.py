"""The section ``forge``: which forge hosts the repository, with which credentials."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from reconciler.app.config.models import Items, Section
from reconciler.app.config.scalars import ARGUMENT, BRANCHES, Choice, Form, OwnFile, Whole, http_url, mistake
from reconciler.app.config.strict_yaml import FieldPath, Problem


class ForgeKind(enum.StrEnum):
    """Whose API it is."""

    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"
    FORGEJO = "forgejo"
    BITBUCKET = "bitbucket"
    BITBUCKET_SERVER = "bitbucket-server"


_API_URL = Form(
    "the address of an API",
    "https://… without user and password, such as https://git.example.org/api/v4; http:// sends the token unencrypted",
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[!-~]*)?$",
    http_url,
    quote=False,
)
_PROJECT = Form(
    "a repository's name at the forge",
    "OWNER/NAME, such as acme/config; at GitLab with all groups",
    r"^(?!.*//)(?!(.*/)?\.{1,2}(/|$))[A-Za-z0-9~_.-]+(/[A-Za-z0-9~_.-]+)+$",
)

# The forges that everybody knows by their host, the ones for ssh through a firewall included.
_HOSTS = {
    "github.com": ForgeKind.GITHUB,
    "ssh.github.com": ForgeKind.GITHUB,
    "gitlab.com": ForgeKind.GITLAB,
    "altssh.gitlab.com": ForgeKind.GITLAB,
    "bitbucket.org": ForgeKind.BITBUCKET,
    "altssh.bitbucket.org": ForgeKind.BITBUCKET,
    "codeberg.org": ForgeKind.FORGEJO,
    "gitea.com": ForgeKind.GITEA,
}
_API_PATHS = {
    ForgeKind.GITHUB: "/api/v3",
    ForgeKind.GITLAB: "/api/v4",
    ForgeKind.GITEA: "/api/v1",
    ForgeKind.FORGEJO: "/api/v1",
    ForgeKind.BITBUCKET: "/2.0",
    ForgeKind.BITBUCKET_SERVER: "/rest",
}


class ForgeApp(Section):
    """A GitHub App that is installed on the repository."""

    id: Annotated[int, Whole(1, 10**12)] = Field(description="The App's id.")
    key_file: OwnFile = Field(description="A private key of the App (PEM), 0600.")
    installation: Annotated[int, Whole(1, 10**12)] | None = Field(
        default=None, description="The id of its installation. Default: GitHub is asked for it."
    )


class ForgeSettings(Section):
    """Where results are reported: a status on each commit, a comment on a pull request that was rolled back."""

    kind: Annotated[ForgeKind, Choice()] | None = Field(
        default=None, description="Which forge it is. Default: what the host of repository.url is known for."
    )
    api_url: Annotated[str, _API_URL] | None = Field(
        default=None, description="Where its API is. Default: that of the host of repository.url."
    )
    repository: Annotated[str, _PROJECT] | None = Field(
        default=None, description="The repository there. Default: the path of repository.url."
    )
    token_file: OwnFile | None = Field(
        default=None, description="A file with the token, 0600, read again for every request."
    )
    token_command: Annotated[tuple[Annotated[str, ARGUMENT], ...], Items(1)] | None = Field(
        default=None, description="A command that prints the token, run for every request."
    )
    app: ForgeApp | None = Field(default=None, description="A GitHub App instead of a token.")
    plan_pull_requests: Annotated[tuple[Annotated[str, BRANCHES], ...], Items()] = Field(
        default=(),
        description="The branches (patterns such as `*` or `change/*`) whose pull requests are planned before the "
        "merge, with a status and a comment. Never those of forks. Default: none.",
    )

    @model_validator(mode="after")
    def _one_source_of_tokens(self) -> ForgeSettings:
        given = [value for value in (self.token_file, self.token_command, self.app) if value is not None]
        if len(given) != 1:
            problem = (
                "needs one of token_file, token_command and app" if not given else "has several sources of a token"
            )
            raise mistake(problem, "token_file, token_command, or for GitHub app")
        return self


@dataclass(frozen=True, slots=True)
class ForgeAddress:
    """A repository at a forge. ``web_url`` is where people see the repository."""

    kind: ForgeKind
    api_url: str
    repository: str
    web_url: str

    def commit_url(self, commit: str) -> str:
        """The page of a commit."""
        match self.kind:
            case ForgeKind.GITLAB:
                return f"{self.web_url}/-/commit/{commit}"
            case ForgeKind.BITBUCKET | ForgeKind.BITBUCKET_SERVER:
                return f"{self.web_url}/commits/{commit}"
            case _:
                return f"{self.web_url}/commit/{commit}"


def forge_address(settings: ForgeSettings, repository_url: str) -> ForgeAddress:
    """Where the repository is, as far as possible from its git address. Raises ValueError for what must be written:
    the field, and what is wrong with it."""
    parts = urlsplit(repository_url)
    host = (parts.hostname or "") if parts.scheme in ("https", "ssh") else ""
    kind = settings.kind or _HOSTS.get(host)
    if kind is None:
        raise ValueError("kind", f"is missing: {host or 'a path'} does not say which forge it is")
    if settings.app and kind is not ForgeKind.GITHUB:
        raise ValueError("app", "is only for GitHub")
    if not host and settings.api_url is None:
        raise ValueError("api_url", "is missing: repository.url does not name a forge")
    path = unquote(parts.path).strip("/").removesuffix(".git")
    if kind is ForgeKind.BITBUCKET_SERVER:
        path = path.removeprefix("scm/")
    repository = settings.repository or path
    levels = repository.count("/") + 1
    if not host and settings.repository is None:
        raise ValueError("repository", "is missing: repository.url does not name a forge")
    if levels < 2 or (levels > 2 and kind is not ForgeKind.GITLAB):
        raise ValueError("repository", "is not OWNER/NAME")
    known = _HOSTS.get(host) is kind
    api_url = settings.api_url or _api_url(kind, host, known=known)
    return ForgeAddress(kind, api_url.rstrip("/"), repository, _web_url(kind, host, api_url, repository))


def _api_url(kind: ForgeKind, host: str, *, known: bool) -> str:
    if known and kind in (ForgeKind.GITHUB, ForgeKind.BITBUCKET):
        return {ForgeKind.GITHUB: "https://api.github.com", ForgeKind.BITBUCKET: "https://api.bitbucket.org/2.0"}[kind]
    return f"https://{host.removeprefix('altssh.')}{_API_PATHS[kind]}"


def _web_url(kind: ForgeKind, host: str, api_url: str, repository: str) -> str:
    base = api_url.rstrip("/").removesuffix(_API_PATHS[kind])
    if _HOSTS.get(host) is kind:
        base = f"https://{host.removeprefix('ssh.').removeprefix('altssh.')}"
    if kind is ForgeKind.BITBUCKET_SERVER:
        project, _, name = repository.partition("/")
        owner = f"users/{project[1:]}" if project.startswith("~") else f"projects/{project}"
        return f"{base}/{owner}/repos/{name}"
    return f"{base}/{repository}"


def forge_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What cannot be derived from repository.url, and is not written."""
    forge, repository = data.get("forge"), data.get("repository")
    url = repository.get("url") if isinstance(repository, Mapping) else None
    if not isinstance(forge, Mapping) or not isinstance(url, str):
        return
    try:
        settings = ForgeSettings.model_validate(forge)
        forge_address(settings, url)
    except ValueError as error:  # a mistake of shape is reported with the others
        if len(error.args) == 2:
            field, problem = error.args
            path: FieldPath = ("forge", field)
            accepted = (
                ", ".join(ForgeKind) if field == "kind" else (_PROJECT if field == "repository" else _API_URL).accepted
            )
            yield Problem(path, problem, accepted)
