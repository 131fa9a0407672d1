"""Renders the result of `diff` as text, as JSON, and as a comment on a pull request. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from reconciler.app.diff.diff import CommitDiff, FileChange, TargetChange
from reconciler.cli.layout import Item, Page, counted, foreign
from reconciler.core.checks.rules import Finding
from reconciler.core.markdown import code, plain_text
from reconciler.core.model.answers import versioned
from reconciler.core.text import printable

MARKER = "<!-- reconciler-diff -->"
"""Marks the comment, so that a CI job finds it and updates it in place."""

# GitHub accepts comments of 65,536 characters; the parts below (two of them warnings) stay within that together.
_WARNING, _TABLE, _LIST = 8_000, 36_000, 10_000
_MOST_NAMES = 20  # keys in one cell

FORMATS: dict[str, Callable[[CommitDiff], str]] = {
    "json": lambda difference: json.dumps(versioned(_data(difference)), indent=2) + "\n",
    "markdown": lambda difference: _markdown(difference),
}
"""The renderer of each format for programs; each text ends with a newline."""


def summarize_diff(diff: CommitDiff) -> str:
    if diff.empty:
        return "nothing changed"
    environments = len({file.environment for file in diff.files})
    counts = [
        counted(sum(len(getattr(file.change.keys, kind)) for file in diff.files), f"key {kind}", f"keys {kind}")
        for kind in ("added", "removed", "changed")
    ]
    files = counted(len(diff.files), "file", "files")
    where = counted(environments, "environment", "environments")
    others = f"; {counted(len(diff.others), 'other file', 'other files')}" if diff.others else ""
    return f"{files} in {where}: {', '.join(counts)}{others}"


def _notes(file: FileChange, name: Callable[[str], str] = str, words: Callable[[str], str] = str) -> Iterator[str]:
    """The notes beside the names of keys, one sentence each. ``name`` formats a key, ``words`` formats other text."""
    yield from (words(note) for note in _sentences(file))
    for key, when in file.equal.items():
        for word, names in when.items():
            where = ", ".join(names)
            yield f"{name(key)}: {words(f'{word} value as in {where}')}"
    yield from (words(f"{finding.rule.severity}: {finding.message}") for finding in file.findings)


def _sentences(file: FileChange) -> Iterator[str]:
    if file.status == "renamed":
        yield _origin(file)
    elif file.status != "modified":
        yield f"{file.status} file"
    if file.change.only_reencrypted and (file.status != "renamed" or file.change.joined or file.change.left):
        yield "re-encrypted only: no value changed"
    if file.change.rotated:
        others = "value" if file.change.keys.empty else "other value"
        yield f"every {others} was re-encrypted (rotate?); without a key it is unknown whether values changed"
    if file.change.joined:
        yield f"can decrypt it now: {', '.join(file.change.joined)}"
    if file.change.left:
        yield f"can no longer decrypt it, but knows the old values: {', '.join(file.change.left)}"
    if file.note:
        yield file.note


def _beside(diff: CommitDiff) -> list[TargetChange]:
    """The targets but for those that are gone or renamed, where the block of the file says that."""
    gone = [file for file in diff.files if file.status in ("removed", "renamed")]
    notes = {(file.environment, file.source, file.status): file.note for file in gone}
    keys = [(target.environment, target.source, target.change) for target in diff.targets]
    return [
        target
        for target, key in zip(diff.targets, keys, strict=True)
        if key not in notes or any(detail not in notes[key] for detail in target.details)
    ]


# --- text ---


def diff_report(diff: CommitDiff, page: Page) -> Iterator[str]:
    """A summary, a block per file with its keys, and what changed beside the files."""
    yield from page.text(f"{_short(diff.base)}..{_short(diff.head)}: {summarize_diff(diff)}", 0, 2)
    files = [_file_item(file, page) for file in diff.files]
    beside = [f"{target.environment}: {_target(target)}" for target in _beside(diff)]
    beside += [f"{path}: {status}" for path, status in diff.others]
    beside += [f"checked again, because its contract changed: {path}" for path in diff.rechecked]
    beside += [
        f"{finding.path}:{finding.line}: {finding.rule.severity} [{finding.rule.id}] {finding.message}"
        for finding in diff.findings
    ]
    for lines in (page.items(files), [line for text in beside for line in page.text(printable(text), 2, 2)]):
        if lines:
            yield ""
            yield from lines


def _file_item(file: FileChange, page: Page) -> Item:
    cells = (f"{file.environment}/{file.source}", _destination(file))
    keys = file.change.keys
    names = {kind: foreign(getattr(keys, kind)) for kind in ("added", "removed", "changed")}
    notes = [note for note in _notes(file) if note != _origin(file)]  # the destination has it
    details = [*page.keys(names), *(printable(note) for note in notes)]
    return Item(tuple(printable(cell) for cell in cells if cell), tuple(details))


def _destination(file: FileChange) -> str:
    stack = f"stack {file.stack}" if file.stack else "no stack"
    return ", ".join(filter(None, (f"→ {file.live} ({stack})" if file.live else "", _origin(file))))


def _origin(file: FileChange) -> str:
    return f"renamed from {file.renamed_from}" if file.renamed_from else ""


def _target(target: TargetChange) -> str:
    """Such as ``target changed: api.env (stack app; path /a → /b)``."""
    more = "; ".join([*([f"stack {target.stack}"] if target.stack else []), *target.details])
    return f"target {target.change}: {target.source}" + (f" ({more})" if more else "")


def _short(commit: str) -> str:
    return commit[:12]


# --- data ---


def _data(diff: CommitDiff) -> dict[str, Any]:
    return {
        "base": diff.base,
        "head": diff.head,
        "directory": diff.directory,
        "summary": summarize_diff(diff),
        "with_values": diff.with_values,
        "files": [_file(file) for file in diff.files],
        "targets": [asdict(target) for target in diff.targets],
        "rechecked": list(diff.rechecked),
        "findings": [{"path": finding.path, "line": finding.line, **_finding(finding)} for finding in diff.findings],
        "others": [{"path": path, "status": status} for path, status in diff.others],
    }


def _file(file: FileChange) -> dict[str, Any]:
    keys = file.change.keys
    return {
        "environment": file.environment,
        "source": file.source,
        "status": file.status,
        "renamed_from": file.renamed_from or None,
        "stack": file.stack,
        "live": file.live,
        "keys": {"added": list(keys.added), "removed": list(keys.removed), "changed": list(keys.changed)},
        "recipients": {"added": list(file.change.joined), "removed": list(file.change.left)},
        "only_reencrypted": file.change.only_reencrypted,
        "rotated": file.change.rotated,
        "note": file.note,
        "equal": {key: {when: list(names) for when, names in file.equal[key].items()} for key in file.equal},
        "findings": [_finding(finding) for finding in file.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"rule": finding.rule.id, "severity": str(finding.rule.severity), "message": finding.message}


# --- markdown ---


def _markdown(diff: CommitDiff) -> str:
    parts = [MARKER, "### Configuration changes", f"**{plain_text(summarize_diff(diff).capitalize())}**"]
    if removed := _removed(diff.files):
        parts.append(f"> ⚠️ **Keys are removed:** {removed}. A service that still reads one of them will not find it.")
    if diff.findings:
        warnings = [f"> - ⚠️ {code(finding.path)}: {plain_text(finding.message)}" for finding in diff.findings]
        lines, more = _within(_WARNING, warnings)
        parts.append("\n".join([*lines, *([f"> - and {more} more"] if more else [])]))
    if diff.files:
        head = ["| environment | file | stack | added | removed | changed | notes |", "|---|---|---|---|---|---|---|"]
        rows, more = _within(_TABLE, [_row(file) for file in diff.files])
        parts.append("\n".join([*head, *rows, *([f"| and {more} more files | | | | | | |"] if more else [])]))
    listed = [f"- {code(target.environment)}: {_target_in_markdown(target)}" for target in _beside(diff)]
    listed += [f"- {code(path)} {status}" for path, status in diff.others]
    listed += [f"- {code(path)} was checked again, because its contract changed" for path in diff.rechecked]
    if listed:
        lines, more = _within(_LIST, listed)
        parts.append("\n".join([*lines, *([f"- and {more} more"] if more else [])]))
    values = "with values" if diff.with_values else "names only, without a key"
    parts.append(f"<sub>{code(_short(diff.base))} → {code(_short(diff.head))}, {values}; no value is shown</sub>")
    return "\n\n".join(parts) + "\n"


def _target_in_markdown(target: TargetChange) -> str:
    details = [*([f"stack {target.stack}"] if target.stack else []), *target.details]
    return f"target {target.change}: {code(target.source)}" + "".join(f"; {code(detail)}" for detail in details)


def _removed(files: Iterable[FileChange]) -> str:
    places = [
        f"{_names(file.change.keys.removed)} from {code(f'{file.environment}/{file.source}')}"
        for file in files
        if file.change.keys.removed and file.status != "removed"
    ]
    places += [f"all of {code(f'{file.environment}/{file.source}')}" for file in files if file.status == "removed"]
    listed, more = _within(_WARNING, places)
    return "; ".join(listed) + (f"; and {more} more files" if more else "")


def _within(budget: int, parts: list[str]) -> tuple[list[str], int]:
    """The parts that fit into ``budget`` characters, and the number of parts left out."""
    kept = []
    for part in parts:
        budget -= len(part) + 2
        if budget < 0:
            break
        kept.append(part)
    return kept, len(parts) - len(kept)


def _row(file: FileChange) -> str:
    keys = file.change.keys
    stack = code(file.stack) if file.stack else ""
    names = " | ".join(_names(group) for group in (keys.added, keys.removed, keys.changed))
    notes = "<br>".join(_notes(file, code, plain_text))
    return f"| {plain_text(file.environment)} | {code(file.source)} | {stack} | {names} | {notes} |"


def _names(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - _MOST_NAMES} more" if len(keys) > _MOST_NAMES else ""
    return " ".join(code(key) for key in keys[:_MOST_NAMES]) + more
