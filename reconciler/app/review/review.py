"""A review of a server: what needs an operator, of everything that is known of it. Pure; names, never values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.app.checks.run import CheckReport
from reconciler.app.pages.attention import BAD, KNOWN, WAITS, Attention, attention_of
from reconciler.core.change_words import Data
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.errors import with_id

MOST_ITEMS = 10
_ORDER = (BAD, WAITS, KNOWN)
_CHECK = "`reconciler check` in a clone shows where; fix it with a new commit."


@dataclass(frozen=True, slots=True)
class Review:
    """What the parts of a review say; a part that could not be looked at is None and has its reason in ``failures``.

    ``status``, ``comparisons``, ``ages`` are as the daemon answers, ``at`` is an instant (ISO 8601 in UTC), ``max_age``
    as typed. ``failures`` has messages by the part's name; ``notes`` say what was only partly looked at.
    """

    host: str
    at: str
    status: Data | None = None
    comparisons: Sequence[Data] | None = None
    check: CheckReport | None = None
    ages: Sequence[Data] | None = None
    max_age: str = ""
    failures: Mapping[str, str] | None = None
    notes: Sequence[str] = ()

    @property
    def environments(self) -> Sequence[Data]:
        return self.status["environments"] if self.status else ()

    def attention(self) -> list[Attention]:
        """What needs an operator, or was caused by one, the worst first."""
        entries = [
            *_failures(self.failures or {}),
            *(Attention(WAITS, "partly looked at", "check", note) for note in self.notes),
            *_daemon(self.status),
            *attention_of(self.environments),
            *(entry for environment in self.environments for entry in _to_do(environment)),
            *(entry for pair in self.comparisons or () for entry in _comparison(pair)),
            *_check(self.check),
            *(entry for ages in self.ages or () for entry in _ages(ages, self.max_age)),
        ]
        return sorted(entries, key=lambda entry: _ORDER.index(entry.kind))


def _failures(failures: Mapping[str, str]) -> Iterator[Attention]:
    for part, reason in failures.items():
        yield Attention(BAD, "not looked at", part, reason)


def _daemon(status: Data | None) -> Iterator[Attention]:
    if status and not status["daemon"]["running"]:
        step = "`systemctl start reconciler` starts it; `journalctl -u reconciler` says why it ended."
        yield Attention(WAITS, "not running", "the daemon", "Nothing follows git meanwhile.", (step,))


def _to_do(environment: Data) -> Iterator[Attention]:
    """Changes of an environment that only wait for a reconciliation, and restarts that services still need."""
    name, after = environment["environment"], environment["after"] or {"changes": (), "actions": ()}
    writes = [change for change in after["changes"] if change["effect"] in ("write", "delete")]
    sync = (f"`reconciler sync -e {name}` does it now.",)
    if writes:
        items = tuple(
            _item(change["target"], "changed by hand" if change["sync"] == "drifted" else "") for change in writes
        )
        yield Attention(WAITS, "pending", name, next=sync, items=items)
    if after["actions"]:
        items = tuple(_item(f"{each['stack']}/{each['service']}", each["reason"]) for each in after["actions"])
        yield Attention(WAITS, "pending restart", name, next=sync, items=items)


def _item(name: str, text: str) -> Data:
    return {"name": name, "text": text, "keys": None}


def _comparison(pair: Data) -> Iterator[Attention]:
    name, sides = pair["name"], f"{pair['left']} and {pair['right']}"
    command = f"`reconciler compare {pair['left']} {pair['right']}`"
    if pair["error"]:
        reason = f"{sides}: {with_id(pair['error'], pair['error_id'])}"
        yield Attention(BAD, "not compared", name, reason, (f"{command} tries it now.",), pair["failing_since"])
    elif pair["at"] is None:
        yield Attention(KNOWN, "not compared yet", name, sides)
    elif pair["unexplained"]:
        unexplained = [difference for difference in pair["differences"] if difference["unexplained"]]
        items = [_item(f"{each['where']}: {each['name']}".rstrip(": "), _class(each, pair)) for each in unexplained]
        step = f"{command} shows all of it; expected-differences.yaml in git explains what is right."
        yield Attention(WAITS, "differs", name, f"{sides}: {pair['verdict']}", (step,), items=_some(items))


def _class(difference: Data, pair: Data) -> str:
    words = {
        "missing-left": f"missing in {pair['left']}",
        "missing-right": f"missing in {pair['right']}",
        "same-secret": "the same secret in both",
        "failed": "in a bad state",
        "problem": "could not be compared",
    }
    word = words.get(difference["class"], str(difference["class"]))
    return f"{word}; {difference['note']}" if difference["note"] and difference["class"] != "same-secret" else word


def _some(items: Sequence[Data]) -> tuple[Data, ...]:
    more = len(items) - MOST_ITEMS
    return (*items[:MOST_ITEMS], *((_item(f"and {more} more", ""),) if more > 0 else ()))


def _check(report: CheckReport | None) -> Iterator[Attention]:
    if report is None:
        return
    for severity, word in ((Severity.ERROR, "mistakes"), (Severity.WARNING, "warnings")):
        findings = [finding for finding in report.findings if finding.rule.severity is severity]
        if findings:
            yield Attention(WAITS, word, "check", next=(_CHECK,), items=_some([_finding(each) for each in findings]))


def _finding(finding: Finding) -> Data:
    return _item(f"{finding.path}:{finding.line}", f"{finding.message} [{finding.rule.id}]")


def _ages(ages: Data, max_age: str) -> Iterator[Attention]:
    old = [
        _item(f"{target['target']}: {key['key']}".rstrip(": "), f"since {key['last_rotated'][:10]}")
        for target in ages["targets"]
        for key in target["keys"]
        if key["too_old"]
    ]
    if old:
        name, age = ages["environment"], f"Older than {max_age}."
        step = f"Rotate them: `reconciler set` in a clone; `reconciler age -e {name}` lists every age."
        yield Attention(WAITS, "old secrets", name, age, (step,), items=_some(old))
