"""The history of a real daemon: who did what, by the kernel's word; its export, and what is found in a forged one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.json_answers import read_answer
from tests.support.server import COMMAND, Daemon, Server
from tests.support.waiting import eventually

# A user of every system, who has "logged in" and become root since.
LOGIN = ("daemon", 1)
AS = "import os, sys; open('/proc/self/loginuid', 'w').write(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
WHO = "root (uid 0), logged in as daemon (uid 1)"


def as_login(server: Server, *argv: str | Path) -> str:
    command = [sys.executable, "-c", AS, str(LOGIN[1]), *map(str, argv)]
    return subprocess.run(command, env=server.variables(), check=False, capture_output=True, text=True).stdout


def decisions(server: Server) -> list[dict[str, Any]]:
    """Oldest first."""
    return [run for run in reversed(server.json("history", "-n", "100")) if run["result"] != "in_sync"]


def verification(server: Server, *arguments: str) -> dict[str, Any]:
    done = server.cli("history", "verify", *arguments, "--json")
    answer: dict[str, Any] = read_answer("history-verify", done.stdout)
    assert done.returncode == (0 if answer["whole"] else 1)
    return answer


@pytest.mark.root
def test_a_daemon_records_who_asked_and_who_edited(server: Server, tmp_path: Path) -> None:
    server.commit({"api.env": b"MODE=one\n"}, server.plain(["api.env"]))
    with server.daemon() as daemon:
        head = server.commit({"api.env": b"MODE=two\n"})
        assert server.sync()["result"] == "applied"
        as_login(server, COMMAND, "pause", "--all", "--for", "10m", "--reason", "a migration")
        as_login(server, COMMAND, "resume", "--all")
        as_login(server, COMMAND, "rollback", "--reason", "slow since noon")
        as_login(server, COMMAND, "unpin")
        (server.app / "new.env").write_bytes(b"NEW=0\n")
        server.commit({"new.env": b"NEW=1\n"}, server.plain(["api.env", "new.env"]))
        as_login(server, COMMAND, "sync", "--take-over", "production/new.env", "--reason", "ours")
        recorded = decisions(server)
        mine = [run for run in recorded if run["requested_by"] == WHO]
        assert [(run["trigger"], run["result"], run["request_reason"]) for run in mine] == [
            ("pause", "done", "a migration"),
            ("resume", "done", ""),
            ("rollback", "done", "slow since noon"),
            ("rollback", "applied", "slow since noon"),
            ("unpin", "done", ""),
            ("unpin", "applied", ""),
            ("manual", "applied", "ours"),
        ]
        assert mine[-1]["accepted"] == [f"{WHO} took over production/new.env"]
        assert head in {run["revision"]["commit"] for run in recorded if run["result"] == "applied"}
        assert {run["revision"]["author"] for run in recorded if run["result"] == "applied"} == {
            "Ada Example <ada@example.org>"
        }
        _assert_the_editor_is_named(server, daemon)
        _assert_the_export_proves(server, daemon, tmp_path)


def _assert_the_editor_is_named(server: Server, daemon: Daemon) -> None:
    as_login(server, "sh", "-c", f"echo MODE=hand > {server.app / 'api.env'}; sleep 0.5")
    eventually(lambda: decisions(server)[-1]["result"] == "corrected", timeout=60)
    (change,) = decisions(server)[-1]["changes"]
    assert change["edited_by"] == "daemon (login uid of the process that wrote it)"
    logged = [event["edited_by"] for event in daemon.events() if "edited_by" in event]
    assert logged[-1] == {"production/api.env": change["edited_by"]}
    assert "daemon (login uid" not in json.dumps(list(daemon.metrics()))


def _assert_the_export_proves(server: Server, daemon: Daemon, tmp_path: Path) -> None:
    export = tmp_path / "history.jsonl"
    export.write_text(server.cli("history", "export").stdout)
    *entries, head = [json.loads(line) for line in export.read_text().splitlines()]
    assert verification(server, str(export))["whole"]
    status = server.json("status")
    assert status["history"] == {"first": 1, "last": len(entries), "sha256": head["sha256"]}
    assert daemon.metrics()[f'reconciler_history_head_info{{head="{head["sha256"][:12]}"}}'] == 1
    assert verification(server, "--head", head["sha256"])["entries"] == len(entries)
    report = read_answer("report", server.cli("report", "--since", "1h", "--json").stdout)
    metrics = daemon.metrics()
    for result in ("applied", "corrected"):
        counted = metrics[f'reconciler_changes_total{{environment="production",result="{result}"}}']
        assert counted == sum(run["result"] == result for run in report["changed"])
    assert report["success_rate"] == 1.0
    page = server.cli("report", "--format", "html").stdout
    assert "slow since noon" in page
    assert "MODE=" not in page
    last = len(server.cli("history", "export", "--since", "1s").stdout.splitlines())
    assert last <= len(entries)
    with contextlib.closing(sqlite3.connect(server.state / "state.db")) as database, database:
        database.execute("UPDATE entry SET content = replace(content, 'slow since noon', 'no reason') WHERE number = 5")
    (bad,) = {entry["number"] for entry in entries if entry["number"] == 5}
    broken = verification(server)
    assert (broken["whole"], broken["bad_entry"], broken["error_id"]) == (False, bad, "history-broken")
    assert os.path.exists(export)
