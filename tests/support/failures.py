"""What can go wrong, as a table: how each failure comes about, how to recognize its message, how to fix it.

Shared by the tests of the messages (e2e/test_failures.py), the search for leaked secrets (e2e/test_canary.py), and the
check that docs/errors.md has a section for each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.adapters.store import VERSION
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
    accounts_seen: list[str] = field(default_factory=list)
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
        return self.server.ciphertext("api.env", self.plaintext(generation))

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
        if os.geteuid() == 0:
            self.server.hook = ("tests.support.without_rights", {})

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


def _second(site: Site) -> None:
    site.commit(2)


def _third(site: Site) -> None:
    site.commit(3)


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that goes wrong.

    ``happens`` causes it, in git or on the server, and makes a second generation the desired one where possible;
    ``fixed`` does what the message asks for, after which ``heals_to`` is the generation that goes live. The message
    contains ``message``, ``where`` and ``next_step`` ({root} is the server's directory, {environment} the site's).
    ``result`` is that of the reconciliation; None if none can begin. ``exit_code`` is that of `plan` and `sync`.
    ``retried``: without a new revision. ``applied``: whether the first generation was applied before. It is named after
    ``happens``; ``entry`` is the id that the message ends with, where that is not its name.
    """

    happens: Callable[[Site], object]
    message: str
    where: str
    next_step: str
    fixed: Callable[[Site], object] = _third
    name: str = ""
    result: str | None = "stalled"
    exit_code: int = 1
    retried: bool = False
    heals_to: int = 3
    applied: bool = True
    entry: str = ""
    marks: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.name or self.happens.__name__.strip("_").replace("_", "-")

    @property
    def printed_id(self) -> str:
        """The id of its section in docs/errors.md."""
        return self.entry or self.id

    @property
    def parameter(self) -> Any:
        return pytest.param(self, id=self.id, marks=[getattr(pytest.mark, mark) for mark in self.marks])


def grouped(failures: Sequence[Failure], size: int) -> list[Any]:
    """Parameters of about ``size`` failures each, and those that need the same special thing together."""
    plain = [failure for failure in failures if not failure.marks]
    some = max(1, round(len(plain) / size))
    groups = [pytest.param(plain[number::some], id=f"plain-{number}") for number in range(some)]
    for marks in sorted({failure.marks for failure in failures if failure.marks}):
        special = [failure for failure in failures if failure.marks == marks]
        groups.append(pytest.param(special, id="-".join(marks), marks=[getattr(pytest.mark, mark) for mark in marks]))
    return groups


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


def _with_contract(site: Site, text: str | None) -> None:
    """The second generation, whose manifest names a contract. Only this environment's target does."""
    contract = f"contracts/{site.environment}.yaml"
    if text is not None:
        site.server.remote.commit({f"envs/{contract}": text.encode()})
    site.commit(2, schema=contract)


def _broken_contract(site: Site) -> None:
    _with_contract(site, "properties:\n  TOKEN: {enum: [a, b], pattern: ^x, maxLength: 1, format: uri}\n")


def _missing_contract(site: Site) -> None:
    _with_contract(site, None)


def _unusable_contract(site: Site) -> None:
    _with_contract(site, "properties:\n  MODE: {const: false}\n")


def _slow_contract(site: Site) -> None:
    site.faults.limit_contracts(0.3)
    _with_contract(site, "properties:\n  TOKEN: {pattern: ^(.+)+(.+)+(.+)+(.+)+(.+)+$x}\n")


# --- the server's files ---


def _live_path_is_a_directory(site: Site) -> None:
    site.live.rename(site.directory / "aside")
    site.live.mkdir()
    site.commit(2)


def _live_is_no_directory(site: Site) -> None:
    site.live.rmdir()
    (site.directory / "aside").rename(site.live)


def _live_path_is_a_link(site: Site) -> None:
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


def _no_inodes(site: Site) -> None:
    site.mount(site.directory, "1m,nr_inodes=32")
    take_inodes(site.directory)
    site.commit(2)


