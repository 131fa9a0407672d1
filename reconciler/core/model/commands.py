"""A command run on a machine."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended; ``exit_code`` None: it took too long, printed too much or does not exist (``problem``).
    ``error`` is its standard error."""

    exit_code: int | None
    output: Secret
    problem: str = ""
    error: Secret = Secret(b"")  # noqa: RUF009  # immutable
