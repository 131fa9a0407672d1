"""A project is run as it was started: real Compose, real containers, the cases of people who do this job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reconciler.adapters.compose.project import DockerCompose
from reconciler.core.decide.affected_services import affected
from reconciler.core.decide.stack_notes import stack_notes
from reconciler.core.errors import ModelRefusedError, StackGoneError, StartedOtherwiseError
from reconciler.core.model.compose import Action
from reconciler.core.model.targets import Stack
from reconciler.core.secret import Secret
from tests.support.commands import lines, output
from tests.support.compose import ComposeProject
from tests.support.fidelity import edited, managing

pytestmark = pytest.mark.docker

MakeProject = Callable[..., ComposeProject]
SERVICE = """
    image: IMAGE
    network_mode: host
    init: true
    stop_grace_period: 1s
    command: sleep 1000
"""
NETWORKED = SERVICE.replace("    network_mode: host\n", "")


def stack_of(made: ComposeProject, /, **more: object) -> Stack:
    return Stack("production", "app", str(made.directory), **more)  # type: ignore[arg-type]


def start(
    project: ComposeProject, *options: str, up: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> None:
    """As somebody does it by hand; the project's name stays, so that the test removes it."""
    words = ["docker", "compose", "--project-name", project.name, *options, "up", "-d", "--pull", "never", *up]
    output(*words, cwd=project.directory, env={**os.environ, **(env or {})}, timeout=120.0)


async def apply(
    docker: DockerCompose, project: ComposeProject, files: Mapping[str, str], **fields: object
) -> tuple[Action, ...]:
    """Write managed files, and give the services what they need, as the engine does it."""
    stack = stack_of(project, **fields)
    staged = {str(project.directory / name): Secret(text.encode()) for name, text in files.items()}
    keys = {path: {line.split("=")[0] for line in files[os.path.basename(path)].splitlines()} for path in staged}
    managed = managing(keys)
    before = await docker.project(stack)
    after = await docker.project(stack, staged)
    containers = await docker.containers(stack, before.name)
    actions = affected(stack, before, after, containers, {}, managed=managed)
    assert edited(before, containers, actions, managed) == []
    for name, text in files.items():
        project.write(name, text)
    scale = {action.service: action.scale for action in actions if action.scale is not None}
    await docker.recreate(after, [action.service for action in actions], scale=scale)
    return actions


def count(project: ComposeProject, service: str) -> int:
    labels = (f"label=com.docker.compose.project={project.name}", f"label=com.docker.compose.service={service}")
    return len(list(lines("docker", "ps", "-q", "--filter", labels[0], "--filter", labels[1])))


def ports(project: ComposeProject, service: str) -> object:
    return project.container(service)["HostConfig"]["PortBindings"]


