"""Runs git for one remote, and turns its failures into errors for an operator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from reconciler.adapters import process
from reconciler.adapters.disk import disk_state
from reconciler.adapters.git.command import git_environment, sanitized, ssh_command
from reconciler.adapters.git.errors import REFUSED_OBJECT, UnexplainedError, failure_line, known_failure, own_lines
from reconciler.core.errors import ExhaustedError, GitUnreachableError, SourceError
from reconciler.core.exhaustion import MEMORY, exhausted_in, missing_space

QUICK = 30.0  # seconds for a query of the mirror
GRACE = 2.0  # seconds a stopped git may take to remove its own temporary files
STDERR = 64 * process.KIB


@dataclass(frozen=True, slots=True)
class GitRunner:
    """``git_dir`` is the default repository of a call. A file that is "" is not used.

    ``key_field`` is the setting that ``key_file`` comes from, for messages.
    """

    url: str
    branch: str
    git_dir: str
    state_dir: str
    key_file: str = ""
    known_hosts_file: str = ""
    token_file: str = ""
    key_field: str = "repository.ssh_key_file"

    async def run(
        self,
        argv: Sequence[str],
        *,
        git_dir: str | None = None,
        stdin: bytes | None = None,
        stdout: int = process.MIB,
        stderr: int = STDERR,
        seconds: float = QUICK,
        resources: Mapping[int, int] | None = None,
        settings: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> process.Completed:
        """Run git to its end. ``settings`` are added to SETTINGS, ``variables`` to the environment.

        Raises GitUnreachableError where it cannot be started.
        """
        environment = git_environment(
            url=self.url,
            git_dir=git_dir or self.git_dir,
            ssh_command=ssh_command(self.key_file, self.known_hosts_file) if self.key_file else None,
            token_file=self.token_file or None,
            inherited=os.environ,
            settings=settings,
        )
        limits = process.Limits(timeout=seconds, grace=GRACE, stdout=stdout, stderr=stderr, resources=resources or {})
        try:
            return await process.run(argv, env={**environment, **(variables or {})}, limits=limits, stdin=stdin)
        except process.MissingProgramError as error:
            raise self.unreachable("the git program is not installed", "Install it: apt-get install git.") from error
        except ExhaustedError as error:
            raise GitUnreachableError(error.what, where=self.where, hint=error.hint, id=error.id) from error

    def require_files(self) -> None:
        """Check the files first: ssh and git report a missing one in many ways. Raises GitUnreachableError."""
        files = {
            self.key_field: self.key_file,
            "repository.known_hosts_file": self.known_hosts_file,
            "repository.token_file": self.token_file,
        }
        for field_name, path in files.items():
            if path and not os.access(path, os.R_OK):
                raise self.unreachable(
                    f"{path} does not exist or cannot be read", f"Put it there, or correct {field_name}."
                )

    def raise_failure(self, completed: process.Completed, seconds: float) -> NoReturn:
        """Raises SourceError for an object that git refuses, UnexplainedError where the reason is unknown, otherwise
        GitUnreachableError."""
        stderr = completed.stderr.decode(errors="replace")
        if completed.timed_out:
            raise self.unreachable(
                f"no answer within {seconds:g} s", "Check that the server is up and that this machine may reach it."
            )
        if refused := REFUSED_OBJECT.search(stderr):
            raise SourceError(
                f"git refuses object {refused[1][:12]} of the branch ({sanitized(refused[2])}); nothing was fetched",
                where=self.where,
                hint="Remove it from the branch's history.",
            )
        if lack := MEMORY if completed.out_of_memory else exhausted_in(own_lines(stderr).encode()):
            raise GitUnreachableError(f"git failed: {lack[0]}", where=self.where, hint=lack[1], id=ExhaustedError.id)
        failure = known_failure(stderr)
        if failure is None:
            line = failure_line(stderr, self.token()) or f"exit code {completed.exit_code}, no message"
            raise UnexplainedError(f"git failed: {line}", where=self.where)
        facts = self._facts()
        if failure.disk:
            _, free, inodes = disk_state(self.state_dir)
            facts["disk"] = "read-only" if "Read-only" in stderr else missing_space(free, inodes)[0]
        raise self.unreachable(failure.message.format(**facts), failure.hint.format(**facts), failure.id)

    def unreachable(self, problem: str, hint: str, id: str = "") -> GitUnreachableError:
        return GitUnreachableError(problem, where=self.where, hint=hint, id=id)

    @property
    def where(self) -> str:
        return f"{self.url} (branch {self.branch})"

    def token(self) -> str:
        """For redacting it from messages."""
        try:
            with open(self.token_file or os.devnull, encoding="utf-8", errors="replace") as file:
                return file.readline().strip()
        except OSError:
            return ""

    def _facts(self) -> dict[str, str]:
        parts = urlsplit(self.url)
        host = parts.hostname or "this machine"
        port = f"-p {parts.port} " if parts.port else ""
        return {
            "host": host,
            "key": self.key_file,
            "known_hosts": self.known_hosts_file,
            "keyscan": f"ssh-keyscan {port}{host}",
            "state_dir": self.state_dir,
        }
