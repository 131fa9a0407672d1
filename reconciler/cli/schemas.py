"""The JSON Schemas that `reconciler schema` prints: of the files, of the answers and of the API."""

from __future__ import annotations

from typing import Any

from reconciler.app.checks.check_settings import CheckFile
from reconciler.app.config.schema import DIALECT, FILES, contract_schema, json_schema, schema_id
from reconciler.app.daemon.answers.age_models import AgeAnswer
from reconciler.app.daemon.answers.history_models import HISTORY_ANSWERS
from reconciler.app.daemon.answers.models import SERVER_ANSWERS, JsonAnswer
from reconciler.cli.clone_answer_models import CLONE_ANSWERS
from reconciler.cli.server_review_answer import ReviewAnswer
from reconciler.core.errors import RefusedError
from reconciler.core.model.answers import SCHEMA

ANSWERS: dict[str, type[JsonAnswer]] = {
    **SERVER_ANSWERS,
    **HISTORY_ANSWERS,
    "age": AgeAnswer,
    **CLONE_ANSWERS,
    "review": ReviewAnswer,
}
"""The answer of each command that has --json."""

OPENAPI = "openapi"
"""The description of the daemon's API."""

NAMES = (*FILES, "check.yaml", "contract", *ANSWERS, OPENAPI)


def schema_of(name: str) -> dict[str, Any]:
    """Given one of NAMES, return its JSON Schema, or what the daemon serves at /openapi.json. Raises RefusedError."""
    if name == OPENAPI:
        from reconciler.app.daemon.http.openapi import openapi

        return openapi()
    if name == "contract":
        return contract_schema()
    if name == "check.yaml":
        return json_schema(name, CheckFile)
    if name in FILES:
        return json_schema(name)
    if name in ANSWERS:
        schema = ANSWERS[name].model_json_schema()
        schema["properties"]["schema"]["const"] = SCHEMA
        return {"$schema": DIALECT, "$id": schema_id(f"{SCHEMA}:{name}"), **schema}
    raise RefusedError(f"there is no schema {name}", hint=f"There are: {', '.join(NAMES)}")
