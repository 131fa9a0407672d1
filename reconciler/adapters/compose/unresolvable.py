"""Why Compose cannot resolve a project: its own reason, with the env file at fault where Compose names only a line."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.adapters import process
from reconciler.adapters.compose import errors, uses
from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.files import Configuration
from reconciler.core.dotenv.grammar import EnvFileError, parse_env_file
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.compose import Invocation
from reconciler.core.secret import Secret


async def unresolvable(
    context: ComposeContext,
    invocation: Invocation,
    completed: process.Completed,
    configuration: Configuration,
    root: str,
    staged: Staged,
) -> ReconcilerError:
    """Given a `docker compose config` that failed, return the error to raise; ``root`` is the farm's, or ""."""
    suspect = None
    if (line := errors.line_of_unnamed_env_file(errors.stderr_of(completed))) is not None:
        paths = set(staged) | set(configuration.environments)
        for env_files in uses.env_files(configuration.written).values():
            paths |= env_files
        suspect = await _broken_env_file(context, sorted(paths), staged, line)
    return errors.of_command(invocation, completed, "resolve the project", "config", root, suspect)


async def _broken_env_file(
    context: ComposeContext, paths: Iterable[str], staged: Staged, line: int
) -> tuple[str, int] | None:
    """The env file that Compose could not read, with the line. Of several it names the line of one only, and an older
    one counts it from the end of what it could not understand."""
    broken = []
    for path in paths:
        data = staged[path] if path in staged else Secret(await context.read_file(path) or b"")
        try:
            parse_env_file(data.reveal() if data else b"")
        except EnvFileError as error:
            broken.append((path, error.line))
    return next((file for file in broken if file[1] == line), broken[0] if broken else None)
