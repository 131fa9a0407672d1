"""The git commands we use, and the environment they run in. Pure: no process is started here."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from reconciler.adapters import process
from reconciler.core.errors import ConfigError, RefusedError, SourceError
from reconciler.core.model.revisions import RevertRequest
from reconciler.core.text import printable

LARGEST_OBJECT = 5 * process.MIB  # of a file, a directory or a commit; the same limit as for sops
DEEPEST_PATH = 32

SSH_KEYGEN = "ssh-keygen"  # looked up on PATH
# What fsck reports about an object that does no harm here: nothing is checked out, no submodule or attribute is
# followed, and objects.py judges every commit and tree that is read. Were it an error, one merged commit would stop
# every later fetch until the history is rewritten. What stays an error, git itself cannot read (docs/security.md).
HARMLESS_FINDINGS = (
    *(
        f"gitmodules{kind}"
        for kind in ("Blob", "Large", "Missing", "Name", "Parse", "Path", "Symlink", "Update", "Url")
    ),
    *(f"gitattributes{kind}" for kind in ("Blob", "Large", "LineLength", "Missing", "Symlink")),
    *("gitignoreSymlink", "mailmapSymlink", "nulInCommit", "multipleAuthors", "missingAuthor", "missingCommitter"),
    *("badDate", "badDateOverflow", "badTimezone", "zeroPaddedDate", "missingSpaceBeforeDate"),
    *("badName", "badEmail", "missingEmail", "missingNameBeforeEmail", "missingSpaceBeforeEmail"),
    *("hasDot", "hasDotdot", "hasDotgit", "emptyName", "fullPathname", "largePathname", "nullSha1"),
    *("treeNotSorted", "duplicateEntries", "zeroPaddedFilemode", "badFilemode"),
)
HEAD_REF = "refs/reconciler/head"  # one name for any branch: "a" and "a/b" could not follow each other as files
SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.fsync": "all",  # a ref left empty by a power failure would block every later fetch
    "core.bigFileThreshold": str(LARGEST_OBJECT),  # stream larger files instead of holding them in memory
    "transfer.fsckObjects": "true",
    **{f"fetch.fsck.{finding}": "ignore" for finding in HARMLESS_FINDINGS},
    "fetch.unpackLimit": "1",  # always a pack, which appears as a whole or not at all; loose objects appear one by one
    "gc.auto": "0",
    "maintenance.auto": "false",
    "init.defaultBranch": "main",
    "credential.helper": "",
    # A signature names its own kind. Only SSH's counts, so no program is ever run for another.
    "gpg.program": os.devnull,
    "gpg.openpgp.program": os.devnull,
    "gpg.x509.program": os.devnull,
    "gpg.ssh.program": SSH_KEYGEN,
}
# For companies that reach their git server only through a proxy, or with their own CA.
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
PASSED_ON = (*PROXY_VARIABLES, "no_proxy", "NO_PROXY", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
# Run by git through sh, for this one address only: a redirect to another server gets nothing. The token goes from
# the file through shell builtins to git's pipe, so no process has it in its arguments or environment.
CREDENTIAL_HELPER = (
    '!f() { test "$1" = get || return 0; read -r token < "$RECONCILER_TOKEN_FILE"; '
    "case $token in *:*) user=${token%%:*} token=${token#*:};; *) user=x-access-token;; esac; "
    'printf "username=%s\\npassword=%s\\n" "$user" "$token"; }; f'
)

_SPACE_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_BRANCH_FORBIDS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_NO_NAMES = frozenset({"", ".", ".."})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
COMMIT_NAME = re.compile(r"[0-9a-fA-F]{7,40}")
_SSH_SHORTHAND = re.compile(r"(?P<host>[\w.-]+@[\w.-]+|[\w-]+(?:\.[\w-]+)+):(?!//)(?P<path>.+)")


def check_url(url: str) -> None:
    """Raises ConfigError unless ``url`` is ssh://, https:// or an absolute local path, without a secret in it.

    The message never quotes the URL: it may contain a password or a token.
    """
    if not url:
        raise _url_error("it is empty", "Write ssh://user@host/path, https://host/path or an absolute path.")
    if _SPACE_OR_CONTROL.search(url):
        raise _url_error("it contains a space or a control character", "Remove it (in a path of ssh:// write %20).")
    if url.startswith("/"):
        return
    parts = _split(url)
    if parts.scheme not in ("ssh", "https"):
        raise _url_error("it is neither ssh://, https:// nor an absolute path", _other_form_hint(url, parts))
    if not parts.hostname or parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise _url_error("it has no host, or one that starts with '-'", f"Write {parts.scheme}://host/path.")
    if parts.path in ("", "/"):
        raise _url_error("it has no path to a repository", f"Write {parts.scheme}://host/path.")
    if parts.query or parts.fragment:
        raise _url_error("it has a part after '?' or '#'", "Remove it; a token belongs in repository.token_file.")
    if parts.password is not None or (parts.scheme == "https" and parts.username is not None):
        raise _url_error(
            "it contains a user name or a password",
            "Remove it, and change that password: it has been exposed. For https write the token, or user:token, into "
            "repository.token_file; for ssh use repository.ssh_key_file.",
        )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for an invalid port
    except ValueError:
        raise _url_error(
            "it is not a valid URL: its host or port cannot be read", "Write ssh://user@host:port/path."
        ) from None
    return parts


def _other_form_hint(url: str, parts: SplitResult) -> str:
    if shorthand := _SSH_SHORTHAND.fullmatch(url):
        host, path = shorthand["host"], shorthand["path"].lstrip("/")
        return f"Write ssh://{host}/{path}."
    if parts.scheme == "file":
        return "Write the path alone, such as /srv/git/config.git."
    if parts.scheme == "http":
        return "http sends the token in clear text: write https://."
    return "Write ssh://user@host/path, https://host/path or an absolute path."


def _url_error(problem: str, hint: str) -> ConfigError:
    return ConfigError(f"the repository URL cannot be used: {problem}", where="repository.url", hint=hint)


def check_branch(branch: str) -> None:
    """Raises ConfigError unless ``branch`` is a valid branch name by the rules of git check-ref-format --branch."""
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
            f"{branch!r} is not a valid branch name", where="repository.branch", hint="Write a name such as main."
        )


def check_commit(commit: str) -> None:
    """Raises RefusedError unless ``commit`` is a full object id, which git cannot take for an option."""
    if not COMMIT_ID.fullmatch(commit):
        raise RefusedError(f"{sanitized(commit)!r} is not a full commit id", hint="Give all 40 hexadecimal digits.")


def check_path(path: str) -> tuple[str, ...]:
    """Given a path inside the repository, return its elements (none for "", the root). Raises SourceError."""
    elements = tuple(path.split("/")) if path else ()
    if len(elements) > DEEPEST_PATH or not _NO_NAMES.isdisjoint(elements):
        raise _path_error(path, "a path in git is relative, without '.', '..' or empty parts")
    if _CONTROL.search(path):
        raise _path_error(path, "it contains a control character")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise _path_error(path, "it is not UTF-8") from None
    return elements


def _path_error(path: str, reason: str) -> SourceError:
    return SourceError(f"{sanitized(path)!r} cannot be read from git: {reason}", hint="Correct it in environment.yaml.")


def sanitized(text: str, most: int = 200) -> str:
    """Given text from outside, return it fit for a terminal and a log: one line, without control or direction
    characters."""
    line = printable(text[:most])
    return line if len(text) <= most else f"{line}…"


# --- how git is started ----------------------------------------------------------------------------------------------


def git_environment(
    *,
    url: str,
    git_dir: str,
    ssh_command: str | None,
    token_file: str | None,
    inherited: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a git process. Of ``inherited`` only PATH and PASSED_ON remain; ``settings`` add to
    SETTINGS.

    GIT_DIR is always set, so git never searches for a repository around the working directory. The settings are passed
    as GIT_CONFIG_*, which overrides the mirror's own config file.
    """
    settings = {**SETTINGS, **(settings or {})}
    passed_on = {name: inherited[name] for name in PASSED_ON if name in inherited}
    if ca := certificates(inherited):
        passed_on["GIT_SSL_CAINFO"] = inherited[ca]
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


