"""`reconciler compare`: sides in git, in files, over a real sshd, and in running containers."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import output, run
from tests.support.compose import ComposeProject
from tests.support.forks import reconciler
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.site import API, FLAGS, WORKER, Site
from tests.support.sshd import Sshd

pytestmark = pytest.mark.slow

CANARY = "invented-"
SAME, DIFFERS, EXPECTED = "same", "differs", "expected"


def compare(
    root: Path, *arguments: str | Path, key: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run it in ``root``; no output of any kind ever holds a value."""
    docker = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    given = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "COLUMNS": "200", **docker, **env}
    keys = ["--age-key-file", str(key)] if key else []
    done = reconciler("compare", *arguments, *keys, env=given, cwd=root)
    assert CANARY not in done.stdout + done.stderr
    return done


def data(root: Path, *arguments: str | Path, key: Path | None = None, code: int = 2) -> dict[str, Any]:
    done = compare(root, *arguments, "--format", "json", key=key)
    assert done.returncode == code, done.stdout + done.stderr
    content: dict[str, Any] = read_answer("compare", done.stdout)
    return content


def only_comparison(report: Mapping[str, Any]) -> dict[str, Any]:
    (comparison,) = report["comparisons"]
    return dict(comparison)


def classes(comparison: Mapping[str, Any]) -> dict[str, str]:
    """``api.env/KEY`` → class, and ``api.env:mode`` for what is not a key."""
    classes_by_key = {}
    for file in comparison["files"]:
        name = file["left"] or file["right"]
        classes_by_key |= {f"{name}/{key['key']}": key["class"] for key in file["keys"]}
        classes_by_key |= {f"{name}:{fact['name']}": fact["class"] for fact in file["facts"]}
    return classes_by_key


def key_of(comparison: Mapping[str, Any], file: str, key: str) -> dict[str, Any]:
    (result,) = (
        result
        for pair in comparison["files"]
        if file in (pair["left"], pair["right"])
        for result in pair["keys"]
        if result["key"] == key
    )
    return dict(result)


@pytest.fixture
def committed(site: Site) -> Site:
    site.commit("Start")
    return site


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A server's directory that is exactly what git:production says."""
    directory = tmp_path / "live"
    return written(
        directory,
        {
            "api.env": API.format(environment="production"),
            "config/worker.env": WORKER.format(environment="production"),
            "flags.env": FLAGS,
        },
    )


def written(directory: Path, files: Mapping[str, str], mode: int = 0o600) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
        (directory / name).chmod(mode)
    return directory


def expect(site: Site, text: str) -> None:
    site.write("expected-differences.yaml", text)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# --- git against files ---

WITHOUT_NGINX = """
differences:
  - {file: nginx.conf, attributes: [file], reason: it is baked into the image here}
"""


def test_a_server_in_sync_with_git_has_no_unexplained_difference(committed: Site, live: Path) -> None:
    expect(committed, WITHOUT_NGINX)
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.keys, code=0))
    assert comparison["different_environments"] is False
    assert comparison["unexplained"] == 0
    by_key = classes(comparison)
    assert by_key["nginx.conf:file"] == EXPECTED
    assert {kind for name, kind in by_key.items() if not name.startswith("nginx")} == {SAME}
    pairs = {(file["left"], file["right"]) for file in comparison["files"]}
    assert ("worker.env", "config/worker.env") in pairs


def test_changed_missing_and_added_keys_have_their_own_class(committed: Site, live: Path) -> None:
    change(live / "api.env", "LOG_LEVEL=info", "LOG_LEVEL=debug")
    change(live / "api.env", "OPTIONAL=\n", "")
    with (live / "api.env").open("a") as file:
        file.write("ADDED=1\n")
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.keys))
    by_key = classes(comparison)
    assert by_key["api.env/LOG_LEVEL"] == DIFFERS
    assert by_key["api.env/OPTIONAL"] == "missing-right"
    assert by_key["api.env/ADDED"] == "missing-left"
    assert by_key["api.env/PUBLIC_URL"] == SAME


def test_listed_differences_with_a_reason_are_expected(committed: Site, live: Path) -> None:
    change(live / "api.env", "LOG_LEVEL=info", "LOG_LEVEL=debug")
    (live / "api.env").chmod(0o640)
    listed = """
  - {file: api.env, keys: LOG_*, reason: somebody looks for a fault there}
  - {file: api.env, attributes: [mode], reason: its group reads it there}
"""
    expect(committed, WITHOUT_NGINX + listed)
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.keys, code=0))
    key = key_of(comparison, "api.env", "LOG_LEVEL")
    assert (key["class"], key["reason"], key["unexplained"]) == (EXPECTED, "somebody looks for a fault there", False)
    assert classes(comparison)["api.env:mode"] == EXPECTED


