"""Turns what Docker Compose prints when it fails into an error that quotes no value.

Its standard error may hold secrets (`unterminated quoted value "…`), so nothing of it is passed on but what a pattern
below picks out: names of variables, services and fields, paths and line numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.adapters import process
from reconciler.core.errors import EngineUnavailableError, ModelRefusedError, ReconcilerError
from reconciler.core.exhaustion import MEMORY, exhausted_in
from reconciler.core.model.compose import Invocation

# Exit codes of the docker command where its compose plugin was killed: what it makes of "no exit code", and a shell's.
_KILLED = frozenset({255, 137})

_NAME = r"[A-Za-z0-9_.-]+"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_PATH = r"/[^\s:\"']+"
_LINE = rf"(?:failed to read (?P<path>{_PATH}): )?line (?P<line>\d+): "


@dataclass(frozen=True, slots=True)
class _Cause:
    """A known message. `words` may use the pattern's groups; `path` and `line` become the error's place."""

    pattern: re.Pattern[str]
    words: str
    hint: str = ""


def _cause(pattern: str, words: str, hint: str = "") -> _Cause:
    return _Cause(re.compile(pattern), words, hint)


# Nothing is wrong with the files: the machine or the engine is unavailable or refuses access.
_OUTSIDE = (
    _cause(
        r"Cannot connect to the Docker daemon|error during connect|Is the docker daemon running",
        "the Docker engine does not answer",
        "Start it (`systemctl start docker`), or correct DOCKER_HOST of the service",
    ),
    _cause(
        r"permission denied while trying to connect to the [Dd]ocker",
        "the Docker engine refuses access",
        "Run as root, or as a member of the group docker",
    ),
    _cause(
        r"'compose' is not a docker command|unknown command: docker compose|unknown (shorthand )?flag: ",
        "docker has no compose command",
        "Install the Compose v2 plugin (docker-compose-plugin, or docker-compose-v2)",
    ),
    _cause(r"no configuration file provided", "there is no compose file", "Correct the stack's directory or files"),
    _cause(
        rf"open (?P<path>{_PATH}): permission denied",
        "the file cannot be read",
        "Run as root, or as the files' owner: Compose reads env files itself",
    ),
    _cause(r"no space left on device", "the disk is full", "Make room, e.g. `docker system df`"),
    _cause(
        r"[Cc]onflict\. The container name \"?/[0-9a-f]{12}_|removal .* is already in progress|marked for removal"
        r"|No such container",
        "the Docker engine is still removing a container",
        "`docker ps -a` shows it. If it stays, restart the engine",
    ),
    _cause(r"context deadline exceeded|i/o timeout", "the Docker engine did not answer in time"),
)

# What Compose finds wrong with the project.
_MODEL = (
    _cause(_LINE + "unterminated quoted value", "a quote is opened and never closed"),
    _cause(_LINE + "unexpected character .* in variable name", "a variable's name has a character that is not allowed"),
    _cause(_LINE + "key cannot contain a space", "the name of a variable holds a space; a line must be NAME=value"),
    _cause(
        rf"required variable (?P<name>{_VARIABLE}) is missing a value",
        "the variable {name} is required and has no value",
        "Define it in the project's .env, or in the env file that uses it",
    ),
    _cause(rf"env file (?P<path>{_PATH}) not found", "the env file does not exist"),
    _cause(
        rf'unsupported env_file format "?(?P<name>{_NAME})',
        "it does not know the env_file format {name}",
        "Upgrade the Compose plugin, or write the env file for Compose and leave `format` out",
    ),
    _cause(r"invalid interpolation format for (?P<name>[\w.\[\]-]+)\.\s", "the ${{…}} in {name} is not valid"),
    _cause(
        "[Ii]nvalid template|invalid interpolation format",
        "a ${{…}} is not valid",
        "Write $$ for a literal $, or put the value in single quotes",
    ),
    _cause(
        rf"(?:failed to parse (?P<path>{_PATH}): )?yaml: (?:unmarshal errors:\s+)?line (?P<line>\d+)",
        "the YAML has an error",
    ),
    _cause(
        rf"validating (?P<path>{_PATH}): (?P<field>{_NAME}) [Aa]dditional propert(?:y|ies) '?(?P<name>{_NAME})'? "
        r"(?:is )?not allowed",
        "{field} has a field {name} that Compose does not know",
    ),
    _cause(
        rf"validating (?P<path>{_PATH}): (?P<field>{_NAME}) must be an? (?P<kind>[a-z]+)", "{field} must be a {kind}"
    ),
    _cause(rf"validating (?P<path>{_PATH}): ", "it breaks the rules for compose files"),
    _cause(
        rf'service "(?P<name>{_NAME})" depends on undefined service "?(?P<dependency>{_NAME})',
        "service {name} depends on {dependency}, which is not defined",
    ),
    _cause(
        rf'service "(?P<name>{_NAME})" refers to undefined (?P<kind>[a-z]+) "?(?P<dependency>{_NAME})',
        "service {name} uses the {kind} {dependency}, which is not defined",
    ),
    _cause(rf"no such service: (?P<name>{_NAME})", "there is no service {name}"),
    _cause(
        rf'cannot extend service "(?P<name>{_NAME})" in (?P<path>{_PATH})',
        "service {name} extends one that is not defined",
    ),
    _cause(r"dependency cycle detected", "services depend on each other in a cycle"),
    _cause(
        r"remote resource is disabled",
        "the project includes what Compose would have to fetch, and git names it or says how",
        "Only what files name that reconciler never writes is fetched. Have an operator include it there, or drop it",
    ),
    _cause(r"empty compose file", "the compose file is empty"),
    _cause(rf"(?:open|stat) (?P<path>{_PATH}): no such file or directory", "the file does not exist"),
    _cause(rf"read (?P<path>{_PATH}): is a directory", "this is a directory and should be a file"),
    _cause(r"[Ii]nvalid (?:hostPort|containerPort|port|IP)", "a port of a service is not a number or range"),
    _cause(rf"'services\[(?P<name>{_NAME})\]\.(?P<field>[\w.\[\]-]+)'", "{field} of service {name} is invalid"),
)

# What the engine finds wrong when services are started.
_START = (
    _cause(
        r"port is already allocated|address already in use",
        "a port that a service publishes is already in use",
        "`ss -ltnp` shows by what",
    ),
    _cause(
        r"[Nn]o such image|pull access denied",
        "the image of a service is not on this server",
        "Fetch it with `docker compose pull`: images are never pulled by a change of a file",
    ),
    _cause(r"bind source path does not exist", "a path that a service mounts does not exist"),
    _cause(r"Are you trying to mount a directory onto a file", "a mount is a file here and a directory there"),
    _cause(
        rf"dependency failed to start: container (?P<name>{_NAME}) (?P<how>is unhealthy|exited \(\d+\))",
        "container {name}, on which others depend, {how}",
    ),
    _cause(
        rf'service "(?P<name>{_NAME})" didn.t complete successfully: exit (?P<code>\d+)',
        "{name}, whose completion others wait for, ended with exit code {code}",
    ),
    _cause(r"exec: .*(?:not found|no such file|permission denied)", "the command of a service cannot be started"),
    _cause(r"[Cc]onflict\. The container name", "a container has a name that Compose needs"),
    _cause(r"network \S+ not found", "a network that the project uses does not exist"),
    _cause(r"external volume \S+ not found", "a volume that the project uses does not exist"),
    _cause(r"can't join (?:IPC|PID) ", "a service cannot join another's namespace"),
)

_CONFLICT = re.compile(
    r"[Cc]onflict\. The container name|removal .* is already in progress|marked for removal|No such container"
)
# "Bind for 127.0.0.1:8000 failed: port …", "listen tcp4 0.0.0.0:8000: bind: address …", "failed to bind host port for
# 127.0.0.1:8000:172.18.0.2:80/tcp: address …"
_PORT = re.compile(
    r":(?P<port>\d{1,5})(?:/(?:tcp|udp))?(?::\S+)?(?: failed)?: (?:bind: )?"
    r"(?:port is already allocated|address already in use)"
)
_ENV_FILE_SYNTAX = re.compile(rf"^{_LINE}", re.MULTILINE)


def is_conflict(stderr: str) -> bool:
    """Whether Compose stumbled over what an interrupted run left, and has removed it: the next try works."""
    return _CONFLICT.search(stderr) is not None


def port_in_use(stderr: str) -> int | None:
    """The port that the engine could not bind, by what Compose printed; None where that is not what failed."""
    match = _PORT.search(stderr)
    return int(match["port"]) if match else None


def line_of_unnamed_env_file(stderr: str) -> int | None:
    """The line of an env file that is at fault, where Compose does not say of which file; else None."""
    match = _ENV_FILE_SYNTAX.search(stderr)
    return int(match["line"]) if match is not None and match["path"] is None else None


def explain(
    stderr: str, exit_code: int, *, directory: str, doing: str, command: str, suspect: tuple[str, int] | None = None
) -> ReconcilerError:
    """Given what a failed command printed, return the error to raise: ModelRefusedError where the project is at fault,
    EngineUnavailableError where the machine is.

    `doing` is what was asked, such as "resolve the project"; `command` is what an operator would type to see the whole
    message; `suspect` is the env file that a line number without a name must belong to.
    """
    for cause in _OUTSIDE:
        if match := cause.pattern.search(stderr):
            path = match.groupdict().get("path")
            return EngineUnavailableError(cause.words, where=path or directory, hint=cause.hint)
    see = f"`{command}` in {directory} shows more. Keep its output to yourself, it may hold secrets"
    for cause in (*_START, *_MODEL):
        if match := cause.pattern.search(stderr):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            where, line = groups.get("path"), groups.get("line")
            if line and not where and suspect:
                where, line = suspect[0], str(suspect[1])
            problem = f"Compose cannot {doing}: {cause.words.format(**groups)}{f' (line {line})' if line else ''}"
            return ModelRefusedError(problem, where=where or directory, hint=cause.hint or see)
    return ModelRefusedError(f"Compose cannot {doing} (exit code {exit_code})", where=directory, hint=see)


def stderr_of(completed: process.Completed) -> str:
    return completed.stderr.decode(errors="replace")


def of_command(
    invocation: Invocation,
    completed: process.Completed,
    doing: str,
    subcommand: str,
    root: str = "",
    suspect: tuple[str, int] | None = None,
) -> ReconcilerError:
    """What a failed command means. `root` is the farm's, where it ran in one."""
    where = invocation.directory
    if completed.timed_out:
        return EngineUnavailableError(f"docker compose took too long to {doing}", where=where)
    if facts := MEMORY if completed.out_of_memory else exhausted_in(completed.stderr):
        return EngineUnavailableError(f"docker compose cannot {doing}: {facts[0]}", where=where, hint=facts[1])
    if completed.exit_code < 0 or completed.exit_code in _KILLED:
        hint = "Look for the kernel's out-of-memory killer (dmesg)"
        return EngineUnavailableError(f"docker compose was killed before it could {doing}", where=where, hint=hint)
    stderr = stderr_of(completed)
    if root:
        stderr = stderr.replace(root, "")
    return explain(
        stderr,
        completed.exit_code,
        directory=where,
        doing=doing,
        command=invocation.command(subcommand),
        suspect=suspect,
    )
