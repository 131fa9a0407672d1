"""Commits that are made beside the working tree, by the real git."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.adapters.git.clone import Clone
from reconciler.adapters.git.clone_writer import CloneWriter
from tests.support.commands import output

pytestmark = pytest.mark.slow


async def test_a_commit_has_every_byte_of_its_files_whatever_git_would_make_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files than git is handed at once; one is deleted, one stays executable."""
    home = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    monkeypatch.setenv("HOME", home["HOME"])
    clone = tmp_path / "clone"
    clone.mkdir()
    (tmp_path / "home").mkdir()
    (clone / ".gitattributes").write_text("* text eol=lf ident filter=none\n")
    (clone / "run.sh").write_text("#!/bin/sh\n")
    (clone / "run.sh").chmod(0o755)
    (clone / "gone").write_text("x\n")
    for arguments in (
        ("config", "--global", "user.name", "Ada Example"),
        ("config", "--global", "user.email", "ada@example.org"),
        ("config", "--global", "core.autocrlf", "input"),
        ("config", "--global", "filter.none.clean", "true"),  # prints nothing
        ("init", "--quiet", "--initial-branch=main"),
        ("-c", "filter.none.clean=cat", "add", "--all"),
        ("commit", "--quiet", "--message", "Begin"),
    ):
        output("git", *arguments, cwd=clone, env=home)
    files = {f"many/{number}": b"%d\r\n$Id$\r\n" % number for number in range(450)}
    files |= {"run.sh": b"#!/bin/sh\r\n", "empty": b"", "binary": bytes(range(256))}
    writer = CloneWriter(str(clone))
    head = await writer.head()

    commit = await writer.commit(head, {**files, "gone": None}, "Write")

    reader = Clone(str(clone))
    (tree,) = await reader.trees([commit], "")
    assert {path: data for path, data in tree.files.items() if path != ".gitattributes"} == files
    modes = {path: mode for path, (mode, _) in (await reader.listing(commit, "")).items()}
    assert {path for path, mode in modes.items() if mode == "100755"} == {"run.sh"}
    assert await writer.head() == head
    assert output("git", "-c", "filter.none.clean=cat", "status", "--porcelain", cwd=clone, env=home) == b""
