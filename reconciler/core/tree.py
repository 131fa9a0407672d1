"""The files below a directory, read from a working directory or a commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAX_FILES = 20_000
MAX_TOTAL = 512 * 1024 * 1024
"""Bytes of all files together; far more than any configuration repository, and small enough for memory."""

IGNORED = "it is ignored"
"""The beginning of a reason in ``Tree.unheld``: git is not meant to hold the file."""


@dataclass(frozen=True, slots=True)
class Tree:
    """``files`` has the content of regular files by path, relative to the directory; ``odd`` describes everything else
    ("a symbolic link", "larger than 5 MiB"). ``above`` are the .sops.yaml files of the parent directories, nearest
    first, by path ("../.sops.yaml"). ``unheld`` says for files that git does not hold why it does not. ``earlier`` has
    those earlier versions of a file in git that are as long as what it holds, should that be a file of its own.
    ``before`` has changed files as they were in git, and ``around`` the text of some files of the repository outside of
    the directory ("../compose.yaml"), where that was asked for.
    """

    files: Mapping[str, bytes] = field(repr=False)
    odd: Mapping[str, str] = field(default_factory=dict)
    above: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    unheld: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, Sequence[bytes]] = field(default_factory=dict, repr=False)
    before: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    around: Mapping[str, str] = field(default_factory=dict, repr=False)

    def directories(self) -> tuple[str, ...]:
        """The names of the directories directly below, sorted."""
        return tuple(sorted({path.partition("/")[0] for path in (*self.files, *self.odd) if "/" in path}))

    def below(self, directory: str) -> Iterator[str]:
        """The paths of everything below ``directory``, relative to the tree, sorted."""
        return iter(sorted(path for path in (*self.files, *self.odd) if path.startswith(f"{directory}/")))

    def inside(self, directory: str) -> dict[str, bytes]:
        """The files below ``directory``, by their path in it."""
        prefix = f"{directory}/"
        return {path.removeprefix(prefix): data for path, data in self.files.items() if path.startswith(prefix)}
