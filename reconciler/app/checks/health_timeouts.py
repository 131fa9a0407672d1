"""Health checks of compose files in git that allow a service more time than its stack's health.timeout."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.app.checks.project_files import stack_files
from reconciler.app.checks.survey import Source, Survey
from reconciler.app.config.manifest import StackFields
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.decide.startup import allowed_by_definition
from reconciler.core.errors import SourceError
from reconciler.core.sops.ciphertext import YamlParser
from reconciler.core.sops.metadata import Fields


def check_health_timeouts(survey: Survey, parse_yaml: YamlParser) -> Iterator[Finding]:
    """Services that may take longer to become healthy than health.timeout says. Skips what has anchors or aliases."""
    for environment in survey.environments:
        stacks = environment.manifest.stacks if environment.manifest else {}
        for name, stack in stacks.items():
            files = set(stack_files(stack))
            for source in environment.sources:
                if source.outline is not None and not source.encrypted and source.outline.path in files:
                    yield from _in_file(source, name, stack, parse_yaml)


def _in_file(source: Source, name: str, stack: StackFields, parse_yaml: YamlParser) -> Iterator[Finding]:
    try:
        document = parse_yaml(source.path, source.data.decode("utf-8", "replace"))
    except SourceError:
        return
    for service, _, fields in _fields(_get(document, "services")):
        for key, line, check in _fields(fields):
            allowed = allowed_by_definition({name: value for name, _, value in _fields(check)})
            if key == "healthcheck" and allowed > stack.health.timeout:
                message = (
                    f"the health check allows {service} {allowed:g} s to become healthy, and health.timeout of the "
                    f"stack {name} is {stack.health.timeout:g} s: a change waits as long as the health check allows"
                )
                yield Finding(rules.HEALTH_TIMEOUT, source.path, line, message)


def _fields(value: object) -> Fields:
    return value if isinstance(value, Fields) else Fields()


def _get(document: object, key: str) -> object:
    return next((value for name, _, value in _fields(document) if name == key), None)
