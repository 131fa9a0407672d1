"""Compares the answers of an operator's probes on two sides. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from reconciler.core.compare.types import Probe, ProbeResult, Status
from reconciler.core.model.commands import CommandResult
from reconciler.core.text import printable

_BAD_REQUEST = 400  # from this status on, an address has not answered
_LONGEST_SHOWN = 500  # characters of what a probe printed


def compare_answers(probe: Probe, left: CommandResult, right: CommandResult) -> ProbeResult:
    """Given the answers of a probe on two sides, return the result. White space alone makes no difference."""
    left_lines, right_lines = (_answer(ran, probe.ignore) for ran in (left, right))
    line = _first_difference(left_lines, right_lines)
    answered = [_answered(ran, probe) for ran in (left, right)]
    same = line == 0 and (left.exit_code, left.problem) == (right.exit_code, right.problem)
    if not any(answered):
        status = Status.FAILED
    elif same:
        status = Status.SAME
    else:  # a reason for different answers does not explain a missing one
        status = Status.EXPECTED if probe.expected and all(answered) else Status.DIFFERS
    reason = probe.expected if status is Status.EXPECTED else ""
    line = 0 if status is Status.SAME else line
    ours, theirs = _shown(left, probe, left_lines), _shown(right, probe, right_lines)
    return ProbeResult(probe.name, status, ours, theirs, line, reason)


def _answered(ran: CommandResult, probe: Probe) -> bool:
    """Whether the command ran and ended with 0, or the address answered with a status below 400."""
    if ran.exit_code is None:
        return False
    return ran.exit_code < _BAD_REQUEST if probe.url else ran.exit_code == 0


def _answer(ran: CommandResult, ignore: str) -> list[str]:
    text = ran.output.reveal().decode("utf-8", "surrogateescape")  # bytes that are not UTF-8 still make a difference
    if ignore:
        text = re.sub(ignore, "", text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(left: Sequence[str], right: Sequence[str]) -> int:
    """The number of the first line that differs, from 1; 0 if none does."""
    for number, (ours, theirs) in enumerate(zip_longest(left, right), start=1):
        if ours != theirs:
            return number
    return 0


def _shown(ran: CommandResult, probe: Probe, lines: Sequence[str]) -> str:
    if ran.exit_code is None:
        return ran.problem
    ended = f"status {ran.exit_code}" if probe.url else f"exit {ran.exit_code}"
    text = printable(" / ".join(lines)[:_LONGEST_SHOWN]) if probe.show else f"{len(lines)} lines"
    return f"{ended}: {text}" if text else ended
