"""The Docker image, built and run for real: a daemon in a container manages the stacks of the engine that runs it."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import output, run
from tests.support.components import IMAGE_BASE
from tests.support.compose import MAY_CRASH, ComposeProject
from tests.support.distribution import copy_project, make
from tests.support.forks import ROOT
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
USER = pwd.getpwnam("nobody")  # any user of this machine but root
SETTINGS = {"DOCKER_GID": "999", "RECONCILER_USER": "1:1", "GRAFANA_PASSWORD": "secret"}
SERVICES = f"{MAY_CRASH}  worker: {{image: IMAGE, network_mode: host, env_file: [worker.env]}}\n"


@dataclass(slots=True)
class Contained:
    """The service reconciler of compose.yaml, alone: ``directory`` holds its configuration and its state."""

    directory: Path
    variables: Mapping[str, str]
    project: str = field(default_factory=lambda: f"rct-{secrets.token_hex(4)}")

    def compose(self, *arguments: str) -> bytes:
        files = ("--file", COMPOSE, "--file", self.directory / "override.yaml", "--project-name", self.project)
        return output("docker", "compose", *files, *arguments, env={**os.environ, **self.variables})

    def json(self, *arguments: str) -> Any:
        """What the command, run in the daemon's container, prints with --json; whatever its exit code."""
        done = run("docker", "exec", self.inspect()["Id"], "reconciler", *arguments, "--json")
        assert done.stdout, done.stderr.decode()
        return read_answer(arguments[0], done.stdout.decode())

    def sync(self) -> tuple[str, dict[str, str]]:
        """The result of a reconciliation, and what it did to services."""
        (outcome,) = self.json("sync")
        assert outcome["plan"] is not None, outcome
        return outcome["result"], {action["service"]: action["action"] for action in outcome["plan"]["actions"]}

    def inspect(self) -> dict[str, Any]:
        (container,) = json.loads(output("docker", "inspect", f"{self.project}-reconciler-1"))
        return dict(container)


