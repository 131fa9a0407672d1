"""`reconciler check`: from the command's arguments to a report."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import replace

from reconciler.app.checks.check_settings import RETIRED_NAME, CheckSettings, read_check_settings
from reconciler.app.checks.run import CheckReport, check_tree
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import must_exist
from reconciler.app.wiring.tools import CountProgress
from reconciler.core.checks import rules
from reconciler.core.checks.retired import RetiredName
from reconciler.core.checks.rules import Finding
from reconciler.core.errors import ConfigError, RefusedError
from reconciler.core.text import printable
from reconciler.core.tree import Tree


def check_environments(
    path: str,
    environments: Sequence[str],
    servers: Sequence[str],
    key_file: str | None,
    progress: CountProgress,
    retired: Sequence[str] = (),
) -> CheckReport:
    """Apply every rule to the directory ``path``; ``servers`` are paths of server configurations to check it with, and
    ``retired`` names that nothing in the repository should name, beside those of check.yaml.

    Raises RefusedError, KeyUnavailableError, DecryptFailedError.
    """
    must_exist("--age-key-file", key_file)
    return check_with_keys(path, environments, servers, clone.key_sources(key_file), progress, retired)


def check_with_keys(
    path: str,
    environments: Sequence[str],
    servers: Sequence[str],
    keys: clone.KeySources,
    progress: CountProgress,
    retired: Sequence[str] = (),
) -> CheckReport:
    """The same, with keys that are not in a file."""
    for server in servers:
        must_exist("--server", server)
    settings = CheckSettings(retired=tuple(map(_retired_name, retired)))
    tree = asyncio.run(clone.read_tree_of_clone(path, with_before=bool(servers)))
    settings = read_check_settings(tree).beside(settings)
    words = [name.name for name in settings.retired]
    tree = replace(tree, around=asyncio.run(clone.files_around(path, words)))
    configs, findings = _servers(path, servers, tree)
    tools = clone.tools(keys, progress)
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    prefix = path if relative.startswith("..") else relative  # git servers want paths below the working directory
    return asyncio.run(
        check_tree(tree, prefix, tools, only=environments, servers=configs, before=findings, settings=settings)
    )


def _retired_name(name: str) -> RetiredName:
    if not re.fullmatch(RETIRED_NAME.pattern, name):
        raise RefusedError(f"{printable(name)} is not a name", where="--retired", hint=f"Give {RETIRED_NAME.accepted}")
    return RetiredName(name)


def _servers(path: str, files: Sequence[str], tree: Tree) -> tuple[dict[str, list[ServerConfig]], list[Finding]]:
    """The server configurations by the environments they follow, and findings for invalid ones."""
    configs: dict[str, list[ServerConfig]] = {}
    findings = []
    for file in files:
        try:
            config = load_server_config(file)
        except ConfigError as error:
            relative = os.path.relpath(file, path)
            for line in str(error).splitlines():
                number, _, text = line.removeprefix(f"{file}:").strip().partition(": ")
                known = number.isdigit()
                findings.append(
                    Finding(rules.SERVER_FILE_INVALID, relative, int(number) if known else 1, text if known else line)
                )
        else:
            for name in config.environment:
                configs.setdefault(name, []).append(config)
                if name not in tree.directories():
                    findings.append(_missing_environment(os.path.relpath(file, path), file, name))
    return configs, findings


def _missing_environment(relative: str, file: str, environment: str) -> Finding:
    with open(file, "rb") as opened:
        lines = opened.read().split(b"\n")
    line = next((number for number, text in enumerate(lines, start=1) if text.startswith(b"environment")), 1)
    message = f"environment: there is no directory {environment} for this server to follow"
    return Finding(rules.SERVER_FILE_INVALID, relative, line, message)
