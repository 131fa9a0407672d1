"""Finds a Docker engine, starts one where none answers, and makes a small image without a registry.

For the demo and the tests, which have to run on a machine where nobody has set up Docker yet. The daemon never uses
it. Synchronous: both need it before their own work begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.errors import EngineUnavailableError

# dockerd, containerd and iptables live in sbin, which is not on every PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
QUICK = 10.0  # seconds for a question to the engine
SLOW = 60.0  # seconds for starting an engine or loading an image
STOPPING = 40.0  # seconds: dockerd gives its containers 15 of them, then tidies up
LOOK_EVERY = 0.05  # seconds between two looks at something awaited
LOG_LINES = 15  # of dockerd's log, in an error


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Where an engine listens (None: where docker's own settings say), its pid file, and what starts it."""

    docker_host: str | None
    pid_file: str
    command: tuple[str, ...]


USUAL_PLACE = EnginePlace(None, "/var/run/docker.pid", ("dockerd",))


# --- finding ---------------------------------------------------------------------------------------------------------


def answers(docker_host: str | None = None) -> bool:
    """Whether an engine answers at ``docker_host``, or where docker's own settings say."""
    try:
        return _docker(docker_host, "version", "--format", "{{.Server.Version}}", timeout=QUICK).returncode == 0
    except EngineUnavailableError:
        return False


def obstacle() -> str | None:
    """Why there is no engine to be had on this machine; None where one answers or can be started."""
    if answers():
        return None
    if _program("docker") is None:
        return "the docker command is not installed"
    if host := os.environ.get("DOCKER_HOST"):
        return f"no engine answers at DOCKER_HOST ({host})"
    if _program("dockerd") is None:
        return "no Docker engine answers, and dockerd is not installed"
    if os.geteuid() != 0:
        return "no Docker engine answers, and only root can start one"
    return None


