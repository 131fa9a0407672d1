"""What Compose reads as the projects of a whole host, by what it has noted on their containers."""

from __future__ import annotations

import os
from collections.abc import Iterable

from reconciler.adapters.compose.context import ComposeContext
from reconciler.core.compose_names import ENVIRONMENT_NAME
from reconciler.core.model.compose import Invocation, ProjectFiles, StartedAs


async def host_project_files(context: ComposeContext, containers: Iterable[StartedAs]) -> ProjectFiles:
    """Given the containers of all Compose projects there, return the files of those projects."""
    files: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    for directory, named, env_files in {(each.directory, each.files, each.env_files) for each in containers}:
        if directory.startswith("/"):
            invocation = Invocation(directory, named, env_files=env_files, project_directory=directory)
            configuration = await context.configuration(invocation, {})
            files |= configuration.project
            environments |= {*configuration.environments, os.path.join(directory, ENVIRONMENT_NAME), *env_files}
    return ProjectFiles(files, environments)
