"""Reads one branch of one remote through a bare mirror. Nothing from it is ever checked out.

So no hook, filter, LFS, submodule or link of the repository can act. ``git`` talks to the network (ls-remote, fetch),
answers questions about history (rev-list, merge-base) and reads objects (cat-file), each started by process.py with
the environment of ``environment()``. GitPython takes the commits and trees that ``cat-file`` printed apart.

Why GitPython does no more than that (measured with 3.2.1, gitdb 4.0.12, smmap 5.0.3):

- Its pure Python object store, ``odbt=GitDB``, keeps two descriptors for every pack it has seen, also after
  ``Repo.close()``: 401 of them after 200 fetches. A directory of 3 million entries, 7 MB as git stores it, costs it
  12 s and 937 MiB in our own process, where nothing can end it. It warns that it is deprecated for its security.
- Its default store starts long-lived ``git cat-file`` processes, and ``Repo.init`` a ``git init``, both with the
  daemon's whole environment and no timeout: someone's GIT_DIR, templates with hooks, or configuration would act.
- Importing it runs ``git version`` twice, GIT_PYTHON_REFRESH=quiet or not. See ``_import_gitpython``.

git 2.32 or newer is needed: older ones do not know GIT_CONFIG_GLOBAL and GIT_CONFIG_COUNT.

No connection is shared between polls (ssh's ControlMaster): it saves half of the CPU time of a poll, but leaves a
process behind that survives the daemon and holds our pipes open.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import resource
import shlex
import shutil
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from reconciler.adapters import process
from reconciler.core.errors import ConfigError, GitUnreachableError, RefusedError, SourceError
from reconciler.core.model import Blob, Revision

if TYPE_CHECKING:
    import git

LARGEST_OBJECT = 5 * process.MIB  # of a file, a directory or a commit; sops gets no more either
LARGEST_PACK = 2048 * process.MIB  # a push must not be able to fill the disk that the live files are on
KEPT_OBJECTS = 16 * process.MIB  # ciphertext and directories remembered between passes
DEEPEST_PATH = 32
MOST_PACKS = 20  # every fetch adds one; above this they are merged
MOST_PRESENT = 1000  # commits remembered as being in the mirror
QUICK = 30.0  # seconds for a question to the mirror
LOOK_EVERY = 0.05  # seconds between two tries for the lock
GRACE = 2.0  # seconds a stopped git may take to remove its own temporary files

HEAD_REF = "refs/reconciler/head"  # one name for any branch: "a" and "a/b" could not follow each other as files
TREE_MODE, LINK_MODE, SUBMODULE_MODE = 0o040000, 0o120000, 0o160000
FILE_MODES = frozenset({0o100644, 0o100755})
LFS_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")

Result = TypeVar("Result")

SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.fsync": "all",  # a ref that is empty after a power cut would stop every later fetch
    "core.bigFileThreshold": str(LARGEST_OBJECT),  # stream what is larger instead of holding it in memory
    "transfer.fsckObjects": "true",
    "fetch.unpackLimit": "1",  # always a pack, which appears at once or not at all; loose objects come one by one
    "gc.auto": "0",
    "maintenance.auto": "false",
    "init.defaultBranch": "main",
    "credential.helper": "",
}
# Where a company reaches its git server only through a proxy, or with a CA of its own.
PASSED_ON = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "GIT_SSL_CAINFO")

# Run by git through sh, for this one address only: a redirect to another server gets nothing. The token goes from
# the file through shell builtins to git's pipe, so no process has it among its arguments or in its environment.
CREDENTIAL_HELPER = (
    '!f() { test "$1" = get || return 0; read -r token < "$RECONCILER_TOKEN_FILE"; '
    "case $token in *:*) user=${token%%:*} token=${token#*:};; *) user=x-access-token;; esac; "
    'printf "username=%s\\npassword=%s\\n" "$user" "$token"; }; f'
)

# --- what git may be asked for ---------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_BRANCH_FORBIDS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SSH_SHORTHAND = re.compile(r"(?P<host>[\w.-]+@[\w.-]+|[\w-]+(?:\.[\w-]+)+):(?!//)(?P<path>.+)")


def check_url(url: str) -> None:
    """Raises ConfigError unless ``url`` is ssh://, https:// or an absolute local path, without a secret in it.

    The message never repeats the URL: it may hold a password or a token.
    """
    if not url:
        raise _url_error("it is empty", "Write ssh://user@host/path, https://host/path or an absolute path.")
    if _CONTROL.search(url):
        raise _url_error("it holds a space or a control character", "Remove it (in a path of ssh:// write %20).")
    if url.startswith("/"):
        return
    parts = _split(url)
    if parts.scheme not in ("ssh", "https"):
        raise _url_error("it is neither ssh://, https:// nor an absolute path", _other_form_hint(url, parts))
    if not parts.hostname or parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise _url_error("it names no host, or one that starts with '-'", f"Write {parts.scheme}://host/path.")
    if parts.path in ("", "/"):
        raise _url_error("it names no repository", f"Write {parts.scheme}://host/path.")
    if parts.query or parts.fragment:
        raise _url_error("it has a part after '?' or '#'", "Remove it; a token belongs in repository.token_file.")
    if parts.password is not None or (parts.scheme == "https" and parts.username is not None):
        raise _url_error(
            "it holds a user name or a password",
            "Remove it and change that password, as it has been seen. For https write the token, or user:token, into "
            "repository.token_file; for ssh use repository.ssh_key_file.",
        )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for a port that is none
    except ValueError:
        raise _url_error("it is no URL: its host or port cannot be read", "Write ssh://user@host:port/path.") from None
    return parts


def _other_form_hint(url: str, parts: SplitResult) -> str:
    if shorthand := _SSH_SHORTHAND.fullmatch(url):
        host, path = shorthand["host"], shorthand["path"].lstrip("/")
        return f"Write ssh://{host}/{path}."
    if parts.scheme == "file":
        return "Write the path alone, such as /srv/git/config.git."
    if parts.scheme == "http":
        return "http sends the token in the clear: write https://."
    return "Write ssh://user@host/path, https://host/path or an absolute path."


def _url_error(what: str, hint: str) -> ConfigError:
    return ConfigError(f"the address of the repository cannot be used: {what}", where="repository.url", hint=hint)


def check_branch(branch: str) -> None:
    """Raises ConfigError unless ``branch`` may be a branch's name: the rules of git check-ref-format --branch."""
    parts = branch.split("/")
    broken = (
        not branch
        or branch.startswith("-")
        or branch in ("@", "HEAD")
        or branch.endswith((".", "/"))
        or _BRANCH_FORBIDS.search(branch)
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    )
    if broken:
        raise ConfigError(
            f"{branch!r} cannot be the name of a branch", where="repository.branch", hint="Write a name such as main."
        )


