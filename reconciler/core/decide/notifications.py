"""Decides what is reported to operators: each failure once, again while it lasts, its end, and what was done. Pure.

Time only comes in as an argument. A failure is known by its unit, kind, subject and reason's id: as long as these stay,
it is the same one, whatever its text says, and whatever is restarted meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from reconciler.core.decide import notification_text as text
from reconciler.core.errors import common_id
from reconciler.core.forge_links import commit_address
from reconciler.core.model.compose import HealthStatus, StackHealth
from reconciler.core.model.notifications import (
    Corrections,
    Ledger,
    Message,
    Notice,
    NotificationEvent,
    NotificationPolicy,
    OngoingFailure,
    Origin,
)
from reconciler.core.model.plans import Aspect, Change, Effect, Kind, Plan
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.ports.observer import Reconciled
from reconciler.core.text import instant

# Seconds that a failure must last before it is reported: what restarts or is retried may be well again by then.
_PATIENCE = {NotificationEvent.SERVICE_DOWN: 30.0, NotificationEvent.FAILED: 300.0}
# Seconds that a failure must be over before that is reported: a service that crashes again and again runs in between.
_SETTLING = {NotificationEvent.SERVICE_DOWN: 60.0}
_LONGEST_GAP = 300.0  # seconds between two messages, however much happens
_QUARANTINED = "quarantined"
_PAUSED = "paused"
_WARNING = "warning "  # begins the subject of a failure that a warning is
# Warnings that are failures of their own; another one, such as an engine that is away, is a reconciliation that fails.
_WARNINGS = {
    "unsigned-commit": NotificationEvent.STALLED,
    "signatures-unavailable": NotificationEvent.STALLED,
    "history-rewritten": NotificationEvent.STALLED,
    "revert-refused": NotificationEvent.HELD,
    "held-back": NotificationEvent.HELD,
}
_RESULTS = {
    Result.STALLED: NotificationEvent.STALLED,
    Result.HELD: NotificationEvent.HELD,
    Result.FAILED: NotificationEvent.FAILED,
    Result.ROLLED_BACK: NotificationEvent.ROLLED_BACK,
    Result.ROLLBACK_FAILED: NotificationEvent.ROLLBACK_FAILED,
}
_WARNING_LINE = re.compile(r"^(?P<text>.*?)(?: \[(?P<id>[a-z0-9-]+)\])?$")


@dataclass(frozen=True, slots=True)
class Due:
    """The ledger from now on, the message to send now, and when to look again (epoch seconds; inf: not by itself)."""

    ledger: Ledger
    message: Message | None
    next_at: float


def take(ledger: Ledger, event: Reconciled, policy: NotificationPolicy, origin: Origin) -> Ledger:
    """Given what is known and a reconciliation that has ended, return what is known now."""
    failures, news = _update_failures(ledger.failures, event, origin)
    corrections, corrected = _note_corrections(ledger.corrections, event, policy, origin)
    wanted = [notice for notice in (*news, *corrected, *_applied(event, origin)) if notice.event in policy.events]
    kept = tuple(failure for failure in failures if failure.event in policy.events)
    return replace(ledger, failures=kept, corrections=corrections, waiting=(*ledger.waiting, *wanted))


def due(ledger: Ledger, now: float, policy: NotificationPolicy, origin: Origin) -> Due:
    """Given what is known, return what is due at ``now`` (epoch seconds). The message's notices stay in the ledger
    until ``sent`` takes them out."""
    ledger = _not_after(ledger, now)
    times, notices = [float("inf")], list(ledger.waiting)
    failures: list[OngoingFailure] = []
    for failure in ledger.failures:
        later, when, notice = _look_at(failure, now, policy, origin)
        failures += [later] if later else []
        times.append(when)
        notices += [notice] if notice and notice.event in policy.events else []
    corrections: list[Corrections] = []
    for known in ledger.corrections:
        when = known.reported_at + policy.reminder
        if now < when:
            corrections.append(known)
            times.append(when)
        elif known.count:
            corrections.append(replace(known, reported_at=now, count=0, keys=()))
            notices.append(_again(known, now, origin))
    ledger = replace(ledger, failures=tuple(failures), corrections=tuple(corrections), waiting=tuple(notices))
    if not notices:
        return Due(ledger, None, min(times))
    when = max(notices[0].at + policy.digest, ledger.sent_at + _gap(ledger, policy))
    if now < when:
        return Due(ledger, None, min(*times, when))
    return Due(ledger, text.message(notices, origin), min(times))


def sent(ledger: Ledger, message: Message, now: float, policy: NotificationPolicy) -> Ledger:
    """The ledger after the message has left. While messages follow each other, each waits twice as long as the last."""
    restless = now - ledger.sent_at < 2 * _gap(ledger, policy)
    waiting = ledger.waiting[len(message.notices) :]
    return replace(ledger, waiting=waiting, sent_at=now, burst=min(ledger.burst + 1, 10) if restless else 0)


def forget_units(ledger: Ledger, units: Sequence[str]) -> Ledger:
    """The ledger without failures of units that this server no longer has."""
    return replace(
        ledger,
        failures=tuple(failure for failure in ledger.failures if failure.unit in units),
        corrections=tuple(known for known in ledger.corrections if known.unit in units),
    )


def _not_after(ledger: Ledger, now: float) -> Ledger:
    """The ledger as if nothing in it were later than ``now``: a clock that was set back must not silence anything."""
    return replace(
        ledger,
        failures=tuple(
            replace(
                failure, **{name: min(getattr(failure, name), now) for name in ("since", "reported_at", "over_since")}
            )
            for failure in ledger.failures
        ),
        waiting=tuple(replace(notice, at=min(notice.at, now)) for notice in ledger.waiting),
        corrections=tuple(replace(known, reported_at=min(known.reported_at, now)) for known in ledger.corrections),
        sent_at=min(ledger.sent_at, now),
    )


def _gap(ledger: Ledger, policy: NotificationPolicy) -> float:
    return max(policy.digest, min(policy.digest * (1 << ledger.burst), _LONGEST_GAP))


# --- failures ---


def _update_failures(
    known: Sequence[OngoingFailure], event: Reconciled, origin: Origin
) -> tuple[list[OngoingFailure], list[Notice]]:
    """The failures that last, or are over and not reported as such yet; and notices of new ones."""
    present = {failure.key: failure for failure in _failures(event, origin)}
    before = {failure.key for failure in known}
    replaced = any(_is_of_result(failure) and failure.key not in before for failure in present.values())
    failures: list[OngoingFailure] = []
    for failure in known:
        if failure.unit != event.outcome.environment:
            failures.append(failure)
        elif again := present.pop(failure.key, None):
            failures.append(replace(failure, text=again.text, link=again.link, over_since=0.0))
        elif _is_unknown(failure, event):
            failures.append(failure)
        elif not (replaced and _is_of_result(failure)):
            failures.append(replace(failure, over_since=failure.over_since or event.at))
    notices = []
    for failure in present.values():
        immediate = failure.event not in _PATIENCE
        failures.append(replace(failure, reported_at=event.at) if immediate else failure)
        notices += [_notice(failure, event.at, origin)] if immediate else []
    return failures, notices


def _failures(event: Reconciled, origin: Origin) -> Iterator[OngoingFailure]:
    outcome = event.outcome
    every = (*_of_result(outcome), *_of_warnings(outcome), *_of_services(event.health))
    for kind, subject, id, reason in every:
        link = _link(outcome, origin) if kind in (NotificationEvent.ROLLED_BACK, NotificationEvent.STALLED) else ""
        yield OngoingFailure(kind, outcome.environment, subject, id, text.harmless(reason), event.at, link)


_Failure = tuple[NotificationEvent, str, str, str]


def _of_result(outcome: Outcome) -> Iterator[_Failure]:
    """The failure that the result is: kind, subject, id and reason. A revision that stalls is one failure, and a run
    that was rolled back is one."""
    kind = _RESULTS.get(outcome.result)
    if kind is None:
        return
    if kind is NotificationEvent.HELD and (plan := outcome.after or outcome.plan):
        yield from _of_held(outcome, plan)
        return
    subject = ""
    if kind is NotificationEvent.STALLED and outcome.revision:
        subject = outcome.revision.subtree
    elif kind is NotificationEvent.ROLLED_BACK:
        subject = outcome.run or ""
    yield kind, subject, outcome.error_id, outcome.reason


def _of_held(outcome: Outcome, plan: Plan) -> Iterator[_Failure]:
    """Drift that is only reported, by target; and the rest, but for what an operator has paused."""
    drifted = [change for change in plan.reported if change.kind is Kind.DRIFT and change.effect is Effect.REPORT]
    for change in drifted:
        reason = f"{text.keys_of(change)}. Not corrected: on_drift is report"
        yield NotificationEvent.DRIFT, change.target.source, change.error_id, reason
    services = [drift for drift in plan.waiting_drifts if drift.effect is Effect.REPORT]
    for service in services:
        subject = f"{service.stack}/{service.service}"
        yield NotificationEvent.DRIFT, subject, service.error_id, f"{subject}: {service.reason}"
    paused = [change for change in plan.held if change.error_id == _PAUSED]
    rest = [change for change in (*plan.held, *plan.reported) if change not in (*drifted, *paused)]
    left = [drift for drift in plan.waiting_drifts if drift not in services and drift.error_id != _PAUSED]
    if rest or left or plan.held_stacks or not (drifted or paused or plan.waiting_drifts):
        ids = [
            *(id for id in plan.held_ids if id != _PAUSED),
            *(it.error_id for it in rest),
            *(it.error_id for it in left),
        ]
        id = common_id([*filter(None, ids)]) if drifted or paused or services else outcome.error_id
        yield NotificationEvent.HELD, "", id, outcome.reason


def _of_warnings(outcome: Outcome) -> Iterator[_Failure]:
    for line in outcome.warning.splitlines():
        match = _WARNING_LINE.match(line)
        if match and match["id"] and match["id"] != _QUARANTINED:
            kind = _WARNINGS.get(match["id"], NotificationEvent.FAILED)
            yield kind, f"{_WARNING}{match['id']}", match["id"], match["text"]


def _of_services(health: Sequence[StackHealth] | None) -> Iterator[_Failure]:
    for stack in health or ():
        if stack.status is HealthStatus.UNHEALTHY:
            for service in stack.services:
                if not service.healthy and not service.acknowledged and service.state != "starting":
                    said = service.reason.startswith(service.state)
                    parts = (service.state if not said else "", service.reason)
                    reason = f"{stack.stack}/{service.service}: {'. '.join(filter(None, parts))}"
                    yield NotificationEvent.SERVICE_DOWN, f"{stack.stack}/{service.service}", "", reason


def _is_unknown(failure: OngoingFailure, event: Reconciled) -> bool:
    """Whether the event does not say if the failure lasts."""
    outcome = event.outcome
    if failure.event is NotificationEvent.SERVICE_DOWN:
        stack = failure.subject.partition("/")[0]
        unknown = HealthStatus.UNKNOWN
        return event.health is None or any(seen.stack == stack and seen.status is unknown for seen in event.health)
    if failure.event is NotificationEvent.ROLLED_BACK and f"[{_QUARANTINED}]" in outcome.warning:
        return True
    undecided = outcome.result in (Result.FAILED, Result.ROLLING_BACK)
    return undecided and failure.event is not NotificationEvent.FAILED


def _is_of_result(failure: OngoingFailure) -> bool:
    """Whether it is how a reconciliation ended: where another one has taken its place, the unit has not recovered."""
    return failure.event in _RESULTS.values() and not failure.subject.startswith(_WARNING)


def _look_at(
    failure: OngoingFailure, now: float, policy: NotificationPolicy, origin: Origin
) -> tuple[OngoingFailure | None, float, Notice | None]:
    """The failure from now on (None: it is over), when to look again, and what is to be reported now."""
    if failure.over_since:
        when = failure.over_since + _SETTLING.get(failure.event, 0.0)
        if now < when:
            return failure, when, None
        return None, float("inf"), _recovery(failure, now, origin) if failure.reported_at else None
    if not failure.reported_at:
        when = failure.since + _PATIENCE.get(failure.event, 0.0)
        if now < when:
            return failure, when, None
        return replace(failure, reported_at=now), now + policy.reminder, _notice(failure, now, origin)
    when = failure.reported_at + policy.reminder
    if now < when:
        return failure, when, None
    reminded = text.reminder(failure.event, failure.unit, failure.text, origin, failure.since)
    notice = Notice(failure.event, failure.unit, reminded, now, failure.link, reminder=True)
    return replace(failure, reported_at=now), now + policy.reminder, notice


def _notice(failure: OngoingFailure, at: float, origin: Origin) -> Notice:
    line = text.sentence(failure.event, failure.unit, failure.text, origin)
    return Notice(failure.event, failure.unit, line, at, failure.link)


def _recovery(failure: OngoingFailure, now: float, origin: Origin) -> Notice:
    named = failure.event in (NotificationEvent.SERVICE_DOWN, NotificationEvent.DRIFT)
    subject, times = failure.subject if named else "", (failure.since, failure.over_since)
    line = text.recovered(failure.event, failure.unit, subject, origin, times)
    return Notice(NotificationEvent.RECOVERED, failure.unit, line, now)


# --- what was done ---


def _applied(event: Reconciled, origin: Origin) -> Iterator[Notice]:
    outcome = event.outcome
    changes = [change for change in _written(outcome) if change.kind is not Kind.DRIFT]
    if outcome.result is Result.APPLIED or (outcome.result is Result.HELD and changes):
        line = text.sentence(NotificationEvent.APPLIED, outcome.environment, text.applied(outcome, changes), origin)
        yield Notice(NotificationEvent.APPLIED, outcome.environment, line, event.at, _link(outcome, origin))


def _note_corrections(
    known: Sequence[Corrections], event: Reconciled, policy: NotificationPolicy, origin: Origin
) -> tuple[tuple[Corrections, ...], list[Notice]]:
    """Count what was corrected; a target's first correction is reported immediately, further ones together."""
    outcome = event.outcome
    by_target = {(corrections.unit, corrections.source): corrections for corrections in known}
    new: list[Change] = []
    for change in _corrected(outcome):
        key = (outcome.environment, change.target.source)
        if before := by_target.get(key):
            keys = tuple(sorted({*before.keys, *change.keys.names}))[:100]
            by_target[key] = replace(before, count=before.count + 1, keys=keys)
        else:
            by_target[key] = Corrections(*key, event.at)
            new.append(change)
    if not new:
        return tuple(by_target.values()), []
    line = "; ".join(map(text.keys_of, new))
    line = text.sentence(NotificationEvent.CORRECTED, outcome.environment, line, origin)
    notice = Notice(NotificationEvent.CORRECTED, outcome.environment, line, event.at, _link(outcome, origin))
    return tuple(by_target.values()), [notice]


