"""The sentences that a comparison begins with, the same in every format. Pure.

Every unexplained row is counted by exactly one of the sentences: their numbers add up to the headline's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from reconciler.app.compare.rows import Group, Row, SideWords, groups, side_words
from reconciler.app.compare.run import ComparisonReport
from reconciler.cli.layout import counted
from reconciler.core.compare.types import Comparison, Side, Status
from reconciler.core.text import listed, printable

_MOST_NAMES = 6
_MOST_PLACES = 4

_Members = Sequence[tuple[Group, Row]]


def headline(comparison: Comparison) -> str:
    """Such as ``development and production: 16 unexplained findings``."""
    words = side_words(comparison)
    return f"{words.left} and {words.right}: {_verdict(comparison.unexplained)}"


def report_headline(report: ComparisonReport) -> str:
    """The headline of all comparisons together."""
    if len(report.comparisons) == 1:
        return headline(report.comparisons[0])
    if not report.comparisons:
        return "Nothing could be compared"
    first = report.comparisons[0]
    return f"{first.left.name} and {len(report.comparisons)} others: {_verdict(report.unexplained)}"


def _verdict(number: int) -> str:
    return counted(number, "unexplained finding") if number else "nothing unexplained"


def sentences(comparison: Comparison) -> list[str]:
    """What is unexplained, the most important first, then what is not, one sentence each."""
    words = side_words(comparison)
    rows = [(group, row) for group in groups(comparison) for row in group.rows]
    texts: list[str] = []
    left = [member for member in rows if member[1].unexplained]
    for belongs, sentence in _SENTENCES:
        members = [member for member in left if belongs(member[1])]
        left = [member for member in left if not belongs(member[1])]
        if members:
            texts.append(sentence(members, words))
    explained = Counter(words.status(row) for _, row in rows if not row.unexplained)
    if explained:
        counts = ", ".join(f"{number} {text}" for text, number in explained.most_common())
        texts.append(f"Explained: {counts}")
    return [printable(text) for text in texts]


def _missing_keys(side: str) -> Callable[[_Members, SideWords], str]:
    def sentence(members: _Members, words: SideWords) -> str:
        has, lacks = (words.left, words.in_right) if side == "right" else (words.right, words.in_left)
        return f"{counted(len(members), 'key')} of {has} {_are(members)} missing {lacks}: {_names(members)}"

    return sentence


def _missing_whole(noun: str, side: str) -> Callable[[_Members, SideWords], str]:
    def sentence(members: _Members, words: SideWords) -> str:
        has, lacks = (words.left, words.in_right) if side == "right" else (words.right, words.in_left)
        return f"{counted(len(members), noun)} of {has} {_are(members)} missing {lacks}: {_titles(members)}"

    return sentence


def _different_keys(members: _Members, words: SideWords) -> str:
    values = f"another value {words.in_right}" if len(members) == 1 else f"other values {words.in_right}"
    has = "has" if len(members) == 1 else "have"
    return f"{counted(len(members), 'key')} of {words.left} {has} {values}, unexplained: {_names(members)}"


def _shared_secrets(members: _Members, words: SideWords) -> str:
    number = counted(len(members), "secret")
    return f"{number} {_are(members)} the same {words.in_left} and {words.right}, but must differ: {_names(members)}"


def _placeholders(members: _Members, words: SideWords) -> str:
    hold = "holds" if len(members) == 1 else "hold"
    return f"{counted(len(members), 'key')} still {hold} a placeholder: {_names(members)}"


def _bad_states(members: _Members, words: SideWords) -> str:
    services = ", ".join(f"{_title(group)} ({row.note})" for group, row in members[:_MOST_PLACES])
    more = f" and {len(members) - _MOST_PLACES} more" if len(members) > _MOST_PLACES else ""
    return f"{counted(len(members), 'state')} of services {_need(members)} attention: {services}{more}"


def _facts(noun: str) -> Callable[[_Members, SideWords], str]:
    def sentence(members: _Members, words: SideWords) -> str:
        verb = "differs" if len(members) == 1 else "differ"
        return f"{counted(len(members), *noun.split('/'))} {verb}: {_names(members, always=True)}"

    return sentence


def _probes(members: _Members, words: SideWords) -> str:
    verb = "differs or fails" if len(members) == 1 else "differ or fail"
    return f"{counted(len(members), 'probe')} {verb}: {listed([row.name for _, row in members], _MOST_NAMES)}"


def _problems(members: _Members, words: SideWords) -> str:
    return f"{counted(len(members), 'part')} could not be compared: {'; '.join(row.note for _, row in members)}"


def _is(kind: str, *statuses: Status, names: Sequence[str] = ()) -> Callable[[Row], bool]:
    def belongs(row: Row) -> bool:
        return row.kind == kind and (not statuses or row.status in statuses) and (not names or row.name in names)

    return belongs


_SENTENCES: Sequence[tuple[Callable[[Row], bool], Callable[[_Members, SideWords], str]]] = (
    (_is("problem"), _problems),
    (_is("file", Status.MISSING_RIGHT, names=["file"]), _missing_whole("file", "right")),
    (_is("file", Status.MISSING_LEFT, names=["file"]), _missing_whole("file", "left")),
    (_is("key", Status.MISSING_RIGHT), _missing_keys("right")),
    (_is("key", Status.MISSING_LEFT), _missing_keys("left")),
    (_is("key", Status.SAME_SECRET), _shared_secrets),
    (_is("key", Status.DIFFERS), _different_keys),
    (_is("key"), _placeholders),
    (_is("service", Status.MISSING_RIGHT, names=["container"]), _missing_whole("service", "right")),
    (_is("service", Status.MISSING_LEFT, names=["container"]), _missing_whole("service", "left")),
    (_is("service", names=["container", "state", "health"]), _bad_states),
    (_is("service"), _facts("property of services/properties of services")),
    (_is("definition", Status.MISSING_RIGHT, names=["definition"]), _missing_whole("Compose service", "right")),
    (_is("definition", Status.MISSING_LEFT, names=["definition"]), _missing_whole("Compose service", "left")),
    (_is("definition"), _facts("field of Compose definitions/fields of Compose definitions")),
    (_is("file"), _facts("attribute of files/attributes of files")),
    (_is("probe"), _probes),
)
"""Which rows a sentence counts; a row belongs to the first that fits."""


def _are(members: _Members) -> str:
    return "is" if len(members) == 1 else "are"


def _need(members: _Members) -> str:
    return "needs" if len(members) == 1 else "need"


def _title(group: Group) -> str:
    return group.title.removeprefix("service ").removeprefix("compose ") if group.kind != "file" else group.title


def _titles(members: _Members) -> str:
    return listed([_title(group) for group, _ in members], _MOST_NAMES)


def _names(members: _Members, *, always: bool = False) -> str:
    """The names of the rows; of more than one file, by file."""
    places: dict[str, list[str]] = {}
    for group, row in members:
        places.setdefault(_title(group), []).append(row.name)
    if len(places) == 1 and not always:
        return listed(next(iter(places.values())), _MOST_NAMES)
    texts = [f"{title}: {listed(names, _MOST_NAMES)}" for title, names in places.items()]
    more = len(texts) - _MOST_PLACES
    return "; ".join(texts[:_MOST_PLACES]) + (f"; and {more} more places" if more > 0 else "")


# --- limits ---


def limits(comparison: Comparison, *, with_key: bool) -> list[str]:
    """The limits of the comparison, one sentence each."""
    kind = (
        "two environments: their secrets must differ" if comparison.different else "one environment: nothing may differ"
    )
    texts = [f"compared as {kind} (change with --different-environments or --same-environment)"]
    texts += [text for side in (comparison.left, comparison.right) if (text := _sealed(side, with_key=with_key))]
    texts += [
        f"{side.name}: left out: {text}" for side in (comparison.left, comparison.right) for text in side.left_out
    ]
    return [printable(text) for text in texts]


def _sealed(side: Side, *, with_key: bool) -> str:
    if not side.sealed:
        return ""
    files = counted(side.sealed, "encrypted file")
    reason = "the key cannot decrypt them" if with_key else "no age key was given (--age-key-file or SOPS_AGE_KEY_FILE)"
    return f"{side.name}: compared {files} by key names only, without values: {reason}"
