"""Live files on a real file system: whole at every moment, never through a link, and nobody's edit is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.adapters.local import files, renames
from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.process import Limits
from reconciler.core.errors import ChangedMeanwhileError, GuardError, LiveFileError
from reconciler.core.model.targets import Check, LiveFile, Ownership
from reconciler.core.secret import Secret
from tests.support.components import program

NOBODY = 65534
OLD, NEW = b"A=old\n", b"A=new\n"
CANARY = "canary-0d9f"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The one allowed path."""
    directory = tmp_path / "app"
    directory.mkdir()
    return directory


@pytest.fixture
def host(root: Path) -> LocalHost:
    return LocalHost([str(root)])


@pytest.fixture
def file(root: Path) -> Path:
    """A live file that is there already."""
    path = root / "api.env"
    path.write_bytes(OLD)
    path.chmod(0o640)
    return path


def put(
    host: LocalHost,
    path: Path,
    data: bytes = NEW,
    replaces: LiveFile | None = None,
    mode: int = 0o600,
    ownership: Ownership = Ownership(),  # noqa: B008  # frozen
) -> None:
    asyncio.run(host.write(str(path), Secret(data), mode=mode, ownership=ownership, replaces=replaces))


def seen(host: LocalHost, path: Path) -> LiveFile:
    live = look(host, path)
    assert live is not None
    return live


def look(host: LocalHost, path: Path) -> LiveFile | None:
    return asyncio.run(host.read(str(path)))


def remove(host: LocalHost, path: Path, replaces: LiveFile) -> None:
    asyncio.run(host.remove(str(path), replaces=replaces))


def content(host: LocalHost, path: Path) -> bytes:
    return seen(host, path).data.reveal()


def left_beside(host: LocalHost, path: Path) -> tuple[str, ...]:
    return asyncio.run(host.leftovers([str(path)])).get(str(path), ())


def leftovers(host: LocalHost, path: Path) -> list[bytes]:
    return [content(host, Path(leftover)) for leftover in left_beside(host, path)]


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def exchange(first: Path, second: Path) -> None:
    assert ctypes.CDLL(None).renameat2(-100, os.fsencode(first), -100, os.fsencode(second), 2) == 0


# --- reading ---------------------------------------------------------------------------------------------------------


def test_all_of_a_file_is_read_that_is_longer_than_stat_says() -> None:
    """As is one that grows meanwhile. The kernel's own files have no size."""
    path = Path("/proc/filesystems")
    assert content(LocalHost(["/proc"]), path) == path.read_bytes() != b""


@pytest.mark.parametrize("path", ["api.env/", "./api.env", "config/../api.env"])
def test_a_path_may_be_written_in_several_ways(host: LocalHost, root: Path, file: Path, path: str) -> None:
    assert asyncio.run(host.read(f"{root}/{path}")) == look(host, file) is not None


def test_reads_bytes_mode_and_owner(host: LocalHost, file: Path) -> None:
    live = seen(host, file)
    status = file.stat()
    assert live.data == Secret(OLD)
    assert (live.mode, live.uid, live.gid) == (0o640, status.st_uid, status.st_gid)


@pytest.mark.parametrize("path", ["api.env", "config/deep/api.env"], ids=["file", "directory"])
def test_what_is_not_there_is_none(host: LocalHost, root: Path, path: str) -> None:
    assert look(host, root / path) is None


def test_nothing_is_there_where_the_allowed_path_is_missing(tmp_path: Path) -> None:
    host = LocalHost([str(tmp_path / "missing")])
    assert look(host, tmp_path / "missing" / "api.env") is None
    with pytest.raises(LiveFileError, match="allowed_paths does not exist on this server: create it"):
        put(host, tmp_path / "missing" / "api.env")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # as /dev/zero


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):  # a socket's path is short
        listener.bind(path.name)


IRREGULAR = [
    pytest.param(make_directory, "is a directory", id="directory"),
    pytest.param(make_fifo, "not a regular file", id="fifo"),
    pytest.param(make_device, "not a regular file", id="device", marks=pytest.mark.root),
    pytest.param(make_socket, "A socket is in its place", id="socket"),
]


@pytest.mark.parametrize(("make", "message"), IRREGULAR)
def test_anything_but_a_file_is_refused_and_leaks_no_descriptor(
    host: LocalHost, root: Path, make: Callable[[Path], None], message: str
) -> None:
    path = root / "api.env"
    make(path)
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(LiveFileError, match=message) as error:
            look(host, path)
    assert open_descriptors() == before
    assert "move it away" in str(error.value).lower().lower()
    assert error.value.where == str(path)


@pytest.mark.parametrize(("make", "message"), IRREGULAR)
def test_anything_but_a_file_is_never_replaced(
    host: LocalHost, root: Path, file: Path, make: Callable[[Path], None], message: str
) -> None:
    live = seen(host, file)
    file.unlink()
    make(file)
    kind = stat.S_IFMT(file.lstat().st_mode)
    for replaces in (live, None):
        with pytest.raises(ChangedMeanwhileError):
            put(host, file, replaces=replaces)
    assert stat.S_IFMT(file.lstat().st_mode) == kind
    assert names(root) == ["api.env"]