def check_commit(commit: str) -> None:
    """Raises RefusedError unless ``commit`` is a full object id, which git cannot take for an option."""
    if not _COMMIT.fullmatch(commit):
        raise RefusedError(f"{_plain(commit)!r} is not a full commit id", hint="Give all 40 hexadecimal digits.")


def check_path(path: str) -> tuple[str, ...]:
    """Given a path inside the repository, return its elements ("" is the root, and has none). Raises SourceError."""
    elements = tuple(path.split("/")) if path else ()
    if len(elements) > DEEPEST_PATH or any(part in ("", ".", "..") for part in elements):
        raise _path_error(path, "a path in git is relative, without '.', '..' or empty parts")
    if any(character < " " or character == "\x7f" for character in path):
        raise _path_error(path, "it holds a control character")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise _path_error(path, "it is not UTF-8") from None
    return elements


def _path_error(path: str, why: str) -> SourceError:
    return SourceError(f"{_plain(path)!r} cannot be read from git: {why}", hint="Correct it in environment.yaml.")


# --- how git is started ----------------------------------------------------------------------------------------------


def environment(
    *, url: str, git_dir: str, ssh_command: str | None, token_file: str | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Everything a git process gets. Of ``inherited`` only PATH and PASSED_ON remain.

    GIT_DIR is always set, so git never looks for a repository around the working directory. The settings travel as
    GIT_CONFIG_*, which wins over the mirror's own config file.
    """
    settings = dict(SETTINGS)
    passed_on = {name: inherited[name] for name in PASSED_ON if name in inherited}
    if token_file is not None:
        parts = urlsplit(url)
        settings[f"credential.{parts.scheme}://{parts.netloc}.helper"] = CREDENTIAL_HELPER
        passed_on["RECONCILER_TOKEN_FILE"] = token_file
    for position, (key, value) in enumerate(settings.items()):
        passed_on |= {f"GIT_CONFIG_KEY_{position}": key, f"GIT_CONFIG_VALUE_{position}": value}
    if ssh_command is not None:
        passed_on |= {"GIT_SSH_COMMAND": ssh_command, "GIT_SSH_VARIANT": "ssh"}
    return {
        **passed_on,
        "PATH": inherited.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_DIR": git_dir,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "ssh:https:file",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }


def ssh_command(key_file: str, known_hosts_file: str) -> str:
    """The value of GIT_SSH_COMMAND: this key and these known hosts only, nothing of the user's or the machine's own.

    curve25519 goes first because the default, a post-quantum hybrid, costs 155 ms of CPU a poll against 18; the
    others stay as a fallback for servers that do not have it.
    """
    options = (
        "BatchMode=yes",
        f"IdentityFile={_ssh_path(key_file)}",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={_ssh_path(known_hosts_file)}",
        f"GlobalKnownHostsFile={os.devnull}",
        "UpdateHostKeys=no",
        "KexAlgorithms=^curve25519-sha256",
        "ConnectTimeout=10",
        "ServerAliveInterval=10",
        "LogLevel=ERROR",
    )
    return shlex.join(["ssh", "-F", os.devnull, *(word for option in options for word in ("-o", option))])


def _ssh_path(path: str) -> str:
    """ssh expands "%" in the value of an option, and reads it with quotes and backslashes (not so that of -i)."""
    escaped = re.sub(r'(["\\])', r"\\\1", path.replace("%", "%%"))
    return f'"{escaped}"'


def ls_remote(url: str, pattern: str) -> list[str]:
    return ["git", "ls-remote", "--exit-code", "--", url, pattern]


def fetch(url: str, branch: str) -> list[str]:
    """The branch and its history into HEAD_REF, also where the branch was rewritten (the ``+``)."""
    options = ("--quiet", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--no-recurse-submodules")
    return ["git", "fetch", *options, "--", url, f"+refs/heads/{branch}:{HEAD_REF}"]


# --- what git says when it fails -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """``marks`` are pieces of git's, ssh's or curl's English, one of which is enough; the rest is ours to say."""

    marks: tuple[str, ...]
    what: str
    hint: str


# The first that fits is told, so the particular stand before the general.
TROUBLES = (
    Trouble(
        ("No space left on device", "Disk quota exceeded", "Read-only file system"),
        "the mirror cannot be written: the disk is full or read-only",
        "Make room below {state_dir}.",
    ),
    Trouble(
        ("ssh: not found", "ssh: command not found", "cannot run ssh"),
        "the ssh program is not installed",
        "Install it: apt-get install openssh-client.",
    ),
    Trouble(
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "has changed and you have requested strict checking"),
        "the SSH host key of {host} has changed; the connection was refused, and nothing was sent",
        "Ask the administrator of {host} whether the key was replaced, and for its fingerprint. Only then replace the "
        "line in {known_hosts}.",
    ),
    Trouble(
        ("and you have requested strict checking", "Host key verification failed"),
        "the SSH host key of {host} is not in {known_hosts}",
        "Run `{keyscan}`, compare the fingerprint with the one its administrator gives you, and add the line.",
    ),
    Trouble(
        ("UNPROTECTED PRIVATE KEY FILE", "bad permissions"),
        "ssh refuses the key {key} because others may read it",
        "Run `chmod 600 {key}`.",
    ),
    Trouble(
        ("Load key", "not accessible", "invalid format"),
        "the SSH key {key} cannot be read",
        "Check that it exists, has no passphrase, and belongs to the daemon's user.",
    ),
    Trouble(
        ("Permission denied (", "Too many authentication failures"),
        "{host} does not accept the SSH key {key}",
        "Add its public half as a deploy key that may read the repository (`ssh-keygen -y -f {key}` prints it).",
    ),
    Trouble(
        (
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "returned error: 401",
            "returned error: 403",
        ),
        "{host} refuses access to the repository",
        "Check that the token in repository.token_file has not expired and may read this repository.",
    ),
    Trouble(
        ("SSL certificate problem", "server certificate verification failed", "certificate verify failed"),
        "the TLS certificate of {host} cannot be verified",
        "Install the certificate's CA on this machine, or have the server renew it.",
    ),
    Trouble(
        ("Could not resolve host", "Name or service not known", "Temporary failure in name resolution"),
        "the name {host} cannot be resolved",
        "Check the name in repository.url and this machine's DNS.",
    ),
    Trouble(
        ("dubious ownership",),
        "git does not read a local repository that belongs to another user",
        "Run the daemon as that repository's owner, change its owner, or use an ssh:// address.",
    ),
    Trouble(
        ("does not appear to be a git repository", "not found", "could not be found", "returned error: 404"),
        "there is no such repository, or we may not see it",
        "Check repository.url, and that the key or token may read this repository.",
    ),
    Trouble(
        ("transport 'http' not allowed", "unable to update url base from redirection"),
        "{host} sends us to another address, which is not followed",
        "Write the repository's present address into repository.url.",
    ),
    Trouble(
        ("couldn't find remote ref",),
        "the branch is gone",
        "Check repository.branch, or restore the branch.",
    ),
    Trouble(
        (
            "Connection refused",
            "Connection timed out",
            "Connection reset",
            "Connection closed",
            "Operation timed out",
            "No route to host",
            "Network is unreachable",
            "Failed to connect",
            "Couldn't connect",
            "Could not connect",
            "Broken pipe",
            "not responding",
            "returned error: 5",
        ),
        "{host} does not answer",
        "Check that the server is up and that this machine may reach it.",
    ),
    Trouble(
        ("early EOF", "hung up", "RPC failed", "unexpected disconnect"),
        "{host} broke off in the middle of its answer",
        "Check the network, and on the server its log and the repository (git fsck).",
    ),
)
_REFUSED_OBJECT = re.compile(r"^error: object ([0-9a-f]{40}): (.+)$", re.MULTILINE)
_NOISE = ("remote:", "warning:", "hint:", "** ", "@@@", "Please make sure", "and the repository exists")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")


