"""Asks a service of a Swarm from inside its overlay network, at a steady rate, and counts what gets lost.

Run as a program, in the network namespace of a container of the same network, this file is the client: it looks the
name up for each request, as one does that keeps no address for longer than a second, and asks whether or not the
requests before are answered. It ends after the number of requests that it is given, once it is told that it may (its
stdin ends), and after ``MOST`` in any case.
"""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

RATE = 100  # requests a second
MOST = 20_000  # requests
PATIENCE = 120.0  # seconds until a request counts as lost; one to an address that nobody has is refused after 3
_DNS = ("127.0.0.11", 53)  # the engine's own, in each container
_AGAIN = 5.0  # seconds until a lookup is sent again, as resolv.conf(5) has it: UDP may lose one


@dataclass(frozen=True, slots=True)
class Asked:
    """``answers`` counts the requests by their answer; ``lost`` has a reason for each of the others."""

    answers: dict[str, int]
    lost: list[str]
    slowest: float

    @property
    def number(self) -> int:
        return sum(self.answers.values()) + len(self.lost)


@dataclass(frozen=True, slots=True)
class OverlayClient:
    """A client that is asking."""

    process: subprocess.Popen[str]

    def result(self) -> Asked:
        """Tell it that it may end, and wait for its last answer."""
        printed, _ = self.process.communicate(timeout=600)  # this closes its stdin
        return Asked(**json.loads(printed))


def start_client(namespace: str, service: str, number: int) -> OverlayClient:
    """Ask ``http://SERVICE/`` so many times, or more, from the network namespace at a path."""
    argv = ("nsenter", f"--net={namespace}", sys.executable, __file__, service, str(number))
    return OverlayClient(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


# --- the program -----------------------------------------------------------------------------------------------------


class _Counts:
    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.lost: list[str] = []
        self.slowest = 0.0
        self._lock = threading.Lock()

    def ask(self, service: str) -> None:
        begun = time.monotonic()
        address = ""
        try:
            address = random.choice(_addresses(service))
            answer = _get(address, service)
        except Exception as error:  # noqa: BLE001  # whatever it is, the request is lost
            with self._lock:
                self.lost.append(f"{address}: {error!r} after {time.monotonic() - begun:.2f} s")
        else:
            with self._lock:
                self.answers[answer] += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)


def _get(address: str, host: str) -> str:
    with socket.create_connection((address, 80), timeout=PATIENCE) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    if b" 200 " not in head.splitlines()[0]:
        raise ConnectionError(f"answer {head[:40]!r}")
    return body.decode().strip()


def _addresses(name: str) -> list[str]:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        answer = _answer(connection, query)
    (count,) = struct.unpack_from(">H", answer, 6)
    at, addresses = len(query), []
    for _ in range(count):
        if answer[at] < 192:  # a name that is written out
            at = answer.index(0, at) - 1
        kind, length = struct.unpack_from(">H6xH", answer, at + 2)
        if kind == 1:
            addresses.append(socket.inet_ntoa(answer[at + 12 : at + 16]))
        at += 12 + length
    return addresses


def _answer(connection: socket.socket, query: bytes) -> bytes:
    connection.settimeout(_AGAIN)
    ends = time.monotonic() + PATIENCE
    while True:
        connection.sendto(query, _DNS)
        try:
            return connection.recv(4096)
        except TimeoutError:
            if time.monotonic() > ends:
                raise


def _may_end() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _main(service: str, number: int) -> dict[str, Any]:
    counts = _Counts()
    begun = time.monotonic()
    threads = []
    for turn in range(MOST):
        if turn >= number and _may_end():
            break
        time.sleep(max(0.0, begun + turn / RATE - time.monotonic()))
        threads.append(threading.Thread(target=counts.ask, args=(service,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return {"answers": counts.answers, "lost": counts.lost, "slowest": counts.slowest}


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], int(sys.argv[2]))))
