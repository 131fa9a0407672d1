"""What running containers have of live files that they mount by themselves. Reads only.

Such a mount stays with the file (the inode) that lay there when the container started, also after another one was put
in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from reconciler.core.model.compose import Container, Sight
from reconciler.core.ports import Ports

_WORST_FIRST = (Sight.OTHER, Sight.EQUAL, Sight.UNKNOWN, Sight.SAME)


async def sights_of(
    ports: Ports, paths: Collection[str], containers: Iterable[Container]
) -> dict[str, dict[str, Sight]]:
    """Given live paths, return by service and path what its running containers have of each that they mount by itself;
    of several containers what the worst one has."""
    sights: dict[str, dict[str, Sight]] = {}
    live = {await ports.host.resolve(path): path for path in paths}
    for container in containers:
        if container.state != "running":
            continue
        for source, inside in container.binds:
            path = source if source in paths else live.get(await ports.host.resolve(source))
            if path is not None:
                sight = await ports.host.sight(path, container.id, container.pid, inside)
                mine = sights.setdefault(container.service, {})
                mine[path] = min(sight, mine.get(path, Sight.SAME), key=_WORST_FIRST.index)
    return sights
