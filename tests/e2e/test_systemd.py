"""The shipped unit under a real systemd: when it counts as started, what a reload answers, a hang, a stop, its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.age_key import AgeKey
from tests.support.engine import IMAGE
from tests.support.forks import ROOT
from tests.support.git_remote import make_git_remote
from tests.support.server import Server
from tests.support.systemd import PROGRAM, Machine, booted
from tests.support.waiting import eventually

pytestmark = pytest.mark.systemd

PAGE = ROOT / "docs" / "systemd.md"
CONFIG = "/etc/reconciler/reconciler.yaml"
KEY = "${CREDENTIALS_DIRECTORY}/age.key"
COMPOSE = f"""
services:
  api:
    image: {IMAGE}
    env_file: api.env
    network_mode: host
    stop_grace_period: 0s
    healthcheck: {{test: [CMD-SHELL, "test -e /gate/$$VERSION"], interval: 1s, retries: 600}}
    volumes: ["./gate:/gate"]
  web:
    image: {IMAGE}
    network_mode: host
    stop_grace_period: 0s
    volumes: ["./web.conf:/etc/web.conf:ro"]
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "machine").mkdir()
    (tmp_path / "git").mkdir()
    with booted(tmp_path / "machine", tmp_path / "git") as machine:
        yield machine


@pytest.fixture
def server(tmp_path: Path, machine: Machine, age_key: AgeKey) -> Server:
    """What is in git, and the settings of the machine's server."""
    server = Server(tmp_path, Path("/opt/app"), make_git_remote(tmp_path / "git" / "config.git"), age_key)
    server.settings |= {
        "repository": {"url": "/srv/git/config.git", "poll_interval": "1s"},
        "decryption": {"age_key_file": KEY},
        "state_dir": "/var/lib/reconciler",
    }
    return server


def configure(machine: Machine, server: Server, **changes: Any) -> None:
    machine.write(CONFIG, yaml.safe_dump({**server.settings, **changes}))


def live(machine: Machine, name: str = "api.env") -> bytes:
    file = machine.root / "opt/app" / name
    return file.read_bytes() if file.exists() else b""


def waits(machine: Machine, sentence: str) -> None:
    """Wait until the service's status says so."""

    def says_so() -> bool:
        status = machine.show("StatusText")["StatusText"]
        assert sentence in status, f"{status!r}, {machine.journal()[-10:]}"
        return True

    eventually(says_so, timeout=30)


def test_it_is_started_once_it_has_looked_and_a_reload_answers(machine: Machine, server: Server) -> None:
    gate = {"checks": {"gate": ["sh", "-c", "while ! test -e /opt/app/gate; do sleep 0.05; done", "{file}"]}}
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"check": "gate"}}))
    machine.write("/root/age.key", server.key.path.read_bytes(), 0o600)  # the service itself cannot see /root
    machine.install_unit(LoadCredential="age.key:/root/age.key", WatchdogSec="4s", TimeoutAbortSec="1s", RestartSec="0")
    configure(machine, server, **gate)

    starting = machine.start("systemctl", "start", "reconciler")
    waits(machine, "not reconciled yet: production; reconciling production")
    assert machine.show("ActiveState")["ActiveState"] == "activating"
    (machine.root / "opt/app/gate").touch()
    assert starting.wait(120) == 0
    assert machine.show("ActiveState")["ActiveState"] == "active"
    documented = re.search(r"systemd-analyze security reconciler` says \*\*(.+?)\*\*", PAGE.read_text())
    assert documented is not None
    assert (
        f": {documented[1]} " in machine.run("systemd-analyze", "security", "--no-pager", "reconciler").splitlines()[-1]
    )
    eventually(lambda: live(machine) == b"A=1\n", timeout=30)
    eventually(lambda: "applied" in [line.get("result") for line in machine.journal()], timeout=30)
    waits(machine, "in_sync: production")  # its own write has it look again

    # A reload waits until the configuration is in use. With a mistake it fails and says why.
    configure(machine, server, **gate, environment=["production", "staging"])
    machine.run("systemctl", "reload", "reconciler")
    assert "reloaded" in [line["event"] for line in machine.journal()]
    http = {"listen": "unix:/run/reconciler/http.sock", "socket_group": "daemon"}
    configure(machine, server, **gate, http=http)
    machine.run("systemctl", "reload", "reconciler")
    assert machine.run("stat", "--format=%a %G %n", "/run/reconciler/http.sock").split()[:2] == ["660", "daemon"]
    for changes, reason in (
        ({"drfit": 1}, "drfit: is not a known field"),
        ({"webhook": {"secret_file": "/nonexistent"}}, "/nonexistent: cannot read the webhook secret"),
        ({"http": {"listen": "192.0.2.1:1"}}, "lets other machines connect, and there is no http.token_file"),
        ({"http": {"listen": "unix:/run/none/http.sock"}}, "unix:/run/none/http.sock: cannot listen"),
    ):
        configure(machine, server, **changes)
        assert "Job for reconciler.service failed" in machine.run("systemctl", "reload", "reconciler", check=False)
        assert any(reason in line["event"] for line in machine.journal())
    waits(machine, "The former configuration stays, see the journal.")
    state = machine.show("ActiveState", "SubState", "NRestarts", "Result")
    assert state == {"ActiveState": "active", "SubState": "running", "NRestarts": "0", "Result": "success"}

    # Hanging, it is aborted and started again; what it did not see meanwhile is repaired.
    configure(machine, server, **gate)
    former = machine.show("MainPID")["MainPID"]
    (machine.root / "opt/app/api.env").write_bytes(b"A=2\n")
    machine.run("kill", "-STOP", former)
    eventually(lambda: machine.show("NRestarts")["NRestarts"] == "1", timeout=60)
    eventually(lambda: machine.show("ActiveState")["ActiveState"] == "active", timeout=60)
    eventually(lambda: live(machine) == b"A=1\n", timeout=30)
    assert machine.show("MainPID")["MainPID"] != former
    assert "Fatal Python error: Aborted" in [line["event"] for line in machine.journal()]  # where it hung follows
    it_is_reviewed_every_monday(machine)


