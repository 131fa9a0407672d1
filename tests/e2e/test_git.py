"""The mirror against real git repositories, a real sshd and a real https server; nothing of git is faked.

Where a test needs git to hang, crash or tell what it was given, a small script stands before the real git on PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.git import command as git_command
from reconciler.adapters.git import mirror_directory, object_reader, objects
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.git.mirror_directory import MirrorDirectory
from reconciler.core.errors import ConfigError, GitUnreachableError, SourceError
from reconciler.core.text import instant
from tests.support.commands import output, run
from tests.support.connect_proxy import connect_proxy
from tests.support.git_https import TOKEN, HttpsRemote, https_server
from tests.support.git_remote import EXECUTABLE, LINK, SUBMODULE, GitRemote
from tests.support.processes import children
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

API = "envs/prod/api.env"
MakeRemote = Callable[..., GitRemote]


@pytest.fixture
def remote(git_remote: MakeRemote) -> GitRemote:
    return git_remote()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def mirror_of(remote: GitRemote | str, state_dir: Path, **overrides: Any) -> GitMirror:
    url = remote if isinstance(remote, str) else remote.url
    return GitMirror(**{"url": url, "branch": "main", "state_dir": str(state_dir), **overrides})


async def fetched(mirror: GitMirror) -> str:
    commit = await mirror.head()
    await mirror.fetch(commit)
    return commit


def left_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


async def content(mirror: GitMirror, path: str = API) -> bytes | None:
    blob = await mirror.read(await fetched(mirror), path)
    return None if blob is None else blob.data


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_a_file_is_read_as_it_was_committed(remote: GitRemote, state_dir: Path) -> None:
    data = b"A=1\r\n\0\xff\nmissing\n"
    commit = remote.commit({API: data, "README.md": b"hello"})
    mirror = mirror_of(remote, state_dir)
    assert await fetched(mirror) == commit
    blob = await mirror.read(commit, API)
    assert blob is not None
    assert blob.data == data
    assert blob.id == remote.git("rev-parse", f"main:{API}")


async def test_what_is_not_there_is_none(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    for path in ("nothing", "envs/prod/other.env", "envs/none/api.env", f"{API}/below"):
        assert await mirror.read(commit, path) is None


async def test_a_commit_is_described(remote: GitRemote, state_dir: Path) -> None:
    before = time.time()
    commit = remote.commit({API: b"A=1"}, "Rotate the key\n\nBecause.", author="Grace Höpper <grace@example.org>")
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    revision = await mirror.revision(commit, "envs/prod")
    assert (revision.commit, revision.author) == (commit, "Grace Höpper <grace@example.org>")
    assert revision.subject == "Rotate the key"
    assert before - 1 <= revision.committed_at <= time.time() + 1
    assert revision.subtree == remote.git("rev-parse", "main:envs/prod")


async def test_the_subtree_changes_with_its_own_files_only(remote: GitRemote, state_dir: Path) -> None:
    mirror = mirror_of(remote, state_dir)
    commits = [remote.commit({API: b"A=1"}), remote.commit({"README.md": b"elsewhere"}), remote.commit({API: b"A=2"})]
    await mirror.fetch(commits[-1])
    first, elsewhere, changed = [(await mirror.revision(commit, "envs/prod")).subtree for commit in commits]
    assert first == elsewhere
    assert elsewhere != changed
    assert (await mirror.revision(commits[0], "envs/none")).subtree == ""
    assert (await mirror.revision(commits[0], "")).subtree == remote.git("rev-parse", f"{commits[0]}^{{tree}}")


async def test_the_names_in_a_directory_are_reported(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({"envs/prod/a": b"", "envs/Staging/ü": b"", "envs/x": b""})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    assert await mirror.names(commit, "envs") == ("Staging", "prod", "x")
    assert await mirror.names(commit, "none") == ()
    assert await mirror.names(commit, "envs/x") == ()


async def test_a_second_read_of_the_same_content_starts_no_process(
    remote: GitRemote, state_dir: Path, spy: Spy
) -> None:
    commit = remote.commit({API: b"A=1", "envs/prod/b.env": b"B=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    await mirror.read(commit, API)
    spy.forget()
    await mirror.fetch(commit)
    await mirror.read(commit, API)
    await mirror.revision(commit, "envs/prod")
    assert spy.commands() == []
    later = remote.commit({"envs/prod/b.env": b"B=2"})
    await mirror.fetch(later)
    await mirror.revision(later, "envs/prod")
    spy.forget()
    assert await mirror.read(later, API) is not None
    assert spy.commands() == []


async def test_what_is_too_much_to_remember_is_read_again(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    commit = remote.commit({API: b"A=1", "envs/prod/b.env": b"B=1"})
    mirror = mirror_of(remote, state_dir)
    mirror._objects._kept = objects.KeptObjects(0)
    await mirror.fetch(commit)
    spy.forget()
    for _ in range(2):
        blobs = await asyncio.gather(*(mirror.read(commit, path) for path in (API, "envs/prod/b.env")))
        assert [blob and blob.data for blob in blobs] == [b"A=1", b"B=1"]
        assert (await mirror.revision(commit, "envs/prod")).subtree
        assert await mirror.names(commit, "envs") == ("prod",)
    assert {command[1] for command in spy.commands()} == {"cat-file"}


async def test_many_files_are_read_with_one_call(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    files = {f"envs/prod/{number}.env": b"A=%d" % number for number in range(20)}
    commit = remote.commit(files)
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    await mirror.names(commit, "envs/prod")
    spy.forget()
    await mirror.preload(commit, [*files, "envs/prod/none.env", "envs/prod/../up", "envs/none/a.env"])
    blobs = [await mirror.read(commit, path) for path in files]
    assert [blob and blob.data for blob in blobs] == list(files.values())
    assert [command[1] for command in spy.commands()] == ["cat-file"]
    await mirror.preload(commit, list(files))
    assert len(spy.commands()) == 1


async def test_concurrent_reads_agree(remote: GitRemote, state_dir: Path) -> None:
    files: dict[str, bytes | None] = {f"envs/prod/{number}.env": b"N=%d" % number for number in range(40)}
    commit = remote.commit(files)
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    blobs = await asyncio.gather(*(mirror.read(commit, path) for path in files))
    assert [blob and blob.data for blob in blobs] == list(files.values())


# --- hostile content -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "data", "said"),
    [(LINK, b"/etc/shadow", "symbolic link"), (SUBMODULE, b"1" * 40, "submodule")],
    ids=["link", "submodule"],
)
async def test_a_link_or_submodule_is_refused_by_name(
    remote: GitRemote, state_dir: Path, mode: str, data: bytes, said: str
) -> None:
    commit = remote.commit({API: data, "envs/file": b""}, modes={API: mode})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    for path in (API, f"{API}/below"):
        with pytest.raises(SourceError, match=f"{API}.*{said}"):
            await mirror.read(commit, path)
    with pytest.raises(SourceError, match=said):
        await mirror.revision(commit, API)


async def test_a_directory_is_not_a_file_and_a_file_not_a_directory(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    with pytest.raises(SourceError, match=r"envs/prod .*is a directory"):
        await mirror.read(commit, "envs/prod")
    with pytest.raises(SourceError, match="is a file, not a directory"):
        await mirror.revision(commit, API)


async def test_an_executable_file_is_a_file(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"}, modes={API: EXECUTABLE})
    assert await content(mirror_of(remote, state_dir)) == b"A=1"


async def test_a_file_over_the_limit_is_refused_without_being_held(remote: GitRemote, state_dir: Path) -> None:
    limit = git_command.LARGEST_OBJECT
    sizes = {"at.env": limit, "over.env": limit + 1, "far.env": 30 * 1024 * 1024}
    commit = remote.commit({name: bytes(size) for name, size in sizes.items()})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    at = await mirror.read(commit, "at.env")
    assert at is not None
    assert len(at.data) == limit
    before = peak_memory()
    for name, said in (("over.env", "5.0 MiB"), ("far.env", "30.0 MiB")):
        with pytest.raises(SourceError, match=rf"{name} cannot be used: it has {said}, the limit is 5 MiB"):
            await mirror.read(commit, name)
    assert peak_memory() - before < 25 * 1024


async def test_an_lfs_pointer_is_refused_and_says_so(remote: GitRemote, state_dir: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    commit = remote.commit({API: pointer, ".gitattributes": b"*.env filter=lfs\n"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    with pytest.raises(SourceError, match="Git LFS pointer"):
        await mirror.read(commit, API)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "envs/../../x", "envs//prod", "a\0b", "a\nb"])
async def test_a_path_that_leads_out_is_refused_before_git_is_asked(
    remote: GitRemote, state_dir: Path, spy: Spy, path: str
) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    spy.forget()
    with pytest.raises(SourceError):
        await mirror.read(commit, path)
    assert spy.commands() == []


def hostile_commit(remote: GitRemote, name: str, mode: str = "100644") -> str:
    """A commit whose tree holds an entry that git itself would never make."""
    if mode == "040000":
        thing = remote.git("mktree", stdin=b"")
    else:
        thing = remote.git("hash-object", "-w", "--stdin", stdin=b"evil")
    entry = f"{mode.lstrip('0')} {name}\0".encode() + bytes.fromhex(thing)
    tree = remote.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=entry)
    commit = remote.git("commit-tree", "-m", "evil", tree)
    remote.git("update-ref", "refs/heads/main", commit)
    return commit


HOSTILE = pytest.mark.parametrize(
    ("name", "mode"),
    [(".git", "040000"), (".git", "100644"), (".GIT", "100644"), ("..", "040000"), (".", "040000"), ("../x", "100644")],
)


@HOSTILE
async def test_a_hostile_tree_stalls_only_until_a_later_commit_takes_it_out(
    remote: GitRemote, state_dir: Path, name: str, mode: str
) -> None:
    mirror = mirror_of(remote, state_dir)
    good = remote.commit({API: b"A=1"})
    await mirror.fetch(good)
    commit = hostile_commit(remote, name, mode)
    await mirror.fetch(commit)
    with pytest.raises(SourceError, match="malformed") as caught:
        await mirror.revision(commit, "envs")
    assert caught.value.blames_revision
    clean = remote.git("commit-tree", "-m", "Take it out", "-p", commit, f"{good}^{{tree}}")
    remote.git("update-ref", "refs/heads/main", clean)
    await mirror.fetch(clean)
    assert await mirror.read(clean, API) == await mirror.read(good, API)
    assert await mirror.descends(clean, good) is False  # the hostile commit has no parent


def raw_commit(remote: GitRemote, header: str, tree: str, parent: str) -> str:
    """A commit with these author and committer lines, which git itself would never write."""
    text = f"tree {tree}\nparent {parent}\n{header}\n\nOdd\n".encode()
    commit = remote.git("hash-object", "-t", "commit", "--literally", "-w", "--stdin", stdin=text)
    remote.git("update-ref", "refs/heads/main", commit)
    return commit


@pytest.mark.parametrize(
    "header",
    [
        "author A <a@b> 99999999999999999999 +0000\ncommitter A <a@b> 99999999999999999999 +0000",
        "author A <a@b> 1 +0000\nauthor B <b@b> 1 +0000\ncommitter A <a@b> 0001 +0000",
        "author  <> 1 +0000\ncommitter A<a@b> 1 +0000",
        "committer A <a@b> 1 +0000",
    ],
    ids=["date", "two authors", "names", "no author"],
)
async def test_an_odd_commit_stops_neither_itself_nor_what_follows(
    remote: GitRemote, state_dir: Path, header: str
) -> None:
    mirror = mirror_of(remote, state_dir)
    good = remote.commit({API: b"A=1"})
    await mirror.fetch(good)
    odd = raw_commit(remote, header, remote.git("rev-parse", f"{good}^{{tree}}"), good)
    await mirror.fetch(odd)
    instant((await mirror.revision(odd, "envs")).committed_at)
    after = remote.commit({API: b"A=2"})
    await mirror.fetch(after)
    blob = await mirror.read(after, API)
    assert blob is not None
    assert blob.data == b"A=2"
    assert await mirror.descends(after, good)


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        pytest.param("git refuses object .*nulInHeader", b"tree TREE\nparent GOOD\nauthor A\0 WHO\n", id="NUL"),
        pytest.param("git refuses object .*unterminatedHeader", b"tree TREE\nparent GOOD\nauthor A WHO", id="cut off"),
        pytest.param("git failed", b"parent GOOD\nauthor A WHO\ncommitter A WHO\n\nOdd\n", id="no tree"),
        pytest.param("git failed", b"tree ?\nauthor A WHO\ncommitter A WHO\n\nOdd\n", id="a tree that is no id"),
        pytest.param("git failed", b"tree GARBAGE\nparent GOOD\nauthor A WHO\ncommitter A WHO\n\nOdd\n", id="garbage"),
    ],
)
async def test_a_commit_that_git_cannot_read_blocks_the_branch_until_it_is_out_of_the_history(
    remote: GitRemote, state_dir: Path, said: str, headers: bytes
) -> None:
    mirror = mirror_of(remote, state_dir)
    good = remote.commit({API: b"A=1"})
    await mirror.fetch(good)
    written = ("hash-object", "--literally", "-w", "--stdin", "-t")
    words = {"GOOD": good, "TREE": remote.git("rev-parse", f"{good}^{{tree}}"), "WHO": "<a@b> 1 +0000"}
    words["GARBAGE"] = remote.git(*written, "tree", stdin=b"garbage")
    for word, text in words.items():
        headers = headers.replace(word.encode(), text.encode())
    commit = remote.git(*written, "commit", stdin=headers)
    (remote.path / "refs/heads/main").write_text(f"{commit}\n")
    with pytest.raises((SourceError, GitUnreachableError), match=said):
        await fetched(mirror)
    blob = await mirror.read(good, API)
    assert blob is not None
    assert blob.data == b"A=1"
    (remote.path / "refs/heads/main").write_text(f"{good}\n")
    assert await content(mirror) == b"A=1"


async def test_a_duplicate_name_in_a_directory_is_refused(remote: GitRemote, state_dir: Path) -> None:
    mirror = mirror_of(remote, state_dir)
    blobs = [remote.git("hash-object", "-w", "--stdin", stdin=data) for data in (b"A=1", b"A=2")]
    entries = b"".join(b"100644 api.env\0" + bytes.fromhex(blob) for blob in blobs)
    tree = remote.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=entries)
    commit = remote.git("commit-tree", "-m", "Twice", tree)
    remote.git("update-ref", "refs/heads/main", commit)
    await mirror.fetch(commit)
    with pytest.raises(SourceError, match="appears twice"):
        await mirror.read(commit, "api.env")


@HOSTILE
async def test_a_hostile_tree_that_got_into_the_mirror_is_refused(
    remote: GitRemote, state_dir: Path, name: str, mode: str
) -> None:
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(remote.commit({API: b"A=1"}))
    commit = hostile_commit(GitRemote(state_dir / "mirror.git"), name, mode)
    with pytest.raises(SourceError, match="malformed"):
        await mirror.read(commit, "x")


async def test_a_large_directory_is_refused(
    remote: GitRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reader, "LARGEST_OBJECT", 4096)
    monkeypatch.setattr(objects, "LARGEST_OBJECT", 4096)
    commit = remote.commit({f"envs/{number:05}": b"" for number in range(500)})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    with pytest.raises(SourceError, match=r"envs cannot be used: it has 0.0 MiB"):
        await mirror.read(commit, "envs/00001")


async def test_a_repository_that_would_fill_the_disk_is_refused(
    remote: GitRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_directory, "LARGEST_PACK", 1024 * 1024)
    remote.commit({API: os.urandom(3 * 1024 * 1024)})
    with pytest.raises(GitUnreachableError, match="larger than"):
        await fetched(mirror_of(remote, state_dir))


async def test_nothing_of_the_repository_is_run(remote: GitRemote, state_dir: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    evil = f"touch {proof}"
    commit = remote.commit(
        {
            API: b"A=1",
            ".gitattributes": b"* filter=evil diff=evil\n",
            ".gitconfig": f"[core]\n\tfsmonitor = {evil}\n".encode(),
            "hooks/post-checkout": f"#!/bin/sh\n{evil}\n".encode(),
        },
        modes={"hooks/post-checkout": EXECUTABLE},
    )
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    hooks = state_dir / "mirror.git" / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-fetch", "pre-auto-gc", "post-checkout"):
        (hooks / name).write_text(f"#!/bin/sh\n{evil}\n")
        (hooks / name).chmod(0o755)
    remote.commit({API: b"A=2"})
    assert await content(mirror) == b"A=2"
    assert not proof.exists()


async def test_configuration_and_variables_from_outside_do_not_act(
    remote: GitRemote, git_remote: MakeRemote, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    elsewhere = git_remote("elsewhere")
    elsewhere.commit({API: b"EVIL=1"})
    evil = tmp_path / "evil"
    (evil / "hooks").mkdir(parents=True)
    hook = evil / "hooks" / "reference-transaction"
    hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
    hook.chmod(0o755)
    config = (
        f'[core]\n\thooksPath = {evil}/hooks\n\tfsmonitor = "touch {proof}"\n\tsshCommand = "touch {proof}"\n'
        f'[url "{elsewhere.url}"]\n\tinsteadOf = {remote.url}\n[init]\n\ttemplateDir = {evil}\n'
    )
    (evil / ".gitconfig").write_text(config)
    leaks = {
        "HOME": evil,
        "XDG_CONFIG_HOME": evil,
        "GIT_CONFIG_GLOBAL": evil / ".gitconfig",
        "GIT_CONFIG_SYSTEM": evil / ".gitconfig",
        "GIT_CONFIG_COUNT": 1,
        "GIT_CONFIG_KEY_0": f"url.{elsewhere.url}.insteadOf",
        "GIT_CONFIG_VALUE_0": remote.url,
        "GIT_TEMPLATE_DIR": evil,
        "GIT_DIR": elsewhere.path,
        "GIT_COMMON_DIR": elsewhere.path,
        "GIT_OBJECT_DIRECTORY": elsewhere.path / "objects",
        "GIT_SSH_COMMAND": f"touch {proof}",
        "GIT_TRACE": tmp_path / "trace",
    }
    commit = remote.commit({API: b"A=1"})
    for name, value in leaks.items():
        monkeypatch.setenv(name, str(value))
    mirror = mirror_of(remote, state_dir)
    assert await content(mirror) == b"A=1"
    assert await mirror.descends(commit, commit)
    assert not proof.exists()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "settings",
    [
        b'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c id\n\tupdate = !id\n',
        b'[submodule "x"]\n\tpath = x\n\turl = -u./x\n',
        b'[submodule "../x"]\n\tpath = -x\n\turl = y\n',
    ],
    ids=["command", "option", "path"],
)
async def test_submodule_settings_are_inert_and_stop_nothing(
    remote: GitRemote, state_dir: Path, spy: Spy, settings: bytes
) -> None:
    mirror = mirror_of(remote, state_dir)
    for files in ({".gitmodules": settings, API: b"A=1"}, {".gitmodules": None, API: b"A=2"}):
        commit = remote.commit(files)
        await mirror.fetch(commit)
        blob = await mirror.read(commit, API)
        assert blob is not None
        assert blob.data == files[API]
    assert not [command for command in spy.commands() if "submodule" in command]


@pytest.mark.parametrize("branch", ["--upload-pack=touch proof", "-f"])
async def test_a_ref_named_like_an_option_is_refused(remote: GitRemote, state_dir: Path, branch: str) -> None:
    with pytest.raises(ConfigError, match="not a valid branch name"):
        mirror_of(remote, state_dir, branch=branch)


def test_our_rule_for_branch_names_is_gits() -> None:
    pieces = [*"a@{-~^:?*[\\ü /", "b.c", ".", "..", "@{", ".lock", "HEAD"]
    for name in [*pieces, *(first + second for first in pieces for second in pieces)]:
        theirs = run("git", "check-ref-format", "--branch", name, env={"PATH": os.environ["PATH"]}, cwd="/")
        try:
            git_command.check_branch(name)
        except ConfigError:
            # git takes "@" for HEAD, which is no branch of the remote's.
            assert theirs.returncode != 0 or name in ("@", "HEAD"), name
        else:
            assert theirs.returncode == 0, name


# --- the remote's branch ---------------------------------------------------------------------------------------------


async def test_the_poll_names_the_one_branch(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    remote.commit({API: b"A=2"}, branch="heads/main")
    remote.commit({API: b"A=3"}, branch="a/refs/heads/main")
    remote.git("tag", "main", "heads/main")
    assert await mirror_of(remote, state_dir).head() == commit
    remote.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(GitUnreachableError, match="the branch 'main' does not exist"):
        await mirror_of(remote, state_dir).head()


async def test_a_poll_starts_one_process_and_reads_nothing(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    spy.forget()
    await mirror.head()
    assert [command[1] for command in spy.commands()] == ["ls-remote"]
    assert left_in(state_dir) == []


async def test_an_announced_head_is_fetched_without_asking_for_it(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    mirror = mirror_of(remote, state_dir)
    first = remote.commit({API: b"A=1"})
    assert await mirror.fetch_head() == first
    second = remote.commit({API: b"A=2"})
    spy.forget()
    assert await mirror.fetch_head() == second
    await mirror.fetch(second)
    assert [command[1] for command in spy.commands()] == ["fetch"]
    assert (blob := await mirror.read(second, API)) is not None
    assert blob.data == b"A=2"
    assert await mirror.fetch_head() == second
    remote.make_branch("main", first)  # rewritten: whether that is accepted, others decide
    assert await mirror.fetch_head() == first


@pytest.mark.parametrize("left", [b"", b"\xff\xfe\t", b"0123\t\tbranch 'main'"])
async def test_a_damaged_note_of_git_about_its_fetch_is_not_believed(
    remote: GitRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    mirror = mirror_of(remote, state_dir)
    remote.commit({API: b"A=1"})
    await mirror.fetch_head()
    head = remote.commit({API: b"A=2"})
    fetch = MirrorDirectory.fetch

    async def damaged(directory: MirrorDirectory, seconds: float | None = None) -> None:
        await fetch(directory, seconds)
        (state_dir / "mirror.git" / "FETCH_HEAD").write_bytes(left)

    monkeypatch.setattr(MirrorDirectory, "fetch", damaged)
    assert await mirror.fetch_head() == head


async def test_an_announced_head_that_cannot_be_fetched_so_is_asked_for(remote: GitRemote, state_dir: Path) -> None:
    mirror = mirror_of(remote, state_dir)
    head = remote.commit({API: b"A=1"})
    await mirror.fetch_head()
    for pack in (state_dir / "mirror.git" / "objects" / "pack").iterdir():
        pack.unlink()
    assert await mirror.fetch_head() == head
    assert (blob := await mirror_of(remote, state_dir).read(head, API)) is not None
    assert blob.data == b"A=1"
    remote.make_branch("other")
    remote.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(GitUnreachableError, match="the branch 'main' does not exist; the remote has: other"):
        await mirror.fetch_head()


async def test_a_missing_branch_says_what_there_is(remote: GitRemote, state_dir: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        remote.commit({API: b"A=1"}, branch=name)
    with pytest.raises(GitUnreachableError) as caught:
        await mirror_of(remote, state_dir).head()
    assert "the branch 'main' does not exist; the remote has: a, b, c, d, e, …" in str(caught.value)
    assert remote.url in str(caught.value)
    assert caught.value.retryable


async def test_a_remote_with_very_many_branches_works(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"}, branch="b")
    lines = (f"{commit} refs/heads/b{number:05}\n" for number in range(20_000))
    (remote.path / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + "".join(lines))
    with pytest.raises(GitUnreachableError, match="the remote has: b, b00000, b00001, b00002, b00003, …"):
        await mirror_of(remote, state_dir).head()


async def test_an_empty_repository_says_so(remote: GitRemote, state_dir: Path) -> None:
    with pytest.raises(GitUnreachableError, match="the repository is empty"):
        await mirror_of(remote, state_dir).head()


async def test_a_deleted_branch_is_reported_and_its_content_stays_readable(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"other"}, branch="other")
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    commit = await fetched(mirror)
    remote.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(GitUnreachableError, match="does not exist; the remote has: other"):
        await mirror.head()
    again = mirror_of(remote, state_dir)
    blob = await again.read(commit, API)
    assert blob is not None
    assert blob.data == b"A=1"


async def test_a_remote_that_is_gone_and_comes_back(remote: GitRemote, state_dir: Path, tmp_path: Path) -> None:
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    commit = await fetched(mirror)
    remote.path.rename(tmp_path / "away")
    with pytest.raises(GitUnreachableError, match="repository does not exist") as caught:
        await mirror.head()
    assert caught.value.retryable
    assert not caught.value.blames_revision
    assert await mirror.read(commit, API) is not None
    (tmp_path / "away").rename(remote.path)
    remote.commit({API: b"A=2"})
    assert await content(mirror) == b"A=2"


async def test_a_rewritten_branch_is_fetched_and_reported_apart(remote: GitRemote, state_dir: Path) -> None:
    first = remote.commit({API: b"A=1"})
    second = remote.commit({API: b"A=2"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(second)
    assert await mirror.descends(second, first)
    assert await mirror.descends(second, second)
    assert not await mirror.descends(first, second)
    remote.git("update-ref", "refs/heads/main", first)
    forced = remote.commit({API: b"A=3"})
    assert await content(mirror) == b"A=3"
    assert await mirror.descends(forced, first)
    assert not await mirror.descends(forced, second)
    # The revision that was live until then can still be read, by a later process too.
    assert await mirror_of(remote, state_dir).read(second, API) is not None


async def test_an_unknown_ancestor_is_none(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    assert not await mirror.descends(commit, "1" * 40)


async def test_a_branch_that_was_rewritten_between_poll_and_fetch_is_tried_again(
    remote: GitRemote, state_dir: Path
) -> None:
    base = remote.commit({API: b"A=1"})
    lost = remote.commit({API: b"A=2"})
    mirror = mirror_of(remote, state_dir)
    assert await mirror.head() == lost
    remote.git("update-ref", "refs/heads/main", base)
    with pytest.raises(GitUnreachableError, match="is not on the branch") as caught:
        await mirror.fetch(lost)
    assert caught.value.retryable
    assert await fetched(mirror) == base


async def test_a_branch_that_moved_on_between_poll_and_fetch_brings_the_commit_too(
    remote: GitRemote, state_dir: Path
) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.head()
    remote.commit({API: b"A=2"})
    await mirror.fetch(commit)
    blob = await mirror.read(commit, API)
    assert blob is not None
    assert blob.data == b"A=1"


async def test_the_branch_in_the_config_may_change(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"}, branch="a")
    remote.commit({API: b"B=1"}, branch="b/c")
    assert await content(mirror_of(remote, state_dir, branch="a")) == b"A=1"
    assert await content(mirror_of(remote, state_dir, branch="b/c")) == b"B=1"
    remote.git("update-ref", "-d", "refs/heads/a")
    remote.make_branch("a/x", "b/c")
    assert await content(mirror_of(remote, state_dir, branch="a/x")) == b"B=1"


async def test_a_sha256_repository_is_refused_by_name(state_dir: Path, tmp_path: Path) -> None:
    remote = GitRemote(tmp_path / "sha256.git")
    remote.path.mkdir()
    remote.git("init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", ".")
    remote.commit({API: b"A=1"})
    with pytest.raises(GitUnreachableError, match="SHA-256 object ids"):
        await mirror_of(remote, state_dir).head()


@pytest.mark.root
async def test_a_local_repository_of_another_user_is_reported(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    os.chown(remote.path, 65534, 65534)
    with pytest.raises(GitUnreachableError, match="belongs to another user"):
        await mirror_of(remote, state_dir).head()


# --- crashes and damage ----------------------------------------------------------------------------------------------


async def test_what_a_killed_git_left_behind_is_cleared(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await fetched(mirror)
    inside = state_dir / "mirror.git"
    left = [
        inside / name
        for name in (
            "HEAD.lock",
            "config.lock",
            "packed-refs.lock",
            "shallow.lock",
            "refs/reconciler/head.lock",
            "objects/pack/tmp_pack_abc",
            "objects/pack/.tmp-1-pack-abc.pack",
            "objects/pack/pack-1.keep",
        )
    ]
    for file in left:
        file.write_bytes(b"")
    same = os.lstat(inside).st_ino
    remote.commit({API: b"A=2"})
    assert await content(mirror) == b"A=2"
    assert not [file for file in left if file.exists()]
    assert os.lstat(inside).st_ino == same, "it was enough to clear them; the mirror need not be rebuilt"


async def test_a_git_killed_half_way_through_a_fetch_stops_nothing(
    remote: GitRemote, state_dir: Path, spy: Spy
) -> None:
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await fetched(mirror)
    commit = remote.commit({API: b"A=2"})
    spy.run_first('if [ "$1" = fetch ]; then touch "$GIT_DIR/refs/reconciler/head.lock"; kill -9 $$; fi')
    with pytest.raises(GitUnreachableError) as caught:
        await mirror.fetch(commit)
    assert caught.value.retryable
    spy.run_first("")
    for each in (mirror, mirror_of(remote, state_dir)):
        assert await content(each) == b"A=2"


def truncate_packs(mirror: Path) -> None:
    for pack in mirror.glob("objects/pack/*.pack"):
        pack.chmod(0o644)
        os.truncate(pack, pack.stat().st_size - 40)


def scramble_packs(mirror: Path) -> None:
    for pack in mirror.glob("objects/pack/*.pack"):
        pack.chmod(0o644)
        data = pack.read_bytes()
        pack.write_bytes(data[:12] + bytes(byte ^ 0x55 for byte in data[12:-20]) + data[-20:])


def pack_files(mirror: Path) -> list[Path]:
    return list(mirror.glob("objects/pack/*"))


def remove_packs(mirror: Path) -> None:
    for file in pack_files(mirror):
        file.unlink()


def remove_head(mirror: Path) -> None:
    (mirror / "HEAD").unlink()


def empty_ref(mirror: Path) -> None:
    (mirror / git_command.HEAD_REF).write_bytes(b"")


def scramble_config(mirror: Path) -> None:
    (mirror / "config").write_bytes(b"[[[")


def remove_all(mirror: Path) -> None:
    shutil.rmtree(mirror)


DAMAGE = pytest.mark.parametrize(
    "damage",
    [truncate_packs, scramble_packs, remove_packs, remove_head, empty_ref, scramble_config, remove_all],
    ids=lambda damage: damage.__name__,
)


@DAMAGE
async def test_a_damaged_mirror_is_recreated_by_the_next_fetch(
    remote: GitRemote, state_dir: Path, damage: Callable[[Path], None]
) -> None:
    remote.commit({API: b"A=1"})
    await fetched(mirror_of(remote, state_dir))
    damage(state_dir / "mirror.git")
    remote.commit({API: b"A=2"})
    assert await content(mirror_of(remote, state_dir)) == b"A=2"
    assert left_in(state_dir) == ["mirror.git", "mirror.lock"]


@DAMAGE
async def test_a_damaged_mirror_is_recreated_by_the_next_read_if_nothing_fetches(
    remote: GitRemote, state_dir: Path, damage: Callable[[Path], None]
) -> None:
    first = remote.commit({API: b"A=1"})
    commit = remote.commit({"envs/prod/b.env": b"B=1"})
    await fetched(mirror_of(remote, state_dir))
    damage(state_dir / "mirror.git")
    mirror = mirror_of(remote, state_dir)
    assert await mirror.descends(commit, first)
    blobs = await asyncio.gather(*(mirror.read(commit, path) for path in (API, "envs/prod/b.env")))
    assert [blob and blob.data for blob in blobs] == [b"A=1", b"B=1"]


async def test_lost_history_is_repaired(remote: GitRemote, state_dir: Path) -> None:
    """The head is whole, so neither a fetch of git's nor a look at the head notices."""
    first = remote.commit({API: b"A=1"})
    await fetched(mirror_of(remote, state_dir))
    oldest = pack_files(state_dir / "mirror.git")
    second = remote.commit({API: b"A=2"})
    await fetched(mirror_of(remote, state_dir))
    for file in oldest:
        os.unlink(file)
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(first)
    assert await mirror.descends(second, first)
    blob = await mirror.read(first, API)
    assert blob is not None
    assert blob.data == b"A=1"


