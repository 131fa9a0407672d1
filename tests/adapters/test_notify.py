"""Messages to receivers: retries, the file of URLs, what apprise says, and the observer around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.notify import apprise_messenger
from reconciler.adapters.notify.apprise_messenger import LIMITS, AppriseMessenger, require_apprise
from reconciler.adapters.notify.delivery import Delivery
from reconciler.adapters.notify.observer import NotificationObserver
from reconciler.adapters.notify.urls_file import read_receivers
from reconciler.adapters.store import SqliteStore
from reconciler.adapters.store_notifications import NotificationTable
from reconciler.core.errors import ConfigError, StoreUnavailableError
from reconciler.core.model.notifications import Ledger, Message, Notice, NotificationEvent, NotificationPolicy, Origin
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.ports.notifications import Receiver
from reconciler.core.ports.observer import Reconciled
from reconciler.core.secret import Secret
from tests.fakes import FakeClock
from tests.support.receiver import MessageReceiver, message_receiver
from tests.support.waiting import until

TOKEN = "t0ken"
FIRST, SECOND = (Receiver(n, "json", Secret(f"json://{TOKEN}-{n}".encode())) for n in (1, 2))


def message(title: str) -> Message:
    return Message(title, "why", (Notice(NotificationEvent.STALLED, "production", "why", 1.0),))


@dataclass
class FakeMessenger:
    """Accepts what ``problems`` does not refuse: each is for one attempt at a receiver, by line."""

    listed: tuple[Receiver, ...] = (FIRST, SECOND)
    problems: dict[int, list[str | Exception]] = field(default_factory=dict)
    accepted: list[tuple[int, str]] = field(default_factory=list)
    attempts: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def receivers(self) -> tuple[Receiver, ...]:
        if not self.listed:
            raise ConfigError("lists no URL", where="urls", id="notification-urls")
        return self.listed

    async def send(self, receiver: Receiver, message: Message) -> str:
        self.attempts += 1
        await self.gate.wait()
        queue = self.problems.get(receiver.line, [])
        problem = queue.pop(0) if queue else ""
        if isinstance(problem, Exception):
            raise problem
        if not problem:
            self.accepted.append((receiver.line, message.title))
        return problem


@dataclass
class FakeMetrics:
    counts: list[tuple[str, str]] = field(default_factory=list)
    failing_since: float = 0.0

    def notified(self, event: str, result: str) -> None:
        self.counts.append((event, result))

    def notifications_failing(self, since: float) -> None:
        self.failing_since = since


class HeldClock(FakeClock):
    """Whoever sleeps goes on once ``go`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.go.wait()
        await super().sleep(seconds)


@dataclass
class World:
    messenger: FakeMessenger
    metrics: FakeMetrics
    clock: HeldClock
    delivery: Delivery

    async def ends(self) -> None:
        """Let time pass until nothing waits any more."""
        self.clock.go.set()
        assert await until(lambda: not self.delivery._queues)


@pytest.fixture
async def world() -> World:
    messenger, metrics, clock = FakeMessenger(), FakeMetrics(), HeldClock()
    return World(messenger, metrics, clock, Delivery(messenger, clock, metrics))


# --- delivery --------------------------------------------------------------------------------------------------------


async def test_a_receiver_that_fails_is_retried_and_keeps_the_order(world: World) -> None:
    world.messenger.problems[1] = ["answered with status 500"] * 4
    began = world.clock.time
    await world.delivery.send(message("a"))
    assert world.metrics.failing_since == began
    await world.delivery.send(message("b"))
    await world.ends()
    assert [title for line, title in world.messenger.accepted if line == 1] == ["a", "b"]
    assert world.clock.time - began == 5 + 10 + 20 + 40
    assert world.metrics.counts == [("stalled", "accepted")] * 4
    assert world.metrics.failing_since == 0.0


async def test_a_receiver_that_stays_dead_is_given_up_with_one_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.messenger.problems[1] = ["could not be reached"] * 1000
    began = world.clock.time
    await world.delivery.send(message("a"))
    await world.ends()
    assert world.clock.time - began < 1100
    assert world.metrics.counts.count(("stalled", "dropped")) == 1
    (line,) = caplog.messages
    assert line == "notification dropped: line 1 (json) could not be reached (a) [notification-dropped]"


async def test_a_full_queue_drops_the_newest(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.messenger.listed, world.messenger.problems[1] = (FIRST,), ["answered with status 503"]
    for number in range(60):
        await world.delivery.send(message(str(number)))
    assert len(caplog.messages) == 10
    assert "50 messages wait already" in caplog.messages[0]
    await world.ends()
    assert world.messenger.accepted == [(1, str(number)) for number in range(50)]


async def test_the_list_is_read_again_for_every_attempt(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.messenger.problems[1] = ["could not be reached"] * 1000
    world.clock.on_sleep = lambda: setattr(world.messenger, "listed", (SECOND,))
    await world.delivery.send(message("a"))
    await world.ends()
    assert caplog.messages == []  # an operator has removed it: nothing is wrong
    world.messenger.listed = ()
    await world.delivery.send(message("b"))
    assert world.metrics.failing_since > 0
    assert "urls: lists no URL (b)" in caplog.messages[0]
    world.messenger.listed = (SECOND,)
    await world.delivery.send(message("c"))
    await world.ends()
    assert world.messenger.accepted == [(2, "a"), (2, "c")]
    assert world.metrics.failing_since == 0


async def test_a_defect_shows_nothing_of_a_url(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.messenger.problems[1] = [RuntimeError(FIRST.url.reveal().decode())] * 1000
    await world.delivery.send(message("a"))
    await world.ends()
    assert "failed unexpectedly (RuntimeError)" in caplog.text
    assert TOKEN not in caplog.text
    assert (2, "a") in world.messenger.accepted


# --- the file of URLs ------------------------------------------------------------------------------------------------


def urls_file(directory: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = directory / "urls"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def test_a_receivers_name_shows_a_host_only_where_it_is_no_secret(tmp_path: Path) -> None:
    text = f"""
# comment with {TOKEN}
  json://user:{TOKEN}@hooks.example.org:8080/{TOKEN}?x={TOKEN}
mailtos://{TOKEN}:{TOKEN}@mail.example.org
slack://{TOKEN}/{TOKEN}/{TOKEN}
tgram://{TOKEN}/1
json://u:{TOKEN}/x@host/y
json://{TOKEN}:port
JSONS://[::1/{TOKEN}
json://user:{TOKEN}@hooks.example.org:8080/{TOKEN}?x={TOKEN}
"""
    receivers = read_receivers(urls_file(tmp_path, text))
    assert [str(receiver) for receiver in receivers] == [
        "line 3 (json://hooks.example.org)",
        "line 4 (mailtos://mail.example.org)",
        "line 5 (slack)",
        "line 6 (tgram)",
        "line 7 (json)",
        "line 8 (json)",
        "line 9 (jsons)",
    ]
    assert TOKEN not in repr(receivers)


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (f"json://h/{TOKEN}", 0o640, "has mode 0640"),
        ("# nobody yet\n\n", 0o600, "lists no URL"),
        (f"\n{TOKEN}\n", 0o600, "urls:2: is not a URL"),
        (f"json://h/{TOKEN}\x1b[31m", 0o600, "urls:1: is not a URL"),
        (b"json://h/\xff" + TOKEN.encode(), 0o600, "urls:1: is not a URL"),
        ("x" * 300_000, 0o600, "is larger than"),
    ],
    ids=["mode", "empty", "no URL", "control characters", "no UTF-8", "large"],
)
def test_a_bad_file_is_refused_without_quoting_it(tmp_path: Path, text: str | bytes, mode: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        read_receivers(urls_file(tmp_path, text, mode))
    assert TOKEN not in str(caught.value)
    assert caught.value.id == "notification-urls"


def test_a_missing_file_and_a_missing_extra_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_receivers(str(tmp_path / "none"))
    monkeypatch.setattr(apprise_messenger, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pipx install 'reconcilerd\[notify\]'"):
        require_apprise()


# --- apprise itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[MessageReceiver]:
    with message_receiver() as receiver:
        yield receiver


async def test_apprise_says_what_became_of_a_message(tmp_path: Path, receiver: MessageReceiver) -> None:
    text = f"json://127.0.0.1:{receiver.port}/{TOKEN}\nnonsense://{TOKEN}\njson://127.0.0.1:1/{TOKEN}\n"
    messenger = AppriseMessenger(urls_file(tmp_path, text), {})
    good, unknown, away = messenger.receivers()
    sent = Message("title", "one @everyone\ntwo <b>&amp;</b> **three** :smile:", message("a").notices)
    assert await messenger.send(good, sent) == ""
    (taken,) = receiver.messages
    assert (taken["title"], taken["message"], taken["type"]) == (sent.title, sent.body, "failure")
    assert await messenger.send(unknown, sent) == "is not a URL that apprise knows"
    assert await messenger.send(away, sent) == "could not be reached"
    assert [await messenger.check(receiver) for receiver in (good, unknown)] == ["", "is not a URL that apprise knows"]
    receiver.status = 500
    assert await messenger.send(good, sent) == "answered with status 500"
    receiver.open.clear()
    hasty = AppriseMessenger(messenger._urls_file, {}, replace(LIMITS, timeout=0.01))
    assert await hasty.send(good, sent) == "gave no answer within 0.01 s"


# --- the observer ----------------------------------------------------------------------------------------------------

STALLED = Outcome("production", Result.STALLED, "why", Revision("a" * 40, "tree"), error_id="guard-failed")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[NotificationTable]:
    store = SqliteStore(str(tmp_path / "state.db"))
    yield NotificationTable(store)
    store.close()


class Observing:
    def __init__(self, table: Any, messenger: FakeMessenger, digest: float) -> None:
        clock = SystemClock()
        delivery = Delivery(messenger, clock, FakeMetrics())
        policy = NotificationPolicy(digest=digest)
        self.observer = NotificationObserver(delivery, table, clock, policy, Origin("web-1"), ["production"])

    @asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.create_task(self.observer.run())
        await asyncio.sleep(0)
        yield self
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def hears(self, outcome: Outcome) -> None:
        self.observer.reconciled(Reconciled(outcome, "poll", SystemClock().now(), None))


@pytest.fixture
def observing(table: NotificationTable) -> Callable[..., Observing]:
    def make(messenger: FakeMessenger, *, table: Any = table, digest: float = 0.01) -> Observing:
        return Observing(table, messenger, digest)

    return make


async def test_what_the_last_reconciliation_said_is_sent_by_the_next_daemon(
    observing: Callable[..., Observing],
) -> None:
    messenger = FakeMessenger((FIRST,))
    async with observing(messenger).running() as first:
        first.hears(STALLED)  # and it ends immediately
    assert messenger.accepted == []
    async with observing(messenger).running():
        assert await until(lambda: len(messenger.accepted) == 1)
    async with observing(messenger).running() as third:
        third.hears(STALLED)
        third.hears(replace(STALLED, result=Result.IN_SYNC))
        assert await until(lambda: len(messenger.accepted) == 2)
    assert [title for _, title in messenger.accepted] == [
        "production on web-1: stalled",
        "production on web-1: recovered",
    ]


async def test_a_message_that_was_being_sent_is_sent_by_the_next_daemon(observing: Callable[..., Observing]) -> None:
    messenger = FakeMessenger((FIRST,))
    messenger.gate.clear()
    async with observing(messenger).running() as first:
        first.hears(STALLED)
        assert await until(lambda: messenger.attempts == 1)
    messenger.gate.set()
    async with observing(messenger).running():
        assert await until(lambda: len(messenger.accepted) == 1)


class BrokenTable:
    def load(self) -> Ledger:
        raise StoreUnavailableError("disk full", where="state.db")

    def save(self, ledger: Ledger) -> None:
        raise StoreUnavailableError("disk full", where="state.db")


async def test_without_the_store_it_still_notifies(
    observing: Callable[..., Observing], caplog: pytest.LogCaptureFixture
) -> None:
    messenger = FakeMessenger((FIRST,))
    with caplog.at_level(logging.WARNING):
        async with observing(messenger, table=BrokenTable()).running() as running:
            running.hears(STALLED)
            assert await until(lambda: len(messenger.accepted) == 1)
    assert "state-unavailable" in caplog.text
