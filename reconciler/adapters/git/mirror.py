"""Reads one branch of one remote through a bare mirror. Nothing from it is ever checked out.

So no hook, filter, LFS, submodule or link of the repository can act. ``git`` talks to the network (ls-remote, fetch),
answers questions about history (rev-list, merge-base) and reads objects (cat-file), each started by process.py with
the environment of ``git_environment``. GitPython only parses the commits and trees that ``cat-file`` printed.

Why GitPython does no more than that (measured with 3.2.1, gitdb 4.0.12, smmap 5.0.3):

- Its pure Python object store, ``odbt=GitDB``, keeps two descriptors for every pack it has seen, even after
  ``Repo.close()``: 401 of them after 200 fetches. A directory of 3 million entries, 7 MB as git stores it, costs it
  12 s and 937 MiB in our own process, where nothing can stop it. It warns that it is deprecated for security reasons.
- Its default store starts long-lived ``git cat-file`` processes, and ``Repo.init`` a ``git init``, both with the
  daemon's whole environment and no timeout: someone's GIT_DIR, templates with hooks, or configuration would act.
- Importing it runs ``git version`` twice, GIT_PYTHON_REFRESH=quiet or not. See ``import_gitpython``.

git 2.32 or newer is needed: older ones do not know GIT_CONFIG_GLOBAL and GIT_CONFIG_COUNT.

No connection is shared between polls (ssh's ControlMaster): that saves half of the CPU time of a poll, but leaves a
process behind that survives the daemon and keeps our pipes open.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import TypeVar

from reconciler.adapters import process
from reconciler.adapters.git.command import (
    COMMIT_ID,
    COMMIT_NAME,
    HEAD_REF,
    check_branch,
    check_commit,
    check_path,
    check_url,
    ls_remote_command,
    sanitized,
)
from reconciler.adapters.git.errors import UnexplainedError
from reconciler.adapters.git.history import first_appearances
from reconciler.adapters.git.mirror_directory import MirrorDirectory
from reconciler.adapters.git.object_reader import ObjectReader, blob_at, revision_at
from reconciler.adapters.git.objects import DamagedError, MissingCommitError, TreeListing
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.adapters.git.signatures import Signatures
from reconciler.core.errors import ConfigError, GitUnreachableError, RefusedError, UnverifiedError
from reconciler.core.model.revisions import Blob, Revision

MOST_PRESENT = 1000  # commits remembered as being in the mirror
MOST_NAMESAKES = 20  # commits whose ids begin alike
MOST_NEW = 100_000  # commits since the last accepted one, 4 MB of ids

T = TypeVar("T")


class GitMirror:
    """The ``Git`` port. The mirror is ``state_dir``/mirror.git, a cache: it may be deleted at any time.

    It holds packs only, and the branch as HEAD_REF. Objects that a rewritten branch left behind are kept, so that a
    pinned or last healthy revision stays readable. Whatever process changes it holds ``state_dir``/mirror.lock (flock).

    ``verify`` accepts the signers of ``allowed_signers_file``, in the format of ssh-keygen; without it, nobody's.
    ``poll_timeout`` and ``fetch_timeout`` in seconds. Raises ConfigError for a URL, a branch or a missing key that
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
        allowed_signers_file: str | None = None,
        poll_timeout: float = 30.0,
        fetch_timeout: float = 120.0,
    ) -> None:
        check_url(url)
        check_branch(branch)
        if url.startswith("ssh:") and not (ssh_key_file and known_hosts_file):
            raise ConfigError(
                "an ssh:// address needs ssh_key_file and known_hosts_file", where="repository", hint="Set both."
            )
        self._branch = branch
        self._git = GitRunner(
            url=url,
            branch=branch,
            git_dir=os.path.join(state_dir, "mirror.git"),
            state_dir=state_dir,
            key_file=ssh_key_file or "",
            known_hosts_file=known_hosts_file or "",
            token_file=token_file or "" if url.startswith("https:") else "",
        )
        self._signatures = Signatures(self._git, allowed_signers_file)
        self._allowed_signers_file = allowed_signers_file
        self._poll_timeout = poll_timeout
        self._directory = MirrorDirectory(self._git, fetch_timeout)
        self._objects = ObjectReader(self._git)
        self._present: set[str] = set()

    @property
    def git(self) -> GitRunner:
        """How git is run for this remote."""
        return self._git

    @property
    def allowed_signers_file(self) -> str | None:
        return self._allowed_signers_file

    # --- the remote ---

    async def head(self) -> str:
        ref = f"refs/heads/{self._branch}"
        # The pattern also matches refs/heads/other/refs/heads/main.
        commit = (await self.refs(ref)).get(ref)
        if commit is None:
            raise await self._no_branch()
        if not COMMIT_ID.fullmatch(commit):
            raise self._git.unreachable(
                "the repository uses SHA-256 object ids, which are not supported",
                "Use a repository with SHA-1 ids, git's default.",
            )
        return commit

    async def fetch(self, commit: str) -> None:
        check_commit(commit)
        if commit not in self._present:
            await self._bring(commit)

    async def fetch_head(self) -> str:
        async with self._directory.exclusive():
            commit = await self._fetch_unasked() if self._directory.usable else ""
        if commit:
            self._note_present(commit)
            return commit
        commit = await self.head()
        await self.fetch(commit)
        return commit

    async def _fetch_unasked(self) -> str:
        """Fetch, and return the head; "" where that fails, as asking first shows why, and has more patience."""
        try:
            await self._directory.fetch(self._poll_timeout)
        except GitUnreachableError:
            return ""
        commit = await self._directory.fetched_head()  # what turns out to be damaged is repaired when it is read
        await self._directory.merge_packs()
        return commit

    async def refs_below(self, *prefixes: str) -> Mapping[str, str]:
        refs = await self.refs(*(f"{prefix}/*" for prefix in prefixes))
        below = tuple(f"{prefix}/" for prefix in prefixes)
        return {ref: commit for ref, commit in refs.items() if ref.startswith(below)}

    async def refs(self, *patterns: str) -> dict[str, str]:
        """Ask the remote for object ids by full ref name. Raises GitUnreachableError.

        git does not read the mirror for it: a damaged one must not stop the polls.
        """
        self._git.require_files()
        command = ls_remote_command(self._git.url, *patterns)
        completed = await self._git.run(command, git_dir=os.devnull, seconds=self._poll_timeout)
        # With --exit-code, 2 means that nothing matches. Of an answer that is too long, the beginning is enough.
        if not completed.overflowed and (completed.timed_out or completed.exit_code not in (0, 2)):
            self._git.raise_failure(completed, self._poll_timeout)
        pairs = (line.split("\t", 1) for line in completed.stdout.decode(errors="replace").splitlines() if "\t" in line)
        return {ref: object_id for object_id, ref in pairs}

    async def _no_branch(self) -> GitUnreachableError:
        advertised = await self.refs("refs/heads/*")
        heads = (ref.removeprefix("refs/heads/") for ref in advertised if ref.startswith("refs/heads/"))
        names = [sanitized(name, 60) for name in sorted(heads)]
        if not names:
            return self._git.unreachable(
                "the repository is empty", f"Push the branch {self._branch}.", "empty-repository"
            )
        known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        return self._git.unreachable(
            f"the branch {self._branch!r} does not exist; the remote has: {known}",
            "Correct repository.branch, or restore the branch.",
            "branch-gone",
        )

    async def _bring(self, commit: str) -> None:
        """Fetch what is missing of the commit; rebuild the mirror where it is missing or damaged."""
        async with self._directory.exclusive():
            await self._bring_locked(commit)
        self._note_present(commit)

    def _note_present(self, commit: str) -> None:
        if len(self._present) >= MOST_PRESENT:
            self._present.clear()
        self._present.add(commit)

    async def _bring_locked(self, commit: str) -> None:
        directory = self._directory
        if directory.usable and await directory.holds(commit):
            return
        if not (directory.usable and await self._fetched(commit)):
            self._present.clear()
            await directory.rebuild()
        if not await directory.holds(commit):
            raise self._git.unreachable(
                f"the commit {commit[:12]} is not on the branch",
                "The branch moved or was rewritten meanwhile; the next poll sees where it is now.",
            )
        await directory.merge_packs()

    async def _fetched(self, commit: str) -> bool:
        """Fetch; return whether the mirror is sound afterwards."""
        try:
            await self._directory.fetch()
            return await self._directory.holds(commit) or not await self._descends(HEAD_REF, commit)
        except (UnexplainedError, DamagedError):
            return False

    @contextlib.asynccontextmanager
    async def latest(self) -> AsyncIterator[str]:
        """Fetch the branch's head, yield it, and keep the mirror locked while the caller works with it.

        Raises as ``head`` and ``fetch`` do; also for an OSError of the caller, who writes to ``state_dir``.
        """
        commit = await self.head()
        async with self._directory.exclusive():
            await self._bring_locked(commit)
            yield commit

    @contextlib.asynccontextmanager
    async def held(self, commit: str) -> AsyncIterator[None]:
        """Have the commit in the mirror, and keep the mirror locked while the caller works with it.

        Raises as ``latest`` does.
        """
        await self.fetch(commit)
        async with self._directory.exclusive():
            yield

    def mark_damaged(self) -> None:
        """Have the next fetch rebuild the mirror."""
        self._directory.damaged = True
        self._present.clear()

    # --- the mirror's content ---

    async def revision(self, commit: str, directory: str) -> Revision:
        place = await self._repairing(commit, lambda: self._objects.find(commit, directory))
        return revision_at(commit, directory, place)

    async def read(self, commit: str, path: str) -> Blob | None:
        entry, git_object = await self._repairing(commit, lambda: self._objects.open(commit, path))
        return blob_at(commit, path, entry, git_object)

    async def preload(self, commit: str, paths: Collection[str]) -> None:
        await self._objects.preload(commit, paths)

    async def names(self, commit: str, directory: str) -> tuple[str, ...]:
        """Sorted names in the directory; empty where it does not exist. For messages that say what exists."""
        _, listing = await self._repairing(commit, lambda: self._objects.open(commit, directory))
        return tuple(sorted(listing.entries)) if isinstance(listing, TreeListing) else ()

    async def descends(self, commit: str, ancestor: str) -> bool:
        check_commit(commit)
        check_commit(ancestor)
        return await self._repairing(commit, lambda: self._descends(commit, ancestor))

    async def first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        check_commit(commit)
        check_path(directory)
        if since is not None:
            check_commit(since)
        return await self._repairing(commit, lambda: self._first_seen(commit, since, directory))

    async def _first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        if since is not None and not await self._descends(commit, since):
            since = None
        return await first_appearances(self._git, commit, since, directory)

    async def resolve(self, name: str) -> str:
        if not COMMIT_NAME.fullmatch(name):
            raise RefusedError(
                f"{sanitized(name, 60)!r} is not a commit id", hint="Give at least 7 hexadecimal digits of it."
            )
        head = await self._ask("rev-parse", "--verify", "--quiet", f"{HEAD_REF}^{{commit}}")
        if not head:
            raise RefusedError("nothing is fetched from the branch yet", where=self._git.where, hint="Sync first.")
        return await self._repairing(head, lambda: self._resolve(name.lower(), head))

    async def _resolve(self, name: str, head: str) -> str:
        objects = (await self._ask("rev-parse", f"--disambiguate={name}")).split()
        kinds = await self._ask("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin="\n".join(objects))
        commits = [line.split()[0] for line in kinds.splitlines() if line.endswith(" commit")]
        on_branch = [commit for commit in commits[:MOST_NAMESAKES] if await self._descends(head, commit)]
        if len(on_branch) > 1 or len(commits) > MOST_NAMESAKES:
            raise RefusedError(f"{name} fits more than one commit", where=self._git.where, hint="Give more digits.")
        if not on_branch:
            raise RefusedError(
                f"no commit on the branch begins with {name}",
                where=self._git.where,
                hint="Take an id from the branch's log, or from `reconciler history`.",
            )
        return on_branch[0]

    async def _ask(self, *arguments: str, stdin: str | None = None) -> str:
        """What git printed, stripped; "" where it failed."""
        completed = await self._git.run(["git", *arguments], stdin=None if stdin is None else stdin.encode())
        return completed.stdout.decode().strip() if completed.ok else ""

    async def verify(self, commit: str, since: str | None) -> None:
        check_commit(commit)
        if since is not None:
            check_commit(since)
        await self._repairing(commit, lambda: self._verify(commit, since))

    async def require_signed(self, commit: str) -> None:
        """Like ``verify`` of this commit alone, for a caller that holds the lock: it raises DamagedError."""
        check_commit(commit)
        await self._signatures.check([commit])

    async def _verify(self, commit: str, since: str | None) -> None:
        await self._signatures.check([commit] if since is None else await self._new_commits(commit, since))

    async def _new_commits(self, commit: str, since: str) -> list[str]:
        """Every commit that ``commit`` descends from and ``since`` does not, parents before children."""
        most = (f"--max-count={MOST_NEW + 1}", "--reverse", "--topo-order")
        completed = await self._git.run(
            ["git", "rev-list", *most, commit, f"^{since}", "--"], stdout=64 * (MOST_NEW + 1)
        )
        if completed.timed_out:
            self._git.raise_failure(completed, QUICK)
        if not completed.ok:
            await self._require_history(commit)
            raise UnverifiedError(
                f"the last accepted commit {since[:12]} is no longer in the repository, so it is unknown which commits "
                "are new",
                where=self._git.where,
                hint="Look at the branch's log, then `reconciler accept-rewrite`.",
            )
        new = completed.stdout.decode().split()
        if len(new) > MOST_NEW:
            raise UnverifiedError(
                f"more than {MOST_NEW} commits are new since {since[:12]}",
                where=self._git.where,
                hint="Look at the branch's log, then `reconciler accept-rewrite`.",
            )
        return new

    async def _repairing(self, commit: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """What ``attempt`` returns; where the mirror turns out to be damaged, repair it and retry once.

        The caller cannot: with the branch where it was, it has no reason to fetch.
        """
        try:
            return await attempt()
        except MissingCommitError:
            self._present.discard(commit)
        except DamagedError:
            self.mark_damaged()
        await self._bring(commit)
        try:
            return await attempt()
        except DamagedError as error:
            raise self._git.unreachable(
                f"the mirror is damaged, even after it was rebuilt: {error}", f"Check the disk of {self._git.git_dir}."
            ) from error

    async def _descends(self, commit: str, ancestor: str) -> bool:
        completed = await self._git.run(["git", "merge-base", "--is-ancestor", ancestor, commit])
        if _ended(completed) and completed.exit_code in (0, 1):
            return completed.exit_code == 0
        # Most often the ancestor is unknown here. If the commit's whole history is known, it is not part of it.
        await self._require_history(commit)
        return False

    async def _require_history(self, commit: str) -> None:
        if not (await self._git.run(["git", "rev-list", "--quiet", commit, "--"])).ok:
            raise DamagedError(f"the history of {commit[:12]} cannot be read")


def _ended(completed: process.Completed) -> bool:
    return not completed.timed_out and not completed.overflowed
