"""`reconciler compare`: read all sides at the same time and compare one with each of the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from reconciler.app.compare.addresses import ssh_address
from reconciler.app.compare.contents import Reader
from reconciler.app.compare.definitions import with_definitions, with_unresolved
from reconciler.app.compare.probe_runs import ProbeRuns
from reconciler.app.compare.side_names import SideKind, SideName, read_side
from reconciler.app.compare.sides import GitSource, SideContext, open_side, tree_at
from reconciler.app.config.expected import FILE_NAME, load_expected, read_expected
from reconciler.app.wiring import clone
from reconciler.app.wiring.tools import CountProgress, Tools
from reconciler.core.compare.comparison import are_different, compare_sides
from reconciler.core.compare.pairing import named
from reconciler.core.compare.types import Comparison, Expectations, Probe, ProbeResult, Side
from reconciler.core.errors import OutsideError, ReconcilerError, RefusedError
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Manifest
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester
from reconciler.core.text import listed, printable


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """``different`` None: the sides' names decide. ``expected`` None: expected-differences.yaml in git, if there is
    one. ``ssh_key`` and ``known_hosts`` None: the user's own ssh settings apply. ``pairs`` are
    names of files, of the left and a right side, that are compared with each other."""

    source: GitSource
    tools: Tools
    manifest: Callable[[str, str], Awaitable[Manifest]]
    expected: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    different: bool | None = None
    probes: tuple[Probe, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    progress: CountProgress = lambda done, of: None


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """``failures`` are the sides that could not be read, each with the reason."""

    comparisons: tuple[Comparison, ...]
    failures: tuple[tuple[str, str], ...] = ()
    with_key: bool = False

    @property
    def unexplained(self) -> int:
        return sum(comparison.unexplained for comparison in self.comparisons)


@dataclass(slots=True)
class _Counter:
    progress: CountProgress
    of: int
    done: int = field(default=0)

    def one_more(self) -> None:
        self.done += 1
        self.progress(self.done, self.of)


async def compare_all(left: str, rights: Sequence[str], options: CompareOptions) -> ComparisonReport:
    """Compare ``left`` with each of ``rights``.

    Raises RefusedError for an invalid side, ConfigError for an invalid expected-differences.yaml, and whatever error
    reading ``left`` raises; an error reading another side becomes a failure in the report.
    """
    names = [read_side(text) for text in (left, *rights)]
    async with contextlib.AsyncExitStack() as stack:
        context = await _context(stack, names, options)
        expected = await _expected(names, context, options)
        counter = _Counter(options.progress, len(names))
        opened = await asyncio.gather(*(_opened(name, context, counter) for name in names))
        first, *others = opened
        if isinstance(first, ReconcilerError):
            raise first
        failures = [
            (name.text, str(error))
            for name, error in zip(names[1:], others, strict=True)
            if isinstance(error, ReconcilerError)
        ]
        sides = [(name, side) for name, side in zip(names[1:], others, strict=True) if isinstance(side, Side)]
        first, sides = await _defined(names[0], first, sides, context)
        _check_pairs(options.pairs, first, [side for _, side in sides])
        probe_runs = ProbeRuns(context.machines, context.reader.values)
        answers = await asyncio.gather(
            *(probe_runs.both(options.probes, (names[0], first), right) for right in sides), return_exceptions=True
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
                known = context.reader.values
                comparisons.append(await asyncio.to_thread(_compared, first, side, expected, options, probes, known))
    return ComparisonReport(tuple(comparisons), tuple(failures), options.tools.opener is not None)


def _compared(
    left: Side,
    right: Side,
    expected: Expectations,
    options: CompareOptions,
    probes: Sequence[ProbeResult],
    known: Collection[str],
) -> Comparison:
    different = are_different(left, right) if options.different is None else options.different
    return compare_sides(left, right, expected, different=different, probes=probes, chosen=options.pairs, known=known)


async def _defined(
    name: SideName, left: Side, rights: list[tuple[SideName, Side]], context: SideContext
) -> tuple[Side, list[tuple[SideName, Side]]]:
    """The sides with the definitions of their Compose projects, if both sides of a comparison have any."""
    partners = [side for _, side in rights if side.projects] if left.projects else []
    if not partners:
        return left, rights
    values = context.reader.values
    left, *defined = await asyncio.gather(
        with_definitions(left, context.machines[name.text], values),
        *(with_definitions(side, context.machines[right.text], values) for right, side in rights),
    )
    pairs = [(right, with_unresolved(side, [left])) for (right, _), side in zip(rights, defined, strict=True)]
    return with_unresolved(left, defined), pairs


def _check_pairs(pairs: Sequence[tuple[str, str]], left: Side, rights: Sequence[Side]) -> None:
    """Raises RefusedError for a pair of which nobody has a file."""
    for names, sides in ((dict(pairs), [left]), ({right: left for left, right in pairs}, rights)):
        for name in names:
            if not any(named(side.files, name) for side in sides):
                files = sorted({file.name for side in sides for file in side.files})
                where = " and ".join(side.name for side in sides)
                hint = f"The files there: {listed(files, 20)}" if files else "There are no files"
                raise RefusedError(f"no file is called {name} in {where}", where="--pair", hint=printable(hint))


async def _opened(name: SideName, context: SideContext, counter: _Counter) -> Side | ReconcilerError:
    try:
        return await open_side(name, context)
    except ReconcilerError as error:
        return error
    except Exception as error:  # noqa: BLE001  # bad data from one machine must not stop the other comparisons
        return _defect(name, error)
    finally:
        counter.one_more()


def _defect(name: SideName, error: Exception) -> OutsideError:
    """The report of an unforeseen error, without its message, which may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    problem = f"cannot be read ({type(error).__name__} in {os.path.basename(where.filename)}, line {where.lineno})"
    return OutsideError(problem, where=name.text, hint="This is a bug in reconciler: please report it")


async def _context(stack: contextlib.AsyncExitStack, names: Sequence[SideName], options: CompareOptions) -> SideContext:
    """The context with all machines; each is connected to once, on first use."""
    digest = Digester(secrets.token_bytes(DIGEST_KEY_BYTES))
    reader = Reader(digest, options.tools.parse_yaml, options.tools.opener)
    by_address = {}
    machines = {}
    for name in names:
        address = _address(name, options)
        if address not in by_address:
            by_address[address] = await stack.enter_async_context(clone.machine(address))
        machines[name.text] = by_address[address]
    return SideContext(reader, options.source, machines, options.manifest)


def _address(name: SideName, options: CompareOptions) -> SshAddress | None:
    """Where the side's machine is; None for this one. Raises RefusedError."""
    if name.kind is not SideKind.LIVE or not name.host:
        return ssh_address(name, options.ssh_key, options.known_hosts)
    if name.host not in options.source.addresses:
        known = ", ".join(options.source.addresses) or "none"
        raise RefusedError(f"{name.host} is not one of this server's hosts", where=name.text, hint=f"It has: {known}")
    return options.source.addresses[name.host]


async def _expected(names: Sequence[SideName], context: SideContext, options: CompareOptions) -> Expectations:
    """The named file; else the one in git, at the first git side's revision."""
    if options.expected is not None:
        return await asyncio.to_thread(load_expected, options.expected)
    revision = next((name.revision for name in names if name.kind is SideKind.GIT), options.source.head)
    if not revision:
        return Expectations()
    tree = await tree_at(revision, context)
    return read_expected(tree.files.get(FILE_NAME, b""), f"{options.source.path}/{FILE_NAME} of {revision}")
