"""Compares what an operator's probes printed on two sides. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from reconciler.core.compare.types import Probe, ProbeResult, Status
from reconciler.core.model.commands import CommandResult
from reconciler.core.text import printable

_BAD_REQUEST = 400  # from this status on an address has no answer for us


_LONGEST_SHOWN = 500  # characters of what a probe printed


def compare_answers(probe: Probe, left: CommandResult, right: CommandResult) -> ProbeResult:
    """Given what a probe gave on two sides, return how that stands. White space makes no difference by itself."""
    lines, others = (_answer(one, probe.ignore) for one in (left, right))
    line = _first_difference(lines, others)
    answered = [_answered(one, probe) for one in (left, right)]
    same = line == 0 and (left.exit_code, left.problem) == (right.exit_code, right.problem)
    if not any(answered):
        status = Status.FAILED
    elif same:
        status = Status.SAME
    else:  # a reason for other answers is none for no answer
        status = Status.EXPECTED if probe.expected and all(answered) else Status.DIFFERS
    reason = probe.expected if status is Status.EXPECTED else ""
    line = 0 if status is Status.SAME else line
    return ProbeResult(probe.name, status, _told(left, probe, lines), _told(right, probe, others), line, reason)


def _answered(ran: CommandResult, probe: Probe) -> bool:
    """Whether the command ran and ended with 0, or the address answered with a status below 400."""
    if ran.exit_code is None:
        return False
    return ran.exit_code < _BAD_REQUEST if probe.url else ran.exit_code == 0


def _answer(ran: CommandResult, ignore: str) -> list[str]:
    text = ran.output.reveal().decode("utf-8", "surrogateescape")  # other bytes are another answer
    if ignore:
        text = re.sub(ignore, "", text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of the first line that differs, from 1; 0 where none does."""
    for number, (left, right) in enumerate(zip_longest(one, other), start=1):
        if left != right:
            return number
    return 0


def _told(ran: CommandResult, probe: Probe, lines: Sequence[str]) -> str:
    if ran.exit_code is None:
        return ran.problem
    ended = f"status {ran.exit_code}" if probe.url else f"exit {ran.exit_code}"
    shown = printable(" / ".join(lines)[:_LONGEST_SHOWN]) if probe.show else f"{len(lines)} lines"
    return f"{ended}: {shown}" if shown else ended
