"""What a SOPS file says without any key, and what must hold before sops sees a byte of it.

A SOPS file keeps its keys readable and encrypts its values, so a diff by key needs no key. The same reading is the
gate in front of sops, because sops itself is too trusting: its metadata names network endpoints to call, a list index
in it can eat all memory, and lines that nobody with a key ever wrote (``KEY=``, ``KEY: value=``, junk after a value)
pass with exit 0. Hence lists of what is allowed, never of what is forbidden, in the exact spelling sops writes: sops
matches the names in its metadata without regard to case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from reconciler.core.errors import BadCiphertextError, ForeignKeyError, NotEncryptedError, SourceError
from reconciler.core.model.targets import Format
from reconciler.core.text import key_name

MAX_BYTES = 5 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 250_000  # lines, or commas: the largest real file has fewer, and the time spent here stays below a second

_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_ENCRYPTED = re.compile(rf"ENC\[AES256_GCM,data:{_BASE64},iv:(?P<iv>{_BASE64}),tag:{_BASE64},type:(?P<type>[a-z]+)\]")
_VALUE_TYPES = {
    Format.DOTENV: ("str", "int", "float", "bool"),  # `sops set` makes the other three
    Format.JSON: ("str", "int", "float", "bool"),
    Format.YAML: ("str", "int", "float", "bool", "time"),
    Format.BINARY: ("str",),
}
# Only what Compose takes for a name: it also splits at a colon, so that `A: x=`, empty to sops, would set A to `x=`.
_VARIABLE = re.compile(r"[ \t]*(?:export[ \t]+)?([\w.\-]+)[ \t]*")
_CERTAINLY_A_NAME = re.compile(r"[A-Z_][A-Z0-9_.\-]{0,63}|[a-z_][a-z0-9_.\-]{0,63}")
_CONFLICT_MARKER = re.compile(r"^(?:<{7}|\|{7}|>{7})(?: .*)?$", re.MULTILINE)
_CONFLICT_SIGNS = ("<<<<<<<", "|||||||", ">>>>>>>")  # looked for first: that is much faster
_YAML_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#(.*)$", re.MULTILINE)
_TOP_LEVEL_KEY = re.compile(r"^(?:  |\t)?[\"']?([A-Za-z_][\w.\-]*)[\"']?:", re.MULTILINE)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ufeff\ud800-\udfff]")
_NAMES_SHOWN = 10
_IV = re.compile(rb",iv:([A-Za-z0-9+/]{16})")
IV_CHARACTERS = 16  # of an iv tell it from any other: 96 random bits

_INDEX = r"(?:0|[1-9][0-9]{0,2})"
_METADATA = re.compile(
    rf"(?P<age>age__list_{_INDEX}__map_(?:recipient|enc))|(?P<pgp>pgp__list_{_INDEX}__map_(?:fp|enc|created_at))"
    r"|mac|lastmodified|version|mac_only_encrypted|(?:un)?encrypted_(?:suffix|regex|comment_regex)"
)
_RECIPIENT = re.compile(rf"age1[0-9a-z]{{8,}}|ssh-(?:ed25519|rsa) {_BASE64}(?: [ -~]*)?")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{8,64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})")
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})[0-9A-Za-z.+-]{0,40}")
_OTHER_KEYS = {
    "kms": "AWS KMS",
    "gcp_kms": "Google Cloud KMS",
    "azure_kv": "Azure Key Vault",
    "hc_vault": "HashiCorp Vault",
    "hckms": "Huawei Cloud KMS",
    "pgp": "PGP",
    "key_groups": "groups of keys",
    "shamir_threshold": "a split (Shamir) key",
}
_AS_BINARY = "`sops encrypt --input-type binary --output-type binary` takes a file as it is"


# --- what is read ---


@dataclass(frozen=True, slots=True)
class EncryptedEntry:
    """One value or comment, still encrypted.

    ``key`` is the variable's name, or a path such as ``db.users[0]`` (YAML, JSON); "" for a comment. ``line`` counts
    from 1, and is 0 where unknown (JSON). ``encrypted`` is the ``ENC[…]`` text, "" for an empty value. ``iv`` stays
    the same until the value is written anew, even when the file's data key is rotated.
    """

    key: str
    line: int
    encrypted: str = ""
    iv: str = ""
    comment: bool = False

    @property
    def type(self) -> str:
        """What sops will make of the value: "str", "int" …; "" for an empty one. Anyone can change it unnoticed."""
        return self.encrypted.rpartition("type:")[2].rstrip("]")


@dataclass(frozen=True, slots=True)
class SopsMetadata:
    """Who can decrypt the file (public keys), and when and by which sops it was written.

    ``rule`` is the name of the setting by which sops left values in plain text, "" where it encrypts all.
    """

    age: tuple[str, ...]
    pgp: tuple[str, ...]
    mac: str
    lastmodified: str
    version: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A file that may be handed to sops."""

    format: Format
    entries: tuple[EncryptedEntry, ...]
    metadata: SopsMetadata


