"""Decides from what the engine reports about containers whether services are healthy. Pure: time is an argument.

``docker compose up --wait`` cannot be asked: it succeeds for a service that crashes two seconds later and for a crash
loop without a health check. See docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from reconciler.core.decide.affected_services import is_stopped_on_purpose
from reconciler.core.decide.startup import allowed_by_container, patience
from reconciler.core.model.compose import Container, HealthStatus, Project, ServiceHealth, StackHealth
from reconciler.core.model.targets import Stack

_WORST_FIRST = (
    "dead", "exited", "restarting", "unhealthy", "removing", "created", "pending", "paused", "starting", "running",
    "healthy",
)  # fmt: skip


class Verdict(StrEnum):
    WAIT = "wait"
    HEALTHY = "healthy"
    FAILED = "failed"


_GRAVEST_FIRST = (Verdict.FAILED, Verdict.WAIT, Verdict.HEALTHY)


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """What was decided for one service; ``reason`` is a sentence without a full stop. ``late``: it fails only because
    it still starts; ``unplaced``: because this many of its tasks run on no node, while the others are healthy."""

    service: str
    verdict: Verdict
    reason: str = ""
    late: bool = False
    unplaced: int = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of a watch after one look: per service, and all together.

    ``reason`` says what failed, or what the watch still waits for; ``silent`` are the URLs that do not give
    the expected answer.
    """

    verdict: Verdict
    findings: tuple[HealthFinding, ...]
    services: tuple[ServiceHealth, ...]
    reason: str
    silent: tuple[str, ...] = ()

    @property
    def failed(self) -> frozenset[str]:
        """The services that failed; empty if only an HTTP check did."""
        return frozenset(finding.service for finding in self.findings if finding.verdict is Verdict.FAILED)

    @property
    def late(self) -> frozenset[str]:
        """Those of them that only take too long to start."""
        return frozenset(finding.service for finding in self.findings if finding.late)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A container at the latest look. ``risen`` counts restarts since the watch began, ``since`` is when it was first
    seen in this run (monotonic seconds), ``fresh`` whether this run began after the watch's baseline."""

    restarts: int
    started_at: str
    since: float
    risen: int = 0
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class HealthWatch:
    """Services that must become healthy, and what is known of their containers so far.

    ``scaled_to_none`` are the services that are scaled to zero. ``last_startups`` says by service how many seconds it
    took to become healthy the last time, "" for all HTTP checks of the stack; ``startups`` the same of this watch.
    """

    stack: Stack
    services: tuple[str, ...]
    began_at: float
    seen: Mapping[str, _Seen]
    scaled_to_none: frozenset[str] = frozenset()
    last_startups: Mapping[str, float] = field(default_factory=dict)
    startups: Mapping[str, float] = field(default_factory=dict)

    def look(
        self, containers: Iterable[Container], now: float, answers: Mapping[str, bool] | None = None
    ) -> tuple[HealthWatch, HealthReport]:
        """Given the containers at ``now``, return the watch to continue with, and what this look says.

        ``answers`` says of each URL in the stack's policy whether it gives the expected answer; one that it leaves out
        does not.
        """
        mine = [container for container in containers if container.service in self.services]
        seen = {container.id: _see(self.seen.get(container.id), container, now) for container in mine}
        watch = replace(self, seen=seen)
        findings = tuple(
            watch._judge_service(service, [container for container in mine if container.service == service], now)
            for service in self.services
        )
        health = tuple(
            _summary(self.stack, finding, [container for container in mine if container.service == finding.service])
            for finding in findings
        )
        patience = max([self.stack.health.timeout, *(watch._patience(name, mine) for name in ("", *self.services))])
        verdict, reason = watch._conclude(findings, now, answers or {}, patience)
        startups = watch._startups(findings, mine, now)
        if verdict is Verdict.HEALTHY and self.stack.health.http:
            startups[""] = now - self.began_at
        watch = replace(watch, startups=startups)
        silent = tuple(check.url for check in self.stack.health.http if not (answers or {}).get(check.url))
        return watch, HealthReport(verdict, findings, health, reason, silent)

    def without(self, services: Collection[str]) -> HealthWatch:
        """The watch over the other services only."""
        return replace(self, services=tuple(name for name in self.services if name not in services))

    def _judge_service(self, service: str, containers: Sequence[Container], now: float) -> HealthFinding:
        if not containers and service in self.scaled_to_none:
            return HealthFinding(service, Verdict.HEALTHY, f"{service} is scaled to zero")
        if not containers:
            return self._pending(service, "has no container", now, self.stack.health.timeout)
        findings = [(self._judge(container, now), container) for container in containers]
        finding, worst = min(findings, key=_most_telling)
        late = any(it.late for it, _ in findings)
        if finding.verdict is Verdict.FAILED and worst.state == "pending":
            rest = [it.verdict for it, container in findings if container.state != "pending"]
            return replace(
                finding, late=late, unplaced=len(findings) - len(rest) if {*rest} <= {Verdict.HEALTHY} else 0
            )
        stuck = next((it.error for it in containers if it.state == "pending" and it.error), "")
        if finding.late and stuck:
            # Those that are there wait for the one that no node can run.
            finding = self._pending(service, "is pending", now, self._patience(service, containers), stuck)
            return replace(finding, late=True)
        return finding

    def _judge(self, container: Container, now: float) -> HealthFinding:
        """Given one container, return what it means for its service."""
        service, seen, policy = container.service, self.seen[container.id], self.stack.health
        if _was_stopped(container) and not seen.risen:
            # Somebody stops it, or the engine itself is ending: then the next look finds no engine to ask.
            return self._pending(service, f"is stopped (exit code {container.exit_code})", now, policy.timeout)
        if crash := _crash(self.stack, container, seen.risen):
            return HealthFinding(service, Verdict.FAILED, crash)
        if container.state == "exited":
            return HealthFinding(service, Verdict.HEALTHY, f"{service} has done its work")
        if container.state == "running" and service in self.stack.one_shot:
            # How long its work takes nobody knows: that it takes long is no failure.
            late = now - self.began_at >= self._patience(service, [container])
            verdict = Verdict.HEALTHY if late else Verdict.WAIT
            return HealthFinding(service, verdict, f"{service} is at work")
        if container.state != "running" and container.health != "starting":
            waited = seen.since if container.state == "pending" else self.began_at
            return self._pending(service, f"is {container.state}", now, policy.timeout, container.error, waited)
        if container.health == "starting":
            patience = self._patience(service, [container])
            finding = self._pending(service, "is starting", now, patience, container.error)
            return replace(finding, late=finding.verdict is Verdict.FAILED)
        if container.health == "healthy" and seen.fresh:
            return HealthFinding(service, Verdict.HEALTHY, f"{service} is healthy")
        # Without a health check, or with one whose answer is from before the change, only time can tell.
        if now - seen.since >= policy.stable_for:
            return HealthFinding(service, Verdict.HEALTHY, f"{service} has run for {policy.stable_for:g} s")
        return HealthFinding(service, Verdict.WAIT, f"{service} must run for {policy.stable_for:g} s")

    def _pending(
        self, service: str, state: str, now: float, patience: float, error: str = "", since: float | None = None
    ) -> HealthFinding:
        cause = f": {error}" if error else ""
        if now - (self.began_at if since is None else since) < patience:
            return HealthFinding(service, Verdict.WAIT, f"{service} {state}{cause}")
        still = state.replace("is ", "is still ", 1) if state.startswith("is ") else f"still {state}"
        return HealthFinding(service, Verdict.FAILED, f"{service} {still} after {patience:g} s{cause}")

    def _patience(self, service: str, containers: Iterable[Container]) -> float:
        """Seconds that the service may take to become healthy; of "", the HTTP checks to answer."""
        allowed = max((allowed_by_container(it) for it in containers if it.service == service), default=0.0)
        return patience(self.stack.health.timeout, allowed, self.last_startups.get(service, 0.0))

    def _startups(
        self, findings: Sequence[HealthFinding], containers: Sequence[Container], now: float
    ) -> dict[str, float]:
        """How long each service with a health check took to become healthy, as far as it is by now."""
        checked = {container.service for container in containers if container.health == "healthy"}
        healthy = {finding.service for finding in findings if finding.verdict is Verdict.HEALTHY}
        return dict.fromkeys(checked & healthy, now - self.began_at) | dict(self.startups)

    def _conclude(
        self, findings: Sequence[HealthFinding], now: float, answers: Mapping[str, bool], patience: float
    ) -> tuple[Verdict, str]:
        if failures := [finding.reason for finding in findings if finding.verdict is Verdict.FAILED]:
            return Verdict.FAILED, "; ".join(failures)
        waiting = [finding.reason for finding in findings if finding.verdict is Verdict.WAIT]
        silent = [check for check in self.stack.health.http if not answers.get(check.url)]
        if silent and now - self.began_at >= patience:
            reason = "; ".join(f"{check.url} does not answer {check.status}" for check in silent)
            return Verdict.FAILED, f"{reason} after {patience:g} s"
        waiting += [f"{check.url} must answer {check.status}" for check in silent]
        if waiting:
            return Verdict.WAIT, "; ".join(waiting)
        return Verdict.HEALTHY, f"{', '.join(self.services)} healthy"


