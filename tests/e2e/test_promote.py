"""`promote` takes keys from one environment to another, and no secret with them unless that is said."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import reconciler
from tests.support.json_answers import read_answer
from tests.support.site import API, WORKER, Site

pytestmark = pytest.mark.slow

IDENTITY = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
NEW = "MAIL_HOST=mail.staging.example.org\nRETRIES=3\nMAIL_PASSWORD=invented-mail-staging\n"
EXPECTED = """differences:
  - keys: [RETRIES]
    reason: staging retries less often on purpose
"""


def environment_of(site: Site, key: Path | None = None) -> dict[str, str]:
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": "/nonexistent", "SOPS_AGE_KEY_FILE": str(key or site.keys), **IDENTITY}


def run(site: Site, *arguments: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    return reconciler("promote", *arguments, env=environment_of(site, key), cwd=site.root)


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode in (0, 2), done.stderr
    return dict(read_answer("promote", done.stdout))


def encrypted(site: Site, revision: str, path: str) -> bytes:
    return site.git("show", f"{revision}:envs/{path}").encode() + b"\n"


def plain(site: Site, revision: str, path: str) -> dict[str, str]:
    kind = ("--input-type", "dotenv", "--output-type", "dotenv")
    text = site.sops("decrypt", *kind, stdin=encrypted(site, revision, path)).decode()
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


@pytest.fixture
def ahead(site: Site) -> Site:
    """A site where staging has more keys than production, encrypted for another key."""
    site.encrypt("staging/worker.env", WORKER.format(environment="staging") + NEW)
    site.remove("env.example")
    site.commit()
    return site


def test_keys_arrive_without_their_secrets(ahead: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site = ahead
    site.write("expected-differences.yaml", EXPECTED)
    site.replace(
        "production/environment.yaml", "worker.env: config/worker.env", "worker.env: {path: config/worker.env}"
    )
    head = site.commit()
    arguments = ("staging", "production", "--all-missing", "--generate", "24")

    planned = answer_of(run(site, *arguments, "--dry-run", "--json"))
    assert site.git("for-each-ref", "--format=%(objectname)") == head  # no branch
    assert [(key["key"], key["value"], key["names_left"]) for key in planned["keys"]] == [
        ("MAIL_HOST", "copied", True),
        ("MAIL_PASSWORD", "generated", False),
    ]
    assert [(key["key"], key["reason"]) for key in planned["left_out"]] == [
        ("RETRIES", "expected to differ: staging retries less often on purpose")
    ]

    done = run(site, *arguments)
    assert done.returncode == 0, done.stderr
    assert "invented" not in done.stdout + done.stderr
    branch = "promote/production-from-staging"
    assert site.git("status", "--porcelain") == ""  # nothing is checked out
    assert site.git("rev-list", "--count", f"{head}..{branch}") == "1"
    assert site.git("diff", "--name-only", head, branch) == "envs/production/worker.env"
    before, after = plain(site, head, "production/worker.env"), plain(site, branch, "production/worker.env")
    password = after.pop("MAIL_PASSWORD")
    assert after == {**before, "MAIL_HOST": "mail.staging.example.org"}
    assert len(password) == 24
    assert password != "invented-mail-staging"
    # What was there keeps its ciphertext, and only production's key opens it.
    old = encrypted(site, head, "production/worker.env").splitlines()[:3]
    assert encrypted(site, branch, "production/worker.env").splitlines()[:3] == old
    assert site.staging.public not in encrypted(site, branch, "production/worker.env").decode()


def test_a_secret_is_copied_only_where_that_is_said(ahead: Site) -> None:
    arguments = ("staging", "production", "--key", "MAIL_PASSWORD", "--branch", "copy")
    refused = run(ahead, *arguments)
    assert refused.returncode == 1
    assert "need values of their own: MAIL_PASSWORD" in refused.stderr
    copied = answer_of(run(ahead, *arguments, "--copy-secrets", "--json"))
    assert plain(ahead, "copy", "production/worker.env")["MAIL_PASSWORD"] == "invented-mail-staging"
    assert [finding["rule"] for finding in copied["findings"]] == ["shared-secret"]


def test_a_secret_is_asked_for_at_a_terminal(ahead: Site) -> None:
    """The terminal shows the question, and not what is typed."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.chdir(ahead.root)
        script = str(Path(__file__).parents[2] / ".venv" / "bin" / "reconciler")
        os.execve(script, [script, "promote", "staging", "production", "--key", "MAIL_PASSWORD"], environment_of(ahead))
    printed = b""
    while b"(hidden)" not in printed:
        printed += os.read(terminal, 4096)
    os.write(terminal, b"typed-at-a-terminal\n")
    try:
        while part := os.read(terminal, 4096):
            printed += part
    except OSError:  # the terminal is closed with the command
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, printed
    os.close(terminal)
    assert b"typed-at" not in printed
    branch = "promote/production-MAIL_PASSWORD"
    assert plain(ahead, branch, "production/worker.env")["MAIL_PASSWORD"] == "typed-at-a-terminal"


