"""Where paths of a machine really lead: reconciler itself follows no link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.ports.host import Machine

UNRESOLVED = "cannot be resolved by `realpath` there: it may be gone, or may not be reached"
"""Why a path is in no answer."""

_AT_ONCE = 200
_SECONDS = 20.0


async def real_paths(machine: Machine, paths: Iterable[str]) -> Mapping[str, str]:
    """Every path with the one that it leads to; those that cannot be resolved are not in it."""
    every = list(dict.fromkeys(paths))
    found: dict[str, str] = {}
    for start in range(0, len(every), _AT_ONCE):
        found |= await _resolved(machine, every[start : start + _AT_ONCE])
    return found


async def _resolved(machine: Machine, paths: Sequence[str]) -> dict[str, str]:
    """One question for all of them; where it has no answer for each, one for each half."""
    if len(paths) == 1:
        # Not every realpath has -z (BusyBox), and one answer needs no end but the line feed's.
        real = await _asked(machine, ["realpath", *paths], "\n")
    else:
        real = await _asked(machine, ["realpath", "-z", *paths], "\0")
    if real is not None and len(real) == len(paths):
        return dict(zip(paths, real, strict=True))
    if real is None or len(paths) == 1:
        return {}
    # One after the other: an SSH server does only a few things at a time.
    half = len(paths) // 2
    return await _resolved(machine, paths[:half]) | await _resolved(machine, paths[half:])


async def _asked(machine: Machine, command: Sequence[str], end: str) -> list[str] | None:
    """What it answers, nothing where it has no answer for one of them; None where it does not run."""
    told = await machine.run(command, "", _SECONDS)
    if told.exit_code is None:
        return None
    text = told.output.reveal().decode("utf-8", "surrogateescape")
    if told.exit_code != 0 or not text.endswith(end):
        return []
    text = text.removesuffix(end)
    return text.split(end) if end == "\0" else [text]
