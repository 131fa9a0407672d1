"""Edits of a YAML file that leave everything else as it was typed: comments, order, quotes and blank lines.

PyYAML says where each value begins and ends; the new text goes in between. A path leads to a value through the keys of
mappings: ``("stacks", "shop", "targets")``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from reconciler.core.errors import RefusedError

KeyPath = tuple[str, ...]
Lines = Callable[[int], Sequence[str]]
"""The lines of a new entry, for the indent of its key."""


def flow(value: object) -> str:
    """One line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


class YamlEdits:
    """The text of a YAML file, with the edits that were made. ``where`` is what errors call it.

    An edit raises RefusedError where the text has no place for it.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self._where = where
        self._data = yaml.safe_load(text) or {}

    def remove(self, path: KeyPath) -> None:
        """Remove an entry of a mapping."""
        parent, number = self._entry(path)
        key, value = parent.value[number]
        del self._mapping(path[:-1])[path[-1]]
        if not parent.flow_style:
            self._replace(self._line_start(key.start_mark.index), self._line_end(_end(value)), "")
        elif number + 1 < len(parent.value):
            self._replace(key.start_mark.index, parent.value[number + 1][0].start_mark.index, "")
        else:
            start = _end(parent.value[number - 1][1]) if number else key.start_mark.index
            self._replace(start, _end(value), "")

    def remove_item(self, path: KeyPath, item: str) -> None:
        """Remove an item of the list at ``path``, if it is there."""
        items: Any = self._node(path)
        number = next((n for n, node in enumerate(items.value) if node.value == item), None)
        if number is None:
            return
        self._mapping(path[:-1])[path[-1]].remove(item)
        node = items.value[number]
        if not items.flow_style and len(items.value) == 1:
            self._replace(self._value_start(path), _end(node), " []")
        elif not items.flow_style:
            self._replace(self._line_start(node.start_mark.index), self._line_end(_end(node)), "")
        elif number + 1 < len(items.value):
            self._replace(node.start_mark.index, items.value[number + 1].start_mark.index, "")
        else:
            self._replace(_end(items.value[number - 1]) if number else node.start_mark.index, _end(node), "")

    def rename(self, path: KeyPath, name: str) -> None:
        """Give an entry of a mapping another key, in its place."""
        parent, number = self._entry(path)
        key, _ = parent.value[number]
        mapping = self._mapping(path[:-1])
        entries = [(name if old == path[-1] else old, value) for old, value in mapping.items()]
        mapping.clear()
        mapping.update(entries)
        self._replace(key.start_mark.index, key.end_mark.index, flow(name))

    def add(self, path: KeyPath, value: object, lines: Lines) -> None:
        """Add a last entry with the ``value`` to the mapping around ``path``, which may be absent or empty; ``lines``
        writes it."""
        parent_path, name = path[:-1], path[-1]
        parent = self._node(parent_path) if self._has(parent_path) else None
        if parent is None:
            indent = 2 * len(parent_path)
            nested = [f"{' ' * (indent - 2)}{flow(parent_path[-1])}:", *lines(indent)]
            self.add(parent_path, {name: value}, lambda _: ["", *nested] if len(parent_path) == 1 else nested)
            return
        if not isinstance(self.value(parent_path), dict):
            self._set(parent_path, {})
        self._mapping(parent_path)[name] = value
        if isinstance(parent, yaml.MappingNode) and parent.value and parent.flow_style:
            self._replace(end := _end(parent.value[-1][1]), end, f", {flow(name)}: {flow(value)}")
        elif isinstance(parent, yaml.MappingNode) and parent.value:
            indent = parent.value[0][0].start_mark.column
            self._insert_lines(self._line_end(_end(parent.value[-1][1])), lines(indent))
        else:  # `targets:` or `targets: {}`
            indent = self._key_column(parent_path) + 2 if parent_path else 0
            start = self._value_start(parent_path)
            self._replace(start, max(start, _end(parent)), "")
            self._insert_lines(self._line_end(start), lines(indent))

    def set_field(self, path: KeyPath, name: str, value: object, short: str) -> None:
        """Set a field of the mapping at ``path``, which may be absent, or short for one with the field ``short``."""
        old = self.value(path)
        if isinstance(old, dict) and name in old:
            node = self._node((*path, name))
            self._mapping(path)[name] = value
            self._replace(node.start_mark.index, _end(node), flow(value))
        elif isinstance(old, dict):
            self.add((*path, name), value, lambda indent: [f"{' ' * indent}{flow(name)}: {flow(value)}"])
        else:
            fields = {name: value} if old is None else {short: old, name: value}
            start, end = self._value_start(path), _end(self._node(path))
            self._set(path, fields)
            self._replace(start, max(start, end), f" {flow(fields)}")

    def finish(self) -> str:
        """The text. Raises RefusedError if it does not say what the edits mean."""
        try:
            after = yaml.safe_load(self.text) or {}
        except yaml.YAMLError:
            after = None
        if after != self._data:
            raise self._refusal()
        return self.text

    def _refusal(self) -> RefusedError:
        hint = "Write it in block style, one field a line, and commit that first"
        return RefusedError("is written in a way that cannot be changed in place", where=self._where, hint=hint)

    # --- the data ---

    def value(self, path: KeyPath) -> Any:
        """What the text says at the path, which must exist."""
        value: Any = self._data
        for name in path:
            value = value[name]
        return value

    def _set(self, path: KeyPath, value: object) -> None:
        if path:
            self._mapping(path[:-1])[path[-1]] = value
        else:
            self._data = value

    def _has(self, path: KeyPath) -> bool:
        value: Any = self._data
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        return True

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping = self.value(path)
        assert isinstance(mapping, dict)
        return mapping

    # --- the text ---

    def _node(self, path: KeyPath) -> yaml.Node:
        node: Any = yaml.compose(self.text, Loader=yaml.SafeLoader)
        if node is None:
            return yaml.ScalarNode("tag:yaml.org,2002:null", "", _mark(self.text), _mark(self.text))
        for name in path:
            node = node.value[self._position(node, name)][1]
        return node  # type: ignore[no-any-return]

    def _entry(self, path: KeyPath) -> tuple[yaml.MappingNode, int]:
        parent: Any = self._node(path[:-1])
        return parent, self._position(parent, path[-1])

    def _position(self, parent: yaml.MappingNode, name: str) -> int:
        """The number of an entry. Raises RefusedError for one that comes from elsewhere (`<<`)."""
        for number, (key, _) in enumerate(parent.value):
            if key.value == name:
                return number
        raise self._refusal()

    def _value_start(self, path: KeyPath) -> int:
        """Right after the colon of the key."""
        if not path:
            return len(self.text)
        parent, number = self._entry(path)
        colon = self.text.find(":", parent.value[number][0].end_mark.index)
        if colon < 0:
            raise self._refusal()
        return colon + 1

    def _key_column(self, path: KeyPath) -> int:
        parent, number = self._entry(path)
        return int(parent.value[number][0].start_mark.column)

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        """Where the next line begins; ``index`` itself, if it begins one."""
        if index and self.text[index - 1] == "\n":
            return index
        newline = self.text.find("\n", index)
        return len(self.text) if newline < 0 else newline + 1

    def _insert_lines(self, index: int, lines: Sequence[str]) -> None:
        first = "" if index == 0 or self.text[index - 1] == "\n" else "\n"
        self._replace(index, index, first + "".join(f"{line}\n" for line in lines))

    def _replace(self, start: int, end: int, text: str) -> None:
        self.text = self.text[:start] + text + self.text[end:]


def _end(node: yaml.Node) -> int:
    """Where the text of a value ends; PyYAML counts the comments after a block into it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    return int(node.end_mark.index)


def _mark(text: str) -> yaml.Mark:
    return yaml.Mark("", len(text), 0, 0, None, 0)
