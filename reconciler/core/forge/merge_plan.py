"""What merging a pull request would do, as a comment and a status say it. Pure.

Whoever reads a pull request may have no key, and may have written it to learn something. So nothing here depends on a
value: keys are named as git shows them, and what is rewritten counts as changed (docs/plan-before-merge.md).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reconciler.core.markdown import code, plain_text
from reconciler.core.model.compose import ActionKind
from reconciler.core.model.plans import KeyChange
from reconciler.core.ports.forge import CommitState
from reconciler.core.text import listed

MOST_LISTED = 20  # files, services or problems of one environment in the comment
_MOST_KEYS = 8  # named beside a service or file
_LONGEST_COMMENT = 60_000  # characters; GitHub takes 65,536
_VERBS = {
    ActionKind.RECREATE: "recreated",
    ActionKind.RESTART: "restarted",
    ActionKind.SIGNAL: "signalled",
}


class ContractsVerdict(enum.Enum):
    """What is known of the contracts of the files that the merge changes; the text follows the services."""

    NONE = ""
    HOLD = "contracts hold"
    EDITED = "contracts judged after the merge"
    BROKEN = "contracts broken"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A source that the merge changes: what happens to its live file, and the keys that git shows as changed."""

    source: str
    effect: str
    keys: KeyChange = field(default_factory=KeyChange)


@dataclass(frozen=True, slots=True)
class PlannedService:
    stack: str
    service: str
    kind: ActionKind
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """What the merge does to one environment on one host. ``problems`` are sentences about why the server would refuse
    the revision, ``waits`` about what an operator must decide, ``later`` about what is known only after the merge;
    ``failed`` is why nothing could be planned now."""

    unit: str
    files: tuple[PlannedFile, ...] = ()
    services: tuple[PlannedService, ...] = ()
    untouched: tuple[str, ...] = ()
    contracts: ContractsVerdict = ContractsVerdict.NONE
    problems: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    failed: str = ""

    @property
    def state(self) -> CommitState:
        if self.problems:
            return CommitState.FAILURE
        return CommitState.PENDING if self.failed else CommitState.SUCCESS


@dataclass(frozen=True, slots=True)
class PlannedMerge:
    """What one server says of a pull request. ``refusal`` is why it is not planned at all."""

    host: str
    head: str
    target: str
    units: tuple[PlannedUnit, ...] = ()
    conflicts: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def state(self) -> CommitState:
        states = {unit.state for unit in self.units}
        if self.conflicts or CommitState.FAILURE in states:
            return CommitState.FAILURE
        return CommitState.PENDING if self.refusal or CommitState.PENDING in states else CommitState.SUCCESS


def unit_sentence(unit: PlannedUnit) -> str:
    """One environment on one host in a sentence, as plain text: "api recreated (TOKEN changed), worker untouched"."""
    if unit.failed:
        return f"not planned: {unit.failed}"
    if unit.problems:
        return f"would be refused: {'; '.join(unit.problems)}"
    if not unit.files:
        return "nothing changes"
    services = [_service_text(service) for service in unit.services]
    if unit.untouched:
        services.append(f"{listed(unit.untouched)} untouched")
    if not services and not unit.later:
        services.append("no service touched")
    return ", ".join(filter(None, [*services, unit.contracts.value, *unit.waits, *unit.later]))


def _service_text(service: PlannedService) -> str:
    keys = f" ({_short(service.keys)} changed)" if service.keys else ""
    return f"{service.service} {_VERBS[service.kind]}{keys}"


def _short(keys: Sequence[str]) -> str:
    more = len(keys) - _MOST_KEYS
    return listed([*keys[:_MOST_KEYS], *([f"{more} more"] if more > 0 else [])])


def merge_summary(plan: PlannedMerge) -> str:
    """The one line of the commit status, as plain text."""
    if plan.refusal:
        return f"not planned: {plan.refusal}"
    if plan.conflicts:
        return f"conflicts with the target branch in {listed(plan.conflicts)}"
    changed = [unit for unit in plan.units if unit.files or unit.problems or unit.failed]
    if not changed:
        return "nothing changes on this server"
    return "; ".join(f"{unit.unit}: {unit_sentence(unit)}" for unit in changed)


def merge_comment(plan: PlannedMerge) -> str:
    """The comment, in Markdown. Everything from the branch is text or code in it, never markup."""
    lines = [f"**reconciler on {plain_text(plan.host)}**: what merging {plan.head[:12]} would do", ""]
    if plan.refusal:
        lines.append(f"Not planned: {plain_text(plan.refusal)}")
    if plan.conflicts:
        named = listed([code(path) for path in plan.conflicts])
        lines.append(f"It conflicts with the target branch ({plan.target[:12]}) in {named}. Resolve that first.")
    for unit in plan.units:
        lines += [f"- **{plain_text(unit.unit)}**: {plain_text(unit_sentence(unit))}", *_file_lines(unit)]
    lines += ["", "Files, keys and services only: no value, and nothing that depends on one. A key counts as changed"]
    lines[-1] += " where git shows another ciphertext."
    text = "\n".join(lines)
    return text if len(text) <= _LONGEST_COMMENT else f"{text[:_LONGEST_COMMENT]}\n\n… cut off"


def _file_lines(unit: PlannedUnit) -> Iterator[str]:
    for file in unit.files[:MOST_LISTED]:
        keys = [
            f"{sign} {_short([code(key) for key in names])}"
            for sign, names in (
                ("added:", file.keys.added),
                ("changed:", file.keys.changed),
                ("gone:", file.keys.removed),
            )
            if names
        ]
        yield f"  - {code(file.source)} {plain_text(file.effect)}{': ' if keys else ''}{'; '.join(keys)}"
    if len(unit.files) > MOST_LISTED:
        yield f"  - and {len(unit.files) - MOST_LISTED} more files"
