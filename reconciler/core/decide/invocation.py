"""Decides how a stack's project is run: as the manifest says, and where it is silent as its containers were started.

Pure. Whoever starts a project with `--env-file prod.env` or `-p blue` says so on the command line only; Compose notes
it on the containers. A recreate without it would silently be another project.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence

from reconciler.core.errors import StartedOtherwiseError
from reconciler.core.model.compose import Invocation, StartedAs
from reconciler.core.model.targets import Stack

_FIELDS = {"project": "-p", "files": "-f", "env_files": "--env-file", "project_directory": "--project-directory"}


def manifest_invocation(stack: Stack) -> Invocation:
    """How the manifest alone says that the project is run."""

    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(stack.directory, path)) if path else ""

    return Invocation(
        directory=stack.directory,
        files=tuple(absolute(path) for path in stack.files),
        project=stack.project,
        env_files=tuple(absolute(path) for path in stack.env_files),
        profiles=stack.profiles,
        project_directory=absolute(stack.project_directory),
    )


def label_invocation(stack: Stack, container: StartedAs) -> Invocation:
    """How one container says that the project is run."""
    return Invocation(
        stack.directory, container.files, container.project, container.env_files, project_directory=container.directory
    )


def named_paths(stack: Stack) -> tuple[str, ...]:
    """Every path that the manifest names for running Compose, absolute."""
    invocation = manifest_invocation(stack)
    directory = [invocation.project_directory] if invocation.project_directory else []
    return (*invocation.files, *invocation.env_files, *directory)


def project_directory(stack: Stack) -> str:
    """Where the manifest alone says that the project's relative paths start."""
    invocation = manifest_invocation(stack)
    if invocation.project_directory:
        return invocation.project_directory
    return posixpath.dirname(invocation.files[0]) if invocation.files else stack.directory


def of_stack(
    stack: Stack,
    containers: Sequence[StartedAs],
    default_files: Sequence[str],
    resolve: Callable[[str], str] = lambda path: path,
) -> list[StartedAs]:
    """Given the containers of every project of a machine, return those that may be the stack's: of the project that the
    manifest names, else of its directory, or started with its compose files."""
    if stack.project:
        return [container for container in containers if container.project == stack.project]
    directories = {resolve(stack.directory), resolve(project_directory(stack))}
    files = manifest_invocation(stack).files
    own = [
        container
        for container in containers
        if resolve(container.directory) in directories or (files and _same(files, container.files, resolve))
    ]
    if own or default_files:
        return own
    # `docker compose -f deploy/compose.yaml up` in the stack's directory: the project's own one is deploy.
    inside = f"{resolve(stack.directory).rstrip('/')}/"
    return [it for it in containers if it.files and resolve(it.files[0]).startswith(inside)]


def resolve_invocation(
    stack: Stack,
    containers: Sequence[StartedAs],
    default_files: Sequence[str],
    resolve: Callable[[str], str] = lambda path: path,
) -> Invocation:
    """Given the containers that may be the stack's, and the files that Compose would choose by itself in its directory,
    return how Compose is to be run.

    ``resolve`` follows links: a path may have been typed through one. Of containers that were started in different
    ways, those that agree with the manifest count, and of these the newest: Compose leaves the older label on what a
    later `up` did not have to recreate. Raises StartedOtherwiseError.
    """
    written = manifest_invocation(stack)
    # What was stopped long ago says nothing about how the project runs now.
    started = [container for container in containers if container.running] or list(containers)
    if not started:
        return written
    agreeing = [container for container in started if not _disagreements(stack, container, resolve)]
    newest_first = sorted(agreeing or started, key=lambda container: container.created, reverse=True)
    if not agreeing:
        raise _disagrees(stack, written, newest_first[0], _disagreements(stack, newest_first[0], resolve))
    if len({container.project for container in agreeing}) > 1:
        # Another project may share the directory; it is then started with other files.
        usual = [container for container in newest_first if _same(container.files, default_files, resolve)]
        agreeing = newest_first = usual or newest_first
    if len(names := sorted({container.project for container in agreeing})) > 1:
        raise StartedOtherwiseError(
            f"several Compose projects run from {stack.directory}: {', '.join(names)}",
            where=f"stack {stack.name}",
            hint="Name one in the manifest with `project:`",
        )
    newest = newest_first[0]
    files, env_files = written.files or newest.files, written.env_files or newest.env_files
    # Options are left out where Compose chooses the same by itself: a COMPOSE_FILE in `.env` has it read that `.env`.
    by_itself = not env_files and _same(files, default_files, resolve)
    base = posixpath.dirname((files or (posixpath.join(stack.directory, "_"),))[0])
    apart = resolve(newest.directory) != resolve(base)
    return Invocation(
        directory=stack.directory,
        files=() if by_itself and not apart else files,
        project=newest.project,
        env_files=env_files,
        profiles=stack.profiles,
        project_directory=written.project_directory or (newest.directory if apart else ""),
    )


def _disagreements(stack: Stack, started: StartedAs, resolve: Callable[[str], str]) -> list[str]:
    """The fields that the manifest names and the container was started without, or with something else."""
    written, fields = manifest_invocation(stack), []
    if written.project and written.project != started.project:
        fields.append("project")
    if written.files and not _same(written.files, started.files, resolve):
        fields.append("files")
    if written.env_files and not _same(written.env_files, started.env_files, resolve):
        fields.append("env_files")
    if written.project_directory and resolve(written.project_directory) != resolve(started.directory):
        fields.append("project_directory")
    elif not fields and not _is_of(stack, started, resolve):
        fields.append("project_directory")  # a project of that name, and another one
    return fields


def _is_of(stack: Stack, started: StartedAs, resolve: Callable[[str], str]) -> bool:
    """Whether the container was started in the stack's directory, below it, or with the stack's compose files."""
    directory, top = resolve(started.directory), resolve(stack.directory)
    if directory in (top, resolve(project_directory(stack))) or directory.startswith(f"{top.rstrip('/')}/"):
        return True
    files = manifest_invocation(stack).files
    return bool(files) and _same(files, started.files, resolve)


def _same(left: Sequence[str], right: Sequence[str], resolve: Callable[[str], str]) -> bool:
    return [resolve(path) for path in left] == [resolve(path) for path in right]


def _disagrees(stack: Stack, written: Invocation, started: StartedAs, fields: Sequence[str]) -> StartedOtherwiseError:
    actual = label_invocation(stack, started)
    facts = [
        f"{field} is {_shown(stack, written, field)}, its containers were started "
        f"{_option(_FIELDS[field], _shown(stack, actual, field))}"
        for field in fields
    ]
    return StartedOtherwiseError(
        f"the manifest and the running containers disagree: {'; '.join(facts)}. Nothing was touched",
        where=f"stack {stack.name}",
        hint=f"Correct the manifest, or run `{written.command('up -d')}` in {stack.directory} yourself",
    )


def _shown(stack: Stack, invocation: Invocation, field: str) -> str:
    value = getattr(invocation, field) or (stack.directory if field == "project_directory" else "")
    values = [value] if isinstance(value, str) else list(value)
    inside = f"{stack.directory.rstrip('/')}/"
    return ", ".join(text.removeprefix(inside) for text in values if text)


def _option(option: str, value: str) -> str:
    return f"with {option} {value}" if value else f"without {option}"
