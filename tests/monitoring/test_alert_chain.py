"""The whole way of every alert: a real Prometheus with the shipped rules, a real Alertmanager, and what it says to an
operator. Once from the series of two servers in every kind of trouble, and once from real daemons."""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.adapters.comparison_metrics import ComparisonMetrics
from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.core.decide.suspension import HOUR
from reconciler.core.model.compose import HealthStatus, ServiceHealth, StackHealth
from reconciler.core.model.plans import Aspect, Change, Effect, Kind, Plan
from reconciler.core.model.records import EnvironmentRecord, Orphan, Pause, Quarantine
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import Target
from tests.support.age_key import make_age_key
from tests.support.compose import MAY_CRASH, ComposeProject
from tests.support.monitoring import (
    DEPLOY,
    Prometheus,
    Receiver,
    alertmanager,
    exporter,
    free_port,
    prometheus,
    receiver,
)
from tests.support.server import ENVIRONMENT, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.prometheus

RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DAY = 86400.0
REVISION = Revision("a" * 40, "5" * 40)
TARGET = Target("production@web-9", "api.env", "/opt/app/api.env", stack="app")
PAUSED = Target("staging", "api.env", "/opt/staging/api.env", stack="app")
HOSTS = ("web-1", "web-2")

# What the messages of an alert name beside the host. An environment on another machine is called after both.
PRODUCTION = ("production@web-9",)
OF_TARGET = (*PRODUCTION, "production@web-9/api.env")
NAMED: dict[str, tuple[str, ...]] = {
    "ReconcilerDown": (),
    "ReconcilerLoopStuck": (),
    "ReconcilerStale": PRODUCTION,
    "ReconcilerDrift": OF_TARGET,
    "ReconcilerServiceDrift": ("api of production@web-9/app was changed by hand", *PRODUCTION),
    "ReconcilerConflictingWriter": OF_TARGET,
    "ReconcilerConflict": OF_TARGET,
    "ReconcilerPausedLong": ("staging", "staging/api.env"),
    "ReconcilerOrphan": (*PRODUCTION, "production@web-9/old.env"),
    "ReconcilerStalled": PRODUCTION,
    "ReconcilerRolledBack": PRODUCTION,
    "ReconcilerRollbackFailed": ("canary/app",),
    "ReconcilerQuarantined": PRODUCTION,
    "ReconcilerUnhealthy": ("worker of production@web-9/app is not healthy: exited", *PRODUCTION),
    "ReconcilerGitUnreachable": PRODUCTION,
    "ReconcilerDecryptFailed": OF_TARGET,
    "ReconcilerVerificationFailed": PRODUCTION,
    "ReconcilerSecretTooOld": OF_TARGET,
    "ReconcilerBackupFailed": PRODUCTION,
    "ReconcilerEngineDown": PRODUCTION,
    "ReconcilerStateDiskFull": (),
    "ReconcilerKeyMissing": ("2 of the keys", "are missing in git:production", "git:staging"),
    "ReconcilerComparisonFailed": ("git:staging and git:production", "reconciler compare releases"),
    "ReconcilerNotificationsFailing": (),
}
PAIR = ("releases", "git:staging", "git:production")


@dataclass(slots=True)
class FakeServer:
    """A server whose series are the real ones, in the state ``trouble`` or in good health; or it is ``down``."""

    metrics: PrometheusMetrics
    trouble: bool = False
    down: bool = False
    comparisons: ComparisonMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics.watch_disk(lambda: (0, 0, 1000) if self.trouble else (10**10, 1000, 1000))
        self.comparisons = ComparisonMetrics(self.metrics)

    def scrape(self) -> bytes | None:
        now = time.time()
        (_in_trouble if self.trouble else _in_good_health)(self.metrics, now)
        self.comparisons.compared(PAIR, {"missing-right": 2 if self.trouble else 0}, now)
        self.comparisons.failing(PAIR, now - DAY if self.trouble else 0)
        return None if self.down else self.metrics.render()


