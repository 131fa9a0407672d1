"""Builds what reports to a forge, from the section ``forge`` of the server configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from reconciler.adapters.forge.bitbucket import BitbucketForge, bitbucket_headers
from reconciler.adapters.forge.bitbucket_server import BitbucketServerForge
from reconciler.adapters.forge.client import ForgeClient
from reconciler.adapters.forge.credentials import Credentials, TokenCommand, TokenFile
from reconciler.adapters.forge.gitea import GiteaForge, gitea_headers
from reconciler.adapters.forge.github import GitHubForge, app_credentials, github_headers
from reconciler.adapters.forge.gitlab import GitLabForge, bearer_headers
from reconciler.adapters.forge.memory import SqliteForgeMemory
from reconciler.app.config.forge import ForgeAddress, ForgeKind, ForgeSettings
from reconciler.app.config.server import ServerConfig
from reconciler.core.ports import Ports
from reconciler.core.ports.forge import Forge
from reconciler.engine.forge_reports import ForgeLinks, ForgeReports, ForgeSide

Count = Callable[[str], None]

_HEADERS = {
    ForgeKind.GITHUB: github_headers,
    ForgeKind.GITLAB: bearer_headers,
    ForgeKind.GITEA: gitea_headers,
    ForgeKind.FORGEJO: gitea_headers,
    ForgeKind.BITBUCKET: bitbucket_headers,
    ForgeKind.BITBUCKET_SERVER: bearer_headers,
}


@dataclass(frozen=True, slots=True)
class ForgeParts:
    """The forge of the repository, and what reports to it."""

    forge: Forge
    reports: ForgeReports
    side: ForgeSide


def forge_parts(
    config: ServerConfig,
    ports: Ports,
    units: Collection[str],
    database: str,
    count: Count,
    stack: contextlib.AsyncExitStack,
) -> ForgeParts | None:
    """Build them, and have ``stack`` close them; None without a section ``forge``. ``count`` takes the result of every
    request."""
    settings, address = config.forge, config.forge_address
    if settings is None or address is None:
        return None
    credentials = _credentials(settings, address, count)
    client = ForgeClient(address.api_url, credentials, headers=_HEADERS[address.kind], count=count)
    stack.push_async_callback(client.close)
    memory = stack.enter_context(contextlib.closing(SqliteForgeMemory(database)))
    forge = _adapter(client, address)
    side = ForgeSide(
        forge,
        memory,
        host=config.host,
        branch=config.repository.branch,
        links=ForgeLinks(config.http.page_url or ""),
        mark=lambda subject: f"reconciler-{ports.digest(subject.encode())}",
    )
    return ForgeParts(forge, ForgeReports(side, ports.store, ports.clock, units), side)


def _adapter(client: ForgeClient, address: ForgeAddress) -> Forge:
    match address.kind:
        case ForgeKind.GITHUB:
            return GitHubForge(client, address.repository)
        case ForgeKind.GITLAB:
            return GitLabForge(client, address.repository)
        case ForgeKind.GITEA | ForgeKind.FORGEJO:
            return GiteaForge(client, address.repository)
        case ForgeKind.BITBUCKET:
            return BitbucketForge(client, address.repository, address.web_url)
        case ForgeKind.BITBUCKET_SERVER:
            return BitbucketServerForge(client, address.repository, address.web_url)


def _credentials(settings: ForgeSettings, address: ForgeAddress, count: Count) -> Credentials:
    if settings.token_file is not None:
        return TokenFile(settings.token_file)
    if settings.token_command is not None:
        return TokenCommand(settings.token_command)
    app = settings.app
    assert app is not None
    return app_credentials(
        address.api_url,
        address.repository,
        app=str(app.id),
        key_file=app.key_file,
        installation=app.installation,
        count=count,
    )
