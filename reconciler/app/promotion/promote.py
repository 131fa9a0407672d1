"""`reconciler promote`: take keys from one environment of a clone to another, as one commit on a branch.

Works on HEAD; the working tree stays as it is. Everything that can refuse is asked, and the other environment checked
with its new values, before anything is committed.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import ContractBook, open_book
from reconciler.app.checks.parity import side_file
from reconciler.app.checks.run import Values, check_tree, open_all
from reconciler.app.checks.survey import Source, Survey, survey_environments
from reconciler.app.config.expected import FILE_NAME, read_expected
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository
from reconciler.app.wiring.tools import Tools
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.compare.judging import Judge
from reconciler.core.compare.pairing import belong_together, pair
from reconciler.core.compare.types import Allows
from reconciler.core.contract import notes, shortest
from reconciler.core.dotenv.interpolation import references
from reconciler.core.editing.source_edits import set_value
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.promotion.key_plan import FileKeys, FilePair, KeyPlan, PromotedKey, ValueFrom, plan_keys
from reconciler.core.secret import Secret
from reconciler.core.text import listed, printable
from reconciler.core.tree import Tree

_NAME_KEY = "Name private key files of both environments with --age-key-file or SOPS_AGE_KEY_FILE"
_LONG_ENOUGH = 3  # characters of an environment's name, to look for it in values

Ask = Callable[[str], Secret]
"""Given a key, returns the value that the user types for it."""
Generate = Callable[[int], Secret]
CountProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """``keys`` () means all that the right side lacks. ``target`` names a file on either side. ``lengths`` are those of
    generated values by key, "" for all secrets. ``path`` leads from the repository's top to its environments."""

    left: str
    right: str
    keys: tuple[str, ...] = ()
    target: str = ""
    lengths: Mapping[str, int] = field(default_factory=dict)
    copy_secrets: bool = False
    branch: str | None = None
    dry_run: bool = False
    path: str = "envs"
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """``branch`` and ``commit`` are "" where nothing was committed. ``warnings`` are what the check finds beside errors
    with the new values, and did not before."""

    left: str
    right: str
    plan: KeyPlan
    branch: str = ""
    commit: str = ""
    warnings: tuple[Finding, ...] = ()


async def promote(request: PromotionRequest, ask: Ask | None, generate: Generate, progress: CountProgress) -> Promotion:
    """Raises RefusedError, SourceError, KeyUnavailableError, DecryptFailedError; then there is no branch."""
    top = clone.work_tree_top(os.getcwd())
    writer = clone.CloneWriter(top)
    head = await writer.head()
    if head is None:
        raise RefusedError("has no commit yet", where=top, hint="Commit the encrypted files first")
    keys = clone.require_keys(request.key_file, _NAME_KEY)
    run = await _PromotionRun.begin(request, top, head, clone.tools(keys, progress), clone.Keys(keys))
    plan = run.plan()
    if request.dry_run or not plan.keys:
        return Promotion(request.left, request.right, plan)
    slug = re.sub(r"[^\w.-]+", "-", request.keys[0] if len(request.keys) == 1 else f"from-{request.left}")
    branch = request.branch or f"promote/{request.right}-{slug.strip('-.')}"
    await writer.require_room(branch, [run.in_repository(path) for path in {key.right for key in plan.keys}])
    _require_values(plan, ask)
    files = await run.amended(plan, ask, generate)
    warnings = await run.checked(files)
    changed = {run.in_repository(path): data for path, data in files.items()}
    commit = await writer.commit(head, changed, _message(request, plan, head))
    await writer.make_branch(branch, commit, None)
    return Promotion(request.left, request.right, plan, branch, commit, warnings)


def _require_values(plan: KeyPlan, ask: Ask | None) -> None:
    """Raises RefusedError where a value has to be typed, and nobody can."""
    asked_keys = [key.key for key in plan.keys if key.value_from is ValueFrom.ASKED]
    if asked_keys and ask is None:
        hint = "Run it at a terminal, which asks for them; or give --generate N, or --copy-secrets"
        raise RefusedError(f"these keys need values of their own: {listed(asked_keys, len(asked_keys))}", hint=hint)


