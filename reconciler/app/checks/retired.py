"""Finds what still names a retired key, provider or host: in the environments, and in the repository around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from reconciler.app.checks.survey import CHECK_SETTINGS, Survey
from reconciler.app.checks.values import Opened
from reconciler.core.checks import rules
from reconciler.core.checks.retired import RetiredName, RetiredNames
from reconciler.core.checks.rules import Finding
from reconciler.core.text import key_name
from reconciler.core.tree import IGNORED

_MOST = 100  # findings in one file


def check_retired(
    survey: Survey, names: RetiredNames, opened: Iterable[Opened], plaintexts: Mapping[str, bytes]
) -> Iterator[Finding]:
    """Find ``names`` in paths and lines of every file that git is meant to hold, and in the values and comments of
    ``plaintexts``, which are encrypted sources by path; ``opened`` are those with variables."""
    if not names:
        return
    tree = survey.tree
    texts = {path: data.decode("utf-8", "replace") for path, data in tree.files.items() if b"\0" not in data}
    held = {path: text for path, text in texts.items() if not tree.unheld.get(path, "").startswith(IGNORED)}
    by_path = {content.source.path: content for content in opened}
    for path, text in {**held, **tree.around}.items():
        if path == CHECK_SETTINGS:
            continue
        for retired in names.in_line(path):
            yield Finding(rules.RETIRED_NAME, path, 1, f"its path names {retired}")
        named = list(names.lines(text))
        yield from (Finding(rules.RETIRED_NAME, path, line, f"names {retired}") for line, retired in named[:_MOST])
        if path in plaintexts:
            readable = Counter(retired for _, retired in named)
            yield from _in_plaintext(path, plaintexts[path], names, readable, by_path.get(path))


def _in_plaintext(
    path: str, plaintext: bytes, names: RetiredNames, readable: Counter[RetiredName], opened: Opened | None
) -> Iterator[Finding]:
    """What only a key shows: ``readable`` counts the lines that name something without it."""
    everywhere = Counter(retired for _, retired in names.lines(plaintext.decode("utf-8", "replace")))
    for entry in opened.entries if opened else ():
        if any(True for _ in names.lines(entry.template)):  # which one would show a part of the value
            line = opened.source.line(entry.key) if opened else 1
            message = f"the value of {key_name(entry.key)} names something that is retired"
            yield Finding(rules.RETIRED_NAME, path, line, message)
            everywhere.subtract({retired for _, retired in names.lines(entry.template)})
    for retired, count in everywhere.items():
        if count > readable[retired]:
            yield Finding(rules.RETIRED_NAME, path, 1, f"a value or comment that is encrypted names {retired}")
