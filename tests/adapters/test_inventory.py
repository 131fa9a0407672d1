"""What is found on a machine: the same here and over a real sshd, with and without docker."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reconciler.app.onboarding.real_paths import real_paths
from reconciler.app.wiring import clone
from reconciler.core.errors import HostUnreachableError, LiveFileError
from reconciler.core.inventory import FoundProject, Inventory, Use
from reconciler.core.model.hosts import SshAddress
from reconciler.core.ports.host import Machine
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.sshd import Sshd

COMPOSE = """
services:
  api:
    image: IMAGE
    command: sleep 600
    stop_grace_period: 0s
    env_file: [api.env, {path: maybe.env, required: false}]
    ports: ["127.0.0.1::8000"]
    mem_limit: 64m
    cpus: 0.5
    volumes: ["./nginx/${CONF:-site}.conf:/etc/site.conf:ro", "./data:/data", "/etc/localtime:/etc/localtime:ro"]
    secrets: [token]
  worker:
    extends: {file: common/base.yaml, service: base}
    image: IMAGE
    profiles: [late]
    env_file: raw.env
    environment: {LEVEL: "${LEVEL}"}
secrets: {token: {file: ./token.txt}}
"""
FILES = {
    "api.env": "A=invented-1\n",
    "raw.env": "R=1\n",
    ".env": "CONF=other\nLEVEL=info\nNOBODY=1\n",
    "nginx/other.conf": "server {}\n",
    "token.txt": "invented-token",
    "common/base.yaml": "services: {base: {env_file: [base.env]}}\n",
    "common/base.env": "B=1\n",
    "left/old.env": "OLD=1\n",
    "env.example": "A=\n",
    "data/x": "",
}
USED = {
    ".env": (Use.INTERPOLATION, ()),
    "api.env": (Use.ENV_FILE, ("api",)),
    "common/base.env": (Use.ENV_FILE, ("worker",)),
    "nginx/other.conf": (Use.MOUNT, ("api",)),
    "raw.env": (Use.ENV_FILE, ("worker",)),
    "token.txt": (Use.MOUNT, ("api",)),
}

DIFFICULT = {
    "compose.yaml": """
x-common: &common {image: x, env_file: [common.env]}
include: [sub/compose.yaml]
services:
  one: {<<: *common, env_file: [a.env, {path: b.env, format: raw}], volumes: ["./n.conf:/n.conf:ro", "named:/v"]}
  two: {<<: *common}
  three: {extends: two, env_file: three.env}
  four: {extends: {file: base/base.yaml, service: base}, image: x}