def test_a_reason_is_required_and_mistakes_have_their_line(committed: Site, live: Path) -> None:
    expect(
        committed,
        "differences:\n  - {file: api.env, keys: LOG_LEVEL}\n"
        "  - {keys: A, attributes: [mode], reason: both at once is wrong}\n",
    )
    done = compare(committed.root, "git:production", f"file:{live}")
    assert done.returncode == 1
    assert "expected-differences.yaml:2: differences[0].reason: is missing" in done.stderr
    assert "expected-differences.yaml:3: differences[1]: must name either keys or attributes" in done.stderr


def test_an_entry_between_environments_does_not_excuse_a_servers_drift(committed: Site, live: Path) -> None:
    change(live / "api.env", "LOG_LEVEL=info", "LOG_LEVEL=debug")
    expect(
        committed, "differences:\n  - {keys: LOG_LEVEL, between: [production, staging], reason: staging says more}\n"
    )
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.keys))
    assert classes(comparison)["api.env/LOG_LEVEL"] == DIFFERS


def test_without_a_key_names_are_compared_and_it_says_so(committed: Site, live: Path) -> None:
    change(live / "api.env", "LOG_LEVEL=info", "LOG_LEVEL=debug\nADDED=1")
    done = compare(committed.root, "git:production", f"file:{live}", "--format", "json")
    assert done.returncode == 2
    comparison = only_comparison(read_answer("compare", done.stdout))
    by_key = classes(comparison)
    assert by_key["api.env/LOG_LEVEL"] == "unknown"
    assert by_key["api.env/ADDED"] == "missing-left"
    assert by_key["flags.env/FEATURE_SEARCH"] == SAME
    assert any("by key names only, without values" in remark for remark in comparison["remarks"])
    assert "no age key was given" in compare(committed.root, "git:production", f"file:{live}").stdout


def test_a_key_for_another_environment_opens_its_own_only(committed: Site, live: Path) -> None:
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.staging.path))
    assert classes(comparison)["api.env/LOG_LEVEL"] == "unknown"
    assert any("the key cannot decrypt them" in remark for remark in comparison["remarks"])


@pytest.mark.root
@pytest.mark.sshd
def test_an_owner_without_a_name_is_compared_by_its_number(
    committed: Site, live: Path, sshd: Sshd, tmp_path: Path
) -> None:
    committed.replace("production/environment.yaml", "flags.env: {", "flags.env: {owner: root, group: '4242', ")
    committed.commit("Say whose")
    os.chown(live / "flags.env", 4242, 4242)
    for side in (f"file:{live}", ssh(sshd, live)):
        arguments = ("git:production", side, *trusting(sshd))
        comparison = only_comparison(data(committed.root, *arguments, key=committed.keys))
        facts = [fact for file in comparison["files"] for fact in file["facts"] if fact["name"] in ("owner", "group")]
        owners = {fact["name"]: (fact["left"], fact["right"], fact["class"]) for fact in facts}
        assert owners == {"owner": ("root", "4242", DIFFERS), "group": ("4242", "4242", SAME)}
    second = written(tmp_path / "other", {"flags.env": FLAGS})
    sides = (f"file:{live}/flags.env", f"file:{second}/flags.env", "--same-environment")
    assert classes(only_comparison(data(tmp_path, *sides)))["flags.env:owner"] == DIFFERS


# --- git against git ---


def test_between_two_environments_contracts_say_what_differs_and_secrets_must(committed: Site) -> None:
    text = API.format(environment="staging").replace("invented-session-staging", "invented-session-production")
    committed.encrypt("staging/api.env", text.replace("https://staging", "https://production"))
    committed.commit("Copy")
    comparison = only_comparison(data(committed.root, "git:production", "git:staging", key=committed.keys))
    assert comparison["different_environments"] is True
    secret = key_of(comparison, "api.env", "SESSION_SECRET")
    assert (secret["class"], secret["risk"], secret["unexplained"]) == ("same-secret", "high", True)
    assert key_of(comparison, "api.env", "PUBLIC_URL")["class"] == "same-secret"  # x-differs: must
    assert key_of(comparison, "worker.env", "API_TOKEN")["class"] == EXPECTED  # another secret
    assert key_of(comparison, "worker.env", "QUEUE")["class"] == SAME


