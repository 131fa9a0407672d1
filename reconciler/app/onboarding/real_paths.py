"""The real paths of files on a machine, since reconciler itself follows no links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.ports.host import Machine

UNRESOLVED = "cannot be resolved by `realpath`: it may be gone or inaccessible"
"""Why a path has no real path."""

_BATCH = 200
_SECONDS = 20.0


async def real_paths(machine: Machine, paths: Iterable[str]) -> Mapping[str, str]:
    """The real path for every path, without those that cannot be resolved."""
    distinct = list(dict.fromkeys(paths))
    resolved: dict[str, str] = {}
    for start in range(0, len(distinct), _BATCH):
        resolved |= await _resolved(machine, distinct[start : start + _BATCH])
    return resolved


async def _resolved(machine: Machine, paths: Sequence[str]) -> dict[str, str]:
    """One command for all paths; if it does not resolve each of them, one for each half."""
    if len(paths) == 1:
        # Not every realpath has -z (BusyBox), and a single path needs no NUL.
        real = await _run_realpath(machine, ["realpath", *paths], "\n")
    else:
        real = await _run_realpath(machine, ["realpath", "-z", *paths], "\0")
    if real is not None and len(real) == len(paths):
        return dict(zip(paths, real, strict=True))
    if real is None or len(paths) == 1:
        return {}
    # One after the other: an SSH server limits the number of sessions.
    half = len(paths) // 2
    return await _resolved(machine, paths[:half]) | await _resolved(machine, paths[half:])


async def _run_realpath(machine: Machine, command: Sequence[str], end: str) -> list[str] | None:
    """The paths it prints, [] if one cannot be resolved, None if it does not run."""
    answer = await machine.run(command, "", _SECONDS)
    if answer.exit_code is None:
        return None
    text = answer.output.reveal().decode("utf-8", "surrogateescape")
    if answer.exit_code != 0 or not text.endswith(end):
        return []
    text = text.removesuffix(end)
    return text.split(end) if end == "\0" else [text]
