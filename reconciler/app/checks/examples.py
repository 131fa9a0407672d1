"""Reads the example files of environments, and holds them against contracts: neither needs a key."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.checks.contracts import Answers, ContractBook
from reconciler.app.checks.survey import Environment, Source, Survey, secrets_in_plain
from reconciler.app.checks.values import is_placeholder
from reconciler.core.checks import line_lint, rules
from reconciler.core.checks.rules import Finding
from reconciler.core.contract import FORBIDDING, Breach, Notes, Question, notes
from reconciler.core.dotenv.grammar import EnvFileError, parse_env_file
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.model.targets import Parser
from reconciler.core.secrets.names import names_a_secret
from reconciler.core.secrets.plaintext import looks_real

_GENERAL = frozenset({"env.example", ".env.example", "env.template", ".env.template"})
_ENDINGS = (".example", ".template")
_GROUP = re.compile(r"^# files: (.+)$", re.MULTILINE)
_SWITCHED_OFF = re.compile(r"^#[ \t]?(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=", re.MULTILINE)
_OPTIONAL = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=.*[ \t]# optional[ \t\r]*$", re.MULTILINE)
_REQUIRING = ("required", "dependentRequired")


@dataclass(frozen=True, slots=True)
class Example:
    """``keys`` by the name of the file they belong to ("" for any), each with its line; ``groups`` has the line of
    each ``# files:`` by the names in it. ``optional`` are the keys that a file may lack, ``defaults`` the values."""

    path: str
    keys: Mapping[str, Mapping[str, int]]
    groups: Mapping[str, int] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict, repr=False)


def examples_of(survey: Survey, environment: Environment) -> Iterator[tuple[str, bytes]]:
    """Example files beside the environments, and beside the sources of this one."""
    for path, data in survey.tree.files.items():
        base, directory = posixpath.basename(path), posixpath.dirname(path)
        inside = directory == environment.name or directory.startswith(f"{environment.name}/")
        if (base in _GENERAL and directory in ("", environment.name)) or (
            base.endswith(_ENDINGS) and (directory == "" or inside) and base not in _GENERAL
        ):
            yield path, data


def read_example(path: str, data: bytes) -> tuple[Example, list[Finding]]:
    """An example as it is written, and what is wrong with it."""
    base = posixpath.basename(path)
    text = data.decode("utf-8", "surrogateescape")
    try:
        entries = parse_env_file(data)
    except EnvFileError as error:
        finding = Finding(rules.ENV_UNREADABLE, path, error.line, str(error).partition(": ")[2])
        return Example(path, {}), [finding]
    problems = [finding for finding in line_lint.lint_entries(path, entries) if finding.rule is rules.KEY_NAME]
    entries = tuple(entry for entry in entries if not line_lint.may_be_a_value(entry.key, entry.template))
    problems += secrets_in_plain(path, entries, looks_real)
    off = [(match[1], text.count("\n", 0, match.start()) + 1) for match in _SWITCHED_OFF.finditer(text)]
    written = [(entry.key, entry.line) for entry in entries]
    marked = {match[1] for match in _OPTIONAL.finditer(text)}
    optional = frozenset(marked | dict(off).keys() - dict(written).keys())
    values = known_variables(data, Parser.COMPOSE).items()
    defaults = {key: value for key, value in values if value and not is_placeholder(value)}
    if base not in _GENERAL:
        source = base.removesuffix(".example").removesuffix(".template")
        return Example(path, {source: dict(off + written)}, {}, optional, defaults), problems
    groups = [(text.count("\n", 0, match.start()) + 1, match[1].split()) for match in _GROUP.finditer(text)]
    keys: dict[str, dict[str, int]] = {name: {} for _, names in groups for name in names} or {"": {}}
    for key, at in off + written:
        names = next((names for line, names in reversed(groups) if line < at), [""])
        for name in names:
            keys.setdefault(name, {})[key] = at
    by_name = {name: line for line, names in reversed(groups) for name in names}
    return Example(path, keys, by_name, optional, defaults), problems


