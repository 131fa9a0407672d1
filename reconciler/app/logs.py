"""Structured logs on standard error: JSON for machines, coloured lines on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from reconciler.core.model import Outcome, Result
from reconciler.core.secret import Secret

_QUIET = (Result.IN_SYNC,)
_BAD = (Result.FAILED, Result.STALLED, Result.ROLLED_BACK, Result.ROLLBACK_FAILED)


def set_up() -> None:
    """Send structlog's and the libraries' messages (warnings and worse) to standard error in one form."""
    terminal = sys.stderr.isatty()
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    # Tracebacks without local variables: those could hold a value.
    last: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    exceptions: list[structlog.types.Processor] = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *exceptions, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def outcome(result: Outcome, trigger: str) -> None:
    """Log how a pass ended: names of targets, keys and services, never values."""
    logger = structlog.get_logger()
    plan = result.plan
    facts: dict[str, Any] = {
        "environment": result.environment,
        "trigger": trigger,
        "result": result.result.value,
        "reason": result.reason,
        "revision": result.revision.short if result.revision else None,
    }
    if plan is not None and not plan.empty:
        facts["files"] = {change.target.id: list(change.keys.names) for change in plan.writes}
        facts["services"] = [f"{action.stack}/{action.service}" for action in plan.actions]
    for name in ("run", "backup", "warning"):
        if getattr(result, name):
            facts[name] = getattr(result, name)
    if result.result in _BAD:
        logger.error("pass", **facts)
    elif result.warning:
        logger.warning("pass", **facts)
    elif result.result in _QUIET and result.run is None:
        logger.debug("pass", **facts)
    else:
        logger.info("pass", **facts)


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: str(value) if isinstance(value, Secret) else value for name, value in event.items()}
