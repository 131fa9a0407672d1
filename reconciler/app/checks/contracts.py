"""Reads contracts, checks them, and checks every source against the contracts it names."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.app.checks.survey import MANIFEST, Source, Survey
from reconciler.app.config.contract import at_field, read_contract
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Rule
from reconciler.core.contract import FORBIDDING, Answer, Breach, Contract, Notes, Question, notes
from reconciler.core.errors import ContractError
from reconciler.core.model.targets import Parser
from reconciler.core.ports import Contracts
from reconciler.core.text import key_name

Answers = Sequence[Sequence[Breach]]
"""The breaches of each question."""

_MISSING = frozenset({"required", "dependentRequired", "minProperties"})


@dataclass(slots=True)
class ContractBook:
    """Every contract that a target of the survey names, by path."""

    contracts: dict[str, Contract] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def contracts_of(self, source: Source) -> tuple[Contract, ...]:
        named = source.outline.contracts if source.outline else ()
        return tuple(self.contracts[path] for path in named if path in self.contracts)

    def notes_of(self, sources: Iterator[Source]) -> dict[str, dict[str, Notes]]:
        return {source.path: notes(self.contracts_of(source)) for source in sources if self.contracts_of(source)}


def open_book(survey: Survey) -> ContractBook:
    """Read the contracts that targets name; an unusable one becomes a finding."""
    book = ContractBook()
    for environment in survey.environments:
        for source in environment.sources:
            if source.outline is None or not source.outline.contracts:
                continue
            for path in source.outline.contracts:
                reason = survey.tree.unheld.get(path)
                if path in survey.tree.files:
                    _add_contract(book, path, survey.tree.files[path])
                if path not in survey.tree.files or reason:
                    line = environment.document.line(source.outline.field) if environment.document else 1
                    problem = f"is not in git: {reason}" if reason else f"does not exist in {survey.shown('.')}"
                    message = f"the contract {path} of {source.name} {problem}"
                    where = f"{environment.name}/{MANIFEST}"
                    book.findings.append(Finding(rules.CONTRACT_MISSING, where, line, message))
            if source.parser is Parser.OPAQUE:
                message = f"{source.name} has a contract, but no keys to check (parser: opaque)"
                book.findings.append(Finding(rules.CONTRACT_INVALID, source.path, 1, message))
    return book


def _add_contract(book: ContractBook, path: str, data: bytes) -> None:
    if path in book.contracts or any(finding.path == path for finding in book.findings):
        return
    try:
        book.contracts[path] = read_contract(path, data)
    except ContractError as error:
        for line in error.what.splitlines():
            number, _, text = line.removeprefix(f"{path}:").partition(": ")
            at = number.partition(":")[0]
            book.findings.append(Finding(rules.CONTRACT_INVALID, path, int(at) if at.isdigit() else 1, text or line))


@dataclass(frozen=True, slots=True)
class ContractReport:
    """The ``findings`` of the sources, and per group of further questions the ``answers``, none for a group that takes
    too long."""

    findings: list[Finding]
    answers: Sequence[Answers] = ()


async def check_contracts(
    survey: Survey,
    book: ContractBook,
    engine: Contracts,
    variables: Mapping[str, Mapping[str, str]],
    now: float,
    further: Sequence[Sequence[Question]] = (),
) -> ContractReport:
    """Check every source that names a contract, and ask the groups of ``further`` questions in the same process.
    ``variables`` are the known values, by path; ``now`` is in seconds since the epoch."""
    sources = [
        source for source in survey.sources if book.contracts_of(source) and _names(source, variables) is not None
    ]
    questions = [
        Question(book.contracts_of(source), tuple(_names(source, variables) or ()), variables.get(source.path))
        for source in sources
    ]
    findings: list[Finding] = []
    of_sources, *answers = await _answers(list(book.contracts.values()), [questions, *further], engine, findings)
    for source, breaches in zip(sources, of_sources, strict=True):
        findings += [_finding(source, breach) for breach in breaches if not source.is_left_to_server(breach.key)]
        findings += _note_findings(source, book.contracts_of(source), _names(source, variables) or (), now)
    return ContractReport(findings, answers)


def _names(source: Source, variables: Mapping[str, Mapping[str, str]]) -> Sequence[str] | None:
    known = variables.get(source.path)
    if known is not None:
        return list(known)
    return None if source.keys is None else list(source.keys)


async def _answers(
    contracts: Sequence[Contract], groups: Sequence[Sequence[Question]], engine: Contracts, findings: list[Finding]
) -> list[Answers]:
    """All questions in one process; if that takes too long, those of the first group one by one, and a process for each
    of the others, whose contracts the first is about as well."""
    try:
        answer = await engine.ask(contracts, list(itertools.chain(*groups)))
    except ContractError:
        first = await _one_by_one(groups[0], engine, findings)
        return [first, *[await _group(questions, engine) for questions in groups[1:]]]
    findings += _faults(contracts, answer)
    breaches = iter(answer.breaches)
    return [tuple(itertools.islice(breaches, len(questions))) for questions in groups]


async def _group(questions: Sequence[Question], engine: Contracts) -> Answers:
    with contextlib.suppress(ContractError):
        return (await engine.ask((), questions)).breaches
    return ()


async def _one_by_one(questions: Sequence[Question], engine: Contracts, findings: list[Finding]) -> Answers:
    """The same, to find the contract at fault and still get the answers of the others."""
    at_fault: set[str] = set()
    answers = []
    for question in questions:
        breaches: list[Breach] = []
        for contract in question.contracts:
            if contract.path in at_fault:
                continue
            try:
                answer = await engine.ask([contract], [replace(question, contracts=(contract,))])
            except ContractError as error:
                at_fault.add(contract.path)
                findings.append(Finding(rules.CONTRACT_INVALID, contract.path, 1, error.what))
            else:
                findings += _faults([contract], answer)
                breaches += answer.breaches[0]
        answers.append(breaches)
    return answers


def _faults(contracts: Sequence[Contract], answer: Answer) -> Iterator[Finding]:
    by_path = {contract.path: contract for contract in contracts}
    for path, mistake in answer.faults.items():
        yield Finding(rules.CONTRACT_INVALID, path, by_path[path].line(mistake.field), at_field(mistake))


def _finding(source: Source, breach: Breach) -> Finding:
    missing = breach.keyword in ("required", "dependentRequired")
    line = 1 if missing and breach.key else source.line(breach.key)
    return Finding(_rule_of(breach), source.path, line, str(breach))


def _rule_of(breach: Breach) -> Rule:
    if breach.keyword.startswith("unusable"):
        return rules.CONTRACT_INVALID
    if breach.keyword in _MISSING:
        return rules.CONTRACT_REQUIRED
    return rules.CONTRACT_FORBIDDEN if breach.keyword in FORBIDDING else rules.CONTRACT_VALUE


def _note_findings(
    source: Source, contracts: Sequence[Contract], names: Sequence[str], now: float
) -> Iterator[Finding]:
    """Findings beyond JSON Schema: deprecated keys, and secrets older than allowed."""
    written = _last_written(source)
    for key, note in notes(contracts).items():
        if key not in names:
            continue
        if note.deprecated:
            message = f"{key_name(key)} is deprecated ({note.contract}:{note.line})"
            yield Finding(rules.CONTRACT_DEPRECATED, source.path, source.line(key), message)
        if note.max_age is not None and written is not None and now - written > note.max_age:
            days = int((now - written) // 86400)
            message = (
                f"{key_name(key)} is at least {days} days old: the file has not changed since "
                f"({note.contract}:{note.line})"
            )
            yield Finding(rules.CONTRACT_AGE, source.path, source.line(key), message)


def _last_written(source: Source) -> float | None:
    """When an encrypted file last changed, in seconds since the epoch; no value in it is newer."""
    if source.cipher is None:
        return None
    try:
        return datetime.fromisoformat(source.cipher.metadata.lastmodified).timestamp()
    except ValueError:
        return None
