"""`reconciler check`: apply every rule to one directory, and to values if there is a key."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.check_settings import CheckSettings, read_check_settings
from reconciler.app.checks.contracts import check_contracts, open_book
from reconciler.app.checks.examples import check_examples, example_questions
from reconciler.app.checks.health_timeouts import check_health_timeouts
from reconciler.app.checks.parity import check_parity
from reconciler.app.checks.plain_files import check_plain_files
from reconciler.app.checks.project_files import check_project_files
from reconciler.app.checks.recipients import check_copies, check_recipients
from reconciler.app.checks.retired import check_retired
from reconciler.app.checks.survey import Source, Survey, sentence, survey_environments
from reconciler.app.checks.values import (
    Opened,
    check_differences,
    check_interpolation,
    check_placeholders,
    check_shared_secrets,
    open_source,
)
from reconciler.app.config.server import ServerConfig
from reconciler.app.wiring.tools import Tools
from reconciler.core.checks import rules
from reconciler.core.checks.retired import RetiredNames
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.errors import BadCiphertextError, KeyUnavailableError, RefusedError, SourceError
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester
from reconciler.core.text import printable
from reconciler.core.tree import Tree


@dataclass(frozen=True, slots=True)
class CheckReport:
    """``findings`` are sorted by path, line and rule, with paths relative to the working directory; ``files`` counts
    the checked sources, ``values`` those with known values."""

    findings: tuple[Finding, ...]
    environments: tuple[str, ...]
    files: int
    values: int
    key_opens_nothing: bool = False

    @property
    def errors(self) -> int:
        return sum(finding.rule.severity is Severity.ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


async def check_tree(
    tree: Tree,
    prefix: str,
    tools: Tools,
    *,
    only: Sequence[str] = (),
    servers: Mapping[str, Sequence[ServerConfig]] | None = None,
    before: Iterable[Finding] = (),
    settings: CheckSettings | None = None,
) -> CheckReport:
    """Apply every rule to ``tree``, found at ``prefix``. ``only`` limits the report to these environments; ``before``
    are findings from elsewhere; ``settings`` are those of the tree's check.yaml unless given.
    Raises RefusedError for an unknown environment, DecryptFailedError.
    """
    surveyed = survey_environments(tree, prefix, parse_yaml=tools.parse_yaml, servers=servers)
    names = tuple(environment.name for environment in surveyed.environments)
    if unknown := sorted(set(only) - set(names)):
        hint = (
            f"Available: {printable(', '.join(names))}" if names else "There is no directory with an environment.yaml"
        )
        raise RefusedError(f"there is no environment {', '.join(unknown)} in {prefix}", hint=hint)
    if not names:
        hint = "Name the directory of the environments: `reconciler check PATH`"
        raise RefusedError("has no directory with an environment.yaml", where=prefix, hint=hint)
    settings = settings or read_check_settings(tree)
    findings = [*before, *surveyed.findings, *settings.findings, *_keyless(surveyed)]
    findings += check_project_files(surveyed, servers or {}, tools.parse_yaml)
    findings += check_health_timeouts(surveyed, tools.parse_yaml)
    book = open_book(surveyed)
    values = await open_all(surveyed, tools)
    opened = values.opened
    variables = {source.source.path: source.variables for source in opened}
    findings += [*book.findings, *values.findings]
    examples = example_questions(surveyed, book)
    questions = [asked.questions for asked in examples]
    contracts = await check_contracts(surveyed, book, tools.contracts, variables, tools.now, questions)
    findings += [*contracts.findings, *check_examples(examples, contracts.answers)]
    notes = book.notes_of(surveyed.sources)
    findings += check_shared_secrets(opened, notes, Digester(secrets.token_bytes(DIGEST_KEY_BYTES)))
    findings += check_differences(opened, notes)
    findings += check_retired(surveyed, RetiredNames(settings.retired), opened, values.plaintexts)
    remaining = settings.exemptions.apply(findings, whole=not only, sealed=values.sealed)
    return CheckReport(
        findings=tuple(_presented(surveyed, remaining, only)),
        environments=tuple(only) or names,
        files=sum(1 for _ in surveyed.sources),
        values=len(opened),
        key_opens_nothing=bool(tools.opener and values.sealed and not values.plaintexts),
    )


def _keyless(surveyed: Survey) -> Iterator[Finding]:
    yield from check_recipients(surveyed)
    yield from check_copies(surveyed)
    yield from check_parity(surveyed)
    yield from check_plain_files(surveyed)


@dataclass(frozen=True, slots=True)
class Values:
    """The sources with known values, the findings about these values, the paths of sources that no key opened, and by
    path what was decrypted."""

    opened: list[Opened]
    findings: list[Finding]
    sealed: frozenset[str]
    plaintexts: Mapping[str, bytes] = field(repr=False)


async def open_all(surveyed: Survey, tools: Tools, paths: Collection[str] | None = None) -> Values:
    """Open every source (or those at ``paths``) whose values can be read."""
    selected = [source for source in surveyed.sources if source.outline and (paths is None or source.path in paths)]
    plain = [(source, source.data) for source in selected if not source.encrypted]
    findings: list[Finding] = []
    decrypted = await _decrypt(surveyed, selected, tools, findings)
    opened = []
    for source, data in [*plain, *decrypted]:
        content, problems = open_source(source, data)
        findings += problems
        if content is not None and (source.keys is not None or source.encrypted):
            findings += [*check_interpolation(content), *check_placeholders(content)]
            opened.append(content)
    order = {source.path: number for number, source in enumerate(surveyed.sources)}
    known = {source.path for source, _ in [*plain, *decrypted]}
    return Values(
        opened=sorted(opened, key=lambda content: order[content.source.path]),
        findings=findings,
        sealed=frozenset(source.path for source in selected if source.path not in known),
        plaintexts={source.path: data for source, data in decrypted},
    )


async def _decrypt(
    surveyed: Survey, selected: Iterable[Source], tools: Tools, findings: list[Finding]
) -> list[tuple[Source, bytes]]:
    """The sources that our key opens, decrypted."""
    opener = tools.opener
    if opener is None:
        return []
    ours = [source for source in selected if source.cipher and await opener.opens(source.cipher.metadata.age)]
    done = 0

    async def decrypt(source: Source) -> tuple[Source, bytes] | None:
        nonlocal done
        try:
            name = surveyed.shown(source.path)
            return source, (await opener.decrypt(name, source.data, source.parser)).reveal()
        except BadCiphertextError as error:
            findings.append(Finding(rules.DECRYPT_FAILED, source.path, 1, sentence(error)))
        except (KeyUnavailableError, SourceError):
            pass  # not for our key after all, or reported by the survey
        finally:
            done += 1
            tools.progress(done, len(ours))
        return None

    return [result for result in await asyncio.gather(*map(decrypt, ours)) if result is not None]


def _presented(surveyed: Survey, findings: Iterable[Finding], only: Sequence[str]) -> list[Finding]:
    """Each finding once, sorted by file and line, with the path relative to the working directory."""
    elsewhere = tuple(f"{environment.name}/" for environment in surveyed.environments if environment.name not in only)
    names = set(only)
    selected = {
        finding
        for finding in findings
        if not only or not finding.path.startswith(elsewhere) or not names.isdisjoint(finding.environments)
    }
    ordered = sorted(selected, key=lambda finding: (finding.path, finding.line, finding.rule.id, finding.message))
    return [
        replace(finding, path=surveyed.shown(finding.path), message=printable(finding.message)) for finding in ordered
    ]