def test_a_contract_explains_a_difference_between_environments(committed: Site) -> None:
    comparison = only_comparison(data(committed.root, "git:production", "git:staging", key=committed.keys, code=0))
    key = key_of(comparison, "api.env", "PUBLIC_URL")
    assert (key["class"], key["reason"]) == (EXPECTED, "x-differs of contracts/api.yaml:6")
    assert key_of(comparison, "api.env", "ADMIN_HASH")["class"] == EXPECTED  # a secret by its name


def test_revisions_of_one_environment_are_compared(committed: Site) -> None:
    committed.encrypt("production/worker.env", WORKER.format(environment="production").replace("=4", "=8"))
    committed.commit("More workers")
    comparison = only_comparison(data(committed.root, "git:production@HEAD~1", "git:production", key=committed.keys))
    assert {name for name, kind in classes(comparison).items() if kind != SAME} == {"worker.env/WORKERS"}


def test_deprecated_keys_and_placeholders_are_remarked(committed: Site) -> None:
    text = API.format(environment="production").replace("LOG_LEVEL=info", "LOG_LEVEL=changeme")
    committed.encrypt("production/api.env", text + "OLD_NAME=1\n")
    committed.commit("Old")
    comparison = only_comparison(data(committed.root, "git:production", "git:production", key=committed.keys))
    assert key_of(comparison, "api.env", "OLD_NAME")["remarks"] == ["deprecated"]
    placeholder = key_of(comparison, "api.env", "LOG_LEVEL")
    assert (placeholder["class"], placeholder["remarks"], placeholder["unexplained"]) == (SAME, ["placeholder"], True)


def test_keys_left_to_the_server_may_differ(committed: Site, live: Path) -> None:
    committed.replace("production/environment.yaml", "flags.env: {", "flags.env: {ignore_keys: [FEATURE_*], ")
    committed.commit("Leave it")
    expect(committed, WITHOUT_NGINX)
    change(live / "flags.env", "=on", "=off")
    comparison = only_comparison(data(committed.root, "git:production", f"file:{live}", key=committed.keys, code=0))
    assert key_of(comparison, "flags.env", "FEATURE_SEARCH")["reason"] == "left to the server (ignore_keys)"


# --- references ---

REFERENCES = "HOME_PAGE=https://${WEB_MAIN}/x\nBANNER=ab$cd9\nLEVEL=${LOG:-info}\nWORD='a b'\n"


@pytest.mark.parametrize("beside", ["", "REQUIRED=${X:?}\n"])
def test_a_reference_is_not_the_same_as_another_or_as_a_value(tmp_path: Path, beside: str) -> None:
    first = written(tmp_path / "a", {"app.env": REFERENCES + beside})
    second = written(tmp_path / "b", {"app.env": REFERENCES + beside})
    sides = (f"file:{first}", f"file:{second}", "--same-environment")
    assert set(classes(only_comparison(data(tmp_path, *sides, code=0))).values()) == {SAME}
    for old, new in (("MAIN", "OTHER"), ("cd9", "xy7"), ("${LOG:-info}", "info"), ("'a b'", '"a b"')):
        change(second / "app.env", old, new)
    differing = {name for name, kind in classes(only_comparison(data(tmp_path, *sides))).items() if kind != SAME}
    assert differing == {"app.env/HOME_PAGE", "app.env/BANNER", "app.env/LEVEL"}
    assert key_of(only_comparison(data(tmp_path, *sides)), "app.env", "LEVEL")["reason"].startswith(
        "refers to a variable"
    )


def test_variables_of_the_projects_dot_env_are_resolved(tmp_path: Path) -> None:
    compose = "services: {api: {image: x, env_file: [common.env, api.env]}}\n"
    files = {"compose.yaml": compose, ".env": "WEB=one\nBOTH=1\n", "common.env": "BOTH=2\n"}
    first = written(tmp_path / "a", {**files, "api.env": "PAGE=${WEB}\nMORE=${BOTH}\n"})
    second = written(tmp_path / "b", {**files, "api.env": "PAGE=one\nMORE=1\n"})
    sides = (f"file:{first}", f"file:{second}", "--same-environment")
    by_key = classes(only_comparison(data(tmp_path, *sides)))
    assert (by_key["api.env/PAGE"], by_key["api.env/MORE"]) == (SAME, DIFFERS)  # BOTH may be that of common.env
    written(second, {**files, ".env": "WEB=two\nBOTH=1\n", "api.env": "PAGE=${WEB}\nMORE=${BOTH}\n"})
    by_key = classes(only_comparison(data(tmp_path, *sides)))
    assert {name for name, kind in by_key.items() if kind != SAME} == {".env/WEB", "api.env/PAGE"}


