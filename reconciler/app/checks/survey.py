"""Reads the files of a directory as environments, with their manifests and sources."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.checks.stores import check_store
from reconciler.app.config.conflicts import conflicts
from reconciler.app.config.manifest import ManifestFile, Outline, outlines
from reconciler.app.config.models import validate
from reconciler.app.config.server import ServerConfig
from reconciler.app.config.strict_yaml import Document, UnreadableError, read_document
from reconciler.core.checks import line_lint, rules
from reconciler.core.checks.rules import Finding, Rule
from reconciler.core.dotenv.grammar import DotenvEntry, EnvFileError, read_entries
from reconciler.core.dotenv.ignored_keys import is_left_to_server
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.errors import BadCiphertextError, ForeignKeyError, NotEncryptedError, ReconcilerError, SourceError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secrets.names import is_no_secret_value, names_a_secret
from reconciler.core.secrets.plaintext import first_plain_line, is_env_file
from reconciler.core.sops.ciphertext import Ciphertext, YamlParser, read_ciphertext
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.file_format import format_of
from reconciler.core.text import key_name
from reconciler.core.tree import IGNORED, Tree

MANIFEST = "environment.yaml"
CHECK_SETTINGS = "check.yaml"
_NEARLY_A_MANIFEST = re.compile(r"(?i)environments?\.ya?ml")
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_LINE = re.compile(r", line (\d+)$")
# Files beside sources that are not configuration: documentation, settings of git and editors, example env files.
_BYSTANDER = re.compile(r"(?i)readme(\..*)?|.*\.md|\..*|.*\.(example|template|sample|dist)|(env)\.(example|template)")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of an environment. ``path`` is relative to the tree, ``name`` to the environment; ``outline`` is its
    target in the manifest, None if it has none; ``keys`` maps its variables to their lines, and is None if they are
    unknown without the key."""

    environment: str
    name: str
    path: str
    data: bytes = field(repr=False)
    outline: Outline | None
    cipher: Ciphertext | None = None
    keys: Mapping[str, int] | None = None

    @property
    def encrypted(self) -> bool:
        return self.outline.encrypted if self.outline else self.cipher is not None

    @property
    def parser(self) -> Parser:
        return self.outline.parser if self.outline else Parser.OPAQUE

    def is_left_to_server(self, key: str) -> bool:
        """Whether the server decides the key's value, so that git may lack it."""
        return self.outline is not None and is_left_to_server(key, self.outline.ignore_keys)

    def line(self, key: str) -> int:
        return (self.keys or {}).get(key, 1)


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment. ``manifest`` is None if it is invalid; ``sources`` exist anyway."""

    name: str
    document: Document | None
    manifest: ManifestFile | None
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything below the directory, read once. ``prefix`` is the path from the working directory to it."""

    tree: Tree
    prefix: str
    environments: tuple[Environment, ...]
    findings: tuple[Finding, ...]

    @property
    def sources(self) -> Iterator[Source]:
        return (source for environment in self.environments for source in environment.sources)

    def shown(self, path: str) -> str:
        """A path of the tree, relative to the working directory."""
        return posixpath.normpath(posixpath.join(self.prefix, path))


def survey_environments(
    tree: Tree, prefix: str, *, parse_yaml: YamlParser, servers: Mapping[str, Sequence[ServerConfig]] | None = None
) -> Survey:
    """Read every environment of the tree. ``servers`` are server configurations by the environment they follow."""
    findings: list[Finding] = []
    environments = []
    for name in tree.directories():
        reader = _Reader(tree, prefix, name, parse_yaml, findings)
        if f"{name}/{MANIFEST}" in (tree.files.keys() | tree.odd.keys()):
            environments.append(reader.environment((servers or {}).get(name, ())))
        else:
            findings += _without_manifest(tree, name)
    for path, data in tree.files.items():
        findings += _anywhere(path, data)
    findings += _odd_ones(tree)
    findings += _plain_env_files(tree, environments, _Reader(tree, prefix, "", parse_yaml, findings))
    return Survey(tree, prefix, tuple(environments), tuple(findings))


def _without_manifest(tree: Tree, name: str) -> Iterator[Finding]:
    encrypted = [path for path in tree.below(name) if b"ENC[AES256_GCM," in tree.files.get(path, b"")]
    if encrypted:
        message = f"{name} has encrypted files but no {MANIFEST}, so no server can follow it"
        yield Finding(rules.MANIFEST_MISSING, encrypted[0], 1, message)


