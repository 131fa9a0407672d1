"""A Docker Swarm of three managers on one machine: three engines in network namespaces, joined by a bridge.

The bridge lies in a namespace of its own, so that nothing of it reaches the machine's network, firewall or addresses.
Each engine has process, mount and host name namespaces as well: SIGKILL to its process 1 ends the engine, containerd
and all containers in the same instant, as a power cut does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reconciler.demo.dockerd import SEARCH_PATH, EnginePlace, StartedEngine, ensure_image, spawn
from tests.support.commands import output
from tests.support.engine import IMAGE
from tests.support.engine_api import request
from tests.support.waiting import eventually

PREFIX = "rcsw-"  # of the names of everything that a swarm makes
DIRECTORY = Path("/tmp")  # the path of a socket has at most 107 bytes
NAMESPACES = Path("/run/netns")
SUBNET = "10.213.7"  # nobody but the nodes sees it
STARTING = 60.0  # seconds
HEARTBEAT = 1  # seconds
_ENVIRONMENT = {**os.environ, "PATH": SEARCH_PATH}


@dataclass(slots=True)
class Node:
    """One manager. ``directory`` holds all its files, its socket too."""

    swarm: str
    number: int
    directory: Path
    engine: StartedEngine | None = None

    @property
    def name(self) -> str:
        """The host's name, and that of the network namespace."""
        return f"{self.swarm}-{self.number}"

    @property
    def address(self) -> str:
        return f"{SUBNET}.{self.number}"

    @property
    def socket(self) -> str:
        return f"{self.directory}/s"

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    # --- its life ---

    def start(self) -> None:
        """Start the engine, with what it has on disk; it does not answer yet."""
        self.directory.mkdir(exist_ok=True)
        pid_file = f"{self.directory}/pid"
        files = (
            "--data-root",
            f"{self.directory}/data",
            "--exec-root",
            f"{self.directory}/exec",
            "--pidfile",
            pid_file,
        )
        daemon = ("dockerd", "--host", self.docker_host, *files, "--bridge", "none", "--cgroup-parent", self.name)
        apart = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        named = ("sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        command = ("nsenter", f"--net={NAMESPACES / self.name}", *apart, *named, *daemon)
        self.engine = spawn(f"{self.directory}/log", EnginePlace(self.docker_host, pid_file, command))
        (self.directory / "engine").write_text(json.dumps([self.engine.pid, self.engine.started_at]))

    def kill(self) -> None:
        """A power cut. What lies on disk stays."""
        assert self.engine is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        eventually(lambda: not self.running)
        self.engine = None
        Path(self.socket).unlink(missing_ok=True)
        shutil.rmtree(self.directory / "exec", ignore_errors=True)

    def reboot(self) -> None:
        self.kill()
        self.start()

    def cut_off(self) -> None:
        """Take its cable out."""
        ip("-n", self.swarm, "link", "set", f"port{self.number}", "down")

    def connect(self) -> None:
        """Put its cable back."""
        ip("-n", self.swarm, "link", "set", f"port{self.number}", "up")

    @property
    def running(self) -> bool:
        return self.engine is not None and self.engine.running()

    @property
    def init(self) -> int:
        """Process 1 of its namespaces, by its number on this machine."""
        assert self.engine is not None
        children = Path(f"/proc/{self.engine.pid}/task/{self.engine.pid}/children")
        return int(eventually(lambda: children.read_text().split())[0])

    # --- its engine ---

    def ask(self, method: str, path: str, *, body: Any = None, timeout: float = STARTING, **query: str) -> Any:
        """The engine's answer as data; None where it refuses."""
        status, content = request(method, path, at=self.socket, body=body, timeout=timeout, **query)
        return content if status < 400 else None

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What ``docker`` prints. Raises CommandFailed."""
        return output("docker", "--host", self.docker_host, *arguments, stdin=stdin, env=_ENVIRONMENT).decode()

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "_ping") == "OK"
        return False

    def leader(self) -> str:
        """Host name of the manager that leads, as this one sees it; "" while it sees none."""
        with contextlib.suppress(OSError):
            for node in self.ask("GET", "nodes", timeout=5) or ():
                if node.get("ManagerStatus", {}).get("Leader"):
                    return str(node["Description"]["Hostname"])
        return ""

    def has_no_leader(self) -> bool:
        """Whether this manager says so, rather than to wait for one."""
        with contextlib.suppress(OSError):
            # A question to the leader of before waits 20 seconds for it, a later one is answered immediately.
            _, answer = request("GET", "nodes", at=self.socket, timeout=5)
            return "does not have a leader" in str(answer)
        return False


@dataclass(slots=True)
class SwarmNodes:
    """``name`` is that of the bridge's namespace, and begins those of the nodes; ``lock`` is held while it exists."""

    name: str
    directory: Path
    nodes: tuple[Node, ...]
    lock: IO[str]

    @property
    def leader(self) -> Node:
        def led() -> Node | None:
            leaders = {node.leader() for node in self.nodes if node.running}
            return next((node for node in self.nodes if node.running and node.name in leaders), None)

        return eventually(led, timeout=STARTING)

    @property
    def followers(self) -> tuple[Node, ...]:
        leader = self.leader
        return tuple(node for node in self.nodes if node is not leader)

    def state_of(self, node: Node) -> str:
        """What the leader says of the node: ready, down, unknown."""
        nodes = self.leader.ask("GET", "nodes") or ()
        return next((each["Status"]["State"] for each in nodes if each["Description"]["Hostname"] == node.name), "")

    def repair(self) -> None:
        """Have all nodes run, connected and ready again."""
        for node in self.nodes:
            node.connect()
            if not node.running:
                node.start()
        eventually(self.all_ready, timeout=STARTING)

    def remove_stacks(self) -> None:
        """Remove whatever stacks a former test has left."""
        if names := self.leader.docker("stack", "ls", "--format", "{{.Name}}").split():
            self.leader.docker("stack", "rm", *names)

    def all_ready(self) -> bool:
        """Whether the leader sees every node as ready and reachable."""
        seen = self.leader.ask("GET", "nodes") or ()
        reachable = [node for node in seen if node.get("ManagerStatus", {}).get("Reachability") == "reachable"]
        return sum(node["Status"]["State"] == "ready" for node in reachable) == len(self.nodes)

    def end(self) -> None:
        for node in self.nodes:
            if node.running:
                node.kill()
        _remove(self.name, self.directory)
        self.lock.close()


def make_swarm() -> SwarmNodes:
    """Start the engines, join them, and give each the test image; seconds: 4 on an idle machine."""
    remove_leftovers()
    name = f"{PREFIX}{secrets.token_hex(2)}"
    directory = DIRECTORY / name
    directory.mkdir()
    lock = _lock(directory)
    assert lock is not None
    swarm = SwarmNodes(
        name, directory, tuple(Node(name, number, directory / f"{number}") for number in (1, 2, 3)), lock
    )
    try:
        _connect(swarm)
        for node in swarm.nodes:
            node.start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(_make_ready, swarm.nodes))
        _join(swarm)
    except BaseException:
        swarm.end()
        raise
    return swarm


