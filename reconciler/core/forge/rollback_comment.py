"""The comment on a pull request that was rolled back: which keys, which services, why, and what comes next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.markdown import code, plain_text
from reconciler.core.model.plans import Kind
from reconciler.core.model.records import Quarantine
from reconciler.core.model.revisions import RevertState
from reconciler.core.model.runs import Run, RunChange

_MOST_NAMES = 20
_MOST_FILES = 30
_KEYS = ("added", "changed", "removed")


@dataclass(frozen=True, slots=True)
class RolledBack:
    """How a revision failed in one unit. ``run`` is the run that was rolled back, None where another host's failure
    took it back; ``url`` leads to its page ("" for none)."""

    unit: str
    quarantine: Quarantine
    run: Run | None
    failed: bool = False
    url: str = ""


def rollback_comment(commit: str, cases: Sequence[RolledBack]) -> str:
    """Given how the commit fared in each unit where it was rolled back, return the comment (Markdown)."""
    failed = any(case.failed for case in cases)
    heading = "The rollback failed" if failed else "Rolled back"
    lines = [f"### {heading}: {code(commit[:12])}", ""]
    for case in cases:
        lines += [*_case(case), ""]
    lines.append(_next_step(cases, failed=failed))
    return "\n".join(lines) + "\n"


def _case(case: RolledBack) -> Iterator[str]:
    yield f"**{code(case.unit)}**: {plain_text(case.quarantine.reason.rstrip('.'))}."
    yield ""
    if case.run is not None:
        for change in case.run.changes[:_MOST_FILES]:
            yield f"- {code(change.source)}: {_keys(change)}"
        if len(case.run.changes) > _MOST_FILES:
            yield f"- and {len(case.run.changes) - _MOST_FILES} more files"
        services = list(dict.fromkeys(action.service for action in case.run.actions))
        if services:
            yield f"- services: {_names(services)}"
    yield f"- {_restored(case)}"
    if case.quarantine.revert is not None:
        yield f"- {_in_git(case.quarantine)}"
    if case.url:
        yield f"- [the run]({case.url})"


def _keys(change: RunChange) -> str:
    parts = [f"{_names(keys)} {word}" for word in _KEYS if (keys := getattr(change, word))]
    if parts:
        return ", ".join(parts)
    return "new file" if change.kind == Kind.CREATE else "deleted" if change.digest is None else "changed"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(code(name) for name in names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _restored(case: RolledBack) -> str:
    if case.failed:
        stored = f"; the previous files are in backup {code(case.run.backup)}" if case.run and case.run.backup else ""
        return f"the server could not be restored to the former revision{stored}"
    if case.run is None:
        return "taken back here too: the former revision is in place again"
    return f"restored: the former files (backup {code(case.run.backup)}), and the services run on them"


def _in_git(quarantine: Quarantine) -> str:
    if quarantine.revert is RevertState.PENDING:
        return "in git: the revert is not pushed yet"
    note = quarantine.revert_note.removeprefix("In git: ").rstrip(".")
    return f"in git: {plain_text(note)}" if note else f"in git: {quarantine.revert.value if quarantine.revert else ''}"


def _next_step(cases: Sequence[RolledBack], *, failed: bool) -> str:
    if failed:
        return "An operator must look at the server, then run `reconciler retry`. Fix the change with a new commit."
    reverted = any(case.quarantine.revert is RevertState.PUSHED for case in cases)
    if reverted:
        return "The branch no longer has the change. Open a new pull request with the fixed one."
    return "The revision is quarantined and is not applied again. Fix it with a new commit, or revert it."
