"""What must hold before anything is written: each guard, and the case just beside it that must pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.decide import guards
from reconciler.core.decide.guards import is_below
from reconciler.core.decide.private_files import is_exposed
from reconciler.core.model.targets import Parser, Target
from tests.support.cases import each

TARGET = Target("production", "api.env", "/opt/app/api.env")
RAW = replace(TARGET, parser=Parser.RAW)
OPAQUE = replace(TARGET, parser=Parser.OPAQUE)
SHRINKS = replace(TARGET, allow_shrink=True)
CANARY = "canary-4e1b"
TEN = b"".join(b"K%d=%d\n" % (number, number) for number in range(10))


def keys(count: int) -> bytes:
    return b"".join(TEN.splitlines(keepends=True)[:count])


# --- content ---------------------------------------------------------------------------------------------------------


@each(
    ("target", "desired", "live", "reason"),
    [
        pytest.param(TARGET, b"A=ENC[AES256_GCM,data:x]\n", None, "still holds ENC[", id="encrypted twice"),
        pytest.param(OPAQUE, b"key: ENC[AES256_GCM,data:x]\n", None, "still holds ENC[", id="opaque, encrypted"),
        pytest.param(TARGET, b"A=1\nsops_mac=x\n", None, "sops metadata (sops_mac)", id="metadata"),
        pytest.param(TARGET, b"A=1\nB=2\nA=3\n", None, "defined twice: A; keep one", id="a key twice"),
        pytest.param(TARGET, b"B=1\nA=1\nB=1\nA=1\nA=1\n", None, "defined twice: A, B; keep one", id="keys twice"),
        pytest.param(RAW, b"A=1\nA=1\n", None, "defined twice: A", id="a key twice, raw"),
        pytest.param(TARGET, b"A='1\n", None, "Compose could not read it: line 1", id="unreadable"),
        pytest.param(TARGET, b"B=1\nA=${\n", None, "could not read it: line 2: bad-substitution", id="bad reference"),
        pytest.param(RAW, b"A B=1\n", None, "docker run --env-file could not read it: line 1", id="unreadable, raw"),
        pytest.param(TARGET, b"", b"A=1\n", "it would empty a file", id="empty"),
        pytest.param(TARGET, b" \n\n", b"A=1\n", "it would empty a file", id="blank"),
        pytest.param(OPAQUE, b"", b"worker_processes 1;\n", "it would empty a file", id="empty, opaque"),
        pytest.param(SHRINKS, b"", b"A=1\n", "it would empty a file", id="empty, though it may shrink"),
        pytest.param(TARGET, keys(4), TEN, "6 of 10 of the keys", id="more than half gone"),
        pytest.param(TARGET, b"B=1\n", b"A=1\n", "1 of 1 of the keys", id="the only key renamed"),
        pytest.param(TARGET, b"# nothing\n", TEN, "10 of 10 of the keys", id="only a comment left"),
        pytest.param(RAW, keys(4), TEN, "6 of 10 of the keys", id="more than half gone, raw"),
    ],
)
def test_content_that_is_refused(target: Target, desired: bytes, live: bytes | None, reason: str) -> None:
    problems = guards.content(target, desired, live)
    assert any(reason in str(problem) for problem in problems), problems


@each(
    ("target", "desired", "live"),
    [
        pytest.param(
            TARGET, b"A=${DEFINED_ELSEWHERE:?it must be}\n", None, id="a variable that must be defined elsewhere"
        ),
        pytest.param(TARGET, b"A=enc[x] ENC (x)\n", None, id="hardly encrypted"),
        pytest.param(TARGET, b"SOPS_AGE_KEY_FILE=/k\nmy_sops_key=1\n", None, id="keys with sops in them"),
        pytest.param(OPAQUE, b"sops_mac=x\n", None, id="sops in a file without keys"),
        pytest.param(TARGET, b"A=1\na=1\nB=1\n", None, id="keys that differ in case"),
        pytest.param(OPAQUE, b"A=1\nA='2\n", None, id="opaque, neither unique nor closed"),
        pytest.param(TARGET, b"A='1\n2'\n", None, id="several lines in quotes"),
        pytest.param(RAW, b"A='1\n", None, id="an open quote, raw"),
        pytest.param(TARGET, b"", None, id="empty and new"),
        pytest.param(TARGET, b"", b"\n \n", id="empty as before"),
        pytest.param(TARGET, keys(5), TEN, id="half gone"),
        pytest.param(TARGET, keys(5) + b"NEW=1\n", TEN, id="half gone, one new"),
        pytest.param(SHRINKS, keys(1), TEN, id="nearly all gone, as allowed"),
        pytest.param(TARGET, keys(1), None, id="nearly all of a hand edit gone"),
        pytest.param(TARGET, keys(1), b"A='1\n", id="the live file is unreadable"),
        pytest.param(TARGET, keys(1), b"# nothing\n", id="the live file has no keys"),
        pytest.param(TARGET, keys(1), b"", id="the live file is empty"),
        pytest.param(TARGET, b"K0=1\n", b"K0=1\nK0=2\nK0=3\n", id="the live file has a key thrice"),
        pytest.param(TARGET, "\ufeffA=1\r\nB=ä\r\n".encode(), None, id="windows"),
    ],
)
def test_content_that_passes(target: Target, desired: bytes, live: bytes | None) -> None:
    assert guards.content(target, desired, live) == []


def test_all_problems_are_reported_together() -> None:
    assert len(guards.content(TARGET, b"sops_mac=ENC[x]\nA=1\nA=2\n", TEN)) == 4


@pytest.mark.parametrize(
    "desired",
    [f"A=ENC[{CANARY}]\nA={CANARY}\nsops_mac={CANARY}\n", f"A='{CANARY}\n", f"{CANARY} is here\n", f"A=${{{CANARY}\n"],
)
def test_no_problem_quotes_a_value(desired: str) -> None:
    problems = guards.content(TARGET, desired.encode(), f"B={CANARY}\nC={CANARY}\n".encode())
    problems += guards.project_files(TARGET.path, (), [TARGET.path], f"COMPOSE_FILE={CANARY}\n".encode())
    assert problems
    assert CANARY not in " ".join(map(str, problems))


# --- files that Compose reads as project configuration ---------------------------------------------------------------

COMPOSE_FILE = "/opt/app/compose.yaml"
DOT_ENV = "/opt/app/.env"


@each(
    ("path", "desired", "reason"),
    [
        pytest.param(COMPOSE_FILE, b"services: {}\n", "Compose reads this file as project configuration", id="compose"),
        pytest.param(DOT_ENV, b"A=1\nCOMPOSE_FILE=/tmp/x\n", "COMPOSE_FILE would change what Compose", id="file"),
        pytest.param(DOT_ENV, b"DOCKER_HOST=tcp://x\n", "DOCKER_HOST would change", id="engine"),
        pytest.param(DOT_ENV, b"A=1\nLD_PRELOAD=/opt/app/x.so\n", "LD_PRELOAD would change", id="library"),
        pytest.param(DOT_ENV, b"GIT_SSH_COMMAND=id\n", "GIT_SSH_COMMAND would change", id="git"),
        pytest.param(DOT_ENV, b"export COMPOSE_PROFILES=x\n", "COMPOSE_PROFILES would change", id="export"),
        pytest.param(DOT_ENV, b"COMPOSE_FILE\n", "COMPOSE_FILE would change", id="inherited"),
        pytest.param(DOT_ENV, b"COMPOSE_B=1\nCOMPOSE_A=1\n", "COMPOSE_A, COMPOSE_B would change", id="several"),
        pytest.param(DOT_ENV, b"A='1\n", "could not: line 1", id="unreadable"),
        pytest.param("/opt/new/compose.yaml", b"services: {}\n", "take a file of this name", id="not started yet"),
        pytest.param("/opt/new/Docker-Compose.override.YML", b"", "take a file of this name", id="case"),
    ],
)
@each("parser", Parser)
def test_what_decides_what_runs_is_refused(path: str, desired: bytes, reason: str, parser: Parser) -> None:
    target = replace(TARGET, path=path, parser=parser)
    (problem,) = guards.project_files(target.path, [COMPOSE_FILE], [DOT_ENV], desired)
    assert reason in str(problem)


@pytest.mark.parametrize(
    ("path", "desired"),
    [
        pytest.param("/opt/app/api.env", b"COMPOSE_FILE=/tmp/x\n", id="not the project's .env"),
        pytest.param(
            DOT_ENV, b"A=1\nTAG=2\nMY_COMPOSE_FILE=3\ncompose_file=4\nLD_SDK_KEY=5\nGIT_SHA=6\n", id="other keys"
        ),
        pytest.param("/opt/other/compose.yaml.j2", b"services: {}\n", id="a template"),
    ],
)
def test_what_decides_nothing_passes(path: str, desired: bytes) -> None:
    assert guards.project_files(path, [COMPOSE_FILE], [DOT_ENV], desired) == []


@each(
    ("before", "desired", "keys"),
    [
        pytest.param(b"COMPOSE_FILE=a\nB=1\n", b"B=2\nexport COMPOSE_FILE='a'\n", "", id="the same"),
        pytest.param(b"COMPOSE_FILE\n", b"COMPOSE_FILE\nB=2\n", "", id="inherited as before"),
        pytest.param(
            b"COMPOSE_FILE=a\nCOMPOSE_FILE=b\n", b"COMPOSE_FILE=b\nCOMPOSE_FILE=a\n", "COMPOSE_FILE", id="order"
        ),
        pytest.param(b"COMPOSE_FILE=a\n", b"COMPOSE_FILE=b\n", "COMPOSE_FILE", id="changed"),
        pytest.param(b"COMPOSE_FILE\n", b"COMPOSE_FILE=\n", "COMPOSE_FILE", id="no longer inherited"),
        pytest.param(b"PATH=/x\nB=1\n", b"B=1\n", "PATH", id="removed"),
        pytest.param(b"PATH=/x\n", b"PATH=/x\nHOME=/y\n", "HOME", id="added"),
        pytest.param(b"A=1\nPATH=$A\n", b"A=2\nPATH=$A\n", "PATH", id="by reference"),
        pytest.param(b"PATH='$A'\n", b"PATH='$A'\nB=1\n", "", id="no reference"),
        pytest.param(b"PATH='/x\n", b"PATH=/x\n", "PATH", id="unreadable before"),
        pytest.param(None, b"PATH=/x\n", "PATH", id="nothing before"),
    ],
)
def test_only_a_control_key_that_changes_is_refused(before: bytes | None, desired: bytes, keys: str) -> None:
    problems = guards.project_files(DOT_ENV, [], [DOT_ENV], desired, before)
    assert [str(problem).partition(" would change")[0] for problem in problems] == ([keys] if keys else [])


def test_refusing_says_what_allows_it() -> None:
    (problem,) = guards.project_files(COMPOSE_FILE, [COMPOSE_FILE], [], b"")
    assert "the server must set allow_compose_files: true" in str(problem)


# --- place and mode --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resolved", ["/etc/passwd", "/opt/app", "/opt/app-2/api.env", "/opt/app/../x.env", "/opt", "/"]
)
def test_a_place_outside_is_refused(resolved: str) -> None:
    (problem,) = guards.placement(TARGET, resolved, ["/opt/app", "/srv"])
    assert str(problem) == "/opt/app/api.env lies outside allowed_paths (/opt/app, /srv)"


@pytest.mark.parametrize("resolved", ["/opt/app/api.env", "/opt/app/deep/er/api.env", "/srv/api.env"])
def test_a_place_inside_passes(resolved: str) -> None:
    assert guards.placement(TARGET, resolved, ["/opt/app", "/srv"]) == []


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o7777])
def test_a_special_mode_is_refused(mode: int) -> None:
    (problem,) = guards.placement(replace(TARGET, mode=mode), TARGET.path, ["/opt/app"])
    assert str(problem) == f"mode {mode:04o} has setuid, setgid or sticky"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o777, 0])
def test_an_ordinary_mode_passes(mode: int) -> None:
    assert guards.placement(replace(TARGET, mode=mode), TARGET.path, ["/opt/app"]) == []


def test_path_and_mode_are_reported_together() -> None:
    assert len(guards.placement(replace(TARGET, mode=0o4755), "/etc/passwd", ["/opt/app"])) == 2


@each(
    ("path", "root", "below"),
    [
        ("/a/b", "/a", True),
        ("/a/b", "/a/", True),
        ("/a//b", "/a", True),
        ("/a/./b/..", "/a", False),
        ("/a/b/../../c", "/a", False),
        ("/a", "/a", False),
        ("/a/", "/a", False),
        ("/ab", "/a", False),
        ("/", "/", False),
        ("/a", "/", True),
    ],
)
def test_below_means_strictly_inside(path: str, root: str, below: bool) -> None:
    assert is_below(path, root) is below


@pytest.mark.parametrize(
    ("path", "mode", "exposed"),
    [
        ("/etc/reconciler/age.key", 0o600, False),
        ("/etc/reconciler/age.key", 0o400, False),
        ("/etc/reconciler/age.key", 0o440, True),
        ("/etc/reconciler/age.key", 0o604, True),
        ("/etc/reconciler/age.key", 0o620, True),
        ("/run/credentials/reconciler.service/age.key", 0o440, False),
        ("/run/credentials/reconciler.service/age.key", 0o444, True),
        ("/run/credentials/reconciler.service/age.key", 0o460, True),
        ("/run/credentials/reconciler.service/../other/age.key", 0o440, True),
    ],
)
def test_a_key_is_for_its_owner_alone_or_a_credential(path: str, mode: int, exposed: bool) -> None:
    assert is_exposed(path, mode, "/run/credentials/reconciler.service") is exposed
    if not path.startswith("/run/"):
        assert is_exposed(path, mode, "") is exposed
