"""Everything that can go wrong, case by case: what is reported, and what stays unchanged meanwhile.

The cases are in tests/support/failures.py. Each begins with a live file that was applied from git before.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import output
from tests.support.failures import ENVIRONMENT_FAILURES, FAILURES, SERVER_FAILURES, Failure, Site, fill, grouped, sites
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

ERRORS = Path(__file__).parents[2] / "docs" / "errors.md"
Completed = subprocess.CompletedProcess[str]

SURVIVED = [failure.parameter for failure in SERVER_FAILURES if failure.result == "in_sync"]
ONLY_WRITING_TELLS = ("disk-full", "no-inodes", "read-only-disk", "no-write-access", "disk-error")
IN_THE_DAEMON = ("not-encrypted", "live-path-is-a-directory", *ONLY_WRITING_TELLS)


@pytest.fixture
def site(server: Server) -> Iterator[Site]:
    """The only environment of a server. It was not applied yet."""
    with sites(server, "production") as (made,):
        yield made


def tree(*directories: Path) -> dict[str, tuple[object, ...]]:
    """Everything below the directories: its kind, mode, owner and group, and its bytes or where it leads to."""
    entries: dict[str, tuple[object, ...]] = {}
    for directory in directories:
        for path in (directory, *directory.rglob("*")):
            if path.name == "filler":
                continue
            status = path.lstat()
            facts = (oct(status.st_mode), status.st_uid, status.st_gid)
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            entries[str(path)] = (*facts, content)
    return entries


def run(site: Site, *command: str) -> Completed:
    return site.server.cli(*command, environment=site.variables)


def said(done: Completed) -> str:
    """What the command printed, in one line: a message may be wrapped."""
    return " ".join((done.stdout + done.stderr).split())


def assert_reported(failure: Failure, site: Site, text: str) -> None:
    for words in (failure.message, failure.where, failure.next_step, f" [{failure.printed_id}]"):
        assert words.replace("{root}", str(site.server.root)).replace("{environment}", site.environment) in text
    assert "Traceback" not in text


# --- one environment ---


@pytest.mark.parametrize("failures", grouped(ENVIRONMENT_FAILURES, size=9))
def test_broken_environments_are_reported_and_unchanged_while_another_continues(
    failures: list[Failure], server: Server
) -> None:
    with sites(server, *(failure.id for failure in failures), "healthy") as (*broken, healthy):
        assert run(healthy, "sync").returncode == 0
        for failure, site in zip(failures, broken, strict=True):
            failure.happens(site)
            healthy.variables |= site.variables
        healthy.commit(2)
        before = trees(broken)

        plan = run(healthy, "plan")
        for failure, site in zip(failures, broken, strict=True):
            if failure.id not in ONLY_WRITING_TELLS:
                assert plan.returncode == 1
                assert_reported(failure, site, section(plan, site))
        assert trees(broken) == before
        assert healthy.live.read_bytes() == healthy.plaintext(1)

        sync = run(healthy, "sync")
        assert sync.returncode == 1
        for failure, site in zip(failures, broken, strict=True):
            text = section(sync, site)
            assert_reported(failure, site, text)
            assert text.startswith(f"{failure.id}: {failure.result}")
            assert ("a running daemon retries" in text) == failure.retried, text
        assert trees(broken) == before

        assert section(sync, healthy).startswith("healthy: applied")
        assert healthy.live.read_bytes() == healthy.plaintext(2)
        assert {path.name for path in healthy.directory.iterdir()} == {"api.env"}

        for failure, site in zip(failures, broken, strict=True):
            failure.fixed(site)
        fixed = run(healthy, "sync")
        assert fixed.returncode == 0, fixed.stdout
        for failure, site in zip(failures, broken, strict=True):
            assert site.live.read_bytes() == site.plaintext(failure.heals_to), failure.id
            assert not [path for path in site.directory.iterdir() if ".reconciler-" in path.name]


def trees(broken: list[Site]) -> dict[str, dict[str, tuple[object, ...]]]:
    """What lies below each environment's directory, and beside it."""
    return {site.environment: tree(*site.server.app.glob(f"{site.environment}*")) for site in broken}


def section(done: Completed, site: Site) -> str:
    """What the command printed of the environment, in one line."""
    assert "Traceback" not in done.stdout + done.stderr
    parts = re.split(r"^(?=[\w-]+: )", done.stdout, flags=re.MULTILINE)
    (part,) = [part for part in parts if part.startswith(f"{site.environment}: ")]
    return " ".join(part.split())


@pytest.mark.root
def test_where_the_second_file_does_not_fit_the_first_is_restored(site: Site) -> None:
    def files(size: int) -> dict[str, bytes]:
        return {"a.env": b"A=%d\n" % size, "b.env": b"B=%s\n" % (b"x" * size)}

    server = site.server
    server.commit(files(1), {"targets": {name: {"path": str(site.directory / name)} for name in files(1)}})
    assert run(site, "sync").returncode == 0
    site.mount(site.directory, "64k")
    server.commit(files(100_000))
    before = tree(site.directory)

    done = run(site, "sync")
    assert done.returncode == 1
    assert "b.env: cannot write the live file" in said(done)
    assert "The live files are as before" in said(done)
    assert tree(site.directory) == before