class UnexplainedError(GitUnreachableError):
    """git failed for a reason that is not in TROUBLES: the mirror itself may be damaged."""


def explain(stderr: str) -> Trouble | None:
    """Given what git printed, return the trouble it tells of. Lines that the remote made git print do not count."""
    own = "\n".join(line for line in stderr.splitlines() if not line.startswith("remote:"))
    return next((trouble for trouble in TROUBLES if any(mark in own for mark in trouble.marks)), None)


def telling_line(stderr: str, token: str = "") -> str:
    """Given what git printed, return the one line worth showing, without user info, token or control characters."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(_NOISE)]
    first = next((line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))), "".join(lines[:1]))
    for secret in filter(None, (token, token.partition(":")[2])):
        first = first.replace(secret, "***")
    return _plain(_USER_INFO.sub("***@", first))


def _plain(text: str, most: int = 200) -> str:
    """Text from outside, made fit for a terminal and a log: one line, no control or direction characters."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:most])
    return shown if len(text) <= most else f"{shown}…"


# --- objects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory: git's mode and the object's id."""

    mode: int
    id: str

    @property
    def kind(self) -> str:
        names = {TREE_MODE: "a directory", LINK_MODE: "a symbolic link", SUBMODULE_MODE: "a submodule"}
        names |= dict.fromkeys(FILE_MODES, "a file")
        return names.get(self.mode, f"an entry with mode {self.mode:06o}")


