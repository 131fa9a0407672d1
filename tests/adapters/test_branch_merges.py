"""A branch is merged in a temporary repository: the result is git's own, and nothing of it stays or acts."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.adapters.git import branch_merges
from reconciler.adapters.git.branch_merges import GitBranchMerges
from reconciler.adapters.git.mirror import GitMirror
from reconciler.core.errors import ConfigError, GitUnreachableError, SourceError, UnverifiedError
from reconciler.core.model.revisions import Verify
from tests.support.git_remote import LINK, SUBMODULE, GitRemote, make_ssh_key

API, WORKER = "envs/production/api.env", "envs/production/worker.env"
BASE = {API: b"A=1\n\n\n\nB=1\n", WORKER: b"W=1\n"}


@pytest.fixture
def remote(git_remote: Callable[..., GitRemote]) -> GitRemote:
    remote = git_remote()
    remote.commit(BASE)
    remote.make_branch("change")
    return remote


@pytest.fixture
def mirror(remote: GitRemote, tmp_path: Path) -> GitMirror:
    signers = tmp_path / "allowed_signers"
    signers.write_text("")
    return GitMirror(
        url=remote.url, branch="main", state_dir=str(tmp_path / "state"), allowed_signers_file=str(signers)
    )


async def target_of(mirror: GitMirror) -> str:
    commit = await mirror.head()
    await mirror.fetch(commit)
    return commit


def left_in(mirror: GitMirror) -> list[str]:
    return [name for name in os.listdir(mirror.git.state_dir) if name.startswith(branch_merges.PREFIX)]


async def holds(mirror: GitMirror, name: str) -> bool:
    return (await mirror.git.run(["git", "cat-file", "-e", name])).ok


async def test_the_result_is_what_git_merges_later_and_nothing_of_it_stays(
    remote: GitRemote, mirror: GitMirror
) -> None:
    head = remote.commit({API: b"A=1\n\n\n\nB=2\n", "new": b"1"}, branch="change")
    remote.commit({API: b"A=2\n\n\n\nB=1\n"})
    target = await target_of(mirror)
    async with GitBranchMerges(mirror, Verify.NONE).merged("change", target) as merged:
        assert (merged.head, merged.target, merged.conflicts) == (head, target, ())
        planned = await merged.git.revision(merged.commit, "envs/production")
        blob = await merged.git.read(merged.commit, API)
        assert blob is not None
        assert blob.data == b"A=2\n\n\n\nB=2\n"
        assert await merged.git.read(target, WORKER) is not None  # what the mirror has can be read too
        assert len(left_in(mirror)) == 1
    assert left_in(mirror) == []
    assert not await holds(mirror, head)
    assert not await holds(mirror, blob.id)

    remote.merge("change")
    assert (await mirror.revision(await target_of(mirror), "envs/production")).subtree == planned.subtree


async def test_a_conflict_is_named(remote: GitRemote, mirror: GitMirror) -> None:
    remote.commit({API: b"A=2\n"}, branch="change")
    remote.commit({API: b"A=3\n"})
    async with GitBranchMerges(mirror, Verify.NONE).merged("change", await target_of(mirror)) as merged:
        assert (merged.commit, merged.conflicts) == ("", (API,))


async def test_nothing_that_a_branch_brings_acts_or_is_followed(
    remote: GitRemote, mirror: GitMirror, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    driver = f'* filter=x merge=x diff=x\n*.env merge=union\n[merge "x"]\n\tdriver = touch {trace}\n'
    files = {
        ".gitattributes": driver.encode(),
        ".gitmodules": b'[submodule "x"]\n\tpath = sub\n\turl = -u./x\n',
        ".git-hooks/post-merge": f"#!/bin/sh\ntouch {trace}\n".encode(),
        "envs/production/link.env": b"/etc/passwd",
        "envs/production/sub": b"1" * 40,
        API: b"A=2\n",
    }
    modes = {"envs/production/link.env": LINK, "envs/production/sub": SUBMODULE}
    remote.commit(files, branch="change", modes=modes)
    remote.commit({API: b"A=3\n"})
    target = await target_of(mirror)
    async with GitBranchMerges(mirror, Verify.NONE).merged("change", target) as merged:
        assert merged.conflicts == (API,)  # merge=union does not count
    remote.commit({API: BASE[API]}, branch="change")
    async with GitBranchMerges(mirror, Verify.NONE).merged("change", target) as merged:
        for path in ("envs/production/link.env", "envs/production/sub"):
            with pytest.raises(SourceError, match="cannot be used"):
                await merged.git.read(merged.commit, path)
    assert not trace.exists()


@pytest.mark.parametrize("verify", [Verify.TIP, Verify.RANGE])
async def test_only_signed_branches_are_merged_where_signatures_count(
    remote: GitRemote, mirror: GitMirror, tmp_path: Path, verify: Verify
) -> None:
    key = make_ssh_key(tmp_path / "key")
    Path(str(mirror.allowed_signers_file)).write_text(f"ada@example.org {Path(f'{key}.pub').read_text()}")
    target = await target_of(mirror)
    merges = GitBranchMerges(mirror, verify)
    remote.commit({API: b"A=2\n"}, branch="change")
    with pytest.raises(UnverifiedError):
        async with merges.merged("change", target):
            raise AssertionError
    remote.commit({API: b"A=3\n"}, branch="change", signing_key=key)
    if verify is Verify.RANGE:
        with pytest.raises(UnverifiedError):
            async with merges.merged("change", target):
                raise AssertionError
        remote.make_branch("change")
        remote.commit({API: b"A=3\n"}, branch="change", signing_key=key)
    async with merges.merged("change", target) as merged:
        assert merged.commit
    assert left_in(mirror) == []


async def test_a_branch_that_is_gone_or_too_large_leaves_nothing(
    remote: GitRemote, mirror: GitMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await target_of(mirror)
    os.makedirs(os.path.join(mirror.git.state_dir, f"{branch_merges.PREFIX}of-a-killed-daemon"))
    with pytest.raises(GitUnreachableError):
        async with GitBranchMerges(mirror, Verify.NONE).merged("nowhere", target):
            raise AssertionError
    monkeypatch.setattr(branch_merges, "LARGEST_BRANCH", 64 * 1024)
    remote.commit({"large": random.Random(1).randbytes(256 * 1024)}, branch="change")
    with pytest.raises(SourceError, match=re.escape("the branch has more than 0 MiB")):
        async with GitBranchMerges(mirror, Verify.NONE).merged("change", target):
            raise AssertionError
    assert left_in(mirror) == []


async def test_a_git_that_cannot_merge_like_this_is_named(
    remote: GitRemote, mirror: GitMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await target_of(mirror)
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text(f'#!/bin/sh\n[ "$1" = merge-tree ] && exit 129\nexec {shutil.which("git")} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    remote.commit({API: b"A=2\n"}, branch="change")
    with pytest.raises(ConfigError, match=r"Install git 2\.38"):
        async with GitBranchMerges(mirror, Verify.NONE).merged("change", target):
            raise AssertionError
