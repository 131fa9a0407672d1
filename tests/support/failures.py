"""What can go wrong, as a table: how each failure comes about, how to recognize its message, how to fix it.

Shared by the tests of the messages (e2e/test_failures.py), the search for leaked secrets (e2e/test_canary.py), and the
check that docs/errors.md has a section for each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.age_key import make_age_key
from tests.support.commands import output
from tests.support.faults import Faults, make_faults
from tests.support.https import refusing_server
from tests.support.server import Server

COMPOSE = "services: {api: {image: not-needed, env_file: api.env}}\n"
NO_ENGINE = "nobody-listens.sock"


@dataclass(slots=True)
class Site:
    """One environment of a server: a live directory of its own below allowed_paths, with one target, api.env.

    ``value`` is in its secret variables; ``token`` is for the git server, if it requires one, and ``accounts_seen`` are
    the accounts it received. ``variables`` are for the environment of every later command. What ``undo`` holds is
    undone at the end.
    """

    server: Server
    environment: str
    value: str = "value"
    token: str = "token"
    lines: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def directory(self) -> Path:
        return self.server.app / self.environment

    @property
    def live(self) -> Path:
        return self.directory / "api.env"

    # --- what is in git ---

    def plaintext(self, generation: int) -> bytes:
        """The content of api.env: another one for every generation, with the same keys."""
        return f"TOKEN={self.value}.{generation}\nPASSWORD={self.value}\nMODE=generation-{generation}\n".encode()

    def ciphertext(self, generation: int) -> bytes:
        return self.server.key.encrypt("api.env", self.plaintext(generation))

    def manifest(self, *, stack: bool = False, **target: Any) -> bytes:
        """api.env as a target of no stack, or of one whose directory is the site's."""
        app = {"directory": str(self.directory), "targets": {"api.env": target or None}}
        lone = {"targets": {"api.env": {"path": str(self.live), **target}}}
        return yaml.safe_dump({"stacks": {"app": app}} if stack else lone).encode()

    def commit(self, generation: int, *, stack: bool = False, **target: Any) -> str:
        """Commit both files."""
        manifest = self.manifest(stack=stack, **target)
        return self.commit_bytes({"api.env": self.ciphertext(generation), "environment.yaml": manifest})

    def commit_bytes(self, files: Mapping[str, bytes | None]) -> str:
        """Commit files of the environment as they are; None deletes one."""
        return self.server.remote.commit({f"envs/{self.environment}/{name}": data for name, data in files.items()})

    # --- a disk that is full, broken, or not ours ---

    @property
    def faults(self) -> Faults:
        """Those of every later command."""
        faults = make_faults(self.server.root / "faults")
        self.variables |= faults.variables
        return faults

    def obey_modes(self) -> None:
        """Have every later command, also if it is root's, write only where the mode of a file or directory says so."""
        if os.geteuid() != 0:
            return
        without = "-dac_override,-dac_read_search"
        self.server.started_by = ("setpriv", "--bounding-set", without, "--inh-caps", without)

    def mount(self, directory: Path, size: str) -> None:
        """A small file system of its own for what is in ``directory``."""
        aside = directory.with_name(f"{directory.name}.aside")
        directory.rename(aside)
        directory.mkdir()
        output("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory)
        self.undo.callback(output, "umount", directory)
        shutil.copytree(aside, directory, dirs_exist_ok=True)
        shutil.copystat(aside, directory)
        shutil.rmtree(aside)


@contextlib.contextmanager
def sites(server: Server, *environments: str, value: str = "value") -> Iterator[list[Site]]:
    """The server follows these environments; each has its first generation in git and an empty live directory.

    What happened to the machine is undone at the end.
    """
    server.settings["environment"] = list(environments)
    with contextlib.ExitStack() as undo:
        made = [Site(server, name, f"{value}.{name}.{value}", value) for name in environments]
        for site in made:
            undo.enter_context(site.undo)
            site.directory.mkdir()
            site.commit(1)
        yield made


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that goes wrong.

    ``happens`` causes it, in git or on the server, and makes a second generation the desired one where possible;
    ``fixed`` does what the message asks for, after which ``heals_to`` is the generation that goes live. The message
    contains ``message``, ``where`` and ``next_step`` ({root} is the server's directory). ``result`` is that of the
    reconciliation; None if none can begin. ``exit_code`` is that of `plan` and `sync`. ``retried``: without a new
    revision. ``applied``: whether the first generation was applied before.
    """

    id: str
    happens: Callable[[Site], object]
    fixed: Callable[[Site], object]
    message: str
    where: str
    next_step: str
    result: str | None = "stalled"
    exit_code: int = 1
    retried: bool = False
    heals_to: int = 3
    applied: bool = True
    marks: tuple[str, ...] = ()

    @property
    def parameter(self) -> Any:
        return pytest.param(self, id=self.id, marks=[getattr(pytest.mark, mark) for mark in self.marks])


def _second(site: Site) -> None:
    site.commit(2)


def _third(site: Site) -> None:
    site.commit(3)


# --- the manifest ---


def _unknown_field(site: Site) -> None:
    site.commit(2, onwer="root")


def _unparsable_yaml(site: Site) -> None:
    site.commit_bytes({"environment.yaml": b"targets:\n  api.env: {path: /opt\n  other.env: 1\n"})


def _duplicate_field(site: Site) -> None:
    site.commit_bytes({"environment.yaml": site.manifest() + b"targets: {}\n"})


def _missing_manifest(site: Site) -> None:
    site.commit_bytes({"environment.yaml": None})


def _missing_source(site: Site) -> None:
    site.commit_bytes({"api.env": None})


def _outside_allowed_paths(site: Site) -> None:
    site.commit(2, path="/opt/elsewhere/api.env")


def _unknown_owner(site: Site) -> None:
    site.commit(2, owner="no-such-user")


# --- the ciphertext ---


def _not_encrypted(site: Site) -> None:
    site.commit_bytes({"api.env": site.plaintext(2)})


def _wrong_key(site: Site) -> None:
    directory = site.server.root / f"another-key-{site.environment}"
    directory.mkdir()
    site.commit_bytes({"api.env": make_age_key(directory).encrypt("api.env", site.plaintext(2))})


def _mac_mismatch(site: Site) -> None:
    lines = site.ciphertext(2).splitlines(keepends=True)
    site.commit_bytes({"api.env": b"".join(line for line in lines if not line.startswith(b"PASSWORD="))})


def _conflict_markers(site: Site) -> None:
    ours, theirs = site.ciphertext(2).splitlines(), site.ciphertext(3).splitlines()
    merged = [ours[0], b"<<<<<<< ours", ours[1], b"=======", theirs[1], b">>>>>>> theirs", *ours[2:]]
    site.commit_bytes({"api.env": b"\n".join(merged) + b"\n"})


def _duplicate_key(site: Site) -> None:
    site.commit_bytes({"api.env": site.ciphertext(2) + b"TOKEN=\n"})


def _type_changed(site: Site) -> None:
    """What sops says of it quotes the value, and no key is needed to do it."""
    lines = site.ciphertext(2).splitlines(keepends=True)
    site.commit_bytes({"api.env": b"".join([lines[0].replace(b",type:str]", b",type:int]"), *lines[1:]])})


# --- the plaintext ---


def _duplicate_plain_key(site: Site) -> None:
    twice = site.plaintext(2) + f"TOKEN={site.value}\n".encode()
    site.commit_bytes({"environment.yaml": site.manifest(encrypted=False), "api.env": twice})


def _encrypted_twice(site: Site) -> None:
    inner = site.ciphertext(2).partition(b"\n")[0]
    site.commit_bytes({"api.env": site.server.key.encrypt("api.env", inner + b"\nPASSWORD=\nMODE=\n")})


def _unparsable_env_file(site: Site) -> None:
    broken = f'MODE=2\nTOKEN="{site.value}\nPASSWORD={site.value}\n'.encode()
    site.commit_bytes({"api.env": site.server.key.encrypt("api.env", broken)})


# --- contracts ---

CONTRACT = "contracts/api.yaml"


def _with_contract(site: Site, text: str | None) -> None:
    """The second generation, whose manifest names a contract. Only this environment's target does."""
    if text is not None:
        site.server.remote.commit({f"envs/{CONTRACT}": text.encode()})
    site.commit(2, schema=CONTRACT)


def _broken_contract(site: Site) -> None:
    _with_contract(site, "properties:\n  TOKEN: {enum: [one, two], pattern: ^x, maxLength: 1, format: uri}\n")


def _missing_contract(site: Site) -> None:
    _with_contract(site, None)


def _unusable_contract(site: Site) -> None:
    _with_contract(site, "properties:\n  MODE: {const: false}\n")


def _slow_contract(site: Site) -> None:
    site.faults.limit_contracts(2)
    _with_contract(site, "properties:\n  TOKEN: {pattern: ^(.+)+(.+)+(.+)+(.+)+(.+)+$x}\n")


# --- the server's files ---


def _live_is_a_directory(site: Site) -> None:
    site.live.rename(site.directory / "aside")
    site.live.mkdir()
    site.commit(2)


def _live_is_no_directory(site: Site) -> None:
    site.live.rmdir()
    (site.directory / "aside").rename(site.live)


def _live_is_a_link(site: Site) -> None:
    site.live.rename(site.directory / "aside")
    site.live.symlink_to("aside")
    site.commit(2)


def _live_is_no_link(site: Site) -> None:
    site.live.unlink()
    (site.directory / "aside").rename(site.live)


def _link_on_the_way(site: Site) -> None:
    real = site.directory.with_name(f"{site.environment}.real")
    site.directory.rename(real)
    site.directory.symlink_to(real)
    site.commit(2)


def _no_link_on_the_way(site: Site) -> None:
    real = site.directory.resolve()
    site.directory.unlink()
    real.rename(site.directory)


def _disk_full(site: Site) -> None:
    site.mount(site.directory, "64k")
    fill(site.directory)
    site.commit(2)


def _disk_has_room(site: Site) -> None:
    (site.directory / "filler").unlink()


def _disk_read_only(site: Site) -> None:
    site.mount(site.directory, "64k")
    output("mount", "-o", "remount,ro", site.directory)
    site.commit(2)


def _disk_writable(site: Site) -> None:
    output("mount", "-o", "remount,rw", site.directory)


def _no_access(site: Site) -> None:
    site.obey_modes()
    site.directory.chmod(0o555)
    site.commit(2)


def _access(site: Site) -> None:
    site.directory.chmod(0o755)


def _disk_error(site: Site) -> None:
    site.faults.fail_disk(site.directory)
    site.commit(2)


def _disk_well(site: Site) -> None:
    site.faults.repair_disk()


def fill(directory: Path) -> None:
    """Take all the space of the file system, in a file named filler."""
    with (directory / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))


# --- Docker ---


def _engine_gone(site: Site) -> None:
    (site.directory / "compose.yaml").write_text(COMPOSE)
    site.variables["DOCKER_HOST"] = f"unix://{site.server.root}/{NO_ENGINE}"
    site.commit(2, stack=True)


def _compose_file_missing(site: Site) -> None:
    site.commit(2, stack=True)


# --- git ---


def _remote_gone(site: Site) -> None:
    site.commit(2)
    site.server.remote.path.rename(site.server.remote.path.with_name("moved.git"))


def _remote_back(site: Site) -> None:
    site.server.remote.path.with_name("moved.git").rename(site.server.remote.path)


def _branch_gone(site: Site) -> None:
    site.commit(2)
    site.server.remote.git("branch", "-m", "main", "renamed")


def _branch_back(site: Site) -> None:
    site.server.remote.git("branch", "-m", "renamed", "main")


def _token_refused(site: Site) -> None:
    server = site.undo.enter_context(refusing_server(site.server.root / "https"))
    site.accounts_seen = server.accounts
    token = site.server.root / "git-token"
    token.touch(0o600)
    token.write_text(f"{site.token}\n")
    site.server.settings["repository"] |= {"url": server.url, "token_file": str(token)}
    site.variables |= {"GIT_SSL_CAINFO": str(server.certificate), "no_proxy": "localhost"}
    site.commit(2)


def _token_renewed(site: Site) -> None:
    site.server.settings["repository"]["url"] = site.server.remote.url


def _repository_empty(site: Site) -> None:
    site.server.remote.git("update-ref", "-d", "refs/heads/main")


def _history_rewritten(site: Site) -> None:
    first = site.server.remote.head()
    site.server.remote.git("update-ref", "-d", "refs/heads/main")
    site.commit(2)
    site.server.remote.make_branch("before", first)


def _history_back(site: Site) -> None:
    site.server.remote.make_branch("main", "before")
    site.commit(3)


# --- the daemon's own files ---


def _server_file_unknown_field(site: Site) -> None:
    site.server.settings["repositry"] = {"branch": "main"}
    site.commit(2)


def _server_file_corrected(site: Site) -> None:
    del site.server.settings["repositry"]


def _server_file_unparsable(site: Site) -> None:
    site.variables["RECONCILER_CONFIG"] = str(site.server.root / "broken.yaml")
    (site.server.root / "broken.yaml").write_text("environment: production\nrepository: {url: /srv/git\n")
    site.commit(2)


def _server_file_missing(site: Site) -> None:
    site.variables["RECONCILER_CONFIG"] = str(site.server.root / "missing.yaml")
    site.commit(2)


def _server_file_named(site: Site) -> None:
    del site.variables["RECONCILER_CONFIG"]


def _age_key_missing(site: Site) -> None:
    site.server.settings["decryption"] = {"age_key_file": str(site.server.root / "missing.key")}
    site.commit(2)


def _age_key_there(site: Site) -> None:
    site.server.settings["decryption"] = {"age_key_file": str(site.server.key.path)}


def _database_newer(site: Site) -> None:
    _set_database_version(site, 99)
    site.commit(2)


def _database_known(site: Site) -> None:
    _set_database_version(site, 1)


def _set_database_version(site: Site, version: int) -> None:
    with contextlib.closing(sqlite3.connect(site.server.state / "state.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")


def _database_damaged(site: Site) -> None:
    (site.server.state / "state.db").write_bytes(b"no database\n" * 400)
    site.commit(2)


def _database_moved_away(site: Site) -> None:
    """What was live is no longer known to be ours: the person says that it may be replaced."""
    (site.server.state / "state.db").unlink()
    site.commit(3, on_first_contact="take_over")


def _database_empty(site: Site) -> None:
    (site.server.state / "state.db").write_bytes(b"")
    site.commit(2)


def _database_log_alone(site: Site) -> None:
    (site.server.state / "state.db").rename(site.server.root / "state.db.away")
    (site.server.state / "state.db-wal").write_bytes(b"the last changes of that database")
    site.commit(2)


def _database_back(site: Site) -> None:
    (site.server.state / "state.db-wal").unlink()
    (site.server.root / "state.db.away").rename(site.server.state / "state.db")


def _digest_key_lost(site: Site) -> None:
    (site.server.state / "digest.key").rename(site.server.root / "digest.key.away")
    site.commit(2)


def _digest_key_replaced(site: Site) -> None:
    _digest_key_lost(site)
    (site.server.state / "digest.key").write_bytes(b"another key of the right size 32")


def _digest_key_back(site: Site) -> None:
    (site.server.root / "digest.key.away").rename(site.server.state / "digest.key")


def _state_read_only(site: Site) -> None:
    site.mount(site.server.state, "4m")
    output("mount", "-o", "remount,ro", site.server.state)
    site.commit(2)


def _state_writable(site: Site) -> None:
    output("mount", "-o", "remount,rw", site.server.state)


def _state_disk_full(site: Site) -> None:
    site.mount(site.server.state, "2m")
    fill(site.server.state)
    site.commit(2)


def _state_disk_has_room(site: Site) -> None:
    (site.server.state / "filler").unlink()


ENVIRONMENT_FAILURES = (
    Failure(
        "unknown-field",
        _unknown_field,
        _third,
        message="targets.api.env.onwer: is not a known field",
        where="environment.yaml:3:",
        next_step="did you mean owner?",
    ),
    Failure(
        "unparsable-yaml",
        _unparsable_yaml,
        _third,
        message="cannot be read as YAML",
        where="environment.yaml:3:",
        next_step="expected ',' or '}' (begun in line 2)",
    ),
    Failure(
        "duplicate-field",
        _duplicate_field,
        _third,
        message="targets: appears twice, first in line 1",
        where="environment.yaml:4:",
        next_step="each name once",
    ),
    Failure(
        "missing-manifest",
        _missing_manifest,
        _third,
        message="not found at revision",
        where="environment.yaml:",
        next_step="Add the file",
    ),
    Failure(
        "missing-source",
        _missing_source,
        _third,
        message="the source does not exist",
        where="/api.env:",
        next_step="Commit the file, or remove the target api.env",
    ),
    Failure(
        "outside-allowed-paths",
        _outside_allowed_paths,
        _third,
        message='"/opt/elsewhere/api.env" lies outside allowed_paths',
        where="environment.yaml:3: targets.api.env.path:",
        next_step="a path below one of them",
    ),
    Failure(
        "link-on-the-way",
        _link_on_the_way,
        _no_link_on_the_way,
        message="link",
        where="{root}/app/",
        next_step="name the real path in the manifest",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "live-path-is-a-link",
        _live_is_a_link,
        _live_is_no_link,
        message="it is a symbolic link",
        where="{root}/app/",
        next_step="name the real path in the manifest",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "live-path-is-a-directory",
        _live_is_a_directory,
        _live_is_no_directory,
        message="is a directory",
        where="{root}/app/",
        next_step="Move it away, or correct the target's path",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "unknown-owner",
        _unknown_owner,
        _third,
        message="the user 'no-such-user' does not exist",
        where="/api.env:",
        next_step="useradd --system no-such-user",
    ),
    Failure(
        "not-encrypted",
        _not_encrypted,
        _third,
        message="is not encrypted: it contains plain values for TOKEN, PASSWORD, MODE",
        where="envs/",
        next_step="sops encrypt --in-place envs/",
    ),
    Failure(
        "wrong-key",
        _wrong_key,
        _third,
        message="is not encrypted for this server",
        where="envs/",
        next_step="sops updatekeys envs/",
    ),
    Failure(
        "mac-mismatch",
        _mac_mismatch,
        _third,
        message="its MAC does not match",
        where="envs/",
        next_step="sops edit envs/",
    ),
    Failure(
        "type-changed",
        _type_changed,
        _third,
        message="a value does not decrypt, perhaps one that is not marked type:str: TOKEN",
        where="envs/",
        next_step="sops edit envs/",
    ),
    Failure(
        "conflict-markers",
        _conflict_markers,
        _third,
        message="has an unresolved merge conflict",
        where="api.env, line 2:",
        next_step="Take one side completely",
    ),
    Failure(
        "duplicate-key",
        _duplicate_key,
        _third,
        message="TOKEN is already set in line 1",
        where="api.env, line 10:",
        next_step="Remove one",
    ),
    Failure(
        "duplicate-plain-key",
        _duplicate_plain_key,
        _third,
        message="defined twice: TOKEN",
        where="/api.env:",
        next_step="keep one",
    ),
    Failure(
        "encrypted-twice",
        _encrypted_twice,
        _third,
        message="the plaintext still holds ENC[",
        where="/api.env:",
        next_step="encrypted twice",
    ),
    Failure(
        "unparsable-env-file",
        _unparsable_env_file,
        _third,
        message="a quote is opened and never closed",
        where="/api.env: Compose could not read it: line 2:",
        next_step="close it",
    ),
    Failure(
        "broken-contract",
        _broken_contract,
        _third,
        message="TOKEN breaks `enum` of contracts/api.yaml:2",
        where="/api.env: ",
        next_step="fix the value with `sops edit`, or the contract",
    ),
    Failure(
        "missing-contract",
        _missing_contract,
        _third,
        message="the contract does not exist at revision",
        where="envs/contracts/api.yaml: ",
        next_step="Commit the file, or remove it from the target's schema",
    ),
    Failure(
        "unusable-contract",
        _unusable_contract,
        _third,
        message="properties.MODE.const: every value is a string: put it in quotes",
        where="contracts/api.yaml:2: ",
        next_step="put it in quotes",
    ),
    Failure(
        "slow-contract",
        _slow_contract,
        _third,
        message="a contract takes too long",
        where="contracts/api.yaml: ",
        next_step="Make its patterns simpler",
    ),
    Failure(
        "disk-full",
        _disk_full,
        _disk_has_room,
        message="No space left on device",
        where="{root}/app/",
        next_step="free some space",
        result="failed",
        retried=True,
        heals_to=2,
        marks=("root",),
    ),
    Failure(
        "read-only-disk",
        _disk_read_only,
        _disk_writable,
        message="cannot write the live file (Read-only file system)",
        where="{root}/app/",
        next_step="remount it read-write. Will retry",
        result="failed",
        retried=True,
        heals_to=2,
        marks=("root",),
    ),
    Failure(
        "no-write-access",
        _no_access,
        _access,
        message="cannot write the live file (Permission denied)",
        where="{root}/app/",
        next_step="give its user write access to the directory. Will retry",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "disk-error",
        _disk_error,
        _disk_well,
        message="cannot write the live file (Input/output error)",
        where="{root}/app/",
        next_step="The disk reports an error (dmesg). Will retry",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "missing-engine",
        _engine_gone,
        _third,
        message="the Docker engine does not answer",
        where=NO_ENGINE,
        next_step="systemctl start docker",
        result="failed",
        retried=True,
        marks=("docker",),
    ),
    Failure(
        "missing-compose-file",
        _compose_file_missing,
        _third,
        message="there is no compose file",
        where="{root}/app/",
        next_step="put the compose file there",
        result="failed",
        retried=True,
    ),
)
"""Each stops one environment, and no other."""

SERVER_FAILURES = (
    Failure(
        "server-file-unknown-field",
        _server_file_unknown_field,
        _server_file_corrected,
        message="repositry: is not a known field",
        where="reconciler.yaml:",
        next_step="did you mean repository?",
        result=None,
        heals_to=2,
    ),
    Failure(
        "server-file-unparsable",
        _server_file_unparsable,
        _server_file_named,
        message="cannot be read as YAML",
        where="broken.yaml:3:",
        next_step="expected ',' or '}' (begun in line 2)",
        result=None,
        heals_to=2,
    ),
    Failure(
        "server-file-missing",
        _server_file_missing,
        _server_file_named,
        message="cannot be read (No such file or directory)",
        where="missing.yaml:",
        next_step="--config or RECONCILER_CONFIG",
        result=None,
        heals_to=2,
    ),
    Failure(
        "git-remote-gone",
        _remote_gone,
        _remote_back,
        message="the repository does not exist",
        where="remote.git (branch main):",
        next_step="Check repository.url",
        result="in_sync",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "git-remote-never-there",
        _remote_gone,
        _remote_back,
        message="the repository does not exist",
        where="remote.git (branch main):",
        next_step="Check repository.url",
        result="failed",
        retried=True,
        heals_to=2,
        applied=False,
    ),
    Failure(
        "branch-gone",
        _branch_gone,
        _branch_back,
        message="the branch 'main' does not exist; the remote has: renamed",
        where="remote.git (branch main):",
        next_step="Correct repository.branch",
        result="in_sync",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "git-token-refused",
        _token_refused,
        _token_renewed,
        message="localhost refuses access to the repository",
        where="/config.git (branch main):",
        next_step="Check that the token in repository.token_file has not expired",
        result="in_sync",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "empty-repository",
        _repository_empty,
        _third,
        message="the repository is empty",
        where="remote.git (branch main):",
        next_step="Push the branch main",
        result="failed",
        retried=True,
        applied=False,
    ),
    Failure(
        "history-rewritten",
        _history_rewritten,
        _history_back,
        message="the branch was rewritten",
        where="branch main:",
        next_step="Restore the branch",
        result="in_sync",
        exit_code=2,
    ),
    Failure(
        "age-key-missing",
        _age_key_missing,
        _age_key_there,
        message="the age key is not usable: No such file or directory",
        where="missing.key:",
        next_step="decryption.age_key_file must name",
        result="failed",
        retried=True,
        heals_to=2,
    ),
    Failure(
        "newer-database",
        _database_newer,
        _database_known,
        message="version 99, written by a newer reconciler",
        where="state.db:",
        next_step="install the newer reconciler again",
        result=None,
        heals_to=2,
    ),
    Failure(
        "damaged-database",
        _database_damaged,
        _database_moved_away,
        message="the state database is damaged",
        where="state.db:",
        next_step="move it away with state.db-wal and state.db-shm, and start again",
        result=None,
    ),
    Failure(
        "empty-database",
        _database_empty,
        _database_moved_away,
        message="the state database is damaged (it is empty)",
        where="state.db:",
        next_step="move it away with state.db-wal and state.db-shm, and start again",
        result=None,
    ),
    Failure(
        "log-without-database",
        _database_log_alone,
        _database_back,
        message="belongs to a state database that no longer exists",
        where="state.db-wal:",
        next_step="Restore the database, or move this file away too",
        result=None,
        heals_to=2,
    ),
    Failure(
        "digest-key-lost",
        _digest_key_lost,
        _digest_key_back,
        message="the digest key is gone",
        where="digest.key:",
        next_step="Restore the right one from a backup of the machine",
        result=None,
        heals_to=2,
    ),
    Failure(
        "digest-key-replaced",
        _digest_key_replaced,
        _digest_key_back,
        message="this is not the digest key that state.db was made with",
        where="digest.key:",
        next_step="Restore the right one from a backup of the machine",
        result=None,
        heals_to=2,
    ),
    Failure(
        "state-read-only",
        _state_read_only,
        _state_writable,
        message="(Read-only file system)",
        where="{root}/state",
        next_step="Make the state directory writable",
        result=None,
        heals_to=2,
        marks=("root",),
    ),
    Failure(
        "state-disk-full",
        _state_disk_full,
        _state_disk_has_room,
        message="disk",
        where="{root}/state",
        next_step="free",
        result=None,
        heals_to=2,
        marks=("root",),
    ),
)
"""Each stops the whole server, or cuts it off from git."""

FAILURES = (*ENVIRONMENT_FAILURES, *SERVER_FAILURES)
