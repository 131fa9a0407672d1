"""What Compose would fetch to read a project: a git repository or an OCI artifact that is included, extended or begun
with. It starts git for that, with the variables of the project's `.env`, and git runs what those name.

So it may fetch only what an operator's own files name: never what reconciler has written, or is about to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.files import Configuration
from reconciler.core.decide.guards import control_keys
from reconciler.core.dotenv.grammar import EnvFileError, parse_env_file

Written = Callable[[Collection[str]], Collection[str]]
"""Those of the real paths that reconciler has written, some time."""


async def may_fetch(context: ComposeContext, configuration: Configuration, staged: Staged, written: Written) -> bool:
    """Whether the project names something to fetch, and git has no say in what that is or how it is fetched."""
    if not configuration.remotes:
        return False
    naming = {path for path, _ in configuration.remotes}
    real = {path: await context.resolve(path) for path in (*naming, *configuration.environments, *staged)}
    ours = {real[path] for path in staged} | set(written([*real.keys(), *real.values()]))
    from_git = {path for path in real if path in ours or real[path] in ours}
    environments = configuration.environments & from_git
    if naming & from_git or (environments and any("$" in name for _, name in configuration.remotes)):
        return False
    return not any([await _steers(context, path, staged) for path in environments])


async def _steers(context: ComposeContext, path: str, staged: Staged) -> bool:
    """Whether the env file sets more for the programs that Compose starts than settings of Compose itself."""
    if path in staged:
        secret = staged[path]
        data = b"" if secret is None else secret.reveal()
    else:
        data = await context.read_file(path) or b""
    try:
        keys = control_keys(entry.key for entry in parse_env_file(data))
    except EnvFileError:
        return True
    return any(re.match("COMPOSE_", key) is None for key in keys)