async def test_a_damaged_object_is_noticed_and_repaired(remote: GitRemote, state_dir: Path) -> None:
    """Its compressed data is sound, so git itself prints it without a word."""
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    commit = await fetched(mirror)
    inside = GitRemote(state_dir / "mirror.git")
    blob_id = inside.git("rev-parse", f"{commit}:{API}")
    # A loose object of another content under this id, and no pack that has the right one.
    pack = next(inside.path.glob("objects/pack/*.pack"))
    data = pack.read_bytes()
    remove_packs(inside.path)
    inside.git("unpack-objects", "-q", stdin=data)
    loose = inside.path / "objects" / blob_id[:2] / blob_id[2:]
    wrong_id = inside.git("hash-object", "-w", "--stdin", stdin=b"A=2")
    loose.unlink()
    shutil.copy(inside.path / "objects" / wrong_id[:2] / wrong_id[2:], loose)
    blob = await mirror.read(commit, API)
    assert blob is not None
    assert blob.data == b"A=1"
    same = os.lstat(inside.path).st_ino
    await mirror.fetch(remote.commit({API: b"A=2"}))
    assert os.lstat(inside.path).st_ino == same, "repaired once, it is sound"


async def test_a_damaged_mirror_whose_remote_is_gone_is_tried_again(
    remote: GitRemote, state_dir: Path, tmp_path: Path
) -> None:
    remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    commit = await fetched(mirror)
    truncate_packs(state_dir / "mirror.git")
    remote.path.rename(tmp_path / "away")
    with pytest.raises(GitUnreachableError, match="repository does not exist"):
        await mirror.read(commit, API)
    (tmp_path / "away").rename(remote.path)
    assert await mirror.read(commit, API) is not None