def it_is_reviewed_every_monday(machine: Machine) -> None:
    for name in ("reconciler-review.service", "reconciler-review.timer"):
        machine.write(f"/etc/systemd/system/{name}", (ROOT / "deploy" / "systemd" / name).read_bytes())
    key = "[Service]\nLoadCredential=age.key:/root/age.key\n"
    machine.write("/etc/systemd/system/reconciler-review.service.d/key.conf", key)
    machine.write("/usr/sbin/sendmail", '#!/bin/sh\ncat > /var/spool/mailed\necho "$@" >> /var/spool/mailed\n', 0o755)
    assert machine.run("systemd-analyze", "verify", "/etc/systemd/system/reconciler-review.timer", check=False) == ""
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "reconciler-review.timer")
    assert "Mon " in machine.run("systemctl", "list-timers", "--no-pager", "reconciler-review.timer")
    machine.run("systemctl", "start", "reconciler-review")
    mailed = (machine.root / "var/spool/mailed").read_text()
    assert "Subject: reconciler: test: nothing needs you" in mailed, mailed[:3000]
    assert mailed.endswith("-i -- root\n")
    # What waits is no failure of the unit; a mail that nobody takes is one.
    machine.write("/etc/systemd/system/reconciler-review.service.d/key.conf", "")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "reconciler-review")
    assert "partly looked at" in (machine.root / "var/spool/mailed").read_text()
    machine.write("/usr/sbin/sendmail", "#!/bin/sh\nexit 75\n", 0o755)
    assert "Job for reconciler-review.service failed" in machine.run(
        "systemctl", "start", "reconciler-review", check=False
    )


def test_a_slow_service_is_waited_for_and_a_stop_ends_cleanly(machine: Machine, server: Server) -> None:
    machine.start_docker()
    machine.write("/opt/app/compose.yaml", COMPOSE)
    machine.write("/opt/app/gate/1", "")
    machine.write("/opt/app/api.env", "VERSION=1\n", 0o600)
    machine.write("/opt/app/web.conf", "one\n")
    compose = ("docker", "compose", "--project-directory", "/opt/app")
    machine.run(*compose, "up", "--detach", "--wait")
    manifest = server.manifest(
        {"api.env": None, "web.conf": {"encrypted": False, "on_change": "restart"}}, health={"timeout": "10m"}
    )
    server.commit({"api.env": b"VERSION=2\n", "web.conf": b"two\n"}, manifest)

    key = "age.key:/etc/reconciler/age.key.cred"
    machine.write("/tmp/age.key", server.key.path.read_bytes(), 0o600)
    machine.run("systemd-creds", "encrypt", "--name=age.key", "/tmp/age.key", "/etc/reconciler/age.key.cred")
    machine.install_unit(LoadCredentialEncrypted=key, WatchdogSec="8s")
    configure(machine, server)
    machine.run("systemctl", "start", "reconciler")
    assert "held: production" in machine.show("StatusText")["StatusText"]
    syncing = machine.start(PROGRAM, "sync", "--take-over", "production/api.env", "--take-over", "production/web.conf")
    sentence = "held: production; reconciling production (verify)"
    assert f"`{sentence}`" in PAGE.read_text()
    waits(machine, sentence)

    # Longer than WatchdogSec: systemd has been told several times, and nothing was restarted.
    seen = set[str]()
    eventually(lambda: seen.add(machine.show("WatchdogTimestampMonotonic").popitem()[1]) or len(seen) > 4, timeout=60)
    stopping = machine.start("systemctl", "stop", "reconciler")
    waits(machine, "Stopping. ")
    (machine.root / "opt/app/gate/2").touch()
    assert stopping.wait(120) == 0
    assert syncing.wait(60) == 0
    state = machine.show("ActiveState", "NRestarts", "Result")
    assert state == {"ActiveState": "inactive", "NRestarts": "0", "Result": "success"}
    assert "stopped" in [line["event"] for line in machine.journal()]
    assert live(machine) == b"VERSION=2\n"
    # Not with `docker exec`, which runc sometimes refuses in a container that was restarted on a busy machine.
    pid = machine.run("docker", "inspect", "--format", "{{.State.Pid}}", "app-web-1")
    assert machine.run("cat", f"/proc/{pid}/root/etc/web.conf") == "two"
