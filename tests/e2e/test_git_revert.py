"""Reverts in git against real repositories, over file, ssh and https: what is pushed, and when nothing is."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.git import writer
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.git.writer import GitPusher
from reconciler.core.errors import (
    ConfigError,
    GitUnreachableError,
    RefusedError,
    RevertRefusedError,
    SignaturesUnavailableError,
    SourceError,
)
from reconciler.core.model.revisions import GitRevert, Reverted, RevertRequest, RevertState
from tests.support.commands import output
from tests.support.git_https import https_server
from tests.support.git_remote import LINK, SUBMODULE, GitRemote, make_ssh_key
from tests.support.processes import children
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

API, WORKER, OTHER = "envs/prod/api.env", "envs/prod/worker.env", "envs/staging/api.env"
PUSH, BRANCH = GitRevert.PUSH, GitRevert.BRANCH


@dataclass(slots=True)
class Site:
    """One remote and one server's state directory. ``good`` is the last healthy revision."""

    root: Path
    remote: GitRemote
    url: str = ""
    good: str = ""
    mirror: dict[str, Any] = field(default_factory=dict)
    pusher: dict[str, Any] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    def make(self) -> GitPusher:
        mirror = GitMirror(url=self.url or self.remote.url, branch="main", state_dir=str(self.state_dir), **self.mirror)
        return GitPusher(mirror, **{"author": "reconciler <reconciler@web-1>", **self.pusher})

    def request(self, failed: str | None = None, **overrides: str) -> RevertRequest:
        request = RevertRequest(
            environment="prod",
            directory="envs/prod",
            failed=failed or self.remote.head(),
            good=self.good,
            host="web-1",
            run="1a2b3c4d",
            reason="app/api is unhealthy",
        )
        return replace(request, **overrides)

    async def revert(self, failed: str | None = None, mode: GitRevert = PUSH, **overrides: str) -> Reverted:
        try:
            return await self.make().revert(self.request(failed, **overrides), mode)
        finally:
            assert self.left() == []

    def left(self) -> list[str]:
        """What the state directory holds beside the mirror, and the mirror beside what it should."""
        mirror = self.state_dir / "mirror.git"
        names = sorted(os.listdir(self.state_dir)) if self.state_dir.exists() else []
        odd = [str(path) for path in mirror.rglob("*") if path.suffix == ".lock" or path.parent.name == "worktrees"]
        loose = [str(path) for path in (mirror / "objects").glob("[0-9a-f][0-9a-f]/*")]
        return [*(name for name in names if name not in ("mirror.git", "mirror.lock")), *odd, *loose]

    def subtree(self, revision: str) -> str:
        return self.remote.git("rev-parse", f"{revision}:envs/prod")

    def message(self, revision: str = "main") -> str:
        return self.remote.git("log", "-1", "--format=%B", revision)

    def trailers(self, revision: str = "main") -> dict[str, str]:
        parsed = self.remote.git("interpret-trailers", "--parse", stdin=self.message(revision).encode())
        return dict(line.split(": ", 1) for line in parsed.splitlines())


@pytest.fixture
def site(tmp_path: Path, git_remote: Callable[..., GitRemote]) -> Site:
    made = Site(tmp_path, git_remote())
    made.good = made.remote.commit({API: b"A=1\r\nB=1\r\n", WORKER: b"W=1\n", OTHER: b"A=1\nB=1\n"}, "Good")
    return made


# --- what is pushed --------------------------------------------------------------------------------------------------


async def test_one_commit_is_reverted_with_its_reason_and_trailers(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Raise A\n\nBecause.")
    done = await site.revert(failed)
    head = site.remote.head()
    assert (done.state, done.branch, done.commit) == (RevertState.PUSHED, "main", head)
    assert head[:12] in done.reason
    assert failed[:12] in done.reason
    assert site.remote.read(API) == b"A=1\r\nB=1\r\n"
    assert site.remote.log() == [head, failed, site.good]
    assert site.message() == (
        f'Revert "Raise A"\n\nThis reverts commit {failed}.\n\nRolled back by reconciler: app/api is unhealthy\n\n'
        f"Reconciler-Rollback-Of: {failed}\nReconciler-Rollback-Environment: prod\n"
        "Reconciler-Rollback-Host: web-1\nReconciler-Rollback-Run: 1a2b3c4d"
    )
    assert site.trailers() == {
        "Reconciler-Rollback-Of": failed,
        "Reconciler-Rollback-Environment": "prod",
        "Reconciler-Rollback-Host": "web-1",
        "Reconciler-Rollback-Run": "1a2b3c4d",
    }
    people = site.remote.git("log", "-1", "--format=%an <%ae> %cn <%ce>")
    assert people == "reconciler <reconciler@web-1> reconciler <reconciler@web-1>"


async def test_a_range_is_undone_one_by_one_and_commits_elsewhere_stay(site: Site) -> None:
    first = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "First")
    site.remote.commit({OTHER: b"A=9\nB=1\n"}, "Elsewhere")
    second = site.remote.commit({API: b"A=3\r\nB=1\r\n", WORKER: None}, "Second")
    site.remote.commit({OTHER: b"A=10\nB=1\n"}, "After it")
    done = await site.revert(second)
    assert done.state is RevertState.PUSHED
    subjects = site.remote.git("log", "-3", "--format=%s").splitlines()
    assert subjects == ['Revert "First"', 'Revert "Second"', "After it"]
    assert site.subtree("main") == site.subtree(site.good)
    assert site.remote.read(OTHER) == b"A=10\nB=1\n"
    for revision in ("main", "main~1"):
        assert site.trailers(revision)["Reconciler-Rollback-Of"] == second
    assert f"This reverts commit {first}." in site.message()


