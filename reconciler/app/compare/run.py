"""`reconciler compare`: one side held against others, everything at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.checks.run import Tools
from reconciler.app.compare.addresses import ssh_address
from reconciler.app.compare.contents import Reader
from reconciler.app.compare.side_names import Kind, SideName, read_side
from reconciler.app.compare.sides import Place, Surroundings, open_side, tree_of
from reconciler.app.config.expected import FILE_NAME, load_expected, read_expected
from reconciler.app.wiring import clone
from reconciler.core.compare.comparison import are_different, compare
from reconciler.core.compare.probes import compare_answers
from reconciler.core.compare.types import Comparison, Expectations, Probe, ProbeResult, Side
from reconciler.core.errors import OutsideError, ReconcilerError
from reconciler.core.model.commands import CommandResult
from reconciler.core.model.targets import Manifest
from reconciler.core.ports.host import Machine
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester, Secret

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """``different`` None: as the sides' names tell. ``expected`` None: expected-differences.yaml beside the
    environments, where there is one. ``ssh_key`` and ``known_hosts`` None: as the person's own ssh has it."""

    place: Place
    tools: Tools
    manifest: Callable[[str], Awaitable[Manifest]]
    expected: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    different: bool | None = None
    probes: tuple[Probe, ...] = ()
    progress: Progress = lambda done, of: None


@dataclass(frozen=True, slots=True)
class Report:
    """``failures`` are the sides that could not be looked at, each with why."""

    comparisons: tuple[Comparison, ...]
    failures: tuple[tuple[str, str], ...] = ()
    with_key: bool = False

    @property
    def unexplained(self) -> int:
        return sum(one.unexplained for one in self.comparisons)


@dataclass(slots=True)
class _Counter:
    progress: Progress
    of: int
    done: int = field(default=0)

    def one_more(self) -> None:
        self.done += 1
        self.progress(self.done, self.of)


async def run(left: str, rights: Sequence[str], options: Options) -> Report:
    """Hold ``left`` against each of ``rights``.

    Raises RefusedError for a side that cannot be read or an expected-differences.yaml that cannot be used, and whatever
    keeps ``left`` from being looked at; what keeps another side from it becomes a failure of the report.
    """
    names = [read_side(text) for text in (left, *rights)]
    async with contextlib.AsyncExitStack() as stack:
        around = await _surroundings(stack, names, options)
        expected = await _expected(names, around, options)
        counter = _Counter(options.progress, len(names))
        opened = await asyncio.gather(*(_opened(name, around, counter) for name in names))
        first, *others = opened
        if isinstance(first, ReconcilerError):
            raise first
        failures = [
            (name.text, str(error))
            for name, error in zip(names[1:], others, strict=True)
            if isinstance(error, ReconcilerError)
        ]
        sides = [(name, side) for name, side in zip(names[1:], others, strict=True) if isinstance(side, Side)]
        asked = _Asked(around.machines)
        answers = await asyncio.gather(
            *(asked.both(options.probes, (names[0], first), other) for other in sides), return_exceptions=True
        )
        comparisons = []
        for (name, side), probes in zip(sides, answers, strict=True):
            if isinstance(probes, ReconcilerError):
                failures.append((name.text, str(probes)))
            elif isinstance(probes, Exception):
                failures.append((name.text, str(_defect(name, probes))))
            elif isinstance(probes, BaseException):
                raise probes
            else:
                comparisons.append(_compared(first, side, expected, options.different, probes))
    return Report(tuple(comparisons), tuple(failures), options.tools.opener is not None)


def _compared(
    left: Side, right: Side, expected: Expectations, different: bool | None, probes: Sequence[ProbeResult]
) -> Comparison:
    two = are_different(left, right) if different is None else different
    return compare(left, right, expected, different=two, probes=probes)


@dataclass(slots=True)
class _Asked:
    """Asks probes, each once per machine and directory, however many sides it is held against."""

    machines: Mapping[str, Machine]
    answers: dict[tuple[str, str, str], asyncio.Task[CommandResult]] = field(default_factory=dict)

    async def both(
        self, probes: Sequence[Probe], left: tuple[SideName, Side], right: tuple[SideName, Side]
    ) -> list[ProbeResult]:
        """How each probe stands on two sides; none where one of them is git, which runs nothing."""
        if Kind.GIT in (left[0].kind, right[0].kind):
            return []
        return [
            compare_answers(probe, *await asyncio.gather(self._ask(probe, *left), self._ask(probe, *right)))
            for probe in probes
        ]

    async def _ask(self, probe: Probe, name: SideName, side: Side) -> CommandResult:
        key = (probe.name, name.text, side.directory)
        if key not in self.answers:
            self.answers[key] = asyncio.create_task(_answer(probe, self.machines[name.text], side))
        return await asyncio.shield(self.answers[key])


async def _answer(probe: Probe, machine: Machine, side: Side) -> CommandResult:
    if probe.url:
        return await machine.get(probe.url, probe.seconds)
    directory = probe.directory or side.directory
    if not directory:
        return CommandResult(None, Secret(b""), "there is no directory to run it in (directory)")
    options = side.compose_options.get(directory, ())
    argv = ["docker", "compose", *options, "exec", "-T", probe.service, *probe.run] if probe.service else probe.run
    return await machine.run(argv, directory, probe.seconds)


async def _opened(name: SideName, around: Surroundings, counter: _Counter) -> Side | ReconcilerError:
    try:
        return await open_side(name, around)
    except ReconcilerError as error:
        return error
    except Exception as error:  # noqa: BLE001  # what a machine has told us must not keep us from the others
        return _defect(name, error)
    finally:
        counter.one_more()


def _defect(name: SideName, error: Exception) -> OutsideError:
    """What is told of an error that nobody has foreseen; its own words may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    what = f"cannot be looked at ({type(error).__name__} in {os.path.basename(where.filename)}, line {where.lineno})"
    return OutsideError(what, where=name.text, hint="That is a defect of reconciler: please report it")


async def _surroundings(stack: contextlib.AsyncExitStack, names: Sequence[SideName], options: Options) -> Surroundings:
    """The machines, each connected to once, when it is first asked for something."""
    digest = Digester(secrets.token_bytes(DIGEST_KEY_BYTES))
    reader = Reader(digest, options.tools.parse_yaml, options.tools.opener)
    by_address = {}
    machines = {}
    for name in names:
        address = ssh_address(name, options.ssh_key, options.known_hosts)
        if address not in by_address:
            by_address[address] = await stack.enter_async_context(clone.machine(address))
        machines[name.text] = by_address[address]
    return Surroundings(reader, options.place, machines, options.manifest)


async def _expected(names: Sequence[SideName], around: Surroundings, options: Options) -> Expectations:
    """What the named file says; else the one beside the environments, in the working directory or in git."""
    if options.expected is not None:
        return await asyncio.to_thread(load_expected, options.expected)
    beside = await asyncio.to_thread(os.path.abspath, os.path.join(options.place.repository, options.place.path))
    path = os.path.join(beside, FILE_NAME)
    if await asyncio.to_thread(os.path.isfile, path):
        return await asyncio.to_thread(load_expected, path)
    in_git = next((name for name in names if name.kind is Kind.GIT), None)
    if in_git is None:
        return Expectations()
    tree = await tree_of(in_git, around)
    return read_expected(tree.files.get(FILE_NAME, b""), f"{options.place.path}/{FILE_NAME} of {in_git.revision}")
