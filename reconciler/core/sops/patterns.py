"""What the readers of encrypted files share: limits, patterns, and how messages name lines and keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reconciler.core.text import listed

MAX_BYTES = 5 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 250_000  # lines, or commas: the largest real file has fewer, and the time spent here stays below a second
BASE64 = r"[A-Za-z0-9+/]+={0,2}"
ENCRYPTED = re.compile(rf"ENC\[AES256_GCM,data:{BASE64},iv:(?P<iv>{BASE64}),tag:{BASE64},type:(?P<type>[a-z]+)\]")
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ufeff\ud800-\udfff]")
_NAMES_SHOWN = 10
VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})[0-9A-Za-z.+-]{0,40}")


def first_names(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    return listed(names, _NAMES_SHOWN)


def place_in(name: str, line: int) -> str:
    """The ``where`` of an error; line 0: unknown."""
    return f"{name}, line {line}" if line else name


def line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def restore_hint(name: str) -> str:
    """The hint for a file that was changed without sops."""
    return f"Restore the last good version from git and make the change again with `reconciler edit {name}`"