def _inodes_again(site: Site) -> None:
    shutil.rmtree(site.directory / "filler")


def _read_only_disk(site: Site) -> None:
    site.mount(site.directory, "64k")
    output("mount", "-o", "remount,ro", site.directory)
    site.commit(2)


def _disk_writable(site: Site) -> None:
    output("mount", "-o", "remount,rw", site.directory)


def _no_write_access(site: Site) -> None:
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


def take_inodes(directory: Path) -> None:
    """Leave no inode on the disk of the directory, and much of its space."""
    filler = directory / "filler"
    with contextlib.suppress(OSError):
        while True:
            filler.mkdir()
            filler /= "filler"


def fill(directory: Path) -> None:
    """Take all the space of the file system, in a file named filler."""
    with (directory / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))


# --- Docker ---


def _missing_engine(site: Site) -> None:
    (site.directory / "compose.yaml").write_text(COMPOSE)
    site.variables["DOCKER_HOST"] = f"unix://{site.server.root}/{NO_ENGINE}"
    site.commit(2, stack=True)


def _missing_compose_file(site: Site) -> None:
    site.commit(2, stack=True)


# --- git ---


def _git_remote_gone(site: Site) -> None:
    site.commit(2)
    site.server.remote.path.rename(site.server.remote.path.with_name("moved.git"))


def _remote_back(site: Site) -> None:
    site.server.remote.path.with_name("moved.git").rename(site.server.remote.path)


def _branch_gone(site: Site) -> None:
    site.commit(2)
    site.server.remote.git("branch", "-m", "main", "renamed")


def _branch_back(site: Site) -> None:
    site.server.remote.git("branch", "-m", "renamed", "main")


def _git_token_refused(site: Site) -> None:
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


def _empty_repository(site: Site) -> None:
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


def _credentials_not_set(site: Site) -> None:
    site.server.settings["decryption"] = {"age_key_file": "${CREDENTIALS_DIRECTORY}/age.key"}
    site.commit(2)


def _newer_database(site: Site) -> None:
    _set_database_version(site, 99)
    site.commit(2)


def _database_known(site: Site) -> None:
    _set_database_version(site, VERSION)