class Fields(list[tuple[str, int, object]]):
    """A mapping of a YAML or JSON file as (key, line, value); a value is Fields, list, str, None or another scalar.

    Not a dict: duplicate keys must be seen to be refused.
    """


YamlParser = Callable[[str, str], object]
"""Given a file's name and text, return the document; raises SourceError. Passed in, for PyYAML is no part of core."""


# --- the two entrances ---


def format_of(name: str, data: bytes) -> Format:
    """Given a source's name and bytes, return the format sops must be told.

    sops goes by the suffix alone and takes ``.env.production`` for binary. Here too the name decides, unless the
    content is sops' binary store whatever its name: a JSON object that holds ``data`` and ``sops``.
    """
    by_name = _format_by_name(name.rpartition("/")[2])
    store = None if by_name is Format.BINARY else _json_object(data)
    if store is None or not {"data", "sops"} <= store.keys():
        return by_name
    return Format.JSON if by_name is Format.JSON and not _is_binary_store(store) else Format.BINARY


def read_ciphertext(
    name: str, data: bytes, *, parse_yaml: YamlParser, key_types: frozenset[str] = frozenset({"age"})
) -> Ciphertext:
    """Given a source, return what it says without a key; nothing of it is decrypted or verified.

    ``key_types`` are the kinds of keys it may be encrypted for: "age", "pgp".
    Raises NotEncryptedError for plaintext in it (names the keys, never a value), BadCiphertextError for what sops
    never writes, SourceError for what sops may write and we refuse. No error quotes the file.
    """
    if len(data) > MAX_BYTES:
        raise SourceError(f"is too large: {len(data)} bytes, the limit is {MAX_BYTES}", where=name, hint="Split it")
    file_format = format_of(name, data)
    if file_format is Format.INI:
        raise SourceError("INI files are not supported", where=name, hint=_AS_BINARY)
    text = _decoded(data)
    if text is None:
        _refuse_undecodable(name, data)
    if any(sign in text for sign in _CONFLICT_SIGNS) and (marker := _CONFLICT_MARKER.search(text)):
        raise BadCiphertextError(
            "a merge conflict is not resolved",
            where=_at(name, _line_at(text, marker.start())),
            hint="Take one side whole (git checkout --ours or --theirs), make the other's change with `sops edit`",
        )
    if text.count("\n") > MAX_NODES:
        raise SourceError(f"has more than {MAX_NODES} lines", where=name, hint="Split it")
    found = _Findings(name, file_format)
    if file_format is Format.DOTENV:
        flat = _read_dotenv(found, text)
    else:
        flat = _read_tree(found, text, parse_yaml if file_format is Format.YAML else _parse_json)
    metadata = _metadata(name, flat, key_types)
    found.refuse_plaintext(metadata.rule)
    return Ciphertext(file_format, tuple(sorted(found.entries, key=lambda entry: entry.line)), metadata)