@dataclass(frozen=True, slots=True)
class Commit:
    tree: str
    author: str
    committed_at: float
    subject: str


@dataclass(frozen=True, slots=True)
class Tree:
    entries: Mapping[str, Entry] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that is there and will not be used; ``reason`` continues "cannot be used: "."""

    reason: str


Object = Commit | Tree | Blob | Refused


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads in a commit (None: nowhere), and the objects that were read on the way."""

    commit: Commit
    entry: Entry | None
    read: Mapping[str, Object] = field(repr=False)


class DamagedError(Exception):
    """The mirror does not hold what it should."""


_RECORD = re.compile(rb"([0-9a-f]{40}) (commit|tree|blob|tag) ([0-9]+)")
_TREE_ENTRY_COST = 200  # bytes of memory for one name in a directory, about


def parse_batch(output: bytes) -> dict[str, Object]:
    """Given what ``git cat-file --batch`` printed (perhaps cut short), return its objects by id.

    Names git calls missing are left out. Raises DamagedError for an object whose bytes do not hash to its id.
    """
    found: dict[str, Object] = {}
    position = 0
    while (end := output.find(b"\n", position)) >= 0:
        header = _RECORD.fullmatch(output, position, end)
        position = end + 1
        if header is None:
            continue
        object_id, kind, size = header[1].decode(), header[2].decode(), int(header[3])
        data = output[position : position + size]
        position += size + 1
        if size > LARGEST_OBJECT:
            limit = LARGEST_OBJECT / process.MIB
            found[object_id] = Refused(f"it has {size / process.MIB:.1f} MiB, and {limit:g} MiB is the limit")
        elif len(data) == size:
            found[object_id] = parse_object(object_id, kind, data)
    return found


def parse_object(object_id: str, kind: str, data: bytes) -> Object:
    """Raises DamagedError for bytes that do not hash to the id."""
    if hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest() != object_id:
        raise DamagedError(f"{kind} {object_id} has other content than its id says")
    try:
        if kind == "tree":
            return _parse_tree(data)
        if kind == "commit":
            return _parse_commit(object_id, data)
    except (ValueError, LookupError) as error:
        return Refused(f"it is malformed ({_plain(str(error))})")
    return Blob(object_id, data) if kind == "blob" else Refused(f"it is a {kind}")


def _parse_tree(data: bytes) -> Tree:
    from git.objects.fun import tree_entries_from_data

    return Tree({name: Entry(mode, object_id.hex()) for object_id, mode, name in tree_entries_from_data(data)})


def _parse_commit(object_id: str, data: bytes) -> Commit:
    from git import Commit as GitCommit

    # All that GitPython's Commit asks of its repository is the stream of its own bytes.
    store = SimpleNamespace(stream=lambda binary_id: (binary_id, b"commit", len(data), BytesIO(data)))
    commit = GitCommit(cast("git.Repo", SimpleNamespace(odb=store)), bytes.fromhex(object_id))
    mail = f" <{commit.author.email}>" if commit.author.email else ""
    lines = str(commit.message).strip().splitlines()
    return Commit(
        tree=commit.tree.hexsha,
        author=_plain(f"{commit.author.name}{mail}"),
        committed_at=float(commit.committed_date),
        subject=_plain(lines[0]) if lines else "",
    )


