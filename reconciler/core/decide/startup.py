"""How long a service may take to become healthy: what its health check allows, and what it took before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.core.fidelity.definition import seconds_of
from reconciler.core.model.compose import Container

# What the engine takes where a health check does not say.
_INTERVAL, _TIMEOUT, _RETRIES = 30.0, 30.0, 3
_NANOSECONDS = 1e9
# No two starts take the same time: one that takes up to this many times the last one is not late.
_MARGIN = 2.0


def allowed_by_container(container: Container) -> float:
    """Seconds until the engine itself must call the container healthy or unhealthy; 0 where it never does."""
    if container.allowed:
        return container.allowed
    check = (container.facts.get("Config") or {}).get("Healthcheck") or {}
    if (check.get("Test") or ["NONE"])[0] == "NONE":
        return 0.0
    times = {name: (check.get(key) or 0) / _NANOSECONDS for name, key in _INSPECTED.items()}
    return _allowed(times, int(check.get("Retries") or 0))


_INSPECTED = {"start_period": "StartPeriod", "interval": "Interval", "timeout": "Timeout"}


def allowed_by_definition(check: Mapping[str, Any]) -> float:
    """The same of a `healthcheck` as a compose file has it; 0 where it is disabled, or says no times of its own."""
    test = check.get("test")
    if check.get("disable") or test in ("NONE", ["NONE"]) or not check.keys() & {*_INSPECTED, "retries"}:
        return 0.0
    retries = str(check.get("retries") or 0)
    times = {name: seconds_of(check.get(name) or 0) for name in _INSPECTED}
    return _allowed(times, int(retries) if retries.isdecimal() else 0)


def _allowed(times: Mapping[str, float], retries: int) -> float:
    """Probes that fail in the start period do not count; after it, as many as ``retries`` must fail."""
    probe = (times["interval"] or _INTERVAL) + (times["timeout"] or _TIMEOUT)
    return times["start_period"] + (retries or _RETRIES) * probe


def patience(timeout: float, allowed: float, last: float) -> float:
    """Seconds after which a service that still starts is late, given health.timeout, what its health check allows, and
    what it took the last time (0: unknown)."""
    return max(timeout, allowed, _MARGIN * last)
