"""Reads a YAML document as a model, and reports every mistake in one error."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from reconciler.app.config import scalars
from reconciler.app.config.scalars import Form, kind_of, mistake
from reconciler.app.config.strict_yaml import (
    MAX_PROBLEMS,
    Document,
    FieldPath,
    Problem,
    UnreadableError,
    read_document,
    shown,
)
from reconciler.core.errors import ReconcilerError

_LONGEST_QUOTE = 60
_NEVER_QUOTED = ("token", "secret", "password", "key")


class Section(BaseModel):
    """A mapping in one of our files: known fields only, nothing converted silently, never changed after reading.

    Only a model of a whole file is ever used by itself: the validators of the others would be built for nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True)


AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, slots=True)
class Short:
    """A short form of a mapping: text is the value of ``field``; with ``empty``, nothing is a mapping without fields.
    ``form`` is the field's."""

    field: str
    form: Form
    empty: bool

    def expand(self, value: object) -> object:
        if isinstance(value, str):
            return {self.field: value}
        if value is None and self.empty:
            return {}
        if not isinstance(value, dict):
            nothing = ", nothing" if self.empty else ""
            raise mistake(f"cannot be {kind_of(value)}", f"a {self.field}{nothing}, or a mapping of fields")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "pattern": self.form.pattern}
        return {"anyOf": [text, *([{"type": "null"}] if self.empty else []), handler(schema)]}


@dataclass(frozen=True, slots=True)
class Items:
    """A list of at least ``low`` and, unless it is None, at most ``high`` items; read as a tuple."""

    low: int = 0
    high: int | None = None

    def check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(items) < self.low:
            raise mistake("must not be empty", "a list of at least one")
        if self.high is not None and len(items) > self.high:
            raise mistake(f"has {len(items)} items", f"a list of up to {self.high}")
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        items = {**handler(source), "strict": False}  # YAML has lists, not tuples
        return core_schema.no_info_after_validator_function(self.check, cast("CoreSchema", items))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        limits = {"minItems": self.low or None, "maxItems": self.high}
        return {**handler(schema), **{name: limit for name, limit in limits.items() if limit is not None}}


@dataclass(frozen=True, slots=True)
class OneOrMany:
    """A short form of a list with one text: that text. ``form`` is the items'."""

    form: Form

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def expand(value: object) -> object:
            return [value] if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(expand, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "pattern": self.form.pattern}, handler(schema)]}


def read_sections(
    model: type[AnySection],
    content: bytes,
    *,
    file: str,
    error: type[ReconcilerError],
    rules: Callable[[Document], Iterable[Problem]],
    context: object = None,
) -> AnySection:
    """Given the content of ``file``, return it as ``model``; ``context`` goes to the model's validators.

    ``rules`` finds problems between fields, in data of any shape, so that they are reported with mistakes of shape.
    Raises ``error`` with every problem.
    """
    try:
        document = read_document(content, file)
    except UnreadableError as unreadable:
        raise error(str(unreadable), id="unparsable-yaml") from None
    sections, mistakes = validate(model, document, context)
    problems = [*document.problems, *rules(document), *mistakes]
    if problems or sections is None:
        ids = {problem.id for problem in problems}
        raise error(document.report(problems), id=ids.pop() if len(ids) == 1 else "")
    return sections


def validate(
    model: type[AnySection], document: Document, context: object = None
) -> tuple[AnySection | None, list[Problem]]:
    """Given a document, return it as ``model``, or None and every mistake of shape."""
    try:
        return model.model_validate(document.data, context=context), []
    except ValidationError as invalid:
        details = invalid.errors(include_url=False)
        guess = len(details) <= MAX_PROBLEMS  # a hostile file has a hundred thousand unknown fields
        return None, [_problem(detail, model, guess) for detail in details]


def _problem(detail: ErrorDetails, model: type[BaseModel], guess: bool) -> Problem:
    """pydantic's error as a plain sentence, which quotes the value only where that is safe; ``guess``: and says which
    known field an unknown one is nearest to."""
    path = detail["loc"]
    if path[-1:] == ("[key]",) and detail["type"] != "extra_forbidden":  # the mistake is in the name itself
        path = path[:-1]
    kind = kind_of(detail["input"])
    match detail["type"]:
        case scalars.MISTAKE:
            context = detail["ctx"]
            quote = _quote(detail["input"], path) if context["quote"] else ""
            return Problem(path, quote + context["problem"], context["accepted"], id=context["id"])
        case "extra_forbidden":
            return _unknown_field(path, model, guess)
        case "missing":
            return Problem(path, "is missing", _accepted(path, model))
        case "bool_type":
            return Problem(path, f"must be true or false, not {kind}", "true, false")
        case "tuple_type":
            return Problem(path, f"must be a list, not {kind}", "a list such as [a, b]")
        case "dict_type" | "model_type":
            return Problem(path, f"must be a mapping, not {kind}", _accepted(path, model))
        case error_type:
            return Problem(path, f"cannot be used ({error_type})", _accepted(path, model))


def _quote(value: object, path: FieldPath) -> str:
    """The value in quotes; "" if it is long, or may be a secret in the wrong field."""
    names = "".join(part for part in path if isinstance(part, str))
    if not isinstance(value, str) or len(value) > _LONGEST_QUOTE or any(word in names for word in _NEVER_QUOTED):
        return ""
    return f'"{shown(value)}" '


def _unknown_field(path: FieldPath, model: type[BaseModel], guess: bool) -> Problem:
    known = _fields_at(path[:-1], model)
    near = difflib.get_close_matches(str(path[-1]), known, n=1) if guess else []
    hint = f", did you mean {near[0]}?" if near else ""
    return Problem(path, f"is not a known field{hint}", ", ".join(known), id="unknown-field")


def _accepted(path: FieldPath, model: type[BaseModel]) -> str:
    """What is accepted at ``path``, in words."""
    if path:
        field = _fields_at(path[:-1], model).get(str(path[-1]))
        form = next((form for form in field.metadata if isinstance(form, Form)), None) if field else None
        if form:
            return form.accepted
    known = _fields_at(path, model)
    return f"a mapping with {', '.join(known)}" if known else "a mapping of names"


def _fields_at(path: FieldPath, model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of the model at ``path`` below ``model``; none if there is no model."""
    annotation: Any = model
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = next(
                (known for name, known in annotation.model_fields.items() if part in (known.alias, name)), None
            )
            annotation = field.annotation if field else None
        else:
            annotation = _item(annotation)
        annotation = _bare(annotation)
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    return {field.alias or name: field for name, field in annotation.model_fields.items()}


def _item(annotation: Any) -> Any:
    """The type of a dict's values or of a tuple's items."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def _bare(annotation: Any) -> Any:
    """A type without Annotated[…] and without ``| None``."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return _bare(next(choice for choice in typing.get_args(annotation) if choice is not type(None)))
    return annotation