volumes: {named: {}}
""",
    "compose.override.yaml": "services: {one: {env_file: override.env}}\n",
    "sub/compose.yaml": "services: {five: {image: x, env_file: five.env}}\n",
    "base/base.yaml": "services: {base: {env_file: base.env}, other: {image: y, env_file: other.env}}\n",
    **dict.fromkeys(
        (
            *("common.env", "a.env", "b.env", "n.conf", "three.env", "override.env"),
            *("sub/five.env", "base/base.env", "base/other.env"),
        ),
        "A=1\n",
    ),
}


def write(directory: Path) -> Path:
    for name, text in {"compose.yaml": COMPOSE, **FILES}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "api.env").chmod(0o640)
    return directory


@contextlib.asynccontextmanager
async def over_ssh(sshd: Sshd) -> AsyncIterator[Machine]:
    address = SshAddress(
        sshd.host, sshd.port, sshd.user, key_file=str(sshd.key_path), known_hosts_file=str(sshd.known_hosts)
    )
    async with clone.machine(address) as machine:
        yield machine


def used(project: FoundProject) -> dict[str, tuple[Use, tuple[str, ...]]]:
    return {
        os.path.relpath(used_file.file.path, project.directory): (used_file.use, used_file.services)
        for used_file in project.files
    }


def loose(inventory: Inventory) -> list[str]:
    return [os.path.basename(found_file.path) for found_file in inventory.loose]


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.mark.usefixtures("without_docker")
async def test_without_docker_the_compose_files_are_read_as_text(tmp_path: Path) -> None:
    directory = write(tmp_path / "app")
    async with clone.machine(None) as machine:
        inventory = await clone.take_inventory(machine, str(directory))
    (project,) = inventory.projects
    assert used(project) == USED
    assert (project.name, project.directory, project.services) == ("app", str(directory), ("api", "worker"))
    assert {"CONF", "LEVEL"} <= set(project.interpolated)
    assert "NOBODY" not in project.interpolated
    assert project.problem == ""
    assert loose(inventory) == ["old.env"]
    api = next(used_file.file for used_file in project.files if used_file.file.path.endswith("/api.env"))
    assert (api.mode, api.owner, api.uid) == (0o640, pwd.getpwuid(os.getuid()).pw_name, os.getuid())
    assert api.data.reveal() == b"A=invented-1\n"


@pytest.mark.sshd
@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
async def test_the_inventory_over_ssh_is_the_same(sshd: Sshd, tmp_path: Path) -> None:
    directory = write(tmp_path / f"app-{secrets.token_hex(3)}")
    async with over_ssh(sshd) as remote, clone.machine(None) as here:
        inventory = await clone.take_inventory(remote, str(directory))
        local = await clone.take_inventory(here, str(directory))
    (project,) = inventory.projects
    assert used(project) == USED
    assert (inventory.projects, inventory.loose) == (local.projects, local.loose)


@pytest.mark.sshd
async def test_a_single_file_a_missing_path_and_one_that_is_too_large(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("A=1\n")
    (tmp_path / "large.env").write_bytes(b"x" * (1024 * 1024 + 1))
    async with over_ssh(sshd) as machine:
        inventory = await clone.take_inventory(machine, str(tmp_path / "one.env"))
        assert loose(inventory) == ["one.env"]
        assert (await clone.take_inventory(machine, str(tmp_path / "no" / "where"))).empty
        with pytest.raises(LiveFileError, match="is larger than 1024 KiB"):
            await clone.take_inventory(machine, str(tmp_path / "large.env"))
        below = await clone.take_inventory(machine, str(tmp_path))
    assert "one.env" in loose(below)
    assert any("large.env: is larger" in problem for problem in below.unread)


@pytest.mark.sshd
async def test_neither_pipes_nor_the_kernels_files_are_read(sshd: Sshd, tmp_path: Path) -> None:
    directory = tmp_path / "odd"
    directory.mkdir()
    os.mkfifo(directory / "pipe.env")
    (directory / "kernel.env").symlink_to("/proc/self/environ")
    (directory / "proc").symlink_to("/proc/self")
    (directory / "linked.env").symlink_to(tmp_path / "real.env")
    (tmp_path / "real.env").write_text("A=1\n")
    async with over_ssh(sshd) as remote, clone.machine(None) as here:
        for machine in (remote, here):
            inventory = await clone.take_inventory(machine, str(directory))
            assert loose(inventory) == ["linked.env"], machine.name


@pytest.mark.sshd
async def test_names_that_are_not_utf8_are_no_obstacle(sshd: Sshd, tmp_path: Path) -> None:
    directory = tmp_path / "odd"
    directory.mkdir()
    (directory / "a.env").write_text("A=1\n")
    (directory / os.fsdecode(b"\xff.env")).write_text("B=1\n")
    async with over_ssh(sshd) as remote, clone.machine(None) as here:
        for machine in (remote, here):
            assert loose(await clone.take_inventory(machine, str(directory))) == ["a.env", "\udcff.env"]


@pytest.mark.sshd
async def test_a_directory_that_leads_back_to_itself_and_deep_ones_end(sshd: Sshd, tmp_path: Path) -> None:
    deep = tmp_path / "top" / "1" / "2" / "3" / "4"
    deep.mkdir(parents=True)
    (deep / "too-deep.env").write_text("A=1\n")
    (deep.parent / "deep.env").write_text("A=1\n")
    async with over_ssh(sshd) as machine:
        inventory = await clone.take_inventory(machine, str(tmp_path / "top"))
    assert loose(inventory) == ["deep.env"]
    assert inventory.left_out == (f"{tmp_path / 'top'}: skipped everything deeper than 3 directories",)


BOMB = "x-0: &a0 [x]\n" + "".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
HOSTILE = {
    "deep": "[" * 20_000,
    "deep-block": "- " * 100_000,
    "aliases": BOMB,
    "merged": "x-0: &a0 {x: 1}\n"
    + "".join(f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)),
    "of-itself": "x-a: &a {b: *a}\nservices: {api: {image: x}}\n",
    "of-itself-in-the-next-document": "x-a: &a 1\n---\nx-a: &a {b: *a}\nservices: {api: {image: x}}\n",
    "no-text": "\x00\x01",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("without_docker")
async def test_a_compose_file_that_is_an_attack_is_one_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / "api.env").write_text("A=1\n")
    async with clone.machine(None) as machine:
        inventory = await clone.take_inventory(machine, str(tmp_path))
    (project,) = inventory.projects
    assert "no compose file" in project.problem
    assert loose(inventory) == ["api.env"]


@pytest.mark.usefixtures("without_docker")
async def test_names_that_yaml_1_1_reads_as_other_types_are_names(tmp_path: Path) -> None:
    text = """
