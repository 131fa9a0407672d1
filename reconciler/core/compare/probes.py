"""Compares the answers of an operator's probes on two sides. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest

from reconciler.core.compare.types import Probe, ProbeResult, Status
from reconciler.core.model.commands import CommandResult
from reconciler.core.secret import Secret
from reconciler.core.secrets.masking import masked
from reconciler.core.text import printable

_BAD_REQUEST = 400  # from this status on, an address has not answered
_WARNING = re.compile(r'time="[^"]*" level=(warning|info|debug) ')  # Compose's own, of the project
_LONGEST_SHOWN = 500  # characters of what a probe printed


def compare_answers(
    probe: Probe, left: CommandResult, right: CommandResult, known: Collection[str] = ()
) -> ProbeResult:
    """Given the answers of a probe on two sides, return the result. White space alone makes no difference. ``known``
    are values that must not be shown."""
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
    ours, theirs = (_shown(ran, probe, lines, known) for ran, lines in ((left, left_lines), (right, right_lines)))
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


def _shown(ran: CommandResult, probe: Probe, lines: Sequence[str], known: Collection[str]) -> str:
    """How the probe ended; where it failed, with the first line of its error."""
    if ran.exit_code is None:
        return ran.problem
    ended = f"status {ran.exit_code}" if probe.url else f"exit {ran.exit_code}"
    text = printable(" / ".join(lines)[:_LONGEST_SHOWN]) if probe.show else _counted(lines)
    error = "" if _answered(ran, probe) else _first_line(ran.error, known)
    if error and not lines:
        return f"{ended}: {error}"
    return f"{ended}: {text}{f'; {error}' if error else ''}" if text or error else ended


def _counted(lines: Sequence[str]) -> str:
    return f"{len(lines)} line{'' if len(lines) == 1 else 's'}"


def _first_line(error: Secret, known: Collection[str]) -> str:
    """The first line of what a program says went wrong, without the values that are in it."""
    lines = map(str.strip, error.reveal().decode("utf-8", "replace").splitlines())
    return masked(next((line for line in lines if line and not _WARNING.match(line)), ""), known)
