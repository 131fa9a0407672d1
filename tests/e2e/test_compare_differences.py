"""`reconciler compare` finds every known difference between two sides of a large project, and nothing else."""

from __future__ import annotations

import random
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_compare import data
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.differences import DIFFERENCES, Difference, expected_findings, findings, mirrored, project
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow]

SEEDS = 15


def edited(side: Path, differences: list[Difference]) -> Path:
    for difference in differences:
        difference.apply(project(side) if not side.exists() else side)
    return side


@pytest.mark.parametrize("environments", [False, True], ids=["servers", "environments"])
def test_every_seeded_difference_is_found_and_nothing_else(tmp_path: Path, *, environments: bool) -> None:
    mode = "--different-environments" if environments else "--same-environment"
    left, chosen = project(tmp_path / "left"), {}
    for seed in range(SEEDS):
        dice = random.Random(f"{seed} {environments}")
        subset = dice.sample(DIFFERENCES, dice.randint(1, len(DIFFERENCES)))
        chosen[f"file:{edited(tmp_path / f'right-{seed}', subset)}"] = subset
    report = data(tmp_path, f"file:{left}", *chosen, mode)
    for comparison in report["comparisons"]:
        expected = expected_findings(chosen[comparison["right"]], environments=environments)
        assert findings(comparison) == expected, [difference.name for difference in chosen[comparison["right"]]]
    right, everything = (
        edited(tmp_path / "right", list(DIFFERENCES)),
        expected_findings(DIFFERENCES, environments=environments),
    )
    (both_ways,) = data(tmp_path, f"file:{right}", f"file:{left}", mode)["comparisons"]
    assert findings(both_ways) == mirrored(everything)


# --- with containers -------------------------------------------------------------------------------------------------

CONTAINERS = {
    "service indexer container missing-left",
    "service cache health differs",
    "service proxy digest differs",  # its tag has become that of another image
    "service migrate container missing-right",
    "service search state differs",
    "service worker containers differs",
}
OTHERWISE = {
    "api": {
        *("command", "container_name", "cpus", "healthcheck interval", "healthcheck test", "image", "labels keep"),
        *("labels team", "memory", "user", "working_dir"),
    },
    "cache": {"sysctls net.core.somaxconn"},
    "db": {"healthcheck interval", "image", "mounts /var/lib/postgresql/data", "restart", "shm_size"},
    "proxy": {
        *("aliases", "labels traefik.http.routers.shop.rule", "mounts /extra", "mounts /srv/static", "ports"),
        "ulimits nofile",
    },
    "queue": {"logging", "logging options max-file", "logging options max-size", "memory"},
    "search": {"image", "mounts /etc/other.xml", "mounts /etc/search.xml"},
    "web": {"extra_hosts", "networks", "read_only"},
    "worker": {"cap_drop", "command", "image", "mounts /srv/plugins"},
}
"""What the containers of the right side differ in, by service, whatever their files say by now."""


@pytest.fixture
def sides(docker_engine: str, tmp_path: Path) -> Iterator[tuple[ComposeProject, ComposeProject]]:
    """Both sides with their containers, the right one with every difference."""
    names = [f"rct-{secrets.token_hex(4)}" for _ in range(2)]
    left, right = (ComposeProject(name, project(tmp_path / name)) for name in names)
    edited(right.directory, list(DIFFERENCES))
    images = {
        image
        for side in (left, right)
        for image in output("docker", "compose", "config", "--images", cwd=side.directory).decode().split()
    }
    container = output("docker", "create", docker_engine).decode().strip()
    try:
        for image in images:
            output("docker", "tag", docker_engine, image)
        left.up()
        output("docker", "commit", container, "shop-test/proxy:1.27")
        right.up("--scale", "worker=2")
        yield left, right
    finally:
        left.remove()
        right.remove()
        output("docker", "rm", container)
        output("docker", "rmi", "--force", *images)


@pytest.mark.docker
def test_every_difference_of_containers_is_found_and_nothing_else(
    sides: tuple[ComposeProject, ComposeProject], tmp_path: Path
) -> None:
    left, right = sides
    right.compose("rm", "--stop", "--force", "migrate")
    right.compose("kill", "search")
    right.compose("exec", "-T", "cache", "touch", "/tmp/sick")
    eventually(lambda: health(right, "cache") == "unhealthy" and health(left, "cache") == "healthy", timeout=120)
    arguments = (f"file:{left.directory}", f"file:{right.directory}", "--same-environment")
    (comparison,) = data(tmp_path, *arguments)["comparisons"]
    expected = expected_findings(DIFFERENCES, environments=False) | CONTAINERS
    expected.remove("compose indexer definition missing-left")  # it counts as a missing container
    reported = findings(comparison)
    assert (sorted(reported - expected), sorted(expected - reported)) == ([], [])
    # With the same files again, nothing explains what the containers are.
    shutil.rmtree(right.directory)
    project(right.directory)
    (comparison,) = data(tmp_path, *arguments)["comparisons"]
    reported = findings(comparison)
    expected = {f"service {service} {name} differs" for service, names in OTHERWISE.items() for name in names}
    expected |= {*CONTAINERS, "service scheduler container missing-right", "service proxy healthcheck differs"}
    assert (sorted(reported - expected), sorted(expected - reported)) == ([], [])


def health(side: ComposeProject, service: str) -> str:
    return str(side.container(service)["State"].get("Health", {}).get("Status", ""))