x-a: {2024-01-01: "${DATED}", 1: y}
services: {on: {image: x, env_file: on.env}, 2024-01-01: {image: x}, 8: {image: x}, ~: {image: x}, api: {image: x}}
"""
    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / "on.env").write_text("A=1\n")
    async with clone.machine(None) as machine:
        (project,) = (await clone.take_inventory(machine, str(tmp_path))).projects
    assert {"on", "2024-01-01", "8", "api"} <= set(project.services)
    assert used(project) == {"on.env": (Use.ENV_FILE, ("on",))}
    assert "DATED" in project.interpolated


@pytest.mark.sshd
async def test_names_that_no_file_can_have_and_links_that_lead_nowhere_hide_nothing_else(
    sshd: Sshd, tmp_path: Path
) -> None:
    directory = tmp_path / "odd"
    directory.mkdir()
    services = 'services: {api: {image: x, env_file: ["x\\0y.env", a.env]}}'
    (directory / "compose.yaml").write_text(services)
    (directory / "a.env").write_text("A=1\n")
    (directory / "b.env").write_text("B=1\n")
    (directory / "loop").symlink_to("loop")
    async with over_ssh(sshd) as remote, clone.machine(None) as here:
        for machine in (remote, here):
            inventory = await clone.take_inventory(machine, str(directory))
            assert "a.env" in used(inventory.projects[0]), machine.name
            assert loose(inventory) == ["b.env"], machine.name


NONSENSE = ["[1]", "[{}]", "{}", "null", "no json", '[{"Config": {"Labels": [1]}}]']
NONSENSE.append('[{"Id": "1", "Image": "2", "Config": {}, "State": {}, "HostConfig": {}, "RestartCount": "many"}]')


@pytest.mark.parametrize("printed", NONSENSE)
async def test_a_docker_that_talks_nonsense_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    programs, directory = tmp_path / "bin", tmp_path / "app"
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(f"#!/bin/sh\ncase $1 in ps) printf 'one\\t{directory}\\n';; *) echo '{printed}';; esac\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    write(directory)
    async with clone.machine(None) as machine:
        inventory = await clone.take_inventory(machine, str(directory))
    (project,) = inventory.projects
    assert project.services == ("api", "worker")
    assert project.containers == ()


@pytest.mark.sshd
async def test_many_paths_that_lead_nowhere_are_not_too_much_for_an_ssh_server(sshd: Sshd, tmp_path: Path) -> None:
    existing = [tmp_path / f"{number}.env" for number in range(12)]  # more than an SSH server does at a time
    for path in existing:
        path.write_text("A=1\n")
    paths = [name for path in existing for name in (str(path), f"{path}/no/where")]
    async with over_ssh(sshd) as machine:
        assert await real_paths(machine, paths) == {str(path): str(path) for path in existing}


@pytest.mark.sshd
async def test_a_machine_with_another_host_key_is_not_read(sshd: Sshd, tmp_path: Path) -> None:
    sshd.rotate_host_key()
    async with over_ssh(sshd) as machine:
        with pytest.raises(HostUnreachableError, match="host key"):
            await clone.take_inventory(machine, str(tmp_path))


@pytest.mark.docker
async def test_the_containers_of_a_project_have_image_ports_and_limits(
    compose_project: Callable[..., ComposeProject],
) -> None:
    project = compose_project(COMPOSE, FILES)
    project.up("api")
    async with clone.machine(None) as machine:
        inventory = await clone.take_inventory(machine, str(project.directory))
        everywhere = await clone.take_inventory(machine, None)
    (shop,) = inventory.projects
    (container,) = shop.containers
    assert (container.service, container.state, container.restarts) == ("api", "running", 0)
    assert container.image_digest.startswith("sha256:")
    assert container.memory == 64 * 1024 * 1024
    assert container.cpus == 0.5
    (port,) = container.ports
    assert port.startswith("127.0.0.1:")
    assert port.endswith("->8000/tcp")
    same = next(candidate for candidate in everywhere.projects if candidate.directory == shop.directory)
    assert same.name == project.name
    assert used(same) == used(shop) == USED
    assert same.containers == shop.containers


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
async def test_env_files_and_mounts_are_those_that_compose_itself_finds(tmp_path: Path) -> None:
    """Everything a compose file can do with paths, resolved by both."""
    directory = tmp_path / "app"
    for name, text in DIFFICULT.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    config = ("docker", "compose", "--profile", "*", "config", "--no-interpolate", "--format", "json")
    services = json.loads(output(*config, cwd=directory))["services"]
    expected = {
        (name, str(Path(path).relative_to(directory)))
        for name, service in services.items()
        for path in [
            *(entry if isinstance(entry, str) else entry["path"] for entry in service.get("env_file") or ()),
            *(mount["source"] for mount in service.get("volumes") or () if mount["type"] == "bind"),
        ]
    }
    assert len(expected) == 9
    async with clone.machine(None) as machine:
        (project,) = (await clone.take_inventory(machine, str(directory))).projects
    inventory = {
        (service, str(Path(used_file.file.path).relative_to(directory)))
        for used_file in project.files
        for service in used_file.services
    }
    assert inventory == expected
    assert set(project.services) == set(services)


@pytest.mark.usefixtures("without_docker")
async def test_a_missing_env_file_is_said_and_an_optional_one_is_not(tmp_path: Path) -> None:
    directory = write(tmp_path / "app")
    (directory / "api.env").unlink()
    async with clone.machine(None) as machine:
        (project,) = (await clone.take_inventory(machine, str(directory))).projects
    assert project.problem == f"{directory}/api.env is missing"


async def test_what_only_an_idle_profile_lacks_is_a_note(tmp_path: Path) -> None:
    text = "services: {api: {image: x, env_file: a.env}, tool: {image: x, env_file: gone.env, profiles: [ops]}}\n"
    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / "a.env").write_text("A=1\n")
    gone = f"{tmp_path}/gone.env is missing"
    async with clone.machine(None) as machine:
        (project,) = (await clone.take_inventory(machine, str(tmp_path))).projects
        assert (project.problem, project.notes) == ("", (f"{gone}, which only tool needs: its profile is not active",))
        (tmp_path / ".env").write_text("COMPOSE_PROFILES=other, ops\n")
        (project,) = (await clone.take_inventory(machine, str(tmp_path))).projects
    assert (project.problem, project.notes) == (gone, ())
