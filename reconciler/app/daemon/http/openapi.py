"""The OpenAPI description of the JSON API, made of the same models as `reconciler schema`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from reconciler import DISTRIBUTION
from reconciler.app.daemon.answers.models import (
    ComparisonsAnswer,
    ErrorAnswer,
    HistoryPageAnswer,
    JsonAnswer,
    RunAnswer,
    StatusAnswer,
)
from reconciler.app.daemon.http.answers import API, OPENAPI_PATH
from reconciler.app.daemon.http.api import HISTORY_LIMIT, MOST_RUNS
from reconciler.core.model.answers import SCHEMA

_ANSWERS = (StatusAnswer, HistoryPageAnswer, RunAnswer, ComparisonsAnswer, ErrorAnswer)
_SCHEMAS = "#/components/schemas/"
_NAME = {"type": "string", "minLength": 1, "maxLength": 200}


def openapi() -> dict[str, Any]:
    """The description, OpenAPI 3.1."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _ANSWERS], ref_template=f"{_SCHEMAS}{{model}}"
    )
    schemas = definitions["$defs"]
    for model in _ANSWERS:
        schemas[model.__name__]["properties"]["schema"]["const"] = SCHEMA
    about = (
        "Names, times and reasons, never a value. It changes nothing. Without http.token_file no token is needed. "
        "An answer may get new fields; anything else raises its `schema`."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "reconciler", "version": version(DISTRIBUTION), "description": about},
        "security": [{"token": []}, {}],
        "paths": {
            f"{API}/status": _path("Each environment, as `reconciler status --json`", StatusAnswer),
            f"{API}/history": _path(
                "The runs, newest first",
                HistoryPageAnswer,
                _parameter("environment", "One environment on all its hosts, or ENVIRONMENT@HOST. Default: all", _NAME),
                _parameter(
                    "limit",
                    "How many runs",
                    {"type": "integer", "minimum": 1, "maximum": MOST_RUNS, "default": HISTORY_LIMIT},
                ),
                _parameter("before", "Only runs that are older than this one: `next` of the page before", _NAME),
                missing=True,
            ),
            f"{API}/runs/{{run}}": _path(
                "One run",
                RunAnswer,
                {**_parameter("run", "Its id", _NAME), "in": "path", "required": True},
                missing=True,
            ),
            f"{API}/comparison": _path("The environments that the daemon compares", ComparisonsAnswer),
            OPENAPI_PATH: _path("This description"),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "http.token_file"}},
        },
    }


def _path(
    summary: str, model: type[JsonAnswer] | None = None, *parameters: dict[str, Any], missing: bool = False
) -> dict[str, Any]:
    """A path that can be read; ``missing``: what it names may not exist."""
    schema = {"$ref": f"{_SCHEMAS}{model.__name__}"} if model else {"type": "object"}
    refused = {
        "400": "A parameter that it does not take, or a token in the address",
        "401": "No token, or a wrong one",
        **({"404": "No such environment or run"} if missing else {}),
        "421": "A Host that is not served here",
        "503": "The daemon stops, or its state or token cannot be read",
    }
    known = {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of the answer that the client has",
        "schema": {"type": "string"},
    }
    return {
        "get": {
            "summary": summary,
            "parameters": [*parameters, known],
            "responses": {
                "200": {
                    "description": summary,
                    "headers": {"ETag": {"schema": {"type": "string"}}},
                    "content": {"application/json": {"schema": schema}},
                },
                "304": {"description": "The client has it already"},
                **{status: _refused(description) for status, description in refused.items()},
            },
        }
    }


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _refused(description: str) -> dict[str, Any]:
    schema = {"$ref": f"{_SCHEMAS}{ErrorAnswer.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