def _odd_ones(tree: Tree) -> Iterator[Finding]:
    """Files that look like configuration, but that nothing reads."""
    for path, kind in tree.odd.items():
        if posixpath.basename(path) == SOPS_CONFIG:
            yield Finding(rules.SOPS_CONFIG_INVALID, path, 1, f"is {kind}, which is not followed")
        elif "/" not in path and not _BYSTANDER.fullmatch(path) and path != CHECK_SETTINGS:
            message = f"is {kind}, which no server follows: an environment must be a directory"
            yield Finding(rules.SOURCE_UNUSABLE, path, 1, message)
    for path in (*tree.files, *tree.odd):
        base = posixpath.basename(path)
        if path.count("/") == 1 and base != MANIFEST and _NEARLY_A_MANIFEST.fullmatch(base):
            yield Finding(rules.MANIFEST_INVALID, path, 1, f"is not read by any server: rename it to {MANIFEST}")


def _plain_env_files(tree: Tree, environments: Sequence[Environment], reader: _Reader) -> Iterator[Finding]:
    """Plain env files that are not sources, in any directory, except where an invalid manifest leaves that unknown."""
    unknown = tuple(f"{environment.name}/" for environment in environments if environment.manifest is None)
    manifests = tuple(f"{environment.name}/" for environment in environments)
    named = {
        f"{environment.name}/{outline.source}"
        for environment in environments
        if environment.manifest is not None
        for outline in outlines(environment.manifest)
    }
    for path, data in tree.files.items():
        if path in named or path.startswith(unknown) or not is_env_file(posixpath.basename(path)):
            continue
        reason = tree.unheld.get(path, "")
        if b"ENC[AES256_GCM," in data:
            if not path.startswith(manifests):  # those are checked with the sources
                reader.check_encrypted(path, data)
        elif (line := first_plain_line(data)) and not reason.startswith(IGNORED):
            history = f"before it gets into git ({reason})" if reason else "and replace its secrets, which git keeps"
            message = (
                f"is an env file in plain text: encrypt or remove it, {history}. If it has no secrets, add a target "
                "with encrypted: false"
            )
            yield Finding(rules.NOT_ENCRYPTED, path, line, message)


def secrets_in_plain(
    path: str, entries: Iterable[DotenvEntry], real: Callable[[str], bool] = bool
) -> Iterator[Finding]:
    """Find secrets, by name, in a file that is not encrypted. ``real`` filters placeholder values."""
    for entry in entries:
        value = entry.template.strip()
        if names_a_secret(entry.key) and not is_no_secret_value(value) and real(value):
            message = f"{key_name(entry.key)} looks like a secret, and everyone with access to git can read it"
            yield Finding(rules.PLAIN_SECRET, path, entry.line, message)


def _anywhere(path: str, data: bytes) -> Iterator[Finding]:
    """Find what no file may contain. Env files and encrypted files have further checks elsewhere."""
    if b"<<<<<<<" in data or b">>>>>>>" in data:
        yield from line_lint.conflict_markers(path, data.decode("utf-8", "replace"))
    if b"AGE-SECRET-KEY-1" in data or b"PRIVATE KEY" in data:
        yield from line_lint.private_keys(path, data.decode("utf-8", "replace"))