def test_a_file_that_no_env_file_can_be_is_not_read_into_memory(host: LocalHost, file: Path) -> None:
    with file.open("r+b") as open_file:
        open_file.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(LiveFileError, match="larger than 16 MiB"):
        look(host, file)
    with file.open("r+b") as open_file:
        open_file.truncate(16 * 1024 * 1024)
    assert len(content(host, file)) == 16 * 1024 * 1024


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_new_file_has_the_mode_under_any_umask(host: LocalHost, root: Path) -> None:
    old_mask = os.umask(0o077)
    try:
        put(host, root / "api.env", mode=0o644)
    finally:
        os.umask(old_mask)
    assert (root / "api.env").read_bytes() == NEW
    assert mode_of(root / "api.env") == 0o644
    assert names(root) == ["api.env"]


def test_a_replaced_file_leaves_nothing_beside_it(host: LocalHost, root: Path, file: Path) -> None:
    put(host, file, replaces=seen(host, file), mode=0o400)
    assert (file.read_bytes(), mode_of(file)) == (NEW, 0o400)
    assert names(root) == ["api.env"]


@pytest.mark.parametrize("data", [b"", b"A=" + bytes(range(256)) * 40000], ids=["empty", "large"])
def test_any_bytes_come_back(host: LocalHost, file: Path, data: bytes) -> None:
    put(host, file, data, replaces=seen(host, file))
    assert content(host, file) == data


def test_missing_parents_are_made_and_can_be_entered(host: LocalHost, root: Path) -> None:
    old_mask = os.umask(0o077)
    try:
        put(host, root / "config" / "deep" / "api.env")
    finally:
        os.umask(old_mask)
    assert (root / "config" / "deep" / "api.env").read_bytes() == NEW
    assert [mode_of(root / "config"), mode_of(root / "config" / "deep")] == [0o755, 0o755]


def test_a_parent_that_somebody_else_makes_in_the_same_instant_is_theirs(
    host: LocalHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def second(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir("config", 0o711, dir_fd=dir_fd)
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", second)
    put(host, root / "config" / "api.env")
    assert (root / "config" / "api.env").read_bytes() == NEW
    assert mode_of(root / "config") == 0o711


@pytest.mark.root
def test_parents_that_are_made_belong_to_the_owner_and_those_that_were_there_do_not(
    host: LocalHost, root: Path
) -> None:
    (root / "config").mkdir()
    put(host, root / "config" / "deep" / "api.env", ownership=Ownership(NOBODY, NOBODY))
    owners = [(root / part).stat().st_uid for part in ("config", "config/deep", "config/deep/api.env")]
    assert owners == [0, NOBODY, NOBODY]


@pytest.mark.root
def test_the_owner_of_the_live_file_stays_where_none_is_named(host: LocalHost, file: Path) -> None:
    os.chown(file, 1234, 2345)
    put(host, file, replaces=seen(host, file))
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)


@pytest.mark.root
@pytest.mark.parametrize(
    ("ownership", "expected"),
    [
        pytest.param(Ownership(77, 88), (77, 88), id="both"),
        pytest.param(Ownership(uid=77), (77, 2345), id="owner only"),
        pytest.param(Ownership(gid=88), (1234, 88), id="group only"),
        pytest.param(Ownership(0, 0), (0, 0), id="root, which is a number like others"),
    ],
)
def test_the_owner_that_is_named_is_set(
    host: LocalHost, file: Path, ownership: Ownership, expected: tuple[int, int]
) -> None:
    os.chown(file, 1234, 2345)
    put(host, file, replaces=seen(host, file), ownership=ownership)
    assert (file.stat().st_uid, file.stat().st_gid) == expected


@pytest.mark.root
def test_an_owner_that_may_not_be_set_leaves_nothing_behind(public: Path) -> None:
    host = LocalHost([str(public)])
    public.chmod(0o777)
    before = open_descriptors()
    with as_user(NOBODY):
        for path in (public / "api.env", public / "config" / "api.env"):
            with pytest.raises(LiveFileError, match=r"Operation not permitted.*Run the daemon as root"):
                put(host, path, ownership=Ownership(0, 0))
    assert names(public) == []
    assert open_descriptors() == before


def test_a_reader_sees_the_old_or_the_new_bytes_and_never_a_part(host: LocalHost, file: Path) -> None:
    versions = [b"%d\n" % number * 3000 for number in (1, 2)]
    file.write_bytes(versions[0])
    torn: list[bytes] = []
    reads = 0
    done = threading.Event()

    def reader() -> None:
        nonlocal reads
        while not done.is_set():
            data = file.read_bytes()
            reads += 1
            if data not in versions:
                torn.append(data)

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for number in range(60):
            put(host, file, versions[number % 2], replaces=seen(host, file))
    finally:
        done.set()
        thread.join()
    assert not torn
    assert reads > 20


# --- links: none is followed -----------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that a link leads to; it must stay as it is."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "api.env").write_bytes(b"not ours\n")
    return directory


def link_file(root: Path, outside: Path) -> Path:
    (root / "api.env").symlink_to(outside / "api.env")
    return root / "api.env"


def link_file_to_nothing(root: Path, outside: Path) -> Path:
    (root / "api.env").symlink_to(outside / "new.env")
    return root / "api.env"


def link_parent(root: Path, outside: Path) -> Path:
    (root / "config").symlink_to(outside)
    return root / "config" / "api.env"


def link_within(root: Path, outside: Path) -> Path:
    (root / "real").mkdir()
    (root / "config").symlink_to("real")
    return root / "config" / "api.env"


def link_two_hops(root: Path, outside: Path) -> Path:
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to(root / "c")
    (root / "c").symlink_to(outside)
    return root / "a" / "b" / "api.env"


def file_as_parent(root: Path, outside: Path) -> Path:
    (root / "config").write_text("a file")
    return root / "config" / "api.env"


@pytest.mark.parametrize(
    "make", [link_file, link_file_to_nothing, link_parent, link_within, link_two_hops, file_as_parent]
)
def test_a_link_on_the_way_is_refused(
    host: LocalHost, root: Path, outside: Path, make: Callable[[Path, Path], Path]
) -> None:
    path = make(root, outside)
    before = open_descriptors()
    with pytest.raises(LiveFileError, match="name the real path in the manifest"):
        look(host, path)
    with pytest.raises((LiveFileError, ChangedMeanwhileError)):
        put(host, path)
    stale = LiveFile(Secret(b"not ours\n"), 0o644, os.geteuid(), os.getegid())
    with pytest.raises((LiveFileError, ChangedMeanwhileError)):
        put(host, path, replaces=stale)
    with pytest.raises((LiveFileError, ChangedMeanwhileError)):
        remove(host, path, replaces=stale)
    if path.parent != root:
        with pytest.raises(LiveFileError, match="cannot look for leftovers"):
            left_beside(host, path)
    assert names(outside) == ["api.env"]
    assert (outside / "api.env").read_bytes() == b"not ours\n"
    assert open_descriptors() == before


def test_the_allowed_path_itself_may_be_a_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "current").symlink_to(root)
    host = LocalHost([str(tmp_path), str(tmp_path / "current")])
    put(host, tmp_path / "current" / "api.env")
    assert (root / "api.env").read_bytes() == NEW