# --- the whole server ---


@pytest.mark.parametrize("failure", [failure.parameter for failure in SERVER_FAILURES])
def test_a_failure_of_the_server_is_reported_and_nothing_is_written(failure: Failure, site: Site) -> None:
    generation = 1
    if failure.applied:
        assert run(site, "sync").returncode == 0
    else:
        generation = 0
        site.live.write_bytes(site.plaintext(0))  # a file that was there before us
    failure.happens(site)
    before = tree(site.server.app)

    for command in ("plan", "sync"):
        done = run(site, command)
        assert done.returncode == failure.exit_code
        assert_reported(failure, site, said(done))
        assert tree(site.server.app) == before
    if failure.result:
        assert f"production: {failure.result.replace('_', ' ')}" in done.stdout
    else:
        assert done.stdout == ""
    assert site.live.read_bytes() == site.plaintext(generation)

    failure.fixed(site)
    done = run(site, "sync", *([] if failure.applied else ["--take-over", "production/api.env"]))
    assert done.returncode == 0, done.stdout
    assert site.live.read_bytes() == site.plaintext(failure.heals_to)


@pytest.mark.parametrize("failure", SURVIVED)
def test_with_git_gone_a_hand_edit_is_still_repaired_to_the_last_known_revision(failure: Failure, site: Site) -> None:
    assert run(site, "sync").returncode == 0
    known = site.server.remote.head()
    failure.happens(site)
    site.live.write_bytes(b"TOKEN=by-hand\n")
    done = run(site, "sync")
    assert "production: corrected" in done.stdout
    assert f"Until then the target revision stays {known[:12]}" in said(done)
    assert_reported(failure, site, said(done))
    assert site.live.read_bytes() == site.plaintext(1)


# --- the same in the daemon ---


def passes(daemon: Daemon, environment: str) -> list[dict[str, object]]:
    """How its reconciliations ended, according to its log."""
    events = [event for event in daemon.events() if event.get("event") == "reconciled"]
    return [event for event in events if event["environment"] == environment]


def ended(daemon: Daemon, environment: str, result: str) -> float:
    return daemon.metrics()[f'reconciler_reconcile_total{{environment="{environment}",result="{result}"}}']


@pytest.mark.parametrize(
    "failures", grouped([failure for failure in ENVIRONMENT_FAILURES if failure.id in IN_THE_DAEMON], size=9)
)
def test_the_daemon_logs_the_reason_goes_on_and_recovers_by_itself(failures: list[Failure], server: Server) -> None:
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "1s"
    with sites(server, *(failure.id for failure in failures), "healthy") as (*broken, healthy):
        healthy.obey_modes()
        with server.daemon(**healthy.faults.variables) as daemon:
            for failure, site in zip(failures, broken, strict=True):
                it_is_logged(failure, site, daemon)

            healthy.commit(2)
            eventually(lambda: healthy.live.read_bytes() == healthy.plaintext(2), timeout=30)

            for failure, site in zip(failures, broken, strict=True):
                it_recovers(failure, site, daemon)
                assert ended(daemon, "healthy", str(failure.result)) == 0
            assert daemon.stop() == 0


def it_is_logged(failure: Failure, site: Site, daemon: Daemon) -> None:
    result = str(failure.result)
    failure.happens(site)
    eventually(lambda: ended(daemon, failure.id, result) >= 1, timeout=30)
    eventually(lambda: passes(daemon, failure.id)[-1]["result"] == result)  # logged a moment after it is counted
    logged = passes(daemon, failure.id)[-1]
    assert (logged["result"], logged["level"], bool(logged.get("retry"))) == (result, "error", failure.retried)
    assert_reported(failure, site, f"{logged['reason']} [{logged['error_id']}]")


def it_recovers(failure: Failure, site: Site, daemon: Daemon) -> None:
    failure.fixed(site)
    eventually(lambda: site.live.read_bytes() == site.plaintext(failure.heals_to), timeout=30)
    eventually(lambda: passes(daemon, failure.id)[-1]["result"] == "applied")


GIT_GONE = next(failure for failure in SERVER_FAILURES if failure.id == "git-remote-gone")


