"""`reconciler init`: create the first files of a configuration repository. Existing files do not change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.config.scalars import check_environment_name
from reconciler.app.onboarding.editor_schemas import DIRECTORY as SCHEMAS
from reconciler.app.onboarding.editor_schemas import modeline, schema_files
from reconciler.app.onboarding.sops_config import GoverningRule, governing_rule, rule_text, with_rule
from reconciler.app.wiring import clone
from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.creation_rules import mistyped
from reconciler.core.text import listed

SERVER_FILE = "reconciler.yaml"
KEY_ON_SERVER = "/etc/reconciler/age.key"

ATTRIBUTES = """\
# A carriage return in an env file becomes part of a value, so every clone must use the same line endings.
*.env text eol=lf
# Encrypted files are merged by key, where the clone has the driver: docs/merging.md.
* merge=reconciler
"""

_MERGE_DRIVER = (
    "so that git merges encrypted files by key, each clone needs once: "
    '`git config merge.reconciler.driver "reconciler merge-driver %O %A %B %P"`'
)

EMPTY_MANIFEST = f"""\
{modeline("manifest")}# The files of this environment's servers. docs/configuration.md explains every field.
#
# stacks:
#   app:
#     directory: /opt/app            # where `docker compose` runs
#     targets:
#       api.env:                     # encrypted by sops beside this file → /opt/app/api.env
#       worker.env: config/worker.env
#
# `reconciler import` generates this file from a server.
targets: {{}}
"""

SERVER_TEMPLATE = """\
{modeline}\
# The server configuration. On the server, it is /etc/reconciler/reconciler.yaml, and git cannot change it there.
# git says what to write; this file says where it may go and what may run. docs/configuration.md explains every field.
environment: {environment}
# host: web-1                          # this machine's name in a stack's hosts; default: its hostname
repository:
  url: {url}
  branch: {branch}
  path: {path}
  # ssh_key_file: /etc/reconciler/deploy_key       # for ssh://; it must be allowed to push reverts
  # known_hosts_file: /etc/reconciler/known_hosts
decryption:
  age_key_file: {key}   # 0600; the private key of a recipient in .sops.yaml
allowed_paths: [/opt/app]              # live files and stack directories must be below these
# rollback: {{git: branch}}              # push reverts to a branch for review; `off` pushes nothing
"""


@dataclass(frozen=True, slots=True)
class Step:
    """What was done with a file. ``action`` is created, extended, or exists (unchanged); ``note`` says more."""

    action: str
    path: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class InitResult:
    """``recipients`` are the public keys to encrypt for; ``uncommitted`` are files of the repository to commit."""

    environment: str
    recipients: tuple[str, ...]
    key_file: str
    steps: tuple[Step, ...] = ()
    uncommitted: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def initialize_repository(environment: str, path: str, key_file: str | None, recipients: Sequence[str]) -> InitResult:
    """Create the missing files in the repository around the working directory. Raises RefusedError,
    KeyUnavailableError."""
    check_environment_name(environment)
    try:
        return asyncio.run(_initialize(environment, path, key_file, recipients))
    except OSError as error:
        raise _refused(error, error.filename or path) from None


async def _initialize(environment: str, path: str, key_file: str | None, recipients: Sequence[str]) -> InitResult:
    top = clone.work_tree_top(os.getcwd())
    git = clone.CloneWriter(top)
    directory = directory_in_git(path)
    texts = {
        posixpath.join(directory, ".gitattributes"): ATTRIBUTES,
        posixpath.join(directory, environment, "environment.yaml"): EMPTY_MANIFEST,
        SERVER_FILE: await _server_file(git, environment, directory),
    }
    schemas = {posixpath.join(directory, name): text for name, text in schema_files().items()}
    # Check everything that can fail before writing anything.
    inside = posixpath.join(directory, environment)
    configs = _configs(top, inside)
    governing = governing_rule(posixpath.join(inside, "any.env"), configs)
    for name in (*([] if governing.rule else [governing.config or SOPS_CONFIG]), *texts, *schemas):
        _require_room(top, name, added_to=name in configs)
    steps: list[Step] = []
    key, public = await asyncio.to_thread(_key, top, key_file, recipients, steps)
    notes = _sops_config(top, inside, public, configs, governing, steps)
    if not await git.setting("merge.reconciler.driver"):
        notes.append(_MERGE_DRIVER)
    for name, text in texts.items():
        _file(top, name, text, steps)
    _schemas(top, posixpath.join(directory, SCHEMAS), schemas, steps)
    changed = await git.uncommitted([step.path for step in steps if not os.path.isabs(step.path)])
    return InitResult(environment, tuple(public), key, tuple(steps), changed, notes=tuple(notes))


def directory_in_git(path: str) -> str:
    """The repository's directory of environments. Raises RefusedError."""
    clean = posixpath.normpath(path)
    if posixpath.isabs(clean) or clean == "." or clean.split("/")[0] == "..":
        raise RefusedError("is not a directory inside the repository", where=path, hint="For example --path envs")
    return clean


