"""Which processes write to live files, by the kernel's fanotify. Needs Linux 5.15 and CAP_SYS_ADMIN; without, it knows
nothing, and nothing else changes.

The one library on PyPI, pyfanotify, gives no pidfds, and is C code to build. Only notifications are asked for, never
permissions: a daemon that hangs must not block a writer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Sequence

from reconciler.adapters.local.users import writer_of
from reconciler.core.decide.editors import FileWriter

# linux/fanotify.h
_CLOEXEC, _NONBLOCK, _REPORT_PIDFD, _REPORT_DIR_FID, _REPORT_NAME = 0x1, 0x2, 0x80, 0x400, 0x800
_MARK_ADD, _MARK_ONLYDIR = 0x1, 0x8
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x80, 0x100, 0x200
_OVERFLOW, _ON_CHILD = 0x4000, 0x08000000
_DFID_NAME, _PIDFD = 2, 4
_EVENTS = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _ON_CHILD
_METADATA = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBH")
_HANDLE = struct.Struct("=IIIi")  # fsid, and the head of a file_handle
_LARGEST_HANDLE = 128  # bytes, MAX_HANDLE_SZ
_AT_FDCWD = -100
_MOST_WRITERS = 5
# How much later than its last known write (seconds) a file may say that it was modified: coarse clocks.
_SLACK = 2.0
# A process that made a file beside it (`sed -i`) may have ended by the time it is renamed.
_REMEMBERED = 1.0  # seconds
# After many events within a second, the thread rests nine times the CPU time that they took: more of them cost no more
# than a tenth of a core.
_MANY_EVENTS, _REST = 64, 9.0
_LONGEST_REST = 2.0  # seconds

_Directory = tuple[int, int, bytes]
"""The filesystem's id, and the type and bytes of the directory's handle."""


class FileWriters:
    """Remembers who wrote to the files that it was asked about, since this process last wrote to them.

    A thread reads the events: a process must be looked up before it ends.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Lock()
        self._followed: dict[tuple[_Directory, str], str] = {}
        self._marks: dict[str, tuple[_Directory, str]] = {}
        self._writers: dict[str, list[tuple[float, FileWriter | None]]] = {}
        self._recent: dict[int, tuple[float, FileWriter]] = {}
        flags = _CLOEXEC | _NONBLOCK | _REPORT_PIDFD | _REPORT_DIR_FID | _REPORT_NAME
        self._group = self._libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC) if _has_fanotify(self._libc) else -1
        if self._group >= 0:
            self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._run, name="file-writers", daemon=True)
            self._thread.start()

    @property
    def available(self) -> bool:
        return self._group >= 0

    def close(self) -> None:
        if self._group >= 0:
            os.close(self._woken)
            self._thread.join()
            for descriptor in (self._wake, self._group):
                os.close(descriptor)
            self._group = -1

    def follow(self, path: str) -> None:
        """Remember from now on who writes to the live file. Its directory may be replaced: then call it again."""
        directory, _, name = path.rpartition("/")
        if self._group < 0 or (key := self._handle(directory)) is None:
            return
        with self._lock:
            known = self._marks.get(path) == (key, name)
            if not known and (former := self._marks.pop(path, None)) is not None:
                self._followed.pop(former, None)
        if known:
            return
        encoded = os.fsencode(directory)
        mark = ctypes.c_uint64(_EVENTS)
        if self._libc.fanotify_mark(self._group, _MARK_ADD | _MARK_ONLYDIR, mark, _AT_FDCWD, encoded) == 0:
            with self._lock:
                self._followed[key, name], self._marks[path] = path, (key, name)
                self._writers.pop(path, None)

    def writers_of(self, path: str, modified_at: float) -> Sequence[FileWriter]:
        """Who wrote to the file since this process last did, first one first; nobody where any of them is not known.

        ``modified_at`` is what the file says (epoch seconds): a write that nobody saw makes all of it uncertain.
        """
        with self._lock:
            writes = list(self._writers.get(path, ()))
        writers = [writer for _, writer in writes if writer is not None]
        if not writes or len(writers) < len(writes) or modified_at > writes[-1][0] + _SLACK:
            return ()
        return writers

    # --- the thread ---

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._group, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        since, count, spent = 0.0, 0, 0.0
        while self._wake not in (descriptor for descriptor, _ in poller.poll()):
            now, used = time.monotonic(), time.thread_time()
            if now - since > 1.0:
                since, count, spent = now, 0, 0.0
            try:
                events = os.read(self._group, 65536)
            except BlockingIOError:
                continue
            except OSError:
                self._forget_all()
                continue
            count += self._take_all(events)
            spent += time.thread_time() - used
            if count > _MANY_EVENTS:
                self._rest(_REST * spent)
                count, spent = 0, 0.0

    def _rest(self, seconds: float) -> None:
        """Until the end, if that comes first."""
        end = select.poll()
        end.register(self._wake, select.POLLIN)
        end.poll(1000 * min(seconds, _LONGEST_REST))

    def _take_all(self, events: bytes) -> int:
        count = start = 0
        while len(events) - start >= _METADATA.size:
            length, _, _, header, mask, _, pid = _METADATA.unpack_from(events, start)
            key, pidfd = _infos(events[start + header : start + length])
            try:
                if mask & _OVERFLOW:
                    self._forget_all()
                elif key is not None:
                    self._take(key, mask, pid, pidfd)
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
            start, count = start + length, count + 1
        return count

    def _take(self, key: tuple[_Directory, str], mask: int, pid: int, pidfd: int) -> None:
        with self._lock:
            path = self._followed.get(key)
        if path is None and not mask & (_CREATE | _MOVED_TO):
            return
        now = time.time()
        if pid == os.getpid():
            if path is not None:
                with self._lock:
                    self._writers.pop(path, None)
            return
        writer = self._identify(pid, pidfd, now)
        if path is None:
            return
        with self._lock:
            writes = self._writers.setdefault(path, [])
            if writes and writes[-1][1] == writer:
                writes.pop()
            writes.append((now, writer))
            del writes[:-_MOST_WRITERS]

    def _identify(self, pid: int, pidfd: int, now: float) -> FileWriter | None:
        """Who is behind the process; None where it ended too soon."""
        writer = writer_of(pid) if pid > 0 and pidfd >= 0 else None
        if writer is not None and _lives(pidfd):  # still the same one, so what was read is about it
            self._recent = {known: seen for known, seen in self._recent.items() if now - seen[0] < _REMEMBERED}
            self._recent[pid] = (now, writer)
            return writer
        at, earlier = self._recent.get(pid, (0.0, None))
        return earlier if 0 <= now - at < _REMEMBERED else None

    def _forget_all(self) -> None:
        """Events were lost: nothing is certain until each file is written by this process again."""
        with self._lock:
            for path in self._followed.values():
                self._writers[path] = [(time.time(), None)]

    def _handle(self, directory: str) -> _Directory | None:
        """What the kernel calls the directory in events; None where its file system has no such names."""
        buffer = ctypes.create_string_buffer(8 + _LARGEST_HANDLE)
        struct.pack_into("=Ii", buffer, 0, _LARGEST_HANDLE, 0)
        mount, encoded = ctypes.c_int(), os.fsencode(directory)
        if self._libc.name_to_handle_at(_AT_FDCWD, encoded, buffer, ctypes.byref(mount), 0) != 0:
            return None
        with contextlib.suppress(OSError):
            size, kind = struct.unpack_from("=Ii", buffer)
            return os.statvfs(directory).f_fsid, kind, buffer.raw[8 : 8 + size]
        return None


def _has_fanotify(libc: ctypes.CDLL) -> bool:
    return all(hasattr(libc, name) for name in ("fanotify_init", "fanotify_mark", "name_to_handle_at"))


def _infos(records: bytes) -> tuple[tuple[_Directory, str] | None, int]:
    """The directory and name, and the pidfd (-1: none), of an event."""
    key, pidfd = None, -1
    while len(records) >= _INFO.size:
        kind, _, length = _INFO.unpack_from(records)
        record, records = records[_INFO.size : length], records[max(length, _INFO.size) :]
        if kind == _DFID_NAME:
            low, high, size, handle = _HANDLE.unpack_from(record)
            end = _HANDLE.size + size
            name = os.fsdecode(record[end:].split(b"\0", 1)[0])
            key = ((low | high << 32, handle, record[_HANDLE.size : end]), name)
        elif kind == _PIDFD:
            (pidfd,) = struct.unpack_from("=i", record)
    return key, pidfd


def _lives(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        return False
    return True
