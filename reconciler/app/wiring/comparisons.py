"""What the comparisons of the server configuration are made with: its mirror, its keys and its hosts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reconciler.adapters.comparison_metrics import ComparisonMetrics
from reconciler.adapters.git.clone import Clone
from reconciler.app.config.server import ServerConfig
from reconciler.app.wiring.clone import Keys, tools
from reconciler.app.wiring.server import key_sources, ssh_address
from reconciler.app.wiring.tools import Tools
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from reconciler.core.tree import Tree

__all__ = ["ComparisonMetrics", "MirrorTrees", "host_addresses", "host_names", "server_tools"]


class MirrorTrees:
    """Reads the environments' directory of commits that the daemon's mirror has."""

    def __init__(self, config: ServerConfig) -> None:
        self._mirror = os.path.join(config.state_dir, "mirror.git")
        self._path = config.repository.path

    async def listing(self, commit: str) -> Mapping[str, tuple[str, str]]:
        """The files there, relative to the directory: mode and object id. Raises RefusedError, OutsideError."""
        return await Clone(self._mirror).listing(commit, self._path)

    async def read(self, commit: str, wanted: Callable[[str], bool]) -> Tree:
        """The wanted files. Raises RefusedError, OutsideError."""
        (tree,) = await Clone(self._mirror).trees([commit], self._path, wanted)
        return tree


def host_names(config: ServerConfig) -> Mapping[tuple[str, int], str]:
    """The names of the server's hosts, by address and port."""
    return {(host.address.lower(), host.port): name for name, host in config.hosts.items()}


def host_addresses(config: ServerConfig) -> Mapping[str, SshAddress]:
    """How the server's hosts are reached, by name."""
    return {name: ssh_address(host) for name, host in config.hosts.items()}


def server_tools(config: ServerConfig) -> Tools:
    """The tools of a comparison with the server's own keys; without any, values are not compared."""
    without_keys = tools(None, lambda done, of: None)
    return replace(without_keys, opener=_Unhurried(config)) if key_sources(config) else without_keys


class _Unhurried:
    """The server's keys, for one file at a time: the processor is for reconciliations."""

    def __init__(self, config: ServerConfig) -> None:
        self._keys = Keys(key_sources(config), config.decryption.sops_binary)
        self._turn = asyncio.Lock()

    async def opens(self, recipients: Sequence[str]) -> bool:
        return await self._keys.opens(recipients)

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        async with self._turn:
            return await self._keys.decrypt(name, data, parser)
