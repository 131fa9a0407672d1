"""The format that sops must be given for a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from reconciler.core.model.targets import Format
from reconciler.core.sops.patterns import ENCRYPTED, MAX_BYTES, VERSION

_DOTENV_MAC = re.compile(rb"^sops_mac=ENC\[AES256_GCM,", re.MULTILINE)
_YAML_MAC = re.compile(rb"^sops:\n(?:[ \t].*\n)*?[ \t]+mac: ENC\[AES256_GCM,", re.MULTILINE)
_DOTENV_VERSION = re.compile(rb"^sops_version=[0-9]", re.MULTILINE)


def format_of(name: str, data: bytes) -> Format:
    """Given a source's name and bytes, return the format that sops must be given.

    sops uses the suffix alone and takes ``.env.production`` for binary. Here too the name decides, unless the content
    is sops' dotenv store (lines of ``sops_`` metadata) or binary store (a JSON object with ``data`` and ``sops``).
    """
    if len(data) <= MAX_BYTES and _DOTENV_MAC.search(data) and _DOTENV_VERSION.search(data):
        return Format.DOTENV
    by_name = _format_by_name(name.rpartition("/")[2])
    store = None if by_name is Format.BINARY else _json_object(data)
    if store is None or not {"data", "sops"} <= store.keys():
        return by_name
    return Format.JSON if by_name is Format.JSON and not _is_binary_store(store) else Format.BINARY


def misnamed_store(name: str, data: bytes) -> Format | None:
    """JSON or YAML where sops wrote that store into a file whose name does not say so: ``sops encrypt --input-type
    dotenv --in-place .env.prod`` does."""
    if len(data) > MAX_BYTES or format_of(name, data) is not Format.DOTENV:
        return None
    if _YAML_MAC.search(data):
        return Format.YAML
    store = _json_object(data)
    metadata = store.get("sops") if store else None
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
    if not isinstance(metadata, dict):
        return True
    version = VERSION.fullmatch(str(metadata.get("version")))
    states_rule = any(key.startswith(("unencrypted_", "encrypted_")) for key in metadata)
    return not (states_rule and version and (int(version[1]), int(version[2])) >= (3, 11))


def any_number(_: str) -> int:
    """A placeholder for a number of a JSON file: converting one of a million digits takes minutes."""
    return 0
