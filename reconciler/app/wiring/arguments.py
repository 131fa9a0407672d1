"""What `check`, `diff` and `compare` do: functions from the command's arguments to plain data, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.app.checks.run import Progress, Report
from reconciler.app.checks.run import check as apply_rules
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.wiring import clone as local_wiring
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.errors import ConfigError, OutsideError, RefusedError
from reconciler.core.tree import Tree

if TYPE_CHECKING:
    from reconciler.app.compare.run import Report as Comparisons
    from reconciler.app.config.probes import ProbeFields
    from reconciler.app.diff.diff import Difference
    from reconciler.core.model.all import Manifest


def check(
    path: str, environments: Sequence[str], servers: Sequence[str], key_file: str | None, progress: Progress
) -> Report:
    """Every rule over the directory ``path``; ``servers`` are server's files to hold the manifests against.

    Raises RefusedError, KeyUnavailableError, DecryptFailedError.
    """
    for option, file in (*(("--server", one) for one in servers), ("--age-key-file", key_file)):
        _must_exist(option, file)
    tree = local_wiring.working_directory(path)
    configs, findings = _servers(path, servers, tree)
    tools = local_wiring.tools(key_file, progress)
    shown = os.path.relpath(path) if os.path.isabs(path) else path
    prefix = path if shown.startswith("..") else shown  # git servers want paths below the working directory
    return asyncio.run(apply_rules(tree, prefix, tools, only=environments, servers=configs, before=findings))


def diff(span: str, path: str, environments: Sequence[str], key_file: str | None, progress: Progress) -> Difference:
    """What changed below the directory ``path`` of the repository around the working directory, in ``span``:
    BASE..HEAD, BASE...HEAD (since they forked), or BASE alone for BASE..HEAD.

    Raises RefusedError, OutsideError, KeyUnavailableError, DecryptFailedError.
    """
    return asyncio.run(_diff(span, path, environments, key_file, progress))


async def _diff(
    span: str, path: str, environments: Sequence[str], key_file: str | None, progress: Progress
) -> Difference:
    from reconciler.app.diff.diff import difference

    _must_exist("--age-key-file", key_file)
    clone = local_wiring.clone(os.getcwd())
    base, dots, head = span.partition("...") if "..." in span else span.partition("..")
    directory = _inside(path)
    commits = await clone.resolve(base or "HEAD", head or "HEAD", from_fork_point=dots == "...")
    before, after = await clone.trees(commits, directory)
    if not before.files and not after.files:
        hint = "Name the directory that holds the environments: --path"
        raise RefusedError("there is nothing in either commit", where=path, hint=hint)
    tools = local_wiring.tools(key_file, progress)
    return await difference(*commits, (before, after), directory, tools, environments)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a comparison is asked with, as it is typed; None where an option is not given."""

    repository: str
    path: str
    config: str
    key_file: str | None = None
    expected: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    different: bool | None = None
    probes: str | None = None


def compare(left: str, rights: Sequence[str], asked: Asked, progress: Progress) -> Comparisons:
    """Hold ``left`` against each of ``rights``. Raises RefusedError, OutsideError, ConfigError, KeyUnavailableError."""
    from reconciler.app.compare.run import Options, run
    from reconciler.app.compare.sides import Place

    for option, file in (
        ("--age-key-file", asked.key_file),
        ("--expected", asked.expected),
        ("--ssh-key", asked.ssh_key),
        ("--known-hosts", asked.known_hosts),
        ("--probes", asked.probes),
    ):
        _must_exist(option, file)

    async def manifest(environment: str) -> Manifest:
        from reconciler.app.wiring.server import manifest_at_head

        config = await asyncio.to_thread(load_server_config, asked.config)
        return await manifest_at_head(config, environment)

    server = load_server_config(asked.config) if os.access(asked.config, os.R_OK) else None
    hosts = {(one.address.lower(), one.port): name for name, one in server.hosts.items()} if server else {}
    options = Options(
        Place(asked.repository, _inside(asked.path), server.host if server else "", hosts),
        local_wiring.tools(asked.key_file, lambda done, of: None),
        manifest,
        asked.expected,
        asked.ssh_key,
        asked.known_hosts,
        asked.different,
        tuple(one.probe(name) for name, one in _probes(asked, server).items()),
        progress,
    )
    return asyncio.run(run(left, rights, options))


def _probes(asked: Asked, server: ServerConfig | None) -> dict[str, ProbeFields]:
    """Those of the server's file, where there is one, and those of --probes, which win."""
    from reconciler.app.config.probes import load_probes

    found = dict(server.probes) if server else {}
    return found | (load_probes(asked.probes, asked.repository) if asked.probes else {})


def pushed() -> str:
    """The commits about to be pushed as BASE...HEAD: as pre-commit tells, else all that origin's default branch lacks;
    "" where there is nothing to compare with, as at the first push."""
    base, head = os.environ.get("PRE_COMMIT_FROM_REF", ""), os.environ.get("PRE_COMMIT_TO_REF", "")
    base = base if base.strip("0") else "origin/HEAD"  # zeros stand for a branch that is not there yet
    span = f"{base}...{head if head.strip('0') else 'HEAD'}"
    first, _, last = span.partition("...")
    try:
        asyncio.run(local_wiring.clone(os.getcwd()).resolve(first, last, from_fork_point=True))
    except (RefusedError, OutsideError):
        return ""
    return span


def _must_exist(option: str, file: str | None) -> None:
    if file is not None and not os.path.isfile(file):
        more = " or SOPS_AGE_KEY_FILE" if option == "--age-key-file" else ""
        raise RefusedError("there is no such file", where=f"{option} {file}", hint=f"Correct {option}{more}")


def _inside(path: str) -> str:
    """A path of the repository, "" for its top. Raises RefusedError for one that leads out of it."""
    clean = os.path.normpath(path)
    if os.path.isabs(clean) or clean.split(os.sep)[0] == "..":
        raise RefusedError("is not a path inside the repository", where=path, hint="Such as --path envs")
    return "" if clean == "." else clean


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
