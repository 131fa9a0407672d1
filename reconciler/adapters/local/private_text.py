"""Opens text in the user's editor, in a file that only they can read, in a directory of its own in memory.

Nothing of it reaches a disk (swap aside) as long as the editor keeps its own files beside the text, as editors do; vim,
which keeps more elsewhere, is told not to. The directory goes at the end, whatever ends the program, SIGKILL excepted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from reconciler.adapters import process
from reconciler.core.errors import OutsideError, RefusedError
from reconciler.core.secret import Secret

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_SHARED = "/dev/shm"  # noqa: S108  # in it, a directory with a random name is made
_MOUNTS = "/proc/self/mountinfo"
_LARGEST = 4 * process.MIB
_VIM = re.compile(r"g?vim|nvim")
# viminfo would keep deleted lines, and settings of the user may move the other files to a disk.
_VIM_OPTIONS = ("-n", "-i", "NONE", "-c", "set nobackup nowritebackup noundofile noswapfile")


@contextlib.contextmanager
def private_directory(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A new directory in memory, 0700, that is removed at the end, even by SIGTERM or SIGHUP.

    Raises RefusedError where no file system is in memory.
    """
    with _ends_by_exception(signal.SIGTERM, signal.SIGHUP):
        directory = tempfile.mkdtemp(prefix="reconciler-edit-", dir=_place(environment))
        try:
            yield directory
        finally:
            try:
                shutil.rmtree(directory)
            except OSError as error:
                hint = f"It holds the decrypted text: `rm -r {directory}`"
                raise OutsideError("cannot be removed", where=directory, hint=hint) from error


def edit_text(directory: str, name: str, text: Secret, environment: Mapping[str, str] = os.environ) -> Secret:
    """Open the text in the user's editor, as a file called ``name``, and return it as they left it.

    Raises RefusedError where there is no editor, or it fails.
    """
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(text.reveal())
    command = editor_command(environment)
    try:
        code = process.run_in_terminal([*command, path], env={**environment, "TMPDIR": directory})
    except process.MissingProgramError:
        hint = "Set VISUAL or EDITOR to an editor, such as EDITOR=nano"
        raise RefusedError("the editor cannot be started", where=command[0], hint=hint) from None
    if code != 0:
        ending = f"exit code {code}" if code > 0 else f"signal {-code}"
        raise RefusedError(f"the editor failed ({ending}), so nothing was changed", where=command[0])
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError:
        raise RefusedError("the editor left no file, so nothing was changed", where=command[0]) from None
    if len(data) > _LARGEST:
        raise RefusedError(f"the text has more than {_LARGEST} bytes, so nothing was changed")
    return Secret(data)


def editor_command(environment: Mapping[str, str]) -> Sequence[str]:
    """The program in VISUAL or EDITOR with its arguments; vi without either. Raises RefusedError."""
    setting = next((name for name in ("VISUAL", "EDITOR") if environment.get(name, "").strip()), "")
    try:
        command = shlex.split(environment[setting]) if setting else ["vi"]
    except ValueError:
        raise RefusedError("has a quote that is not closed", where=setting, hint=f"Correct {setting}") from None
    program = os.path.realpath(shutil.which(command[0], path=environment.get("PATH")) or command[0])
    if _VIM.match(os.path.basename(program)):
        command += _VIM_OPTIONS
    return command


def file_system_at(path: str, mounts: str) -> str:
    """Given the text of /proc/self/mountinfo, return the type of the file system that holds ``path``, "" if unknown."""
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if not after or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(os.path.join(point, ""))
        if inside and len(point) >= len(best):  # a later mount hides an earlier one
            best, kind = point, after.split(" ")[0]
    return kind


def _place(environment: Mapping[str, str]) -> str:
    candidates = [environment.get("XDG_RUNTIME_DIR"), _SHARED, environment.get("TMPDIR"), tempfile.gettempdir()]
    try:
        mounts = Path(_MOUNTS).read_text(errors="replace")
    except OSError:
        mounts = ""
    for candidate in filter(None, candidates):
        place = os.path.realpath(candidate)
        if os.access(place, os.W_OK | os.X_OK) and file_system_at(place, mounts) in _IN_MEMORY:
            return place
    hint = "Mount a tmpfs and name it in TMPDIR. `reconciler set` changes one key and needs no file"
    raise RefusedError("there is no directory in memory (tmpfs) for the decrypted text", hint=hint)


@contextlib.contextmanager
def _ends_by_exception(*numbers: signal.Signals) -> Iterator[None]:
    """These signals unwind the stack instead of ending the process where it is."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
