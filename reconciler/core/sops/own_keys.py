"""Leaves in an encrypted file only what our own age key needs.

A file may be for keys of others as well: PGP, or a service such as AWS KMS or Vault, whose address is in the file. sops
would start gpg or call that address where no age key opens the file. The metadata is not covered by the file's MAC, so
sops is given a copy without those entries. Pure.
"""

from __future__ import annotations

import json

from reconciler.core.model.targets import Format
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.file_format import any_number
from reconciler.core.sops.metadata import is_ours

_SECTION = "sops"


def without_other_keys(data: bytes, checked: Ciphertext) -> bytes:
    """Given a file that was ``checked``, return the copy for sops."""
    if not checked.metadata.others:
        return data
    if checked.format is Format.DOTENV:
        return b"".join(line for line in data.splitlines(keepends=True) if not _is_other_line(line))
    if checked.format is Format.YAML:
        return _yaml_without_other_keys(data)
    document = json.loads(data, parse_int=any_number, parse_float=any_number)  # numbers are in the metadata only
    document[_SECTION] = {key: value for key, value in document[_SECTION].items() if _stays(key)}
    return json.dumps(document, ensure_ascii=False).encode()


def with_other_keys(original: bytes, amended: bytes) -> bytes:
    """Given a dotenv file, and what sops made of its copy without the others' keys, put those back in."""
    others = [line for line in original.splitlines(keepends=True) if _is_other_line(line)]
    lines = amended.splitlines(keepends=True)
    metadata = sorted([*(line for line in lines if line.startswith(b"sops_")), *others])
    return b"".join([*(line for line in lines if not line.startswith(b"sops_")), *metadata])


def _is_other_line(line: bytes) -> bool:
    key, _, _ = line.partition(b"=")
    return key.startswith(b"sops_") and not is_ours(key.removeprefix(b"sops_").decode(errors="replace"))


def _stays(key: str) -> bool:
    """Whether a key of a nested ``sops`` section stays: a list of entries does for age only."""
    return is_ours(f"{key}__list_0__map_enc") or is_ours(key)


def _yaml_without_other_keys(data: bytes) -> bytes:
    """sops writes the section in block style: a key that goes takes the lines below it along."""
    kept, inside, indent, dropped = [], False, 0, False
    for line in data.splitlines(keepends=True):
        width = len(line) - len(line.lstrip(b" "))
        if line.strip() and not width:
            inside, indent, dropped = line.rstrip() == b"sops:", 0, False
        elif inside and line.strip():
            indent = indent or width
            if width == indent and not line.lstrip().startswith(b"-"):
                dropped = not _stays(line.strip().partition(b":")[0].decode(errors="replace"))
        if not dropped:
            kept.append(line)
    return b"".join(kept)
