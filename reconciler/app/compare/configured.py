"""Compares the pairs of sides that the server configuration names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from reconciler.app.checks.survey import MANIFEST
from reconciler.app.compare.run import CompareOptions, ComparisonReport, compare_all
from reconciler.app.compare.side_names import SideKind, SideName, read_side
from reconciler.app.compare.sides import GitSource, belongs_to
from reconciler.app.config.comparisons import ComparisonSettings
from reconciler.app.config.expected import FILE_NAME
from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.server import ServerConfig
from reconciler.app.wiring.comparisons import MirrorTrees, host_addresses, host_names, server_tools
from reconciler.app.wiring.tools import CountProgress
from reconciler.core.errors import ManifestError
from reconciler.core.model.targets import Manifest
from reconciler.core.tree import Tree


@dataclass(frozen=True, slots=True)
class ConfiguredPair:
    """A pair of sides, by its name in the server configuration."""

    name: str
    settings: ComparisonSettings

    @property
    def sides(self) -> tuple[SideName, SideName]:
        return read_side(self.settings.left), read_side(self.settings.right)

    @property
    def labels(self) -> tuple[str, str, str]:
        """The name and both sides, as metrics call them."""
        left, right = self.sides
        return self.name, left.label, right.label

    @property
    def in_git(self) -> bool:
        """Whether both sides are in git, so that nothing else can change them."""
        return all(side.kind is SideKind.GIT for side in self.sides)

    @property
    def units(self) -> tuple[str, ...]:
        """The server's environments that are a live side: production here, production@web-2 on another host."""
        return tuple(side.text.removeprefix("live:") for side in self.sides if side.kind is SideKind.LIVE)

    def wants(self, path: str) -> bool:
        """Whether the comparison reads a file below repository.path."""
        environments = [side.subject for side in self.sides if side.kind in (SideKind.GIT, SideKind.LIVE)]
        return path == FILE_NAME or any(belongs_to(str(environment), path) for environment in environments)


class PairComparer:
    """Compares pairs as the branch has them at a commit that is in the mirror."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._trees = MirrorTrees(config)
        self._tools = server_tools(config)

    async def inputs(self, pair: ConfiguredPair, commit: str) -> str:
        """A mark of everything in git that the comparison reads: equal marks mean equal files. Raises RefusedError,
        OutsideError."""
        listing = await self._trees.listing(commit)
        entries = sorted((path, *entry) for path, entry in listing.items() if pair.wants(path))
        return hashlib.sha256(repr(entries).encode()).hexdigest()

    async def compare(
        self, pair: ConfiguredPair, commit: str, progress: CountProgress = lambda done, of: None
    ) -> ComparisonReport:
        """Compare the two sides now. Raises what ``compare_all`` raises."""
        server, settings = self._config, pair.settings

        async def read(_: str) -> Tree:
            return await self._trees.read(commit, pair.wants)

        async def manifest(environment: str, host: str) -> Manifest:
            return _manifest(await read(""), environment, host, server)

        source = GitSource(
            read,
            server.repository.path,
            "HEAD",
            here=server.host,
            hosts=host_names(server),
            addresses=host_addresses(server),
        )
        options = CompareOptions(
            source,
            self._tools,
            manifest,
            ssh_key=settings.ssh_key_file,
            known_hosts=settings.known_hosts_file,
            different=None if settings.same_environment is None else not settings.same_environment,
            probes=tuple(fields.probe(name) for name, fields in server.probes.items()),
            progress=progress,
        )
        return await compare_all(settings.left, [settings.right], options)


def _manifest(tree: Tree, environment: str, host: str, server: ServerConfig) -> Manifest:
    path = f"{environment}/{MANIFEST}"
    if path not in tree.files:
        raise ManifestError("does not exist", where=path, hint="Correct `comparisons` in the server configuration")
    return read_manifest(tree.files[path], environment=environment, file=path, server=server.on(host))
