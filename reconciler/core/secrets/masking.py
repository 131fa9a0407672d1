"""Shows a piece of somebody's configuration without what is, or may be, a secret in it. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator

from reconciler.core.secrets.names import names_a_secret
from reconciler.core.secrets.plaintext import reason_for_secrecy
from reconciler.core.text import printable

HIDDEN = "***"
_SHORTEST_VALUE = 4  # characters: a shorter one is in every other word
_LONGEST = 160  # characters
# --password=VALUE, PASSWORD=VALUE, -p VALUE's neighbour is looked at word by word.
_ASSIGNED = re.compile(r"^(-{0,2}[\w.-]+)([=:])(.+)$", re.DOTALL)


def masked(text: str, values: Iterable[str], name: str = "") -> str:
    """Given a text and the values of variables that must not be shown, return one line of it that may be.

    ``name`` is what the text is the value of. A list in JSON is shown as words of a command line. What looks like a
    secret by its name or its form is hidden as well.
    """
    if names_a_secret(name):
        return HIDDEN
    known = sorted({value for value in values if len(value) >= _SHORTEST_VALUE}, key=len, reverse=True)
    shown = " ".join(_shown(_words(text), known))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _words(text: str) -> list[str]:
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list):
            return [shlex.quote(str(word)) for word in words]
    return [text]


def _shown(words: list[str], known: list[str]) -> Iterator[str]:
    after_secret = False
    for word in words:
        inner = [_masked_word(part, known) for part in word.split(" ")] if " " in word else [_masked_word(word, known)]
        yield HIDDEN if after_secret else printable(" ".join(_after_flags(inner)))
        after_secret = word.startswith("-") and "=" not in word and names_a_secret(word.lstrip("-"))


def _after_flags(words: list[str]) -> Iterator[str]:
    """The words of a shell's command line; the one after a flag such as --password is hidden."""
    hide = False
    for word in words:
        yield HIDDEN if hide else word
        bare = word.strip("'\"")
        hide = (bare.startswith("-") or bare.isidentifier()) and names_a_secret(bare.lstrip("-"))


def _masked_word(word: str, known: list[str]) -> str:
    for value in known:
        word = word.replace(value, HIDDEN)
    if (match := _ASSIGNED.match(word)) and names_a_secret(match[1].lstrip("-")):
        return f"{match[1]}{match[2]}{HIDDEN}"
    return HIDDEN if reason_for_secrecy("word.conf", word.encode("utf-8", "replace")) else word