def _key(top: str, key_file: str | None, recipients: Sequence[str], steps: list[Step]) -> tuple[str, list[str]]:
    """The key file, "" for none, and the public keys to encrypt for."""
    if recipients:
        if key_file is not None:
            raise RefusedError("--recipient and --age-key-file exclude each other", hint="Give only one of them")
        if wrong := [recipient for recipient in recipients if not recipient.startswith("age1")] + mistyped(recipients):
            raise RefusedError(f"{', '.join(wrong)} is not a public age key", hint="Use what `age-keygen -y` prints")
        return "", list(recipients)
    path = os.path.abspath(os.path.expanduser(key_file or clone.default_key_file()))
    if _is_inside(path, top):
        hint = "Name a file outside the repository with --age-key-file"
        raise RefusedError("a private key inside the repository could be committed", where=path, hint=hint)
    if not os.path.lexists(path):
        public = clone.make_key_file(path)
        steps.append(
            Step("created", path, "the private key: keep a backup that only you can read, and never commit it")
        )
        return path, [public]
    existing = clone.public_keys(path)
    if len(existing) != 1:
        hint = "Give the key to encrypt for with --recipient age1…, or another file with --age-key-file"
        raise RefusedError(f"contains {len(existing)} age keys instead of one", where=path, hint=hint)
    steps.append(Step("exists", path, "the private key; files are encrypted for its public key"))
    return path, list(existing)


def _is_inside(path: str, top: str) -> bool:
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.commonpath([real, os.path.realpath(top)]) == os.path.realpath(top)


def _configs(top: str, directory: str) -> dict[str, bytes]:
    """The .sops.yaml files above the directory, by path in the repository."""
    candidates = [SOPS_CONFIG]
    for part in posixpath.dirname(directory).split("/"):
        candidates.append(posixpath.join(posixpath.dirname(candidates[-1]), part, SOPS_CONFIG))
    return {name: data for name in candidates if (data := _read(top, name)) is not None}


def _sops_config(
    top: str,
    directory: str,
    recipients: Sequence[str],
    configs: Mapping[str, bytes],
    governing: GoverningRule,
    steps: list[Step],
) -> list[str]:
    """Make sure that a rule covers the environment's files; return notes on what is left to do."""
    config = governing.config or SOPS_CONFIG
    if governing.rule is not None:
        steps.append(Step("exists", config, f"its rule for {directory} is unchanged"))
        if governing.rule.recipients != frozenset(recipients):
            who = ", ".join(sorted(governing.rule.recipients)) or "nobody with an age key"
            return [f"{config} encrypts {directory} for {who}, not for {', '.join(recipients)}"]
        return []
    relative = posixpath.relpath(directory, posixpath.dirname(config) or ".")
    new = with_rule(configs.get(config), relative, recipients)
    if new is None:
        steps.append(Step("exists", config, "unchanged"))
        return [f"{config} has no rule for {directory}. Add this one:\n{rule_text(relative, recipients).rstrip()}"]
    _write(top, config, new, steps)
    steps.append(Step("created" if governing.config is None else "extended", config, f"a rule for {directory}"))
    return []