def certificates(inherited: Mapping[str, str]) -> str:
    """The variable that names the file of CA certificates for git; "" where the system's are used. What other programs
    read in SSL_CERT_FILE, git does not."""
    return next((name for name in ("GIT_SSL_CAINFO", "SSL_CERT_FILE") if inherited.get(name)), "")


def proxy(url: str, inherited: Mapping[str, str]) -> str:
    """The variable that names the proxy for ``url``, in curl's order; "" where none does, or ssh would not use it."""
    if not url.startswith("https://"):
        return ""
    return next((name for name in PROXY_VARIABLES if inherited.get(name)), "")


def ssh_command(key_file: str, known_hosts_file: str) -> str:
    """The value of GIT_SSH_COMMAND: this key and these known hosts only, none of the user's or the machine's settings.

    curve25519 comes first because the default, a post-quantum hybrid, costs 155 ms of CPU per poll instead of 18; the
    others remain as a fallback for servers that lack it.
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
    """Quote an option's value: ssh expands "%" in it and interprets quotes and backslashes (unlike in -i)."""
    escaped = re.sub(r'(["\\])', r"\\\1", path.replace("%", "%%"))
    return f'"{escaped}"'


def ls_remote_command(url: str, *patterns: str) -> list[str]:
    return ["git", "ls-remote", "--exit-code", "--", url, *patterns]


