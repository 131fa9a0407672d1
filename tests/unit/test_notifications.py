"""What is reported to operators, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from reconciler.core.decide.notifications import due, forget_units, sent, take
from reconciler.core.model.compose import Action, ActionKind, HealthStatus, ServiceHealth, StackHealth
from reconciler.core.model.notifications import (
    Ledger,
    Message,
    NotificationEvent,
    NotificationPolicy,
    Origin,
)
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind, Plan, ServiceDrift
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import Target
from reconciler.core.ports.observer import Reconciled

UNIT = "production"
A, B = Revision("a" * 40, "tree-a", "Ada"), Revision("b" * 40, "tree-b", "Bob")
MINUTE, HOUR = 60.0, 3600.0


@dataclass
class Operator:
    """What reaches an operator while time passes; ``restart`` is that of the daemon."""

    policy: NotificationPolicy = field(default_factory=NotificationPolicy)
    origin: Origin = field(default_factory=lambda: Origin("web-1"))
    ledger: Ledger = field(default_factory=Ledger)
    now: float = 1_800_000_000.0
    messages: list[Message] = field(default_factory=list)

    def hears(self, outcome: Outcome, health: tuple[StackHealth, ...] | None = None) -> None:
        event = Reconciled(outcome, "poll", self.now, None, health)
        self.ledger = take(self.ledger, event, self.policy, self.origin)

    def passes(self, seconds: float) -> list[str]:
        """The lines of the messages that are sent meanwhile."""
        end, before = self.now + seconds, len(self.messages)
        while True:
            result = due(self.ledger, self.now, self.policy, self.origin)
            self.ledger = result.ledger
            if result.message:
                self.messages.append(result.message)
                self.ledger = sent(self.ledger, result.message, self.now, self.policy)
                continue
            if result.next_at > end:
                break
            assert result.next_at > self.now
            self.now = result.next_at
        self.now = end
        return [line for message in self.messages[before:] for line in message.body.splitlines()]


@pytest.fixture
def operator() -> Operator:
    return Operator()


def outcome(result: Result, reason: str = "why", *, id: str = "", revision: Revision = A, **facts: object) -> Outcome:
    return replace(Outcome(UNIT, result, reason, revision, error_id=id), **facts)  # type: ignore[arg-type]


def change(source: str, kind: Kind, effect: Effect = Effect.WRITE, *, id: str = "", **keys: tuple[str, ...]) -> Change:
    target = Target(UNIT, source, f"/opt/app/{source}", "app")
    return Change(target, kind, effect, "why", frozenset({Aspect.CONTENT}), KeyChange(**keys), error_id=id)


def done(
    result: Result, *changes: Change, run: str = "r1", services: tuple[str, ...] = (), at: Revision = A
) -> Outcome:
    actions = tuple(Action("app", service, ActionKind.RECREATE, "why") for service in services)
    return outcome(result, run=run, plan=Plan(UNIT, at, changes, actions), revision=at)


IN_SYNC = outcome(Result.IN_SYNC)
STALLED = outcome(Result.STALLED, "api.env: TOKEN is twice in it", id="guard-failed")
DRIFT = change("api.env", Kind.DRIFT, Effect.REPORT, id="drift-reported", changed=("TOKEN",))
DRIFTED = outcome(Result.HELD, "1 waiting", id="drift-reported", after=Plan(UNIT, A, (DRIFT,)))
QUARANTINED = replace(IN_SYNC, warning="revision bbb is quarantined. Fix it with a new commit [quarantined]")


def health(healthy: bool, state: str = "exited", stack: str = "app") -> tuple[StackHealth, ...]:
    status = HealthStatus.HEALTHY if healthy else HealthStatus.UNHEALTHY
    return (StackHealth(stack, status, (ServiceHealth(stack, "api", state, healthy, reason="exit code 1"),)),)


# --- one message per failure -----------------------------------------------------------------------------------------


def test_a_failure_is_one_message_a_reminder_each_hour_and_one_message_at_its_end(operator: Operator) -> None:
    operator.hears(STALLED)
    assert operator.passes(MINUTE) == ["production on web-1: stalled. api.env: TOKEN is twice in it"]
    for _ in range(58):  # each reconciliation meets it again
        operator.hears(STALLED)
        assert operator.passes(MINUTE) == []
    (reminder,) = operator.passes(2 * MINUTE)
    assert reminder.startswith("production on web-1: still stalled, since 2027-01-15 08:00:00Z. api.env")
    operator.hears(IN_SYNC)
    assert operator.passes(MINUTE) == ["production on web-1: recovered. It was: stalled, for 1 h 1 min"]
    operator.hears(IN_SYNC)
    assert operator.passes(10 * HOUR) == []


def test_a_failure_is_known_by_its_reasons_id_and_its_revision(operator: Operator) -> None:
    operator.hears(STALLED)
    assert len(operator.passes(MINUTE)) == 1
    operator.hears(replace(STALLED, reason="api.env: in other words"))
    assert operator.passes(MINUTE) == []
    operator.hears(replace(STALLED, error_id="wrong-key"))
    assert operator.passes(MINUTE) == ["production on web-1: stalled. api.env: TOKEN is twice in it"]
    operator.hears(replace(STALLED, error_id="wrong-key", revision=B))  # a fix that is none
    assert len(operator.passes(MINUTE)) == 1


def test_what_fails_for_causes_outside_is_reported_once_it_lasts(operator: Operator) -> None:
    failed = outcome(Result.FAILED, "disk full", id="state-disk-full", retry=True)
    operator.hears(failed)
    assert operator.passes(4 * MINUTE) == []
    operator.hears(IN_SYNC)
    assert operator.passes(HOUR) == []
    operator.hears(failed)
    operator.passes(4 * MINUTE)
    operator.hears(failed)
    assert operator.passes(2 * MINUTE) == ["production on web-1: failed. disk full"]
    operator.hears(IN_SYNC)
    assert len(operator.passes(MINUTE)) == 1


def test_a_failure_outside_says_nothing_about_the_others(operator: Operator) -> None:
    operator.hears(STALLED)
    operator.passes(MINUTE)
    operator.hears(outcome(Result.FAILED, "no answer", id="host-unreachable", retry=True))
    operator.passes(MINUTE)
    operator.hears(STALLED)
    assert operator.passes(MINUTE) == []


def test_a_rollback_lasts_while_its_revision_is_quarantined(operator: Operator) -> None:
    operator.hears(outcome(Result.ROLLED_BACK, "api: unhealthy", id="unhealthy", run="r7", revision=B))
    assert operator.passes(MINUTE) == ["production on web-1: rolled back. api: unhealthy"]
    operator.hears(QUARANTINED)
    assert operator.passes(30 * MINUTE) == []
    assert len(operator.passes(HOUR)) == 1
    operator.hears(IN_SYNC)
    assert operator.passes(MINUTE) == ["production on web-1: recovered. It was: rolled back, for 1 h 31 min"]
    operator.hears(outcome(Result.ROLLED_BACK, "api: unhealthy", id="unhealthy", run="r8", revision=B))
    assert len(operator.passes(MINUTE)) == 1


def test_a_failure_in_place_of_another_is_no_recovery(operator: Operator) -> None:
    operator.hears(outcome(Result.ROLLED_BACK, "api: unhealthy", id="unhealthy", run="r7", revision=B))
    operator.passes(MINUTE)
    operator.hears(STALLED)
    assert operator.passes(MINUTE) == ["production on web-1: stalled. api.env: TOKEN is twice in it"]


def test_a_failure_beside_one_that_was_reported_before_recovers(operator: Operator) -> None:
    operator.hears(DRIFTED)
    operator.passes(MINUTE)
    operator.hears(outcome(Result.ROLLED_BACK, run="r7", id="unhealthy"))
    operator.passes(MINUTE)
    operator.hears(replace(DRIFTED, warning=QUARANTINED.warning))
    operator.passes(MINUTE)
    operator.hears(DRIFTED)  # a new commit is applied; the drift is as it was
    assert "recovered. It was: rolled back" in "".join(operator.passes(MINUTE))


def test_what_an_operator_has_paused_is_not_reported(operator: Operator) -> None:
    paused = change("worker.env", Kind.DRIFT, Effect.HOLD, id="paused", changed=("N",))
    foreign = change("x.env", Kind.FIRST_CONTACT, Effect.HOLD, id="first-contact")
    operator.hears(outcome(Result.HELD, "paused", id="paused", after=Plan(UNIT, A, (paused,))))
    assert operator.passes(2 * HOUR) == []
    operator.hears(outcome(Result.HELD, "2 waiting", id="held", after=Plan(UNIT, A, (paused, foreign))))
    assert operator.passes(MINUTE) == ["production on web-1: held. 2 waiting"]


def test_a_long_reason_keeps_its_next_step(operator: Operator) -> None:
    operator.hears(outcome(Result.STALLED, f"api.env: {'very ' * 200}long. Allow it with `allow_shrink: true`"))
    (line,) = operator.passes(MINUTE)
    assert line.startswith("production on web-1: stalled. api.env: very ")
    assert line.endswith("… very very long. Allow it with 'allow_shrink: true'"[-40:])
    assert len(line) <= 500


def test_a_refused_head_is_reported_although_all_is_in_sync(operator: Operator) -> None:
    refused = replace(IN_SYNC, warning="branch main: bbb is not signed [unsigned-commit]")
    operator.hears(refused)
    assert operator.passes(MINUTE) == ["production on web-1: stalled. branch main: bbb is not signed"]
    operator.hears(refused)
    assert operator.passes(MINUTE) == []
    operator.hears(outcome(Result.HELD, "held", id="different-file"))
    lines = operator.passes(MINUTE)
    assert [line.partition(": ")[2][:4] for line in lines] == ["held", "reco"]


def test_the_ledger_outlives_a_restart(operator: Operator) -> None:
    operator.hears(STALLED)
    operator.passes(MINUTE)
    again = Operator(ledger=forget_units(operator.ledger, [UNIT]), now=operator.now)
    again.hears(STALLED)
    assert again.passes(MINUTE) == []
    assert forget_units(operator.ledger, ["other"]) == replace(operator.ledger, failures=())


# --- services --------------------------------------------------------------------------------------------------------


def test_a_service_is_down_once_it_has_been_for_a_while(operator: Operator) -> None:
    operator.hears(IN_SYNC, health(False))
    assert operator.passes(20) == []
    operator.hears(IN_SYNC, health(True))
    assert operator.passes(HOUR) == []  # it was restarted
    operator.hears(IN_SYNC, health(False))
    assert operator.passes(MINUTE) == ["production on web-1: service down. app/api: exited. exit code 1"]


def test_a_service_that_crashes_again_and_again_is_one_message(operator: Operator) -> None:
    operator.hears(IN_SYNC, health(False))
    assert len(operator.passes(45)) == 1
    for _ in range(20):
        operator.hears(IN_SYNC, health(True, "running"))
        operator.hears(IN_SYNC, health(False, "restarting"))
        assert operator.passes(10) == []
        operator.hears(IN_SYNC, health(True, "running"))
        assert operator.passes(10) == []
    assert operator.passes(2 * MINUTE) == [
        "production on web-1: recovered. It was: service down of app/api, for 7 min 15 s"
    ]


@pytest.mark.parametrize(
    "unknown", [None, (StackHealth("app", HealthStatus.UNKNOWN),)], ids=["not looked", "no engine"]
)
def test_a_service_nobody_looked_at_has_not_recovered(
    operator: Operator, unknown: tuple[StackHealth, ...] | None
) -> None:
    operator.hears(IN_SYNC, health(False))
    operator.passes(MINUTE)
    operator.hears(IN_SYNC, unknown)
    assert operator.passes(10 * MINUTE) == []


# --- drift -----------------------------------------------------------------------------------------------------------


def test_reported_drift_names_keys_and_is_no_hold(operator: Operator) -> None:
    operator.hears(DRIFTED)
    assert operator.passes(MINUTE) == [
        "production on web-1: drift. api.env: TOKEN changed. Not corrected: on_drift is report"
    ]
    both = replace(
        DRIFTED.after, changes=(DRIFT, change("b.env", Kind.FIRST_CONTACT, Effect.HOLD, id="different-file"))
    )
    operator.hears(replace(DRIFTED, after=both, reason="b.env: a different file is there", error_id="several-problems"))
    assert operator.passes(MINUTE) == ["production on web-1: held. b.env: a different file is there"]
    operator.hears(IN_SYNC)
    assert len(operator.passes(MINUTE)) == 2


def test_a_service_that_stays_as_somebody_changed_it_is_drift_too(operator: Operator) -> None:
    drift = ServiceDrift(
        "app", "api", Effect.REPORT, "A was changed by hand; on_drift is report", error_id="service-drift"
    )
    plan = replace(DRIFTED.after, changes=(), drifts=(drift,))
    operator.hears(replace(DRIFTED, after=plan, error_id="service-drift"))
    assert operator.passes(MINUTE) == ["production on web-1: drift. app/api: A was changed by hand; on_drift is report"]
    paused = replace(plan, drifts=(replace(drift, effect=Effect.HOLD, error_id="paused"),))
    operator.hears(replace(DRIFTED, after=paused, error_id="paused"))
    assert not [line for line in operator.passes(MINUTE) if "held" in line]


def test_drift_that_is_corrected_again_and_again_is_no_storm(operator: Operator) -> None:
    corrected = done(Result.CORRECTED, change("api.env", Kind.DRIFT, changed=("TOKEN",), added=("X",)))
    operator.hears(corrected)
    assert operator.passes(MINUTE) == ["production on web-1: drift corrected. api.env: TOKEN changed, X added"]
    for _ in range(30):
        operator.hears(corrected)
        assert operator.passes(MINUTE) == []
    (line,) = operator.passes(HOUR)
    assert line.endswith("api.env: 30 more times since 2027-01-15 08:00:00Z (TOKEN, X)")
    assert operator.passes(10 * HOUR) == []
    operator.hears(corrected)
    assert len(operator.passes(MINUTE)) == 1


def test_containers_that_ran_older_values_are_drift_that_was_corrected(operator: Operator) -> None:
    stale = replace(change("api.env", Kind.IN_SYNC, Effect.NONE), aspects=frozenset({Aspect.STALE}))
    operator.hears(done(Result.CORRECTED, stale, services=("api",)))
    assert operator.passes(MINUTE) == ["production on web-1: drift corrected. api.env: stale"]


# --- what was done ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("https://rec.example.org/runs/", "https://rec.example.org/runs/r1"),
        ("", f"https://github.com/acme/config/commit/{B.commit}"),
    ],
    ids=["the run's page", "the commit"],
)
def test_applied_names_keys_services_author_revision_and_a_link(page: str, link: str) -> None:
    operator = Operator(origin=Origin("web-1", page, "ssh://git@github.com/acme/config.git"))
    update = change("api.env", Kind.UPDATE, changed=("TOKEN",))
    operator.hears(done(Result.APPLIED, update, services=("api", "worker"), at=B))
    assert operator.passes(MINUTE) == [
        "production on web-1: applied. Revision bbbbbbbbbbbb by Bob. api.env: TOKEN changed. Services: api, worker "
        f"{link}"
    ]
    assert operator.messages[0].title == "production on web-1: applied"


def test_a_new_file_without_keys_is_called_new(operator: Operator) -> None:
    missing = replace(change("x.conf", Kind.CREATE), aspects=frozenset({Aspect.MISSING}))
    operator.hears(done(Result.APPLIED, missing))
    assert operator.passes(MINUTE)[0].endswith("x.conf: new")


def test_another_host_is_named() -> None:
    operator = Operator()
    operator.hears(replace(STALLED, environment="production@web-2"))
    assert operator.passes(MINUTE)[0].startswith("production on web-2: stalled")


# --- one message for many --------------------------------------------------------------------------------------------


def test_a_burst_is_one_message_with_the_worst_first(operator: Operator) -> None:
    for number in range(200):
        operator.hears(replace(done(Result.APPLIED, run=f"r{number}"), environment=f"unit-{number}"))
        operator.now += 0.02
    operator.hears(STALLED)
    lines = operator.passes(MINUTE)
    assert len(operator.messages) == 1
    assert operator.messages[0].title == "reconciler on web-1: 1 stalled, 200 applied"
    assert lines[0].startswith("production on web-1: stalled")
    assert lines[-1] == "and 189 more: 189 applied"
    assert len(operator.messages[0].body) < 2000


def test_a_burst_that_goes_on_is_a_message_now_and_then(operator: Operator) -> None:
    for number in range(600):
        operator.hears(done(Result.APPLIED, run=f"r{number}"))
        operator.passes(5)
    assert len(operator.messages) <= 14
    operator.passes(2 * HOUR)
    operator.hears(STALLED)
    before = operator.now
    operator.passes(operator.policy.digest)
    assert operator.messages[-1].notices[0].at == before


def test_what_happens_while_a_message_is_sent_waits_for_the_next(operator: Operator) -> None:
    operator.hears(STALLED)
    operator.now += 10
    sending = due(operator.ledger, operator.now, operator.policy, operator.origin)
    assert sending.message is not None
    operator.ledger = sending.ledger
    operator.hears(done(Result.APPLIED))
    operator.ledger = sent(operator.ledger, sending.message, operator.now, operator.policy)
    assert [notice.event for notice in operator.ledger.waiting] == [NotificationEvent.APPLIED]


def test_only_what_the_operator_wants_is_reported() -> None:
    operator = Operator(NotificationPolicy(events=frozenset({NotificationEvent.ROLLED_BACK})))
    operator.hears(STALLED)
    operator.hears(done(Result.APPLIED, change("api.env", Kind.UPDATE)))
    assert operator.passes(2 * HOUR) == []
    operator.hears(outcome(Result.ROLLED_BACK, id="unhealthy", run="r1"))
    assert len(operator.passes(MINUTE)) == 1
    operator.hears(IN_SYNC)
    assert operator.passes(MINUTE) == []


def test_a_clock_that_is_set_back_silences_nothing(operator: Operator) -> None:
    operator.hears(STALLED)
    operator.passes(MINUTE)
    operator.now -= 24 * HOUR
    operator.hears(outcome(Result.ROLLED_BACK, id="unhealthy", run="r1"))
    assert len(operator.passes(MINUTE)) == 1


# --- hostile names ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "@everyone",
    "<!channel>",
    "<@U123>",
    "[click](https://evil.example)",
    "https://evil.example/x",
    "**bold** `code` ~~x~~ ||spoiler||",
    "<b>html</b><script>",
    "&lt;b&gt;",
    "one\ntwo\r\nproduction on web-1: recovered",
    "a\u2028b\u202ec\x1b[31m\x00",
    "n" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_forges_or_breaks_a_message(operator: Operator, name: str) -> None:
    update = change(name, Kind.UPDATE, changed=(name,))
    author = replace(B, author=name)
    operator.hears(done(Result.APPLIED, update, services=(name,), at=author))
    operator.hears(outcome(Result.STALLED, name, id="guard-failed"))
    operator.hears(replace(IN_SYNC, environment="staging", warning=f"{name} [unsigned-commit]"))
    service = ServiceHealth("app", name, "exited", False, reason=name)
    operator.hears(STALLED, (StackHealth("app", HealthStatus.UNHEALTHY, (service,)),))
    operator.passes(2 * HOUR)
    for message in operator.messages:
        assert len(message.title) < 300
        assert len(message.body) < 2000
        lines = message.body.splitlines()
        assert len(lines) <= len(message.notices)
        assert all(" on web-1: " in line for line in lines)
        whole = message.title + message.body
        assert not set(whole) & set("@<>[]`*|~\\#&\r\x00\x1b\u2028\u202e")
        assert "://" not in whole
    starts = [line.partition(": ")[2] for message in operator.messages for line in message.body.splitlines()]
    assert not any(start.startswith("recovered") for start in starts if "It was" not in start)
