"""What the errors of git, ssh and curl mean to an operator. No secret is repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.adapters.git.command import sanitized
from reconciler.core.errors import GitUnreachableError


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """``marks`` are fragments of output of git, ssh or curl; one is enough. ``message`` and ``hint`` are ours.

    ``access``: the server answers, but denies access; ``disk``: ours takes nothing more.
    """

    marks: tuple[str, ...]
    message: str
    hint: str
    access: bool = False
    disk: bool = False
    id: str = ""


# The first match wins, so specific failures come before general ones.
KNOWN_FAILURES = (
    KnownFailure(
        ("No space left on device", "Disk quota exceeded", "Read-only file system"),
        "the mirror cannot be written: {disk}",
        "Free some space below {state_dir}.",
        disk=True,
    ),
    KnownFailure(
        ("ssh: not found", "ssh: command not found", "cannot run ssh"),
        "the ssh program is not installed",
        "Install it: apt-get install openssh-client.",
    ),
    KnownFailure(
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "has changed and you have requested strict checking"),
        "the SSH host key of {host} has changed. The connection was refused, nothing was sent",
        "Ask the administrator of {host} whether the key was replaced, and for its fingerprint. Only then replace the "
        "line in {known_hosts}.",
    ),
    KnownFailure(
        ("and you have requested strict checking", "Host key verification failed"),
        "the SSH host key of {host} is not in {known_hosts}",
        "Run `{keyscan}`, compare the fingerprint with the one its administrator gives you, and add the line.",
    ),
    KnownFailure(
        ("UNPROTECTED PRIVATE KEY FILE", "bad permissions"),
        "ssh refuses the key {key} because others may read it",
        "Run `chmod 600 {key}`.",
    ),
    KnownFailure(
        ("Load key", "not accessible", "invalid format"),
        "the SSH key {key} cannot be read",
        "Check that it exists, has no passphrase, and belongs to the daemon's user.",
    ),
    KnownFailure(
        ("Permission denied (", "Too many authentication failures"),
        "{host} does not accept the SSH key {key}",
        "Add its public half as a deploy key that may read the repository (`ssh-keygen -y -f {key}` prints it).",
        access=True,
    ),
    KnownFailure(
        (
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "returned error: 401",
            "returned error: 403",
        ),
        "{host} refuses access to the repository",
        "Check that the token in repository.token_file has not expired and may read this repository.",
        access=True,
        id="git-token-refused",
    ),
    KnownFailure(
        ("certificate is not yet valid", "certificate has expired"),
        "the TLS certificate of {host} is not valid at the time that this machine's clock shows",
        "Compare the clock with another one (`timedatectl`). If it is right, have the server renew its certificate.",
    ),
    KnownFailure(
        ("SSL certificate problem", "server certificate verification failed", "certificate verify failed"),
        "the TLS certificate of {host} cannot be verified",
        "Install the certificate's CA on this machine, or have the server renew it.",
    ),
    KnownFailure(
        ("Could not resolve host", "Name or service not known", "Temporary failure in name resolution"),
        "the name {host} cannot be resolved",
        "Check the name in repository.url and this machine's DNS.",
    ),
    KnownFailure(
        ("dubious ownership",),
        "git does not read a local repository that belongs to another user",
        "Run the daemon as that repository's owner, change its owner, or use an ssh:// address.",
    ),
    KnownFailure(
        ("does not appear to be a git repository", "not found", "could not be found", "returned error: 404"),
        "the repository does not exist, or we may not see it",
        "Check repository.url, and that the key or token may read this repository.",
    ),
    KnownFailure(
        ("transport 'http' not allowed", "unable to update url base from redirection"),
        "{host} redirects us to another address, which is not followed",
        "Write the repository's current address into repository.url.",
    ),
    KnownFailure(
        ("couldn't find remote ref",),
        "the branch is gone",
        "Check repository.branch, or restore the branch.",
        id="branch-gone",
    ),
    KnownFailure(
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
    KnownFailure(
        ("early EOF", "hung up", "RPC failed", "unexpected disconnect"),
        "{host} ended the connection in the middle of its answer",
        "Check the network, the server's log, and the repository there (git fsck).",
    ),
)
REFUSED_OBJECT = re.compile(r"^error: object ([0-9a-f]{40}): (.+)$", re.MULTILINE)
_NOISE = ("remote:", "warning:", "hint:", "** ", "@@@", "Please make sure", "and the repository exists")
_ADVICE = ("hint:", "warning:", "error: failed to push", "fatal: Could not read", "Please make sure", "and the repo")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")


class UnexplainedError(GitUnreachableError):
    """git failed for a reason that is not in KNOWN_FAILURES: the mirror itself may be damaged."""


def own_lines(stderr: str) -> str:
    """What git printed, without the lines that the remote has sent."""
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("remote:"))


def known_failure(stderr: str) -> KnownFailure | None:
    """Given what git printed, return the known failure it means. Lines from the remote do not count."""
    own = own_lines(stderr)
    return next((failure for failure in KNOWN_FAILURES if any(mark in own for mark in failure.marks)), None)


def failure_line(stderr: str, token: str = "") -> str:
    """Given what git printed, return the most useful line, without user info, token or control characters."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(_NOISE)]
    first = next((line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))), "".join(lines[:1]))
    return _shown(first, token)


def means_refused(stderr: str) -> bool:
    """Given what a push printed that got no answer about its ref, return whether the server knew us and denied it.

    Reading worked a moment before. Forges end the connection with their own message, after which git only says that it
    could not read from the remote repository.
    """
    failure = known_failure(stderr)
    return "Could not read from remote repository" in stderr if failure is None else failure.access


def refusal_line(stdout: str, stderr: str, token: str = "") -> str:
    """Given what ``git push --porcelain`` printed, return the line in which the server gives its reason, likewise.

    Hooks and forges print it after "remote:", with frames and empty lines around it; a server that ends the connection
    prints it bare.
    """
    lines = [line for line in stderr.splitlines() if not line.startswith(_ADVICE)]
    theirs = [line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:")]
    worded = [line for line in (theirs or lines) if any(character.isalnum() for character in line)]
    loud = [line for line in worded if line.lower().startswith(("error:", "fatal:", "gitlab:", "gitea:"))]
    said = next(iter(loud or worded), "")
    verdicts = (line.split("\t")[-1] for line in stdout.splitlines() if line.startswith("!"))
    verdict = next(verdicts, "").strip()
    return _shown(": ".join(filter(None, (verdict, said))) or "no reason given", token)


def _shown(line: str, token: str) -> str:
    for secret in filter(None, (token, token.partition(":")[2])):
        line = line.replace(secret, "***")
    return sanitized(_USER_INFO.sub("***@", line))
