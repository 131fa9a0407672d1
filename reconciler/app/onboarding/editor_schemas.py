"""The JSON Schemas that a repository holds for editors, and the line by which a YAML file names its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from reconciler.app.checks.check_settings import CheckFile

DIRECTORY = ".schema"
"""Below the directory of environments: no environment can have this name."""


def schema_files(existing: Collection[str] = ()) -> dict[str, str]:
    """Path below the directory of environments → text, as `reconciler schema` prints it; only of those that do not
    exist yet, since making them takes 0.1 s."""
    from reconciler.app.config.schema import contract_schema, json_schema

    schemas: dict[str, Callable[[], dict[str, Any]]] = {
        "manifest": lambda: json_schema("manifest"),
        "server": lambda: json_schema("server"),
        "contract": contract_schema,
        "check.yaml": lambda: json_schema("check.yaml", CheckFile),
    }
    missing = {path: make for name, make in schemas.items() if (path := f"{DIRECTORY}/{name}.json") not in existing}
    return {path: f"{json.dumps(make(), indent=2)}\n" for path, make in missing.items()}


def modeline(name: str, above: str = "../") -> str:
    """The line that begins a file of this schema; ``above`` leads from it to the directory of environments."""
    return f"# yaml-language-server: $schema={above}{DIRECTORY}/{name}.json\n"
