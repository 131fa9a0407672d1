"""What `diff` found, as text, as data, and as a comment on a pull request. Pure: from a difference to text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from reconciler.app.diff.diff import Difference, FileChange, TargetChange
from reconciler.cli.markdown import code, plain
from reconciler.core.checks.rules import Finding
from reconciler.core.text import printable

MARKER = "<!-- reconciler-diff -->"
"""By this a job finds its own comment again, to update it in place."""

# GitHub takes comments of 65,536 characters; the parts below (two of them warnings) stay within that together.
_WARNING, _TABLE, _LIST = 8_000, 36_000, 10_000
_MOST_NAMES = 20  # keys in one cell

FORMATS: dict[str, Callable[[Difference], str]] = {
    "text": lambda difference: _text(difference),
    "json": lambda difference: json.dumps(_data(difference), indent=2) + "\n",
    "markdown": lambda difference: _markdown(difference),
}
"""How a difference is written, by the name of the format; each with a newline at its end."""


def summary(found: Difference) -> str:
    """One sentence: how much changed."""
    if found.empty:
        return "nothing changed"
    environments = len({one.environment for one in found.files})
    counts = [
        _counted(sum(len(getattr(one.change.keys, what)) for one in found.files), f"key {what}", f"keys {what}")
        for what in ("added", "removed", "changed")
    ]
    files = _counted(len(found.files), "file", "files")
    where = _counted(environments, "environment", "environments")
    others = f"; {_counted(len(found.others), 'other file', 'other files')}" if found.others else ""
    return f"{files} in {where}: {', '.join(counts)}{others}"


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _notes(one: FileChange, name: Callable[[str], str] = str, words: Callable[[str], str] = str) -> Iterator[str]:
    """What is to be said beside the names of keys, a sentence each. ``name`` is how a key is written, ``words`` how
    everything else is."""
    yield from (words(note) for note in _sentences(one))
    for key, when in one.equal.items():
        for word, names in when.items():
            where = ", ".join(names)
            yield f"{name(key)}: {words(f'{word} value as in {where}')}"
    yield from (words(f"{finding.rule.severity}: {finding.message}") for finding in one.findings)


def _sentences(one: FileChange) -> Iterator[str]:
    if one.status != "modified":
        yield f"{one.status} file"
    if one.change.only_reencrypted:
        yield "re-encrypted only: no value changed"
    if one.change.rotated:
        others = "value" if one.change.keys.empty else "other value"
        yield f"every {others} was re-encrypted (rotate?); without a key it cannot be told whether values changed"
    if one.change.joined:
        yield f"can decrypt it now: {', '.join(one.change.joined)}"
    if one.change.left:
        yield f"can no longer decrypt it, but knows the old values: {', '.join(one.change.left)}"
    if one.note:
        yield one.note


# --- text ---


def _text(found: Difference) -> str:
    lines = [f"{_short(found.base)}..{_short(found.head)}: {summary(found)}"]
    for one in found.files:
        lines.append(f"{one.environment}/{one.source}{_destination(one)}")
        lines += [f"  {sign}{name}" for sign, name in _signed(one)]
        lines += [f"  {note}" for note in _notes(one)]
    lines += [f"{one.environment}: {_target(one)}" for one in found.targets]
    lines += [f"{path}: {status}" for path, status in found.others]
    lines += [f"a contract of it changed, and was asked: {path}" for path in found.asked]
    lines += [f"{one.path}:{one.line}: {one.rule.severity} [{one.rule.id}] {one.message}" for one in found.findings]
    return "".join(f"{printable(line)}\n" for line in lines)


def _destination(one: FileChange) -> str:
    stack = f"stack {one.stack}" if one.stack else "no stack"
    return f" → {one.live} ({stack})" if one.live else ""


def _target(one: TargetChange) -> str:
    """Such as ``target changed: api.env (stack app; path /a → /b)``."""
    more = "; ".join([*([f"stack {one.stack}"] if one.stack else []), *one.details])
    return f"target {one.what}: {one.source}" + (f" ({more})" if more else "")


def _signed(one: FileChange) -> Iterator[tuple[str, str]]:
    keys = one.change.keys
    for sign, names in (("+", keys.added), ("-", keys.removed), ("~", keys.changed)):
        yield from ((sign, name) for name in names)


def _short(commit: str) -> str:
    return commit[:12]


# --- data ---


def _data(found: Difference) -> dict[str, Any]:
    return {
        "base": found.base,
        "head": found.head,
        "directory": found.directory,
        "summary": summary(found),
        "with_values": found.with_values,
        "files": [_file(one) for one in found.files],
        "targets": [
            {
                "environment": one.environment,
                "change": one.what,
                "source": one.source,
                "stack": one.stack,
                "details": list(one.details),
            }
            for one in found.targets
        ],
        "asked": list(found.asked),
        "findings": [{"path": one.path, "line": one.line, **_finding(one)} for one in found.findings],
        "others": [{"path": path, "status": status} for path, status in found.others],
    }


def _file(one: FileChange) -> dict[str, Any]:
    keys = one.change.keys
    return {
        "environment": one.environment,
        "source": one.source,
        "status": one.status,
        "stack": one.stack,
        "live": one.live,
        "keys": {"added": list(keys.added), "removed": list(keys.removed), "changed": list(keys.changed)},
        "recipients": {"added": list(one.change.joined), "removed": list(one.change.left)},
        "only_reencrypted": one.change.only_reencrypted,
        "rotated": one.change.rotated,
        "note": one.note,
        "equal": {key: {when: list(names) for when, names in one.equal[key].items()} for key in one.equal},
        "findings": [_finding(finding) for finding in one.findings],
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {"rule": one.rule.id, "severity": str(one.rule.severity), "message": one.message}


# --- markdown ---


def _markdown(found: Difference) -> str:
    parts = [MARKER, "### Configuration changes", f"**{plain(summary(found).capitalize())}**"]
    if removed := _removed(found.files):
        parts.append(f"> ⚠️ **Keys are removed:** {removed}. A service that still reads one will not find it.")
    if found.findings:
        said = [f"> - ⚠️ {code(one.path)}: {plain(one.message)}" for one in found.findings]
        lines, more = _within(_WARNING, said)
        parts.append("\n".join([*lines, *([f"> - and {more} more"] if more else [])]))
    if found.files:
        head = ["| environment | file | stack | added | removed | changed | notes |", "|---|---|---|---|---|---|---|"]
        rows, more = _within(_TABLE, [_row(one) for one in found.files])
        parts.append("\n".join([*head, *rows, *([f"| and {more} more files | | | | | | |"] if more else [])]))
    listed = [f"- {code(one.environment)}: {_target_in_markdown(one)}" for one in found.targets]
    listed += [f"- {code(path)} {status}" for path, status in found.others]
    listed += [f"- a contract of {code(path)} changed, and was asked" for path in found.asked]
    if listed:
        lines, more = _within(_LIST, listed)
        parts.append("\n".join([*lines, *([f"- and {more} more"] if more else [])]))
    values = "with values" if found.with_values else "names only, without a key"
    parts.append(f"<sub>{code(_short(found.base))} → {code(_short(found.head))}, {values}; no value is shown</sub>")
    return "\n\n".join(parts) + "\n"


def _target_in_markdown(one: TargetChange) -> str:
    details = [*([f"stack {one.stack}"] if one.stack else []), *one.details]
    return f"target {one.what}: {code(one.source)}" + "".join(f"; {code(detail)}" for detail in details)


def _removed(files: Iterable[FileChange]) -> str:
    places = [
        f"{_names(one.change.keys.removed)} from {code(f'{one.environment}/{one.source}')}"
        for one in files
        if one.change.keys.removed and one.status != "removed"
    ]
    places += [f"all of {code(f'{one.environment}/{one.source}')}" for one in files if one.status == "removed"]
    shown, more = _within(_WARNING, places)
    return "; ".join(shown) + (f"; and {more} more files" if more else "")


def _within(budget: int, parts: list[str]) -> tuple[list[str], int]:
    """As many parts as fit into so many characters, and how many are left out."""
    kept = []
    for part in parts:
        budget -= len(part) + 2
        if budget < 0:
            break
        kept.append(part)
    return kept, len(parts) - len(kept)


def _row(one: FileChange) -> str:
    keys = one.change.keys
    stack = code(one.stack) if one.stack else ""
    names = " | ".join(_names(group) for group in (keys.added, keys.removed, keys.changed))
    notes = "<br>".join(_notes(one, code, plain))
    return f"| {plain(one.environment)} | {code(one.source)} | {stack} | {names} | {notes} |"


def _names(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - _MOST_NAMES} more" if len(keys) > _MOST_NAMES else ""
    return " ".join(code(key) for key in keys[:_MOST_NAMES]) + more