def test_the_contract_refuses_before_anything_is_committed(site: Site) -> None:
    site.encrypt("staging/api.env", API.format(environment="staging") + "TRACING=on\n")
    site.replace("contracts/api.yaml", "OPTIONAL:", "TRACING: {const: 'off'}\n  OPTIONAL:")
    head = site.commit()
    done = run(site, "staging", "production", "--key", "TRACING")
    assert done.returncode == 1
    assert "production/api.env: TRACING must be" in done.stderr
    assert "[contract-value]" in done.stderr
    assert site.git("for-each-ref", "--format=%(objectname)") == head


REFUSALS = {
    "no such key": (("--key", "NOWHERE"), "staging: NOWHERE: has no such key"),
    "several files": (("--key", "RETRIES"), "RETRIES is in several files: production/api.env, production/worker.env"),
    "no counterpart": (("--key", "ALONE"), "staging/other.env: production has no file like it. Add it as a target"),
    "left to the server": (("--key", "LEFT"), "left to the server (ignore_keys)"),
    "refers to others": (("--key", "LINKED"), "refers to other variables"),
    "must differ": (("--key", "PUBLIC_URL"), "need values of their own: PUBLIC_URL"),
    "uncommitted": (("--key", "WORKERS"), "not committed: envs/production/worker.env"),
    "neither": ((), "name keys with --key, or say --all-missing"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_change_nothing(site: Site, case: str) -> None:
    more = "RETRIES=1\nLEFT=a\nLINKED=${WORKERS}0\n"
    site.encrypt("staging/worker.env", WORKER.format(environment="staging").replace("WORKERS=4", "WORKERS=8") + more)
    site.encrypt("staging/api.env", API.format(environment="staging") + "RETRIES=2\n")
    site.encrypt("staging/other.env", "ALONE=1\n")
    for environment in ("staging", "production"):
        ignored = "worker.env: {path: config/worker.env, ignore_keys: [LEFT]}"
        site.replace(f"{environment}/environment.yaml", "worker.env: config/worker.env", ignored)
    site.replace("staging/environment.yaml", "flags.env:", "other.env: {}\n      flags.env:")
    head = site.commit()
    if case == "uncommitted":
        site.encrypt("production/worker.env", WORKER.format(environment="production") + "EDITED=1\n")
    arguments, says = REFUSALS[case]
    done = run(site, "staging", "production", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert site.git("for-each-ref", "--format=%(objectname)") == head


def test_without_the_other_key_nothing_is_committed(ahead: Site) -> None:
    done = run(ahead, "staging", "production", "--key", "RETRIES", key=ahead.staging.path)
    assert done.returncode == 1
    assert "your key does not open production/worker.env" in done.stderr
    assert ahead.git("branch", "--list", "promote/*") == ""
