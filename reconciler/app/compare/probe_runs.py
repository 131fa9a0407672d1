"""Runs an operator's probes on the machines of a comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.compare.side_names import SideKind, SideName
from reconciler.core.compare.probes import compare_answers
from reconciler.core.compare.types import Probe, ProbeResult, Side, SideProject
from reconciler.core.model.commands import CommandResult
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret


@dataclass(slots=True)
class ProbeRuns:
    """Runs probes, each once per machine and directory, even if a side is in several comparisons. ``values`` must not
    be shown."""

    machines: Mapping[str, Machine]
    values: Collection[str] = field(repr=False)
    answers: dict[tuple[str, str, str], asyncio.Task[CommandResult]] = field(default_factory=dict)

    async def both(
        self, probes: Sequence[Probe], left: tuple[SideName, Side], right: tuple[SideName, Side]
    ) -> list[ProbeResult]:
        """The result of each probe on two sides; none if one of them is git, which runs nothing."""
        if SideKind.GIT in (left[0].kind, right[0].kind):
            return []
        return [
            compare_answers(
                probe, *await asyncio.gather(self._run(probe, *left), self._run(probe, *right)), known=self.values
            )
            for probe in probes
        ]

    async def _run(self, probe: Probe, name: SideName, side: Side) -> CommandResult:
        key = (probe.name, name.text, side.directory)
        if key not in self.answers:
            self.answers[key] = asyncio.create_task(_answer(probe, self.machines[name.text], side))
        return await asyncio.shield(self.answers[key])


async def _answer(probe: Probe, machine: Machine, side: Side) -> CommandResult:
    if probe.url:
        return await machine.get(probe.url, probe.seconds)
    if probe.service:
        project = _project_of(probe, side)
        if isinstance(project, str):
            return CommandResult(None, Secret(b""), project)
        argv = ["docker", "compose", *project.options, "exec", "-T", probe.service, *probe.run]
        return await machine.run(argv, project.directory, probe.seconds)
    directory = probe.directory or side.directory
    if not directory:
        return CommandResult(None, Secret(b""), "it has no directory to run in: set `directory`")
    return await machine.run(probe.run, directory, probe.seconds)


def _project_of(probe: Probe, side: Side) -> SideProject | str:
    """The project in which a probe of a service runs: of those with a container of it, else of those that define it,
    the only one, or the one in the probe's directory; or why there is none."""
    running = {(container.project, container.service) for container in side.services or ()}
    projects = [project for project in side.projects if (project.name, probe.service) in running]
    projects = projects or [project for project in side.projects if probe.service in project.services]
    if probe.directory:
        projects = [project for project in projects if project.directory == probe.directory]
        projects = projects or [SideProject("", probe.directory)]  # the side need not contain it
    if len(projects) == 1:
        return projects[0]
    if projects:
        names = ", ".join(sorted(project.directory for project in projects))
        return f"several projects have a service {probe.service} (in {names}): set `directory`"
    return f"no Compose project has a service {probe.service}"