def test_one_file_that_cannot_be_read_hides_no_other_that_is_read_with_it(
    host: LocalHost, root: Path, file: Path, outside: Path
) -> None:
    (root / "link.env").symlink_to(outside / "api.env")
    (root / "config").symlink_to(outside)
    (root / "directory.env").mkdir()
    names = ("api.env", "missing.env", "link.env", "directory.env", "config/api.env", "none/api.env", "../api.env")
    live = asyncio.run(host.read_all([f"{root}/{name}" for name in names]))
    assert live[str(file)] == look(host, file)
    assert live[f"{root}/missing.env"] is live[f"{root}/none/api.env"] is None
    for name in ("link.env", "directory.env", "config/api.env", "../api.env"):
        with pytest.raises(LiveFileError) as alone:
            look(host, root / name)
        assert str(live[f"{root}/{name}"]) == str(alone.value).replace(str(root / name), f"{root}/{name}")


@pytest.mark.parametrize("path", ["{root}/../outside/api.env", "/etc/passwd", "{root}", "{root}-2/api.env"])
def test_a_path_outside_allowed_paths_is_not_opened(host: LocalHost, root: Path, outside: Path, path: str) -> None:
    with pytest.raises(LiveFileError, match="outside allowed_paths"):
        look(host, Path(path.format(root=root)))
    with pytest.raises(LiveFileError, match="outside allowed_paths"):
        put(host, Path(path.format(root=root)))


def test_a_directory_swapped_for_a_link_during_writes_leads_nowhere(host: LocalHost, root: Path, outside: Path) -> None:
    path = root / "config" / "api.env"
    path.parent.mkdir()
    (root / "link").symlink_to(outside)
    done = threading.Event()
    swaps = 0

    def attacker() -> None:
        nonlocal swaps
        while not done.is_set():
            exchange(root / "config", root / "link")
            swaps += 1

    written = refused = 0
    before = open_descriptors()
    thread = threading.Thread(target=attacker)
    thread.start()
    try:
        for number in range(200):
            try:
                put(host, path, b"%d" % number, replaces=look(host, path))
                written += 1
            except (LiveFileError, ChangedMeanwhileError):
                refused += 1
    finally:
        done.set()
        thread.join()
    assert names(outside) == ["api.env"]
    assert (outside / "api.env").read_bytes() == b"not ours\n"
    assert written
    assert refused
    assert swaps > 100
    assert open_descriptors() == before


# --- somebody else's edits: none is lost -----------------------------------------------------------------------------


def rewrite(file: Path) -> None:
    file.write_bytes(b"A=by hand\n")


def rename_over(file: Path) -> None:
    edited = file.with_name("edited")
    edited.write_bytes(b"A=by hand\n")
    edited.rename(file)


def delete(file: Path) -> None:
    file.unlink()


def change_mode(file: Path) -> None:
    file.chmod(0o444)


EDITS = [rewrite, rename_over, delete, change_mode]