async def test_a_merge_is_undone_as_a_whole(site: Site) -> None:
    site.remote.make_branch("side")
    site.remote.commit({API: b"A=2\r\nB=1\r\n"}, branch="side")
    site.remote.commit({API: b"A=3\r\nB=1\r\n"}, branch="side")
    before = site.remote.commit({OTHER: b"A=9\nB=1\n"}, "Meanwhile")
    merge = site.remote.merge("side", "Merge side")
    await site.revert(merge)
    assert site.remote.git("log", "--first-parent", "-2", "--format=%s").splitlines() == [
        'Revert "Merge side"',
        "Merge side",
    ]
    assert f"This reverts commit {merge}, reversing\nchanges made to {before}." in site.message()
    assert site.trailers()["Reconciler-Rollback-Of"] == merge
    assert site.subtree("main") == site.subtree(site.good)
    assert site.remote.read(OTHER) == b"A=9\nB=1\n"


async def test_merges_and_commits_mixed(site: Site) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "One")
    site.remote.make_branch("side")
    site.remote.commit({WORKER: b"W=2\n"}, branch="side")
    site.remote.merge("side", "Two")
    site.remote.commit({WORKER: b"W=3\n"}, "Three")
    site.remote.make_branch("elsewhere")
    site.remote.commit({OTHER: b""}, branch="elsewhere")
    site.remote.merge("elsewhere", "Not ours")
    await site.revert()
    subjects = site.remote.git("log", "--first-parent", "-3", "--format=%s").splitlines()
    assert subjects == ['Revert "One"', 'Revert "Two"', 'Revert "Three"']
    assert site.subtree("main") == site.subtree(site.good)
    assert site.remote.read(OTHER) == b""


async def test_a_new_environment_is_taken_away_again(site: Site) -> None:
    failed = site.remote.commit({"envs/new/api.env": b"A=1"}, "New")
    await site.revert(failed, environment="new", directory="envs/new")
    assert site.remote.git("ls-tree", "-r", "--name-only", "main").split() == [API, WORKER, OTHER]


async def test_a_root_directory_is_the_whole_repository(site: Site) -> None:
    await site.revert(site.remote.commit({OTHER: b"A=9"}, "Root"), directory="")
    assert site.remote.git("rev-parse", "main^{tree}") == site.remote.git("rev-parse", f"{site.good}^{{tree}}")


