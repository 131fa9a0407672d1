"""The notes of an import: what an operator should know about the drafted files. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from reconciler.core.decide.guards import control_keys, is_below
from reconciler.core.model.targets import Format
from reconciler.core.onboarding.types import DraftFile, DraftStack, PlainFiles, holds_variables
from reconciler.core.text import listed


def _is_dotenv_of(file: DraftFile, stacks: Iterable[DraftStack]) -> bool:
    """Whether Compose reads the file as the project's .env."""
    return any(
        stack.name == file.stack and file.file.path == posixpath.join(stack.directory, ".env") for stack in stacks
    )


def file_notes(file: DraftFile, stacks: Iterable[DraftStack]) -> Iterator[str]:
    """What to know about one file."""
    path = file.file.path
    directory = next((stack.directory for stack in stacks if stack.name == file.stack), None)
    if directory is not None and not is_below(path, directory):
        yield f"{path} is outside {directory}: add it to the server's allowed_paths"
    if control := control_keys(file.keys) if _is_dotenv_of(file, stacks) else ():
        yield (
            f"{path}: {listed(control)} controls what Compose runs, so a server changes that only with "
            "allow_compose_files: true"
        )
    if file.format is not Format.PLAIN and not file.looks_harmless and file.mode & 0o004:
        yield f'{path} is world-readable (mode {file.mode:04o}); set mode: "0600" to change that'
    if file.file.mode & 0o7000:
        yield f"{path} has setuid, setgid or sticky bits (mode {file.file.mode:04o}), which a manifest cannot set"
    if b"\r\n" in file.content.reveal() and holds_variables(path, file.uses):
        yield f"{path} has Windows line endings: Compose treats a carriage return inside quotes as part of the value"


def plain_notes(files: Sequence[DraftFile], new: Sequence[DraftFile], plain: PlainFiles) -> Iterator[str]:
    """Which ``new`` files could be plain in git, and which --plain patterns match nothing."""
    if harmless := [file.file.path for file in new if file.looks_harmless]:
        yield f"nothing in {listed(harmless)} looks like a secret; use --plain PATH to keep such a file readable in git"
    paths = [file.file.path for file in files if file.format is Format.PLAIN]
    for glob in plain.globs:
        if not any(fnmatchcase(path, glob) or path == glob for path in paths):
            yield f"--plain {glob} matches no mounted file"
