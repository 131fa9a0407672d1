"""The Docker engine of a test session: one for all xdist workers, started by the first test that needs it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reconciler.demo import dockerd

IMAGE = "reconciler-test/busybox:1"


def private_place(directory: str) -> dockerd.EnginePlace:
    """A place for an engine beside the machine's own, with all files below ``directory``.

    The path must be short: that of a socket has at most 107 bytes. The engine gets its own network and mount
    namespaces: in the machine's, even an engine with ``--bridge none`` removes docker0, and with it the other engine's
    network.
    """
    host = f"unix://{directory}/docker.sock"
    pid_file = f"{directory}/docker.pid"
    files = ("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "--pidfile", pid_file)
    return dockerd.EnginePlace(host, pid_file, ("unshare", "--net", "--mount", "dockerd", "--host", host, *files))


def quick_place(directory: Path) -> dockerd.EnginePlace:
    """The machine's own place, for an engine whose containers start in a fifth less CPU time.

    Its runtime collects no garbage in its few milliseconds, and compiles no seccomp filter for each. A network costs a
    third: nothing outside needs to reach one, so it writes no iptables rules.
    """
    filters = directory / "seccomp.json"
    filters.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    command = ("env", "GOGC=400", "dockerd", "--iptables=false", "--seccomp-profile", str(filters))
    return replace(dockerd.USUAL_PLACE, command=command)


class SharedEngine:
    """Starts an engine at most once for everybody who shares ``directory``; anybody may end it.

    A worker process starts it and the controlling process ends it, so what was started is noted in a file.
    """

    def __init__(self, directory: Path, place: dockerd.EnginePlace | None = None) -> None:
        self._place = place or quick_place(directory)
        self._note = directory / "engine.json"
        self._lock = directory / "engine.lock"
        self._log = directory / "dockerd.log"

    def ensure(self) -> bool:
        """Have an engine that answers; return whether this call started it. Raises EngineUnavailableError."""
        with self._locked():
            if dockerd.answers(self._place.docker_host):
                return False
            started = dockerd.spawn(str(self._log), self._place)
            # Noted before it is ready: it is ended even if we are killed while waiting for it.
            self._note.write_text(json.dumps([started.pid, started.started_at]))
            return started.wait_until_ready()

    def end(self) -> None:
        """End the engine if it was started here; one that was there before goes on."""
        with self._locked():
            if self._note.exists():
                pid, started_at = json.loads(self._note.read_text())
                dockerd.StartedEngine(pid, started_at, str(self._log), self._place).stop()
                self._note.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
