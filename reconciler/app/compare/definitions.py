"""The Compose projects of a side as `docker compose config` resolves them, with the base images of Dockerfiles."""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.compare.definitions import read_definitions
from reconciler.core.compare.types import Definition, Side, SideProject
from reconciler.core.compose_names import OFFLINE
from reconciler.core.errors import LiveFileError
from reconciler.core.ports.host import Machine
from reconciler.core.secrets.masking import masked

_SECONDS = 30.0
_OFFLINE = ("env", *(f"{name}={value}" for name, value in OFFLINE.items()))
_NO_COMPOSE = (126, 127)  # it cannot be started there
_EVERY_PROFILE = ("--profile", "*")
_ARGUMENT = re.compile(r"ARG\s+(\w+)(?:=(\S+))?", re.IGNORECASE)
_FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")


async def with_definitions(side: Side, machine: Machine, values: Collection[str]) -> Side:
    """Return the side with its definitions; without them, with the reasons, which do not show ``values``: why they are
    left out, and what Compose cannot resolve."""
    if not side.projects:
        return side
    results = await asyncio.gather(*(_of_project(project, machine, values) for project in side.projects))
    left_out = tuple(result for result in results if isinstance(result, str))
    unresolved = tuple(result.text for result in results if isinstance(result, _Unresolved))
    if left_out or unresolved:
        return replace(side, left_out=(*side.left_out, *left_out), unresolved=unresolved)
    return replace(side, definitions=tuple(each for result in results if isinstance(result, tuple) for each in result))


def with_unresolved(side: Side, counterparts: Iterable[Side]) -> Side:
    """Return the side, in which a project that Compose cannot resolve is a problem if a counterpart's can be resolved,
    and left out if neither can: then the reason may be one of both, such as a file that is not fetched."""
    if any(counterpart.definitions is not None for counterpart in counterparts):
        return replace(side, problems=(*side.problems, *side.unresolved))
    return replace(side, left_out=(*side.left_out, *side.unresolved))


@dataclass(frozen=True, slots=True)
class _Unresolved:
    text: str


async def _of_project(
    project: SideProject, machine: Machine, known: Collection[str]
) -> tuple[Definition, ...] | _Unresolved | str:
    compose = [*_OFFLINE, f"PWD={project.directory}", "docker", "compose", *project.options]
    config = ["config", "--format", "json"]
    ran = await machine.run([*compose, *_EVERY_PROFILE, *config], project.directory, _SECONDS)
    if ran.exit_code:  # services of profiles that nobody uses may lack a file
        ran = await machine.run([*compose, *config], project.directory, _SECONDS)
    where = f"Compose definitions of {project.directory}"
    if ran.exit_code is None:
        return f"{where}: {ran.problem}"
    if ran.exit_code != 0:
        lines = ran.error.reveal().decode("utf-8", "replace").strip().splitlines()
        text = f"{where}: `docker compose config` ended with {ran.exit_code}: {masked((lines or [''])[-1], known)}"
        return text if ran.exit_code in _NO_COMPOSE else _Unresolved(text)
    try:
        definitions = read_definitions(ran.output.reveal(), project)
    except (ValueError, TypeError, AttributeError):
        return f"{where}: `docker compose config` printed something else"
    return tuple(await asyncio.gather(*(_with_base_images(each, machine) for each in definitions)))


async def _with_base_images(definition: Definition, machine: Machine) -> Definition:
    context = str(definition.build.get("context") or "")
    text = definition.build.get("dockerfile_inline")
    if not text and context.startswith("/"):
        try:
            file = await machine.read(posixpath.join(context, str(definition.build.get("dockerfile") or "Dockerfile")))
        except LiveFileError:
            return definition
        text = file.data.reveal().decode("utf-8", "replace") if file else ""
    images = list(_base_images(str(text or ""), definition.build.get("args") or {}))
    return replace(definition, fields={**definition.fields, "base_images": ", ".join(images)}) if images else definition


def _base_images(dockerfile: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """The images that its stages begin with, other than its own stages."""
    variables: dict[str, str] = {}
    stages: set[str] = set()
    for line in map(str.strip, dockerfile.splitlines()):
        if not stages and (argument := _ARGUMENT.match(line)):
            variables[argument[1]] = str(arguments.get(argument[1]) or argument[2] or "").strip("\"'")
        elif stage := _FROM.match(line):
            image = _VARIABLE.sub(lambda match: variables.get(match[1] or match[3]) or match[2] or "", stage[1])
            if image.lower() not in stages:
                yield image
            stages.add((stage[2] or "-").lower())