def state_of(file: Path) -> tuple[bytes, int] | None:
    return (file.read_bytes(), mode_of(file)) if file.exists() else None


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "plain renames"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_after_the_look_stays(
    host: LocalHost,
    root: Path,
    file: Path,
    edit: Callable[[Path], None],
    exchange: bool,
    request: pytest.FixtureRequest,
) -> None:
    if not exchange:
        request.getfixturevalue("plain_renames")
    live = seen(host, file)
    edit(file)
    state = state_of(file)
    with pytest.raises(ChangedMeanwhileError, match="Nothing was overwritten") as error:
        put(host, file, replaces=live)
    assert error.value.where == str(file)
    assert error.value.retryable
    if state:
        with pytest.raises(ChangedMeanwhileError):
            remove(host, file, replaces=live)
        with pytest.raises(ChangedMeanwhileError):
            put(host, file, replaces=None)
    assert state_of(file) == state
    assert names(root) == (["api.env"] if state else [])


def test_a_file_that_appeared_meanwhile_stays(host: LocalHost, root: Path, file: Path) -> None:
    with pytest.raises(ChangedMeanwhileError, match="somebody created the file"):
        put(host, file, replaces=None)
    assert file.read_bytes() == OLD
    assert names(root) == ["api.env"]


def test_a_touched_file_is_not_an_edit(host: LocalHost, file: Path) -> None:
    live = seen(host, file)
    os.utime(file, (1, 1))
    put(host, file, replaces=live)
    assert file.read_bytes() == NEW


def test_what_somebody_is_still_writing_is_not_lost(host: LocalHost, root: Path, file: Path) -> None:
    """As with a slow upload, or ``cat > api.env``: what came after the look would go into a deleted file."""
    with file.open("ab", buffering=0) as upload:
        upload.write(b"FIRST=1\n")
        live = seen(host, file)
        with pytest.raises(ChangedMeanwhileError, match="somebody is writing to the live file"):
            put(host, file, replaces=live)
        with pytest.raises(ChangedMeanwhileError, match="somebody is writing to the live file"):
            remove(host, file, replaces=live)
        upload.write(b"SECOND=2\n")
    assert file.read_bytes() == OLD + b"FIRST=1\nSECOND=2\n"
    assert names(root) == ["api.env"]
    put(host, file, replaces=seen(host, file))
    assert file.read_bytes() == NEW


def test_a_reader_does_not_hinder(host: LocalHost, file: Path) -> None:
    with file.open("rb") as reader:
        put(host, file, replaces=seen(host, file))
        assert reader.read() == OLD


ASKED_BACK = """
import asyncio, fcntl, os, sys, threading, time
from reconciler.adapters.local.files import LocalHost
from reconciler.core.model.targets import Ownership
from reconciler.core.secret import Secret

root, path, other_name = sys.argv[1:]
control = fcntl.fcntl

def and_then_somebody_opens_it(descriptor, command, *argument):
    control(descriptor, command, *argument)
    if command == fcntl.F_SETLEASE:
        held = control(descriptor, fcntl.F_GETLEASE)
        threading.Thread(target=os.open, args=(other_name, os.O_WRONLY), daemon=True).start()
        while control(descriptor, fcntl.F_GETLEASE) == held:  # it changes once somebody waits for it
            time.sleep(0.001)

async def main():
    host = LocalHost([root])
    live = await host.read(path)
    os.link(path, other_name)
    fcntl.fcntl = and_then_somebody_opens_it
    await host.write(path, Secret(b"A=new\\n"), mode=0o600, ownership=Ownership(), replaces=live)

asyncio.run(main())
"""