# --- pairs ---


def test_files_are_paired_by_the_environments_in_their_paths_and_as_an_operator_says(tmp_path: Path) -> None:
    left = written(
        tmp_path / "deploy" / "development", {"development.env": "A=1\nB=1\nC=1\nD=1\n", "jobs.env": "J=1\nK=1\n"}
    )
    right = written(tmp_path / "deploy" / "production", {".env.prod": "A=1\nX=1\nY=1\nZ=1\n", "cron.env": "J=1\n"})
    sides = (f"file:{left}", f"file:{right}")
    comparison = only_comparison(data(tmp_path, *sides))
    pairs = {(file["left"], file["right"], file["paired_by"]) for file in comparison["files"]}
    assert pairs == {
        ("development.env", ".env.prod", "the environment names in their paths"),
        ("jobs.env", "cron.env", "the keys they share"),
    }
    text = compare(tmp_path, *sides).stdout
    assert text.startswith("development and production: 7 unexplained findings\n")
    assert "  4 keys of development are missing in production: development.env ↔ .env.prod: B, C, D; jobs.env" in text
    assert "paired by the environment names in their paths; --pair A=B overrides it" in text
    chosen = (*sides, "--pair", "development.env=cron.env", "--pair", "jobs.env=.env.prod")
    files = only_comparison(data(tmp_path, *chosen))["files"]
    assert {(file["left"], file["right"], file["paired_by"]) for file in files} == {
        ("development.env", "cron.env", "--pair"),
        ("jobs.env", ".env.prod", "--pair"),
    }
    done = compare(tmp_path, *sides, "--pair", "development.env=none.env")
    assert (done.returncode, "The files there: .env.prod, cron.env" in done.stderr) == (1, True)


def test_two_single_files_are_paired_despite_their_names(tmp_path: Path) -> None:
    first = written(tmp_path / "a", {"production.env": "A=1\nB=2\n"})
    second = written(tmp_path / "b", {"app.conf": "A=1\nB=3\n"})
    comparison = only_comparison(data(tmp_path, f"file:{first}/production.env", f"file:{second}/app.conf"))
    assert [file["paired_by"] for file in comparison["files"]] == ["being the only files"]
    assert classes(comparison)["production.env/A"] == SAME
    assert classes(comparison)["production.env/B"] == DIFFERS


def test_files_are_paired_by_path_then_name_then_keys(tmp_path: Path) -> None:
    first = written(tmp_path / "a", {"x/api.env": "A=1\n", "old.env": "K=1\nL=1\nM=1\n", "only.env": "Z=1\n"})
    second = written(tmp_path / "b", {"y/api.env": "A=1\n", "new.env": "K=1\nL=1\nN=1\n"})
    comparison = only_comparison(data(tmp_path, f"file:{first}", f"file:{second}"))
    pairs = {(file["left"], file["right"]) for file in comparison["files"]}
    assert pairs == {("x/api.env", "y/api.env"), ("old.env", "new.env"), ("only.env", None)}


def test_a_line_that_may_be_a_bare_secret_is_not_shown(tmp_path: Path) -> None:
    file = written(tmp_path / "a", {"app.env": "A=1\ninvented-3f9a8b7c6d5e4f3a2b1c\n"})
    second = written(tmp_path / "b", {"app.env": "A=1\n"})
    comparison = only_comparison(data(tmp_path, f"file:{file}", f"file:{second}"))
    assert classes(comparison)["app.env/(line 2)"] == "missing-right"


def test_a_file_that_cannot_be_read_as_variables_is_unexplained(tmp_path: Path) -> None:
    file = written(tmp_path / "a", {"app.env": "A='invented-never-closed\n"})
    second = written(tmp_path / "b", {"app.env": "A=1\n"})
    comparison = only_comparison(data(tmp_path, f"file:{file}", f"file:{second}"))
    assert comparison["problems"] == [
        "app.env: line 1: unterminated-quote: a quote is opened and never closed; "
        "close it, or write \\ before a quote inside the value"
    ]


