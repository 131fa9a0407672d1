"""Adds recipients to the rules of .sops.yaml and removes them, and reads what they are called there. All else of the
file stays as it was typed.

The edits are of the text, line by line; the result counts only if it says exactly what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import yaml

from reconciler.app.checks.recipients import read_config
from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import CreationRule

_KEY = r"age1[0-9a-z]{8,}|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2}"
# `- &ada age1…`, `age1… # ada`, and `# ada: age1…` on a line of its own.
_ANCHOR = re.compile(rf"&([\w.-]+)\s+[\"']?({_KEY})")
_COMMENT = re.compile(rf"({_KEY})[\"']?[^\S\n]*,?[^\S\n]*#[^\S\n]*([^\n]{{1,60}})")
_LINE = re.compile(rf"^[^\S\n]*#[^\S\n]*([\w.@ -]{{1,60}}):[^\S\n]*({_KEY})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SopsRules:
    """A .sops.yaml: its ``rules``, and what its comments and anchors call public keys."""

    path: str
    text: str
    rules: tuple[CreationRule, ...]

    @property
    def names(self) -> Mapping[str, str]:
        alone = "\n".join(line for line in self.text.split("\n") if len(re.findall(_KEY, line)) == 1)
        return {
            **{match[2]: match[1].strip() for match in _LINE.finditer(alone)},
            **{match[1]: match[2].strip() for match in _COMMENT.finditer(alone)},
            **{match[2]: match[1] for match in _ANCHOR.finditer(alone)},
        }


def read_sops_rules(path: str, data: bytes) -> SopsRules:
    """Raises RefusedError for a file that sops cannot use."""
    try:
        return SopsRules(path, data.decode(), read_config(data))
    except ValueError as error:
        hint = "`reconciler check` shows what is wrong"
        raise RefusedError(f"sops cannot use it: {error}", where=path, hint=hint) from None


def with_recipient(file: SopsRules, numbers: Collection[int], key: str, name: str) -> str:
    """The text where the rules of these numbers have the public ``key`` too. Raises RefusedError."""
    text = file.text
    for number in sorted(numbers, reverse=True):
        if key in file.rules[number].recipients:
            continue
        start, end = _ranges(text)[number]
        rule = next((new for new in _added(text[start:end], key, name) if _has(text, start, end, new, key)), None)
        if rule is None:
            raise _refusal(file, number)
        text = text[:start] + rule + text[end:]
    return _meant(file, text, {number: {key} for number in numbers}, {})


def without_recipient(file: SopsRules, numbers: Collection[int], key: str) -> str:
    """The text where the rules of these numbers have the public ``key`` no longer. Raises RefusedError."""
    text = file.text
    anchor = next((match[1] for match in _ANCHOR.finditer(text) if match[2] == key), None)
    for number in sorted(numbers, reverse=True):
        start, end = _ranges(text)[number]
        rule = text[start:end]
        for written in (key, *([f"*{anchor}"] if anchor else [])):
            rule = _removed(rule, written)
        text = text[:start] + rule + text[end:]
    if anchor and f"*{anchor}" not in text:
        text = re.sub(
            rf"^[^\S\n]*-[^\S\n]+&{re.escape(anchor)}\s+[\"']?{re.escape(key)}.*\n?", "", text, flags=re.MULTILINE
        )
    if text.count(key) == len(
        re.findall(rf"^[^\S\n]*#[^\n]*{re.escape(key)}", text, re.MULTILINE)
    ):  # only comments name it
        text = re.sub(rf"^[^\S\n]*#[^\S\n]*[\w.@ -]{{1,60}}:[^\S\n]*{re.escape(key)}.*\n", "", text, flags=re.MULTILINE)
    return _meant(file, text, {}, {number: {key} for number in numbers})


def _added(rule: str, key: str, name: str) -> Iterator[str]:
    """The text of a rule with one more key, in each way in which its keys may be written: one a line in a list; several
    in a line, or in a folded text."""
    items = re.finditer(r"^([^\S\n]*-[^\S\n]+)[\"']?(?:&|\*|age1|ssh-)[^\n]*(?:\n|$)", rule, re.MULTILINE)
    for match in reversed(list(items)):
        line = match[0] if match[0].endswith("\n") else f"{match[0]}\n"
        comment = f" # {name}" if name else ""
        yield f"{rule[: match.start()]}{line}{match[1]}{key}{comment}\n{rule[match.end() :]}"
    for match in reversed(list(re.finditer(rf"{_KEY}|\*[\w.-]+", rule))):
        before, after = rule[: match.end()], rule[match.end() :]
        indent = rule[rule.rfind("\n", 0, match.start()) + 1 : match.start()]
        if re.match(r"[\"']?\s*\]", after):
            quote = after[: len(after) - len(after.lstrip("\"'"))]
            text = f"{before}{quote}, {key}{after.removeprefix(quote)}"
        else:
            text = f"{before},{'' if indent.strip() else chr(10) + indent}{key}{after}"
        yield _named(text, rule, key, name)


def _named(text: str, rule: str, key: str, name: str) -> str:
    """With a comment above the keys that says whose the new one is: there is no room for one beside it."""
    field = re.search(r"^([^\S\n]*)(?:-[^\S\n]+)?age:", rule, re.MULTILINE)
    if not name or field is None:
        return text
    if "-" in field[0]:
        column = len(field[0]) - len("age:")
        return f"{text}{' ' * column}# {name}: {key}\n" if text.endswith("\n") else text
    return f"{text[: field.start()]}{field[1]}# {name}: {key}\n{text[field.start() :]}"


def _removed(rule: str, written: str) -> str:
    """The text of a rule without a key, or an alias of one."""
    word = rf"[\"']?{re.escape(written)}[\"']?"
    if re.search(rf"^[^\S\n]*-[^\S\n]+{word}[^\S\n]*(?:#.*)?$", rule, re.MULTILINE):
        return re.sub(rf"^[^\S\n]*-[^\S\n]+{word}[^\S\n]*(?:#.*)?(?:\n|$)", "", rule, flags=re.MULTILINE)
    bare = re.escape(written)
    if written.startswith("*"):
        bare += r"(?![\w.-])"
    for pattern, by in ((rf",\s*{bare}", ""), (rf"{bare}\s*,\s*", ""), (bare, "")):
        lines = [line for line in re.finditer(pattern, rule) if not _in_comment(rule, line.start())]
        if lines:
            return rule[: lines[0].start()] + by + rule[lines[0].end() :]
    return rule


def _in_comment(text: str, index: int) -> bool:
    return "#" in text[text.rfind("\n", 0, index) + 1 : index + 1]


def _ranges(text: str) -> list[tuple[int, int]]:
    """Where each rule begins and ends, in whole lines."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    items = next(value.value for key, value in node.value if key.value == "creation_rules")
    ends = [item.start_mark.index for item in items[1:]]
    starts = [text.rfind("\n", 0, item.start_mark.index) + 1 for item in items]
    last = items[-1].end_mark.index if items else 0
    return list(zip(starts, [text.rfind("\n", 0, end) + 1 for end in ends] + [last], strict=True))


def _has(text: str, start: int, end: int, rule: str, key: str) -> bool:
    try:
        rules = read_config((text[:start] + rule + text[end:]).encode())
    except ValueError:
        return False
    return any(key in known.recipients for known in rules)


def _meant(file: SopsRules, text: str, added: Mapping[int, set[str]], removed: Mapping[int, set[str]]) -> str:
    """The text, if exactly these recipients have come and gone."""
    meant = [(rule.recipients | added.get(rule.number, set())) - removed.get(rule.number, set()) for rule in file.rules]
    try:
        rules = read_config(text.encode())
    except ValueError:
        raise _refusal(file, min([*added, *removed])) from None
    same = [(rule.path_regex, rule.others, rule.partial, rule.groups) for rule in rules]
    if [rule.recipients for rule in rules] != meant or same != [
        (rule.path_regex, rule.others, rule.partial, rule.groups) for rule in file.rules
    ]:
        raise _refusal(file, min([*added, *removed]))
    return text


def _refusal(file: SopsRules, number: int) -> RefusedError:
    hint = "Write its keys as a list, one a line, commit that, and try again"
    return RefusedError(f"creation_rules[{number}] cannot be changed in place", where=file.path, hint=hint)
