"""Projects as they are run, through the installed command: what was started with options stays what it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_hosts import Fleet, fleet, start_hosts  # noqa: F401  # fixtures
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.importer import Importer, make_importer
from tests.support.server import Server

pytestmark = pytest.mark.docker

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
# A published port needs a network; the others do without.
COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    command: sleep 1000
    env_file: [api.env]
    environment: {DB_PASSWORD: "${DB_PASSWORD}", MARK: kept}
"""
SOURCES = {"api.env": b"KEY=1\n", "prod.env": b"DB_PASSWORD=pw-1\n"}


def start(project: ComposeProject, *options: str, up: tuple[str, ...] = ()) -> None:
    output("docker", "compose", *options, "up", "-d", "--pull", "never", *up, cwd=project.directory, timeout=120.0)


@pytest.fixture
def prod(stack_server: MakeStackServer) -> tuple[Server, ComposeProject]:
    """A project that runs with --env-file prod.env, and whose env files are managed and in sync."""
    server, project = stack_server(COMPOSE, {name: data.decode() for name, data in SOURCES.items()})
    start(project, "--env-file", "prod.env")
    server.commit(SOURCES, server.manifest(list(SOURCES)))
    return server, project


def test_a_project_started_with_an_env_file_stays_what_it_was(prod: tuple[Server, ComposeProject]) -> None:
    server, project = prod
    a_first_sync_touches_nothing(server, project)
    a_rotated_variable_of_the_env_file_reaches_the_service(server, project)
    the_env_file_may_not_change_what_compose_runs(server)
    a_disagreement_is_held_and_named_and_ends_by_hand(server, project)


def a_first_sync_touches_nothing(server: Server, project: ComposeProject) -> None:
    """Case env-file-1."""
    before = project.container("api")["Id"]
    outcome = server.sync()
    assert (outcome["exit_code"], outcome["plan"]["actions"]) == (0, []), outcome
    assert project.container("api")["Id"] == before
    assert outcome["after"]["notes"] == []


def a_rotated_variable_of_the_env_file_reaches_the_service(server: Server, project: ComposeProject) -> None:
    """Case env-file-2: and the rollback of a bad one runs the project in the same way."""
    server.commit({"prod.env": b"DB_PASSWORD=pw-2\n"})
    outcome = server.sync()
    assert (outcome["result"], outcome["plan"]["actions"][0]["service"]) == ("applied", "api"), outcome
    assert project.environment("api")["DB_PASSWORD"] == "pw-2"
    server.commit({"api.env": b"KEY=2\n"})
    assert server.sync()["result"] == "applied"
    environment = project.environment("api")
    assert (environment["KEY"], environment["DB_PASSWORD"]) == ("2", "pw-2")


def test_a_rollback_runs_the_project_as_it_was_started(stack_server: MakeStackServer) -> None:
    crashes = COMPOSE.replace("sleep 1000", "[sh, -c, 'test $$KEY != bad && exec sleep 1000']")
    server, project = stack_server(crashes, {name: data.decode() for name, data in SOURCES.items()})
    start(project, "--env-file", "prod.env", up=("--scale", "api=2"))
    server.commit(SOURCES, server.manifest(list(SOURCES)))
    server.sync()
    server.commit({"api.env": b"KEY=bad\n"})
    outcome = server.sync()
    assert outcome["result"] == "rolled_back", outcome
    environment = project.environment("api")
    assert (environment["KEY"], environment["DB_PASSWORD"]) == ("1", "pw-1")
    assert (
        len(output("docker", "ps", "-q", "--filter", f"label=com.docker.compose.project={project.name}").split()) == 2
    )


def the_env_file_may_not_change_what_compose_runs(server: Server) -> None:
    before = server.live("prod.env")
    server.commit({"prod.env": b"DB_PASSWORD=pw-3\nCOMPOSE_FILE=other.yaml\n"})
    outcome = server.sync()
    assert outcome["result"] == "stalled"
    assert "COMPOSE_FILE would change what Compose runs" in outcome["reason"]
    assert server.live("prod.env") == before


