"""Turns what `docker stack deploy` prints when it fails into an error that quotes no value."""

from __future__ import annotations

import re

from reconciler.adapters import process
from reconciler.adapters.compose import errors
from reconciler.adapters.swarm.api import swarm_error
from reconciler.core.errors import EngineUnavailableError, ModelRefusedError, ReconcilerError, SwarmUnavailableError
from reconciler.core.model.compose import Project

_NAME = r"[A-Za-z0-9_.-]+"
_CAUSES = (
    (
        rf"port '(?P<port>\d+)' is already in use by service '(?P<name>{_NAME})'",
        "port {port} is already published by the service {name}",
    ),
    (rf"network \"?(?P<name>{_NAME})\"? is declared as external, but could not be found", "there is no network {name}"),
    (
        rf"network \"?(?P<name>{_NAME})\"? is declared as external, but it is not in the right scope",
        "the network {name} is not of the Swarm",
    ),
    (rf"(?:config|secret) not found: (?P<name>{_NAME})", "there is no config or secret {name}"),
    (
        rf"(?P<place>(?:services|networks|volumes|configs|secrets)\.{_NAME}) Additional property (?P<field>{_NAME}) is",
        "{place}: it does not know the field {field}",
    ),
    (
        rf"(?P<field>services\.{_NAME}) must be an? (?P<kind>[a-z]+)",
        "{field} must be of the type {kind}",
    ),
)
_OUT_OF_SEQUENCE = re.compile("update out of sequence")
_NO_FLAG = re.compile(r"unknown flag: --detach")


def updated_meanwhile(completed: process.Completed) -> bool:
    """Whether somebody, or Swarm itself, changed a service between the command's look and its update."""
    return not completed.ok and _OUT_OF_SEQUENCE.search(errors.stderr_of(completed)) is not None


def knows_no_detach(completed: process.Completed) -> bool:
    """Whether the command is too old to be told not to wait, which it does not do anyway."""
    return not completed.ok and _NO_FLAG.search(errors.stderr_of(completed)) is not None


def of_deploy(project: Project, completed: process.Completed, services: str) -> ReconcilerError:
    """What a failed `docker stack deploy` means."""
    where, stderr = project.invocation.directory, errors.stderr_of(completed)
    if completed.timed_out:
        return EngineUnavailableError(f"docker stack deploy took too long to deploy {services}", where=where)
    if unavailable := swarm_error(stderr, where):
        return unavailable
    if updated_meanwhile(completed):
        # Each try met a newer service: somebody updates it, or the managers are losing their quorum.
        hint = "Look at `docker node ls`, and for whoever else deploys the stack"
        return SwarmUnavailableError(f"{services} is updated by somebody else meanwhile", where=where, hint=hint)
    for pattern, words in _CAUSES:
        if match := re.search(pattern, stderr):
            problem = f"Swarm cannot deploy {services}: {words.format(**match.groupdict())}"
            return ModelRefusedError(problem, where=where, id="swarm-refused")
    error = errors.of_command(project.invocation, completed, f"deploy {services}", "config")
    if isinstance(error, EngineUnavailableError):
        return error
    problem = f"Swarm cannot deploy {services} (exit code {completed.exit_code})"
    hint = (
        f"`docker stack config -c FILE` in {where} shows what its loader refuses, "
        "the log of the Docker engine the rest. Keep that to yourself"
    )
    return ModelRefusedError(problem, where=where, hint=hint, id="swarm-refused")
