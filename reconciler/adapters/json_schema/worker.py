"""A separate program: reads questions about contracts on standard input, answers them with the jsonschema library.

client.py starts it with limits of time and memory, because contracts come from git and a regular expression can take
forever. It uses neither network nor files: references out of a contract are not followed. No answer contains a value;
errors of the library, which would quote one, are never passed on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

Json = dict[str, Any]


def main() -> None:
    request = json.load(sys.stdin)
    schemas: list[Json] = request["schemas"]
    faults = [_fault(schema) for schema in schemas]
    answers = [
        [breach for index in question["schemas"] if faults[index] is None for breach in _ask(schemas, index, question)]
        for question in request["questions"]
    ]
    json.dump({"faults": faults, "answers": answers}, sys.stdout)


def _fault(schema: Json) -> Json | None:
    """The field that makes a schema invalid. The library's own message is not used: it quotes."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return {"field": list(error.absolute_path), "keyword": str(error.validator)}
    return None


def _ask(schemas: list[Json], index: int, question: Json) -> Iterator[Json]:
    """The breaches of one schema: where in it, which key, which keyword."""
    checker = FormatChecker() if question["valued"] else None
    # An empty registry: references out of the schema are not found, and nothing is fetched.
    validator = Draft202012Validator(_explicit(schemas[index]), registry=Registry(), format_checker=checker)
    try:
        for error in validator.iter_errors(question["variables"]):
            for key, keyword in _concerned(error, question["variables"]):
                yield {"schema": index, "key": key, "keyword": keyword, "field": list(error.absolute_schema_path)}
    except Exception as error:  # noqa: BLE001  # whatever a hostile schema causes; its text may quote a value
        yield {"schema": index, "key": "", "keyword": f"unusable ({type(error).__name__})", "field": []}


def _concerned(error: ValidationError, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The keys that break the rule, and the rule's keyword."""
    keyword, value = str(error.validator), cast("Any", error.validator_value)
    if keyword == "not" and value == {}:
        keyword = "false"
    if error.absolute_path:
        yield str(error.absolute_path[0]), keyword
    elif "propertyNames" in error.absolute_schema_path:
        yield str(error.instance), "propertyNames"
    elif keyword == "required":
        yield from ((name, keyword) for name in value if name not in variables)
    elif keyword == "dependentRequired":
        missing = {name for key, names in value.items() if key in variables for name in names if name not in variables}
        yield from ((name, keyword) for name in sorted(missing))
    elif keyword == "additionalProperties":
        yield from ((name, keyword) for name in _additional(error.schema, variables))
    elif keyword == "not" and isinstance(value, dict) and len(value.get("required", ())) == 1:
        yield value["required"][0], "not/required"
    else:
        yield "", keyword


def _explicit(schema: Any) -> Any:
    """The schema with ``false`` written as ``not: {}``: for that the library reports the key."""
    if isinstance(schema, dict):
        return {
            keyword: {"not": {}} if value is False and keyword != "additionalProperties" else _explicit(value)
            for keyword, value in schema.items()
        }
    return [_explicit(item) for item in schema] if isinstance(schema, list) else schema


def _additional(schema: Any, variables: Mapping[str, str]) -> list[str]:
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    return [
        name for name in variables if name not in known and not any(re.search(pattern, name) for pattern in patterns)
    ]


if __name__ == "__main__":
    main()