@dataclass(frozen=True, slots=True)
class _PromotionRun:
    request: PromotionRequest
    directory: str
    tools: Tools
    keys: clone.Keys
    tree: Tree
    survey: Survey
    book: ContractBook
    pairs: tuple[tuple[Source, Source], ...]
    values: Values

    @classmethod
    async def begin(
        cls, request: PromotionRequest, top: str, head: str, tools: Tools, keys: clone.Keys
    ) -> _PromotionRun:
        """Read HEAD, choose the files and open them."""
        directory = inside_repository(request.path)
        (tree,) = await clone.Clone(top).trees([head], directory)
        survey = survey_environments(tree, directory, parse_yaml=tools.parse_yaml)
        pairs, alone = _pairs(survey, request)
        chosen = _chosen(request, pairs, alone)
        paths = {source.path for both in chosen for source in both}
        values = await open_all(survey, tools, paths)
        if sealed := sorted(values.sealed):
            raise RefusedError(f"your key does not open {listed(sealed)}", where=directory, hint=_NAME_KEY)
        return cls(request, directory, tools, keys, tree, survey, open_book(survey), chosen, values)

    def in_repository(self, path: str) -> str:
        return posixpath.join(self.directory, path)

    def plan(self) -> KeyPlan:
        """Raises RefusedError for a key that cannot be promoted, though it was named."""
        request = self.request
        expected = read_expected(self.tree.files.get(FILE_NAME, b""), self.in_repository(FILE_NAME))
        judge = Judge(frozenset({request.left, request.right}), expected, different=True)
        plan = plan_keys(
            [self._file_pair(left, right, judge) for left, right in self.pairs],
            request.keys,
            generated=lambda key: key in request.lengths or "" in request.lengths,
            copy_secrets=request.copy_secrets,
            left_names=_names_of(self.survey, request.left),
        )
        if request.keys and plan.left_out:
            reasons = "; ".join(f"{key.key} of {key.left}: {key.reason}" for key in plan.left_out)
            raise RefusedError(f"cannot be promoted: {reasons}", where=f"promote {request.left} {request.right}")
        return plan

    def _file_pair(self, left: Source, right: Source, judge: Judge) -> FilePair:
        names = (left.path, left.name, right.path, right.name)

        def expected(key: str) -> str:
            whole = judge.expects_file(names)
            return whole or next(filter(None, (judge.explanation(names, key, allows) for allows in _DIFFERENCES)), "")

        def left_to_server(key: str) -> bool:
            return left.is_left_to_server(key) or right.is_left_to_server(key)

        return FilePair(self._file_keys(left), self._file_keys(right), expected, left_to_server)

    def _file_keys(self, source: Source) -> FileKeys:
        opened = next((opened for opened in self.values.opened if opened.source is source), None)
        if opened is None:
            hint = f"`reconciler check {self.directory}` shows what is wrong with it"
            raise RefusedError("its keys cannot be read", where=self.in_repository(source.path), hint=hint)
        linked = frozenset(entry.key for entry in opened.entries if references(entry) or entry.inherited)
        return FileKeys(source.path, opened.variables, linked, notes(self.book.contracts_of(source)))

    async def amended(self, plan: KeyPlan, ask: Ask | None, generate: Generate) -> dict[str, bytes]:
        """The right side's files with their new values, by path."""
        given: dict[str, Secret] = {}

        def value_of(key: PromotedKey, right: Source) -> Secret:
            if key.value_from is ValueFrom.COPIED:
                opened = next(opened for opened in self.values.opened if opened.source.path == key.left)
                return Secret(opened.variables[key.key].encode("utf-8", "surrogateescape"))
            if key.key not in given:
                given[key.key] = self._own_value(key, right, ask, generate)
            return given[key.key]

        files = {}
        for _, right in self.pairs:
            mine = [key for key in plan.keys if key.right == right.path]
            if mine:
                values = {key.key: value_of(key, right) for key in mine}
                files[right.path] = await self._with_values(right, values)
        return files

    def _own_value(self, key: PromotedKey, right: Source, ask: Ask | None, generate: Generate) -> Secret:
        if key.value_from is ValueFrom.GENERATED:
            lengths = self.request.lengths
            length = lengths.get(key.key, lengths.get("", 0))
            return generate(max(length, shortest(self.book.contracts_of(right), key.key)))
        assert ask is not None
        return ask(key.key)

    async def _with_values(self, source: Source, values: Mapping[str, Secret]) -> bytes:
        """The file's bytes with these values, and all else as it is. Raises RefusedError."""
        name = self.in_repository(source.path)
        if source.cipher is not None and source.cipher.format is not Format.DOTENV:
            raise RefusedError(f"is a {source.cipher.format.upper()} store", where=name, hint="Use `reconciler edit`")
        parser = Parser.COMPOSE if source.parser is Parser.OPAQUE else source.parser
        content = self.values.plaintexts.get(source.path, source.data)
        sealed: dict[str, Secret | None] = {}
        for key, value in values.items():
            edit = set_value(name, content, key, value, parser)
            if edit is not None:
                sealed[edit.label], content = edit.value, edit.content.reveal()
        if not source.encrypted:
            return content
        data = await self.keys.amend(name, source.data, sealed)
        before, after = (self.keys.read(name, version, source.parser).metadata.age for version in (source.data, data))
        if before != after or (await self.keys.decrypt(name, data, source.parser)).reveal() != content:
            problem = "what sops wrote is not what was asked for, so nothing was changed"
            raise RefusedError(problem, where=name, hint=f"Try `sops edit {name}`")
        return data

    async def checked(self, files: Mapping[str, bytes]) -> tuple[Finding, ...]:
        """The new findings in the right environment that are no errors. Raises RefusedError for new errors."""
        after = await self._findings(replace(self.tree, files={**self.tree.files, **files}))
        known = {(finding.rule.id, finding.path, finding.message) for finding in await self._findings(self.tree)}
        new = [finding for finding in after if (finding.rule.id, finding.path, finding.message) not in known]
        shares = self.request.copy_secrets
        errors = [
            finding
            for finding in new
            if finding.rule.severity is Severity.ERROR and not (shares and finding.rule is rules.SHARED_SECRET)
        ]
        if errors:
            problems = "\n".join(f"{finding.path}: {finding.message} [{finding.rule.id}]" for finding in errors)
            hint = "Nothing was committed. Give other values, or change the contract first"
            raise RefusedError(f"the check refuses the new values:\n{problems}", hint=hint)
        return tuple(new)

    async def _findings(self, tree: Tree) -> Sequence[Finding]:
        return (await check_tree(tree, self.directory or ".", self.tools, only=[self.request.right])).findings


