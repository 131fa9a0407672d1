"""Starts Compose as the docker command does, without the docker command.

`docker compose` starts every plugin there is to ask for its name, then the Compose plugin: that takes longer than what
Compose itself does. So the plugin is started directly, with the same arguments and in the same environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence

from reconciler.adapters.compose.engine_address import config_path

# As the docker command searches: after `cli-plugins` in its own configuration directory.
_DIRECTORIES = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
_NAME = "docker-compose"
# By this a plugin knows that it is one; its value is how the docker command was called.
_MARK = {"DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": "docker"}
# Compose asks the engine for its whole description before any command, to find Docker Desktop, and waits while that
# runs runc. `config` needs no engine. As it is an option, `${DOCKER_HOST}` in a compose file does not see it.
_NO_ENGINE = ("--host", "unix:///dev/null")


def compose_command(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Given `docker …` and its environment, return what to start instead, and the environment for that: for `docker
    compose` the plugin, where it is certain which one the docker command would take."""
    plugin = _plugin(environment) if list(argv[:2]) == ["docker", "compose"] else ""
    if not plugin:
        return list(argv), dict(environment)
    engine = _NO_ENGINE if _subcommand(argv[2:]) == "config" else ()
    return [plugin, *engine, *argv[1:]], {**environment, **_MARK}


def _subcommand(words: Sequence[str]) -> str:
    """That of `docker compose`; each option before it has a value (see ``Invocation.options``)."""
    return next((word for word in words[::2] if not word.startswith("-")), "")


def _plugin(environment: Mapping[str, str]) -> str:
    """The path of the Compose plugin; "" where the docker command is a script or another program's, has directories of
    its own for plugins, or there is no plugin."""
    docker = shutil.which("docker", path=environment.get("PATH", os.defpath))
    settings = config_path(environment)
    if docker is None or not _is_docker(os.path.realpath(docker)) or _has_directories(settings):
        return ""
    paths = (
        os.path.join(directory, _NAME)
        for directory in (os.path.join(os.path.dirname(settings), "cli-plugins"), *_DIRECTORIES)
    )
    path = next(filter(os.path.lexists, paths), "")
    return path if os.access(path, os.X_OK) and os.path.isfile(path) else ""


def _is_docker(path: str) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return os.path.basename(path) == "docker" and file.read(4) == b"\x7fELF"
    return False


def _has_directories(settings: str) -> bool:
    """Whether the configuration of the docker command names directories of plugins, or cannot be read."""
    try:
        with open(settings, encoding="utf-8") as file:
            return "cliPluginsExtraDirs" in json.load(file)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError):
        return True
