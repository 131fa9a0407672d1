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
- Importing it runs ``git version`` twice, GIT_PYTHON_REFRESH=quiet or not. See ``import_gitpython``.

git 2.32 or newer is needed: older ones do not know GIT_CONFIG_GLOBAL and GIT_CONFIG_COUNT.

No connection is shared between polls (ssh's ControlMaster): it saves half of the CPU time of a poll, but leaves a
process behind that survives the daemon and holds our pipes open.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from reconciler.adapters import process
from reconciler.adapters.git.command import (
    COMMIT_ID,
    COMMIT_NAME,
    HEAD_REF,
    LARGEST_OBJECT,
    check_branch,
    check_commit,
    check_path,
    check_url,
    fetch_command,
    ls_remote_command,
    sanitized,
)
from reconciler.adapters.git.errors import UnexplainedError
from reconciler.adapters.git.history import first_appearances
from reconciler.adapters.git.objects import (
    FILE_MODES,
    KEPT_OBJECTS,
    LFS_POINTERS,
    TREE_MODE,
    CommitObject,
    DamagedError,
    GitObject,
    KeptObjects,
    RefusedObject,
    TreeEntry,
    TreeListing,
    TreePlace,
    import_gitpython,
    parse_batch,
)
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.adapters.git.signatures import Signatures
from reconciler.core.errors import ConfigError, GitUnreachableError, RefusedError, SourceError, UnverifiedError
from reconciler.core.model.revisions import Blob, Revision

LARGEST_PACK = 2048 * process.MIB  # a push must not be able to fill the disk that the live files are on
MOST_PACKS = 20  # every fetch adds one; above this they are merged
MOST_PRESENT = 1000  # commits remembered as being in the mirror
MOST_NAMESAKES = 20  # commits whose ids begin alike
MOST_NEW = 100_000  # commits since the last accepted one, 4 MB of ids
LOOK_EVERY = 0.05  # seconds between two tries for the lock

T = TypeVar("T")


class GitMirror:
    """The ``Git`` port. The mirror is ``state_dir``/mirror.git, a cache: it may be deleted at any time.

    It holds packs only, and the branch as HEAD_REF. Objects that a rewritten branch left behind are kept, so that a
    pinned or last healthy revision stays readable. ``state_dir``/mirror.lock is held (flock) while it is changed,
    by whatever process.

    ``allowed_signers_file`` is what ``verify`` goes by, in the format of ssh-keygen; without it nothing is verified.
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
        self._state_dir = state_dir
        self._mirror = os.path.join(state_dir, "mirror.git")
        self._git = GitRunner(
            url=url,
            branch=branch,
            git_dir=self._mirror,
            state_dir=state_dir,
            key_file=ssh_key_file or "",
            known_hosts_file=known_hosts_file or "",
            token_file=token_file or "" if url.startswith("https:") else "",
        )
        self._signatures = Signatures(self._git, allowed_signers_file)
        self._poll_timeout = poll_timeout
        self._fetch_timeout = fetch_timeout
        self._present: set[str] = set()
        self._damaged = False
        self._kept = KeptObjects(KEPT_OBJECTS)

    @property
    def git(self) -> GitRunner:
        """How this remote is asked, for whoever writes to it."""
        return self._git

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

    async def refs(self, pattern: str) -> dict[str, str]:
        """Ask the remote for object ids by full ref name. Raises GitUnreachableError.

        git does not look at the mirror for it: a damaged one must not stop the polls.
        """
        self._git.require_files()
        command = ls_remote_command(self._git.url, pattern)
        completed = await self._git.run(command, git_dir=os.devnull, seconds=self._poll_timeout)
        # With --exit-code, 2 says that nothing matches. Of too long an answer the beginning will do.
        if not completed.overflowed and (completed.timed_out or completed.exit_code not in (0, 2)):
            self._git.raise_failure(completed, self._poll_timeout)
        pairs = (line.split("\t", 1) for line in completed.stdout.decode(errors="replace").splitlines() if "\t" in line)
        return {ref: object_id for object_id, ref in pairs}

    async def _no_branch(self) -> GitUnreachableError:
        advertised = await self.refs("refs/heads/*")
        heads = (ref.removeprefix("refs/heads/") for ref in advertised if ref.startswith("refs/heads/"))
        names = [sanitized(name, 60) for name in sorted(heads)]
        if not names:
            return self._git.unreachable("the repository is empty", f"Push the branch {self._branch}.")
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        return self._git.unreachable(
            f"the branch {self._branch!r} does not exist; the remote has: {shown}",
            "Correct repository.branch, or restore the branch.",
        )

    async def _bring(self, commit: str) -> None:
        """Fetch what is missing of the commit; make the mirror anew where it is missing or damaged."""
        async with self._exclusive():
            await self._bring_locked(commit)
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
            raise self._git.unreachable(
                f"the commit {commit[:12]} is not on the branch",
                "The branch moved or was rewritten meanwhile; the next poll sees where it is now.",
            )
        await self._merge_packs()

    async def _holds(self, revision: str) -> bool:
        """Whether the commit and every object of its tree are in the mirror. A damaged mirror gives False."""
        completed = await self._git.run(["git", "rev-list", "--quiet", "--objects", "--max-count=1", revision, "--"])
        return completed.ok

    async def _fetch_into(self, git_dir: str) -> None:
        completed = await self._git.run(
            fetch_command(self._git.url, self._branch),
            git_dir=git_dir,
            seconds=self._fetch_timeout,
            resources={resource.RLIMIT_FSIZE: LARGEST_PACK},
        )
        if completed.ok:
            return
        # index-pack dies of SIGXFSZ without a word; the size of what it leaves behind tells.
        if await asyncio.to_thread(_clear_leftovers, git_dir) >= LARGEST_PACK:
            raise self._git.unreachable(
                f"the repository is larger than {LARGEST_PACK // process.MIB} MiB",
                "Give the environments a repository of their own.",
            )
        self._git.raise_failure(completed, self._fetch_timeout)

    async def _rebuild(self) -> None:
        """Fetch everything into a new mirror, then put it in the place of the old one, which serves until then."""
        new, old = f"{self._mirror}.new", f"{self._mirror}.old"
        await asyncio.to_thread(_remove, new, old)
        os.mkdir(new, mode=0o700)
        completed = await self._git.run(
            ["git", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", new]
        )
        if not completed.ok:
            self._git.raise_failure(completed, QUICK)
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
            await self._git.run(["git", "repack", "-q", "-d", "-n", "--geometric=2"], seconds=self._fetch_timeout)

    @contextlib.asynccontextmanager
    async def latest(self) -> AsyncIterator[str]:
        """Ask for the branch's head, bring it, and hold the mirror still while the caller works with it.

        Raises as ``head`` and ``fetch`` do; also for an OSError of the caller's, who writes to ``state_dir``.
        """
        commit = await self.head()
        async with self._exclusive():
            await self._bring_locked(commit)
            yield commit

    @contextlib.asynccontextmanager
    async def held(self, commit: str) -> AsyncIterator[None]:
        """Have the commit in the mirror, and hold the mirror still while the caller works with it. Raises as
        ``latest`` does."""
        await self.fetch(commit)
        async with self._exclusive():
            yield

    def distrust(self) -> None:
        """Have the mirror made anew by the next fetch: somebody found it damaged."""
        self._damaged = True
        self._present.clear()

    @contextlib.asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        self._git.require_files()
        try:
            os.makedirs(self._state_dir, mode=0o700, exist_ok=True)
            lock = os.open(os.path.join(self._state_dir, "mirror.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                await self._wait_for(lock)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise self._git.unreachable(
                f"the mirror cannot be written ({error.strerror})", f"Check space and permissions of {self._state_dir}."
            ) from error

    async def _wait_for(self, lock: int) -> None:
        try:
            async with asyncio.timeout(self._fetch_timeout):
                while not _try_lock(lock):  # noqa: ASYNC110  # flock tells nobody when it comes free
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise self._git.unreachable(
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
            raise _refusal(commit, path, found.reason if isinstance(found, RefusedObject) else "it is no file")
        if found.data.startswith(LFS_POINTERS):
            raise _refusal(commit, path, "it is a Git LFS pointer, not the file; take it out of LFS in .gitattributes")
        return found

    async def names(self, commit: str, directory: str) -> tuple[str, ...]:
        """What lies in the directory, sorted; empty where there is no such directory. For a message's "there is"."""
        _, found = await self._mended(commit, lambda: self._open(commit, directory))
        return tuple(sorted(found.entries)) if isinstance(found, TreeListing) else ()

    async def descends(self, commit: str, ancestor: str) -> bool:
        check_commit(commit)
        check_commit(ancestor)
        return await self._mended(commit, lambda: self._descends(commit, ancestor))

    async def first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        check_commit(commit)
        check_path(directory)
        if since is not None:
            check_commit(since)
        return await self._mended(commit, lambda: self._first_seen(commit, since, directory))

    async def _first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        if since is not None and not await self._descends(commit, since):
            since = None
        try:
            return await first_appearances(self._git, commit, since, directory)
        except DamagedError:
            self.distrust()
            raise

    async def resolve(self, name: str) -> str:
        if not COMMIT_NAME.fullmatch(name):
            raise RefusedError(
                f"{sanitized(name, 60)!r} is no commit id", hint="Give at least 7 hexadecimal digits of it."
            )
        head = await self._ask("rev-parse", "--verify", "--quiet", f"{HEAD_REF}^{{commit}}")
        if not head:
            raise RefusedError("nothing was fetched from the branch yet", where=self._git.where, hint="Sync first.")
        return await self._mended(head, lambda: self._resolve(name.lower(), head))

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
        await self._mended(commit, lambda: self._verify(commit, since))

    async def require_signed(self, commit: str) -> None:
        """As ``verify`` of this commit alone, for whoever holds the mirror: raises DamagedError instead of mending."""
        check_commit(commit)
        await self._signatures.check([commit])

    async def _verify(self, commit: str, since: str | None) -> None:
        await self._signatures.check([commit] if since is None else await self._new_commits(commit, since))

    async def _new_commits(self, commit: str, since: str) -> list[str]:
        """Every commit that ``commit`` has and ``since`` has not, parents before children."""
        most = (f"--max-count={MOST_NEW + 1}", "--reverse", "--topo-order")
        completed = await self._git.run(
            ["git", "rev-list", *most, commit, f"^{since}", "--"], stdout=64 * (MOST_NEW + 1)
        )
        if completed.timed_out:
            self._git.raise_failure(completed, QUICK)
        if not completed.ok:
            await self._require_history(commit)
            raise UnverifiedError(
                f"the last accepted commit {since[:12]} is not in the repository any more, so it cannot be told which "
                "commits are new",
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

    async def _mended(self, commit: str, attempt: Callable[[], Awaitable[T]]) -> T:
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
            raise self._git.unreachable(
                f"the mirror is damaged, also after it was made anew: {error}", f"Check the disk of {self._mirror}."
            ) from error

    async def _descends(self, commit: str, ancestor: str) -> bool:
        completed = await self._git.run(["git", "merge-base", "--is-ancestor", ancestor, commit])
        if _ended(completed) and completed.exit_code in (0, 1):
            return completed.exit_code == 0
        # Most often the ancestor is unknown here. If the commit's whole history is known, it is not in there.
        await self._require_history(commit)
        return False

    async def _require_history(self, commit: str) -> None:
        if not (await self._git.run(["git", "rev-list", "--quiet", commit, "--"])).ok:
            raise self._damage(f"the history of {commit[:12]} cannot be read")

    async def _open(self, commit: str, path: str) -> tuple[TreeEntry | None, GitObject | None]:
        """The entry at ``path``, and the file or directory itself; (None, None) where there is nothing."""
        place = await self._find(commit, path)
        entry = place.entry
        if entry is None or entry.mode not in (TREE_MODE, *FILE_MODES):
            return entry, None
        found = place.read.get(entry.id) or self._kept.get(entry.id) or (await self._load([entry.id])).get(entry.id)
        if found is None:
            raise self._damage(f"the object {entry.id[:12]} is missing")
        return entry, found

    async def _find(self, commit: str, path: str) -> TreePlace:
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

    def _walk(self, commit: str, elements: Sequence[str], read: Mapping[str, GitObject]) -> TreePlace:
        """Raises KeyError with the id of an object that is neither among those just read nor remembered."""

        def recall(object_id: str) -> GitObject:
            return read[object_id] if object_id in read else self._kept.recall(object_id)

        top = recall(commit)
        if not isinstance(top, CommitObject):
            raise _refusal(commit, "the commit", top.reason if isinstance(top, RefusedObject) else "it is no commit")
        entry = TreeEntry(TREE_MODE, top.tree)
        for position, element in enumerate(elements):
            way = "/".join(elements[:position])
            if entry.mode in FILE_MODES:
                return TreePlace(top, None, read)
            if entry.mode != TREE_MODE:
                raise _refusal(commit, way, f"it is {entry.kind}, which is never followed")
            tree = recall(entry.id)
            if not isinstance(tree, TreeListing):
                raise _refusal(
                    commit, way or "/", tree.reason if isinstance(tree, RefusedObject) else "it is no directory"
                )
            if element not in tree.entries:
                return TreePlace(top, None, read)
            entry = tree.entries[element]
        return TreePlace(top, entry, read)

    async def _load(self, names: Sequence[str]) -> Mapping[str, GitObject]:
        """Read and remember the objects of these names. Where one is too large, git is stopped after the limit."""
        import_gitpython()
        completed = await self._git.run(
            ["git", "cat-file", "--batch"],
            stdin="".join(f"{name}\n" for name in names).encode(),
            stdout=len(names) * (LARGEST_OBJECT + process.KIB),
        )
        if completed.timed_out:
            self._git.raise_failure(completed, QUICK)
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
        self.distrust()
        return DamagedError(what)


def _ended(completed: process.Completed) -> bool:
    return not completed.timed_out and not completed.overflowed


def _refusal(commit: str, path: str, why: str) -> SourceError:
    hint = "Commit a regular file or directory there, or correct environment.yaml."
    return SourceError(f"{sanitized(path)} cannot be used: {why}", where=f"commit {commit[:12]}", hint=hint)


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