async def test_a_failing_remote_does_not_cost_the_mirror(remote: GitRemote, state_dir: Path, tmp_path: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = mirror_of(remote, state_dir)
    await mirror.fetch(commit)
    later = remote.commit({API: b"A=2"})
    truncate_packs(remote.path)
    for loose in remote.path.glob("objects/??/*"):
        loose.unlink()
    with pytest.raises(GitUnreachableError):
        await mirror.fetch(later)
    blob = await mirror_of("/nowhere", state_dir).read(commit, API)
    assert blob is not None


async def test_two_concurrent_fetches_do_not_disturb_each_other(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirrors = [mirror_of(remote, state_dir) for _ in range(4)]
    await asyncio.gather(*(mirror.fetch(commit) for mirror in mirrors for _ in range(3)))
    for number in range(3):
        later = remote.commit({API: b"N=%d" % number})
        await asyncio.gather(*(mirror.fetch(later) for mirror in mirrors))
    for mirror in mirrors:
        assert await content(mirror) == b"N=2"


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir()
    with open(state_dir / "mirror.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_a_fetch_of_another_process_is_waited_for_but_not_for_ever(remote: GitRemote, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    with locked(state_dir):
        held = descriptors()
        with pytest.raises(GitUnreachableError, match="another process has been fetching"):
            await mirror_of(remote, state_dir, fetch_timeout=0.2).fetch(commit)
        given_up = asyncio.create_task(mirror_of(remote, state_dir).fetch(commit))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert descriptors() == held
        waiting = asyncio.create_task(mirror_of(remote, state_dir).fetch(commit))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_a_git_that_hangs_is_ended(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    commit = remote.commit({API: b"A=1"})
    spy.run_first("sleep 60")
    mirror = mirror_of(remote, state_dir, poll_timeout=0.2, fetch_timeout=0.2)
    before = children()
    with pytest.raises(GitUnreachableError, match=r"no answer within 0.2 s"):
        await mirror.head()
    spy.run_first('[ "$1" = fetch ] && sleep 60')
    with pytest.raises(GitUnreachableError, match=r"no answer within 0.2 s"):
        await mirror.fetch(commit)
    assert children() <= before
    spy.run_first("")
    await mirror_of(remote, state_dir).fetch(commit)


async def test_a_fetch_that_is_called_off_leaves_the_way_free(remote: GitRemote, state_dir: Path, spy: Spy) -> None:
    commit = remote.commit({API: b"A=1"})
    spy.run_first('[ "$1" = fetch ] && sleep 60')
    mirror = mirror_of(remote, state_dir)
    task = asyncio.create_task(mirror.fetch(commit))
    await asyncio.to_thread(eventually, lambda: any(command[1] == "fetch" for command in spy.commands()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spy.run_first("")
    await mirror.fetch(commit)


async def test_a_state_directory_that_cannot_be_written_is_reported(remote: GitRemote, tmp_path: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GitUnreachableError, match="the mirror cannot be written") as caught:
        await mirror_of(remote, tmp_path / "file" / "state").fetch(commit)
    assert caught.value.retryable


async def test_without_git_the_message_says_how_to_get_it(
    remote: GitRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitUnreachableError, match="apt-get install git"):
        await mirror_of(remote, state_dir).head()


async def test_the_mirror_is_for_its_owner_only(remote: GitRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    await fetched(mirror_of(remote, state_dir))
    for path in (state_dir, state_dir / "mirror.git"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (state_dir / "mirror.lock").stat().st_mode & 0o777 == 0o600


# --- ssh -------------------------------------------------------------------------------------------------------------


def over_ssh(remote: GitRemote, sshd: Sshd, state_dir: Path, **overrides: Any) -> GitMirror:
    places = {"ssh_key_file": str(sshd.key_path), "known_hosts_file": str(sshd.known_hosts), **overrides}
    return mirror_of(sshd.url(remote.path), state_dir, **places)


def other_key(directory: Path, name: str = "other_key") -> Path:
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name)
    return directory / name


@pytest.mark.sshd
async def test_over_ssh_with_the_right_key(remote: GitRemote, sshd: Sshd, state_dir: Path, tmp_path: Path) -> None:
    remote.commit({API: b"A=1"})
    assert await content(over_ssh(remote, sshd, state_dir)) == b"A=1"
    odd = tmp_path / "a dir with 'quotes', \\ and \", $(id) and 100%"
    odd.mkdir()
    for file in (sshd.key_path, sshd.known_hosts):
        shutil.copy(file, odd / file.name)
    places = {"ssh_key_file": str(odd / "client_key"), "known_hosts_file": str(odd / "known_hosts")}
    remote.commit({API: b"A=2"})
    assert await content(over_ssh(remote, sshd, state_dir, **places)) == b"A=2"


@pytest.mark.sshd
async def test_a_changed_host_key_is_refused_and_never_replaced(remote: GitRemote, sshd: Sshd, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    known = sshd.known_hosts.read_bytes()
    sshd.rotate_host_key()
    with pytest.raises(GitUnreachableError, match="SSH host key of localhost has changed") as caught:
        await over_ssh(remote, sshd, state_dir).head()
    assert str(sshd.known_hosts) in caught.value.hint
    assert sshd.known_hosts.read_bytes() == known
    sshd.write_known_hosts()
    assert await content(over_ssh(remote, sshd, state_dir)) == b"A=1"


@pytest.mark.sshd
async def test_an_unknown_host_is_refused_with_the_command_that_asks_for_its_key(
    remote: GitRemote, sshd: Sshd, state_dir: Path
) -> None:
    remote.commit({API: b"A=1"})
    sshd.known_hosts.write_bytes(b"")
    with pytest.raises(GitUnreachableError, match="SSH host key of localhost is not in") as caught:
        await over_ssh(remote, sshd, state_dir).head()
    assert f"ssh-keyscan -p {sshd.port} localhost" in caught.value.hint
    assert sshd.known_hosts.read_bytes() == b""


@pytest.mark.sshd
async def test_a_key_that_is_not_accepted(remote: GitRemote, sshd: Sshd, state_dir: Path, tmp_path: Path) -> None:
    remote.commit({API: b"A=1"})
    key = other_key(tmp_path)
    with pytest.raises(GitUnreachableError, match=f"localhost does not accept the SSH key {key}") as caught:
        await over_ssh(remote, sshd, state_dir, ssh_key_file=str(key)).head()
    assert "deploy key" in caught.value.hint


@pytest.mark.sshd
async def test_a_key_that_others_may_read(remote: GitRemote, sshd: Sshd, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    sshd.key_path.chmod(0o644)
    with pytest.raises(GitUnreachableError, match="others may read it") as caught:
        await over_ssh(remote, sshd, state_dir).head()
    assert f"chmod 600 {sshd.key_path}" in caught.value.hint


@pytest.mark.sshd
async def test_a_key_that_is_broken_or_missing(remote: GitRemote, sshd: Sshd, state_dir: Path, tmp_path: Path) -> None:
    remote.commit({API: b"A=1"})
    sshd.key_path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    with pytest.raises(GitUnreachableError, match="cannot be read"):
        await over_ssh(remote, sshd, state_dir).head()
    for field_name in ("ssh_key_file", "known_hosts_file"):
        missing = str(tmp_path / "missing")
        with pytest.raises(GitUnreachableError, match=f"{missing} does not exist or cannot be read") as caught:
            await over_ssh(remote, sshd, state_dir, **{field_name: missing}).head()
        assert f"repository.{field_name}" in caught.value.hint


@pytest.mark.sshd
async def test_a_repository_that_the_server_does_not_have(sshd: Sshd, state_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(GitUnreachableError, match="repository does not exist"):
        await over_ssh(GitRemote(tmp_path / "none.git"), sshd, state_dir).head()


@pytest.mark.sshd
async def test_a_server_that_is_down_and_comes_back(remote: GitRemote, sshd: Sshd, state_dir: Path) -> None:
    commit = remote.commit({API: b"A=1"})
    mirror = over_ssh(remote, sshd, state_dir)
    await mirror.fetch(commit)
    sshd.stop()
    with pytest.raises(GitUnreachableError, match="localhost does not answer") as caught:
        await mirror.head()
    assert caught.value.retryable
    assert sshd.url(remote.path) in str(caught.value)
    assert await mirror.read(commit, API) is not None
    sshd.start()
    remote.commit({API: b"A=2"})
    assert await content(mirror) == b"A=2"


async def test_a_name_that_cannot_be_resolved(state_dir: Path, tmp_path: Path) -> None:
    key = other_key(tmp_path)
    mirror = mirror_of(
        "ssh://git@no-such-host.invalid/config.git", state_dir, ssh_key_file=str(key), known_hosts_file=str(key)
    )
    with pytest.raises(GitUnreachableError, match=r"no-such-host\.invalid cannot be resolved"):
        await mirror.head()


# --- https -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def https(remote: GitRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpsRemote]:
    with https_server(remote.path.parent, tmp_path) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
        monkeypatch.setenv("no_proxy", "localhost")
        yield server


def over_https(remote: GitRemote, https: HttpsRemote, state_dir: Path, token: str = TOKEN) -> GitMirror:
    file = https.certificate.parent / "token"
    file.write_text(token)
    file.chmod(0o600)
    return mirror_of(https.url(remote), state_dir, token_file=str(file))


async def test_over_https_with_a_token(remote: GitRemote, https: HttpsRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    assert await content(over_https(remote, https, state_dir)) == b"A=1"
    remote.commit({API: b"A=2"})
    assert await content(over_https(remote, https, state_dir, f"{TOKEN}\n")) == b"A=2"


async def test_a_token_with_a_user_name(remote: GitRemote, https: HttpsRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    https.accounts = {f"deploy-1:{TOKEN}"}
    assert await content(over_https(remote, https, state_dir, f"deploy-1:{TOKEN}\n")) == b"A=1"


async def test_the_token_is_in_no_argument_no_variable_and_no_message(
    remote: GitRemote, https: HttpsRemote, state_dir: Path, spy: Spy
) -> None:
    remote.commit({API: b"A=1"})
    await content(over_https(remote, https, state_dir))
    https.accounts = set()
    with pytest.raises(GitUnreachableError, match="localhost refuses access to the repository") as caught:
        await over_https(remote, https, state_dir).head()
    assert https.seen[-1] == f"x-access-token:{TOKEN}"
    assert "token_file" in caught.value.hint
    for text in (json.dumps(spy.calls()), str(caught.value), repr(caught.value)):
        assert TOKEN not in text
    assert not holding(state_dir, TOKEN)


def holding(directory: Path, text: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_a_wrong_token_and_none(remote: GitRemote, https: HttpsRemote, state_dir: Path) -> None:
    remote.commit({API: b"A=1"})
    with pytest.raises(GitUnreachableError, match="refuses access"):
        await over_https(remote, https, state_dir, "wrong").head()
    with pytest.raises(GitUnreachableError, match="refuses access"):
        await mirror_of(https.url(remote), state_dir).head()
    with pytest.raises(GitUnreachableError, match="does not exist or cannot be read"):
        await mirror_of(https.url(remote), state_dir, token_file="/nowhere/token").head()


async def test_a_redirect_to_another_server_gets_no_token(
    remote: GitRemote, https: HttpsRemote, state_dir: Path, tmp_path: Path
) -> None:
    remote.commit({API: b"A=1"})
    with https_server(remote.path.parent, tmp_path) as thief:
        https.redirect_to = f"https://localhost:{thief.port}"
        with pytest.raises(GitUnreachableError):
            await over_https(remote, https, state_dir).head()
        assert thief.seen
        assert not any(TOKEN in account for account in thief.seen)


async def test_a_certificate_that_cannot_be_verified(
    remote: GitRemote, https: HttpsRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")
    with pytest.raises(GitUnreachableError, match="TLS certificate of localhost cannot be verified"):
        await over_https(remote, https, state_dir).head()
    assert https.seen == []


async def test_through_a_proxy_with_the_certificates_of_other_programs(
    remote: GitRemote, https: HttpsRemote, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.commit({API: b"A=1"})
    monkeypatch.delenv("GIT_SSL_CAINFO")
    monkeypatch.setenv("SSL_CERT_FILE", str(https.certificate))
    monkeypatch.delenv("no_proxy")
    with connect_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert await content(over_https(remote, https, state_dir)) == b"A=1"
    assert set(proxy.asked_for) == {f"localhost:{https.port}"}


async def test_an_https_server_that_is_down(remote: GitRemote, state_dir: Path, tmp_path: Path) -> None:
    with https_server(remote.path.parent, tmp_path) as server:
        mirror = over_https(remote, server, state_dir)
    with pytest.raises(GitUnreachableError, match="localhost does not answer"):
        await mirror.head()


# --- GitPython -------------------------------------------------------------------------------------------------------


def test_gitpython_is_imported_when_needed_and_starts_no_process(spy: Spy) -> None:
    program = (
        "import sys\nfrom reconciler.adapters.git import object_reader\nassert 'git' not in sys.modules\n"
        "from reconciler.adapters.imports import import_gitpython\n"
        "import_gitpython()\nimport git\nassert git.Commit\n"
    )
    output(sys.executable, "-c", program, env={"PATH": os.environ["PATH"]})
    assert spy.commands() == []


# --- a long life -----------------------------------------------------------------------------------------------------


async def test_nothing_grows_over_hundreds_of_fetches(remote: GitRemote, state_dir: Path) -> None:
    rounds, warm = 120, 40
    commits = history(remote, rounds)
    branch = remote.path / "refs" / "heads" / "main"
    mirror = mirror_of(remote, state_dir)
    held = resident = 0
    before = children()
    for number, commit in enumerate(commits):
        branch.write_text(f"{commit}\n")
        assert await fetched(mirror) == commit
        blob = await mirror.read(commit, API)
        assert blob is not None
        assert blob.data.startswith(b"N=%d\n" % number)
        if number == warm:
            held, resident = descriptors(), memory()
    assert descriptors() <= held
    assert children() <= before
    assert memory() - resident < 6 * 1024
    packs = list((state_dir / "mirror.git" / "objects" / "pack").glob("*.pack"))
    assert len(packs) <= mirror_directory.MOST_PACKS + 1
    assert await mirror.read(commits[0], API) is not None


def history(remote: GitRemote, length: int) -> list[str]:
    """So many commits that change the file, made by one process; their ids, oldest first."""
    stream = []
    for number in range(length):
        data = b"N=%d\n" % number + os.urandom(2000)
        stream.append(b"commit refs/heads/main\ncommitter A <a@x> %d +0000\ndata 1\nx\n" % (1_700_000_000 + number))
        stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (API.encode(), len(data), data))
    remote.git("fast-import", "--quiet", stdin=b"".join(stream))
    return remote.log()[::-1]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Resident memory of this process in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def peak_memory() -> int:
    """In KiB."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])


# --- what git is given -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spy:
    """Stands before git on PATH, notes arguments and environment, then becomes the real git."""

    directory: Path

    def run_first(self, script: str) -> None:
        (self.directory / "first").write_text(script)

    def commands(self) -> list[list[str]]:
        return [call["argv"] for call in self.calls()]

    def calls(self) -> list[dict[str, Any]]:
        notes = self.directory / "calls"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def forget(self) -> None:
        (self.directory / "calls").unlink(missing_ok=True)


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spy:
    directory = tmp_path / "spy"
    directory.mkdir()
    real = shutil.which("git")
    assert real is not None
    note = directory / "note.py"
    note.write_text(
        "import json, os, sys\n"
        f"with open({str(directory / 'calls')!r}, 'a') as file:\n"
        "    print(json.dumps({'argv': ['git', *sys.argv[1:]], 'env': dict(os.environ)}), file=file)\n"
    )
    script = directory / "git"
    script.write_text(
        f'#!/bin/sh\n{shlex.quote(sys.executable)} -SE {note} "$@"\n. {directory}/first\n'
        f'exec {shlex.quote(real)} "$@"\n'
    )
    script.chmod(0o755)
    (directory / "first").write_text("")
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Spy(directory)
