"""Which process of this machine listens on a port, as /proc shows it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from reconciler.core.text import printable

_LISTENING, _UNCONNECTED = "0A", "07"  # of TCP and of UDP, in /proc/net
_TABLES = {"tcp": _LISTENING, "tcp6": _LISTENING, "udp": _UNCONNECTED, "udp6": _UNCONNECTED}


def process_words(port: int) -> str:
    """The process of this machine that listens on the port, for a message; "" where it cannot be found out."""
    sockets = {f"socket:[{inode}]" for table, state in _TABLES.items() for inode in _inodes(table, state, port)}
    for pid in filter(str.isdecimal, os.listdir("/proc")) if sockets else ():
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            links = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
            if not sockets.isdisjoint(links):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return f"the process {printable(file.read().strip())} (pid {pid})"
    return ""


def _inodes(table: str, state: str, port: int) -> Iterator[str]:
    with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii", errors="replace") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
