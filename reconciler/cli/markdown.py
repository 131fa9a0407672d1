"""Somebody else's text in Markdown: nothing in it is markup, a link or a mention."""

from __future__ import annotations

import re

from reconciler.core.text import printable

# Of these a forge makes links and mentions without any markup, unless they are broken up.
_ACTS = re.compile(r"(?i):(?=//)|www(?=\.)|@|(?:#|gh-)(?=[0-9])")


def code(text: str) -> str:
    """Text that is shown as it is, also in a table; a backtick or bar in it is replaced, since neither can be escaped
    everywhere."""
    return f"`{printable(text).replace('`', chr(0x2032)).replace('|', chr(0xA6))}`" if text else ""


def plain(text: str) -> str:
    """Text as a part of a sentence."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))
    return _ACTS.sub(lambda match: f"{match[0]}\N{ZERO WIDTH SPACE}", escaped)