async def test_interpolation_from_an_env_file_of_the_command_line_is_kept(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Cases env-file-1 and env-file-2."""
    made = compose_project(
        f"services:\n  api:{SERVICE}    env_file: api.env\n    environment: {{PASSWORD: '${{DB_PASSWORD}}'}}\n",
        {"api.env": "KEY=1\n", "prod.env": "DB_PASSWORD=pw-1\n"},
    )
    start(made, "--env-file", "prod.env")
    before = made.container("api")["Id"]
    assert await apply(docker, made, {"api.env": "KEY=1\n", "prod.env": "DB_PASSWORD=pw-1\n"}) == ()
    assert made.container("api")["Id"] == before
    (action,) = await apply(docker, made, {"prod.env": "DB_PASSWORD=pw-2\n"})
    assert action.reason == "PASSWORD changed"
    assert made.environment("api")["PASSWORD"] == "pw-2"
    await apply(docker, made, {"api.env": "KEY=2\n"})
    assert (made.environment("api")["PASSWORD"], made.environment("api")["KEY"]) == ("pw-2", "2")


async def test_a_published_port_from_an_env_file_stays(compose_project: MakeProject, docker: DockerCompose) -> None:
    """Cases env-file-3 and files: names of their own for both."""
    made = compose_project("services: {unused: {image: x}}", {"api.env": "LEVEL=info\n", ".env.prod": "PORT=18300\n"})
    made.write(
        "prod.yaml",
        f"services:\n  api:{NETWORKED}    env_file: api.env\n    ports: ['127.0.0.1:${{PORT}}:8000']\n".replace(
            "IMAGE", "reconciler-test/busybox:1"
        ),
    )
    start(made, "-f", "prod.yaml", "--env-file", ".env.prod")
    before = ports(made, "api")
    await apply(docker, made, {"api.env": "LEVEL=debug\n"})
    assert made.environment("api")["LEVEL"] == "debug"
    assert ports(made, "api") == before == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18300"}]}
    invocation = await docker.invocation(stack_of(made))
    assert invocation.command("up -d") == (f"docker compose -p {made.name} -f prod.yaml --env-file .env.prod up -d")


async def test_env_files_of_a_shell_are_followed_by_label(compose_project: MakeProject, docker: DockerCompose) -> None:
    """Case env-file-4: COMPOSE_ENV_FILES. The last one wins."""
    made = compose_project(
        f"services:\n  api:{SERVICE}    env_file: api.env\n    environment: {{A: '${{A}}', B: '${{B}}'}}\n",
        {".env": "A=dot\nB=dot\n", "extra.env": "B=extra\n", "api.env": "KEY=1\n"},
    )
    start(made, env={"COMPOSE_ENV_FILES": ".env,extra.env"})
    await apply(docker, made, {"api.env": "KEY=2\n"})
    environment = made.environment("api")
    assert [environment[key] for key in ("A", "B", "KEY")] == ["dot", "extra", "2"]


@pytest.mark.parametrize("line", ["COMPOSE_ENV_FILES=extra.env", "COMPOSE_PROFILES=ops", "COMPOSE_PATH_SEPARATOR=;"])
async def test_compose_settings_in_dotenv_mean_what_compose_makes_of_them(
    compose_project: MakeProject, docker: DockerCompose, line: str
) -> None:
    made = compose_project(
        f"services:\n  api:{SERVICE}    environment: {{A: '${{A-none}}'}}\n",
        {".env": f"{line}\n", "extra.env": "A=extra\n"},
    )
    start(made)
    assert (
        (await docker.project(stack_of(made))).services["api"].environment["A"]
        == "none"
        == made.environment("api")["A"]
    )


async def test_several_files_of_dotenv_are_read_with_that_dotenv(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """COMPOSE_FILE there names files elsewhere: with -f in its place, Compose would not read that `.env` any more."""
    made = compose_project(
        "services: {unused: {image: x}}", {".env": "COMPOSE_FILE=deploy/a.yaml:deploy/b.yaml\nA=1\n"}
    )
    made.write("deploy/a.yaml", f"services:\n  api:{SERVICE}".replace("IMAGE", "reconciler-test/busybox:1"))
    made.write("deploy/b.yaml", "services: {api: {environment: {A: '${A}', B: '${B-none}'}}}")
    made.write("deploy/.env", "B=deploy\n")
    start(made)
    invocation = await docker.invocation(stack_of(made))
    assert invocation.files == ()
    assert (await docker.project(stack_of(made))).services["api"].environment == {
        key: made.environment("api")[key] for key in ("A", "B")
    }


async def test_a_name_of_the_command_line_is_followed(compose_project: MakeProject, docker: DockerCompose) -> None:
    """Case project-name."""
    made = compose_project(f"services:\n  api:{SERVICE}    env_file: api.env\n", {"api.env": "KEY=1\n"})
    moved = ComposeProject(made.name, made.directory.rename(made.directory.parent / "elsewhere"))
    start(moved)
    assert (await docker.project(stack_of(moved))).name == made.name
    await apply(docker, moved, {"api.env": "KEY=2\n"})
    assert moved.environment("api")["KEY"] == "2"
    assert [health.service for health in await docker.glance(stack_of(moved))] == ["api"]


async def test_a_directory_of_the_command_line_is_followed(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  api:{SERVICE}    env_file: api.env\n", {"api.env": "KEY=1\n"})
    made.write("deploy/c.yaml", (made.directory / "compose.yaml").read_text())
    (made.directory / "compose.yaml").unlink()
    start(made, "-f", "deploy/c.yaml", "--project-directory", ".")
    await apply(docker, made, {"api.env": "KEY=2\n"})
    assert made.environment("api")["KEY"] == "2"


async def test_compose_files_outside_the_directory_are_followed(
    compose_project: MakeProject, docker: DockerCompose, tmp_path: Path
) -> None:
    """They are also read with what is staged: their own relative env file is seen."""
    made = compose_project(f"services:\n  api:{SERVICE}    env_file: api.env\n", {"api.env": "KEY=1\n"})
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "more.yaml").write_text("services: {api: {environment: {MORE: '1'}}}")
    start(made, "-f", "compose.yaml", "-f", "../shared/more.yaml")
    await apply(docker, made, {"api.env": "KEY=2\n"})
    assert made.environment("api")["MORE"] == "1"
    assert str(tmp_path / "shared" / "more.yaml") in (await docker.project_files(stack_of(made))).files


async def test_what_the_manifest_names_is_given_where_nothing_runs(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(
        "services: {api: {image: x, environment: {A: '${A}'}}}", {"a.env": "A=1\n", "b.env": "A=2\n"}
    )
    project = await docker.project(stack_of(made, env_files=("a.env", "b.env"), project="other"))
    assert (project.name, project.services["api"].environment) == ("other", {"A": "2"})
    with pytest.raises(StackGoneError, match=r"c\.env: the env file is missing"):
        await docker.project(stack_of(made, env_files=("c.env",)))


async def test_a_manifest_that_disagrees_with_the_containers_holds_the_stack(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SERVICE}", {"a.env": "A=1\n", "b.env": "A=2\n"})
    start(made, "--env-file", "a.env")
    disagreements: tuple[tuple[dict[str, object], str], ...] = (
        ({"env_files": ("b.env",)}, "env_files is b.env, its containers were started with --env-file a.env"),
        ({"files": ("other.yaml",)}, "files is other.yaml, its containers were started with -f compose.yaml"),
        ({"project_directory": "deploy", "project": made.name}, "project_directory is deploy"),
    )
    for fields, words in disagreements:
        with pytest.raises(StartedOtherwiseError, match=words) as raised:
            await docker.project(stack_of(made, **fields))
        assert "up -d` in" in raised.value.hint


async def test_of_two_projects_in_one_directory_the_one_that_is_named_counts(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SERVICE}", {"other.yaml": "services: {}"})
    twin = ComposeProject(f"{made.name}-twin", made.directory)
    start(made)
    start(twin)
    try:
        with pytest.raises(StartedOtherwiseError, match=f"{made.name}, {twin.name}"):
            await docker.project(stack_of(made))
        assert (await docker.project(stack_of(made, project=twin.name))).name == twin.name
    finally:
        twin.remove()


async def test_containers_of_the_same_name_from_elsewhere_hold_the_stack(
    compose_project: MakeProject, docker: DockerCompose, tmp_path: Path
) -> None:
    """Of another directory, or started inside a container that sees other paths: a recreate would take them over."""
    made = compose_project(f"services:\n  api:{SERVICE}", {})
    start(made)
    twin = tmp_path / "elsewhere" / made.name
    twin.mkdir(parents=True)
    (twin / "compose.yaml").write_text((made.directory / "compose.yaml").read_text())
    with pytest.raises(StartedOtherwiseError, match=f"started with --project-directory {made.directory}"):
        await docker.project(Stack("production", "app", str(twin)))


async def test_a_file_that_a_label_names_and_that_is_gone_holds_the_stack(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SERVICE}", {"prod.env": "A=1\n"})
    start(made, "--env-file", "prod.env")
    (made.directory / "prod.env").unlink()
    with pytest.raises(StartedOtherwiseError, match=r"prod\.env: the running containers were started with this file"):
        await docker.project(stack_of(made))
    staged = {str(made.directory / "prod.env"): Secret(b"A=2\n")}
    assert (await docker.project(stack_of(made), staged)).services.keys() == {"api"}


async def test_a_scale_by_hand_survives_a_change(compose_project: MakeProject, docker: DockerCompose) -> None:
    """Case scale: a service without and one with replicas; one replica has died."""
    made = compose_project(
        f"services:\n  web:{SERVICE}    env_file: a.env\n  rep:{SERVICE}    env_file: a.env\n"
        f"    deploy: {{replicas: 2}}\n  plain:{SERVICE}    env_file: a.env\n",
        {"a.env": "KEY=1\n"},
    )
    start(made, up=("--scale", "web=3", "--scale", "rep=3"))
    output("docker", "kill", f"{made.name}-web-2")
    actions = await apply(docker, made, {"a.env": "KEY=2\n"})
    assert {action.service: action.scale for action in actions} == {"web": 3, "rep": 3, "plain": None}
    assert [count(made, service) for service in ("web", "rep", "plain")] == [3, 3, 1]
    assert made.environment("web")["KEY"] == made.environment("rep")["KEY"] == "2"


REQUIRES = "A=${REQUIRED:?}\n"


async def test_a_running_service_of_a_profile_is_renewed_whatever_another_profile_lacks(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Case profile."""
    made = compose_project(
        f"services:\n  tools:{SERVICE}    env_file: tools.env\n    profiles: [ops]\n"
        "  broken: {image: x, env_file: [own.env, missing.env], profiles: [never]}\n",
        {"tools.env": "KEY=1\n", "own.env": "A=1\n"},
    )
    start(made, "--profile", "ops")
    for value, broken in enumerate((None, 'A="never closed\n', REQUIRES), 2):
        if broken is not None:
            made.write("missing.env", broken)
        await apply(docker, made, {"tools.env": f"KEY={value}\n"})
        assert made.environment("tools")["KEY"] == str(value), broken
        project = await docker.project(stack_of(made))
        containers = await docker.containers(stack_of(made), project.name)
        own = f"{made.directory}/own.env"
        (note,) = stack_notes(stack_of(made), project, containers, {own: own}, {})
        assert "left out broken" in note
        # Of a variable that is required, Compose names no file.
        assert (f"{made.directory}/missing.env" if broken != REQUIRES else "REQUIRED") in note


async def test_a_container_whose_service_is_gone_is_named(compose_project: MakeProject, docker: DockerCompose) -> None:
    """Case orphan; and a managed env file that nobody reads."""
    made = compose_project(f"services:\n  api:{SERVICE}", {"prod.env": "A=1\n"})
    start(made)
    made.write("compose.yaml", (made.directory / "compose.yaml").read_text().replace("api:", "web:"))
    stack, project, path = stack_of(made), await docker.project(stack_of(made)), made.directory / "prod.env"
    containers = await docker.containers(stack, project.name)
    unread, orphan = stack_notes(stack, project, containers, {str(path): str(path)}, {})
    assert unread == "stack app: prod.env: no service reads this env file"
    assert orphan.startswith("stack app: api still runs, and the project has no such service any more")


async def test_an_env_file_format_that_this_compose_does_not_know_is_named(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Case raw. Newer versions know it."""
    made = compose_project("services: {api: {image: x, env_file: [{path: a.env, format: raw}]}}", {"a.env": "A=pa$x\n"})
    completed = made.compose("config", "--quiet")
    if completed.returncode == 0:
        assert (await docker.project(stack_of(made))).services["api"].environment == {"A": "pa$x"}
        return
    with pytest.raises(ModelRefusedError, match="does not know the env_file format raw"):
        await docker.project(stack_of(made))


async def test_of_several_broken_env_files_one_is_named_with_its_own_line(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Case two-broken: Compose names one of them at random, an older one only a line."""
    services = "".join(f"  {name}: {{image: x, env_file: {name}.env}}\n" for name in "abc")
    files = {"a.env": 'A="s3cret\n', "b.env": "A=1\nB=2\nB B=s3cret\n", "c.env": "C=1\n"}
    made = compose_project(f"services:\n{services}", files)
    for _ in range(5):
        with pytest.raises(ModelRefusedError) as raised:
            await docker.project(stack_of(made))
        message = str(raised.value)
        assert "s3cret" not in message
        assert ("a.env" in message) == ("quote" in message)
        assert ("b.env" in message) == ("(line 3)" in message)