def _set_database_version(site: Site, version: int) -> None:
    with contextlib.closing(sqlite3.connect(site.server.state / "state.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")


def _damaged_database(site: Site) -> None:
    (site.server.state / "state.db").write_bytes(b"no database\n" * 400)
    site.commit(2)


def _database_moved_away(site: Site) -> None:
    """What was live is no longer known to be ours: the person says that it may be replaced."""
    (site.server.state / "state.db").unlink()
    site.commit(3, on_first_contact="take_over")


def _empty_database(site: Site) -> None:
    (site.server.state / "state.db").write_bytes(b"")
    site.commit(2)


def _log_without_database(site: Site) -> None:
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


def _state_no_inodes(site: Site) -> None:
    site.mount(site.server.state, "16m,nr_inodes=512")
    take_inodes(site.server.state)
    site.commit(2)


def _state_inodes_again(site: Site) -> None:
    shutil.rmtree(site.server.state / "filler")


# fmt: off
ENVIRONMENT_FAILURES = (
    Failure(_unknown_field, "targets.api.env.onwer: is not a known field", "environment.yaml:3:",
        "did you mean owner?"),
    Failure(_unparsable_yaml, "cannot be read as YAML", "environment.yaml:3:", "expected ',' or '}' (begun in line 2)"),
    Failure(_duplicate_field, "targets: appears twice, first in line 1", "environment.yaml:4:", "each name once"),
    Failure(_missing_manifest, "not found at revision", "environment.yaml:", "Add the file"),
    Failure(_missing_source, "the source does not exist", "/api.env:", "Commit the file, or remove the target api.env"),
    Failure(_outside_allowed_paths, '"/opt/elsewhere/api.env" lies outside allowed_paths',
        "environment.yaml:3: targets.api.env.path:", "a path below one of them"),
    Failure(_link_on_the_way, "link", "{root}/app/", "name the real path in the manifest", fixed=_no_link_on_the_way,
        result="failed", retried=True, heals_to=2),
    Failure(_live_path_is_a_link, "it is a symbolic link", "{root}/app/", "name the real path in the manifest",
        fixed=_live_is_no_link, result="failed", retried=True, heals_to=2),
    Failure(_live_path_is_a_directory, "is a directory", "{root}/app/", "Move it away, or correct the target's path",
        fixed=_live_is_no_directory, result="failed", retried=True, heals_to=2),
    Failure(_unknown_owner, "the user 'no-such-user' does not exist", "/api.env:", "useradd --system no-such-user"),
    Failure(_not_encrypted, "is not encrypted: it contains plain values for TOKEN, PASSWORD, MODE", "envs/",
        "sops encrypt --in-place envs/"),
    Failure(_wrong_key, "is not encrypted for this server", "envs/", "sops updatekeys envs/"),
    Failure(_mac_mismatch, "its MAC does not match", "envs/", "reconciler edit envs/"),
    Failure(_type_changed, "a value does not decrypt, perhaps one that is not marked type:str: TOKEN", "envs/",
        "reconciler edit envs/"),
    Failure(_conflict_markers, "has an unresolved merge conflict", "api.env, line 2:", "Take one side completely"),
    Failure(_duplicate_key, "TOKEN is already set in line 1", "api.env, line 10:", "Remove one"),
    Failure(_duplicate_plain_key, "defined twice: TOKEN", "/api.env:", "keep one"),
    Failure(_encrypted_twice, "a value is encrypted twice (line 1 of the plaintext)", "/api.env:",
        "reconciler edit envs/"),
    Failure(_unparsable_env_file, "a quote is opened and never closed", "/api.env: Compose could not read it: line 2:",
        "close it"),
    Failure(_broken_contract, "TOKEN must be one of a, b (`enum` of contracts/{environment}.yaml:2)", "/api.env: ",
        "fix the value with `reconciler set`, or the contract"),
    Failure(_missing_contract, "the contract does not exist at revision", "envs/contracts/{environment}.yaml: ",
        "Commit the file, or remove it from the target's schema"),
    Failure(_unusable_contract, "properties.MODE.const: every value is a string: put it in quotes",
        "contracts/{environment}.yaml:2: ", "put it in quotes"),
    Failure(_slow_contract, "a contract takes too long", "contracts/{environment}.yaml: ", "Make its patterns simpler"),
    Failure(_disk_full, "No space left on device", "{root}/app/", "free some space", fixed=_disk_has_room,
        result="failed", retried=True, heals_to=2, marks=("root",)),
    Failure(_no_inodes, "cannot write the live file (No space left on device: no inodes are left on the disk",
        "{root}/app/", "`df -i` shows it", fixed=_inodes_again, result="failed", retried=True,
        heals_to=2, marks=("root",)),
    Failure(_read_only_disk, "cannot write the live file (Read-only file system)", "{root}/app/",
        "remount it read-write", fixed=_disk_writable, result="failed", retried=True, heals_to=2,
        marks=("root",)),
    Failure(_no_write_access, "cannot write the live file (Permission denied)", "{root}/app/",
        "give its user write access to the directory", fixed=_access, result="failed", retried=True,
        heals_to=2),
    Failure(_disk_error, "cannot write the live file (Input/output error)", "{root}/app/",
        "The disk reports an error (dmesg)", fixed=_disk_well, result="failed", retried=True, heals_to=2),
    Failure(_missing_engine, "the Docker engine does not answer", NO_ENGINE, "systemctl start docker", result="failed",
        retried=True, marks=("docker",), entry="engine-unavailable"),
    Failure(_missing_compose_file, "there is no compose file", "{root}/app/", "put the compose file there",
        result="failed", retried=True, entry="stack-gone"),
)
# fmt: on
"""Each stops one environment, and no other."""

# fmt: off
SERVER_FAILURES = (
    Failure(_server_file_unknown_field, "repositry: is not a known field", "reconciler.yaml:",
        "did you mean repository?", fixed=_server_file_corrected, result=None, heals_to=2, entry="unknown-field"),
    Failure(_server_file_unparsable, "cannot be read as YAML", "broken.yaml:3:",
        "expected ',' or '}' (begun in line 2)", fixed=_server_file_named, result=None, heals_to=2,
        entry="unparsable-yaml"),
    Failure(_server_file_missing, "cannot be read (No such file or directory)", "missing.yaml:",
        "--config or RECONCILER_CONFIG", fixed=_server_file_named, result=None, heals_to=2,
        entry="server-configuration-missing"),
    Failure(_git_remote_gone, "the repository does not exist", "remote.git (branch main):", "Check repository.url",
        fixed=_remote_back, result="in_sync", retried=True, heals_to=2, entry="git-unreachable"),
    Failure(_git_remote_gone, "the repository does not exist", "remote.git (branch main):", "Check repository.url",
        name="git-remote-never-there", fixed=_remote_back, result="failed", retried=True, heals_to=2, applied=False,
        entry="git-unreachable"),
    Failure(_branch_gone, "the branch 'main' does not exist; the remote has: renamed", "remote.git (branch main):",
        "Correct repository.branch", fixed=_branch_back, result="in_sync", retried=True, heals_to=2),
    Failure(_git_token_refused, "localhost refuses access to the repository", "/config.git (branch main):",
        "Check that the token in repository.token_file has not expired", fixed=_token_renewed, result="in_sync",
        retried=True, heals_to=2),
    Failure(_empty_repository, "the repository is empty", "remote.git (branch main):", "Push the branch main",
        result="failed", retried=True, applied=False),
    Failure(_history_rewritten, "the branch was rewritten", "branch main:", "Restore the branch", fixed=_history_back,
        result="in_sync", exit_code=2),
    Failure(_age_key_missing, "the age key is not usable: No such file or directory", "missing.key:",
        "restore it from your copy", fixed=_age_key_there, result="failed", retried=True, heals_to=2,
        entry="age-key-unusable"),
    Failure(_credentials_not_set, "${CREDENTIALS_DIRECTORY} is used, but not set", "decryption.age_key_file:",
        "Let the unit load it (LoadCredential=", fixed=_age_key_there, result=None, heals_to=2),
    Failure(_newer_database, "version 99, written by a newer reconciler", "state.db:",
        "install the newer reconciler again", fixed=_database_known, result=None, heals_to=2),
    Failure(_damaged_database, "the state database is damaged", "state.db:",
        "move it away with state.db-wal and state.db-shm, and start again", fixed=_database_moved_away, result=None),
    Failure(_empty_database, "the state database is damaged (it is empty)", "state.db:",
        "move it away with state.db-wal and state.db-shm, and start again", fixed=_database_moved_away, result=None,
        entry="damaged-database"),
    Failure(_log_without_database, "belongs to a state database that no longer exists", "state.db-wal:",
        "Restore the database, or move this file away too", fixed=_database_back, result=None, heals_to=2),
    Failure(_digest_key_lost, "the digest key is gone", "digest.key:",
        "Restore the right one from a backup of the machine", fixed=_digest_key_back, result=None, heals_to=2),
    Failure(_digest_key_replaced, "this is not the digest key that state.db was made with", "digest.key:",
        "Restore the right one from a backup of the machine", fixed=_digest_key_back, result=None, heals_to=2),
    Failure(_state_read_only, "(Read-only file system)", "{root}/state", "Make the state directory writable",
        fixed=_state_writable, result=None, heals_to=2, marks=("root",)),
    Failure(_state_disk_full, "disk", "{root}/state", "free", fixed=_state_disk_has_room, result=None, heals_to=2,
        marks=("root",)),
    Failure(_state_no_inodes, "no inodes are left on the disk", "{root}/state", "free", fixed=_state_inodes_again,
        result=None, heals_to=2, marks=("root",)),
)
# fmt: on
"""Each stops the whole server, or cuts it off from git."""

FAILURES = (*ENVIRONMENT_FAILURES, *SERVER_FAILURES)
