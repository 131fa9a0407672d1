"""What of its surroundings a server uses: which engine, which proxy, which certificates, and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from reconciler.adapters.compose.engine_address import find_engine
from reconciler.adapters.git.command import certificates, proxy
from reconciler.app.config.server import ServerConfig


def engine_in_use(environment: Mapping[str, str]) -> str:
    """The address of this machine's Docker engine, and where it comes from. Raises EngineUnavailableError."""
    address = find_engine(environment)
    return f"{address.url or address.name}, from {address.source}"


def git_surroundings(config: ServerConfig, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Component and what is used, for a remote over https; ssh uses neither. Never a password of the proxy."""
    url = config.repository.url
    if not url.startswith("https://"):
        return
    if name := proxy(url, environment):
        yield "git proxy", f"{_without_account(environment[name])}, from {name}"
    if name := certificates(environment):
        yield "git certificates", f"{environment[name]}, from {name}"
    else:
        yield "git certificates", "the system's"


def _without_account(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
