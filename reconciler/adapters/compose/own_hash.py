"""Asks Compose for the hash of a service, as it notes it on the containers that it makes."""

from __future__ import annotations

import asyncio
import os

from reconciler.adapters import process
from reconciler.adapters.compose.context import ComposeContext
from reconciler.core.fidelity.compose_hash import resolved_model
from reconciler.core.model.compose import Project

_LIMITS = process.Limits(timeout=20.0, grace=5.0, stdout=process.MIB, stderr=process.MIB)
_NAME = ".reconciler-resolved.json"  # in memory, below a root of its own


async def own_hash(context: ComposeContext, project: Project, service: str) -> tuple[str, str]:
    """The version of Compose, and the hash that it gives the service; "" for what it does not say.

    It is given the resolved project: of the files as they are written, it hashes the names of env files too.
    Raises MissingProgramError, EngineUnavailableError.
    """
    directory = project.invocation.directory
    path = os.path.join(directory, _NAME)
    async with context.farm(directory, {path: resolved_model(project)}) as root:
        options = ["-f", root + path, "-p", project.name, "--profile", "*"]
        version, hashed = await asyncio.gather(
            context.run(["docker", "compose", "version", "--short"], root + directory, _LIMITS),
            context.run(["docker", "compose", *options, "config", "--hash", service], root + directory, _LIMITS),
        )
    if not (version.ok and hashed.ok):
        return "", ""
    words = hashed.stdout.decode(errors="replace").split()
    return version.stdout.decode(errors="replace").strip(), words[1] if words[:1] == [service] else ""
