"""The one comment of ours on a pull request: how its marker is hidden, and how it is recognised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from reconciler.adapters.forge.client import ForgeAnswer

LONGEST_COMMENT = 30_000
"""Characters. GitHub takes 65,536, GitLab a million, Bitbucket 32,768."""

GONE_OR_ANOTHERS = (403, 404)
"""The statuses of a comment that is not ours to edit."""

_MOST_EDITED = 3


def marked(marker: str, text: str) -> str:
    """The comment with its marker as an HTML comment, which Markdown does not show."""
    return f"<!-- {marker} -->\n{text[:LONGEST_COMMENT]}"


def marked_by_reference(marker: str, text: str) -> str:
    """The same where HTML is shown as text: as a link's definition that nothing refers to."""
    return f"{text[:LONGEST_COMMENT].rstrip()}\n\n[//]: # ({marker})\n"


async def put_marked(
    comments: Iterable[tuple[Any, object]],
    marker: str,
    edit: Callable[[Any], Awaitable[ForgeAnswer]],
    add: Callable[[], Awaitable[object]],
) -> None:
    """Given the ids of a pull request's comments and their texts, edit the first that holds the marker, or add one.

    A copy of the marker in a new comment is a later one. A comment that we may no longer edit (403, 404) was written
    with another token.
    """
    ids = sorted(identity for identity, text in comments if isinstance(text, str) and marker in text)
    for identity in ids[:_MOST_EDITED]:
        if 200 <= (await edit(identity)).status < 300:
            return
    await add()


def shortened(text: str, most: int) -> str:
    """One line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