def _most_telling(judged: tuple[HealthFinding, Container]) -> tuple[int, bool, bool, bool]:
    """Sorts first what says most about a service: what has failed, before what only takes long; what has a reason."""
    finding, container = judged
    waits = finding.verdict is Verdict.FAILED and container.state == "pending"
    return _GRAVEST_FIRST.index(finding.verdict), finding.late, waits, not container.error


def watch_health(
    stack: Stack,
    services: Collection[str],
    before: Iterable[Container],
    now: float,
    project: Project | None = None,
    last_startups: Mapping[str, float] | None = None,
) -> HealthWatch:
    """Given the services that a change touches and their containers before it, return a watch that begins at ``now``.

    ``project`` after the change says which services are scaled to zero; ``last_startups`` is as in HealthWatch. Times,
    here and in every look, are monotonic seconds.
    """
    baseline = {container.id: _Seen(container.restarts, container.started_at, now, fresh=False) for container in before}
    known = project.services.values() if project else ()
    scaled_to_none = frozenset(service.name for service in known if service.replicas == 0)
    return HealthWatch(stack, tuple(sorted(services)), now, baseline, scaled_to_none, last_startups or {})


def assess(stack: Stack, containers: Iterable[Container]) -> tuple[ServiceHealth, ...]:
    """Given the containers at one moment, return each service's health, sorted: what is known without waiting.

    Skips containers that were stopped on purpose.
    """
    by_service: dict[str, list[Container]] = {}
    for container in containers:
        if not is_stopped_on_purpose(stack, container):
            by_service.setdefault(container.service, []).append(container)
    return tuple(
        _summary(stack, HealthFinding(service, _healthy_now(stack, by_service[service])), by_service[service])
        for service in sorted(by_service)
    )


