"""Reads the --json of the commands, and holds each to its JSON Schema, which here allows no unknown field."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import jsonschema

from reconciler.cli.schemas import schema_of

_LISTS = {"history": "runs", "backups": "backups", "doctor": "findings", "notify": "receivers"} | dict.fromkeys(
    ("sync", "plan", "rollback", "unpin", "pause", "resume", "retry", "accept-rewrite", "forget"), "outcomes"
)


def read_answer(command: str, text: str) -> Any:
    """The answer, without its ``schema``; where it is one list, that list."""
    data = json.loads(text)
    _validator(command).validate(data)
    del data["schema"]
    return data[_LISTS[command]] if command in _LISTS else data


@functools.cache
def _validator(command: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(strict(schema_of(command)))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, refusing every field that it does not name."""
    closed = copy.deepcopy(schema)
    for part in (closed, *closed.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return closed