# --- starting and stopping -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A dockerd that we started. Plain data: another process may stop it."""

    pid: int
    started_at: str
    log_path: str
    place: EnginePlace = USUAL_PLACE

    def wait_until_ready(self, timeout: float = SLOW) -> bool:
        """Wait until it answers. False if it gave way to an engine that somebody else started at the same time.

        Raises EngineUnavailableError, with the end of its log, if it ends or ``timeout`` seconds pass.
        """
        _wait(lambda: answers(self.place.docker_host) or not self.running(), timeout)
        if answers(self.place.docker_host):
            return self.running()
        fate = "does not answer" if self.running() else "ended immediately"
        log = _last_lines(self.log_path)
        raise EngineUnavailableError(f"dockerd {fate}; its log ends:\n{log}", where=self.log_path)

    def running(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # reaps it if it is our child and has ended
        return _start_time(self.pid) == self.started_at

    def stop(self, timeout: float = STOPPING) -> None:
        """End it, its containers with it. Does nothing if it has ended already."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.running():
                break
            os.kill(self.pid, number)
            _wait(lambda: not self.running(), timeout)


def spawn(log_path: str, place: EnginePlace = USUAL_PLACE) -> StartedEngine:
    """Start dockerd in a session of its own, so that no Ctrl-C reaches it, and return without waiting for it.

    Raises EngineUnavailableError where dockerd is not installed.
    """
    program = _program(place.command[0])
    if program is None or _program("dockerd") is None:
        raise EngineUnavailableError("dockerd is not installed", hint="Install it: apt-get install docker.io iptables")
    _remove_stale_pid_file(place.pid_file)
    pid = _start_session([program, *place.command[1:]], log_path)
    return StartedEngine(pid, _start_time(pid) or "", log_path, place)


@contextlib.contextmanager
def engine(log_path: str, place: EnginePlace = USUAL_PLACE) -> Iterator[bool]:
    """An engine answers inside the block: the one that is there, else one that is started and ended again.

    Yields whether it was started. ``log_path`` takes dockerd's log. Raises EngineUnavailableError.
    """
    if answers(place.docker_host):
        yield False
        return
    started = spawn(log_path, place)
    try:
        yield started.wait_until_ready()
    finally:
        started.stop()


def _remove_stale_pid_file(path: str) -> None:
    """A killed dockerd leaves its pid file; once another process has that number, dockerd refuses to start."""
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            if file.read().strip() == "dockerd":
                return
    except FileNotFoundError:
        pass
    except ValueError:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None if it has ended. With the pid it names one process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            # The name is in brackets and may hold anything; the state follows it, and 19 fields on the start.
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _last_lines(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return "\n".join(file.read().splitlines()[-LOG_LINES:])
    return "(no log)"


def _wait(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)


# --- an image without a registry -------------------------------------------------------------------------------------

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"
CONTAINER_SETTINGS = {
    "Cmd": ["sleep", "infinity"],
    "Env": ["PATH=/bin"],
    # As process 1 the busybox tools ignore SIGTERM: every stop would wait 10 seconds before it kills.
    "StopSignal": "SIGKILL",
}


def ensure_image(name: str, docker_host: str | None = None) -> None:
    """Make the image ``name`` of the machine's static busybox with all its tools: sh, httpd, wget, env, sleep …

    The same busybox gives the same image, so an existing image is kept.
    Raises EngineUnavailableError if there is no static busybox or the engine does not take the image.
    """
    busybox = static_busybox()
    if busybox is None:
        hint = "Install it: apt-get install busybox-static"
        raise EngineUnavailableError("no static busybox to make a test image of", hint=hint)
    tools = _run([busybox, "--list"], timeout=QUICK).stdout.decode().split()
    with open(busybox, "rb") as file:
        layer = _layer(file.read(), tools)
    image_id, archive = _image(name, layer, _architecture(docker_host))
    known = _docker(docker_host, "image", "inspect", "--format", "{{.Id}}", name, timeout=QUICK)
    if known.stdout.decode().strip() == image_id:
        return
    loaded = _docker(docker_host, "image", "load", "--quiet", stdin=archive, timeout=SLOW)
    if loaded.returncode != 0:
        raise EngineUnavailableError(f"docker does not load the image: {_message(loaded)}", where=name)


def static_busybox() -> str | None:
    """Path of a busybox that needs no C library beside it; None where there is none."""
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if not _needs_loader(file.read(4096)):
                return path
    return None


def _needs_loader(start: bytes) -> bool:
    """Given a file's first 4 KiB, return whether it asks for a dynamic loader (PT_INTERP), or is no ELF program."""
    if not start.startswith(b"\x7fELF"):
        return True
    wide = start[4] == 2
    order = "<" if start[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", start, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}HH", start, 54 if wide else 42)
    return any(struct.unpack_from(f"{order}I", start, table + index * size) == (3,) for index in range(count))


def _layer(busybox: bytes, tools: Sequence[str]) -> bytes:
    """The image's file system as a tar archive; no times in it, so that it is the same every time."""
    directories = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777}
    files = {"bin/busybox": (0o755, busybox), "etc/group": (0o644, GROUP), "etc/passwd": (0o644, PASSWD)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, mode in directories.items():
            tar.addfile(_entry(path, mode, tarfile.DIRTYPE))
        for path, (mode, data) in files.items():
            tar.addfile(_entry(path, mode, size=len(data)), io.BytesIO(data))
        for tool in sorted(set(tools) - {"busybox"}):
            tar.addfile(_entry(f"bin/{tool}", 0o777, tarfile.SYMTYPE, link="busybox"))
    return buffer.getvalue()


def _image(name: str, layer: bytes, architecture: str) -> tuple[str, bytes]:
    """The image's id, and the archive that ``docker load`` reads.

    Not ``docker import``, which takes no stop signal and gives a new id each time.
    """
    settings = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": CONTAINER_SETTINGS,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config = json.dumps(settings).encode()
    digest = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in {
            f"{digest}.json": config,
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            tar.addfile(_entry(path, 0o644, size=len(data)), io.BytesIO(data))
    return f"sha256:{digest}", buffer.getvalue()


def _entry(path: str, mode: int, kind: bytes = tarfile.REGTYPE, *, size: int = 0, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.type, entry.size, entry.linkname = mode, kind, size, link
    return entry


def _architecture(docker_host: str | None) -> str:
    """What the engine runs, such as amd64. Raises EngineUnavailableError if it does not say."""
    result = _docker(docker_host, "version", "--format", "{{.Server.Arch}}", timeout=QUICK)
    if result.returncode != 0:
        raise EngineUnavailableError(f"the Docker engine does not answer: {_message(result)}")
    return result.stdout.decode().strip()


# --- processes -------------------------------------------------------------------------------------------------------


def _docker(
    docker_host: str | None, *arguments: str, stdin: bytes = b"", timeout: float
) -> subprocess.CompletedProcess[bytes]:
    program = _program("docker")
    if program is None:
        raise EngineUnavailableError("docker is not installed", hint="Install it: apt-get install docker.io")
    host = () if docker_host is None else ("--host", docker_host)
    return _run([program, *host, *arguments], stdin=stdin, timeout=timeout)


def _run(argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run to the end. Raises EngineUnavailableError if that takes longer than ``timeout`` seconds."""
    try:
        return subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailableError(f"no answer within {timeout:g} s", where=os.path.basename(argv[0])) from error


def _start_session(argv: Sequence[str], log_path: str) -> int:
    """Start a program that outlives this one, output to ``log_path``, in a session of its own; return its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log_path, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment: Mapping[str, str] = {**os.environ, "PATH": SEARCH_PATH}
    # Python ignores SIGPIPE, and a child would inherit that.
    return os.posix_spawn(argv[0], list(argv), environment, file_actions=files, setsid=True, setsigdef=[signal.SIGPIPE])


def _program(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH)


def _message(completed: subprocess.CompletedProcess[bytes]) -> str:
    return completed.stderr.decode(errors="replace").strip()
