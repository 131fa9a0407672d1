"""What systemd gets to know, and when the daemon counts as alive."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from reconciler.app.daemon.loop import Daemon, LastOutcome
from reconciler.app.daemon.systemd import ServiceManager, ServiceReports, service_status
from reconciler.core.model.requests import GitAnswer, ReconcileRequest
from reconciler.core.model.runs import Activity, Outcome, Phase, Result
from reconciler.engine.reconcile import Reconciler
from tests.fakes import FakeClock, World


class Host:
    """What the daemon looks at of a reconciler."""

    def __init__(self) -> None:
        self.activity = Activity()


class NoMetrics:
    def tick(self, at: float) -> None: ...


async def no_answer() -> GitAnswer:
    return GitAnswer()


def daemon_of(hosts: dict[str, Host], clock: FakeClock, requested: Activity | None = None) -> Daemon:
    return Daemon(
        cast("dict[str, Reconciler]", hosts),
        [],
        ask_git=no_answer,
        clock=clock,
        metrics=NoMetrics(),
        poll_interval=60,
        drift_interval=60,
        requested=requested,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def heard(listener: socket.socket) -> Callable[[], list[str]]:
    """``heard()`` is every line since the last call, but for how long a start may still take."""

    def receive() -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += listener.recv(4096).decode().split("\n")
            except BlockingIOError:
                return [line for line in lines if not line.startswith("EXTEND_TIMEOUT_USEC=")]

    return receive


def manager_at(listener: socket.socket, **variables: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.getsockname(), **variables})


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_no_program_that_is_started_inherits_the_variables(listener: socket.socket) -> None:
    variables = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000000", "PATH": "/bin"}
    manager = ServiceManager(variables)
    assert (variables, manager.listens, manager.watchdog) == ({"PATH": "/bin"}, True, 3.0)


def test_the_watchdog_of_another_process_is_not_ours(listener: socket.socket) -> None:
    assert manager_at(listener, WATCHDOG_USEC="3000000", WATCHDOG_PID="1").watchdog is None
    assert manager_at(listener, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid())).watchdog == 3.0


@pytest.mark.parametrize("address", ["", "/nonexistent/notify", "@nobody-listens", "vsock:2:1"])
def test_nothing_that_is_said_in_vain_fails_the_daemon(address: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).send("READY=1")


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0reconciler-test-{os.getpid()}")
        ServiceManager({"NOTIFY_SOCKET": f"@reconciler-test-{os.getpid()}"}).send("READY=1", "STATUS=x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"


# --- ready, reloading, stopping --------------------------------------------------------------------------------------


async def reported(reports: ServiceReports) -> None:
    """One report."""
    task = asyncio.create_task(reports.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_ready_is_once_everything_was_looked_at_or_something_is_changed(
    listener: socket.socket, heard: Callable[[], list[str]], clock: FakeClock
) -> None:
    host = Host()
    daemon = daemon_of({"production": host}, clock)
    daemon.last_tick = clock.monotonic()
    reports = ServiceReports(manager_at(listener), lambda: daemon)
    host.activity.since = 1.0
    for phase in (None, Phase.FETCH, Phase.LOAD, Phase.OBSERVE):
        host.activity.phase = phase
        await reported(reports)
        assert "READY=1" not in heard()
    host.activity.phase = Phase.BACKUP
    await reported(reports)
    assert heard() == [
        "READY=1",
        "WATCHDOG=1",
        "STATUS=not reconciled yet: production; reconciling production (backup)",
    ]
    await reported(reports)
    assert heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize("looked", [True, False])
async def test_a_reload_ends_with_ready_but_not_before_the_first_look(
    listener: socket.socket, heard: Callable[[], list[str]], clock: FakeClock, looked: bool
) -> None:
    host = Host()
    daemon = daemon_of({"production": host}, clock)
    daemon.last_tick = clock.monotonic()
    reports = ServiceReports(manager_at(listener), lambda: daemon)
    host.activity.phase = Phase.WRITE if looked else Phase.OBSERVE
    await reported(reports)
    heard()
    reports.reloading()
    first, second = heard()
    assert (first, second.partition("=")[0], int(second.partition("=")[2]) > 0) == (
        "RELOADING=1",
        "MONOTONIC_USEC",
        True,
    )
    await reported(reports)
    assert heard() == ["WATCHDOG=1"]
    reports.reloaded(kept=True)
    ready = ["READY=1"] if looked else []
    status = "STATUS=The former configuration stays, see the journal. not reconciled yet: production"
    assert heard() == [*ready, "WATCHDOG=1", status]
    reports.stopping()
    assert heard()[0] == "STOPPING=1"


async def test_a_start_and_a_reload_get_more_time_while_it_lives_and_a_stop_does_not(
    listener: socket.socket, clock: FakeClock
) -> None:
    daemon = daemon_of({"production": Host()}, clock)
    daemon.last_tick = clock.monotonic()
    reports = ServiceReports(manager_at(listener), lambda: daemon)
    await reported(reports)
    assert b"EXTEND_TIMEOUT_USEC=60000000" in listener.recv(4096)
    reports.stopping()
    await reported(reports)
    sent = listener.recv(4096) + b" " + listener.recv(4096)
    assert (b"STOPPING=1" in sent, b"EXTEND_TIMEOUT_USEC" in sent) == (True, False)


async def test_without_a_daemon_that_lives_the_watchdog_starves(
    listener: socket.socket, heard: Callable[[], list[str]], clock: FakeClock
) -> None:
    daemon = daemon_of({"production": Host()}, clock)
    daemon.last_tick = clock.monotonic()
    reports = ServiceReports(manager_at(listener), lambda: daemon)
    await reported(reports)
    assert "WATCHDOG=1" in heard()
    await clock.sleep(901)
    await reported(reports)
    assert heard() == []


def test_the_status_names_results_and_no_reasons(clock: FakeClock) -> None:
    hosts = {name: Host() for name in ("a", "b", "c", "d", "e")}
    daemon = daemon_of(hosts, clock)
    for name in "abcd":
        outcome = Outcome(name, Result.IN_SYNC, "a reason")
        daemon.last_outcomes[name] = LastOutcome(outcome, 0.0, 0.0, {})
    hosts["e"].activity.since, hosts["e"].activity.phase = 1.0, Phase.VERIFY
    expected = "in_sync: a, b, c and 1 more; not reconciled yet: e; reconciling e (verify)"
    assert service_status(daemon) == expected


# --- alive -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [False, True], ids=["a reconciliation", "a restore"])
async def test_it_lives_as_long_as_what_it_does_makes_steps(clock: FakeClock, beside: bool) -> None:
    host, requested = Host(), Activity()
    daemon = daemon_of({"production": host}, clock, requested)
    daemon.last_tick = clock.monotonic()
    for _ in range(5):
        await clock.sleep(600)
        (requested if beside else host.activity).step_at = clock.monotonic()
        assert daemon.alive
    await clock.sleep(901)
    assert not daemon.alive


async def test_each_look_at_a_slow_service_is_a_step(world: World) -> None:
    reconciler, pauses = Reconciler(world.ports(), "production"), list[float]()
    world.compose.sick["A=2"] = "starting"
    world.commit("b", api="A=2", worker="W=1")
    world.clock.on_sleep = lambda: pauses.append(world.clock.time - reconciler.activity.step_at)
    assert (await reconciler.reconcile(ReconcileRequest("manual"))).result is Result.ROLLED_BACK
    assert (len(pauses) > 20, max(pauses) < 10) == (True, True)