def ivs(data: bytes) -> frozenset[str]:
    """The beginnings (IV_CHARACTERS) of all ivs in a file, those of comments and metadata included.

    For files of long ago: nothing is checked, and a file that is not encrypted has none.
    """
    return frozenset(found.decode() for found in _IV.findall(data))


# --- the format ---


def _format_by_name(base: str) -> Format:
    suffix = base.rpartition(".")[2]
    if suffix in ("yaml", "yml"):
        return Format.YAML
    if suffix in ("json", "ini"):
        return Format(suffix)
    return Format.DOTENV if base.startswith(".env") or ".env." in f"{base}." else Format.BINARY


def _json_object(data: bytes) -> dict[str, object] | None:
    if len(data) > MAX_BYTES or re.match(rb"\s*\{", data) is None:
        return None
    try:
        parsed = json.loads(data, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _is_binary_store(store: Mapping[str, object]) -> bool:
    """Whether a file named .json is a binary store, and not a JSON document with the one key ``data``.

    They look alike, but since 3.11 sops states a rule (unencrypted_suffix …) in all files except binary stores.
    """
    data, metadata = store["data"], store["sops"]
    if len(store) != 2 or not isinstance(data, str) or not (data == "" or _ENCRYPTED.fullmatch(data)):
        return False
    if not isinstance(metadata, dict):
        return True
    version = _VERSION.fullmatch(str(metadata.get("version")))
    states_rule = any(key.startswith(("unencrypted_", "encrypted_")) for key in metadata)
    return not (states_rule and version and (int(version[1]), int(version[2])) >= (3, 11))


def _number(_: str) -> int:
    return 0  # only that it is one matters; converting a number of a million digits takes minutes


# --- gathering ---


class _Findings:
    """The entries of a file, and the names of those that are not encrypted."""

    def __init__(self, name: str, file_format: Format) -> None:
        self.name = name
        self.format = file_format
        self.entries: list[EncryptedEntry] = []
        self._plain: list[str] = []

    def add_value(self, key: str, line: int, value: object, shown: str) -> None:
        """Take in a value; ``shown`` is what an error may call it. Raises BadCiphertextError for a damaged one."""
        match = _ENCRYPTED.fullmatch(value) if isinstance(value, str) else None
        if match is not None and match["type"] in _VALUE_TYPES[self.format]:
            self.entries.append(EncryptedEntry(key, line, match[0], match["iv"]))
        elif value is None or value == "":
            self.entries.append(EncryptedEntry(key, line))
        elif isinstance(value, str) and value.startswith("ENC["):
            raise BadCiphertextError(
                f"the encrypted value of {shown} is damaged", where=_at(self.name, line), hint=restore_hint(self.name)
            )
        else:
            self._plain.append(shown)

    def add_comment(self, text: str, line: int) -> None:
        """Take in what follows a ``#``. Plain comments count as plaintext: inside a quoted value of several lines,
        which nobody can see without the key, the line would be part of the value.
        """
        match = _ENCRYPTED.fullmatch(text)
        if match is not None and match["type"] == "comment":
            self.entries.append(EncryptedEntry("", line, text, match["iv"], comment=True))
        elif text:
            self._plain.append(f"the comment in line {line}")

    def refuse_plaintext(self, rule: str) -> None:
        if not self._plain:
            return
        hint = (
            f"Its rule {rule} leaves them in plain text: take it out of .sops.yaml and encrypt the file anew"
            if rule
            else f"Take them out, add them again with `sops edit {self.name}`, and replace the values: git keeps them"
        )
        raise NotEncryptedError(f"is not encrypted at {first_names(self._plain)}", where=self.name, hint=hint)


# --- dotenv ---


def _read_dotenv(found: _Findings, text: str) -> dict[str, tuple[str, int]]:
    """Gather the entries of a dotenv file and return its metadata: key → (value, line)."""
    lines = text.split("\n")
    if not any(line.startswith("sops_") for line in lines):
        _refuse_plain_dotenv(found.name, lines)
    _check_characters(found.name, text)
    metadata: dict[str, tuple[str, int]] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        key, equals, value = line.partition("=")
        where = _at(found.name, number)
        if line.startswith("#"):
            found.add_comment(line[1:], number)
        elif not equals and line:
            raise BadCiphertextError("is not of the form KEY=ENC[…]", where=where, hint=restore_hint(found.name))
        elif key.startswith("sops_"):
            if key in metadata:
                raise BadCiphertextError(
                    "repeats a line of the SOPS metadata", where=where, hint=restore_hint(found.name)
                )
            metadata[key] = (value, number)
        elif line:
            variable = _variable(key, where)
            shown = _shown(variable, value, number)
            if first.setdefault(variable, number) != number:
                raise BadCiphertextError(
                    f"{shown} is already set in line {first[variable]}",
                    where=where,
                    hint="Remove one: sops lets through an empty duplicate that was added without any key",
                )
            found.add_value(variable, number, value, shown)
    return {key.removeprefix("sops_"): value for key, value in metadata.items()}


def _variable(key: str, where: str) -> str:
    match = _VARIABLE.fullmatch(key)
    if match is None or match[1].startswith("sops_"):
        raise BadCiphertextError(
            "the text before = is not the name of a variable",
            where=where,
            hint=f"A name has letters, digits, _ . and - only. For others, {_AS_BINARY}",
        )
    return match[1]


def _shown(variable: str, value: str, line: int) -> str:
    """The variable where it is certainly a name, else its line.

    In a plain or broken file, a line of a wrapped private key can look like ``name=`` or ``name==``; but names keep to
    one case, and base64 (or base32, which has one case) ends in several equals signs.
    """
    return variable if is_certainly_a_name(variable, value) else f"line {line}"


def is_certainly_a_name(variable: str, value: str) -> bool:
    """Given what stands before and after the ``=`` of a line, tell whether it can be shown (see ``_shown``)."""
    return _CERTAINLY_A_NAME.fullmatch(variable) is not None and bool(value.strip("=\r") or not value)


def _refuse_plain_dotenv(name: str, lines: Sequence[str]) -> NoReturn:
    if any("=ENC[AES256_GCM," in line for line in lines):
        raise BadCiphertextError("its sops_… lines are missing (a bad merge?)", where=name, hint=restore_hint(name))
    keys = []
    for number, line in enumerate(lines, start=1):
        key, _, value = line.partition("=")
        if value.strip() and not line.startswith("#"):
            match = _VARIABLE.fullmatch(key)
            keys.append(_shown(match[1], value, number) if match else f"line {number}")
    _refuse_unencrypted(name, keys)


# --- YAML, JSON, and the binary store, which is JSON ---


def _read_tree(found: _Findings, text: str, parse: YamlParser) -> dict[str, tuple[str, int]]:
    """Gather the entries of a nested file and return its metadata in dotenv's flat form: key → (value, line)."""
    name = found.name
    if "sops" not in text:
        _refuse_unencrypted(name, _TOP_LEVEL_KEY.findall(text))
    document = parse(name, text)
    if not isinstance(document, Fields):
        raise BadCiphertextError("its top level is not a mapping", where=name, hint=restore_hint(name))
    _check_keys(name, document)
    metadata = next((value for key, _, value in document if key == "sops"), None)
    content = Fields(field for field in document if field[0] != "sops")
    if metadata is None:
        _refuse_unencrypted(name, [key_name(key) for key, _, _ in content])
    _check_characters(name, text)
    if not isinstance(metadata, Fields) or any(key.casefold() == "sops" for key, _, _ in content):
        raise BadCiphertextError("must have one `sops` section, spelled so", where=name, hint=restore_hint(name))
    if found.format is Format.BINARY and [key for key, _, _ in content] != ["data"]:
        raise BadCiphertextError("a binary store holds `data` and `sops` only", where=name, hint=restore_hint(name))
    if found.format is Format.YAML:
        for comment, line in _yaml_comments(text):
            found.add_comment(comment, line)
    for path, line, value in _leaves(name, content):
        found.add_value(path, line, value, key_name(path))
    return _flat(name, metadata)


def _parse_json(name: str, text: str) -> object:
    if sum(map(text.count, ",[{")) > MAX_NODES:
        raise SourceError(f"has more than {MAX_NODES} values", where=name, hint="Split it")
    try:
        return json.loads(text, object_pairs_hook=_fields, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
    # Raised out here: as the cause or context, the parser's own error would carry the whole file along.
    raise BadCiphertextError("is not valid JSON", where=_at(name, line), hint=restore_hint(name))


def _fields(pairs: Iterable[tuple[str, object]]) -> Fields:
    return Fields((key, 0, value) for key, value in pairs)


def _leaves(
    name: str, node: object, path: str = "", line: int = 0, depth: int = 1
) -> Iterator[tuple[str, int, object]]:
    """Every scalar below ``node``, in the file's order, as (path, line, value)."""
    if depth > MAX_DEPTH:
        raise SourceError(f"is nested deeper than {MAX_DEPTH} levels", where=_at(name, line), hint=_AS_BINARY)
    if isinstance(node, Fields):
        _check_keys(name, node)
        for key, at, value in node:
            yield from _leaves(name, value, f"{path}.{key}" if path else key, at, depth + 1)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(name, value, f"{path}[{index}]", line, depth + 1)
    else:
        yield path, line, node


def _check_keys(name: str, fields: Fields) -> None:
    seen: set[str] = set()
    for key, line, _ in fields:
        if key in seen:
            raise BadCiphertextError(f"has {key_name(key)} twice", where=_at(name, line), hint="Remove one of them")
        if _UNPRINTABLE.search(key):
            raise BadCiphertextError("a key has unprintable characters", where=_at(name, line), hint=restore_hint(name))
        seen.add(key)


def _yaml_comments(text: str) -> Iterator[tuple[str, int]]:
    """What follows each ``#``, and its line. A parser would drop comments, sops keeps them."""
    line, position = 1, 0
    for match in _YAML_COMMENT.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        yield match[1], line


# --- metadata ---


def _flat(name: str, section: Fields) -> dict[str, tuple[str, int]]:
    """The `sops` section of a nested file as dotenv writes it: ``age__list_0__map_enc`` → (value, line)."""
    flat: dict[str, tuple[str, int]] = {}
    _check_keys(name, section)
    for key, line, value in section:
        if value is None:  # older versions write `kms: null`, or `kms: []`
            continue
        if "__" in key or isinstance(value, Fields):
            _refuse_metadata(name, key, line)
        if not isinstance(value, list):
            flat[key] = (str(value), line)
            continue
        for index, element in enumerate(value):
            if not isinstance(element, Fields) or not element:
                _refuse_metadata(name, key, line)
            _check_keys(name, element)
            for field, at, text in element:
                if not isinstance(text, str):
                    _refuse_metadata(name, key, at)
                flat[f"{key}__list_{index}__map_{field}"] = (text, at)
    return flat


def _metadata(name: str, flat: Mapping[str, tuple[str, int]], key_types: frozenset[str]) -> SopsMetadata:
    for key, (_, line) in flat.items():
        match = _METADATA.fullmatch(key)
        if match is None or not {kind for kind in ("age", "pgp") if match[kind]} <= key_types:
            _refuse_metadata(name, key, line)
    for key, pattern in (("mac", _ENCRYPTED), ("lastmodified", _TIME), ("version", _VERSION)):
        value, line = flat.get(key, ("", 0))
        if not pattern.fullmatch(value):
            raise BadCiphertextError(
                f"its SOPS metadata has no valid {key}", where=_at(name, line), hint=restore_hint(name)
            )
    age = _public_keys(name, flat, "__map_recipient", _RECIPIENT)
    pgp = _public_keys(name, flat, "__map_fp", _FINGERPRINT)
    if not age and not pgp:
        raise BadCiphertextError("its SOPS metadata names no key", where=name, hint=restore_hint(name))
    return SopsMetadata(age, pgp, flat["mac"][0], flat["lastmodified"][0], flat["version"][0], _rule(flat))


def _public_keys(
    name: str, flat: Mapping[str, tuple[str, int]], ending: str, pattern: re.Pattern[str]
) -> tuple[str, ...]:
    found = [field for key, field in flat.items() if key.endswith(ending)]
    for value, line in found:
        if not pattern.fullmatch(value):  # they are shown in messages
            raise BadCiphertextError("does not name a public key", where=_at(name, line), hint=restore_hint(name))
    return tuple(value for value, _ in found)


def is_metadata_key(line_key: str) -> bool:
    """Whether a dotenv key such as ``sops_mac`` is one that some sops writes, for any kind of key."""
    key = line_key.removeprefix("sops_")
    return bool(_METADATA.fullmatch(key)) or key.partition("__")[0].lower() in _OTHER_KEYS


def _rule(flat: Mapping[str, tuple[str, int]]) -> str:
    """The setting that leaves values in plain text; the suffix ``_unencrypted`` is sops' default and none."""
    for key, (value, _) in flat.items():
        if key.startswith(("encrypted_", "unencrypted_")) and value not in ("", "_unencrypted"):
            return key
    return ""


def _refuse_metadata(name: str, key: str, line: int) -> NoReturn:
    other = _OTHER_KEYS.get(key.partition("__")[0].lower())
    if other is None:
        raise BadCiphertextError(
            "its SOPS metadata holds what sops does not write", where=_at(name, line), hint=restore_hint(name)
        )
    raise ForeignKeyError(
        f"is encrypted for {other} as well, which this server does not use",
        where=_at(name, line),
        hint=f"sops would contact any address the file names. Take it out of .sops.yaml, then `sops updatekeys {name}`",
    )


# --- text ---


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:  # it holds the data: not to be anybody's cause or context
        return None


def _refuse_undecodable(name: str, data: bytes) -> NoReturn:
    if b"sops" not in data:
        _refuse_unencrypted(name, ())
    raise BadCiphertextError("is not UTF-8 text", where=name, hint=restore_hint(name))


def _check_characters(name: str, text: str) -> None:
    """Refuse carriage returns and other characters that sops and the readers of its output see differently."""
    if match := _UNPRINTABLE.search(text):
        what = "Windows line ends" if match[0] == "\r" else f"the unprintable character U+{ord(match[0]):04X}"
        raise BadCiphertextError(
            f"has {what}",
            where=_at(name, _line_at(text, match.start())),
            hint="sops writes neither: see core.autocrlf and .gitattributes",
        )


def _refuse_unencrypted(name: str, keys: Sequence[str]) -> NoReturn:
    values = f": it holds plain values for {first_names(keys)}" if keys else ""
    raise NotEncryptedError(
        f"is not encrypted{values}",
        where=name,
        hint=f"Run `sops encrypt --in-place {name}`, commit it, and replace the values: git keeps the plain ones",
    )


def first_names(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    shown, more = names[:_NAMES_SHOWN], len(names) - _NAMES_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _at(name: str, line: int) -> str:
    return f"{name}, line {line}" if line else name


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def restore_hint(name: str) -> str:
    """The hint for a file that was changed without sops."""
    return f"Restore the last good version from git and make the change again with `sops edit {name}`"
