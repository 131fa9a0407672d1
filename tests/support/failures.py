"""What can go wrong, as a table: how each failure comes about, how its message is known, how it is mended.

Shared by the tests of the messages, the search for leaked secrets, and the check that docs/errors.md is complete.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.age_key import make_age_key
from tests.support.commands import output, run
from tests.support.server import Server

COMPOSE = "services:\n  api:\n    image: reconciler-test/none:1\n    env_file: api.env\n"


@dataclass(slots=True)
class Site:
    """One environment of a server: a live directory of its own below allowed_paths, and one target, api.env.

    ``value`` stands in its secret variables. ``variables`` is added to the environment of every command.
    """

    server: Server
    environment: str
    value: str = "value"
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.server.app / self.environment

    @property
    def live(self) -> Path:
        return self.directory / "api.env"

    def plaintext(self, generation: int) -> bytes:
        """The content of api.env: another one for every generation, with the same keys."""
        return f"TOKEN={self.value}.{generation}\nPASSWORD={self.value}\nMODE=generation-{generation}\n".encode()

    def manifest(self, *, stack: bool = False, **target: Any) -> dict[str, Any]:
        """api.env as a target of no stack, or of one whose directory is the site's."""
        if stack:
            stacks = {"app": {"directory": str(self.directory), "targets": {"api.env": target or None}}}
            return {"stacks": stacks}
        return {"targets": {"api.env": {"path": str(self.live), **target}}}

    def commit(self, generation: int, *, stack: bool = False, **target: Any) -> str:
        """Commit a sound revision."""
        sources = {"api.env": self.plaintext(generation)}
        return self.server.commit(sources, self.manifest(stack=stack, **target), environment=self.environment)

    def commit_files(self, files: Mapping[str, bytes | None]) -> str:
        """Commit bytes as they are, below the environment's directory."""
        named = {f"envs/{self.environment}/{name}": data for name, data in files.items()}
        return self.server.remote.commit(named)

    def ciphertext(self, generation: int) -> bytes:
        """api.env as sops encrypts it for this server."""
        return self.server.key.encrypt("api.env", self.plaintext(generation))


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that goes wrong, after a first revision was applied.

    ``happens`` brings it about: in git, by a second revision, or on the server. ``mended`` is what the message tells
    a person to do. ``what``, ``where`` and ``next_step`` are words that the message must hold ({directory} is the
    site's). ``starts_with_stack``: the first revision's target belongs to a stack already.
    """

    id: str
    happens: Callable[[Site], object]
    mended: Callable[[Site], object]
    what: tuple[str, ...]
    where: tuple[str, ...]
    next_step: tuple[str, ...]
    result: str = "stalled"
    retried: bool = False
    marks: tuple[str, ...] = ()

    def parameter(self) -> Any:
        return pytest.param(self, id=self.id, marks=[getattr(pytest.mark, mark) for mark in self.marks])


def second(site: Site) -> None:
    site.commit(2)


def third(site: Site) -> None:
    site.commit(3)


# --- how they come about: the manifest ---


def unknown_field(site: Site) -> None:
    site.commit(2, onwer="root")


def unparsable_yaml(site: Site) -> None:
    site.commit_files({"environment.yaml": b"targets:\n  api.env: {path: /opt\n  other.env: 1\n"})


def duplicate_field(site: Site) -> None:
    text = yaml.safe_dump(site.manifest()).encode()
    site.commit_files({"environment.yaml": text + b"targets: {}\n"})


def missing_manifest(site: Site) -> None:
    site.commit_files({"environment.yaml": None})


def missing_source(site: Site) -> None:
    site.commit_files({"api.env": None})


def outside_allowed_paths(site: Site) -> None:
    site.commit(2, path=str(site.server.root / "elsewhere" / "api.env"))


def unknown_owner(site: Site) -> None:
    site.commit(2, owner="no-such-user")


# --- the ciphertext ---


def not_encrypted(site: Site) -> None:
    site.commit_files({"api.env": site.plaintext(2)})


def wrong_key(site: Site) -> None:
    directory = site.server.root / f"another-key-{site.environment}"
    directory.mkdir()
    site.commit_files({"api.env": make_age_key(directory).encrypt("api.env", site.plaintext(2))})
    shutil.rmtree(directory)


def mac_mismatch(site: Site) -> None:
    lines = site.ciphertext(2).splitlines(keepends=True)
    site.commit_files({"api.env": b"".join(line for line in lines if not line.startswith(b"PASSWORD="))})


def conflict_markers(site: Site) -> None:
    ours, theirs = site.ciphertext(2).splitlines(), site.ciphertext(3).splitlines()
    merged = [b"<<<<<<< ours", ours[0], b"=======", theirs[0], b">>>>>>> theirs", *ours[1:]]
    site.commit_files({"api.env": b"\n".join(merged) + b"\n"})


def duplicate_key(site: Site) -> None:
    site.commit_files({"api.env": site.ciphertext(2) + b"TOKEN=\n"})


# --- the plaintext ---


def duplicate_plain_key(site: Site) -> None:
    site.commit_files({
        "environment.yaml": yaml.safe_dump(site.manifest(encrypted=False)).encode(),
        "api.env": site.plaintext(2) + site.plaintext(3),
    })


def encrypted_twice(site: Site) -> None:
    twice = site.server.key.encrypt("api.env", f"TOKEN={site.value}\n".encode()).splitlines()[0]
    site.commit_files({"api.env": site.server.key.encrypt("api.env", twice + b"\nPASSWORD=\nMODE=\n")})


def unparsable_env_file(site: Site) -> None:
    broken = f'TOKEN="{site.value}\nPASSWORD={site.value}\nMODE=2\n'.encode()
    site.commit_files({"api.env": site.server.key.encrypt("api.env", broken)})


# --- the server ---


def live_is_a_directory(site: Site) -> None:
    site.live.rename(site.directory / "aside")
    site.live.mkdir()
    second(site)


def live_is_a_file_again(site: Site) -> None:
    site.live.rmdir()
    (site.directory / "aside").rename(site.live)


def live_is_a_link(site: Site) -> None:
    site.live.rename(site.directory / "aside")
    site.live.symlink_to("aside")
    second(site)


def live_is_no_link(site: Site) -> None:
    site.live.unlink()
    (site.directory / "aside").rename(site.live)


def link_on_the_way(site: Site) -> None:
    real = site.directory.with_name(f"{site.environment}-real")
    site.directory.rename(real)
    site.directory.symlink_to(real)
    second(site)


def no_link_on_the_way(site: Site) -> None:
    real = site.directory.resolve()
    site.directory.unlink()
    real.rename(site.directory)


def disk_full(site: Site) -> None:
    """A small file system over the live directory, filled to the last byte, with the live file in it."""
    before = site.live.read_bytes()
    output("mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", site.directory)
    site.live.write_bytes(before)
    site.live.chmod(0o600)
    fill(site.directory)
    second(site)


def disk_has_room(site: Site) -> None:
    (site.directory / "filler").unlink()


def fill(directory: Path) -> None:
    """Take all the space of its file system."""
    with (directory / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def engine_gone(site: Site) -> None:
    """The socket is there, and nobody listens."""
    (site.directory / "compose.yaml").write_text(COMPOSE)
    site.variables["DOCKER_HOST"] = f"unix://{site.server.root}/nobody-listens.sock"
    site.commit(2, stack=True)


def without_stack(site: Site) -> None:
    site.commit(3)


def missing_compose_file(site: Site) -> None:
    site.commit(2, stack=True)


FAILURES = (
    Failure(
        "unknown-field",
        unknown_field,
        third,
        what=("targets.api.env.onwer", "not a known field"),
        where=("environment.yaml:",),
        next_step=("did you mean owner",),
    ),
    Failure(
        "unparsable-yaml",
        unparsable_yaml,
        third,
        what=("cannot be read as YAML",),
        where=("environment.yaml:3",),
        next_step=(),
    ),
    Failure("duplicate-field", duplicate_field, third, what=(), where=(), next_step=()),
    Failure("missing-manifest", missing_manifest, third, what=(), where=(), next_step=()),
    Failure("missing-source", missing_source, third, what=(), where=(), next_step=()),
    Failure("outside-allowed-paths", outside_allowed_paths, third, what=(), where=(), next_step=()),
    Failure("link-on-the-way", link_on_the_way, no_link_on_the_way, what=(), where=(), next_step=()),
    Failure("live-path-is-a-link", live_is_a_link, live_is_no_link, what=(), where=(), next_step=()),
    Failure("live-path-is-a-directory", live_is_a_directory, live_is_a_file_again, what=(), where=(), next_step=()),
    Failure("not-encrypted", not_encrypted, third, what=(), where=(), next_step=()),
    Failure("wrong-key", wrong_key, third, what=(), where=(), next_step=()),
    Failure("mac-mismatch", mac_mismatch, third, what=(), where=(), next_step=()),
    Failure("conflict-markers", conflict_markers, third, what=(), where=(), next_step=()),
    Failure("duplicate-key", duplicate_key, third, what=(), where=(), next_step=()),
    Failure("duplicate-plain-key", duplicate_plain_key, third, what=(), where=(), next_step=()),
    Failure("encrypted-twice", encrypted_twice, third, what=(), where=(), next_step=()),
    Failure("unparsable-env-file", unparsable_env_file, third, what=(), where=(), next_step=()),
    Failure("unknown-owner", unknown_owner, third, what=(), where=(), next_step=()),
    Failure("disk-full", disk_full, disk_has_room, what=(), where=(), next_step=()),
    Failure("missing-engine", engine_gone, without_stack, what=(), where=(), next_step=()),
    Failure("missing-compose-file", missing_compose_file, without_stack, what=(), where=(), next_step=()),
)