_DIFFERENCES = (Allows.MISSING, Allows.DIFFERS)


def _pairs(survey: Survey, request: PromotionRequest) -> tuple[list[tuple[Source, Source]], list[Source]]:
    """The files that belong together, as `check` and `compare` pair them, and the left ones without a counterpart.
    Raises RefusedError for an environment that is not there."""
    known = {environment.name: environment for environment in survey.environments}
    for name in (request.left, request.right):
        if name not in known:
            hint = f"There are: {listed(sorted(known)) or 'none'}"
            raise RefusedError("there is no such environment", where=printable(name), hint=hint)
    if request.left == request.right:
        raise RefusedError("name two environments", where=f"promote {request.left} {request.right}")
    left, right = (_usable(known[name].sources) for name in (request.left, request.right))
    here, there = ([side_file(source, path) for path, source in sources.items()] for sources in (left, right))
    pairs = [
        (left[both.left.name], right[both.right.name])
        for both in pair(here, there)
        if both.left and both.right and belong_together(both.left, both.right)
    ]
    paired = {source.path for source, _ in pairs}
    return pairs, [source for source in left.values() if source.path not in paired]


def _usable(sources: Collection[Source]) -> dict[str, Source]:
    return {source.path: source for source in sources if source.keys is not None and source.outline}


def _chosen(
    request: PromotionRequest, pairs: Sequence[tuple[Source, Source]], alone: Sequence[Source]
) -> tuple[tuple[Source, Source], ...]:
    """The pairs that the request is about. Raises RefusedError where it does not say which, or there is none."""
    where = f"promote {request.left} {request.right}"
    chosen = [both for both in pairs if not request.target or any(_is_called(it, request.target) for it in both)]
    if request.target and not chosen:
        hint = f"Files of both environments: {listed([right.path for _, right in pairs]) or 'none'}"
        raise RefusedError("no file of both environments is called so", where=printable(request.target), hint=hint)
    if not request.keys:
        return tuple(chosen)
    for key in request.keys:
        holders = [both for both in chosen if key in (both[0].keys or {})]
        if len(holders) > 1:
            files = listed([right.path for _, right in holders])
            raise RefusedError(f"{printable(key)} is in several files: {files}", where=where, hint="Add --target FILE")
        if not holders:
            raise _no_holder(key, request, alone)
    return tuple(both for both in chosen if set(request.keys) & (both[0].keys or {}).keys())


def _no_holder(key: str, request: PromotionRequest, alone: Sequence[Source]) -> RefusedError:
    lone = next((source for source in alone if key in (source.keys or {})), None)
    if lone is None:
        hint = f"`reconciler compare {request.left} {request.right}` shows what differs"
        return RefusedError("has no such key", where=f"{request.left}: {printable(key)}", hint=hint)
    hint = f"Add it as a target to {request.right}/environment.yaml first: its path and stack are for you to decide"
    return RefusedError(f"{request.right} has no file like it", where=lone.path, hint=hint)


def _is_called(source: Source, name: str) -> bool:
    live = source.outline.path if source.outline else ""
    return name in (source.path, source.name, posixpath.basename(source.name), live, posixpath.basename(live))


def _names_of(survey: Survey, environment: str) -> frozenset[str]:
    """What a value of the environment may name: the environment, and its hosts."""
    sources = [source for source in survey.sources if source.environment == environment and source.outline]
    hosts = {host for source in sources for host in (source.outline.hosts if source.outline else ())}
    return frozenset(name for name in (environment, *hosts) if len(name) >= _LONG_ENOUGH)


def _message(request: PromotionRequest, plan: KeyPlan, head: str) -> str:
    def lines() -> Iterator[str]:
        for key in plan.keys:
            yield f"- {key.key} in {key.right} ({key.value_from})\n"

    subject = f"Promote {len(plan.keys)} key(s) to {request.right}"
    if len(plan.keys) == 1:
        subject = f"Promote {plan.keys[0].key} to {request.right}"
    return f"{subject}\n\nFrom {request.left} at {head[:12]}:\n\n{''.join(lines())}"
