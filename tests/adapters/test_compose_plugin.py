"""Which program runs Compose: the plugin that the docker command would start, where that is certain."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reconciler.adapters.compose import plugin
from reconciler.adapters.compose.plugin import compose_command

CONFIG = ["docker", "compose", "-p", "app", "config"]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker command, and a plugin in the second of its usual directories."""
    for name in ("bin", "home", "first", "second"):
        (tmp_path / name).mkdir()
    executable(tmp_path / "bin" / "docker", b"\x7fELF")
    executable(tmp_path / "second" / "docker-compose")
    monkeypatch.setattr(plugin, "_DIRECTORIES", (str(tmp_path / "first"), str(tmp_path / "second")))
    return tmp_path


def executable(path: Path, data: bytes = b"#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755)
    return path


def started(root: Path, argv: list[str] = CONFIG, **variables: str) -> str:
    """The program that is started, relative to ``root``; its arguments are always those of the docker command."""
    environment = {"PATH": str(root / "bin"), "HOME": str(root / "home"), **variables}
    command, given = compose_command(argv, environment)
    without_engine = ["--host", "unix:///dev/null"]
    assert [word for word in command[1:] if word not in without_engine] == argv[1:]
    assert (command[1:3] == without_engine) == (command[0] != "docker" and "up" not in argv)
    assert given.items() >= environment.items()
    assert ("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND" in given) == (command[0] != "docker")
    return os.path.relpath(command[0], root) if command[0] != "docker" else "docker"


def test_the_plugin_that_docker_finds_first_is_started(docker: Path) -> None:
    assert started(docker) == "second/docker-compose"
    executable(docker / "first" / "docker-compose")
    assert started(docker) == "first/docker-compose"
    executable(docker / "home" / ".docker" / "cli-plugins" / "docker-compose")
    assert started(docker) == "home/.docker/cli-plugins/docker-compose"
    executable(docker / "own" / "cli-plugins" / "docker-compose")
    assert started(docker, DOCKER_CONFIG=str(docker / "own")) == "own/cli-plugins/docker-compose"


def test_only_config_is_kept_from_the_engine(docker: Path) -> None:
    """It needs none; a service may be called as it is."""
    assert started(docker, [*CONFIG, "--format", "json"]) == "second/docker-compose"
    assert started(docker, ["docker", "compose", "-p", "config", "up", "--", "config"]) == "second/docker-compose"


def test_other_docker_commands_are_started_as_they_are(docker: Path) -> None:
    assert started(docker, ["docker", "version"]) == "docker"


@pytest.mark.parametrize("obstacle", ["script", "snap", "none", "own directories", "unreadable", "first unusable"])
def test_in_doubt_docker_itself_chooses(docker: Path, obstacle: str) -> None:
    command, settings = docker / "bin" / "docker", docker / "home" / ".docker" / "config.json"
    settings.parent.mkdir()
    match obstacle:
        case "script":
            executable(command)
        case "snap":
            command.rename(docker / "bin" / "snap")
            command.symlink_to("snap")
        case "none":
            command.unlink()
        case "own directories":
            settings.write_text(json.dumps({"cliPluginsExtraDirs": ["/opt/plugins"]}))
        case "unreadable":
            settings.write_text("{")
        case "first unusable":
            (docker / "first" / "docker-compose").symlink_to("/nonexistent")
    assert started(docker) == "docker"
