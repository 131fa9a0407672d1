"""`reconciler check`: from its arguments to a report, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from reconciler.app.checks.run import Progress, Report
from reconciler.app.checks.run import check as apply_rules
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone as local_wiring
from reconciler.app.wiring.arguments import must_exist
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.errors import ConfigError
from reconciler.core.tree import Tree


def check_environments(
    path: str, environments: Sequence[str], servers: Sequence[str], key_file: str | None, progress: Progress
) -> Report:
    """Every rule over the directory ``path``; ``servers`` are server's files to hold the manifests against.

    Raises RefusedError, KeyUnavailableError, DecryptFailedError.
    """
    for option, file in (*(("--server", one) for one in servers), ("--age-key-file", key_file)):
        must_exist(option, file)
    tree = local_wiring.working_directory(path)
    configs, findings = _servers(path, servers, tree)
    tools = local_wiring.tools(key_file, progress)
    shown = os.path.relpath(path) if os.path.isabs(path) else path
    prefix = path if shown.startswith("..") else shown  # git servers want paths below the working directory
    return asyncio.run(apply_rules(tree, prefix, tools, only=environments, servers=configs, before=findings))


def _servers(path: str, files: Sequence[str], tree: Tree) -> tuple[dict[str, list[ServerConfig]], list[Finding]]:
    """The server's files by the environments they follow, and what is wrong with those that cannot be used."""
    configs: dict[str, list[ServerConfig]] = {}
    findings = []
    for file in files:
        try:
            config = load_server_config(file)
        except ConfigError as error:
            shown = os.path.relpath(file, path)
            for line in str(error).splitlines():
                number, _, text = line.removeprefix(f"{file}:").strip().partition(": ")
                known = number.isdigit()
                findings.append(
                    Finding(rules.SERVER_FILE_INVALID, shown, int(number) if known else 1, text if known else line)
                )
        else:
            for name in config.environment:
                configs.setdefault(name, []).append(config)
                if name not in tree.directories():
                    findings.append(_follows_nothing(os.path.relpath(file, path), file, name))
    return configs, findings


def _follows_nothing(shown: str, file: str, environment: str) -> Finding:
    with open(file, "rb") as opened:
        lines = opened.read().split(b"\n")
    line = next((number for number, one in enumerate(lines, start=1) if one.startswith(b"environment")), 1)
    message = f"environment: there is no directory {environment}, so this server would have nothing to follow"
    return Finding(rules.SERVER_FILE_INVALID, shown, line, message)
