"""check.yaml: rules that are off for some paths, with reasons, and names that are retired."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import ConfigDict, Field

from reconciler.app.checks.survey import CHECK_SETTINGS
from reconciler.app.config.models import Items, Section, Short, validate
from reconciler.app.config.scalars import Form
from reconciler.app.config.strict_yaml import Document, UnreadableError, read_document
from reconciler.core.checks import rules
from reconciler.core.checks.retired import RetiredName
from reconciler.core.checks.rules import Finding
from reconciler.core.tree import Tree

# Findings about exemptions cannot be exempted.
_ALWAYS_ON = frozenset({rules.CHECK_SETTINGS, rules.EXEMPTION_UNUSED})
_COMPARING = frozenset({rules.SHARED_SECRET, rules.CONTRACT_DIFFERS})

_RULE = Form("a rule's id", "an id of docs/checks.md, such as environment-parity", r"^[a-z][a-z-]{0,40}$")
_GLOB = Form(
    "a path or pattern",
    "a path below this directory, such as staging/api.env; * stands for anything, also for /",
    r"^(?![/])[^\x00-\x1f\x7f\\]{1,200}$",
)
RETIRED_NAME = Form(
    "a name",
    "a key, provider or host of 3 to 200 letters, digits and . _ -",
    r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{1,198})[A-Za-z0-9]$",
)
_REASON = Form("a reason", "a sentence of at least 10 characters", r"^.{10,500}$", quote=False)


class Exemption(Section):
    """One rule that does not apply to some paths."""

    rule: Annotated[str, _RULE] = Field(description="The rule's id.")
    path: Annotated[str, _GLOB] = Field(description="The file it does not apply to, or a pattern.")
    reason: Annotated[str, _REASON] = Field(description="The reason.")


class Retired(Section):
    """A key, provider or host that nothing in the repository should name any more."""

    name: Annotated[str, RETIRED_NAME] = Field(description="The name.")
    reason: Annotated[str, _REASON] | None = Field(default=None, description="Why, or what replaces it.")


class CheckFile(Section):
    """Exemptions from the rules of `reconciler check`, and retired names."""

    model_config = ConfigDict(title="check.yaml")

    # Not `off`, which is false in YAML 1.1.
    exempt: Annotated[tuple[Exemption, ...], Items()] = Field(default=(), description="Rules that are off, by path.")
    retired: Annotated[tuple[Annotated[Retired, Short("name", RETIRED_NAME, empty=False)], ...], Items()] = Field(
        default=(), description="Keys, providers and hosts that nothing should name any more."
    )


@dataclass(frozen=True, slots=True)
class Exemptions:
    """``lines`` has the line of each exemption."""

    exemptions: tuple[Exemption, ...] = ()
    lines: tuple[int, ...] = ()

    def apply(self, findings: Iterable[Finding], *, whole: bool, sealed: Collection[str]) -> list[Finding]:
        """Return the findings that remain, and findings for unused exemptions. The latter only for a ``whole`` run, and
        for a rule that needs values only if no matching file was ``sealed``."""
        used: set[int] = set()
        remaining = []
        for finding in findings:
            number = None if finding.rule in _ALWAYS_ON else self._exempted(finding)
            if number is None:
                remaining.append(finding)
            else:
                used.add(number)
        return remaining + (self._unused(used, sealed) if whole else [])

    def _exempted(self, finding: Finding) -> int | None:
        for number, exemption in enumerate(self.exemptions):
            if exemption.rule == finding.rule.id and fnmatchcase(finding.path, exemption.path):
                return number
        return None

    def _unused(self, used: set[int], sealed: Collection[str]) -> list[Finding]:
        return [
            Finding(
                rules.EXEMPTION_UNUSED,
                CHECK_SETTINGS,
                line,
                f"{exemption.rule} no longer finds anything in {exemption.path}: remove the exemption",
            )
            for number, (exemption, line) in enumerate(zip(self.exemptions, self.lines, strict=True))
            if number not in used and not _may_apply(exemption, sealed)
        ]


def _may_apply(exemption: Exemption, sealed: Collection[str]) -> bool:
    """Whether a sealed file may contain what is exempt; some rules compare it with any other file."""
    rule = rules.BY_ID[exemption.rule]
    if rule in _COMPARING:
        return bool(sealed)
    return rule.keyed and any(fnmatchcase(path, exemption.path) for path in sealed)


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """check.yaml as read; ``findings`` are the mistakes in it, without which nothing of it would count."""

    exemptions: Exemptions = Exemptions()
    retired: tuple[RetiredName, ...] = ()
    findings: tuple[Finding, ...] = ()

    def beside(self, given: CheckSettings) -> CheckSettings:
        """With the retired names of the command, which come without a reason unless the file has one."""
        known = {retired.name.casefold() for retired in self.retired}
        more = tuple(retired for retired in given.retired if retired.name.casefold() not in known)
        return replace(self, retired=self.retired + more)


def read_check_settings(tree: Tree) -> CheckSettings:
    """Read check.yaml; if it is invalid, nothing is exempt or retired, and the findings say why."""
    if CHECK_SETTINGS in tree.odd:
        return _unusable([(1, f"is {tree.odd[CHECK_SETTINGS]}")])
    if CHECK_SETTINGS not in tree.files:
        return CheckSettings()
    try:
        document = read_document(tree.files[CHECK_SETTINGS], CHECK_SETTINGS)
    except UnreadableError as error:
        return _unusable([(1, str(error))])
    settings, problems = validate(CheckFile, document)
    unusable = _unusable(document.sentences([*document.problems, *problems]))
    if settings is None:
        return unusable
    findings = list(unusable.findings)
    retired = tuple(RetiredName(name.name, name.reason or "") for name in settings.retired)
    return CheckSettings(_known(settings, document, findings), retired, tuple(findings))


def _unusable(sentences: Iterable[tuple[int, str]]) -> CheckSettings:
    findings = (Finding(rules.CHECK_SETTINGS, CHECK_SETTINGS, line, text) for line, text in sentences)
    return CheckSettings(findings=tuple(findings))


def _known(settings: CheckFile, document: Document, findings: list[Finding]) -> Exemptions:
    kept = []
    for number, exemption in enumerate(settings.exempt):
        line = document.line(("exempt", number))
        if exemption.rule in rules.BY_ID and rules.BY_ID[exemption.rule] not in _ALWAYS_ON:
            kept.append((exemption, line))
        else:
            problem = (
                "cannot be turned off" if exemption.rule in rules.BY_ID else "is not a rule; docs/checks.md lists them"
            )
            findings.append(
                Finding(
                    rules.CHECK_SETTINGS, CHECK_SETTINGS, line, f"exempt[{number}].rule: {exemption.rule} {problem}"
                )
            )
    return Exemptions(tuple(exemption for exemption, _ in kept), tuple(line for _, line in kept))
