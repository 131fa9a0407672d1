"""The JSON Schemas that a repository holds for editors, and the line by which a YAML file names its own."""

from __future__ import annotations

import json

from reconciler.app.checks.check_settings import CheckFile
from reconciler.app.config.schema import contract_schema, json_schema

DIRECTORY = ".schema"
"""Below the directory of environments: no environment can have this name."""


def schema_files() -> dict[str, str]:
    """Path below the directory of environments → text, as `reconciler schema` prints it."""
    schemas = {
        "manifest": json_schema("manifest"),
        "server": json_schema("server"),
        "contract": contract_schema(),
        "check.yaml": json_schema("check.yaml", CheckFile),
    }
    return {f"{DIRECTORY}/{name}.json": f"{json.dumps(schema, indent=2)}\n" for name, schema in schemas.items()}


def modeline(name: str, above: str = "../") -> str:
    """The line that begins a file of this schema; ``above`` leads from it to the directory of environments."""
    return f"# yaml-language-server: $schema={above}{DIRECTORY}/{name}.json\n"
