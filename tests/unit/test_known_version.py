"""The version of the sops binary is remembered for as long as its file is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.adapters.sops.known_version import KnownVersion


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "sops"
    path.write_bytes(b"\x7fELF one")
    return path


def test_the_same_file_has_the_version_that_it_had(tmp_path: Path, binary: Path) -> None:
    KnownVersion(str(tmp_path / "known")).remember(str(binary), "3.11.0")
    assert KnownVersion(str(tmp_path / "known")).of(str(binary)) == "3.11.0"


def test_another_file_in_its_place_has_to_be_asked(tmp_path: Path, binary: Path) -> None:
    known, before = KnownVersion(str(tmp_path / "known")), binary.stat()
    known.remember(str(binary), "3.11.0")
    (new := tmp_path / "new").write_bytes(b"\x7fELF two")
    new.rename(binary)
    os.utime(binary, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.of(str(binary)) == ""


def test_a_script_is_asked_every_time(tmp_path: Path) -> None:
    known, script = KnownVersion(str(tmp_path / "known")), tmp_path / "sops"
    script.write_bytes(b"#!/bin/sh\nexec sops-3.11 $@\n")
    known.remember(str(script), "3.11.0")
    assert known.of(str(script)) == ""


@pytest.mark.parametrize("content", ["", "[]", "[1, 2, 3]", "no JSON", '[null, "3.11.0"]'])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, binary: Path, content: str) -> None:
    (tmp_path / "known").write_text(content)
    assert KnownVersion(str(tmp_path / "known")).of(str(binary)) == ""
    assert KnownVersion(str(tmp_path / "known")).of(str(tmp_path / "no-binary")) == ""
    assert KnownVersion("").of(str(binary)) == ""