def test_a_writer_who_comes_while_we_ask_whether_there_is_one_does_no_harm(root: Path, file: Path) -> None:
    """The kernel then sends us a signal, which by default would end the process."""
    command = [sys.executable, "-c", ASKED_BACK, str(root), str(file), str(root / "other name")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert file.read_bytes() == NEW


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """``meanwhile(n, action)`` has ``action`` happen right before the n-th renameat2 call from now on."""

    def arrange(call: int, action: Callable[[], None]) -> None:
        left = call
        rename = renames._rename

        def with_action(parent: int, old: str, new: str, flags: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                action()
            rename(parent, old, new, flags)

        monkeypatch.setattr(renames, "_rename", with_action)

    return arrange


@pytest.mark.parametrize("edit", [rewrite, rename_over])
def test_two_edits_in_the_instant_of_the_exchange_are_both_kept(
    host: LocalHost,
    root: Path,
    file: Path,
    meanwhile: Callable[[int, Callable[[], None]], None],
    edit: Callable[[Path], None],
) -> None:
    live = seen(host, file)
    file.write_bytes(b"A=first edit\n")
    meanwhile(2, lambda: edit(file))
    with pytest.raises(ChangedMeanwhileError):
        put(host, file, replaces=live)
    assert file.read_bytes() == b"A=first edit\n"
    assert leftovers(host, file) == [b"A=by hand\n"]


def test_an_edit_survives_even_if_the_file_is_then_deleted(
    host: LocalHost, file: Path, meanwhile: Callable[[int, Callable[[], None]], None]
) -> None:
    live = seen(host, file)
    file.write_bytes(b"A=first edit\n")
    meanwhile(2, file.unlink)
    with pytest.raises(ChangedMeanwhileError):
        put(host, file, replaces=live)
    assert not file.exists()
    assert leftovers(host, file) == [b"A=first edit\n"]


def test_an_edit_is_kept_aside_where_a_new_file_has_come_before_it_is_restored(
    host: LocalHost, file: Path, meanwhile: Callable[[int, Callable[[], None]], None]
) -> None:
    live = seen(host, file)
    file.write_bytes(b"A=first edit\n")
    meanwhile(1, lambda: rewrite(file))
    with pytest.raises(ChangedMeanwhileError):
        remove(host, file, replaces=live)
    assert file.read_bytes() == b"A=by hand\n"
    assert leftovers(host, file) == [b"A=first edit\n"]


def test_no_edit_of_a_busy_neighbour_is_lost(host: LocalHost, root: Path, file: Path, tmp_path: Path) -> None:
    """Every edit is in the end where somebody has seen it: backed up by us, taken out by its author, or on disk."""
    taken_out: set[bytes] = set()
    edits = [b"edit %d" % number for number in range(150)]

    def neighbour() -> None:
        mine = root / "mine"
        for edit in edits:
            mine.write_bytes(edit)
            exchange(mine, file)
            taken_out.add(mine.read_bytes())

    backed_up: set[bytes] = set()
    thread = threading.Thread(target=neighbour)
    thread.start()
    while thread.is_alive():
        live = seen(host, file)
        backed_up.add(live.data.reveal())
        with contextlib.suppress(ChangedMeanwhileError):
            put(host, file, replaces=live)
    thread.join()
    on_disk = {file.read_bytes(), *leftovers(host, file)}
    assert set(edits) <= backed_up | taken_out | on_disk


# --- deleting --------------------------------------------------------------------------------------------------------


def test_a_deleted_file_is_gone(host: LocalHost, root: Path, file: Path) -> None:
    remove(host, file, replaces=seen(host, file))
    assert names(root) == []


def test_deleting_what_is_gone_is_done_already(host: LocalHost, root: Path, file: Path) -> None:
    live = seen(host, file)
    file.unlink()
    remove(host, file, replaces=live)
    remove(host, root / "no" / "such" / "directory", replaces=live)


# --- what a kill leaves behind ---------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from reconciler.adapters.local.files import LocalHost
from reconciler.core.model.targets import Ownership
from reconciler.core.secret import Secret

async def main(root, path, *data):
    host = LocalHost([root])
    live = await host.read(path)
    if data:
        await host.write(path, Secret(data[0].encode()), mode=0o640, ownership=Ownership(), replaces=live)
    else:
        await host.remove(path, replaces=live)

asyncio.run(main(*sys.argv[1:]))
"""


def traced(strace: list[str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["strace", "-f", "-qq", *strace, sys.executable, "-c", CHILD, *arguments],
        check=False,
        capture_output=True,
        timeout=30,
    )


@pytest.fixture(scope="session")
def strace() -> None:
    if program("strace") is None:
        pytest.skip("strace is not installed: make provision")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody trace a process")


@pytest.mark.usefixtures("strace")
def test_owner_and_mode_come_before_the_bytes_and_the_bytes_before_the_name(
    root: Path, file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    calls = "openat,fchown,fchmod,write,fsync,renameat2,unlinkat"
    done = traced(["-y", "-o", str(log), "-e", f"trace={calls}"], str(root), str(file), NEW.decode())
    assert done.returncode == 0, done.stderr.decode()
    ours = re.compile(rf"(openat(?=.*O_CREAT)|fchown|fchmod|write|fsync|renameat2|unlinkat)\(.*{re.escape(str(root))}")
    lines = [(match[1], line) for line in log.read_text().splitlines() if (match := ours.search(line))]
    order = [call for call, _ in lines]
    assert order == ["openat", "fchown", "fchmod", "write", "fsync", "renameat2", "unlinkat", "fsync"]
    assert ", 0600)" in lines[0][1]


@pytest.mark.usefixtures("strace")
def test_a_directory_that_is_made_is_on_disk_before_the_file_in_it(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    calls = "mkdirat,fchown,fchmod,fsync,renameat2"
    path = str(root / "config" / "api.env")
    done = traced(["-y", "-o", str(log), "-e", f"trace={calls}"], str(root), path, NEW.decode())
    assert done.returncode == 0, done.stderr.decode()
    order = re.findall(rf"(\w+)\(\d+<{re.escape(str(root))}(\S*?)>", log.read_text())
    made, file = dict.fromkeys(name for _, name in order if "reconciler-" in name)
    assert order == [
        ("mkdirat", ""),
        ("fchown", made),
        ("fchmod", made),
        ("renameat2", ""),
        ("fsync", ""),
        ("fchown", file),
        ("fchmod", file),
        ("fsync", file),
        ("renameat2", "/config"),
        ("fsync", "/config"),
    ]


@pytest.mark.usefixtures("strace")
def test_a_deletion_is_on_disk_when_it_is_reported(root: Path, file: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    done = traced(["-y", "-o", str(log), "-e", "trace=renameat,unlinkat,fsync"], str(root), str(file))
    assert done.returncode == 0, done.stderr.decode()
    assert re.findall(rf"(\w+)\(\d+<{re.escape(str(root))}>", log.read_text()) == ["renameat", "unlinkat", "fsync"]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("call", "expected", "behind"),
    [
        pytest.param("fchown", OLD, True, id="before the owner is set"),
        pytest.param("fchmod", OLD, True, id="before the mode is set"),
        pytest.param("fsync", OLD, True, id="before the bytes are on disk"),
        pytest.param("renameat2", OLD, True, id="before the exchange"),
        pytest.param("unlinkat", NEW, True, id="after the exchange"),
        pytest.param("fsync:2", NEW, False, id="before the directory is on disk"),
    ],
)
def test_killed_at_any_instant_the_file_is_whole_and_what_is_left_is_found(
    host: LocalHost, root: Path, file: Path, call: str, expected: bytes, behind: bool
) -> None:
    name, _, number = call.partition(":")
    inject = f"inject={name}:signal=SIGKILL:when={number or 1}"
    traced(["-o", "/dev/null", "-e", f"trace={name}", "-e", inject], str(root), str(file), NEW.decode())
    assert file.read_bytes() == expected
    left = left_beside(host, file)
    assert bool(left) is behind
    assert names(root) == sorted(["api.env", *(os.path.basename(path) for path in left)])
    for path in left:
        remove(host, Path(path), seen(host, Path(path)))
    assert names(root) == ["api.env"]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("call", ["fchown", "fchmod", "renameat2", "fsync"])
def test_killed_while_a_directory_is_made_it_is_made_whole_the_next_time(root: Path, call: str) -> None:
    path = str(root / "config" / "api.env")
    inject = f"inject={call}:signal=SIGKILL:when=1"
    traced(["-o", "/dev/null", "-e", f"trace={call}", "-e", inject], str(root), path, NEW.decode())
    assert (root / "config").exists() is (call == "fsync")
    assert traced(["-o", "/dev/null", "-e", "trace=fsync"], str(root), path, NEW.decode()).returncode == 0
    assert names(root) == ["config"]
    assert mode_of(root / "config") == 0o755


@pytest.mark.usefixtures("strace")
def test_killed_while_deleting_the_bytes_are_still_found(host: LocalHost, root: Path, file: Path) -> None:
    inject = "inject=unlinkat:signal=SIGKILL:when=1"
    traced(["-o", "/dev/null", "-e", "trace=unlinkat", "-e", inject], str(root), str(file))
    assert not file.exists()
    assert leftovers(host, file) == [OLD]
    # Killed again while that is cleared away.
    (aside,) = left_beside(host, file)
    traced(["-o", "/dev/null", "-e", "trace=unlinkat", "-e", inject], str(root), aside)
    assert leftovers(host, file) == [OLD]


def test_leftovers_are_those_of_this_file_only(host: LocalHost, root: Path) -> None:
    hexadecimal = "0123456789ab"
    ours = [f".api.env.reconciler-{hexadecimal}", f"..api.env.reconciler-{hexadecimal}.reconciler-{hexadecimal}"]
    others = [
        "api.env",
        f".worker.env.reconciler-{hexadecimal}",
        f"..api.env.reconciler-{hexadecimal}",  # of .api.env
        f".api.env.reconciler-{hexadecimal}.reconciler-{hexadecimal}",  # of a file with a strange name
        ".api.env.reconciler-notes",
        ".api.env.swp",
    ]
    for name in (*ours, *others):
        (root / name).write_text("x")
    (root / ".api.env.reconciler-ffffffffffff").mkdir()
    (root / ".api.env.reconciler-eeeeeeeeeeee").symlink_to("/etc/passwd")
    assert left_beside(host, root / "api.env") == tuple(sorted(str(root / name) for name in ours))
    assert left_beside(host, root / "no" / "directory") == ()


# --- disks and rights ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(where: Path, kind: str, options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", kind, "-o", options, kind, str(where)], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {kind}: {done.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@contextlib.contextmanager
def as_user(number: int) -> Iterator[None]:
    """Without root's rights; somebody who is not root already does without."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(number)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, which is not so below tmp_path."""
    directory = Path(tempfile.mkdtemp(prefix="reconciler-public-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_file_systems_that_servers_have(tmp_path: Path, kind: str) -> None:
    for part in ("lower", "upper", "work"):
        (tmp_path / part).mkdir()
    (tmp_path / "lower" / "api.env").write_bytes(OLD)
    options = {"tmpfs": "size=1m", "overlay": "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work"}
    with mounted(tmp_path / "app", kind, options[kind].format(tmp_path)) as root:
        host, file = LocalHost([str(root)]), root / "api.env"
        file.write_bytes(OLD)
        live = seen(host, file)
        rewrite(file)
        with pytest.raises(ChangedMeanwhileError):
            put(host, file, replaces=live)
        put(host, file, replaces=seen(host, file))
        assert file.read_bytes() == NEW
        with file.open("ab"), pytest.raises(ChangedMeanwhileError):
            put(host, file, replaces=seen(host, file))
        remove(host, file, replaces=seen(host, file))
        put(host, file)
        assert names(root) == ["api.env"]


@pytest.mark.root
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "app", "tmpfs", "size=64k") as root:
        host, file = LocalHost([str(root)]), root / "api.env"
        file.write_bytes(OLD)
        before = open_descriptors()
        with pytest.raises(LiveFileError, match=r"No space left on device.*free some space"):
            put(host, file, b"A" * 100_000, replaces=seen(host, file))
        assert file.read_bytes() == OLD
        assert names(root) == ["api.env"]
        assert open_descriptors() == before
        put(host, file, replaces=seen(host, file))
        assert file.read_bytes() == NEW


@pytest.mark.root
def test_a_read_only_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "app", "tmpfs", "size=64k") as root:
        host, file = LocalHost([str(root)]), root / "api.env"
        file.write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        live = seen(host, file)
        with pytest.raises(LiveFileError, match=r"Read-only file system.*remount it read-write"):
            put(host, file, replaces=live)
        with pytest.raises(LiveFileError, match=r"Read-only file system.*remount it read-write"):
            put(host, root / "config" / "api.env")
        with pytest.raises(LiveFileError, match=r"cannot delete the live file \(Read-only file system\)"):
            remove(host, file, live)
        assert file.read_bytes() == OLD


def test_a_directory_that_may_not_be_written(public: Path) -> None:
    host, file = LocalHost([str(public)]), public / "api.env"
    file.write_bytes(OLD)
    public.chmod(0o555)
    try:
        with as_user(NOBODY):
            live = seen(host, file)
            with pytest.raises(LiveFileError, match=r"Permission denied.*Run the daemon as root"):
                put(host, file, replaces=live)
            with pytest.raises(LiveFileError, match=r"cannot delete the live file \(Permission denied\)"):
                remove(host, file, live)
    finally:
        public.chmod(0o755)
    assert names(public) == ["api.env"]


def test_a_file_that_may_not_be_read(public: Path) -> None:
    host, file = LocalHost([str(public)]), public / "api.env"
    file.write_bytes(OLD)
    file.chmod(0)
    with as_user(NOBODY), pytest.raises(LiveFileError, match=r"cannot read the live file \(Permission denied\)"):
        look(host, file)


@pytest.mark.root
def test_who_may_not_ask_for_a_lease_can_still_replace_a_file(public: Path) -> None:
    """A daemon that is not root, and a file of somebody else in a directory that both may write to."""
    host, file = LocalHost([str(public)]), public / "api.env"
    public.chmod(0o777)
    file.write_bytes(OLD)
    with as_user(NOBODY):
        put(host, file, replaces=seen(host, file), ownership=Ownership(NOBODY, NOBODY))
    assert file.read_bytes() == NEW


@pytest.mark.root
def test_an_immutable_directory(host: LocalHost, root: Path, file: Path) -> None:
    if subprocess.run(["chattr", "+i", str(root)], check=False, capture_output=True).returncode != 0:
        pytest.skip("this file system has no immutable flag")
    try:
        with pytest.raises(LiveFileError, match=r"Operation not permitted.*immutable flag \(lsattr\)"):
            put(host, file, replaces=seen(host, file))
    finally:
        subprocess.run(["chattr", "-i", str(root)], check=True)
    assert names(root) == ["api.env"]


@pytest.mark.root
def test_a_live_file_that_is_a_mount_point(host: LocalHost, root: Path, file: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(OLD)
    if subprocess.run(["mount", "--bind", str(source), str(file)], check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot bind-mount")
    try:
        with pytest.raises(LiveFileError, match=r"busy.*mount the directory that holds it instead"):
            put(host, file, replaces=seen(host, file))
    finally:
        subprocess.run(["umount", str(file)], check=True)
    assert names(root) == ["api.env"]


def test_a_name_too_long_for_a_temporary_file_says_so(host: LocalHost, root: Path) -> None:
    put(host, root / ("a" * 230))
    with pytest.raises(LiveFileError, match=r"File name too long.*choose a shorter name"):
        put(host, root / ("a" * 231))


# --- file systems without renameat2's flags --------------------------------------------------------------------------


@pytest.fixture
def plain_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS."""

    def refuse(parent: int, old: str, new: str, flags: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(renames, "_rename", refuse)


@pytest.mark.usefixtures("plain_renames")
def test_without_exchange_files_are_still_made_replaced_and_deleted(host: LocalHost, root: Path) -> None:
    file = root / "api.env"
    put(host, file, OLD)
    assert file.read_bytes() == OLD
    put(host, file, replaces=seen(host, file))
    assert file.read_bytes() == NEW
    assert names(root) == ["api.env"]
    assert file.stat().st_nlink == 1
    remove(host, file, replaces=seen(host, file))
    assert names(root) == []


@pytest.mark.usefixtures("plain_renames")
def test_without_exchange_there_is_a_file_at_every_moment(host: LocalHost, file: Path) -> None:
    test_a_reader_sees_the_old_or_the_new_bytes_and_never_a_part(host, file)


def test_another_error_of_the_rename_is_reported_and_leaves_nothing(
    host: LocalHost, root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(parent: int, old: str, new: str, flags: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(renames, "_rename", fail)
    for path, live in ((file, seen(host, file)), (root / "new.env", None)):
        with pytest.raises(LiveFileError, match=r"cannot write the live file \(Input/output error\).*dmesg"):
            put(host, path, replaces=live)
    assert names(root) == ["api.env"]


@pytest.mark.usefixtures("plain_renames")
def test_an_error_half_way_through_the_steps_leaves_the_old_file_and_nothing_else(
    host: LocalHost, root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    live = seen(host, file)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(LiveFileError, match="Input/output error"):
        put(host, file, replaces=live)
    assert names(root) == ["api.env"]
    assert file.read_bytes() == OLD


# --- owners and links by name ----------------------------------------------------------------------------------------


def test_names_become_numbers(host: LocalHost) -> None:
    assert asyncio.run(host.ownership("root", "root")) == Ownership(0, 0)
    assert asyncio.run(host.ownership("1234", "0")) == Ownership(1234, 0)
    assert asyncio.run(host.ownership("4294967294", None)) == Ownership(2**32 - 2, None)
    assert asyncio.run(host.ownership(None, None)) == Ownership(None, None)


@pytest.mark.parametrize("inherited", [False, pytest.param(True, marks=pytest.mark.root)])
def test_a_new_file_has_the_owner_that_was_said_before(host: LocalHost, root: Path, *, inherited: bool) -> None:
    if inherited:
        os.chown(root, -1, NOBODY)
        root.chmod(0o2755)
    said = asyncio.run(host.new_owner(str(root / "new.env")))
    put(host, root / "new.env")
    made = (root / "new.env").stat()
    assert said == Ownership(made.st_uid, made.st_gid) == Ownership(os.geteuid(), NOBODY if inherited else os.getegid())
    assert asyncio.run(host.new_owner(str(root / "absent" / "new.env"))) == Ownership(os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("owner", "group", "message"),
    [
        pytest.param("no-such-user", None, r"the user 'no-such-user' does not exist.*useradd", id="user"),
        pytest.param(None, "no-such-group", r"the group 'no-such-group' does not exist.*groupadd", id="group"),
        pytest.param("4294967295", None, "4294967295 is too large", id="the number that means unchanged"),
        pytest.param(None, "99999999999", "99999999999 is too large", id="no number of a group"),
    ],
)
def test_an_owner_that_cannot_be_is_the_revisions_fault(
    host: LocalHost, owner: str | None, group: str | None, message: str
) -> None:
    with pytest.raises(GuardError, match=message) as error:
        asyncio.run(host.ownership(owner, group))
    assert error.value.blames_revision


def test_resolve_follows_links_as_far_as_they_lead(host: LocalHost, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("app")
    resolved = asyncio.run(host.resolve(str(tmp_path / "link" / "new" / "api.env")))
    assert resolved == str(tmp_path / "app" / "new" / "api.env")


# --- named checks ----------------------------------------------------------------------------------------------------


def check(host: LocalHost, named: Check, data: Secret) -> None:
    asyncio.run(host.check(named, data))


def shell(script: str) -> Check:
    return Check("syntax", ("/bin/sh", "-c", script, "{file}"))


def test_a_check_gets_the_staged_bytes_from_memory(host: LocalHost, root: Path, tmp_path: Path) -> None:
    (tmp_path / "expected").write_bytes(NEW)
    check(host, Check("same", ("cmp", "{file}", str(tmp_path / "expected"))), Secret(NEW))
    check(host, shell('test "$(readlink "$0")" = "/memfd:staged (deleted)"'), Secret(NEW))
    assert names(root) == []


def test_a_check_finds_programs_of_the_administrator(host: LocalHost) -> None:
    """nginx lives in /usr/sbin."""
    check(host, Check("sbin", ("ldconfig", "--version")), Secret(NEW))


def test_a_failed_check_says_nothing_of_what_it_printed(host: LocalHost) -> None:
    before = open_descriptors()
    with pytest.raises(GuardError, match=r"check syntax: the check rejects the new file \(exit code 3\)") as error:
        check(host, shell('cat "$0"; cat "$0" >&2; exit 3'), Secret(f"A={CANARY}\n".encode()))
    assert CANARY not in f"{error.value!r} {error.value}"
    assert "manually on the decrypted file" in str(error.value)
    assert open_descriptors() == before


def test_a_check_that_hangs_is_ended(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHECK_LIMITS", Limits(timeout=0.2, grace=0.1))
    with pytest.raises(GuardError, match=r"timed out after 0\.2 s"):
        check(host, shell("trap '' TERM; sleep 60 & wait; sleep 60"), Secret(NEW))


def test_a_check_that_never_stops_printing_is_ended(host: LocalHost) -> None:
    with pytest.raises(GuardError, match="printed too much"):
        check(host, Check("loud", ("cat", "/dev/zero")), Secret(NEW))


def test_a_check_whose_program_is_missing(host: LocalHost) -> None:
    with pytest.raises(GuardError, match="the check's program no-such-program is not installed"):
        check(host, Check("missing", ("no-such-program", "{file}")), Secret(NEW))
