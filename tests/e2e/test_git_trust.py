"""Which commits count as signed, and which commit an id stands for: real git, real ssh-keygen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.git import mirror as git
from reconciler.adapters.git import signatures
from reconciler.adapters.git.mirror import GitMirror
from reconciler.core.errors import RefusedError, SignaturesUnavailableError, UnverifiedError
from tests.support.git_remote import GitRemote, make_ssh_key

pytestmark = pytest.mark.slow

API = "envs/prod/api.env"
ADA = "Ada Example <ada@example.org>"


@pytest.fixture
def remote(git_remote: Callable[..., GitRemote]) -> GitRemote:
    return git_remote()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_ssh_key(tmp_path / "ada")


@pytest.fixture
def signers(tmp_path: Path, key: Path) -> Path:
    file = tmp_path / "allowed_signers"
    allow(file, key)
    return file


def allow(file: Path, key: Path, options: str = 'namespaces="git"', before: str = "") -> None:
    file.write_text(f"{before}ada@example.org {options} {key.with_suffix('.pub').read_text()}")


def mirror_of(remote: GitRemote, tmp_path: Path, signers: Path | None, **overrides: Any) -> GitMirror:
    allowed = None if signers is None else str(signers)
    state_dir = str(tmp_path / "state")
    return GitMirror(url=remote.url, branch="main", state_dir=state_dir, allowed_signers_file=allowed, **overrides)


async def verify(remote: GitRemote, tmp_path: Path, signers: Path | None, since: str | None = None) -> None:
    mirror = mirror_of(remote, tmp_path, signers)
    commit = await mirror.head()
    await mirror.fetch(commit)
    await mirror.verify(commit, since)


# --- one commit ------------------------------------------------------------------------------------------------------


async def test_a_commit_of_an_allowed_signer_is_good(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    await verify(remote, tmp_path, signers)


async def test_an_unsigned_commit_names_itself_and_its_author(remote: GitRemote, tmp_path: Path, signers: Path) -> None:
    commit = remote.commit({API: b"A=1"}, author="Mallory \u202e <m@example.org>")
    with pytest.raises(UnverifiedError) as caught:
        await verify(remote, tmp_path, signers)
    assert (
        caught.value.what
        == f"the commit {commit[:12]} by Mallory \N{REPLACEMENT CHARACTER} <m@example.org> is not signed"
    )
    assert "sign it" in caught.value.hint
    assert caught.value.blames_revision


async def test_another_key_is_not_good_enough(remote: GitRemote, tmp_path: Path, signers: Path) -> None:
    remote.commit({API: b"A=1"}, signing_key=make_ssh_key(tmp_path / "mallory"))
    with pytest.raises(UnverifiedError, match=r"is signed by SHA256:\S+, a key that is not in .*allowed_signers"):
        await verify(remote, tmp_path, signers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('valid-before="20200101"', "the key was not valid"),
        ('valid-after="20990101"', "the key was not valid"),
        ('namespaces="file"', "may not sign commits"),
    ],
    ids=["expired", "not yet valid", "for other things"],
)
async def test_a_key_that_is_not_allowed_for_this(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, options: str, said: str
) -> None:
    allow(signers, key, options)
    remote.commit({API: b"A=1"}, signing_key=key)
    with pytest.raises(UnverifiedError, match=said):
        await verify(remote, tmp_path, signers)


def taken_apart(remote: GitRemote) -> str:
    return remote.git("cat-file", "commit", "main") + "\n"


async def test_the_signature_of_another_commit_is_bad(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    remote.commit({API: b"A=1"}, "Harmless", signing_key=key)
    remote.put(taken_apart(remote).replace("Harmless", "Evil"))
    with pytest.raises(UnverifiedError, match="carries a bad signature"):
        await verify(remote, tmp_path, signers)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("PGP SIGNATURE", r"another kind \(OpenPGP\)"),
        ("PGP MESSAGE", r"another kind \(OpenPGP\)"),
        ("SIGNED MESSAGE", r"another kind \(X.509\)"),
        ("FOO SIGNATURE", r"another kind \(unknown\)"),
    ],
)
async def test_other_kinds_of_signature_do_not_count_and_nothing_is_run_for_them(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    proof, programs = tmp_path / "proof", tmp_path / "programs"
    programs.mkdir()
    for name in ("gpg", "gpg2", "gpgsm"):
        # As the real one says that all is well.
        (programs / name).write_text(f"#!/bin/sh\ntouch {proof}\necho '[GNUPG:] GOODSIG 1 a'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    remote.commit({API: b"A=1"}, signing_key=key)
    commit = remote.put(taken_apart(remote).replace("SSH SIGNATURE", kind))
    with pytest.raises(UnverifiedError, match=f"{commit[:12]} .*{said}"):
        await verify(remote, tmp_path, signers)
    assert not proof.exists()


async def test_without_allowed_signers_nothing_is_good(remote: GitRemote, tmp_path: Path, key: Path) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    with pytest.raises(UnverifiedError, match="no signer is allowed"):
        await verify(remote, tmp_path, None)


async def test_no_line_of_a_file_with_mistakes_is_lost(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    allow(signers, key, before="nonsense\n\n# a comment\n")
    await verify(remote, tmp_path, signers)


# --- a range ---------------------------------------------------------------------------------------------------------


async def test_every_commit_since_the_last_accepted_one_must_be_good(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    accepted = remote.commit({API: b"A=0"})  # before anybody signed
    await verify(remote, tmp_path, signers, accepted)
    remote.commit({API: b"A=1"}, signing_key=key)
    remote.commit({API: b"A=2"}, signing_key=key)
    await verify(remote, tmp_path, signers, accepted)
    bad = remote.commit({API: b"A=3"})
    remote.commit({API: b"A=4"})
    remote.commit({API: b"A=5"}, signing_key=key)
    await verify(remote, tmp_path, signers)
    with pytest.raises(UnverifiedError, match=f"{bad[:12]} by Ada Example <ada@example.org> is not signed"):
        await verify(remote, tmp_path, signers, accepted)


async def test_commits_that_a_merge_brings_count_too(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    accepted = remote.commit({API: b"A=0"}, signing_key=key)
    remote.make_branch("side")
    remote.commit({"side": b"1"}, branch="side", signing_key=key)
    remote.commit({API: b"A=1"}, signing_key=key)
    remote.merge("side", signing_key=key)
    await verify(remote, tmp_path, signers, accepted)
    bad = remote.commit({"side": b"2"}, branch="side")
    remote.merge("side", signing_key=key)
    with pytest.raises(UnverifiedError, match=bad[:12]):
        await verify(remote, tmp_path, signers, accepted)


async def test_an_unsigned_merge_of_signed_commits_is_not_good(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    accepted = remote.commit({API: b"A=0"}, signing_key=key)
    remote.make_branch("side")
    remote.commit({"side": b"1"}, branch="side", signing_key=key)
    merge = remote.merge("side")
    with pytest.raises(UnverifiedError, match=f"{merge[:12]} .* is not signed"):
        await verify(remote, tmp_path, signers, accepted)


async def test_of_a_long_range_the_oldest_is_named(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "AT_ONCE", 3)
    accepted = remote.commit({API: b""})
    for number in range(7):
        remote.commit({API: b"%d" % number}, signing_key=key)
    await verify(remote, tmp_path, signers, accepted)
    bad = remote.commit({API: b"bad"}, signing_key=make_ssh_key(tmp_path / "mallory"))
    remote.commit({API: b"worse"})
    with pytest.raises(UnverifiedError, match=bad[:12]):
        await verify(remote, tmp_path, signers, accepted)


async def test_what_takes_too_long_is_gone_on_with_by_the_next_pass(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "AT_ONCE", 2)
    monkeypatch.setattr(signatures, "ENOUGH", 0.4)
    programs, real = tmp_path / "programs", shutil.which("ssh-keygen")
    programs.mkdir()
    (programs / "ssh-keygen").write_text(f'#!/bin/sh\nsleep 0.05\nexec {real} "$@"\n')
    (programs / "ssh-keygen").chmod(0o755)
    accepted = remote.commit({API: b""})
    for number in range(8):
        remote.commit({API: b"%d" % number}, signing_key=key)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    mirror = mirror_of(remote, tmp_path, signers)
    commit = await mirror.head()
    await mirror.fetch(commit)
    with pytest.raises(SignaturesUnavailableError, match=r"of 8 commits \d were checked") as caught:
        await mirror.verify(commit, accepted)
    assert caught.value.retryable
    for _ in range(20):
        try:
            await mirror.verify(commit, accepted)
        except SignaturesUnavailableError:
            continue
        break
    else:
        pytest.fail("it never came to an end")


async def test_too_many_new_commits_are_for_an_operator(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "MOST_NEW", 2)
    accepted = remote.commit({API: b""})
    for number in range(2):
        remote.commit({API: b"%d" % number}, signing_key=key)
    await verify(remote, tmp_path, signers, accepted)
    remote.commit({API: b"3"}, signing_key=key)
    with pytest.raises(UnverifiedError, match="more than 2 commits are new"):
        await verify(remote, tmp_path, signers, accepted)


async def test_an_accepted_commit_that_is_gone_accepts_nothing(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    with pytest.raises(UnverifiedError, match="the last accepted commit 111111111111 is no longer in the repository"):
        await verify(remote, tmp_path, signers, "1" * 40)


# --- what is not the commit's fault ----------------------------------------------------------------------------------


async def test_a_missing_or_unreadable_file_of_signers_blames_no_commit(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    os.remove(signers)
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (signatures.LARGEST_FILE + 1))
    for file in (signers, tmp_path, pipe, large):
        with pytest.raises(SignaturesUnavailableError, match=f"{file} cannot be read") as caught:
            await verify(remote, tmp_path, file)
        assert caught.value.retryable
        assert not caught.value.blames_revision
        assert "repository.allowed_signers_file" in caught.value.hint


async def test_a_missing_ssh_keygen_blames_no_commit(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SignaturesUnavailableError, match="ssh-keygen is not installed") as caught:
        await verify(remote, tmp_path, signers)
    assert "apt-get install openssh-client" in caught.value.hint


async def test_a_git_that_cannot_ask_ssh_keygen_blames_no_commit(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.commit({API: b"A=1"}, signing_key=key)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\nTMPDIR=/nonexistent exec {shlex.quote(str(shutil.which("git")))} "$@"\n')
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(SignaturesUnavailableError, match="could not create temporary file"):
        await verify(remote, tmp_path, signers)


async def test_a_signer_who_is_taken_out_of_the_file_is_out_immediately(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    commit = remote.commit({API: b"A=1"}, signing_key=key)
    mirror = mirror_of(remote, tmp_path, signers)
    await mirror.fetch(commit)
    await mirror.verify(commit, None)
    allow(signers, make_ssh_key(tmp_path / "grace"))
    with pytest.raises(UnverifiedError):
        await mirror.verify(commit, None)


async def test_a_commit_that_got_lost_in_the_mirror_is_brought_again(
    remote: GitRemote, tmp_path: Path, key: Path, signers: Path
) -> None:
    accepted = remote.commit({API: b"A=1"}, signing_key=key)
    commit = remote.commit({API: b"A=2"}, signing_key=key)
    mirror = mirror_of(remote, tmp_path, signers)
    for since in (None, accepted):
        await mirror.fetch(commit)
        shutil.rmtree(tmp_path / "state" / "mirror.git" / "objects" / "pack")
        await mirror.verify(commit, since)


# --- an id that a user types -----------------------------------------------------------------------------------------


async def test_an_abbreviated_id_is_found_on_the_branch(remote: GitRemote, tmp_path: Path) -> None:
    first = remote.commit({API: b"A=1"})
    last = remote.commit({API: b"A=2"})
    mirror = mirror_of(remote, tmp_path, None)
    with pytest.raises(RefusedError, match="nothing is fetched"):
        await mirror.resolve(first)
    await mirror.fetch(last)
    for commit in (first, last):
        for name in (commit, commit[:7], commit[:12].upper()):
            assert await mirror.resolve(name) == commit


async def test_anything_but_an_id_never_reaches_git(
    remote: GitRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(remote, tmp_path, None)
    await mirror.fetch(remote.commit({API: b"A=1"}))
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("", "main", "HEAD", "--all", "abcdef", "a" * 41, "HEAD~1", "1234567\n", "１２３４５６７", "abc def0"):
        with pytest.raises(
            RefusedError, match=f"{re.escape(repr(name.replace(chr(10), chr(0xFFFD))))} is not a commit id"
        ):
            await mirror.resolve(name)


async def test_only_commits_of_the_branch_are_found(remote: GitRemote, tmp_path: Path) -> None:
    dropped = remote.commit({API: b"A=dropped"})
    remote.git("update-ref", "-d", "refs/heads/main")
    mirror = mirror_of(remote, tmp_path, None)
    kept = remote.commit({API: b"A=kept"}, "Another")
    remote.make_branch("main", dropped)
    await mirror.fetch(dropped)
    remote.make_branch("main", kept)
    await mirror.fetch(kept)
    tree, blob = remote.git("rev-parse", "main^{tree}"), remote.git("rev-parse", f"main:{API}")
    for name in (dropped, dropped[:8], "1" * 40, "1234567", tree, blob[:10]):
        with pytest.raises(RefusedError, match=f"no commit on the branch begins with {name}") as caught:
            await mirror.resolve(name)
        assert "reconciler history" in caught.value.hint


async def test_an_id_that_fits_two_commits_is_refused(remote: GitRemote, tmp_path: Path) -> None:
    commits = [remote.commit({API: b"A=%d" % number}) for number in range(2)]
    mirror = mirror_of(remote, tmp_path, None)
    await mirror.fetch(commits[-1])
    original = mirror._ask

    async def ask(*arguments: str, stdin: str | None = None) -> str:
        # Two real ids with 7 digits in common take 16,000 commits to find.
        return "\n".join(commits) if "--disambiguate=1234567" in arguments else await original(*arguments, stdin=stdin)

    mirror._ask = ask  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="1234567 fits more than one commit"):
        await mirror.resolve("1234567")