def _in_good_health(metrics: PrometheusMetrics, now: float) -> None:
    metrics.tick(now)
    metrics.notifications_failing(0)
    for target in (TARGET, PAUSED):
        name = target.environment
        metrics.undecryptable(name, {})
        metrics.observed(Plan(name, REVISION, (Change(target, Kind.IN_SYNC, Effect.NONE, "in sync"),)), now)
        metrics.remembered(EnvironmentRecord(name, head=REVISION), now)
        metrics.fetched(name, True, now)
        metrics.rotated(name, target.id, now)
        metrics.finished(Outcome(name, Result.IN_SYNC, "in sync"), 0.1, now)
    metrics.remembered(EnvironmentRecord("canary"), now)
    metrics.finished(Outcome("canary", Result.IN_SYNC, "in sync"), 0.1, now)
    healthy = ServiceHealth("app", "worker", "running", True)
    metrics.health(TARGET.environment, [StackHealth("app", HealthStatus.HEALTHY, (healthy,))], now)
    metrics.engine(TARGET.environment, True)


def _in_trouble(metrics: PrometheusMetrics, now: float) -> None:
    name = TARGET.environment
    metrics.tick(now - DAY)
    metrics.notifications_failing(now - DAY)
    both_sides = Change(TARGET, Kind.CONFLICT, Effect.HOLD, "both sides changed", frozenset({Aspect.CONTENT}))
    metrics.observed(Plan(name, REVISION, (both_sides,)), now)
    metrics.corrected(name, [TARGET.id], now - HOUR + 5)  # counts for 5 seconds more
    quarantine = Quarantine(REVISION, "api exited with code 1", now, "run")
    orphan = Orphan("old.env", "/opt/app/old.env", now)
    metrics.remembered(EnvironmentRecord(name, head=REVISION, quarantines=(quarantine,), orphans=(orphan,)), now)
    metrics.finished(Outcome(name, Result.IN_SYNC, "in sync"), 0.1, now - DAY)
    metrics.finished(Outcome(name, Result.STALLED, "a guard refuses it"), 0.1, now)
    metrics.backed_up(name, False)
    metrics.fetched(name, False, now - DAY)
    metrics.undecryptable(name, {TARGET.id: "key"})
    metrics.verified(name, "failed", "signature")
    metrics.rotated(name, TARGET.id, now - 91 * DAY)
    failing = ServiceHealth("app", "worker", "exited", False)
    metrics.health(name, [StackHealth("app", HealthStatus.UNHEALTHY, (failing,))], now)
    metrics.engine(name, False)
    metrics.observed(Plan("staging", REVISION, (Change(PAUSED, Kind.IN_SYNC, Effect.NONE, "in sync"),)), now)
    metrics.remembered(EnvironmentRecord("staging", pauses=(Pause("", now + DAY, "trying", now),)), now)
    metrics.finished(Outcome("canary", Result.IN_SYNC, "in sync"), 0.1, now)
    metrics.remembered(EnvironmentRecord("canary", stopped={"app": "the rollback failed too"}), now)


@pytest.fixture
def servers() -> list[FakeServer]:
    environments = (TARGET.environment, PAUSED.environment, "canary")
    return [FakeServer(PrometheusMetrics("1", environments, 30.0, host=host)) for host in HOSTS]


@contextmanager
def watched(
    directory: Path, *ports: int, relabel: tuple[dict[str, Any], ...] = ()
) -> Iterator[tuple[Receiver, Prometheus]]:
    with (
        receiver() as heard,
        alertmanager(directory / "alertmanager", heard.url) as manager,
        prometheus(
            directory / "prometheus", *ports, alertmanager=manager.port, runbook=heard.runbook, relabel=relabel
        ) as watching,
    ):
        yield heard, watching


