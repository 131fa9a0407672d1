"""A command run on a machine."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended; ``exit_code`` None: it took too long, printed too much or does not exist (``problem``)."""

    exit_code: int | None
    output: Secret
    problem: str = ""
