"""Structured logs on standard error: JSON for machines, coloured lines on a terminal.

The only module that imports structlog, which takes rich and pygments with it for tracebacks that are never shown:
4 MB that the daemon would never free. Where they seem not to be installed, structlog does without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from reconciler.core.model.runs import Outcome, Result
from reconciler.core.secret import Secret

if TYPE_CHECKING or "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # import takes this for a missing module
    try:
        import structlog
    finally:
        del sys.modules["rich"]

_QUIET = 60.0  # seconds between two lines of one repeated warning
_MOST_KINDS = 50  # of events and clients that are told apart within a minute
_BAD = (Result.FAILED, Result.STALLED, Result.ROLLING_BACK, Result.ROLLED_BACK, Result.ROLLBACK_FAILED)


def get_logger() -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def set_up(level: str = "info") -> None:
    """Send our messages from ``level`` on (debug, info, warning, error), and the libraries' warnings and errors from
    there on, to standard error in one form. What libraries say below that may quote what they were given."""
    least = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    # Tracebacks without local variables: those could hold a value.
    last: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
        )
        if terminal
        else structlog.processors.JSONRenderer()
    )
    exceptions: list[structlog.types.Processor] = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *exceptions, last],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)


class RepeatedWarnings:
    """Warnings that clients can cause at will: each is logged at most once a minute, with how often it occurred."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, event: str, *, of: str = "", error_id: str = "http-clients", **example: Any) -> None:
        """Count the event; its first line is logged immediately, with what describes this ``example``. Events ``of``
        several clients count separately, as long as they are few."""
        key = (event, of if len(self._counts) < _MOST_KINDS else "")
        if key in self._counts:
            self._counts[key] += 1
        else:
            self._log(key, 1, {"error_id": error_id, **example})

    def _log(self, key: tuple[str, str], count: int, example: dict[str, Any]) -> None:
        get_logger().warning(key[0], count=count, **example)
        self._counts[key] = 0
        kept = example if key[1] else {"error_id": example["error_id"]}
        asyncio.get_running_loop().call_later(_QUIET, self._after_a_minute, key, kept)

    def _after_a_minute(self, key: tuple[str, str], example: dict[str, Any]) -> None:
        if count := self._counts.pop(key):
            self._log(key, count, example)


def log_outcome(outcome: Outcome, trigger: str) -> None:
    """Log how a reconciliation ended: names of targets, keys and services, never values."""
    logger = get_logger()
    plan = outcome.plan
    facts: dict[str, Any] = {
        "environment": outcome.environment,
        "trigger": trigger,
        "result": outcome.result.value,
        "reason": outcome.reason,
        "revision": outcome.revision.short if outcome.revision else None,
    }
    if plan is not None and not plan.empty:
        facts["files"] = {change.target.id: list(change.keys.names) for change in plan.writes}
        facts["services"] = [f"{action.stack}/{action.service}" for action in plan.actions]
    if plan is not None and (
        edited := {change.target.id: change.edited_by for change in plan.changes if change.edited_by}
    ):
        facts["edited_by"] = edited
    for name in ("run", "backup", "error_id", "warning", "retry"):
        if getattr(outcome, name):
            facts[name] = getattr(outcome, name)
    if outcome.result in _BAD:
        logger.error("reconciled", **facts)
    elif outcome.warning:
        logger.warning("reconciled", **facts)
    else:
        logger.info("reconciled", **facts)


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: str(value) if isinstance(value, Secret) else value for name, value in event.items()}
