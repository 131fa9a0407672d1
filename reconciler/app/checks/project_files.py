"""What a server would refuse to write as Compose reads it as a project: as far as git shows."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from reconciler.app.checks.survey import MANIFEST, Environment, Source, Survey
from reconciler.app.config.manifest import StackFields
from reconciler.app.config.server import ServerConfig
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.compose_names import DEFAULT_NAMES, ENVIRONMENT_NAME
from reconciler.core.decide.guards import control_keys, folded


def check_project_files(survey: Survey, servers: Mapping[str, Sequence[ServerConfig]]) -> Iterator[Finding]:
    """Targets that a server with these files would not write."""
    for environment in survey.environments:
        configs = servers.get(environment.name, ())
        if environment.manifest is None or not configs:
            continue
        yield from _unknown_stacks(environment, configs)
        if all(config.allow_compose_files for config in configs):
            continue
        files, env_files = set[str](), set[str]()
        for stack in environment.manifest.stacks.values():
            files |= {folded(path) for path in stack_files(stack)}
            env_files |= {folded(path) for path in _env_files(stack)}
        for source in environment.sources:
            if source.outline is not None:
                yield from _refused(environment, source, files, env_files)


def stack_files(stack: StackFields) -> Iterator[str]:
    """The compose files that a stack may have, by the manifest: absolute paths."""
    for name in (*stack.files, *DEFAULT_NAMES):
        yield posixpath.normpath(posixpath.join(stack.directory, name))


def _env_files(stack: StackFields) -> Iterator[str]:
    for name in (*stack.env_files, ENVIRONMENT_NAME):
        yield posixpath.normpath(posixpath.join(stack.directory, name))


def _refused(environment: Environment, source: Source, files: set[str], env_files: set[str]) -> Iterator[Finding]:
    assert source.outline is not None
    path = folded(source.outline.path)
    line = environment.document.line(source.outline.field) if environment.document else 1
    where = f"{environment.name}/{MANIFEST}"
    if path in files:
        message = f"{source.name}: Compose reads {source.outline.path} as a project; a server refuses to write it"
        yield Finding(rules.PROJECT_FILE, where, line, message)
    elif path in env_files:
        for key in control_keys(source.keys or ()):
            message = f"{key} changes what Compose runs; a server refuses to write it to {source.outline.path}"
            yield Finding(rules.PROJECT_FILE, source.path, source.line(key), message)


def _unknown_stacks(environment: Environment, configs: Sequence[ServerConfig]) -> Iterator[Finding]:
    assert environment.manifest is not None
    for config in configs:
        for name in config.stacks:
            owner, slash, stack = name.rpartition("/")
            if slash and owner == environment.name and stack not in environment.manifest.stacks:
                message = f"stacks: {name} is not a stack of this environment, so git_may_change has no effect"
                yield Finding(rules.PROJECT_FILE, f"{environment.name}/{MANIFEST}", 1, message)
