"""Checks that examples and environments, and environments with each other, have the same keys."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping

from reconciler.app.checks.examples import Example, examples_of, read_example, sources_of
from reconciler.app.checks.survey import Environment, Source, Survey
from reconciler.app.config.manifest import outlines
from reconciler.core.checks import line_lint, rules
from reconciler.core.checks.rules import Finding
from reconciler.core.compare.pairing import belong_together, neutral_name, pair
from reconciler.core.compare.types import SEALED, SideFile
from reconciler.core.text import key_name, printable


def check_parity(survey: Survey) -> Iterator[Finding]:
    """Find keys that are missing on either side."""
    reported: set[tuple[str, str]] = set()
    yield from _groups_of_no_file(survey)
    for environment in survey.environments:
        for path, data in examples_of(survey, environment):
            example, problems = read_example(path, data)
            yield from problems
            for finding, key in _compare(environment, example):
                reported.add((finding.path, key))
                yield finding
            for name, keys in example.keys.items():  # what a file may lack, it may lack beside another
                optional = [key for key in keys if key in example.optional]
                reported |= {(source.path, key) for source in sources_of(environment, name) for key in optional}
    yield from _between(survey, reported)


# --- examples ---


def _compare(environment: Environment, example: Example) -> Iterator[tuple[Finding, str]]:
    """Each finding with its key. A key above the first ``# files:`` is missing if no file has it, and allowed in
    all."""
    anywhere = example.keys.get("", {})
    for name, expected in example.keys.items():
        sources = sources_of(environment, name)
        known = [source for source in sources if source.keys is not None]
        if known and known == sources:
            needed = {key: line for key, line in expected.items() if key not in example.optional}
            yield from _missing(environment, example.path, needed, known)
        if name or not example.groups:
            yield from _unknown(example.path, {**anywhere, **expected}, known)


def _missing(
    environment: Environment, example: str, expected: Mapping[str, int], sources: list[Source]
) -> Iterator[tuple[Finding, str]]:
    present = {key for source in sources for key in source.keys or ()}
    where = sources[0].path if len(sources) == 1 else f"{environment.name}/environment.yaml"
    holder = sources[0].name if len(sources) == 1 else "its files"
    for key in sorted(expected.keys() - present):
        if any(source.is_left_to_server(key) for source in sources):
            continue
        name = key_name(key)
        message = f"{name} is missing in {holder}; {example}:{expected[key]} has it"
        yield Finding(rules.EXAMPLE_KEY_MISSING, where, 1, message), key


def _unknown(example: str, expected: Mapping[str, int], sources: list[Source]) -> Iterator[tuple[Finding, str]]:
    keys = ((key, source) for source in sources for key in source.keys or ())
    # Without a value, some names may be bare secrets: an example cannot list them.
    holders = {key: source for key, source in keys if not line_lint.may_be_a_value(key, "")}
    for key in sorted(holders.keys() - expected.keys()):
        message = f"{key_name(key)} is not in {example}: add it there"
        yield Finding(rules.EXAMPLE_KEY_UNKNOWN, holders[key].path, holders[key].line(key), message), key


def _groups_of_no_file(survey: Survey) -> Iterator[Finding]:
    """Names after ``# files:`` that are no source in any environment (or in the environment of the example)."""
    for path in {path: None for environment in survey.environments for path, _ in examples_of(survey, environment)}:
        example, _ = read_example(path, survey.tree.files[path])
        directory = posixpath.dirname(path)
        names = {
            name
            for environment in survey.environments
            if directory in ("", environment.name)
            for outline in (outlines(environment.manifest) if environment.manifest else ())
            for name in (outline.source, posixpath.basename(outline.source))
        }
        if any(
            environment.manifest is None for environment in survey.environments if directory in ("", environment.name)
        ):
            continue  # already reported, and it may name any file
        for name, line in example.groups.items():
            if name not in names:
                message = f"no target has the source {printable(name)} that # files: names"
                yield Finding(rules.EXAMPLE_FILE_UNKNOWN, path, line, message)


# --- environments ---


def _between(survey: Survey, reported: Collection[tuple[str, str]]) -> Iterator[Finding]:
    """Keys that the same file has in another environment, except keys that an example has reported."""
    for sources in _same_files(survey):
        holders: dict[str, list[Source]] = {}
        for source in sources:
            for key in source.keys or ():
                holders.setdefault(key, []).append(source)
        for source in sources:
            for key in sorted(holders.keys() - (source.keys or {}).keys()):
                if source.is_left_to_server(key) or any((file.path, key) in reported for file in sources):
                    continue
                where = ", ".join(sorted(_place(holder, source) for holder in holders[key]))
                environments = tuple(holder.environment for holder in holders[key])
                message = f"{key_name(key)} is missing here, but exists in {where}"
                yield Finding(rules.ENVIRONMENT_PARITY, source.path, 1, message, environments)


def _place(holder: Source, missing_in: Source) -> str:
    return holder.environment if holder.name == missing_in.name else printable(holder.path)


def _same_files(survey: Survey) -> Iterator[list[Source]]:
    """Files of different environments that belong together, paired as ``compare`` pairs them."""
    groups: dict[str, list[Source]] = {}
    for environment in survey.environments:
        sources = {source.name: source for source in environment.sources if source.keys is not None and source.outline}
        left = [side_file(group[0], first) for first, group in groups.items()]
        for both in pair(left, [side_file(source, name) for name, source in sources.items()]):
            if both.left and both.right and belong_together(both.left, both.right):
                groups[both.left.name].append(sources.pop(both.right.name))
        groups |= {source.path: [source] for source in sources.values()}
    yield from (group for group in groups.values() if len(group) > 1)


def side_file(source: Source, name: str) -> SideFile:
    """What the file is paired by."""
    keys = dict.fromkeys(source.keys or (), SEALED)
    aliases = (source.name, neutral_name(source.name, source.environment))
    return SideFile(name, aliases, keys, None)