def test_every_alert_of_two_servers_arrives_by_name_and_is_resolved(servers: list[FakeServer], tmp_path: Path) -> None:
    # As with a Prometheus on each server, which both know their daemon by the same address.
    same_address = ({"action": "labeldrop", "regex": "instance"},)
    assert NAMED.keys() == ALERTS.keys()
    with (
        exporter(servers[0].scrape) as first,
        exporter(servers[1].scrape) as second,
        watched(tmp_path, first, second, relabel=same_address) as (heard, watching),
    ):
        eventually(lambda: len(watching.samples("reconciler_build_info")) == 2, timeout=30)
        # Otherwise an alert would prove only that it always fires. One that lies in the very first scrape counts, too.
        assert heard.alerts == []
        for server in servers:
            server.trouble = True
        in_time = [name for name in ALERTS if name != "ReconcilerDown"]
        _all(heard, "firing", in_time)
        for server in servers:
            server.trouble = False
        _all(heard, "resolved", in_time)
        for server in servers:
            server.down = True
        _all(heard, "firing", ["ReconcilerDown"])
        for server in servers:
            server.down = False
        _all(heard, "resolved", ["ReconcilerDown"])

        for name in ALERTS:
            for host in HOSTS:
                _check_message(heard, name, host)
            fingerprints = [_fired(heard, name, host)["fingerprint"] for host in HOSTS]
            assert len(set(fingerprints)) == 2, name


def _all(heard: Receiver, status: str, names: list[str]) -> None:
    def complete() -> bool:
        missing = _missing(heard, status, names)
        assert missing == [], missing
        return True

    eventually(complete, timeout=60)


def _missing(heard: Receiver, status: str, names: list[str]) -> list[str]:
    """The alerts, by name and host, that have not fired yet, or are not over."""
    return [
        f"{name} of {host}"
        for name in names
        for host in HOSTS
        if not heard.notification(name, status, host=host)
        or (status == "resolved" and not heard.is_over(name, host=host))
    ]


def _fired(heard: Receiver, name: str, host: str) -> dict[str, Any]:
    alert = heard.notification(name, "firing", host=host)
    assert alert is not None, name
    return alert


def _check_message(heard: Receiver, name: str, host: str) -> None:
    alert = _fired(heard, name, host)
    assert alert["labels"]["severity"] == ALERTS[name]["labels"]["severity"]
    summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
    assert summary.startswith(f"{host}: ")
    assert re.search(rf"On {host}, start with `(reconciler|systemctl) [^`]+`\.$", description), description
    assert [part for part in NAMED[name] if part not in summary + description] == [], summary + description
    assert "<no value>" not in summary + description
    assert "error expanding" not in summary + description
    _check_link(alert["annotations"]["runbook_url"], name)


def _check_link(url: str, name: str) -> None:
    """It opens, and the page has the section."""
    address, _, fragment = url.partition("#")
    with urllib.request.urlopen(address, timeout=10) as answer:
        titles = re.findall(r"^## (\w+)$", answer.read().decode(), re.MULTILINE)
    assert fragment == name.lower()
    assert fragment in [title.lower() for title in titles]


# --- from real daemons -----------------------------------------------------------------------------------------------


