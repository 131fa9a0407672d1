"""`reconciler compare`: from the command's arguments to a report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository, must_exist
from reconciler.app.wiring.tools import CountProgress
from reconciler.core.errors import RefusedError
from reconciler.core.text import printable

if TYPE_CHECKING:
    from reconciler.app.compare.run import ComparisonReport
    from reconciler.app.config.probes import ProbeFields
    from reconciler.core.model.targets import Manifest


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """The arguments as typed; None for an option that is not given."""

    repository: str
    path: str
    config: str
    key_file: str | None = None
    expected: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    different: bool | None = None
    probes: str | None = None
    pairs: tuple[str, ...] = ()


def run_comparison(
    left: str, rights: Sequence[str], request: CompareRequest, progress: CountProgress
) -> ComparisonReport:
    """Compare ``left`` with each of ``rights``. Raises RefusedError, OutsideError, ConfigError, KeyUnavailableError."""
    from reconciler.app.compare.run import CompareOptions, compare_all
    from reconciler.app.compare.sides import GitSource

    for option, file in (
        ("--age-key-file", request.key_file),
        ("--expected", request.expected),
        ("--ssh-key", request.ssh_key),
        ("--known-hosts", request.known_hosts),
        ("--probes", request.probes),
    ):
        must_exist(option, file)

    async def manifest(environment: str) -> Manifest:
        from reconciler.app.wiring.server import manifest_at_head

        config = await asyncio.to_thread(load_server_config, request.config)
        return await manifest_at_head(config, environment)

    server = load_server_config(request.config) if os.access(request.config, os.R_OK) else None
    hosts = {(host.address.lower(), host.port): name for name, host in server.hosts.items()} if server else {}
    options = CompareOptions(
        GitSource(request.repository, inside_repository(request.path), server.host if server else "", hosts),
        clone.tools(clone.key_sources(request.key_file), lambda done, of: None),
        manifest,
        request.expected,
        request.ssh_key,
        request.known_hosts,
        request.different,
        tuple(fields.probe(name) for name, fields in _probes(request, server).items()),
        tuple(map(_pair, request.pairs)),
        progress,
    )
    return asyncio.run(compare_all(left, rights, options))


def _pair(text: str) -> tuple[str, str]:
    left, _, right = text.partition("=")
    if not left or not right:
        raise RefusedError("must be LEFT_FILE=RIGHT_FILE", where=f"--pair {printable(text)}")
    return left, right


def _probes(request: CompareRequest, server: ServerConfig | None) -> dict[str, ProbeFields]:
    """The probes of the server configuration, if there is one, and those of --probes, which take precedence."""
    from reconciler.app.config.probes import load_probes

    probes = dict(server.probes) if server else {}
    return probes | (load_probes(request.probes, request.repository) if request.probes else {})
