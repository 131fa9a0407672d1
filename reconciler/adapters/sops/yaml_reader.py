"""Reads YAML as sops does, without resolving anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from reconciler.core.errors import BadCiphertextError, SourceError
from reconciler.core.sops.metadata import Fields
from reconciler.core.sops.patterns import MAX_DEPTH, MAX_NODES, restore_hint

_YAML_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def parse_yaml(name: str, text: str) -> object:
    """Given a YAML file, return its document (see core/sops/ciphertext.py) without resolving anything.

    Raises BadCiphertextError for invalid YAML, SourceError for what sops never writes and would have to resolve.
    An alias bomb ends at its first anchor.
    """
    import yaml

    # sops' own parser is a translation of libyaml, so both see the same document.
    reader = _YamlReader(name, yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    try:
        return reader.document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
    # Raised out here: as the cause or context, the parser's own error would quote the file.
    raise BadCiphertextError(
        "is not valid YAML", where=name if mark is None else f"{name}, line {mark.line + 1}", hint=restore_hint(name)
    )


class _YamlReader:
    """Builds the document from the parser's events."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self._name = name
        self._events = events
        self._nodes = 0

    def document(self) -> object:
        import yaml

        document: object = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version or event.tags or self._nodes:
                    self._refuse("a directive, or a second document", event)
                document = self._node(next(self._events), 1)
        return document

    def _node(self, event: Any, depth: int) -> object:
        import yaml

        self._nodes += 1
        if event.anchor is not None or event.tag is not None:  # an alias has an anchor's name, and no tag
            self._refuse("an anchor, an alias or a tag", event)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_NODES} values or {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            return None if event.implicit[0] and event.value in _YAML_NULLS else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        fields = Fields()
        for key in self._until(yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.value == "<<":
                self._refuse("a merge key, or a key of several parts", key)
            self._node(key, depth)
            fields.append((key.value, _line(key), self._node(next(self._events), depth + 1)))
        return fields

    def _until(self, end: type) -> Iterator[Any]:
        return iter(lambda: self._next_unless(end), None)

    def _next_unless(self, end: type) -> Any:
        event = next(self._events)
        return None if isinstance(event, end) else event

    def _refuse(self, construct: str, event: Any) -> NoReturn:
        raise SourceError(
            f"has {construct}, which is not supported",
            where=f"{self._name}, line {_line(event)}",
            hint="Write it out in the plain file and encrypt that, or encrypt it as binary",
        )


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