class _Reader:
    """Reads one environment; appends to ``findings``."""

    def __init__(self, tree: Tree, prefix: str, name: str, parse_yaml: YamlParser, findings: list[Finding]) -> None:
        self._tree = tree
        self._prefix = prefix
        self._name = name
        self._parse_yaml = parse_yaml
        self._findings = findings
        self._paths = tuple(tree.below(name))
        self._directories = {parent for path in self._paths for parent in _parents(path)}

    def environment(self, servers: Sequence[ServerConfig]) -> Environment:
        path = f"{self._name}/{MANIFEST}"
        document, manifest = self._manifest(path, servers)
        named = {outline.source: outline for outline in outlines(manifest)} if manifest else {}
        sources = [source for outline in named.values() if (source := self._named(outline, document, path))]
        sources += [source for path in self._others(named) if (source := self._unnamed(path, manifest is not None))]
        return Environment(self._name, document, manifest, tuple(sources))

    # --- the manifest ---

    def _manifest(self, path: str, servers: Sequence[ServerConfig]) -> tuple[Document | None, ManifestFile | None]:
        if path in self._tree.odd:
            self._report(rules.MANIFEST_INVALID, path, 1, f"is {self._tree.odd[path]}")
            return None, None
        data = self._tree.files[path]
        if reason := self._tree.unheld.get(path):
            self._report(rules.MANIFEST_INVALID, path, 1, f"is not in git, so no server can read it: {reason}")
        if line_lint.conflict_markers(path, data.decode("utf-8", "replace")):
            return None, None  # already reported
        try:
            document = read_document(data, path)
        except UnreadableError as error:
            self._report(rules.MANIFEST_INVALID, path, *_placed(str(error), path))
            return None, None
        results = [validate(ManifestFile, document, server) for server in servers or (None,)]
        manifest = next((manifest for manifest, _ in results if manifest), None)
        mistakes = [mistake for _, of_one in results for mistake in of_one]
        for line, text in dict.fromkeys(document.sentences([*document.problems, *mistakes])):
            self._report(rules.MANIFEST_INVALID, path, line, text)
        for line, text in document.sentences(conflicts(document)):
            self._report(rules.TARGET_CONFLICT, path, line, text)
        return document, manifest

    # --- the sources ---

    def _named(self, outline: Outline, document: Document | None, manifest: str) -> Source | None:
        path = f"{self._name}/{outline.source}"
        line = document.line(outline.field) if document else 1
        if path in self._tree.odd:
            self._report(rules.SOURCE_UNUSABLE, path, 1, f"is {self._tree.odd[path]}; a source must be a regular file")
            return None
        if path not in self._tree.files:
            directory = path in self._directories
            problem = "is a directory" if directory else "does not exist"
            rule = rules.SOURCE_UNUSABLE if directory else rules.SOURCE_MISSING
            self._report(
                rule, manifest, line, f"the source {outline.source} {problem}: add the file or remove its target"
            )
            return None
        if reason := self._tree.unheld.get(path):
            message = f"the source {outline.source} is not in git, so no server can read it: {reason}"
            self._report(rules.SOURCE_MISSING, manifest, line, message)
        data = self._tree.files[path]
        if data.startswith(_LFS):
            self._report(rules.SOURCE_UNUSABLE, path, 1, "is a Git LFS pointer, which no server follows")
            return None
        if outline.encrypted:
            return self.check_encrypted(path, data, outline)
        return self._plain(path, data, outline)

    def _others(self, named: Mapping[str, Outline]) -> Iterator[str]:
        for path in self._paths:
            name = path.removeprefix(f"{self._name}/")
            base = posixpath.basename(name)
            if name in named or name == MANIFEST or (_BYSTANDER.fullmatch(base) and not is_env_file(base)):
                continue
            if _NEARLY_A_MANIFEST.fullmatch(name) or self._is_plain_env_file(path):
                continue  # reported elsewhere
            yield path

    def _is_plain_env_file(self, path: str) -> bool:
        data = self._tree.files.get(path, b"")
        plain = b"ENC[AES256_GCM," not in data and first_plain_line(data) is not None
        return plain and is_env_file(posixpath.basename(path))

    def _unnamed(self, path: str, manifest_usable: bool) -> Source | None:
        if manifest_usable:
            self._report(rules.SOURCE_UNUSED, path, 1, f"is not the source of a target in {self._name}/{MANIFEST}")
        data = self._tree.files.get(path)
        return self.check_encrypted(path, data) if data and b"ENC[AES256_GCM," in data else None

    def check_encrypted(self, path: str, data: bytes, outline: Outline | None = None) -> Source:
        """Report mistakes in an encrypted file; without an ``outline``, no manifest names it."""
        name = path.removeprefix(f"{self._name}/")
        shown_path = posixpath.normpath(posixpath.join(self._prefix, path))
        text = data.decode("utf-8", "surrogateescape")
        is_dotenv = format_of(name, data) is Format.DOTENV
        parser = outline.parser if outline else Parser.OPAQUE
        linted = line_lint.lint_text(path, text, encrypted=is_dotenv) if b"ENC[" in data else line_lint.Linted(text)
        # Conflict markers are reported for all files together.
        self._findings += [] if linted.conflict else linted.findings
        cipher = None
        if not linted.conflict and not line_lint.conflict_markers(path, text):
            rest = linted.rest.encode("utf-8", "surrogateescape")
            try:
                cipher = read_ciphertext(shown_path, rest, parse_yaml=self._parse_yaml, parser=parser)
            except SourceError as error:
                self._report_error(path, rest, error)
        keys = None
        if cipher and cipher.output is Format.DOTENV:
            keys = {entry.key: entry.line or 1 for entry in cipher.entries if not entry.comment}
        if cipher:
            self._findings += check_store(path, shown_path, data, cipher, self._tree.earlier.get(path, ()))
        return Source(self._name, name, path, data, outline, cipher if not linted.findings else None, keys)

    def _report_error(self, path: str, data: bytes, error: SourceError) -> None:
        rule = _rule_of(error)
        match = _LINE.search(error.where)
        line = int(match[1]) if match else _first_plain_line(data) if rule is rules.NOT_ENCRYPTED else 1
        never_in_git = isinstance(error, NotEncryptedError) and path in self._tree.unheld
        # That git keeps the plain values is not true then.
        message = f"{error.what}. Encrypt it before it gets into git" if never_in_git else sentence(error)
        self._report(rule, path, line, message)

    def _plain(self, path: str, data: bytes, outline: Outline) -> Source:
        name = path.removeprefix(f"{self._name}/")
        plain = Source(self._name, name, path, data, outline)
        if b"ENC[AES256_GCM," in data:
            message = "is encrypted, but its target has encrypted: false: the service would read the ciphertext"
            self._report(rules.ENCRYPTED_MARKED_PLAIN, path, 1, message)
            return plain
        if outline.parser is Parser.OPAQUE:
            return plain
        text = data.decode("utf-8", "surrogateescape")
        linted = line_lint.lint_text(path, text, encrypted=False)
        self._findings += [finding for finding in linted.findings if finding.rule is not rules.CONFLICT_MARKER]
        if linted.conflict:
            return plain
        entries, problems = checked_entries(path, data, outline.parser)
        self._findings += [*problems, *secrets_in_plain(path, entries if not problems else ())]
        keys = {entry.key: entry.line for entry in entries}
        return Source(self._name, name, path, data, outline, keys=keys if not problems else None)

    def _report(self, rule: Rule, path: str, line: int, message: str) -> None:
        self._findings.append(Finding(rule, path, line, message))


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def checked_entries(path: str, data: bytes, parser: Parser) -> tuple[Sequence[DotenvEntry], list[Finding]]:
    """The entries of a plain env file, and findings about them."""
    try:
        entries = read_entries(data, parser)
        if parser is Parser.COMPOSE:
            resolve_env_file(data, {})
    except EnvFileError as error:
        if error.code != "required-variable":  # the server's environment may define it
            return (), [Finding(rules.ENV_UNREADABLE, path, error.line, str(error).partition(": ")[2])]
    return entries, line_lint.lint_entries(path, entries)


def sentence(error: ReconcilerError) -> str:
    """An error as a sentence, without its place, which is in the finding."""
    return f"{error.what.rstrip('.')}. {error.hint}" if error.hint else error.what


def _rule_of(error: SourceError) -> Rule:
    if isinstance(error, NotEncryptedError):
        return rules.NOT_ENCRYPTED
    if isinstance(error, ForeignKeyError):
        return rules.METADATA_KIND
    return rules.BAD_CIPHERTEXT if isinstance(error, BadCiphertextError) else rules.SOURCE_UNUSABLE


def _first_plain_line(data: bytes) -> int:
    """The first line of a dotenv file that looks unencrypted."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        key, equals, value = line.partition(b"=")
        plain = equals and value.strip() and not value.startswith(b"ENC[") and not key.startswith((b"sops_", b"#"))
        if plain or (line.startswith(b"#") and not line.startswith(b"#ENC[")):
            return number
    return 1


def _placed(text: str, path: str) -> tuple[int, str]:
    """Split ``FILE:LINE:COLUMN: message`` into line and message."""
    match = re.match(r"(?::(\d+))?(?::\d+)?: ", rest := text.removeprefix(path))
    return int((match and match[1]) or 1), rest[match.end() :] if match else rest
