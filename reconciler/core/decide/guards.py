"""What must hold before anything is written. Pure; each guard gives errors, none of which holds a value."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from reconciler.core.compose_names import DEFAULT_NAMES
from reconciler.core.dotenv.grammar import EnvFileError, duplicate_keys, parse_env_file, read_entries
from reconciler.core.dotenv.interpolation import references, resolve_entries
from reconciler.core.errors import GuardError
from reconciler.core.model.targets import Parser, Target

# A revision may drop this share of a file's keys before an operator must say allow_shrink.
SHRINK_LIMIT = 0.5
# Keys by which a project's .env changes what Compose runs, not what the services read: settings of Compose and Docker,
# and what makes a program load or run something else, as Compose passes its .env on to those it starts (credential
# helpers, git, buildx).
_CONTROL_KEY = re.compile(
    r"(?:BUILDKIT|BUILDX|COMPOSE|DOCKER|PASSWORD_STORE)_.*|GIT_CONFIG.*"
    r"|LD_(?:AUDIT|DEBUG_OUTPUT|LIBRARY_PATH|PRELOAD|PROFILE_OUTPUT)|GCONV_PATH|GLIBC_TUNABLES"
    r"|GIT_(?:ASKPASS|EXEC_PATH|EXTERNAL_DIFF|PROXY_COMMAND|SSH|SSH_COMMAND)|SSH_ASKPASS"
    r"|BASH_ENV|PERL5LIB|PERL5OPT|PYTHON(?:HOME|PATH|STARTUP)"
    r"|AWS_CONFIG_FILE|CLOUDSDK_(?:PYTHON|ROOT_DIR)|HOME|PATH|XDG_CONFIG_HOME",
    re.DOTALL,
)
_ALLOW = "the server must set allow_compose_files: true for that"
_READER = {Parser.COMPOSE: "Compose", Parser.RAW: "docker run --env-file"}
_SPECIAL_BITS = 0o7000
_SHRINKS = "file-would-shrink"
_TWICE = "encrypted-twice"
PROJECT_FILE = "project-file"  # somebody else's to write: whoever does decides what runs
_UNPARSABLE = "unparsable-env-file"


def content(target: Target, desired: bytes, before: bytes | None) -> list[GuardError]:
    """Given the bytes about to be written and those they replace, return what speaks against writing them.

    ``before`` is what git had where the live file was edited by hand. It is None where nothing is replaced, and where
    only a hand edit is reverted: git has dropped nothing then.
    """
    problems = []
    if b"ENC[" in desired:
        problem = "the plaintext still holds ENC[: it was encrypted twice, or is marked encrypted: false by mistake"
        problems.append(GuardError(problem, id=_TWICE))
    if before is not None and before.strip() and not desired.strip():
        problem = "it would empty a file that is not empty; delete the target instead if that is meant"
        problems.append(GuardError(problem, id=_SHRINKS))
    if target.parser is not Parser.OPAQUE:
        problems += _env_content(target, desired, before)
    return problems


def _env_content(target: Target, desired: bytes, before: bytes | None) -> list[GuardError]:
    try:
        entries = read_entries(desired, target.parser)
        if target.parser is Parser.COMPOSE:
            resolve_entries(entries, {})
    except EnvFileError as error:
        # A ${NAME:?} may be defined where Compose runs: the stack's model shows that.
        if error.code != "required-variable":
            return [GuardError(f"{_READER[target.parser]} could not read it: {error}", id=_UNPARSABLE)]
    problems = []
    keys = {entry.key for entry in entries}
    if left := sorted(key for key in keys if key.startswith("sops_")):
        problem = f"the plaintext holds sops metadata ({', '.join(left)}): it was encrypted twice"
        problems.append(GuardError(problem, id=_TWICE))
    if twice := duplicate_keys(entries):
        problems.append(GuardError(f"defined twice: {', '.join(twice)}; keep one", id="duplicate-plain-key"))
    if gone := _shrinks(target, keys, before):
        problem = f"{gone} of the keys would go; set allow_shrink: true on the target if that is meant"
        problems.append(GuardError(problem, id=_SHRINKS))
    return problems


def _shrinks(target: Target, keys: set[str], before: bytes | None) -> str:
    if before is None or target.allow_shrink:
        return ""
    try:
        known = {entry.key for entry in read_entries(before, target.parser)}
    except EnvFileError:
        return ""  # an unreadable file cannot be compared
    gone = known - keys
    return f"{len(gone)} of {len(known)}" if len(gone) > SHRINK_LIMIT * len(known) else ""


def project_files(
    path: str,
    project_files: Collection[str],
    environment_files: Collection[str],
    desired: bytes,
    before: bytes | None = None,
) -> list[GuardError]:
    """Given a real path, and the ``folded`` paths of what Compose reads as projects, return why ``desired`` may not be
    written there. ``before`` is what an operator has put there (None: nothing, or not known to be theirs): what it says
    already, git may say too.

    Else whoever merges could start anything as root. The server's allow_compose_files lifts this guard.
    """
    if folded(path) in project_files:
        return [_project_file(f"Compose reads this file as project configuration; {_ALLOW}")]
    if folded(posixpath.basename(path)) in DEFAULT_NAMES:  # a project that does not run yet is in no list
        return [_project_file(f"`docker compose` would take a file of this name for a project; {_ALLOW}")]
    if folded(path) not in environment_files:
        return []
    try:
        control = changed_control_keys(before, desired)
    except EnvFileError as error:
        problem = f"Compose reads this file as the project's .env and could not: {error}"
        return [GuardError(problem, id=_UNPARSABLE)]
    return [_project_file(f"{', '.join(control)} would change what Compose runs; {_ALLOW}")] if control else []


def _project_file(problem: str) -> GuardError:
    return GuardError(problem, id=PROJECT_FILE)


def changed_control_keys(before: bytes | None, desired: bytes) -> list[str]:
    """The control keys of a project's .env that are added, removed or changed, sorted; one that refers to other
    variables counts as changed. Raises EnvFileError where Compose could not read ``desired``."""
    after = _control_settings(desired)
    try:
        earlier = _control_settings(before or b"")
    except EnvFileError:
        earlier = {}
    return sorted(
        key for key in earlier.keys() | after.keys() if earlier.get(key) != after.get(key) or None in after.get(key, ())
    )


def _control_settings(data: bytes) -> dict[str, list[tuple[bool, str] | None]]:
    """Each control key with its assignments; None for one that refers to other variables."""
    settings: dict[str, list[tuple[bool, str] | None]] = {}
    for entry in parse_env_file(data):
        if control_keys([entry.key]):
            assignment = None if references(entry) else (entry.inherited, entry.template)
            settings.setdefault(entry.key, []).append(assignment)
    return settings


def folded(path: str) -> str:
    """What a path is called on a file system that does not tell letters' case apart."""
    return unicodedata.normalize("NFC", path).casefold()


def control_keys(keys: Iterable[str]) -> list[str]:
    """Of the keys of a project's .env, those that change what Compose runs, sorted."""
    return sorted(filter(_CONTROL_KEY.fullmatch, keys))


def placement(target: Target, resolved: str, allowed: Sequence[str]) -> list[GuardError]:
    """Given the live path with links resolved and the resolved allowed_paths, return why it may not be written."""
    problems = []
    if not any(is_below(resolved, root) for root in allowed):
        problem = f"{target.path} lies outside allowed_paths ({', '.join(allowed)})"
        problems.append(GuardError(problem, id="outside-allowed-paths"))
    if target.mode & _SPECIAL_BITS:
        problems.append(GuardError(f"mode {target.mode:04o} has setuid, setgid or sticky"))
    return problems


def is_below(path: str, root: str) -> bool:
    """Whether ``path`` is strictly inside the directory ``root``; both absolute."""
    inner, outer = posixpath.normpath(path), posixpath.normpath(root)
    return inner != outer and inner.startswith(posixpath.join(outer, ""))
