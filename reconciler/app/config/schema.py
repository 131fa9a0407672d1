"""The JSON Schemas of our files, for editors (docs/configuration.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reconciler.app.config.expected import ExpectedFile
from reconciler.app.config.manifest import ManifestFile
from reconciler.app.config.models import Section
from reconciler.app.config.server import ServerConfig


def json_schema(which: Literal["server", "manifest", "expected"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of the files, for editors: it accepts the same shapes as reading the file
    does. What depends on the server or on other fields is left to `reconciler check`."""
    schema = _model(which).model_json_schema(schema_generator=_Generator)
    return {"$schema": _Generator.schema_dialect, **schema}


def _model(which: Literal["server", "manifest", "expected"]) -> type[Section]:
    if which == "expected":
        return ExpectedFile
    return ServerConfig if which == "server" else ManifestFile


class _Generator(GenerateJsonSchema):
    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Names that do not have the shape of the mapping's keys are refused, where pydantic would ignore them."""
        return {**super().dict_schema(schema), "additionalProperties": False}