def _connect(swarm: SwarmNodes) -> None:
    ip("netns", "add", swarm.name)
    ip("-n", swarm.name, "link", "add", "hub0", "up", "type", "bridge")
    for node in swarm.nodes:
        port = f"port{node.number}"
        ip("netns", "add", node.name)
        ip("-n", swarm.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node.name)
        ip("-n", swarm.name, "link", "set", port, "up", "master", "hub0")
        ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", node.name, "link", "set", link, "up")


def _make_ready(node: Node) -> None:
    assert node.engine is not None
    assert node.engine.wait_until_ready(STARTING)
    ensure_image(IMAGE, node.docker_host)


def _join(swarm: SwarmNodes) -> None:
    first, *others = swarm.nodes
    addresses = {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": first.address}
    # A node that says nothing for three periods is down; the default is 5 s.
    spec = {"Dispatcher": {"HeartbeatPeriod": HEARTBEAT * 10**9}}
    assert first.ask("POST", "swarm/init", body={**addresses, "Spec": spec})
    token = first.ask("GET", "swarm")["JoinTokens"]["Manager"]
    for node in others:
        own = {**addresses, "AdvertiseAddr": node.address, "RemoteAddrs": [first.address], "JoinToken": token}
        status, answer = request("POST", "swarm/join", at=node.socket, body=own)
        assert status == 200, answer
    eventually(swarm.all_ready, timeout=STARTING)


# --- what is left of a run that was killed ---------------------------------------------------------------------------


def remove_leftovers() -> None:
    """End the engines of former runs that ended without doing so, known by their name and a lock that nobody holds."""
    for directory in DIRECTORY.glob(f"{PREFIX}*"):
        lock = _lock(directory)
        if lock is None:
            continue
        with lock:
            for note in directory.glob("*/engine"):
                _kill(StartedEngine(*json.loads(note.read_text()), ""))
            _remove(directory.name, directory)


def _kill(engine: StartedEngine) -> None:
    """End ``unshare``, and with it (--kill-child) all that runs in its namespaces."""
    if engine.running():
        os.kill(engine.pid, signal.SIGKILL)
        eventually(lambda: not engine.running())


def _lock(directory: Path) -> IO[str] | None:
    """The directory's lock, held; None if somebody else has it."""
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _remove(name: str, directory: Path) -> None:
    """Remove namespaces, control groups and files of a swarm whose engines have ended."""
    for namespace in sorted(NAMESPACES.glob(f"{name}*")):
        ip("netns", "delete", namespace.name)
    for group in {*Path("/sys/fs/cgroup").glob(f"{name}-*"), *Path("/sys/fs/cgroup").glob(f"*/{name}-*")}:
        for inner, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(inner).rmdir()
    shutil.rmtree(directory, ignore_errors=True)


def ip(*arguments: str) -> None:
    output("ip", *arguments, env=_ENVIRONMENT)
