"""The temporary repository in which commits are made: nothing is checked out there, and nothing can act.

A revert is git's own ``git revert``, with three differences, all measured with git 2.39:

- The work tree is sparse and stays empty: no file of the repository is checked out, so no link, submodule or LFS
  pointer of it can act. On a conflict git writes the files concerned, ciphertext, which go with the directory.
- ``info/attributes`` overrides the repository's .gitattributes: no filter, merge driver or conversion. Without it
  ``merge=union`` hides a conflict, and both sides of it would be pushed.
- Renames are not followed: env files are similar, and a change would go into another environment's file. The strategy
  is explicit because git's default one ignores both ``no-renames`` and merge.renames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.adapters import process
from reconciler.adapters.git.command import LARGEST_OBJECT, ROLLBACK_HOST, ROLLBACK_RUN, sanitized
from reconciler.adapters.git.errors import failure_line, known_failure
from reconciler.adapters.git.objects import DamagedError
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.core.errors import SignaturesUnavailableError
from reconciler.core.model.revisions import RevertRequest

REGULAR_MODE = 0o100644
SUBJECT = 150  # characters of a commit's subject in a message
ATTRIBUTES = "* -text -ident !eol !filter !merge !diff !working-tree-encoding !conflict-marker-size\n"
SETTINGS = {
    "core.sparseCheckout": "true",
    "core.sparseCheckoutCone": "false",
    "rerere.enabled": "false",
    "commit.gpgSign": "false",
    "advice.detachedHead": "false",
}


@dataclass(frozen=True, slots=True)
class DescribedCommit:
    """A commit: its id, its subject fit for a message, and the host and run that made it if it is our revert."""

    id: str
    subject: str
    host: str
    run: str

    @property
    def named(self) -> str:
        return f"{self.id[:12]} ({self.subject})"

    def is_of(self, request: RevertRequest) -> bool:
        return (self.host, self.run) == (request.host, request.run)


@dataclass(frozen=True, slots=True)
class ScratchRepository:
    """A temporary repository: its own objects and HEAD, on top of the mirror's objects, with an empty work tree."""

    runner: GitRunner
    tree: str
    identity: dict[str, str]
    signing_key: str | None

    async def ask(self, *arguments: str, stdin: bytes | None = None) -> process.Completed:
        variables = {"GIT_WORK_TREE": self.tree, **self.identity}
        return await self.runner.run(
            ["git", "--literal-pathspecs", *arguments],
            stdin=stdin,
            stdout=LARGEST_OBJECT,
            settings=SETTINGS,
            variables=variables,
        )

    async def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What git printed, stripped. Raises GitUnreachableError where it failed, DamagedError where only a damaged
        mirror explains it."""
        completed = await self.ask(*arguments, stdin=stdin)
        if not completed.ok:
            stderr = completed.stderr.decode(errors="replace")
            if completed.timed_out or known_failure(stderr):
                self.runner.raise_failure(completed, QUICK)
            raise DamagedError(failure_line(stderr) or f"git {arguments[0]} failed")
        return completed.stdout.decode(errors="replace").strip()

    async def subtree(self, commit: str, directory: str) -> str:
        """The id of the directory's tree in the commit; "" where it does not exist."""
        if not directory:
            return await self.git("rev-parse", "--verify", f"{commit}^{{tree}}")
        entry = await self.git("ls-tree", "-d", "--full-tree", commit, "--", directory)
        return entry.split()[2] if entry else ""

    async def descends(self, commit: str, ancestor: str, head: str) -> bool:
        """Whether ``commit`` descends from ``ancestor``; false where one of the two is unknown although ``head``'s
        history is complete."""
        completed = await self.ask("merge-base", "--is-ancestor", ancestor, commit)
        if completed.timed_out or completed.exit_code not in (0, 1):
            await self.git("rev-list", "--quiet", head, "--")
        return completed.ok

    async def describe(self, commit: str) -> DescribedCommit:
        trailers = (f"%(trailers:key={key},valueonly,separator=%x20)" for key in (ROLLBACK_HOST, ROLLBACK_RUN))
        form = "%x00".join(("%<(400,trunc)%s", *trailers))  # a subject can have megabytes
        subject, host, run = (await self.git("log", "-1", "--no-notes", f"--format={form}", commit)).split("\0")[:3]
        return DescribedCommit(commit, sanitized(subject.strip(), SUBJECT), host.strip(), run.strip())

    async def parents(self, commit: str) -> list[str]:
        return (await self.git("rev-list", "--parents", "--max-count=1", commit)).split()[1:]

    async def with_files(self, commit: str, files: Mapping[str, bytes]) -> str:
        """The id of the commit's tree with these files (path → content) written; modes stay unchanged."""
        await self.git("read-tree", commit)
        for path, data in files.items():
            entry = await self.git("ls-tree", "--full-tree", commit, "--", path)
            mode = entry.split()[0] if entry else f"{REGULAR_MODE:06o}"
            blob = await self.git("hash-object", "-w", "--stdin", stdin=data)
            await self.git("update-index", "-z", "--index-info", stdin=f"{mode} {blob}\t{path}\0".encode())
        return await self.git("write-tree")

    async def commit(self, parent: str, tree: str, message: str) -> str:
        """The id of a new commit. Raises SignaturesUnavailableError where it cannot be signed."""
        sign = []
        settings = dict(SETTINGS)
        if self.signing_key:
            sign = ["-S"]
            settings |= {"gpg.format": "ssh", "user.signingKey": self.signing_key}
        argv = ["git", "commit-tree", *sign, "-p", parent, "-F", "-", tree]
        completed = await self.runner.run(argv, stdin=message.encode(), settings=settings, variables=self.identity)
        if not completed.ok and self.signing_key:
            reason = failure_line(completed.stderr.decode(errors="replace")) or "no reason given"
            raise SignaturesUnavailableError(
                f"the commit cannot be signed with {self.signing_key} ({reason})",
                where=self.runner.where,
                hint="Check that rollback.signing_key_file is an SSH key without a passphrase that only the daemon's "
                "user may read, and that ssh-keygen is installed.",
            )
        if not completed.ok:
            self.runner.raise_failure(completed, QUICK)
        return completed.stdout.decode().strip()


async def make_scratch(
    mirror: GitRunner, directory: str, identity: dict[str, str], signing_key: str | None
) -> ScratchRepository:
    """Create the repository in an empty ``directory``, on top of the objects of ``mirror``; ``identity`` authors its
    commits. Raises GitUnreachableError."""
    git_dir, tree = os.path.join(directory, "git"), os.path.join(directory, "tree")
    runner = replace(mirror, git_dir=git_dir)
    made = await runner.run(["git", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", git_dir])
    if not made.ok:
        runner.raise_failure(made, QUICK)
    _furnish(git_dir, os.path.join(mirror.git_dir, "objects"))
    os.mkdir(tree)
    return ScratchRepository(runner, tree, identity, signing_key)


def _furnish(git_dir: str, objects: str) -> None:
    """Make a new repository also read the objects of another, check nothing out, and ignore .gitattributes."""
    os.makedirs(os.path.join(git_dir, "info"), exist_ok=True)
    files = {"objects/info/alternates": f"{objects}\n", "info/sparse-checkout": "", "info/attributes": ATTRIBUTES}
    for name, content in files.items():
        with open(os.path.join(git_dir, name), "w", encoding="utf-8") as file:
            file.write(content)
