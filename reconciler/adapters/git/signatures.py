"""Whether commits carry a good SSH signature of a signer whom the server configuration allows.

git runs ssh-keygen twice for each commit: 8 ms of CPU, so 80 s for 10,000 commits. How git reports signatures, as
measured with git 2.39 and OpenSSH 9.2:

- %G? is G only where a principal of the allowed_signers file matches; a good signature of any other key is U, as is
  one of an expired key. What counts is the commit's own date, which its author chooses: ``valid-before`` keeps old
  commits good, and stops nobody who still has the key. A lost key must be removed from the file.
- A missing allowed_signers file makes every signature U, a missing ssh-keygen B, no space for a temporary file N. So
  these are checked first, and git's complaints afterwards: they are not the commit's fault.
- A signature of a kind that git does not know ends git in the middle of its output.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.adapters import process
from reconciler.adapters.git.command import SSH_KEYGEN, sanitized
from reconciler.adapters.git.errors import failure_line
from reconciler.adapters.git.objects import MissingCommitError
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.core.errors import SignaturesUnavailableError, UnverifiedError

AT_ONCE = 100  # commits for one git
ENOUGH = 120.0  # seconds of checking in one reconciliation; the next one continues from there
MOST_KEPT = 10_000  # commits remembered as good after a complete check
LARGEST_FILE = process.MIB

_SIGNATURE = re.compile(rb"^gpgsig -----BEGIN ([A-Z0-9 ]+)-----$", re.MULTILINE)
_AUTHOR = re.compile(rb"^author (.*) \d+ [-+]\d+$", re.MULTILINE)
_KINDS = {"PGP SIGNATURE": "OpenPGP", "PGP MESSAGE": "OpenPGP", "SIGNED MESSAGE": "X.509"}
_NOT_ITS_FAULT = ("cannot run", "cannot exec", "cannot fork", "could not create", "No space left", "failed writing")


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """What git reports about one commit: the letter of %G?, the key's fingerprint, the output of ssh-keygen, and git's
    own complaint."""

    letter: str
    key: str
    output: str
    complaint: str


class Signatures:
    """``allowed_signers_file`` in the format of ssh-keygen; without one no commit is good."""

    def __init__(self, git: GitRunner, allowed_signers_file: str | None) -> None:
        self._git = git
        self._file = allowed_signers_file
        self._signers = b""
        self._good: set[str] = set()

    async def check(self, commits: Sequence[str]) -> None:
        """Given commit ids, oldest first, return if all are good.

        Raises UnverifiedError for the first that is not; SignaturesUnavailableError where checking is impossible, or
        takes more than ENOUGH seconds: good ones are not checked again, so the next call gets further; DamagedError
        where a commit is missing.
        """
        self._read_signers()
        ends = time.monotonic() + ENOUGH
        waiting = [commit for commit in commits if commit not in self._good]
        for start in range(0, len(waiting), AT_ONCE):
            left = ends - time.monotonic()
            if left <= 0 or not await self._check_some(waiting[start : start + AT_ONCE], left):
                raise SignaturesUnavailableError(
                    f"of {len(waiting)} commits {start} were checked within {ENOUGH:g} s",
                    where=self._git.where,
                    hint="The next reconciliation continues from there.",
                )
        if len(self._good) > MOST_KEPT:
            self._good = set(commits[-1:])

    def _read_signers(self) -> None:
        """Require what is needed for checking; forget results that an older file gave."""
        if self._file is None:
            raise UnverifiedError(
                "no signer is allowed", where=self._git.where, hint="Set repository.allowed_signers_file."
            )
        if shutil.which(SSH_KEYGEN) is None:
            raise SignaturesUnavailableError(
                f"no signature can be checked: {SSH_KEYGEN} is not installed",
                where=self._git.where,
                hint="Install it: apt-get install openssh-client.",
            )
        signers = _content(self._file)
        if signers != self._signers:
            self._signers = signers
            self._good.clear()

    async def _check_some(self, commits: Sequence[str], seconds: float) -> bool:
        """Whether git finished in time. Raises as ``check`` does."""
        completed = await self._log("%H %G?", commits, seconds)
        lines = iter(completed.stdout.decode(errors="replace").splitlines())
        for commit in commits:
            line = next(lines, "")
            if line == f"{commit} G":
                self._good.add(commit)
            elif completed.timed_out and not line.startswith(f"{commit} "):
                return False
            else:
                raise await self._objection(commit)
        return True

    async def _log(self, form: str, commits: Sequence[str], seconds: float = QUICK) -> process.Completed:
        argv = ["git", "log", "--no-walk=unsorted", "--stdin", "--no-notes", f"--format={form}"]
        given = "".join(f"{commit}\n" for commit in commits).encode()
        allowed = {"gpg.ssh.allowedSignersFile": self._file or os.devnull}
        return await self._git.run(argv, stdin=given, seconds=seconds, settings=allowed)

    async def _objection(self, commit: str) -> Exception:
        """The error for a commit that is not good. Raises DamagedError where it is missing."""
        raw = await self._git.run(["git", "cat-file", "commit", commit])
        header = raw.stdout.partition(b"\n\n")[0]
        if not header:
            raise MissingCommitError(commit)
        completed = await self._log("%G?%x00%GF%x00%GG", [commit])
        letter, key, output = (*completed.stdout.decode(errors="replace").split("\0"), "", "")[:3]
        complaint = completed.stderr.decode(errors="replace")
        kind = match[1].decode() if (match := _SIGNATURE.search(header)) else ""
        author = sanitized(match[1].decode(errors="replace"), 100) if (match := _AUTHOR.search(header)) else "nobody"
        if kind == "SSH SIGNATURE" and (letter in "GN" or any(mark in complaint for mark in _NOT_ITS_FAULT)):
            return SignaturesUnavailableError(
                f"the signature of {commit[:12]} could not be checked ({failure_line(complaint) or 'no reason given'})",
                where=self._git.where,
                hint=f"Check {SSH_KEYGEN}, and space in /tmp.",
            )
        reason, hint = self._reason(kind, SignatureVerdict(letter, sanitized(key.strip()), output, complaint))
        return UnverifiedError(f"the commit {commit[:12]} by {author} {reason}", where=self._git.where, hint=hint)

    def _reason(self, kind: str, verdict: SignatureVerdict) -> tuple[str, str]:
        """What is wrong with a signature of this kind ("" for none), and the next step."""
        again = "Ask the author whether it is theirs, and to sign it with an SSH key and push it again."
        if not kind:
            return "is not signed", again
        if kind != "SSH SIGNATURE":
            name = _KINDS.get(kind, "unknown")
            return f"carries a signature of another kind ({name}); only SSH signatures count", again
        if "not permitted for use in signature namespace" in verdict.output:
            return f"is signed by a key that may not sign commits by {self._file} (namespaces)", again
        if verdict.letter != "U":
            return "carries a bad signature: commit or signature was changed afterwards", again
        add = f"Ask the author whether it is theirs; if so, add the key to {self._file}."
        if "key has expired" in verdict.output or "not yet valid" in verdict.output:
            when = f"by {self._file} the key was not valid on the commit's date"
            return f"is signed by {verdict.key}, but {when}", f"{again} Or correct the dates of the key."
        return f"is signed by {verdict.key}, a key that is not in {self._file}", add


def _content(path: str) -> bytes:
    """Raises SignaturesUnavailableError where the file cannot be read. Never blocks, even on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(LARGEST_FILE + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        reason = "not a regular file" if content is None else "" if len(content) <= LARGEST_FILE else "too large"
    except OSError as error:
        content, reason = None, error.strerror or "it cannot be opened"
    if content is None or reason:
        raise SignaturesUnavailableError(
            f"no signature can be checked: {path} cannot be read ({reason})",
            hint="Make it readable for the daemon's user, or correct repository.allowed_signers_file.",
        )
    return content
