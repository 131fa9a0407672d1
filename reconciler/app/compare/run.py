"""`reconciler compare`: one side held against others, everything at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from reconciler.app import local_wiring
from reconciler.app.checks.run import Tools
from reconciler.app.compare.addresses import ssh_address
from reconciler.app.compare.contents import Reader
from reconciler.app.compare.expected import FILE_NAME, load_expected, read_expected
from reconciler.app.compare.side_names import Kind, SideName, read_side
from reconciler.app.compare.sides import Place, Surroundings, open_side, tree_of
from reconciler.core.comparison import Comparison, Expectations, Side, are_different, compare
from reconciler.core.errors import ReconcilerError
from reconciler.core.model import Manifest
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester

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
        sides = [side for side in others if isinstance(side, Side)]
        comparisons = [_compared(first, side, expected, options.different) for side in sides]
    return Report(tuple(comparisons), tuple(failures), options.tools.opener is not None)


def _compared(left: Side, right: Side, expected: Expectations, different: bool | None) -> Comparison:
    return compare(left, right, expected, different=are_different(left, right) if different is None else different)


async def _opened(name: SideName, around: Surroundings, counter: _Counter) -> Side | ReconcilerError:
    try:
        return await open_side(name, around)
    except ReconcilerError as error:
        return error
    finally:
        counter.one_more()


async def _surroundings(stack: contextlib.AsyncExitStack, names: Sequence[SideName], options: Options) -> Surroundings:
    """The machines, each connected to once, when it is first asked for something."""
    digest = Digester(secrets.token_bytes(DIGEST_KEY_BYTES))
    reader = Reader(digest, options.tools.parse_yaml, options.tools.opener)
    by_address = {}
    machines = {}
    for name in names:
        address = ssh_address(name, options.ssh_key, options.known_hosts)
        if address not in by_address:
            by_address[address] = await stack.enter_async_context(local_wiring.machine(address))
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