def sources_of(environment: Environment, name: str) -> list[Source]:
    """The sources that an example's keys of the file ``name`` belong to, by its path or its base; all for ""."""
    readable = (source for source in environment.sources if source.outline and source.parser is not Parser.OPAQUE)
    return [source for source in readable if not name or name in (source.name, posixpath.basename(source.name))]


@dataclass(frozen=True, slots=True)
class ExampleQuestions:
    """What the contracts of ``source`` are asked about the keys that ``example`` has for the file ``name``: with all
    that it may not lack, with all names, and with the defaults."""

    example: Example
    name: str
    source: Source
    questions: tuple[Question, Question, Question]

    def breaches(self, answers: Answers) -> list[Breach]:
        """What the contracts refuse, given the answers; nothing without any: that is reported with the sources."""
        missing, names, wrong = answers or ((), (), ())
        return [
            breach
            for breach in (
                *(breach for breach in missing if breach.keyword in _REQUIRING),
                *(breach for breach in names if breach.keyword in FORBIDDING),
                *(breach for breach in wrong if breach.keyword not in (*FORBIDDING, *_REQUIRING)),
            )
            if breach.key and not self.source.is_left_to_server(breach.key)
        ]


def example_questions(survey: Survey, book: ContractBook) -> list[ExampleQuestions]:
    """For every example, one for each of the files that it is for, if all of these have contracts."""
    users: dict[str, list[Environment]] = {}
    for environment in survey.environments:
        for path, _ in examples_of(survey, environment):
            users.setdefault(path, []).append(environment)
    asked = []
    for path, environments in users.items():
        example, _ = read_example(path, survey.tree.files[path])
        for name in example.keys:
            sources = [source for environment in environments for source in sources_of(environment, name)]
            if name and all(book.contracts_of(source) for source in sources):
                asked += [
                    ExampleQuestions(example, name, source, _questions(example, name, source, book))
                    for source in sources
                ]
    return asked


def _questions(example: Example, name: str, source: Source, book: ContractBook) -> tuple[Question, Question, Question]:
    """A secret's default is a stand-in, whatever its form: it is not asked about."""
    keys = example.keys[name]
    contracts = book.contracts_of(source)
    about = notes(contracts)
    values = {
        key: value
        for key, value in example.defaults.items()
        if key in keys and not (about.get(key, Notes()).secret or names_a_secret(key))
    }
    required = tuple(key for key in {**example.keys.get("", {}), **keys} if key not in example.optional)
    return Question(contracts, required), Question(contracts, tuple(keys)), Question(contracts, tuple(values), values)


def check_examples(asked: Sequence[ExampleQuestions], answers: Sequence[Answers]) -> Iterator[Finding]:
    """Hold every example against the contracts of the files that it is for. What only some environments refuse is none
    of its mistakes: it can be right for the others."""
    by_file: dict[tuple[str, str], list[tuple[ExampleQuestions, list[Breach]]]] = {}
    for questions, answer in zip(asked, answers, strict=True):
        place = (questions.example.path, questions.name)
        by_file.setdefault(place, []).append((questions, questions.breaches(answer)))
    for (_, name), results in by_file.items():
        example = results[0][0].example
        others = [{breach.key for breach in breaches} for _, breaches in results]
        for breach in results[0][1]:
            if all(breach.key in keys for keys in others):
                yield _finding(example, example.keys[name], breach)


def _finding(example: Example, keys: Mapping[str, int], breach: Breach) -> Finding:
    message = str(breach)
    if breach.keyword in _REQUIRING and breach.key in example.optional:
        message = f"{breach.key} is optional here, but {breach.contract}:{breach.line} requires it"
    return Finding(rules.EXAMPLE_CONTRACT, example.path, keys.get(breach.key, 1), message)
