"""Makes untrusted text safe in Markdown: no markup, links or mentions."""

from __future__ import annotations

import re

from reconciler.core.text import printable

# Git servers turn these into links and mentions without any markup, unless they are broken up.
_AUTOLINKS = re.compile(r"(?i):(?=//)|www(?=\.)|@|(?:#|gh-)(?=[0-9])")


def code(text: str) -> str:
    """Text as inline code, also in a table. Backticks and bars are replaced, since they cannot be escaped
    everywhere."""
    return f"`{printable(text).replace('`', chr(0x2032)).replace('|', chr(0xA6))}`" if text else ""


def plain_text(text: str) -> str:
    """Text as part of a sentence."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))
    return _AUTOLINKS.sub(lambda match: f"{match[0]}\N{ZERO WIDTH SPACE}", escaped)
