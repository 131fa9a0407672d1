"""The JSON Schemas of our files, for editors (docs/configuration.md)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reconciler.app.config.expected import ExpectedFile
from reconciler.app.config.manifest import ManifestFile
from reconciler.app.config.server import ServerConfig
from reconciler.core.contract import KEYWORDS, MAX_AGE, Differs

DIALECT = GenerateJsonSchema.schema_dialect
FILES: dict[str, type[BaseModel]] = {"server": ServerConfig, "manifest": ManifestFile, "expected": ExpectedFile}


def json_schema(name: str, model: type[BaseModel] | None = None) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of FILES, or of another ``model``, for editors: it accepts the same shapes as
    reading the file does. What depends on the server or on other fields is left to `reconciler check`."""
    schema = (model or FILES[name]).model_json_schema(schema_generator=_Generator)
    return {"$schema": DIALECT, "$id": schema_id(name), **schema}


def schema_id(name: str) -> str:
    """What names a schema wherever it lies. It is no address: `reconciler schema NAME` prints the schema."""
    return f"urn:reconciler:schema:{name}"


def contract_schema() -> dict[str, Any]:
    """The JSON Schema of a contract, which is a JSON Schema itself: the keywords that a contract may have, ours too."""
    return {
        "$schema": DIALECT,
        "$id": schema_id("contract"),
        "$dynamicAnchor": "meta",  # so that what is nested is held to the same keywords
        "title": "Contract",
        "description": "The variables of an env file.",
        "$ref": DIALECT,
        "properties": {
            "x-max-age": {
                "type": "string",
                "pattern": f"^{MAX_AGE.pattern}$",
                "description": "When to rotate it.",
            },
            "x-differs": {"enum": [str(rule) for rule in Differs], "description": "Between environments."},
        },
        "propertyNames": {"enum": list(KEYWORDS)},
    }


class _Generator(GenerateJsonSchema):
    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Names that do not have the shape of the mapping's keys are refused, where pydantic would ignore them."""
        return {**super().dict_schema(schema), "additionalProperties": False}
