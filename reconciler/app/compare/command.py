"""`reconciler compare`: from its arguments to a report, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.app.checks.run import Progress
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone as local_wiring
from reconciler.app.wiring.arguments import inside_repository, must_exist

if TYPE_CHECKING:
    from reconciler.app.compare.run import Report as Comparisons
    from reconciler.app.config.probes import ProbeFields
    from reconciler.core.model.targets import Manifest


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What a comparison is asked with, as it is typed; None where an option is not given."""

    repository: str
    path: str
    config: str
    key_file: str | None = None
    expected: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    different: bool | None = None
    probes: str | None = None


def compare_sides(left: str, rights: Sequence[str], asked: CompareRequest, progress: Progress) -> Comparisons:
    """Hold ``left`` against each of ``rights``. Raises RefusedError, OutsideError, ConfigError, KeyUnavailableError."""
    from reconciler.app.compare.run import Options, run
    from reconciler.app.compare.sides import Place

    for option, file in (
        ("--age-key-file", asked.key_file),
        ("--expected", asked.expected),
        ("--ssh-key", asked.ssh_key),
        ("--known-hosts", asked.known_hosts),
        ("--probes", asked.probes),
    ):
        must_exist(option, file)

    async def manifest(environment: str) -> Manifest:
        from reconciler.app.wiring.server import manifest_at_head

        config = await asyncio.to_thread(load_server_config, asked.config)
        return await manifest_at_head(config, environment)

    server = load_server_config(asked.config) if os.access(asked.config, os.R_OK) else None
    hosts = {(one.address.lower(), one.port): name for name, one in server.hosts.items()} if server else {}
    options = Options(
        Place(asked.repository, inside_repository(asked.path), server.host if server else "", hosts),
        local_wiring.tools(asked.key_file, lambda done, of: None),
        manifest,
        asked.expected,
        asked.ssh_key,
        asked.known_hosts,
        asked.different,
        tuple(one.probe(name) for name, one in _probes(asked, server).items()),
        progress,
    )
    return asyncio.run(run(left, rights, options))


def _probes(asked: CompareRequest, server: ServerConfig | None) -> dict[str, ProbeFields]:
    """Those of the server's file, where there is one, and those of --probes, which win."""
    from reconciler.app.config.probes import load_probes

    found = dict(server.probes) if server else {}
    return found | (load_probes(asked.probes, asked.repository) if asked.probes else {})
