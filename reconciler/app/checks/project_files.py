"""What a server would refuse to write as Compose reads it as a project: as far as git shows."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence

from reconciler.app.checks.survey import MANIFEST, Environment, Source, Survey
from reconciler.app.config.manifest import StackFields
from reconciler.app.config.server import ServerConfig
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.compose_names import DEFAULT_NAMES, ENVIRONMENT_NAME
from reconciler.core.decide.guards import changed_control_keys, control_keys, folded
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.errors import SourceError
from reconciler.core.sops.cipher_diff import compare_ciphertexts
from reconciler.core.sops.ciphertext import YamlParser, read_ciphertext


def check_project_files(
    survey: Survey, servers: Mapping[str, Sequence[ServerConfig]], parse_yaml: YamlParser
) -> Iterator[Finding]:
    """Targets that a server with these files would not write."""
    for environment in survey.environments:
        configs = servers.get(environment.name, ())
        if environment.manifest is None or not configs:
            continue
        yield from _unknown_stacks(environment, configs)
        if all(config.allow_compose_files for config in configs):
            continue
        files = {folded(path) for stack in environment.manifest.stacks.values() for path in stack_files(stack)}
        for source in environment.sources:
            if source.outline is None:
                continue
            if folded(source.outline.path) in files:
                line = environment.document.line(source.outline.field) if environment.document else 1
                message = (
                    f"{source.name}: Compose reads {source.outline.path} as a project; a server refuses to write it"
                )
                yield Finding(rules.PROJECT_FILE, f"{environment.name}/{MANIFEST}", line, message)
            elif source.path in survey.tree.before:
                keys = _changed_keys(source, survey.tree.before[source.path], parse_yaml)
                yield from check_control_keys(environment, source, keys)


def stack_files(stack: StackFields) -> Iterator[str]:
    """The compose files that a stack may have, by the manifest: absolute paths."""
    for name in (*stack.files, *DEFAULT_NAMES):
        yield posixpath.normpath(posixpath.join(stack.directory, name))


def _env_files(stack: StackFields) -> Iterator[str]:
    for name in (*stack.env_files, ENVIRONMENT_NAME):
        yield posixpath.normpath(posixpath.join(stack.directory, name))


def check_control_keys(environment: Environment, source: Source, changed: Iterable[str]) -> Iterator[Finding]:
    """Given the keys of a source that are added, removed or changed, find those by which a project's .env decides what
    Compose runs."""
    if environment.manifest is None or source.outline is None:
        return
    stacks = environment.manifest.stacks.values()
    if folded(source.outline.path) not in {folded(path) for stack in stacks for path in _env_files(stack)}:
        return
    for key in control_keys(changed):
        message = (
            f"{key} changes what Compose runs: a server refuses it in {source.outline.path} without "
            "allow_compose_files. Change it on the server first, while the target is paused"
        )
        yield Finding(rules.PROJECT_FILE, source.path, source.line(key), message)


def _changed_keys(source: Source, before: bytes, parse_yaml: YamlParser) -> Sequence[str]:
    """The keys that differ from an earlier version; none where either one cannot be read."""
    if source.cipher is None:
        with contextlib.suppress(EnvFileError):
            return changed_control_keys(before, source.data) if source.keys is not None else ()
        return ()
    try:
        earlier = read_ciphertext(source.path, before, parse_yaml=parse_yaml, parser=source.parser)
    except SourceError:
        return ()
    return compare_ciphertexts(earlier, source.cipher).keys.names


def _unknown_stacks(environment: Environment, configs: Sequence[ServerConfig]) -> Iterator[Finding]:
    assert environment.manifest is not None
    for config in configs:
        for name in config.stacks:
            owner, slash, stack = name.rpartition("/")
            if slash and owner == environment.name and stack not in environment.manifest.stacks:
                message = f"stacks: {name} is not a stack of this environment, so git_may_change has no effect"
                yield Finding(rules.PROJECT_FILE, f"{environment.name}/{MANIFEST}", 1, message)