def _import_gitpython() -> None:
    """Import GitPython in such a way that it starts no process: it is told of a git that cannot be executed.

    It asks that one for its version, and is told to be quiet about the failure. We never let it run git.
    """
    if "git" in sys.modules:
        return
    ours = {"GIT_PYTHON_REFRESH": "quiet", "GIT_PYTHON_GIT_EXECUTABLE": os.devnull}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        import git  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class KeptObjects:
    """Objects by id, the ones used last. An id says what the content is, so nothing kept here is ever stale."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._cost = 0
        self._kept: OrderedDict[str, tuple[int, Object]] = OrderedDict()

    def get(self, object_id: str) -> Object | None:
        try:
            return self.recall(object_id)
        except KeyError:
            return None

    def recall(self, object_id: str) -> Object:
        """Raises KeyError with the id."""
        self._kept.move_to_end(object_id)
        return self._kept[object_id][1]

    def put(self, object_id: str, value: Object) -> None:
        self._cost -= self._kept.pop(object_id, (0, None))[0]
        cost = _cost(value)
        self._kept[object_id] = (cost, value)
        self._cost += cost
        while self._cost > self._budget and len(self._kept) > 1:
            _, (freed, _) = self._kept.popitem(last=False)
            self._cost -= freed


def _cost(value: Object) -> int:
    if isinstance(value, Tree):
        return process.KIB + _TREE_ENTRY_COST * len(value.entries)
    return process.KIB + (len(value.data) if isinstance(value, Blob) else 0)


# --- the mirror ------------------------------------------------------------------------------------------------------


class GitMirror:
    """The ``Git`` port. The mirror is ``state_dir``/mirror.git, a cache: it may be deleted at any time.

    It holds packs only, and the branch as HEAD_REF. Objects that a rewritten branch left behind are kept, so that a
    pinned or last healthy revision stays readable. ``state_dir``/mirror.lock is held (flock) while it is changed,
    by whatever process.

    ``poll_timeout`` and ``fetch_timeout`` in seconds. Raises ConfigError for a URL, branch or lack of a key that
    cannot work.
    """

    def __init__(
        self,
        *,
        url: str,
        branch: str,
        state_dir: str,
        ssh_key_file: str | None = None,
        known_hosts_file: str | None = None,
        token_file: str | None = None,
        poll_timeout: float = 30.0,
        fetch_timeout: float = 120.0,
    ) -> None:
        check_url(url)
        check_branch(branch)
        if url.startswith("ssh:") and not (ssh_key_file and known_hosts_file):
            raise ConfigError(
                "an ssh:// address needs ssh_key_file and known_hosts_file", where="repository", hint="Set both."
            )
        self._url = url
        self._branch = branch
        self._state_dir = state_dir
        self._mirror = os.path.join(state_dir, "mirror.git")
        self._key = ssh_key_file or ""
        self._known_hosts = known_hosts_file or ""
        self._token_file = token_file if url.startswith("https:") else None
        self._poll_timeout = poll_timeout
        self._fetch_timeout = fetch_timeout
        self._present: set[str] = set()
        self._damaged = False
        self._kept = KeptObjects(KEPT_OBJECTS)

    # --- the remote ---

    async def head(self) -> str:
        ref = f"refs/heads/{self._branch}"
        # The pattern also matches refs/heads/other/refs/heads/main.
        commit = (await self._ask_remote(ref)).get(ref)
        if commit is None:
            raise await self._no_branch()
        if not _COMMIT.fullmatch(commit):
            raise self._unreachable(
                "the repository uses SHA-256 object ids, which are not supported",
                "Use a repository with SHA-1 ids, git's default.",
            )
        return commit

    async def fetch(self, commit: str) -> None:
        check_commit(commit)
        if commit not in self._present:
            await self._bring(commit)

    async def _ask_remote(self, pattern: str) -> dict[str, str]:
        """Object ids by ref. git does not look at the mirror for it: a damaged one must not stop the polls."""
        self._require_files()
        command = ls_remote(self._url, pattern)
        completed = await self._run(command, git_dir=os.devnull, seconds=self._poll_timeout)
        # With --exit-code, 2 says that nothing matches. Of too long an answer the beginning will do.
        if not completed.overflowed and (completed.timed_out or completed.exit_code not in (0, 2)):
            self._raise_failure(completed, self._poll_timeout)
        pairs = (line.split("\t", 1) for line in completed.stdout.decode(errors="replace").splitlines() if "\t" in line)
        return {ref: object_id for object_id, ref in pairs}

    async def _no_branch(self) -> GitUnreachableError:
        advertised = await self._ask_remote("refs/heads/*")
        heads = (ref.removeprefix("refs/heads/") for ref in advertised if ref.startswith("refs/heads/"))
        names = [_plain(name, 60) for name in sorted(heads)]
        if not names:
            return self._unreachable("the repository is empty", f"Push the branch {self._branch}.")
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        return self._unreachable(
            f"the branch {self._branch!r} does not exist; the remote has: {shown}",
            "Correct repository.branch, or restore the branch.",
        )

    async def _bring(self, commit: str) -> None:
        """Fetch what is missing of the commit; make the mirror anew where it is missing or damaged."""
        self._require_files()
        try:
            async with self._exclusive():
                await self._bring_locked(commit)
        except OSError as error:
            raise self._unreachable(
                f"the mirror cannot be written ({error.strerror})", f"Check space and permissions of {self._state_dir}."
            ) from error
        if len(self._present) >= MOST_PRESENT:
            self._present.clear()
        self._present.add(commit)

    async def _bring_locked(self, commit: str) -> None:
        if self._damaged or not _is_directory(self._mirror):
            await self._rebuild()
        elif await self._holds(commit):
            return
        else:
            await asyncio.to_thread(_clear_leftovers, self._mirror)
            try:
                await self._fetch_into(self._mirror)
                sound = await self._holds(commit) or not await self._descends(HEAD_REF, commit)
            except (UnexplainedError, DamagedError):
                sound = False
            if not sound:
                await self._rebuild()
        if not await self._holds(commit):
            raise self._unreachable(
                f"the commit {commit[:12]} is not on the branch",
                "The branch moved or was rewritten meanwhile; the next poll sees where it is now.",
            )
        await self._merge_packs()

    async def _holds(self, revision: str) -> bool:
        """Whether the commit and every object of its tree are in the mirror. A damaged mirror gives False."""
        completed = await self._run(["git", "rev-list", "--quiet", "--objects", "--max-count=1", revision, "--"])
        return completed.ok

    async def _fetch_into(self, git_dir: str) -> None:
        completed = await self._run(
            fetch(self._url, self._branch),
            git_dir=git_dir,
            seconds=self._fetch_timeout,
            resources={resource.RLIMIT_FSIZE: LARGEST_PACK},
        )
        if completed.ok:
            return
        # index-pack dies of SIGXFSZ without a word; the size of what it leaves behind tells.
        if await asyncio.to_thread(_clear_leftovers, git_dir) >= LARGEST_PACK:
            raise self._unreachable(
                f"the repository is larger than {LARGEST_PACK // process.MIB} MiB",
                "Give the environments a repository of their own.",
            )
        self._raise_failure(completed, self._fetch_timeout)

    async def _rebuild(self) -> None:
        """Fetch everything into a new mirror, then put it in the place of the old one, which serves until then."""
        new, old = f"{self._mirror}.new", f"{self._mirror}.old"
        await asyncio.to_thread(_remove, new, old)
        os.mkdir(new, mode=0o700)
        completed = await self._run(["git", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", new])
        if not completed.ok:
            self._raise_failure(completed, QUICK)
        await self._fetch_into(new)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._mirror, old)
        os.rename(new, self._mirror)
        self._damaged = False
        await asyncio.to_thread(_remove, old)

    async def _merge_packs(self) -> None:
        """Merge packs of like size now and then, so that their number grows with the logarithm of the fetches.

        ``git gc`` would also drop what no branch holds any more. A failure costs nothing now: the packs stay as they
        are, and the next fetch tries again.
        """
        names = await asyncio.to_thread(os.listdir, os.path.join(self._mirror, "objects", "pack"))
        if sum(name.endswith(".pack") for name in names) > MOST_PACKS:
            await self._run(["git", "repack", "-q", "-d", "-n", "--geometric=2"], seconds=self._fetch_timeout)

    @contextlib.asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        os.makedirs(self._state_dir, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(self._state_dir, "mirror.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._wait_for(lock)
            yield
        finally:
            os.close(lock)

    async def _wait_for(self, lock: int) -> None:
        try:
            async with asyncio.timeout(self._fetch_timeout):
                while not _try_lock(lock):  # noqa: ASYNC110  # flock tells nobody when it comes free
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise self._unreachable(
                f"another process has been fetching for {self._fetch_timeout:g} s",
                f"See who holds it: fuser {self._state_dir}/mirror.lock.",
            ) from None

    # --- the mirror's content ---

    async def revision(self, commit: str, directory: str) -> Revision:
        place = await self._mended(commit, lambda: self._find(commit, directory))
        if place.entry is not None and place.entry.mode != TREE_MODE:
            raise _refusal(commit, directory, f"it is {place.entry.kind}, not a directory")
        subtree = place.entry.id if place.entry else ""
        return Revision(commit, subtree, place.commit.author, place.commit.committed_at, place.commit.subject)

    async def read(self, commit: str, path: str) -> Blob | None:
        entry, found = await self._mended(commit, lambda: self._open(commit, path))
        if entry is None:
            return None
        if entry.mode not in FILE_MODES:
            raise _refusal(commit, path, f"it is {entry.kind}, not a regular file")
        if not isinstance(found, Blob):
            raise _refusal(commit, path, found.reason if isinstance(found, Refused) else "it is no file")
        if found.data.startswith(LFS_POINTERS):
            raise _refusal(commit, path, "it is a Git LFS pointer, not the file; take it out of LFS in .gitattributes")
        return found

    async def names(self, commit: str, directory: str) -> tuple[str, ...]:
        """What lies in the directory, sorted; empty where there is no such directory. For a message's "there is"."""
        _, found = await self._mended(commit, lambda: self._open(commit, directory))
        return tuple(sorted(found.entries)) if isinstance(found, Tree) else ()

    async def descends(self, commit: str, ancestor: str) -> bool:
        check_commit(commit)
        check_commit(ancestor)
        return await self._mended(commit, lambda: self._descends(commit, ancestor))

    async def _mended(self, commit: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """What ``attempt`` gives; where the mirror turns out to be damaged, mend it and try once more.

        The caller cannot do it: with the branch where it was, it has no reason to fetch.
        """
        try:
            return await attempt()
        except DamagedError:
            self._present.discard(commit)
            await self._bring(commit)
        try:
            return await attempt()
        except DamagedError as error:
            raise self._unreachable(
                f"the mirror is damaged, also after it was made anew: {error}", f"Check the disk of {self._mirror}."
            ) from error

    async def _descends(self, commit: str, ancestor: str) -> bool:
        completed = await self._run(["git", "merge-base", "--is-ancestor", ancestor, commit])
        if _ended(completed) and completed.exit_code in (0, 1):
            return completed.exit_code == 0
        # Most often the ancestor is unknown here. If the commit's whole history is known, it is not in there.
        completed = await self._run(["git", "rev-list", "--quiet", commit, "--"])
        if not completed.ok:
            raise self._damage(f"the history of {commit[:12]} cannot be read")
        return False

    async def _open(self, commit: str, path: str) -> tuple[Entry | None, Object | None]:
        """The entry at ``path``, and the file or directory itself; (None, None) where there is nothing."""
        place = await self._find(commit, path)
        entry = place.entry
        if entry is None or entry.mode not in (TREE_MODE, *FILE_MODES):
            return entry, None
        found = place.read.get(entry.id) or self._kept.get(entry.id) or (await self._load([entry.id])).get(entry.id)
        if found is None:
            raise self._damage(f"the object {entry.id[:12]} is missing")
        return entry, found

    async def _find(self, commit: str, path: str) -> Place:
        """Walk from the commit to ``path``, through what is remembered, or else read all of the way in one go."""
        check_commit(commit)
        elements = check_path(path)
        with contextlib.suppress(KeyError):
            return self._walk(commit, elements, {})
        steps = ["/".join(elements[:length]) for length in range(len(elements) + 1)]
        read = await self._load([commit, *(f"{commit}:{step}" for step in steps)])
        try:
            return self._walk(commit, elements, read)
        except KeyError as missing:
            if missing.args[0] == commit:
                raise DamagedError(f"the commit {commit[:12]} is missing") from missing
            raise self._damage(f"the object {missing.args[0][:12]} is missing") from missing

    def _walk(self, commit: str, elements: Sequence[str], read: Mapping[str, Object]) -> Place:
        """Raises KeyError with the id of an object that is neither among those just read nor remembered."""

        def recall(object_id: str) -> Object:
            return read[object_id] if object_id in read else self._kept.recall(object_id)

        top = recall(commit)
        if not isinstance(top, Commit):
            raise _refusal(commit, "the commit", top.reason if isinstance(top, Refused) else "it is no commit")
        entry = Entry(TREE_MODE, top.tree)
        for position, element in enumerate(elements):
            way = "/".join(elements[:position])
            if entry.mode in FILE_MODES:
                return Place(top, None, read)
            if entry.mode != TREE_MODE:
                raise _refusal(commit, way, f"it is {entry.kind}, which is never followed")
            tree = recall(entry.id)
            if not isinstance(tree, Tree):
                raise _refusal(commit, way or "/", tree.reason if isinstance(tree, Refused) else "it is no directory")
            if element not in tree.entries:
                return Place(top, None, read)
            entry = tree.entries[element]
        return Place(top, entry, read)

    async def _load(self, names: Sequence[str]) -> Mapping[str, Object]:
        """Read and remember the objects of these names. Where one is too large, git is stopped after the limit."""
        _import_gitpython()
        completed = await self._run(
            ["git", "cat-file", "--batch"],
            stdin="".join(f"{name}\n" for name in names).encode(),
            stdout=len(names) * (LARGEST_OBJECT + process.KIB),
        )
        if completed.timed_out:
            self._raise_failure(completed, QUICK)
        if not completed.ok and not completed.overflowed:
            raise self._damage("it cannot be read")
        try:
            read = await asyncio.to_thread(parse_batch, completed.stdout)
        except DamagedError as error:
            raise self._damage(str(error)) from error
        for object_id, value in read.items():
            self._kept.put(object_id, value)
        return read

    def _damage(self, what: str) -> DamagedError:
        self._damaged = True
        self._present.clear()
        return DamagedError(what)

    # --- running git, and its failures ---

    async def _run(
        self,
        argv: Sequence[str],
        *,
        git_dir: str | None = None,
        stdin: bytes | None = None,
        stdout: int = process.MIB,
        seconds: float = QUICK,
        resources: Mapping[int, int] | None = None,
    ) -> process.Completed:
        pinned = ssh_command(self._key, self._known_hosts) if self._key else None
        variables = environment(
            url=self._url,
            git_dir=git_dir or self._mirror,
            ssh_command=pinned,
            token_file=self._token_file,
            inherited=os.environ,
        )
        limits = process.Limits(timeout=seconds, grace=GRACE, stdout=stdout, resources=resources or {})
        try:
            return await process.run(argv, env=variables, limits=limits, stdin=stdin)
        except process.MissingProgramError as error:
            raise self._unreachable("the git program is not installed", "Install it: apt-get install git.") from error
        except OSError as error:
            raise self._unreachable(f"git cannot be started ({error.strerror})", "Check memory and limits.") from error

    def _require_files(self) -> None:
        """ssh and git name a missing file in many ways; say it plainly before they start."""
        files = {"ssh_key_file": self._key, "known_hosts_file": self._known_hosts, "token_file": self._token_file or ""}
        for field_name, path in files.items():
            if path and not os.access(path, os.R_OK):
                raise self._unreachable(
                    f"{path} does not exist or cannot be read", f"Put it there, or correct repository.{field_name}."
                )

    def _raise_failure(self, completed: process.Completed, seconds: float) -> NoReturn:
        stderr = completed.stderr.decode(errors="replace")
        if completed.timed_out:
            raise self._unreachable(
                f"no answer within {seconds:g} s", "Check that the server is up and that this machine may reach it."
            )
        if refused := _REFUSED_OBJECT.search(stderr):
            raise SourceError(
                f"git refuses the object {refused[1][:12]} of the branch ({_plain(refused[2])}); nothing was fetched",
                where=self._where,
                hint="Take it out of the branch's history.",
            )
        trouble = explain(stderr)
        if trouble is None:
            line = telling_line(stderr, self._token()) or f"exit code {completed.exit_code}, without a word"
            raise UnexplainedError(f"git failed: {line}", where=self._where, hint="It is tried again.")
        facts = self._facts()
        raise self._unreachable(trouble.what.format(**facts), trouble.hint.format(**facts))

    def _unreachable(self, what: str, hint: str) -> GitUnreachableError:
        return GitUnreachableError(what, where=self._where, hint=f"{hint} It is tried again.")

    @property
    def _where(self) -> str:
        return f"{self._url} (branch {self._branch})"

    def _facts(self) -> dict[str, str]:
        parts = urlsplit(self._url)
        host = parts.hostname or "this machine"
        port = f"-p {parts.port} " if parts.port else ""
        return {
            "host": host,
            "key": self._key,
            "known_hosts": self._known_hosts,
            "keyscan": f"ssh-keyscan {port}{host}",
            "state_dir": self._state_dir,
        }

    def _token(self) -> str:
        """Only to keep it out of a message."""
        try:
            with open(self._token_file or os.devnull, encoding="utf-8", errors="replace") as file:
                return file.readline().strip()
        except OSError:
            return ""


def _ended(completed: process.Completed) -> bool:
    return not completed.timed_out and not completed.overflowed


def _refusal(commit: str, path: str, why: str) -> SourceError:
    hint = "Commit a regular file or directory there, or correct environment.yaml."
    return SourceError(f"{_plain(path)} cannot be used: {why}", where=f"commit {commit[:12]}", hint=hint)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_leftovers(mirror: str) -> int:
    """Remove what a killed git left behind: its locks, which stop every later fetch, and its half-written packs.

    Return the size of the largest, in bytes. We hold the mirror's lock, so whoever made them is gone. A git that
    outlived a killed daemon may still run: it then fails to move its ref, or moves it where we do too; packs are
    named by their content.
    """
    largest = 0
    for directory, _, names in os.walk(mirror):
        for name in names:
            if name.endswith((".lock", ".keep")) or name.startswith(("tmp_", ".tmp-")):
                path = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    largest = max(largest, os.stat(path).st_size)
                    os.remove(path)
    return largest


def _remove(*directories: str) -> None:
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
