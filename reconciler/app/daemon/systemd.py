"""What systemd learns of the daemon (sd_notify(3)): ready, reloading, stopping, alive, and a sentence for its status.

The protocol is a datagram to one socket. Nothing here can fail the daemon, and without systemd nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from reconciler.app.daemon.loop import Daemon
from reconciler.core.text import listed

_SOON = 0.2  # seconds between two reports while somebody waits for the next one
_USUAL = 5.0  # seconds between two reports otherwise
_MORE_TIME = 60.0  # seconds: a start or a reload may take this much longer from now on
_NAMES = 3  # of environments with one result in the sentence


class ServiceManager:
    """The socket of systemd. Its variables are taken out of ``variables``: no program that we start gets them."""

    def __init__(self, variables: MutableMapping[str, str] = os.environ) -> None:
        self._address = variables.pop("NOTIFY_SOCKET", "")
        limit, pid = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", str(os.getpid()))
        watched = self._address and limit.isdecimal() and pid == str(os.getpid())
        self.watchdog = int(limit) / 1_000_000 if watched else None
        """Seconds within which systemd wants to hear that the daemon is alive; None if it does not watch."""

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def send(self, *assignments: str) -> None:
        """Send ``NAME=value`` lines; one that does not arrive is made up for by the next."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.sendto("\n".join(assignments).encode(), address)


class ServiceReports:
    """Reports to ``manager``, from the daemon's own event loop, how ``daemon`` is (None: none runs at the moment).

    Ready is once the daemon has looked at everything; after a reload, once the configuration to use is in use.
    """

    def __init__(self, manager: ServiceManager, daemon: Callable[[], Daemon | None]) -> None:
        self._manager = manager
        self._daemon = daemon
        self._looked = False
        self._reloading = False
        self._stopping = False
        self._kept = ""
        self._sentence = ""

    def reloading(self) -> None:
        self._reloading = True
        self._manager.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, *, kept: bool) -> None:
        """The reload has ended; ``kept``: the former configuration stays."""
        self._reloading = False
        self._kept = "The former configuration stays, see the journal. " if kept else ""
        if self._looked:
            self._manager.send("READY=1")
        self._report()

    def stopping(self) -> None:
        self._stopping = True
        self._manager.send("STOPPING=1")
        self._report()

    async def run(self) -> None:
        """Report until cancelled."""
        usual = min(_USUAL, (self._manager.watchdog or _USUAL) / 3)
        while True:
            self._report()
            await asyncio.sleep(usual if self._looked and not self._reloading else _SOON)

    def _report(self) -> None:
        daemon, lines = self._daemon(), list[str]()
        if not self._looked and daemon is not None and daemon.looked and not self._reloading:
            self._looked = True
            lines.append("READY=1")
        if daemon is None or daemon.alive:
            lines.append("WATCHDOG=1")
            if (self._reloading or not self._looked) and not self._stopping:
                lines.append(f"EXTEND_TIMEOUT_USEC={round(_MORE_TIME * 1_000_000)}")
        sentence = self._kept + ("Stopping. " if self._stopping else "") + (service_status(daemon) if daemon else "")
        if sentence != self._sentence:
            self._sentence = sentence
            lines.append(f"STATUS={sentence}")
        if lines:
            self._manager.send(*lines)


def service_status(daemon: Daemon) -> str:
    """One sentence for `systemctl status`: environments by result, and which are being reconciled. No values."""
    results: dict[str, list[str]] = {}
    for unit in daemon.reconcilers:
        last = daemon.last_outcomes.get(unit)
        result = last.outcome.result.value if last else "not reconciled yet"
        results.setdefault(result, []).append(unit)
    parts = [f"{result}: {listed(units, _NAMES)}" for result, units in results.items()]
    for unit, host in daemon.reconcilers.items():
        if host.activity.since is not None:
            phase = f" ({host.activity.phase.value})" if host.activity.phase else ""
            parts.append(f"reconciling {unit}{phase}")
    return "; ".join(parts)
