"""What `check` and `diff` do: functions from the command's arguments to plain data, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from reconciler.app import local_wiring
from reconciler.app.checks.run import Progress, Report
from reconciler.app.checks.run import check as apply_rules
from reconciler.app.server_file import ServerConfig, load_server_config
from reconciler.core import rules
from reconciler.core.errors import ConfigError
from reconciler.core.rules import Finding


def check(
    path: str, environments: Sequence[str], servers: Sequence[str], key_file: str | None, progress: Progress
) -> Report:
    """Every rule over the directory ``path``; ``servers`` are server's files to hold the manifests against.

    Raises RefusedError, KeyUnavailableError, DecryptFailedError.
    """
    tree = local_wiring.working_directory(path)
    configs, findings = _servers(path, servers)
    tools = local_wiring.tools(key_file, progress)
    return asyncio.run(apply_rules(tree, path, tools, only=environments, servers=configs, before=findings))


def _servers(path: str, files: Sequence[str]) -> tuple[dict[str, ServerConfig], list[Finding]]:
    """The server's files by the environments they follow, and what is wrong with those that cannot be used."""
    configs: dict[str, ServerConfig] = {}
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
            configs |= dict.fromkeys(config.environment, config)
    return configs, findings