def a_disagreement_is_held_and_named_and_ends_by_hand(server: Server, project: ComposeProject) -> None:
    before = project.container("api")["Id"]
    server.commit({**SOURCES, "api.env": b"KEY=3\n"}, server.manifest(list(SOURCES), env_files=["api.env"]))
    outcome = server.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("held", 2)
    assert "env_files is api.env, its containers were started with --env-file prod.env" in outcome["reason"]
    assert server.live("api.env") == b"KEY=2\n"
    assert project.container("api")["Id"] == before
    levels = {finding["component"]: finding["level"] for finding in server.json("doctor")}
    assert levels["stack production/app"] == "error"
    server.commit({}, server.manifest(list(SOURCES), env_files=["prod.env"]))
    assert server.sync()["result"] == "applied"
    assert project.environment("api")["DB_PASSWORD"] == "pw-1"
    (stack,) = [finding for finding in server.json("doctor") if finding["component"] == "stack production/app"]
    assert f"docker compose -p {project.name} -f compose.yaml --env-file prod.env up -d" in str(stack)


def test_what_nobody_reads_and_what_is_left_over_is_noted(stack_server: MakeStackServer) -> None:
    """Case orphan, and an env file that no service reads: in plan and in status, also while nothing is to do."""
    server, project = stack_server(COMPOSE, {"api.env": "KEY=1\n"})
    start(project)
    server.commit(SOURCES, server.manifest(list(SOURCES)))
    server.sync()
    text = (project.directory / "compose.yaml").read_text()
    project.write("compose.yaml", text.replace("  api:", "  web:"))
    (plan,) = server.json("plan")
    notes = plan["plan"]["notes"]
    assert any(note.endswith("prod.env: no service reads this env file") for note in notes)
    assert any("api still runs, and the project has no such service any more" in note for note in notes)
    assert "no service reads this env file" in server.cli("status").stdout


def test_the_project_files_of_a_label_are_never_written(stack_server: MakeStackServer) -> None:
    """A file that only the label names is a project file as well."""
    server, project = stack_server(COMPOSE, {"api.env": "KEY=1\n", "more.txt": "services: {}\n"})
    start(project, "-f", "compose.yaml", "-f", "more.txt")
    text = b"services: {api: {privileged: true}}\n"
    server.commit({"more.txt": text}, server.manifest({"more.txt": {"encrypted": False}}))
    outcome = server.sync("--take-over", "production/more.txt")
    assert "Compose reads this file as project configuration" in outcome["reason"]


# --- other machines and other commands ---


def test_an_ssh_host_follows_the_labels(fleet: Callable[..., Fleet]) -> None:  # noqa: F811
    made = fleet("web-1")
    project = made.projects["web-1"]
    text = (project.directory / "compose.yaml").read_text()
    project.write("compose.yaml", f"{text}    environment: {{DB_PASSWORD: '${{DB_PASSWORD}}'}}\n")
    project.write("prod.env", "DB_PASSWORD=pw-1\n")
    start(project, "--env-file", "prod.env")
    made.commit(b"MODE=1\n")
    assert made.results() == {"web-1": "applied"}
    environment = project.environment("api")
    assert (environment["MODE"], environment["DB_PASSWORD"]) == ("1", "pw-1")


@pytest.fixture
def importer(tmp_path: Path, docker_engine: str) -> Iterator[Importer]:
    made = make_importer(tmp_path / "import", docker_engine)
    yield made
    ComposeProject(f"rct-{os.getpid()}-prod", made.stack).remove()


def test_an_import_takes_the_env_file_and_writes_how_the_project_is_run(importer: Importer) -> None:
    """Case env-file-5."""
    name = f"rct-{os.getpid()}-prod"
    importer.write({"prod.env": "LEVEL=prod\n"})
    project = ComposeProject(name, importer.stack)
    start(project, "--project-name", name, "--env-file", "prod.env")
    before = project.container("api")["Id"]
    done = importer.imports()
    assert done["exit_code"] == 0, done
    (stack,) = importer.manifest()["stacks"].values()
    assert (stack["env_files"], stack["project"]) == (["prod.env"], name)
    assert "prod.env" in stack["targets"]
    assert done["verification"]["empty"]
    assert project.container("api")["Id"] == before