def summarise_health(stack: Stack, containers: Sequence[Container]) -> StackHealth:
    """Given the containers at one moment, return the health of the stack: that of its worst service."""
    services = assess(stack, containers)
    if failing(stack, [container for container in containers if not is_stopped_on_purpose(stack, container)]):
        status = HealthStatus.UNHEALTHY
    elif not services:
        status = HealthStatus.STOPPED
    else:
        well = all(service.healthy for service in services)
        status = HealthStatus.HEALTHY if well else HealthStatus.STARTING
    return StackHealth(stack.name, status, services)


def unplaced(containers: Iterable[Container]) -> tuple[str, ...]:
    """The services with tasks that no node runs at this moment, sorted, each once for every such task."""
    return tuple(sorted(container.service for container in containers if container.state == "pending"))


def failing(stack: Stack, containers: Iterable[Container]) -> frozenset[str]:
    """The services that have failed at this moment: exited, restarting, dead or unhealthy. Starting is not failing."""
    return frozenset(container.service for container in containers if _crash(stack, container, 0))


def _healthy_now(stack: Stack, containers: Iterable[Container]) -> Verdict:
    well = all(
        not _crash(stack, container, 0) and container.state in ("running", "exited") and container.health != "starting"
        for container in containers
    )
    return Verdict.HEALTHY if well else Verdict.FAILED


