"""`reconciler compare`: from the command's arguments to a report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.app.config.expected import FILE_NAME
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository, must_exist
from reconciler.app.wiring.tools import CountProgress
from reconciler.core.errors import RefusedError
from reconciler.core.text import printable

if TYPE_CHECKING:
    from reconciler.app.compare.run import ComparisonReport
    from reconciler.app.compare.sides import GitSource
    from reconciler.app.config.probes import ProbeFields
    from reconciler.core.model.targets import Manifest
    from reconciler.core.tree import Tree


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

    for option, file in (
        ("--age-key-file", request.key_file),
        ("--expected", request.expected),
        ("--ssh-key", request.ssh_key),
        ("--known-hosts", request.known_hosts),
        ("--probes", request.probes),
    ):
        must_exist(option, file)

    async def manifest(environment: str, host: str) -> Manifest:
        from reconciler.app.wiring.server import manifest_at_head

        config = await asyncio.to_thread(load_server_config, request.config)
        return await manifest_at_head(config, environment, host)

    server = load_server_config(request.config) if os.access(request.config, os.R_OK) else None
    options = CompareOptions(
        _source(request, server),
        clone.tools(clone.key_sources(request.key_file), lambda done, of: None),
        manifest,
        request.expected or _beside(request),
        request.ssh_key,
        request.known_hosts,
        request.different,
        tuple(fields.probe(name) for name, fields in _probes(request, server).items()),
        tuple(map(_pair, request.pairs)),
        progress,
    )
    return asyncio.run(compare_all(left, rights, options))


def run_configured(name: str, request: CompareRequest, progress: CountProgress) -> ComparisonReport:
    """Compare the pair of this name as the daemon does: by the server configuration, at the branch's head.

    Raises RefusedError for another name, and for an option that the configuration decides; else as ``run_comparison``.
    """
    from reconciler.app.compare.configured import ConfiguredPair, PairComparer
    from reconciler.app.wiring.server import fetch_head

    if request != CompareRequest(request.repository, request.path, request.config):
        hint = "Change it there, or name two sides"
        raise RefusedError("its options are those of the server configuration", where=printable(name), hint=hint)
    config = load_server_config(request.config)
    if name not in config.comparisons:
        known = f"The comparisons of {request.config}: {', '.join(config.comparisons) or 'none'}"
        problem = "is not one of the server's comparisons, and there is no side to compare it with"
        raise RefusedError(problem, where=printable(name), hint=known)

    async def compare() -> ComparisonReport:
        pair = ConfiguredPair(name, config.comparisons[name])
        return await PairComparer(config).compare(pair, await fetch_head(config), progress)

    return asyncio.run(compare())


def _source(request: CompareRequest, server: ServerConfig | None) -> GitSource:
    """The clone around the working directory, with what the server configuration says of machines."""
    from reconciler.app.compare.sides import GitSource

    path = inside_repository(request.path)

    async def read(revision: str) -> Tree:
        repository = clone.Clone(request.repository)
        commit, _ = await repository.resolve(revision, revision, from_fork_point=False)
        (tree,) = await repository.trees([commit], path)
        return tree

    if server is None:
        return GitSource(read, path)
    from reconciler.app.wiring.comparisons import host_addresses, host_names

    return GitSource(read, path, "", server.host, host_names(server), host_addresses(server))


def _beside(request: CompareRequest) -> str | None:
    """The file of expected differences beside the environments of the working directory, if there is one."""
    path = os.path.abspath(os.path.join(request.repository, request.path, FILE_NAME))
    return path if os.path.isfile(path) else None


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