@pytest.fixture(scope="session")
def image(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image that `make image` builds on the base that provision.sh has made."""
    base = f"reconciler-test/debian:{int(IMAGE_BASE.stat().st_mtime)}"
    if run("docker", "image", "inspect", base).returncode != 0:
        output("docker", "import", IMAGE_BASE, base)
    name = f"reconciler-test/reconcilerd:{secrets.token_hex(4)}"
    project = copy_project(tmp_path_factory.mktemp("image"))
    make(project, "image", f"IMAGE={name}", f"BASE={base}", f"WHEELS={ROOT}/build/wheels-3.13")
    yield name
    output("docker", "image", "rm", name)


@pytest.fixture
def contained(
    image: str, stack_server: Callable[..., tuple[Server, ComposeProject]], sshd: Sshd, tmp_path: Path
) -> Iterator[tuple[Contained, Server, ComposeProject]]:
    """The daemon in its container, healthy; a git repository behind ssh; a stack of the engine that runs both."""
    server, project = stack_server(SERVICES)
    server.commit(
        {"api.env": b"MODE=good\nSIZE=1\n", "worker.env": b"JOBS=4\n"}, server.manifest(["api.env", "worker.env"])
    )
    directories = {name: tmp_path / name for name in ("etc", "state")}
    for directory in directories.values():
        directory.mkdir()
    for name, file in {"age.key": server.key.path, "key": sshd.key_path, "known_hosts": sshd.known_hosts}.items():
        shutil.copyfile(file, directories["etc"] / name)
        (directories["etc"] / name).chmod(0o600)
    port = free_port()
    server.settings |= {"state_dir": "/var/lib/reconciler", "http": {"listen": f"127.0.0.1:{port}"}}
    server.settings["decryption"] = {"age_key_file": "/etc/reconciler/age.key"}
    server.settings["repository"] |= {
        "url": sshd.url(server.remote.path),
        "ssh_key_file": "/etc/reconciler/key",
        "known_hosts_file": "/etc/reconciler/known_hosts",
    }
    (directories["etc"] / "reconciler.yaml").write_text(yaml.safe_dump(server.settings))
    for directory in (*directories.values(), project.directory):
        for path in (directory, *directory.rglob("*")):
            os.chown(path, USER.pw_uid, USER.pw_gid)
    override = {"services": {"reconciler": {"healthcheck": {"interval": "5s"}}}}  # the image's own: 30 s
    (tmp_path / "override.yaml").write_text(yaml.safe_dump(override))
    variables = {
        **SETTINGS,
        "DOCKER_GID": str(os.stat("/var/run/docker.sock").st_gid),
        "RECONCILER_USER": f"{USER.pw_uid}:{USER.pw_gid}",
        "RECONCILER_IMAGE": image,
        "RECONCILER_CONFIG_DIR": str(directories["etc"]),
        "RECONCILER_STATE": str(directories["state"]),
        "RECONCILER_HEALTH_URL": f"http://127.0.0.1:{port}/healthz",
        "STACKS": str(project.directory),
    }
    running = Contained(tmp_path, variables)
    try:
        running.compose("up", "--detach", "--no-deps", "--pull", "never", "reconciler")
        eventually(lambda: running.inspect()["State"]["Health"]["Status"] == "healthy", timeout=120)
        yield running, server, project
    finally:
        running.compose("down", "--volumes", "--timeout", "20")


@pytest.mark.docker
@pytest.mark.sshd
@pytest.mark.root
@pytest.mark.image
def test_a_daemon_in_a_container_does_the_main_job_for_the_engine_that_runs_it(
    contained: tuple[Contained, Server, ComposeProject],
) -> None:
    daemon, server, project = contained
    container = daemon.inspect()
    assert container["HostConfig"]["ReadonlyRootfs"]
    status = Path(f"/proc/{container['State']['Pid']}/status").read_text()
    assert re.search(r"^Uid:\s(\d+)\s\1\s\1", status, re.MULTILINE)[1] == str(USER.pw_uid)  # type: ignore[index]
    assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
    daemon.sync()  # the daemon itself may have been faster
    assert server.live("api.env") == b"MODE=good\nSIZE=1\n"
    assert (server.app / "api.env").stat().st_uid == USER.pw_uid
    project.up()
    worker, first = project.container("worker"), project.container("api")

    server.commit({"api.env": b"MODE=good\nSIZE=2\n"})
    assert daemon.sync() == ("applied", {"api": "recreate"})
    second = project.container("api")
    assert (second["Id"] != first["Id"], project.container("worker")["Id"] == worker["Id"]) == (True, True)
    label = "com.docker.compose.project.working_dir"
    assert second["Config"]["Labels"][label] == first["Config"]["Labels"][label] == str(project.directory)
    assert project.environment("api")["SIZE"] == "2"

    (server.app / "worker.env").write_bytes(b"JOBS=9\n")
    eventually(lambda: server.live("worker.env") == b"JOBS=4\n", timeout=60)  # it watches the files

    server.commit({"api.env": b"MODE=bad\n"})
    assert daemon.sync()[0] == "rolled_back"
    assert server.live("api.env") == b"MODE=good\nSIZE=2\n"
    assert project.environment("api")["SIZE"] == "2"

    daemon.compose("stop", "reconciler")
    assert daemon.inspect()["State"]["ExitCode"] == 0


@pytest.mark.docker
def test_the_compose_file_is_valid_and_mounts_the_files_of_its_neighbours() -> None:
    config = ("docker", "compose", "--file", COMPOSE, "config", "--format", "json")
    services = json.loads(output(*config, env={**os.environ, **SETTINGS}))["services"]
    assert services.keys() == {"reconciler", "prometheus", "alertmanager", "grafana"}
    mounted = {
        volume["target"]: Path(volume["source"]).relative_to(COMPOSE.parents[1]).as_posix()
        for name, service in services.items()
        for volume in service["volumes"]
        if volume["type"] == "bind" and name != "reconciler"
    }
    assert mounted == {
        "/etc/prometheus/prometheus.yml": "prometheus/prometheus.yml",
        "/etc/prometheus/rules.yml": "prometheus/rules.yml",
        "/etc/alertmanager/alertmanager.yml": "prometheus/alertmanager.yml",
        "/etc/grafana/provisioning": "grafana/provisioning",
        "/var/lib/grafana/dashboards/reconciler": "grafana/dashboards",
    }
    assert all((COMPOSE.parents[1] / source).exists() for source in mounted.values())
    identical = [volume for volume in services["reconciler"]["volumes"] if volume["source"] == volume["target"]]
    assert {"/opt/app", "/var/run/docker.sock"} <= {volume["target"] for volume in identical}
    assert run(*config, env={**os.environ, "DOCKER_GID": ""}).returncode != 0  # what has no default is asked for


def test_the_health_check_of_the_image_asks_the_daemon_and_no_proxy() -> None:
    (check,) = re.findall(
        r"^HEALTHCHECK .*\\\n +CMD (\[.+\])$", (COMPOSE.parent / "Dockerfile").read_text(), re.MULTILINE
    )
    listening, answer = socket.create_server(("127.0.0.1", 0)), b"HTTP/1.0 200 OK\r\n\r\n"

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(4096)
            client.sendall(answer)

    url = f"http://127.0.0.1:{listening.getsockname()[1]}/healthz"
    # Docker gives containers the proxies of its client's configuration.
    variables = {**os.environ, "RECONCILER_HEALTH_URL": url, "http_proxy": f"http://127.0.0.1:{free_port()}"}
    with listening, ThreadPoolExecutor() as threads:
        threads.submit(serve)
        done = run(*json.loads(check), env=variables)
        socket.create_connection(listening.getsockname()[:2]).close()  # so that the thread ends
    assert done.returncode == 0, done.stderr.decode()


def test_the_image_takes_the_versions_of_the_lock() -> None:
    locked = set((ROOT / "requirements.lock").read_text().splitlines())
    versions = [line for line in (COMPOSE.parent / "requirements.lock").read_text().splitlines() if "==" in line]
    assert [line for line in versions if line not in locked] == []
    assert any(line.startswith("apprise==") for line in versions)  # who runs a container cannot add an extra
    assert len(versions) >= len(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