def _see(last: _Seen | None, container: Container, now: float) -> _Seen:
    """Given what was known of a container, return what is known now; its engine counts restarts since it was made,
    or since somebody restarted it."""
    if last is None:
        return _Seen(container.restarts, container.started_at, now, risen=container.restarts)
    if container.started_at == last.started_at and container.restarts == last.restarts:
        return last
    risen = container.restarts - last.restarts if container.restarts >= last.restarts else container.restarts
    return _Seen(container.restarts, container.started_at, now, risen=last.risen + risen)


def _crash(stack: Stack, container: Container, risen: int) -> str:
    """Why this container is a failure, as a sentence; "" where it is none."""
    service, code = container.service, container.exit_code
    if container.error and (container.state in ("exited", "dead", "restarting") or risen):
        return f"{service} failed{f' on {container.node}' if container.node else ''}: {container.error}"
    if container.state == "exited" and code == 0 and service in stack.one_shot:
        return ""  # also where its restart policy had it try more than once
    if container.state == "exited":
        advice = "" if code else " (if it is meant to end, name it in one_shot)"
        return f"{service} exited with code {code}{_lifetime(container)}{advice}"
    if container.state == "dead":
        return f"{service} is dead: the engine could not remove its container"
    if container.state == "restarting" or risen:
        times = {0: "is being restarted", 1: "restarted once"}.get(risen, f"restarted {risen} times")
        return f"{service} {times}{f', exit code {code}' if code else ''}"
    return f"{service} is unhealthy" if container.health == "unhealthy" else ""


def _was_stopped(container: Container) -> bool:
    """Whether it ended by a signal from outside (SIGTERM, SIGKILL) and not for lack of memory."""
    killed = container.state == "exited" and container.exit_code in (137, 143)
    return killed and not container.out_of_memory and not container.error


def _lifetime(container: Container) -> str:
    try:
        began, ended = (datetime.fromisoformat(time) for time in (container.started_at, container.finished_at))
        seconds = (ended - began).total_seconds()
    except ValueError:
        return ""
    return f" after {seconds:.0f} s" if seconds >= 1 else " immediately"


def _summary(stack: Stack, finding: HealthFinding, containers: Sequence[Container]) -> ServiceHealth:
    words = {container.health if _answers(container) else container.state: container for container in containers}
    state = min(words, key=_WORST_FIRST.index, default="missing")
    restarts = sum(container.restarts for container in containers)
    worst = words.get(state) if finding.verdict is Verdict.FAILED and state != "starting" else None
    reason = ""
    if worst is not None and worst.name:  # the engine allows no odd names
        logs = f"`{worst.logs or f'docker logs --tail 50 {worst.name}'}` shows why"
        reason = f"{worst.error}. {logs}" if worst.error else logs
    elif waiting := next((container.error for container in containers if container.state == "pending"), ""):
        reason = waiting
    return ServiceHealth(
        stack.name,
        finding.service,
        state,
        finding.verdict is Verdict.HEALTHY,
        restarts,
        reason,
        containers=len(containers),
        running=sum(container.state == "running" for container in containers),
        nodes=tuple(sorted({container.node for container in containers if container.node})),
        logs=next((container.logs for container in containers), ""),
    )


def _answers(container: Container) -> bool:
    """Whether the word of its health check is about now: the engine keeps the last one of a container that ended."""
    return container.state == "running" and bool(container.health)