async def test_the_second_server_finds_the_work_done(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Raise A")
    done = await site.revert(failed)
    second = replace(site, root=site.root / "second")
    again = await second.revert(failed, host="web-2", run="ffffffff")
    assert (again.state, again.commit) == (RevertState.OVERTAKEN, done.commit)
    assert again.reason == f'already reverted by {done.commit[:12]} (Revert "Raise A")'
    assert site.remote.head() == done.commit


async def test_two_servers_at_the_same_time_end_with_one_revert(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Raise A")
    servers = [replace(site, root=site.root / name) for name in ("one", "two", "three")]
    done = await asyncio.gather(*(server.revert(failed, host=server.root.name) for server in servers))
    assert sorted(result.state for result in done) == ["overtaken", "overtaken", "pushed"]
    assert len(site.remote.log()) == 3


async def test_a_push_whose_answer_was_lost_is_known_as_ours(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    done = await site.revert(failed)
    again = await site.revert(failed)
    assert (again.state, again.commit) == (RevertState.PUSHED, done.commit)
    assert site.remote.head() == done.commit


async def test_a_manual_revert_is_found_too(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Raise A")
    theirs = site.remote.revert(failed)
    site.remote.commit({OTHER: b"x"}, "Elsewhere")
    done = await site.revert(failed)
    assert (done.state, done.commit) == (RevertState.OVERTAKEN, theirs)


async def test_a_newer_change_of_the_environment_is_left_to_be_judged(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    newer = site.remote.commit({API: b"A=3\r\nB=1\r\n"}, "Fix A")
    done = await site.revert(failed)
    assert (done.state, done.commit) == (RevertState.OVERTAKEN, newer)
    assert done.reason == (
        f"the branch has a newer change of the environment, {newer[:12]} (Fix A); it is judged on its own"
    )
    assert site.remote.head() == newer


# --- what is refused -------------------------------------------------------------------------------------------------


async def refused(site: Site, said: str, failed: str | None = None, mode: GitRevert = PUSH, **overrides: str) -> str:
    """The hint. Nothing was pushed."""
    before = site.remote.git("for-each-ref")
    with pytest.raises(RevertRefusedError, match=said) as caught:
        await site.revert(failed, mode, **overrides)
    assert site.remote.git("for-each-ref") == before
    assert not caught.value.retryable
    return caught.value.hint


async def test_a_conflict_names_the_commit_and_the_paths(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n", OTHER: b"A=2\nB=1\n", "ü": b"1"}, "Both")
    site.remote.commit({OTHER: b"A=3\nB=1\n", "ü": b"2"}, "Later, elsewhere")
    hint = await refused(
        site, rf"{failed[:12]} \(Both\) conflicts with later commits in envs/staging/api.env, ü", failed
    )
    assert "manually" in hint


async def test_our_own_revert_is_never_undone(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    done = await site.revert(failed)
    worse = site.remote.commit({API: b"A=4\r\nB=1\r\n"}, "Worse")
    assert "corrected" in await refused(site, f"undo our own revert {done.commit[:12]}", worse)


async def test_our_own_revert_is_known_when_it_came_through_review(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    done = await site.revert(failed, BRANCH)
    site.remote.merge(done.branch, "Merge pull request #1")
    worse = site.remote.commit({API: b"A=4\r\nB=1\r\n"}, "Worse")
    await refused(site, f"undo our own revert {done.commit[:12]}", worse)


async def test_our_revert_of_another_environment_is_in_nobodys_way(site: Site) -> None:
    elsewhere = site.remote.commit({OTHER: b"bad"}, "Elsewhere")
    await site.revert(elsewhere, environment="staging", directory="envs/staging")
    done = await site.revert(site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad"))
    assert done.state is RevertState.PUSHED


async def test_our_own_revert_that_changed_nothing_is_in_nobodys_way(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    done = await site.revert(failed, BRANCH)
    site.good = site.remote.revert(failed)
    site.remote.merge(done.branch, "Merge pull request #1")
    await site.revert(site.remote.commit({API: b"A=4\r\nB=1\r\n"}, "Worse"))
    assert site.remote.git("log", "-1", "--format=%s") == 'Revert "Worse"'


async def test_a_good_revision_outside_of_the_history_is_refused(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    site.remote.make_branch("side", site.good)
    aside = site.remote.commit({API: b"A=7"}, branch="side")
    for good in (aside, "1" * 40):
        await refused(site, f"{good[:12]}, the last good revision, is not part of", failed, good=good)
    await refused(site, "is not part of", "2" * 40)


async def test_history_that_came_together_the_other_way_round_is_refused(site: Site) -> None:
    """A merge whose first parent lacks the good revision: undoing it would undo the good one too."""
    base, good = site.good, site.remote.commit({API: b"A=good\r\nB=1\r\n"})
    site.remote.make_branch("mine", base)
    site.remote.commit({WORKER: b"W=bad\n"}, branch="mine")
    site.remote.merge("main", "Merge main into mine", branch="mine")
    site.remote.make_branch("main", "mine")
    await refused(site, "does not restore the environment", good=good)


async def test_nothing_to_undo_is_refused(site: Site) -> None:
    await refused(site, "none of the new commits touches", site.remote.commit({OTHER: b""}))
    await refused(site, "none of the new commits touches", site.good)


async def test_too_many_commits_are_for_an_operator(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST_COMMITS", 2)
    site.remote.commit({API: b"A=2"})
    site.remote.commit({API: b"A=3"})
    await site.revert()
    site.good = site.remote.head()
    for number in range(3):
        site.remote.commit({API: b"A=1%d" % number})
    await refused(site, "more than 2 commits")


async def test_what_git_must_not_be_given_never_reaches_it(site: Site) -> None:
    good = site.request()
    pusher = site.make()
    for request, error in (
        (replace(good, failed="--force"), RefusedError),
        (replace(good, good="main"), RefusedError),
        (replace(good, directory="../x"), SourceError),
        (replace(good, environment="a b"), ConfigError),
    ):
        with pytest.raises(error):
            await pusher.revert(request, PUSH)
    with pytest.raises(ConfigError):
        await pusher.revert(good, GitRevert.OFF)
    for author in ("nobody", "a <b", "a\n <b@c>", "<b@c>"):
        site.pusher["author"] = author
        with pytest.raises(ConfigError, match="is not a valid author"):
            site.make()


# --- a branch that moves, and a server that says no ------------------------------------------------------------------


def move_once(site: Site, path: str, data: str) -> None:
    """Somebody else pushes to ``path`` while our push is on its way, once."""
    site.remote.make_branch("theirs")
    commit = site.remote.commit({path: data.encode()}, "In between", branch="theirs")
    done = site.root / "moved"
    site.remote.hook(
        "pre-receive",
        # The quarantine of our push would not let another ref move.
        f"test -e {done} || {{ touch {done}; env -u GIT_QUARANTINE_PATH -u GIT_OBJECT_DIRECTORY "
        f"git update-ref refs/heads/main {commit}; }}",
    )


async def test_a_branch_that_moves_meanwhile_is_fetched_and_the_revert_made_again(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    move_once(site, OTHER, "theirs")
    done = await site.revert(failed)
    assert site.remote.git("log", "-3", "--format=%s").splitlines() == ['Revert "Bad"', "In between", "Bad"]
    assert done.commit == site.remote.head()
    assert site.remote.read(OTHER) == b"theirs"


async def test_a_branch_that_moves_to_a_new_change_meanwhile_is_not_touched(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    move_once(site, API, "fixed")
    assert (await site.revert(failed)).state is RevertState.OVERTAKEN
    assert site.remote.read(API) == b"fixed"


async def test_a_branch_that_always_moves_is_tried_again_later(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    site.remote.hook(
        "pre-receive",
        "unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY; echo x >> tries; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a "
        "GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a\n"
        "git update-ref refs/heads/main $(git commit-tree -p main -m again 'main^{tree}')",
    )
    with pytest.raises(GitUnreachableError, match="the branch moved 5 times") as caught:
        await site.revert(failed)
    assert caught.value.retryable
    assert len((site.remote.path / "tries").read_text().split()) == writer.ATTEMPTS


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
async def test_a_protected_branch_is_reported_in_the_servers_own_words(site: Site, hook: str) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    long = "x" * 100_000
    site.remote.hook(
        hook, f"echo; echo '====='; printf 'GitLab: You are not \\033[31mallowed to push {long[:500]}\\n' >&2; exit 1"
    )
    hint = await refused(
        site, "refuses the push to main: .*hook declined.*: GitLab: You are not \N{REPLACEMENT CHARACTER}"
    )
    assert "rollback.git: branch" in hint
    with pytest.raises(RevertRefusedError) as caught:
        await site.revert()
    assert len(caught.value.what) < 400
    assert "\n" not in caught.value.what


async def test_a_repository_that_takes_nothing_is_reported(site: Site) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    site.remote.git("config", "receive.maxInputSize", "1")
    await refused(site, "refuses the push to main: ")


async def test_a_remote_that_is_gone_is_tried_again(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    away = site.remote.path.rename(site.root / "away")
    with pytest.raises(GitUnreachableError) as caught:
        await site.revert(failed)
    assert caught.value.retryable
    away.rename(site.remote.path)
    assert (await site.revert(failed)).state is RevertState.PUSHED


async def test_only_a_fast_forward_of_one_ref_is_ever_asked_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.remote.git("tag", "v1", site.good)
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    calls = spied(tmp_path, monkeypatch)
    done = await site.revert(failed)
    (pushed,) = [line.split() for line in calls.read_text().splitlines() if line.startswith("push")]
    assert pushed[-3:] == ["--", site.remote.url, f"{done.commit}:refs/heads/main"]
    assert not [word for word in pushed if word.startswith(("+", "--force", "-f", "--mirror", "--all", "--tags"))]


def spied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str = "") -> Path:
    """Have every git note its arguments in the file that is returned, and run ``first`` before."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir(exist_ok=True)
    script = f'#!/bin/sh\necho "$@" >> {calls}\n{first}\nexec {shlex.quote(str(shutil.which("git")))} "$@"\n'
    (programs / "git").write_text(script)
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return calls


# --- a branch for review ---------------------------------------------------------------------------------------------


async def test_for_review_the_revert_goes_to_a_branch_of_its_own(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    done = await site.revert(failed, BRANCH)
    assert (done.state, done.branch) == (RevertState.PUSHED, f"reconciler/rollback-prod-{failed[:12]}")
    assert site.remote.head(done.branch) == done.commit
    assert site.remote.head() == failed
    assert site.subtree(done.branch) == site.subtree(site.good)
    again = await site.revert(failed, BRANCH)
    assert (again.state, again.commit) == (RevertState.PUSHED, done.commit)


async def test_a_branch_for_review_that_another_server_pushed_stays(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    done = await site.revert(failed, BRANCH)
    for origin in ({"host": "web-2"}, {"run": "ffffffff"}):
        again = await site.revert(failed, BRANCH, **origin)
        assert (again.state, again.commit) == (RevertState.OVERTAKEN, done.commit)
        assert f"has pushed {done.branch}" in again.reason
    assert site.remote.head(done.branch) == done.commit


async def test_a_branch_for_review_that_appears_meanwhile_stays(site: Site) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    name = f"reconciler/rollback-prod-{failed[:12]}"
    site.remote.hook("pre-receive", f"env -u GIT_QUARANTINE_PATH git update-ref refs/heads/{name} {site.good}")
    done = await site.revert(failed, BRANCH)
    assert (done.state, done.commit) == (RevertState.OVERTAKEN, site.good)


# --- hostile content -------------------------------------------------------------------------------------------------


async def test_nothing_of_the_repository_acts_or_is_checked_out(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, seen = tmp_path / "proof", tmp_path / "seen"
    evil = f"touch {proof}"
    attributes = (
        "* filter=lfs merge=evil diff=evil text=auto eol=lf ident working-tree-encoding=UTF-16\n"
        "[attr]evil filter=evil\n"
    )
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    site.good = site.remote.commit(
        {
            ".gitattributes": attributes.encode(),
            "envs/prod/.gitattributes": attributes.encode(),
            ".gitconfig": f'[merge "evil"]\n\tdriver = {evil}\n'.encode(),
            "big.bin": pointer,
            "sub": b"1" * 40,
            "link": b"/etc",
            "envs/prod/link": b"../../..",
            "hooks/post-checkout": f"#!/bin/sh\n{evil}\n".encode(),
        },
        "Traps",
        modes={"sub": SUBMODULE, "link": LINK, "envs/prod/link": LINK},
    )
    failed = site.remote.commit(
        {API: b"A=2\r\nB=1\r\n", "envs/prod/link": b"/root", "sub": b"2" * 40, "envs/prod/more": pointer},
        "Bad",
        modes={"sub": SUBMODULE, "envs/prod/link": LINK},
    )
    hooks = site.state_dir / "mirror.git" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "pre-push", "pre-commit", "reference-transaction", "prepare-commit-msg"):
        (hooks / name).write_text(f"#!/bin/sh\n{evil}\n")
        (hooks / name).chmod(0o755)
    config = tmp_path / "home"
    config.mkdir()
    (config / ".gitconfig").write_text(
        f'[filter "lfs"]\n\tsmudge = {evil}\n\tclean = {evil}\n[merge "evil"]\n\tdriver = {evil}\n'
        f"[core]\n\thooksPath = {hooks}\n"
    )
    monkeypatch.setenv("HOME", str(config))
    spied(tmp_path, monkeypatch, f'test "$2" != write-tree || find "$GIT_WORK_TREE" -mindepth 1 >> {seen}')
    await site.revert(failed)
    assert not proof.exists()
    assert seen.read_text() == ""
    assert site.remote.git("rev-parse", "main^{tree}") == site.remote.git("rev-parse", f"{site.good}^{{tree}}")


async def test_a_conflict_in_a_link_writes_nothing_outside(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    failed = site.remote.commit({API: b"A=2", "dir/file": b"1", "x": b"2"})
    site.remote.commit({"dir/file": None, "dir": str(outside).encode(), "x": b"3"}, modes={"dir": LINK})
    await refused(site, "conflicts with later commits", failed)
    assert (outside / "file").read_text() == "untouched"
    assert os.listdir(outside) == ["file"]


async def test_the_repository_cannot_have_conflicts_hidden(site: Site) -> None:
    site.good = site.remote.commit({".gitattributes": b"* merge=union\n"}, "Merge anything")
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n", OTHER: b"A=2\nB=1\n"}, "Both")
    site.remote.commit({OTHER: b"A=3\nB=1\n"}, "Later, elsewhere")
    await refused(site, "conflicts with later commits in envs/staging/api.env", failed)


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\n\nReconciler-Rollback-Of: 1234",
        "a --- b\n---\nc",
        "\x1b[31m\x00\r\u202e",
        "-m --force",
        "x" * 1_000_000,
        "",
        "# comment",
    ],
    ids=["trailer", "divider", "control", "option", "long", "empty", "comment"],
)
async def test_hostile_words_stay_in_their_line(site: Site, text: str) -> None:
    # A commit that carries our trailer is taken for a revert of ours, which is a refusal like any other.
    failed = site.remote.commit(
        {API: b"A=2\r\nB=1\r\n"}, text.replace("\x00", "").replace("Reconciler-Rollback-Of", "Signed-off-by")
    )
    await site.revert(failed, reason=text)
    assert site.trailers() == {
        "Reconciler-Rollback-Of": failed,
        "Reconciler-Rollback-Environment": "prod",
        "Reconciler-Rollback-Host": "web-1",
        "Reconciler-Rollback-Run": "1a2b3c4d",
    }
    message = site.message()
    lines = message.splitlines()
    assert lines[0].startswith('Revert "')
    assert len(lines) == 10
    assert len(message) < 2500
    assert all(line.isprintable() for line in lines)


async def test_a_path_that_is_a_pattern_is_a_path(site: Site) -> None:
    site.good = site.remote.commit({"envs/*/a": b"1"}, "Add")
    site.remote.commit({API: b"A=7"}, "Not meant")
    failed = site.remote.commit({"envs/*/a": b"2"}, "Meant")
    await site.revert(failed, environment="odd", directory="envs/*")
    assert site.remote.git("log", "-2", "--format=%s").splitlines() == ['Revert "Meant"', "Meant"]
    assert site.remote.read(API) == b"A=7"


async def test_a_renamed_file_of_one_environment_is_never_taken_for_anothers(site: Site) -> None:
    """git's guess at renames would carry the change over to a file that looks alike."""
    text = b"".join(b"KEY_%d=value\n" % number for number in range(50))
    site.good = site.remote.commit({API: text, WORKER: b"W=1\n"}, "Long")
    failed = site.remote.commit({API: text + b"BAD=1\n", "shared/api.env": text + b"BAD=1\n"}, "Bad")
    site.remote.commit({"shared/api.env": None, "envs/staging/copied.env": text + b"BAD=1\n"}, "Move")
    assert (await site.revert(failed)).state is RevertState.PUSHED
    assert site.remote.read(API) == text
    assert site.remote.read("envs/staging/copied.env") == text + b"BAD=1\n"


# --- a bad end -------------------------------------------------------------------------------------------------------


async def test_what_a_killed_daemon_left_is_removed(site: Site) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    leftover = site.state_dir / "revert-killed" / "git"
    leftover.mkdir(parents=True)
    (leftover / "index.lock").write_text("")
    assert (await site.revert()).state is RevertState.PUSHED


async def test_a_revert_that_is_called_off_leaves_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    calls = spied(tmp_path, monkeypatch, 'case "$*" in *" revert "*|push*) sleep 600;; esac')
    before = children()
    task = asyncio.create_task(site.make().revert(site.request(failed), PUSH))
    await asyncio.to_thread(eventually, lambda: calls.exists() and " revert " in calls.read_text())
    assert [name for name in site.left() if name.startswith("revert-")]
    directory = next(site.state_dir.glob("revert-*"))
    assert directory.stat().st_mode & 0o777 == 0o700
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.left() == []
    await asyncio.to_thread(eventually, lambda: children() <= before)


async def test_a_push_that_hangs_is_ended(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    site.pusher["push_timeout"] = 0.3
    spied(tmp_path, monkeypatch, 'test "$1" != push || sleep 600')
    before = children()
    with pytest.raises(GitUnreachableError, match="no answer within"):
        await site.revert(failed)
    await asyncio.to_thread(eventually, lambda: children() <= before)


@pytest.mark.parametrize("lost", ["FAILED^{tree}", "GOOD^{tree}", "MIDDLE:envs/prod"])
async def test_a_damaged_mirror_is_recreated(site: Site, lost: str) -> None:
    """What is missing in it must not look like a branch that has moved on, or a history that never was."""
    middle = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Middle")
    failed = site.remote.commit({API: b"A=3\r\nB=1\r\n"}, "Bad")
    site.remote.commit({OTHER: b"x"}, "Elsewhere")
    mirror = GitMirror(url=site.remote.url, branch="main", state_dir=str(site.state_dir))
    await mirror.fetch(site.remote.head())
    names = {"FAILED": failed, "GOOD": site.good, "MIDDLE": middle}
    for name, commit in names.items():
        lost = lost.replace(name, commit)
    lose(GitRemote(site.state_dir / "mirror.git"), lost)
    assert (await site.revert(failed)).state is RevertState.PUSHED
    assert site.subtree("main") == site.subtree(site.good)


async def test_a_git_that_fails_for_no_known_reason_is_tried_again_later(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, "Bad")
    spied(tmp_path, monkeypatch, 'test "$2" != write-tree || { echo "fatal: odd" >&2; exit 128; }')
    with pytest.raises(GitUnreachableError, match="the revert failed, even after the mirror was rebuilt: fatal: odd"):
        await site.revert(failed)
    assert site.remote.head() == failed


def lose(mirror: GitRemote, revision: str) -> None:
    """Unpack everything, without one object."""
    lost = mirror.git("rev-parse", revision)
    for pack in list((mirror.path / "objects" / "pack").glob("*.pack")):
        content = pack.read_bytes()
        for file in (mirror.path / "objects" / "pack").glob(f"{pack.stem}.*"):
            file.unlink()
        mirror.git("unpack-objects", "-q", stdin=content)
    (mirror.path / "objects" / lost[:2] / lost[2:]).unlink()


# --- ssh -------------------------------------------------------------------------------------------------------------


def over_ssh(site: Site, sshd: Sshd) -> Site:
    site.url = sshd.url(site.remote.path)
    site.mirror = {"ssh_key_file": str(sshd.key_path), "known_hosts_file": str(sshd.known_hosts)}
    return site


@pytest.mark.sshd
async def test_over_ssh_with_the_read_key(site: Site, sshd: Sshd) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    assert (await over_ssh(site, sshd).revert()).commit == site.remote.head()


@pytest.mark.sshd
async def test_over_ssh_a_read_only_key_is_reported_and_a_key_of_its_own_pushes(
    site: Site, sshd: Sshd, tmp_path: Path
) -> None:
    over_ssh(site, sshd)
    sshd.let_in(sshd.key_path, read_only=True)
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    hint = await refused(site, "refuses the push to main: ERROR: The key you .* marked as read only")
    assert f"Allow the key {sshd.key_path} to push" in hint
    push_key = make_ssh_key(tmp_path / "push_key")
    site.pusher["push_key_file"] = str(push_key)
    hint = await refused(site, "refuses the push to main: .*Permission denied")
    assert str(push_key) in hint
    sshd.let_in(push_key)
    assert (await site.revert()).state is RevertState.PUSHED
    site.pusher["push_key_file"] = str(tmp_path / "missing")
    with pytest.raises(GitUnreachableError, match="missing does not exist") as caught:
        await site.revert()
    assert "rollback.ssh_key_file" in caught.value.hint


@pytest.mark.sshd
async def test_whether_it_may_push_is_found_out_without_pushing(site: Site, sshd: Sshd, tmp_path: Path) -> None:
    over_ssh(site, sshd)
    head = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    site.remote.hook("pre-receive", f"touch {tmp_path}/ran")
    await site.make().may_push(head)
    site.remote.commit({API: b"A=3\r\nB=1\r\n"})
    await site.make().may_push(head)  # the branch has moved on: it knows us all the same
    sshd.let_in(sshd.key_path, read_only=True)
    with pytest.raises(RevertRefusedError, match=r"refuses the push: ERROR: The key you .* as read only") as caught:
        await site.make().may_push(head)
    assert f"Allow the key {sshd.key_path} to push there, or set rollback.git: off" in caught.value.hint
    sshd.stop()
    with pytest.raises(GitUnreachableError):
        await site.make().may_push(head)
    assert not (tmp_path / "ran").exists()


@pytest.mark.sshd
async def test_over_ssh_a_protected_branch_is_reported(site: Site, sshd: Sshd) -> None:
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    site.remote.hook("update", "echo 'error: GH006: Protected branch update failed' >&2; exit 1")
    await refused(over_ssh(site, sshd), "push to main: .*hook declined.*: error: GH006: Protected branch")


@pytest.mark.sshd
async def test_over_ssh_a_server_that_is_down_or_goes_down_is_tried_again(site: Site, sshd: Sshd) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    over_ssh(site, sshd)
    # Every process of the connection dies in the middle of the push.
    site.remote.hook("pre-receive", "kill -9 $PPID")
    with pytest.raises(GitUnreachableError) as caught:
        await site.revert(failed)
    assert caught.value.retryable
    sshd.stop()
    with pytest.raises(GitUnreachableError, match="does not answer"):
        await site.revert(failed)
    assert site.remote.head() == failed
    sshd.start()
    site.remote.hook("pre-receive", "")
    assert (await site.revert(failed)).state is RevertState.PUSHED


@pytest.mark.sshd
async def test_over_ssh_a_changed_host_key_is_never_pushed_to(site: Site, sshd: Sshd) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    sshd.rotate_host_key()
    with pytest.raises(GitUnreachableError, match="host key of localhost has changed"):
        await over_ssh(site, sshd).revert(failed)


# --- https -----------------------------------------------------------------------------------------------------------


async def test_over_https_the_token_pushes_and_is_never_shown(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "glpat-0123456789abcdef"
    file = tmp_path / "token"
    file.write_text(f"deploy:{token}\n")
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    calls = spied(tmp_path, monkeypatch)
    with https_server(site.remote.path.parent, tmp_path) as server:
        server.accounts = {f"deploy:{token}"}
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
        monkeypatch.setenv("no_proxy", "localhost")
        site.url, site.mirror = server.url(site.remote), {"token_file": str(file)}
        site.remote.hook("update", f"echo 'error: https://deploy:{token}@host/ says no to {token}' >&2; exit 1")
        with pytest.raises(RevertRefusedError, match=r"says no to \*\*\*") as caught:
            await site.revert(failed)
        assert token not in str(caught.value) + calls.read_text()
        assert "deploy" not in caught.value.what
        server.read_only = True
        with pytest.raises(RevertRefusedError, match=r"refuses the push to main: .*403"):
            await site.revert(failed)
        server.read_only = False
        site.remote.hook("update", "")
        assert (await site.revert(failed)).state is RevertState.PUSHED


# --- signatures ------------------------------------------------------------------------------------------------------


async def test_our_own_reverts_are_good_where_commits_are_verified(site: Site, tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "signing_key")
    signers = tmp_path / "allowed_signers"
    signers.write_text(f'reconciler@web-1 namespaces="git" {(tmp_path / "signing_key.pub").read_text()}')
    site.mirror = {"allowed_signers_file": str(signers)}
    site.pusher["signing_key_file"] = str(key)
    site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    failed = site.remote.commit({API: b"A=3\r\nB=1\r\n"})
    done = await site.revert(failed)
    mirror = GitMirror(url=site.remote.url, branch="main", state_dir=str(site.state_dir), **site.mirror)
    await mirror.fetch(done.commit)
    await mirror.verify(done.commit, failed)
    assert site.trailers()["Reconciler-Rollback-Of"] == failed


async def test_our_signature_vouches_for_no_head_without_one(site: Site, tmp_path: Path) -> None:
    """Or a server that looks at the tip alone would take it, and what lies below it for other environments."""
    key = make_ssh_key(tmp_path / "key")
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"ada@example.org {(tmp_path / 'key.pub').read_text()}")
    site.mirror = {"allowed_signers_file": str(signers)}
    site.pusher |= {"signing_key_file": str(key), "verifies": True}
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"}, signing_key=key)
    evil = site.remote.commit({OTHER: b"EVIL=1"}, author="Mallory <m@example.org>")
    for mode in (PUSH, BRANCH):
        await refused(site, f"{evil[:12]} by Mallory <m@example.org> is not signed, and a signed commit", failed, mode)
    site.remote.commit({OTHER: b""}, signing_key=key)
    assert (await site.revert(failed)).state is RevertState.PUSHED


async def test_a_signing_key_that_cannot_be_used_pushes_nothing(site: Site, tmp_path: Path) -> None:
    failed = site.remote.commit({API: b"A=2\r\nB=1\r\n"})
    locked = tmp_path / "locked"
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", locked)
    for key in (tmp_path / "missing", locked):
        site.pusher["signing_key_file"] = str(key)
        with pytest.raises(SignaturesUnavailableError, match=f"cannot be signed with {key}") as caught:
            await site.revert(failed)
        assert caught.value.retryable
        assert "rollback.signing_key_file" in caught.value.hint
    assert site.remote.head() == failed


# --- proposals -------------------------------------------------------------------------------------------------------


async def test_a_proposal_changes_its_files_only_on_a_branch_of_its_own(site: Site) -> None:
    base = site.remote.commit(
        {"link": b"/etc/passwd", "module": b"1" * 40, "run.sh": b"#!/bin/sh\n", ".gitattributes": b"* text filter=x"},
        modes={"link": LINK, "module": SUBMODULE, "run.sh": "100755"},
    )
    site.remote.commit({OTHER: b"meanwhile"})
    files = {API: b"A=9\r\n", "run.sh": b"#!/bin/bash\n", "envs/prod/ü $(x)\t'new'": b"\x00"}
    with pytest.raises(SourceError):
        await site.make().propose("reconciler/x", base, files, "Propose\n")
    files = {API: b"A=9\r\n", "run.sh": b"#!/bin/bash\n", "envs/prod/ü $(x) 'new'": b"\x00"}
    commit = await site.make().propose("reconciler/x", base, files, "Propose\n\nBecause.\n")
    assert site.remote.head("reconciler/x") == commit
    assert site.remote.git("rev-parse", f"{commit}^") == base
    assert site.remote.git("log", "-1", "--format=%B", commit) == "Propose\n\nBecause."
    changed = site.remote.git("diff", "--name-only", "-z", base, commit).split("\0")
    assert sorted(filter(None, changed)) == sorted(files)
    assert {path: site.remote.read(path, commit) for path in files} == files
    assert site.remote.git("ls-tree", commit, "run.sh").startswith("100755")
    assert site.left() == []


async def test_a_proposal_replaces_no_branch(site: Site) -> None:
    site.remote.make_branch("reconciler/x")
    site.remote.commit({OTHER: b"theirs"}, branch="reconciler/x")
    before = site.remote.git("for-each-ref")
    with pytest.raises(RefusedError, match="the branch reconciler/x exists already"):
        await site.make().propose("reconciler/x", site.good, {API: b""}, "Propose")
    with pytest.raises(ConfigError):
        await site.make().propose("--force", site.good, {API: b""}, "Propose")
    assert site.remote.git("for-each-ref") == before


async def test_a_proposal_vouches_for_no_base_without_a_signature(site: Site, tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "key")
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"ada@example.org {(tmp_path / 'key.pub').read_text()}")
    site.mirror = {"allowed_signers_file": str(signers)}
    site.pusher |= {"signing_key_file": str(key), "verifies": True}
    with pytest.raises(RefusedError, match="is not signed"):
        await site.make().propose("reconciler/x", site.good, {API: b""}, "Propose")
    signed = site.remote.commit({API: b"A=2"}, signing_key=key)
    await site.make().propose("reconciler/x", signed, {API: b"A=3"}, "Propose")