def test_encrypted_files_of_a_working_directory_are_read_with_the_key(committed: Site, live: Path) -> None:
    side = f"file:{committed.envs / 'production' / 'api.env'}"
    comparison = only_comparison(
        data(committed.root, side, f"file:{live}/api.env", "--same-environment", key=committed.keys, code=0)
    )
    assert set(classes(comparison).values()) == {SAME}


# --- mistakes ---


@pytest.mark.parametrize(
    "side",
    [
        "production",
        "git:",
        "git:../x",
        "git:production@",
        "ssh://",
        "ssh://u:invented-pw@host/x",
        "live:a@b/c",
        "http:x",
    ],
)
def test_an_invalid_side_is_refused(tmp_path: Path, side: str) -> None:
    done = compare(tmp_path, side, "file:.")
    assert done.returncode == 1
    assert "accepted: git:ENVIRONMENT" in done.stderr


def test_an_unknown_environment_and_a_place_with_nothing_are_errors(committed: Site, tmp_path: Path) -> None:
    done = compare(committed.root, "git:nowhere", "git:staging")
    assert (done.returncode, "Available: production, staging" in done.stderr) == (1, True)
    done = compare(committed.root, f"file:{tmp_path / 'nothing'}", "git:staging")
    assert (done.returncode, "has nothing to compare" in done.stderr) == (1, True)


# --- over SSH ---


def ssh(sshd: Sshd, path: Path) -> str:
    return sshd.url(path)


def trusting(sshd: Sshd) -> list[str]:
    return ["--ssh-key", str(sshd.key_path), "--known-hosts", str(sshd.known_hosts)]


@pytest.mark.sshd
def test_a_server_over_ssh_is_compared_with_git(committed: Site, live: Path, sshd: Sshd) -> None:
    expect(committed, WITHOUT_NGINX)
    sides = ("git:production", ssh(sshd, live), *trusting(sshd))
    assert only_comparison(data(committed.root, *sides, key=committed.keys, code=0))["unexplained"] == 0
    change(live / "config" / "worker.env", "WORKERS=4", "WORKERS=5")
    (live / "api.env").chmod(0o644)
    comparison = only_comparison(data(committed.root, *sides, key=committed.keys))
    assert {name for name, kind in classes(comparison).items() if kind == DIFFERS} == {
        "worker.env/WORKERS",
        "api.env:mode",
    }
    mode = next(fact for file in comparison["files"] for fact in file["facts"] if fact["class"] == DIFFERS)
    assert (mode["left"], mode["right"]) == ("0600", "0644")


@pytest.mark.sshd
def test_two_servers_of_which_neither_is_named_must_not_share_a_secret(live: Path, sshd: Sshd, tmp_path: Path) -> None:
    sides = (ssh(sshd, live), ssh(sshd, live), *trusting(sshd))
    comparison = only_comparison(data(tmp_path, *sides))
    assert key_of(comparison, "api.env", "SESSION_SECRET")["class"] == "same-secret"
    assert key_of(comparison, "api.env", "DATABASE_URL")["class"] == "same-secret"
    assert key_of(comparison, "api.env", "LOG_LEVEL")["class"] == SAME
    assert only_comparison(data(tmp_path, *sides, "--same-environment", code=0))["unexplained"] == 0


@pytest.mark.sshd
def test_an_unreachable_or_changed_server_does_not_hide_the_others(
    committed: Site, live: Path, sshd: Sshd, tmp_path: Path
) -> None:
    unreachable = f"ssh://{sshd.user}@{sshd.host}:1{live}"
    done = compare(
        committed.root, "git:production", ssh(sshd, live), unreachable, *trusting(sshd), "--json", key=committed.keys
    )
    report = read_answer("compare", done.stdout)
    assert done.returncode == 1
    assert only_comparison(report)["right"] == ssh(sshd, live)
    (failure,) = report["failures"]
    assert failure["side"] == unreachable
    assert "does not answer" in failure["error"]


@pytest.mark.sshd
def test_a_changed_host_key_is_refused(live: Path, sshd: Sshd, tmp_path: Path) -> None:
    sshd.rotate_host_key()
    done = compare(tmp_path, ssh(sshd, live), f"file:{live}", *trusting(sshd))
    assert done.returncode == 1
    assert "host key" in done.stderr


