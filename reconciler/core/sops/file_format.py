"""The format that sops must be given for a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from reconciler.core.model.targets import Format, Parser
from reconciler.core.sops.patterns import ENCRYPTED, MAX_BYTES, VERSION

# In lines after the first; a search for the beginning of a line takes ten times as long.
_DOTENV_MAC = re.compile(rb"\nsops_mac=ENC\[AES256_GCM,")
_DOTENV_VERSION = re.compile(rb"\nsops_version=[0-9]")
_YAML_MAC = re.compile(rb"^[\"']?sops[\"']?:[ \t]*\n(?:[ \t].*\n)*?[ \t]+mac: ENC\[AES256_GCM,", re.MULTILINE)
_INI_MAC = re.compile(rb"^\[sops\][ \t]*\n(?:[^\[\n].*\n)*?mac[ \t]*=[ \t]*ENC\[AES256_GCM,", re.MULTILINE)
_DOCUMENTS = (Format.JSON, Format.YAML)


def formats(name: str, data: bytes, parser: Parser) -> tuple[Format, Format]:
    """Given a source's name and bytes, and how its target's keys are read, return the formats that sops must be given:
    that of the store, and that of the plain file.

    They differ where sops wrote a JSON or YAML store into a file of another kind: ``sops encrypt --input-type dotenv
    --in-place .env.prod`` does.
    """
    store = format_of(name, data)
    by_name = _format_by_name(name.rpartition("/")[2])
    if store not in _DOCUMENTS:
        return store, store
    if by_name is Format.DOTENV or parser is not Parser.OPAQUE:
        return store, Format.DOTENV
    return store, by_name if by_name in _DOCUMENTS else store


def format_of(name: str, data: bytes) -> Format:
    """Given a source's name and bytes, return the format of the store: by its content where that is one, by its name
    otherwise. sops itself goes by the suffix alone, and takes ``.env.production`` for binary."""
    return store_of(data, name) or _format_by_name(name.rpartition("/")[2])


def store_of(data: bytes, name: str = "") -> Format | None:
    """The kind of store that sops made; None where it made none. ``name`` matters only for a JSON store with the one
    key ``data``, as a binary store has it."""
    if len(data) > MAX_BYTES or b"sops" not in data:
        return None
    lines = b"\n" + data
    if _DOTENV_MAC.search(lines) and _DOTENV_VERSION.search(lines):
        return Format.DOTENV
    if (store := _json_object(data)) is not None:
        return _json_store(store, is_json=_format_by_name(name.rpartition("/")[2]) is Format.JSON)
    if _YAML_MAC.search(data):
        return Format.YAML
    return Format.INI if _INI_MAC.search(data) else None


def _json_store(store: Mapping[str, object], *, is_json: bool) -> Format | None:
    # `sops edit`, `rotate` and `updatekeys` write their default rule into a binary store too.
    if store.keys() == {"data", "sops"} and (_is_binary_store(store) or not (is_json or _has_own_rule(store))):
        return Format.BINARY
    metadata = store.get("sops")
    return Format.JSON if isinstance(metadata, dict) and "mac" in metadata else None


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
        parsed = json.loads(data, parse_int=any_number, parse_float=any_number)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _is_binary_store(store: Mapping[str, object]) -> bool:
    """Whether a file named .json is a binary store, and not a JSON document with the single key ``data``.

    They look alike, but since 3.11 sops states a rule (unencrypted_suffix …) in all files except binary stores.
    """
    data, metadata = store["data"], store["sops"]
    if len(store) != 2 or not isinstance(data, str) or not (data == "" or ENCRYPTED.fullmatch(data)):
        return False
    return not isinstance(metadata, dict) or not _states_rule(store)


def _states_rule(store: Mapping[str, object]) -> bool:
    metadata = store["sops"]
    if not isinstance(metadata, dict):
        return False
    version = VERSION.fullmatch(str(metadata.get("version")))
    rule = any(key.startswith(("unencrypted_", "encrypted_")) for key in metadata)
    return bool(rule and version and (int(version[1]), int(version[2])) >= (3, 11))


def _has_own_rule(store: Mapping[str, object]) -> bool:
    metadata = store["sops"]
    return _states_rule(store) and isinstance(metadata, dict) and metadata.get("unencrypted_suffix") != "_unencrypted"


def any_number(_: str) -> int:
    """A placeholder for a number of a JSON file: converting one of a million digits takes minutes."""
    return 0
