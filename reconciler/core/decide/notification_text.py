"""Writes notices as sentences and messages. Pure.

Names come from git, Compose and commits, and services read text as Markdown, HTML or mentions: what such syntax is made
of becomes a character that looks alike. Nothing here holds a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from reconciler.core.model.notifications import Message, Notice, NotificationEvent, Origin
from reconciler.core.model.plans import Aspect, Change, Kind
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome
from reconciler.core.model.targets import environment_of, host_of
from reconciler.core.text import instant, key_name, listed, printable

WORDS = {
    NotificationEvent.ROLLBACK_FAILED: "rollback failed",
    NotificationEvent.ROLLED_BACK: "rolled back",
    NotificationEvent.SERVICE_DOWN: "service down",
    NotificationEvent.STALLED: "stalled",
    NotificationEvent.FAILED: "failed",
    NotificationEvent.HELD: "held",
    NotificationEvent.DRIFT: "drift",
    NotificationEvent.CORRECTED: "drift corrected",
    NotificationEvent.APPLIED: "applied",
    NotificationEvent.RECOVERED: "recovered",
}
_SEVERITY = list(NotificationEvent)
# Mentions, links, formatting, entities and tags of Markdown, HTML and chat services.
_ALIKE = str.maketrans("@<>[]`*|~\\#&", "\uff20\u2039\u203a()'\u2217\u00a6\u223c\u29f5\uff03\uff06")
_LONGEST_NAME = 80
_LONGEST_LINE = 500
_LONGEST_BODY = 1900  # characters: Discord takes 2000
_MOST_LINES = 12
_MOST_NAMES = 10


def harmless(text: str, most: int = _LONGEST_LINE) -> str:
    """Given text from outside, return it as one line that no service takes for syntax, of ``most`` characters. What is
    too long is cut in the middle: a message begins with where and what, and ends with the next step."""
    line = printable("; ".join(text.splitlines())[: 4 * most]).translate(_ALIKE).replace("://", ":/ /")
    return line if len(line) <= most else f"{line[: most - most // 3]}…{line[1 - most // 3 :]}"


def label(unit: str, origin: Origin) -> str:
    """The environment and the host that a unit is: "production on web-1"."""
    return f"{harmless(environment_of(unit), _LONGEST_NAME)} on {harmless(host_of(unit) or origin.host, _LONGEST_NAME)}"


def sentence(event: NotificationEvent, unit: str, text: str, origin: Origin) -> str:
    """A notice about something that is so now."""
    return harmless(f"{label(unit, origin)}: {WORDS[event]}. {text}")


def reminder(event: NotificationEvent, unit: str, text: str, origin: Origin, since: float) -> str:
    return harmless(f"{label(unit, origin)}: still {WORDS[event]}, since {instant(since)}. {text}")


def recovered(event: NotificationEvent, unit: str, subject: str, origin: Origin, times: tuple[float, float]) -> str:
    """``times`` are when the failure began, and when it was over."""
    of = f" of {subject}" if subject else ""
    text = f"{label(unit, origin)}: recovered. It was: {WORDS[event]}{of}, for {duration(times[1] - times[0])}"
    return harmless(text)


def duration(seconds: float) -> str:
    """Given seconds, return them in the largest two units: 1 h 5 min."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number or first == 3)


def applied(outcome: Outcome, changes: Sequence[Change]) -> str:
    """What a run has brought to the server: revision, author, keys and services."""
    plan = outcome.plan
    services = sorted({action.service for action in plan.actions}) if plan else []
    parts = [_revision(outcome.revision), *map(keys_of, changes)]
    parts += [f"Services: {joined(services)}"] if services else []
    return ". ".join(parts)


def keys_of(change: Change) -> str:
    """The names of the keys that differ in a target, and what else does."""
    keys = change.keys
    words = [
        f"{joined([key_name(name) for name in names])} {verb}"
        for names, verb in ((keys.changed, "changed"), (keys.added, "added"), (keys.removed, "removed"))
        if names
    ]
    rest = ["new"] if change.kind is Kind.CREATE else sorted(change.aspects - {Aspect.CONTENT, Aspect.RESTORED})
    return f"{harmless(change.target.source, _LONGEST_NAME)}: {', '.join(words or rest) or 'content'}"


def message(notices: Sequence[Notice], origin: Origin) -> Message:
    """Given the notices of one digest, return the message: what is worst comes first."""
    ordered = sorted(notices, key=lambda notice: (_SEVERITY.index(notice.event), notice.at))
    lines: list[str] = []
    for notice in ordered[:_MOST_LINES]:
        line = f"{notice.text} {notice.link}".rstrip()
        if sum(map(len, lines)) + len(line) > _LONGEST_BODY - 200 and lines:
            break
        lines.append(line)
    if rest := ordered[len(lines) :]:
        lines.append(f"and {len(rest)} more: {_counted(rest)}")
    if len(ordered) == 1:
        title = f"{label(ordered[0].unit, origin)}: {WORDS[ordered[0].event]}"
    else:
        title = f"reconciler on {harmless(origin.host, _LONGEST_NAME)}: {_counted(ordered)}"
    return Message(title, "\n".join(lines), tuple(notices))


def _counted(notices: Iterable[Notice]) -> str:
    counts = Counter(notice.event for notice in notices)
    return ", ".join(f"{counts[event]} {WORDS[event]}" for event in _SEVERITY if counts[event])


def joined(names: Sequence[str]) -> str:
    """Names for a sentence: the first of them, and how many more there are."""
    return listed([harmless(name, _LONGEST_NAME) for name in names], _MOST_NAMES)


def _revision(revision: Revision | None) -> str:
    if revision is None:
        return "Unknown revision"
    author = revision.author.partition(" <")[0]
    by = f" by {harmless(author, _LONGEST_NAME)}" if author else ""
    return f"Revision {revision.short}{by}"