@pytest.mark.sshd
def test_the_users_own_ssh_configuration_is_the_default(live: Path, sshd: Sshd, tmp_path: Path) -> None:
    home = tmp_path / "me"
    (home / ".ssh").mkdir(parents=True)
    config = f"Host web-1\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n"
    config += f"  IdentityFile {sshd.key_path}\n  UserKnownHostsFile {sshd.known_hosts}\n"
    (home / ".ssh" / "config").write_text(config)
    done = compare(tmp_path, f"ssh://web-1{live}", f"file:{live}", "--same-environment", HOME=str(home))
    assert done.returncode == 0, done.stderr
    (home / ".ssh" / "config").write_text(config.replace(str(sshd.known_hosts), "/dev/null"))
    done = compare(tmp_path, f"ssh://web-1{live}", f"file:{live}", HOME=str(home))
    assert (done.returncode, "host key" in done.stderr) == (1, True)


TWO_HOSTS = """stacks:
  shop-web-1: {directory: /opt/shop, hosts: [web-1], targets: {shop-web-1/api.env: {path: api.env}}}
  shop-web-2: {directory: /opt/shop, hosts: [web-2], targets: {shop-web-2/api.env: {path: api.env}, shared.env: }}
  more-web-1: {directory: /opt/more, hosts: [web-1], targets: {shared.env: }}
"""


def servers(site: Site, sshd: Sshd, root: Path, *names: str) -> tuple[Path, list[str]]:
    """A home in which the names stand for ``sshd``, and a side for each of the site's two servers, all right."""
    site.write("production/environment.yaml", TWO_HOSTS)
    text = "PORT={}\nAPI_TOKEN=invented-{}\n"
    for number in (1, 2):
        site.encrypt(f"production/shop-web-{number}/api.env", text.format(number, number))
        written(root / f"web-{number}", {"shop/api.env": text.format(number, number)})
    site.encrypt("production/shared.env", "S=1\n")
    written(root / "web-1", {"more/shared.env": "S=1\n"})
    written(root / "web-2", {"shop/shared.env": "S=1\n"})
    site.commit("Two hosts")
    (root / "me" / ".ssh").mkdir(parents=True)
    config = f"Host {' '.join(names)}\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n"
    config += f"  IdentityFile {sshd.key_path}\n  UserKnownHostsFile {sshd.known_hosts}\n"
    (root / "me" / ".ssh" / "config").write_text(config)
    return root / "me", [f"ssh://{name}{root}/web-{number}" for number, name in enumerate(names, start=1)]


@pytest.mark.sshd
@pytest.mark.parametrize("names", [("web-1", "web-2"), ("web-1.example.org", "web-2.example.org"), ("one", "two")])
def test_each_server_is_compared_with_the_sources_for_its_host(
    site: Site, sshd: Sshd, tmp_path: Path, names: tuple[str, str]
) -> None:
    home, sides = servers(site, sshd, tmp_path, *names)
    arguments = ("git:production", *sides, "--json")
    done = compare(site.root, *arguments, key=site.keys, HOME=str(home))
    report = read_answer("compare", done.stdout)
    assert (done.returncode, [each["unexplained"] for each in report["comparisons"]]) == (0, [0, 0]), done.stdout
    change(tmp_path / "web-2" / "shop" / "api.env", "PORT=2", "PORT=1")
    done = compare(site.root, *arguments, key=site.keys, HOME=str(home))
    counts = [each["unexplained"] for each in read_answer("compare", done.stdout)["comparisons"]]
    assert (done.returncode, counts) == (2, [0, 1])


@pytest.mark.sshd
def test_the_servers_file_says_which_host_an_address_is(site: Site, sshd: Sshd, server: Server, tmp_path: Path) -> None:
    servers(site, sshd, tmp_path, "web-1")
    change(tmp_path / "web-2" / "shop" / "api.env", "invented-2", "invented-1")
    change(tmp_path / "web-2" / "shop" / "api.env", "PORT=2", "PORT=1")  # all of it is another host's
    server.settings["hosts"] = {"web-2": sshd.as_host(address=sshd.host)}
    arguments = ("git:production", ssh(sshd, tmp_path / "web-2"), *trusting(sshd))
    assert (
        only_comparison(data(site.root, *arguments, "--config", str(server.config), key=site.keys))["unexplained"] == 2
    )


# --- this server ---


