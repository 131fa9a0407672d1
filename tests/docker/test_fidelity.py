"""What runs is compared with what the project says, on a real engine: projects of the shapes that people publish."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.compose.project import DockerCompose
from reconciler.core.fidelity import differences
from reconciler.core.fidelity.compose_hash import HASH_LABEL, compose_hashes
from reconciler.core.fidelity.differences import has_unnamed_difference
from reconciler.core.fidelity.guard import Grants, ProjectSides, edits, made_by_same_compose
from reconciler.core.model.targets import Stack
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.engine import IMAGE

pytestmark = pytest.mark.docker

MakeProject = Callable[..., ComposeProject]
PROJECTS = sorted((Path(__file__).parent.parent / "data" / "projects").glob("*.yaml"))
NEWEST = "/usr/local/lib/reconciler-tests/newest"
VERSIONS: list[dict[str, str]] = [{}]  # variables that choose the Compose
if os.path.exists(f"{NEWEST}/cli-plugins"):
    VERSIONS.append({"DOCKER_CONFIG": NEWEST})
BESIDE = {
    "api.env": "API=1\nURL=${BASE_URL}/x\n",
    "base.yaml": "services: {base: {image: IMAGE, command: sleep infinity, environment: {A: '1'}, init: true}}\n",
    "part.yaml": "services: {included: {image: IMAGE, command: sleep infinity, env_file: api.env}}\n",
    "conf/app.conf": "x\n",
    "conf/token": "t0ken\n",
    "media/x": "",
    "Dockerfile": (
        "FROM IMAGE\nENV BUILT=1\nLABEL made.by=test\nWORKDIR /srv\nVOLUME /vol\nEXPOSE 99\nHEALTHCHECK CMD true\n"
        'USER 1000\nSTOPSIGNAL SIGINT\nCMD ["sleep", "infinity"]\n'
    ),
}
DOTENV = "KEY=k3y\nBASE_URL=http://x.example.org\nPROJECT=NAME\n"


def start(make: MakeProject, path: Path, variables: Mapping[str, str]) -> ComposeProject:
    """Start the project, with every profile, as its owner would; with another Compose, its containers are made only."""
    made = make(path.read_text(), BESIDE)
    for name in BESIDE:
        file = made.directory / name
        file.write_text(file.read_text().replace("IMAGE", IMAGE))
    made.write(".env", DOTENV.replace("NAME", made.name))
    env = {**os.environ, **variables, "DOCKER_BUILDKIT": "0"}
    command = ("create",) if variables else ("up", "--detach")
    output("docker", "compose", "--profile", "*", *command, cwd=made.directory, env=env, timeout=120)
    return made


async def sides_of(docker: DockerCompose, made: ComposeProject) -> ProjectSides:
    stack = Stack("production", "app", str(made.directory))
    project = await docker.project(stack)
    containers = await docker.containers(stack, project.name)
    images = await docker.images({container.image for container in containers})
    return ProjectSides(project, project, containers, images)


@pytest.mark.xdist_group("projects")  # they have ports, subnets and bridges of their own: one after the other
@pytest.mark.parametrize("path", PROJECTS, ids=[path.stem for path in PROJECTS])
async def test_a_project_that_was_started_and_not_edited_is_never_held(
    compose_project: MakeProject, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variables in VERSIONS:
        made = start(compose_project, path, variables)
        docker = DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), {**os.environ, **variables}))
        try:
            sides = await sides_of(docker, made)
            hashes = {name: await docker.own_hash(sides.after, name) for name in sides.after.services}
        finally:
            await docker.close()
        services = {container.service for container in sides.containers}
        assert services == set(sides.after.services)
        assert edits(sides, services, Grants()) == []
        for container in sides.containers:
            label = container.facts["Config"]["Labels"][HASH_LABEL]
            service = sides.after.services[container.service]
            # Compose hashes the id of a container that a service shares something with; the fields decide then.
            shares = service.volumes_of or service.namespace_of
            assert label in compose_hashes(service.text) or shares, service.name
            assert not has_unnamed_difference(service, container), service.name
            version, own = hashes[service.name]
            # Compose refuses what it prints of `core: 0`, so that the fields decide.
            proven = made_by_same_compose(container, version) and own in compose_hashes(service.text)
            assert proven or (path.stem, version, own) == ("limits", "", ""), service.name
        # Where another version of Compose has made the container, the fields decide.
        with monkeypatch.context() as patch:
            patch.setattr(differences, "compose_hashes", lambda *_: frozenset())
            assert edits(sides, services, Grants()) == []
        made.remove()