def test_a_daemon_in_trouble_alerts_an_operator_until_each_is_repaired(server: Server, tmp_path: Path) -> None:
    targets = {"api.env": {"on_drift": "report"}, "web.env": None}
    good = {"api.env": b"A=1\n", "web.env": b"W=1\n"}
    server.commit(good, server.plain(targets))
    server.commit(good, server.plain(targets), environment="staging")
    server.settings["comparisons"] = {"releases": {"left": "git:staging", "right": "git:production"}}
    server.settings["drift"]["interval"] = "1s"
    server.settings["repository"]["poll_interval"] = "1s"
    port = free_port()
    server.settings["http"]["listen"] = f"127.0.0.1:{port}"
    (tmp_path / "stranger").mkdir()
    stranger = replace(server, key=make_age_key(tmp_path / "stranger"))
    api, web = {"target": "production/api.env"}, {"target": "production/web.env"}
    with watched(tmp_path, port) as (heard, watching):
        with server.daemon():
            eventually(
                lambda: watching.samples("reconciler_target_info") and not watching.samples("reconciler_drift"),
                timeout=30,
            )

            (server.app / "api.env").write_bytes(b"A=by hand\n")
            for number in range(3):
                times = f'reconciler_drift_corrections_last_hour{{target="production/web.env"}} == {number + 1}'
                (server.app / "web.env").write_bytes(b"W=by hand\n")
                eventually(lambda query=times: watching.samples(query), timeout=30)
            drift = eventually(lambda: heard.notification("ReconcilerDrift", "firing", **api), timeout=60)
            eventually(lambda: heard.notification("ReconcilerConflictingWriter", "firing", **web), timeout=60)
            assert drift["labels"]["host"] == "test"
            assert drift["labels"]["environment"] == ENVIRONMENT
            assert drift["annotations"]["summary"] == "test: production/api.env differs from git"
            assert heard.notification("ReconcilerConflictingWriter", "firing", **api) is None
            assert "by hand" not in str(heard.alerts)

            (server.app / "api.env").write_bytes(b"A=1\n")
            eventually(lambda: heard.is_over("ReconcilerDrift", **api), timeout=60)

            stranger.commit({"web.env": b"W=2\n"})
            fired = eventually(lambda: heard.notification("ReconcilerDecryptFailed", "firing", **web), timeout=60)
            assert fired["labels"]["reason"] == "key"
            assert fired["annotations"]["summary"] == "test: the source of production/web.env cannot be decrypted"
            eventually(lambda: heard.notification("ReconcilerStalled", "firing"), timeout=60)
            server.commit({"web.env": b"W=2\n"})
            eventually(lambda: heard.is_over("ReconcilerDecryptFailed", **web), timeout=60)
            eventually(lambda: heard.is_over("ReconcilerStalled"), timeout=60)
            assert heard.notification("ReconcilerDecryptFailed", "firing", **api) is None

            # Two environments in git, of which this server follows one.
            server.commit({"api.env": b"A=1\nNEW=1\n"}, environment="staging")
            lacks = eventually(lambda: heard.notification("ReconcilerKeyMissing", "firing"), timeout=60)
            assert lacks["annotations"]["summary"] == "test: git:production lacks what git:staging has"
            server.commit({"api.env": b"A=1\nNEW=1\n"})
            eventually(lambda: heard.is_over("ReconcilerKeyMissing"), timeout=60)

            shutil.move(server.remote.path, tmp_path / "away")
            unreachable = eventually(lambda: heard.notification("ReconcilerGitUnreachable", "firing"), timeout=60)
            assert unreachable["labels"]["host"] == "test"
            shutil.move(tmp_path / "away", server.remote.path)
            eventually(lambda: heard.is_over("ReconcilerGitUnreachable"), timeout=60)

        # By its name: before its first scrape, on a busy machine, it may have been down for Prometheus without one.
        eventually(lambda: heard.notification("ReconcilerDown", "firing", host="test"), timeout=60)
        with server.daemon():
            eventually(lambda: heard.is_over("ReconcilerDown", host="test"), timeout=60)
            # What was restored before the restart still counts.
            corrected = 'reconciler_drift_corrections_last_hour{target="production/web.env"} == 3'
            eventually(lambda: watching.samples(corrected), timeout=30)


@pytest.mark.docker
def test_a_failed_rollback_alerts_until_it_is_repaired_and_no_longer(
    stack_server: Callable[..., tuple[Server, ComposeProject]], tmp_path: Path
) -> None:
    server, project = stack_server(MAY_CRASH)
    server.settings["repository"]["poll_interval"] = "1s"
    server.commit({"api.env": b"MODE=good\n"}, server.manifest(["api.env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    with server.daemon() as daemon, watched(tmp_path, daemon.port) as (heard, watching):
        eventually(lambda: watching.samples('reconciler_health_status{stack="app"}'), timeout=30)
        server.commit({"api.env": b"MODE=bad\n"})
        eventually(lambda: server.live("api.env") == b"MODE=bad\n", timeout=30)
        for backup in (server.state / "backups" / ENVIRONMENT).iterdir():
            shutil.rmtree(backup)  # nothing to roll back from
        fired = eventually(lambda: heard.notification("ReconcilerRollbackFailed", "firing"), timeout=60)
        assert fired["annotations"]["summary"] == "test: the rollback of production/app failed"
        assert heard.notification("ReconcilerRolledBack", "firing") is None

        server.commit({"api.env": b"MODE=better\n"})
        assert server.sync()["result"] == "rollback_failed"
        assert not heard.is_over("ReconcilerRollbackFailed")
        assert server.cli("retry").returncode == 0
        eventually(lambda: heard.is_over("ReconcilerRollbackFailed"), timeout=60)
        assert project.environment("api")["MODE"] == "better"