def test_live_files_are_those_that_the_manifest_names(server: Server, tmp_path: Path) -> None:
    server.commit({"api.env": b"A=invented-1\nB=2\n"}, server.plain(["api.env"]))
    assert server.sync()["result"] == "applied"
    clone = tmp_path / "clone"
    assert run("git", "clone", "--quiet", server.remote.url, clone).returncode == 0
    (server.app / "stray.env").write_text("C=1\n")
    sides = ("git:production", "live:production", "--config", server.config)
    comparison = only_comparison(data(clone, *sides, key=server.key.path, code=0))
    assert classes(comparison) == {"api.env/A": SAME, "api.env/B": SAME, "api.env:mode": SAME}
    (server.app / "api.env").write_text("A=invented-1\nB=3\n")
    assert classes(only_comparison(data(clone, *sides, key=server.key.path)))["api.env/B"] == DIFFERS
    done = compare(clone, "live:staging", "git:production", "--config", server.config)
    assert (done.returncode, "It follows: production" in done.stderr) == (1, True)


# --- containers ---

SERVICE = """
services:
  api:
    {image: IMAGE, network_mode: host, command: sleep 600, stop_grace_period: 0s, env_file: api.env,
     environment: {EXTRA: "${LEVEL}", BARE: }}
"""


@pytest.mark.docker
def test_a_running_container_is_compared_with_its_file(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    project = compose_project(SERVICE, {"api.env": "A=invented-1\nB=2\n", ".env": "LEVEL=1\n"})
    project.up()
    change(project.directory / "api.env", "B=2", "B=3")
    side = f"container:{project.name}/api"
    comparison = only_comparison(data(tmp_path, f"file:{project.directory}/api.env", side, "--same-environment"))
    assert classes(comparison) == {"api.env/A": SAME, "api.env/B": DIFFERS, "api.env/EXTRA": "missing-left"}
    project.write("api.env", "A=invented-1\nB=${TWO:-2}\n")
    comparison = only_comparison(data(tmp_path, f"file:{project.directory}/api.env", side, "--same-environment"))
    key = key_of(comparison, "api.env", "B")
    assert (key["class"], key["reason"]) == (DIFFERS, "refers to a variable whose value is not known")
    done = compare(tmp_path, side.replace("/api", "/none"), f"file:{project.directory}")
    assert (done.returncode, "that service has no container" in done.stderr) == (1, True)


@pytest.mark.docker
def test_only_containers_that_run_count_and_all_of_them(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    project = compose_project(SERVICE, {"api.env": "A=1\nB=2\n", ".env": "LEVEL=1\n"})
    project.up()
    first = project.container("api")["Id"]
    change(project.directory / "api.env", "B=2", "B=invented-3")
    assert project.compose("up", "-d", "--pull", "never", "--no-recreate", "--scale", "api=2").returncode == 0
    side = f"container:{project.name}/api"
    arguments = (side, f"file:{project.directory}/api.env", "--same-environment")
    comparison = only_comparison(data(tmp_path, *arguments))
    assert comparison["problems"] == [f"{side}: its 2 containers have different variables: B"]
    output("docker", "stop", first)
    comparison = only_comparison(data(tmp_path, *arguments))
    assert (comparison["problems"], classes(comparison)["api.env/B"]) == ([], SAME)
    assert project.compose("stop").returncode == 0
    done = compare(tmp_path, *arguments)
    assert (done.returncode, "no container of that service is running (exited)" in done.stderr) == (1, True)


@pytest.fixture
def image_with_variables(docker_engine: str) -> Iterator[str]:
    """An image that sets GIVEN and OTHER for its containers."""
    name, made = f"reconciler-test/{secrets.token_hex(4)}:1", output("docker", "create", docker_engine, "true")
    output("docker", "commit", "--change", "ENV GIVEN=1 OTHER=1", made.decode().strip(), name)
    output("docker", "rm", made.decode().strip())
    yield name
    output("docker", "rmi", name)


@pytest.mark.docker
def test_variables_of_the_image_count_only_if_the_file_sets_them_too(
    compose_project: Callable[..., ComposeProject], tmp_path: Path, image_with_variables: str
) -> None:
    project = compose_project(
        SERVICE.replace("IMAGE", image_with_variables), {"api.env": "GIVEN=1\n", ".env": "LEVEL=1\n"}
    )
    project.up()
    file, side = f"file:{project.directory}/api.env", f"container:{project.name}/api"
    comparison = only_comparison(data(tmp_path, side, file, "--same-environment"))
    assert classes(comparison) == {"api.env/GIVEN": SAME, "api.env/EXTRA": "missing-right"}
    project.remove()


@pytest.mark.docker
def test_keys_that_reach_no_service_are_unused(compose_project: Callable[..., ComposeProject], tmp_path: Path) -> None:
    used = "LEVEL=1\nBARE=1\nIN_FILE=1\nALONE=1\nCOMPOSE_X=1\n"
    files = {"api.env": "A=${IN_FILE}\nALONE\n", ".env": f"{used}NOBODY=1\n", "old.env": "OLD=1\n"}
    project = compose_project(SERVICE, {**files, ".env.prod": "LEVEL=1\n"})  # for --env-file
    second = written(tmp_path / "second", {**files, "compose.yaml": SERVICE.replace("api.env", "old.env")})
    written(tmp_path / "second", {"elsewhere/compose.yaml": "services: {x: {image: x}}\n"})
    sides = (f"file:{project.directory}", f"file:{second}", "--same-environment")
    comparison = only_comparison(data(tmp_path, *sides))
    keys = [key for file in comparison["files"] for key in file["keys"] if "unused" in key["remarks"]]
    unused = {key["key"]: key["unused_on"] for key in keys}
    only_there = {key: ["right"] for key in ("A", "ALONE", "IN_FILE")}  # its api.env is used by nobody
    assert unused == {"NOBODY": ["left", "right"], "OLD": ["left"], **only_there}
    assert f"used by no service in {project.name}" in compare(tmp_path, *sides).stdout


@pytest.mark.docker
@pytest.mark.sshd
def test_where_docker_does_not_answer_containers_are_not_called_missing(
    compose_project: Callable[..., ComposeProject], sshd: Sshd, tmp_path: Path
) -> None:
    project = compose_project(SERVICE, {"api.env": "A=1\n", ".env": "LEVEL=1\n"})
    project.up()
    sides = (ssh(sshd, project.directory), f"file:{project.directory}", "--same-environment", *trusting(sshd))
    done = compare(tmp_path, *sides, "--json", DOCKER_HOST="unix:///nowhere.sock")  # here, not there
    comparison = only_comparison(read_answer("compare", done.stdout))
    assert (done.returncode, comparison["services"]) == (0, [])
    assert f"{sides[1]}: left out: containers: Docker does not answer there" in comparison["remarks"]


@pytest.mark.docker
@pytest.mark.sshd
def test_services_stand_side_by_side(
    compose_project: Callable[..., ComposeProject], sshd: Sshd, tmp_path: Path
) -> None:
    common = "image: IMAGE, network_mode: host, command: sleep 600, stop_grace_period: 0s"
    text = f"services: {{api: {{{common}, mem_limit: 64m}}, "
    first = compose_project(f"{text}web: {{{common}}}}}\n", {})
    second = compose_project(text.replace("64m", "96m") + "}\n", {})
    first.up()
    second.up()
    run("docker", "stop", second.container("api")["Id"])
    sides = (f"file:{first.directory}", ssh(sshd, second.directory), "--same-environment", *trusting(sshd))
    comparison = only_comparison(data(tmp_path, *sides))
    services = {
        service["service"]: {fact["name"]: fact for fact in service["facts"]} for service in comparison["services"]
    }
    api = services["api"]
    assert (api["state"]["left"], api["state"]["right"], api["state"]["class"]) == ("running", "exited", DIFFERS)
    assert (api["memory"]["left"], api["memory"]["right"]) == ("64 MiB", "96 MiB")
    assert api["digest"]["class"] == SAME
    assert services["web"]["container"]["class"] == "missing-right"
    expected = tmp_path / "expected.yaml"
    expected.write_text(
        "services:\n  - {service: api, facts: [state, memory], reason: the second one is larger and asleep}\n"
        "  - {service: web, facts: container, reason: only the first one serves}\n"
    )
    assert only_comparison(data(tmp_path, *sides, "--expected", expected, code=0))["unexplained"] == 0


@pytest.mark.docker
def test_a_second_project_on_one_side_does_not_hide_the_services_of_the_first(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    text = "services: {api: {image: IMAGE, network_mode: host, command: sleep 600, stop_grace_period: 0s}}\n"
    first, second = compose_project(text), compose_project(text)
    first.up()
    second.up()
    comparison = only_comparison(data(tmp_path, f"file:{first.directory}", f"file:{tmp_path}", "--same-environment"))
    facts = {
        service["service"]: {fact["name"]: fact["class"] for fact in service["facts"]}
        for service in comparison["services"]
    }
    assert set(facts[f"{first.name}/api"].values()) == {SAME}
    assert facts[f"{second.name}/api"]["container"] == "missing-left"
    assert comparison["unexplained"] == 1