def fetch_command(url: str, branch: str, ref: str = HEAD_REF) -> list[str]:
    """Fetch the branch and its history into ``ref``, even where the branch was rewritten (the ``+``). FETCH_HEAD then
    begins with its commit."""
    options = ("--quiet", "--no-tags", "--no-auto-maintenance", "--no-recurse-submodules")
    return ["git", "fetch", *options, "--", url, f"+refs/heads/{branch}:{ref}"]


# --- writing ---------------------------------------------------------------------------------------------------------

ROLLBACK_OF = "Reconciler-Rollback-Of"
ROLLBACK_ENVIRONMENT = "Reconciler-Rollback-Environment"
ROLLBACK_HOST = "Reconciler-Rollback-Host"
ROLLBACK_RUN = "Reconciler-Rollback-Run"
OWN_REVERT = f"^{ROLLBACK_OF}:"  # for git's --grep
_LONGEST_SUBJECT = 200
_LONGEST_REASON = 1000
_PERSON = re.compile(r"(?P<name>[^<>\x00-\x1f]*[^<>\x00-\x20]) <(?P<mail>[^<>\x00-\x20]+)>")


def log_command(commit: str, since: str | None, directory: str) -> list[str]:
    """Every commit that changes files of the directory, with the object ids of the results.

    Of a merge, the files that differ from all of its parents (``-c``). History is not simplified.
    """
    form = ("--format=%x01%ct", "--raw", "-c", "--root", "-z", "--no-abbrev", "--no-renames", "--full-history")
    new = () if since is None else (f"^{since}",)
    return ["git", "--literal-pathspecs", "log", *form, commit, *new, "--", *((directory,) if directory else ())]


_PUSH = ("git", "push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")


def push_command(url: str, commit: str, ref: str, *, dry_run: bool = False) -> list[str]:
    """Push exactly one ref, and only as a fast-forward."""
    return [*_PUSH, *(("--dry-run",) if dry_run else ()), "--", url, f"{commit}:{ref}"]


def publish_command(url: str, refs: Mapping[str, str | None], *, dry_run: bool = False) -> list[str]:
    """Create refs below refs/reconciler/, or remove them (None); never forced: one that is there goes first."""
    if not refs or any(not ref.startswith("refs/reconciler/") for ref in refs):
        raise ValueError("only refs below refs/reconciler/ are ours")
    changes = [f"{commit}:{ref}" if commit else f":{ref}" for ref, commit in refs.items()]
    return [*_PUSH, *(("--dry-run",) if dry_run else ()), "--", url, *changes]


def rollback_branch(environment: str, failed: str) -> str:
    """The branch on which a revert is proposed for review."""
    return f"reconciler/rollback-{environment}-{failed[:12]}"


def author_environment(author: str) -> dict[str, str]:
    """Given "Name <mail>", return the variables that make git commit as that author. Raises ConfigError."""
    person = _PERSON.fullmatch(author)
    if person is None:
        raise ConfigError(
            f"{sanitized(author, 60)!r} is not a valid author",
            where="rollback.author",
            hint="Write Name <address@host>.",
        )
    roles = ("AUTHOR", "COMMITTER")
    names = {f"GIT_{role}_NAME": person["name"] for role in roles}
    return names | {f"GIT_{role}_EMAIL": person["mail"] for role in roles}


def revert_message(order: RevertRequest, commit: str, subject: str, merged_into: str = "") -> str:
    """The message of the commit that undoes ``commit``; ``merged_into`` is the first parent of a merge.

    Text from outside stays in its line, after words of ours: on a line of its own it could look like a trailer, or
    ("---") like the end of the message.
    """
    merge = f", reversing\nchanges made to {merged_into}" if merged_into else ""
    reason = _one_line(order.reason, _LONGEST_REASON) or "no reason given"
    trailers = {
        ROLLBACK_OF: order.failed,
        ROLLBACK_ENVIRONMENT: order.environment,
        ROLLBACK_HOST: order.host,
        ROLLBACK_RUN: order.run,
    }
    return (
        f'Revert "{_one_line(subject, _LONGEST_SUBJECT)}"\n\n'
        f"This reverts commit {commit}{merge}.\n\n"
        f"Rolled back by reconciler: {reason}\n\n"
        + "".join(f"{key}: {_one_line(value, _LONGEST_SUBJECT)}\n" for key, value in trailers.items())
    )


def _one_line(text: str, most: int) -> str:
    return sanitized(" ".join(text[: 2 * most].split()), most)
