"""Real Compose projects for tests: made below a temporary directory, and removed by their labels.

By labels, because a test may break its compose file on purpose, and then no compose command can take it down.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import CommandFailed, output, run
from tests.support.engine_api import KINDS, ask_engine, labelled, remove_labelled
from tests.support.waiting import eventually

TIMEOUT = 120.0  # seconds

# Ends immediately if MODE begins with bad.
MAY_CRASH = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""


@dataclass(frozen=True, slots=True)
class ComposeProject:
    """A stack directory. Its name is the project's, as Compose takes it from the directory."""

    name: str
    directory: Path

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> Path:
        """Write a file of the stack and return its path."""
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)
        return file

    def compose(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``docker compose`` in the stack's directory with more variables, whatever its exit code."""
        env = {**os.environ, **variables} if variables else None
        return run("docker", "compose", *arguments, cwd=self.directory, env=env, timeout=TIMEOUT)

    def up(self, *services: str) -> None:
        """Start the services (default: all). Raises CommandFailed."""
        output("docker", "compose", "up", "--detach", "--pull", "never", *services, cwd=self.directory, timeout=TIMEOUT)

    def container(self, service: str) -> dict[str, Any]:
        """What ``docker inspect`` says of the service's container, running or not. Raises CommandFailed for none."""
        for identifier in labelled("container", project=self.name, service=service):
            container: dict[str, Any] | None = ask_engine("GET", f"containers/{identifier}/json")
            if container is not None:
                return container
        raise CommandFailed(f"service {service} of {self.name} has no container")

    def environment(self, service: str) -> dict[str, str]:
        """The variables that the service's container was made with, those of the image among them."""
        return dict(entry.split("=", 1) for entry in self.container(service)["Config"]["Env"])

    def logs(self, service: str) -> str:
        """What the service's container has printed."""
        completed = run("docker", "logs", self.container(service)["Id"])
        return (completed.stdout + completed.stderr).decode(errors="replace")

    def remove(self) -> None:
        """Remove its containers, networks and volumes, also ones that a command still at work makes meanwhile."""
        eventually(lambda: not remove_labelled(project=self.name), timeout=TIMEOUT, interval=0.02)


def make_project(directory: Path, compose: str, files: Mapping[str, str | bytes]) -> ComposeProject:
    """Make the stack directory with its compose.yaml and further files; nothing is started."""
    directory.mkdir()
    project = ComposeProject(directory.name, directory)
    for path, data in {"compose.yaml": compose, **files}.items():
        project.write(path, data)
    return project


def left_behind(name: str) -> list[str]:
    """Ids of the project's containers, networks and volumes."""
    return [identifier for kind in KINDS for identifier in labelled(kind, project=name)]
