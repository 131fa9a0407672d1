"""What a watch prints for each look, without waiting for one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from reconciler.cli import watching
from reconciler.core.errors import OutsideError
from tests.support import answers

FIRST, THEN = (answers.status(answers.state("in_sync", reason=reason)) for reason in ("as in git", "once more"))


@pytest.fixture(autouse=True)
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rests between two looks, none of which is waited for."""
    seconds: list[float] = []
    monkeypatch.setattr(watching.time, "sleep", seconds.append)
    return seconds


def watch(looks: Sequence[Any], **options: bool) -> None:
    """Watch what the looks see, and press Ctrl-C then."""

    def each() -> Iterator[Any]:
        yield from looks
        raise KeyboardInterrupt

    seen = each()

    def read(_: bool) -> Any:
        look = next(seen)
        if isinstance(look, Exception):
            raise look
        return look

    with pytest.raises(KeyboardInterrupt):
        watching.watch_status(read, **{"as_json": False, "verbose": False, **options})


def checked_again(status: Any) -> Any:
    """The same status, of a later look."""
    (environment,) = status["environments"]
    reconciling = {"since": answers.at("29T08:00:00"), "phase": "observe", "doing": ""}
    later = {**environment, "checked_at": answers.at("29T08:00:10"), "reconciling": reconciling}
    return {**status, "environments": [later]}


def test_a_look_that_sees_nothing_new_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch([FIRST, FIRST, checked_again(FIRST), THEN, THEN], as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["environments"][0]["reason"] for line in lines] == ["as in git", "once more"]
    assert {line["schema"] for line in lines} == {1}


def test_a_look_that_fails_is_reported_and_the_next_one_counts(capsys: pytest.CaptureFixture[str]) -> None:
    watch([FIRST, OutsideError("the daemon does not answer"), THEN])
    printed = capsys.readouterr()
    assert "the daemon does not answer" in printed.err
    assert printed.out.count("production") >= 2


@pytest.mark.parametrize("running", [True, False])
def test_a_watch_never_takes_the_lock_from_a_daemon_that_is_restarted(running: bool) -> None:
    may_look_itself = []

    def read(here: bool) -> Any:
        may_look_itself.append(here)
        if len(may_look_itself) == 3:
            raise KeyboardInterrupt
        return answers.status(answers.state("in_sync"), running=running)

    with pytest.raises(KeyboardInterrupt):
        watching.watch_status(read, as_json=True, verbose=False)
    assert may_look_itself == [True, not running, not running]


def test_a_first_look_that_fails_ends_the_command() -> None:
    with pytest.raises(OutsideError):
        watching.watch_status(_raise, as_json=False, verbose=False)


def _raise(_: bool) -> Any:
    raise OutsideError("nothing there")


def test_without_a_daemon_it_looks_less_often(rests: list[float]) -> None:
    watch([FIRST, FIRST])
    with_daemon = max(rests)
    rests.clear()
    watch([answers.status(answers.state("in_sync"), running=False)] * 2)
    assert min(rests) > with_daemon


def test_each_run_is_printed_once_oldest_first_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *, ended: bool = True) -> Any:
        return {**answers.HISTORY[0], "run": name, "finished_at": answers.at("29T08:00:00") if ended else None}

    old, new, newest = run("old"), run("new"), run("newest")
    looks = iter([[new, old], [run("newest", ended=False), new, old], [newest, new, old], KeyboardInterrupt()])

    def read(_: int) -> Any:
        look = next(looks)
        if isinstance(look, KeyboardInterrupt):
            raise look
        return look

    with pytest.raises(KeyboardInterrupt):
        watching.follow_history(read, 1, as_json=True, verbose=False)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["runs"][0]["run"] for line in lines] == ["new", "newest"]


def test_a_screen_shows_no_more_lines_than_it_has_and_never_clears_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    watch([answers.STATUSES["drifted"]] * 2)
    printed = capsys.readouterr().out
    screens = printed.partition("\x1b[?1049l")[0].split("\x1b[H")[1:]
    assert len(screens) == 2
    assert all(screen.count("\r\n") == 9 and "more" in screen for screen in screens)
    assert "\x1b[2J" not in printed