def test_the_daemon_says_that_git_is_gone_and_that_it_is_back(site: Site) -> None:
    failure, server = GIT_GONE, site.server
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "1s"
    with server.daemon() as daemon:
        failure.happens(site)
        eventually(lambda: "warning" in passes(daemon, "production")[-1], timeout=30)
        logged = passes(daemon, "production")[-1]
        assert logged["level"] == "warning"
        assert_reported(failure, site, str(logged["warning"]))
        assert daemon.metrics()['reconciler_git_fetch_total{environment="production",result="failed"}'] >= 1
        assert server.cli("status").returncode == 1

        site.live.write_bytes(b"TOKEN=by-hand\n")
        eventually(lambda: ended(daemon, "production", "corrected") == 1, timeout=30)
        assert site.live.read_bytes() != b"TOKEN=by-hand\n"

        failure.fixed(site)
        eventually(lambda: site.live.read_bytes() == site.plaintext(2), timeout=30)
        eventually(lambda: "warning" not in passes(daemon, "production")[-1])


def test_between_two_polls_the_daemon_still_knows_that_git_is_gone(site: Site) -> None:
    failure, server = GIT_GONE, site.server
    server.settings["drift"]["interval"] = "1s"  # and git is asked by `sync` only
    with server.daemon() as daemon:
        failure.happens(site)
        assert server.cli("sync").returncode == 1
        site.live.write_bytes(b"TOKEN=by-hand\n")
        eventually(lambda: passes(daemon, "production")[-1]["result"] == "corrected", timeout=30)
        logged = passes(daemon, "production")[-1]
        assert logged["trigger"] in ("drift", "watch")
        assert_reported(failure, site, str(logged["warning"]))
        assert server.cli("status").returncode == 1

        failure.fixed(site)
        assert server.cli("sync").returncode == 0
        assert server.cli("status").returncode == 0


def full(site: Site, place: Path) -> Callable[[], object]:
    fill(place)
    return (place / "filler").unlink


def read_only(site: Site, place: Path) -> Callable[[], object]:
    output("mount", "-o", "remount,ro", place)
    return lambda: output("mount", "-o", "remount,rw", place)


def forbidden(site: Site, place: Path) -> Callable[[], object]:
    directories = [
        path for path in (place, *place.rglob("*")) if path.is_dir() and path.name in ("backups", "production")
    ]
    for directory in directories:
        directory.chmod(0o500)
    return lambda: [directory.chmod(0o700) for directory in directories]


def broken_disk(site: Site, place: Path) -> Callable[[], object]:
    site.faults.fail_disk(place)
    return site.faults.repair_disk


@pytest.mark.root
@pytest.mark.parametrize(
    ("which", "breaks", "message"),
    [
        pytest.param("", full, "ree ", id="state full"),  # free some space
        pytest.param("", forbidden, "Permission denied", id="no access to the state"),
        pytest.param("", broken_disk, "Input/output error", id="disk error in the state"),
        pytest.param("backups", full, "No space left", id="backups full"),
        pytest.param("backups", read_only, "Read-only file system", id="backups read-only"),
    ],
)
def test_the_daemon_writes_nothing_that_it_cannot_back_up_first(
    site: Site, which: str, breaks: Callable[[Site, Path], Callable[[], object]], message: str
) -> None:
    server = site.server
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "1s"
    place = server.state / which
    server.state.mkdir(mode=0o700)
    place.mkdir(mode=0o700, exist_ok=True)
    site.mount(place, "4m")
    site.obey_modes()
    with server.daemon(**site.faults.variables) as daemon:
        backups = server.json("backups")
        repair = breaks(site, place)
        site.live.write_bytes(b"TOKEN=by-hand\n")
        eventually(lambda: passes(daemon, "production")[-1]["result"] == "failed", timeout=30)
        logged = passes(daemon, "production")[-1]
        assert re.search(message, str(logged["reason"]))
        assert str(server.state) in str(logged["reason"])
        assert logged["retry"]
        assert site.live.read_bytes() == b"TOKEN=by-hand\n"

        repair()
        eventually(lambda: passes(daemon, "production")[-1]["result"] == "corrected", timeout=30)
        assert site.live.read_bytes() == site.plaintext(1)
        assert len(server.json("backups")) == len(backups) + 1


@pytest.mark.parametrize("secret", [None, b"", b"\n"], ids=["missing", "empty", "blank"])
def test_the_daemon_does_not_start_with_a_webhook_that_would_let_everybody_in(
    server: Server, secret: bytes | None
) -> None:
    path = server.root / "webhook-secret"
    server.settings["webhook"] = {"secret_file": str(path)}
    if secret is not None:
        path.write_bytes(secret)
        path.chmod(0o600)
    done = server.cli("run")
    assert done.returncode == 1
    assert "the webhook secret" in done.stderr
    assert f"{path}:" in done.stderr
    assert "Put the secret there, or correct webhook.secret_file" in done.stderr
    assert "Traceback" not in done.stderr


# --- the handbook ---


@pytest.mark.parametrize("failure", [pytest.param(failure, id=failure.id) for failure in FAILURES])
def test_the_handbook_has_a_section_for_the_failure(failure: Failure) -> None:
    sections = ERRORS.read_text().split("\n### ")
    (section,) = [section for section in sections if section.startswith(f"{failure.printed_id}\n")]
    for part in ("Printed", "Means", "Retried", "Do"):
        assert f"\n**{part}:** " in section
