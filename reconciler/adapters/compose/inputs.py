"""All that Compose reads to resolve a project, as one digest: with the same digest it resolves it to the same.

So what was resolved with staged files still holds once those files are in place, unless somebody has changed another
one meanwhile. The digest is "", which says nothing, where Compose may read what we do not know, or may have read a
staged file past the farm (staging.py), by an absolute path. Past it through a link, it has read what this reads too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence

from reconciler.adapters.compose import uses
from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.files import Configuration, Written, as_list
from reconciler.core.model.compose import Invocation


async def inputs_digest(
    context: ComposeContext, invocation: Invocation, configuration: Configuration, staged: Staged
) -> str:
    """The digest of how Compose is run and of the files that it reads, with the staged ones in place."""
    env_files = uses.env_files(configuration.written).values()
    paths = sorted(configuration.project.union(configuration.environments, *env_files))
    chosen = not invocation.files and configuration.variables.get("COMPOSE_FILE")  # may lead out of the farm
    if chosen or not all(map(_is_inside, _names(configuration.written))):
        return ""
    contents = await asyncio.gather(*(_content(context, path, staged) for path in paths))
    digest = hashlib.blake2b(repr(invocation).encode())
    for path, content in zip(paths, contents, strict=True):
        size = -1 if content is None else len(content)
        digest.update(repr((path, size)).encode() + (content or b""))
    return digest.hexdigest()


async def _content(context: ComposeContext, path: str, staged: Staged) -> bytes | None:
    if path not in staged:
        return await context.read_file(path)
    data = staged[path]
    return None if data is None else data.reveal()


def _is_inside(name: object) -> bool:
    """Whether a name in a compose file is a path that certainly stays in the farm."""
    return (
        isinstance(name, str) and not name.startswith(("/", "~")) and not any(mark in name for mark in ("$", ":", "@"))
    )


def _names(written: Sequence[Written]) -> Iterator[object]:
    """The files that Compose reads, as the compose files name them; None for one that it reads and we do not."""
    for here in written:
        for entry in as_list(here.document.get("include")):
            include = entry if isinstance(entry, dict) else {"path": entry}
            for field in ("path", "project_directory", "env_file"):
                yield from as_list(include.get(field))
        for service in uses.mapping(here.document.get("services")).values():
            fields = uses.mapping(service)
            yield from [None] if "label_file" in fields else []
            if isinstance(extends := fields.get("extends"), dict) and "file" in extends:
                yield extends["file"]
            for entry in as_list(fields.get("env_file")):
                yield entry.get("path") if isinstance(entry, dict) else entry
