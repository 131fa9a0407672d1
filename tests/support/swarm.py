"""A Swarm of one node for tests: an engine of its own, whose whole Swarm ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.demo import dockerd
from tests.support.commands import output, run
from tests.support.engine import IMAGE

TIMEOUT = 120.0  # seconds
NAMESPACE = "com.docker.stack.namespace"


@dataclass(frozen=True, slots=True)
class Swarm:
    """An engine that is the only manager of a Swarm; ``namespace`` is the path of its network namespace."""

    host: str
    namespace: str

    def docker(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        """What a docker command prints there. Raises CommandFailed."""
        argv = ("docker", "--host", self.host, *arguments)
        if stdin is None and check:
            return output(*argv, timeout=TIMEOUT).decode()
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=TIMEOUT, check=check)
        return done.stdout.decode()

    def deploy(self, directory: Path, name: str) -> None:
        """Deploy the stack as an operator does who has never heard of us."""
        compose = directory / "compose.yaml"
        self.docker("stack", "deploy", "--resolve-image", "never", "--compose-file", str(compose), name)

    def service(self, name: str) -> dict[str, Any]:
        """What inspect says of a service; nothing if it is not there."""
        done = run("docker", "--host", self.host, "service", "inspect", name, timeout=TIMEOUT)
        services: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
        return services[0] if services else {}

    def tasks(self, service: str) -> list[str]:
        """The ids of the service's tasks that are to run, sorted."""
        listed = self.docker("service", "ps", "--quiet", "--no-trunc", "--filter", "desired-state=running", service)
        return sorted(listed.split())

    def environment(self, service: str) -> dict[str, str]:
        """The variables that the service's definition has."""
        spec = self.service(service)["Spec"]["TaskTemplate"]["ContainerSpec"]
        return dict(entry.split("=", 1) for entry in spec.get("Env") or ())

    def remove(self, stack: str) -> None:
        """Remove a stack with its configs and secrets, and wait until its tasks are gone."""
        self.docker("stack", "rm", stack, check=False)  # a network may be gone with the Swarm that had it
        deadline = time.monotonic() + TIMEOUT
        while containers := self.docker("ps", "--all", "--quiet", "--filter", f"label={NAMESPACE}={stack}").split():
            self.docker("rm", "--force", *containers, check=False)  # Swarm itself leaves those of a job
            assert time.monotonic() < deadline, f"containers of {stack} stay"


@contextlib.contextmanager
def single_node_swarm() -> Iterator[Swarm]:
    """A Swarm of one node; its engine has its own network, so that it cannot meet another one."""
    with tempfile.TemporaryDirectory(prefix="swarm-", ignore_cleanup_errors=True) as directory:
        host, pid_file = f"unix://{directory}/d.sock", f"{directory}/d.pid"
        files = ("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "--pidfile", pid_file)
        start = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh", "dockerd", "--host", host, *files)
        place = dockerd.EnginePlace(host, pid_file, ("unshare", "--net", "--mount", *start))
        engine = dockerd.spawn(os.path.join(directory, "dockerd.log"), place)
        try:
            assert engine.wait_until_ready()
            dockerd.ensure_image(IMAGE, host)
            swarm = Swarm(host, f"/proc/{engine.pid}/ns/net")
            swarm.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
            yield swarm
        finally:
            engine.stop()