# --- files of the repository ---


def _require_room(top: str, path: str, *, added_to: bool) -> None:
    """Make sure that the file can be written, unless it exists. Raises RefusedError."""
    directory = _directory(top, path)
    if os.path.lexists(os.path.join(top, path)) and not added_to:
        if posixpath.basename(path) == SOPS_CONFIG:
            raise RefusedError("is not a regular file", where=path, hint="Replace it with a file, or remove it")
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        hint = f"Run it as a user who may write to {directory}"
        raise RefusedError("is not writable", where=path, hint=hint)


def _directory(top: str, path: str) -> str:
    """The directory of the file, or the deepest existing one on the way. Raises RefusedError for a link on the way."""
    full = top
    for part in posixpath.dirname(path).split("/") if "/" in path else ():
        directory = os.path.join(full, part)
        where = os.path.relpath(directory, top)
        if os.path.islink(directory):
            raise RefusedError(
                "is a link, and init does not write through links", where=where, hint="Use another --path"
            )
        if not os.path.lexists(directory):
            return full
        if not os.path.isdir(directory):
            raise RefusedError("is not a directory", where=where, hint="Use another --path, or remove it")
        full = directory
    return full


def _read(top: str, path: str) -> bytes | None:
    _directory(top, path)
    full = os.path.join(top, path)
    if os.path.islink(full) or not os.path.isfile(full):
        return None
    try:
        with open(full, "rb") as file:
            return file.read()
    except OSError as error:
        raise _refused(error, path) from None


def _file(top: str, path: str, text: str, steps: list[Step]) -> None:
    if os.path.lexists(os.path.join(top, path)):
        steps.append(Step("exists", path, "unchanged"))
        return
    _write(top, path, text.encode(), steps)
    steps.append(Step("created", path))


def _schemas(top: str, directory: str, files: Mapping[str, str], steps: list[Step]) -> None:
    """The JSON Schemas, as one step."""
    missing = {path: text for path, text in files.items() if not os.path.lexists(os.path.join(top, path))}
    for path, text in missing.items():
        _write(top, path, text.encode(), steps)
    steps.append(Step("created" if missing else "exists", directory, "JSON Schemas, for editors"))


def _write(top: str, path: str, data: bytes, steps: Sequence[Step]) -> None:
    """Write the file whole or not at all; only .sops.yaml may replace an existing file.

    Raises RefusedError, which names the completed ``steps``.
    """
    full = os.path.join(top, path)
    put = os.replace if posixpath.basename(path) == SOPS_CONFIG else os.link
    new = f"{full}.{secrets.token_hex(4)}"
    try:
        os.makedirs(os.path.dirname(full), exist_ok=True)
        _directory(top, path)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _copy_mode(full, descriptor)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            put(new, full)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
    except OSError as error:
        raise _refused(error, path, steps) from None


def _copy_mode(full: str, descriptor: int) -> None:
    """Give the new file the mode and owner of the one it replaces."""
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(full)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, before.st_uid, before.st_gid)


def _refused(error: OSError, where: str, steps: Sequence[Step] = ()) -> RefusedError:
    reason = (error.strerror or "unknown reason").lower()
    written = [step.path for step in steps if step.action != "exists"]
    hint = f"Already written: {listed(written)}" if written else "Nothing was written"
    return RefusedError(f"cannot be read or written ({reason})", where=where, hint=hint)


async def _server_file(git: clone.CloneWriter, environment: str, directory: str) -> str:
    url = await git.origin()
    return SERVER_TEMPLATE.format(
        modeline=modeline("server", f"{directory}/"),
        environment=environment,
        url=url or "ssh://git@git.example.org/acme/config.git    # yours",
        branch=await git.current_branch() or "main",
        path=directory,
        key=KEY_ON_SERVER,
    )