def _again(known: Corrections, now: float, origin: Origin) -> Notice:
    keys = f" ({text.joined(known.keys)})" if known.keys else ""
    line = f"{text.harmless(known.source)}: {known.count} more times since {instant(known.reported_at)}{keys}"
    line = text.sentence(NotificationEvent.CORRECTED, known.unit, line, origin)
    return Notice(NotificationEvent.CORRECTED, known.unit, line, now)


def _corrected(outcome: Outcome) -> tuple[Change, ...]:
    """The drift that is gone: of live files, and of containers that ran older values."""
    written = tuple(change for change in _written(outcome) if change.kind is Kind.DRIFT)
    if written or outcome.result is not Result.CORRECTED or outcome.plan is None:
        return written
    return tuple(change for change in outcome.plan.changes if Aspect.STALE in change.aspects)


def _written(outcome: Outcome) -> tuple[Change, ...]:
    """What the reconciliation has changed on disk."""
    done = outcome.result in (Result.APPLIED, Result.CORRECTED, Result.HELD) and outcome.run is not None
    return outcome.plan.writes if done and outcome.plan else ()


def _link(outcome: Outcome, origin: Origin) -> str:
    if origin.run_url and outcome.run:
        return f"{origin.run_url}{outcome.run}"
    return commit_address(origin.repository, outcome.revision.commit) if outcome.revision else ""
