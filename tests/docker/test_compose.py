"""The Compose adapter, and the rules for affected services and health in core/decide, against a real engine."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.compose import staging
from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.compose.project import DockerCompose
from reconciler.core.decide import affected_services, health
from reconciler.core.errors import EngineUnavailableError, ModelRefusedError, ReconcilerError
from reconciler.core.model.compose import Action, ActionKind, Invocation, ManagedFile, Project
from reconciler.core.model.targets import ChangeMode, HealthPolicy, OnChange, Stack
from reconciler.core.secret import Secret
from tests.support.commands import lines, output, run
from tests.support.compose import ComposeProject
from tests.support.engine import IMAGE
from tests.support.fidelity import edited, managing
from tests.support.waiting import eventually

pytestmark = pytest.mark.docker

MakeProject = Callable[..., ComposeProject]
CANARY = "c4n4ry-value"
MISSING = "the env file does not exist"
RECREATE = OnChange(ChangeMode.RECREATE)

# PID 1 of the test image ends immediately when stopped; `init` forwards signals where a test sends one.
SLEEPER = """
    image: IMAGE
    network_mode: host
    init: true
    stop_grace_period: 1s
    command: sleep 1000
"""


def stack_of(project: ComposeProject, **more: object) -> Stack:
    return replace(Stack("production", "app", str(project.directory)), **more)  # type: ignore[arg-type]


def project_of(project: ComposeProject) -> Project:
    """What it takes to recreate its services."""
    return Project(project.name, {}, Invocation(str(project.directory)))


def ids(project: ComposeProject) -> dict[str, str]:
    """Container ids by name, without the project's."""
    listed = lines(
        *("docker", "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}"),
        *("--filter", f"label=com.docker.compose.project={project.name}"),
    )
    return {name.removeprefix(f"{project.name}-"): identity for name, identity in (line.split() for line in listed)}


def all_managed(project: Project) -> dict[str, ManagedFile]:
    """As if git managed every env file that Compose reads, and every variable came from one."""
    services = project.services.values()
    keys = frozenset(key for service in services for key in service.environment)
    return managing(dict.fromkeys(project.environments.union(*(service.env_files for service in services)), keys))


def inside(project: ComposeProject, service: str, *command: str) -> str:
    return output("docker", "exec", project.container(service)["Id"], *command).decode()


def staged(project: ComposeProject, files: Mapping[str, str | None]) -> dict[str, Secret | None]:
    return {
        os.path.normpath(project.directory / name): None if text is None else Secret(text.encode())
        for name, text in files.items()
    }


async def carry_out(docker: DockerCompose, stack: Stack, project: Project, actions: tuple[Action, ...]) -> None:
    """Do what was decided, as the engine does it."""
    recreate = [action for action in actions if action.kind is ActionKind.RECREATE]
    force = any(action.force for action in recreate)
    scale = {action.service: action.scale for action in recreate if action.scale is not None}
    await docker.recreate(project, [action.service for action in recreate], scale=scale, force=force)
    restart = [action.service for action in actions if action.kind is ActionKind.RESTART]
    await docker.restart(project, restart)
    for action in actions:
        if action.kind is ActionKind.SIGNAL:
            await docker.signal(project, action.service, action.signal)


async def change(
    docker: DockerCompose, made: ComposeProject, files: Mapping[str, str], on_change: OnChange = RECREATE
) -> tuple[Action, ...]:
    """Decide on the staged files, write them, see that Compose makes the same of them, and carry the decision out."""
    stack = stack_of(made)
    before = await docker.project(stack)
    trial = await docker.project(stack, staged(made, files))
    for name, text in files.items():
        temporary = made.write(f"{name}.new", text)
        temporary.rename(made.directory / name)
    after = await docker.project(stack)
    assert trial == after
    paths = {str(made.directory / name): on_change for name in files}
    actions = affected_services.affected(
        stack, before, after, await docker.containers(stack, after.name), paths, managed=all_managed(after)
    )
    await carry_out(docker, stack, after, actions)
    return actions


# --- which services are affected ---


async def test_changed_env_file_recreates_its_service_and_no_other(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(
        f"services:\n  api:{SLEEPER}    env_file: api.env\n  worker:{SLEEPER}    env_file: worker.env\n",
        {"api.env": "KEY=1\n", "worker.env": "KEY=1\n"},
    )
    made.up()
    before = ids(made)
    actions = await change(docker, made, {"api.env": "KEY=2\nNEW=$$x\n"})
    after = ids(made)
    assert [(action.service, action.reason) for action in actions] == [("api", "KEY changed; NEW added")]
    assert before["api-1"] != after["api-1"]
    assert before["worker-1"] == after["worker-1"]
    assert made.environment("api")["KEY"] == "2"
    assert made.environment("api")["NEW"] == "$x"


async def test_cosmetic_change_of_an_env_file_concerns_nobody(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    env_file: api.env\n", {"api.env": "A=1\nB=2\n"})
    made.up()
    before = ids(made)
    assert await change(docker, made, {"api.env": '# new\nB="2"\nA=1\n'}) == ()
    assert ids(made) == before


async def test_change_of_how_a_service_is_built_or_ordered_concerns_no_container(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    text = f"services:\n  api:{SLEEPER}  db:{SLEEPER}"
    made = compose_project(text)
    made.up()
    before = ids(made)
    text = text.replace("  db:", "    depends_on: [db]\n    build: {context: ., args: [A=1]}\n  db:")
    assert await change(docker, made, {"compose.yaml": text.replace("IMAGE", IMAGE)}) == ()
    assert ids(made) == before


async def test_restart_does_not_load_new_values(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    env_file: api.env\n", {"api.env": "KEY=1\n"})
    made.up()
    made.write("api.env", "KEY=2\n")
    stack = stack_of(made)
    await docker.restart(Project(made.name, {}), ["api"])
    assert made.environment("api")["KEY"] == "1"
    now = await docker.project(stack)
    (action,) = affected_services.affected(
        stack, now, now, await docker.containers(stack, made.name), {}, managed=all_managed(now)
    )
    assert (action.reason, action.stale) == ("container runs older values of KEY", (str(made.directory / "api.env"),))
    await carry_out(docker, stack, now, (action,))
    assert made.environment("api")["KEY"] == "2"
    assert (
        affected_services.affected(
            stack, now, now, await docker.containers(stack, made.name), {}, managed=all_managed(now)
        )
        == ()
    )


MOUNTED = (
    f"services:\n  web:{SLEEPER}    volumes: ['./web.conf:/web.conf:ro', './conf.d:/conf.d:ro']\n  other:{SLEEPER}"
)


@pytest.mark.parametrize("mode", [ChangeMode.RECREATE, ChangeMode.RESTART])
async def test_mounted_file_shows_its_new_content_after_the_action(
    compose_project: MakeProject, docker: DockerCompose, mode: ChangeMode
) -> None:
    made = compose_project(MOUNTED, {"web.conf": "old", "conf.d/x.conf": "old"})
    made.up()
    before = ids(made)
    (action,) = await change(docker, made, {"web.conf": "new"}, OnChange(mode))
    assert (action.service, action.kind.value, action.reason) == ("web", mode.value, "mounts web.conf")
    assert inside(made, "web", "cat", "/web.conf") == "new"
    assert (ids(made)["web-1"] == before["web-1"]) is (mode is ChangeMode.RESTART)
    assert ids(made)["other-1"] == before["other-1"]


async def test_compose_alone_would_leave_a_container_with_the_old_mounted_file(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Why such an action is forced."""
    made = compose_project(MOUNTED, {"web.conf": "old", "conf.d/x.conf": "old"})
    made.up()
    made.write("web.conf.new", "new").rename(made.directory / "web.conf")
    await docker.recreate(project_of(made), ["web"])
    assert inside(made, "web", "cat", "/web.conf") == "old"
    await docker.recreate(project_of(made), ["web"], force=True)
    assert inside(made, "web", "cat", "/web.conf") == "new"


async def test_mounted_directory_sees_the_new_file_immediately_and_a_signal_is_enough(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    listener = SLEEPER.replace(
        "command: sleep 1000",
        "command: [sh, -c, \"trap 'cat /conf.d/x.conf' HUP; echo up; while :; do sleep 0.1; done\"]",
    )
    made = compose_project(
        f"services:\n  web:{listener}    volumes: ['./conf.d:/conf.d:ro']\n", {"conf.d/x.conf": "old"}
    )
    made.up()
    eventually(lambda: "up" in made.logs("web"))
    before = ids(made)
    (action,) = await change(docker, made, {"conf.d/x.conf": "new\n"}, OnChange(ChangeMode.SIGNAL, "HUP"))
    assert action.kind is ActionKind.SIGNAL
    eventually(lambda: "new" in made.logs("web"))
    assert ids(made) == before


async def test_signal_goes_to_the_containers_that_run(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    deploy: {{replicas: 2}}\n")
    made.up()
    output("docker", "stop", ids(made)["api-1"])
    await docker.signal(Project(made.name, {}), "api", "KILL")
    codes = [container.exit_code for container in await docker.containers(stack_of(made), made.name)]
    assert codes == [137, 137]


async def test_signal_that_the_engine_does_not_know_is_refused(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}")
    made.up()
    with pytest.raises(ModelRefusedError, match="cannot send NONSENSE to api") as raised:
        await docker.signal(Project(made.name, {}), "api", "NONSENSE")
    assert raised.value.where == str(made.directory)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


INLINE = f"""
services:
  inline:{SLEEPER}    configs: [{{source: motd, target: /motd}}]
  secret:{SLEEPER}    secrets: [token]
  other:{SLEEPER}
configs:
  motd: {{content: "hello ${{WHO}}"}}
secrets:
  token: {{environment: TOKEN}}
"""


async def test_config_and_secret_made_of_variables_follow_the_env_file(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(INLINE, {".env": "WHO=old\nTOKEN=old\n"})
    made.up()
    before = ids(made)
    actions = await change(docker, made, {".env": "WHO=new\nTOKEN=new\n"})
    assert [(action.service, action.reason, action.force) for action in actions] == [
        ("inline", "its config motd changed", True),
        ("secret", "its secret token changed", True),
    ]
    assert inside(made, "inline", "cat", "/motd") == "hello new"
    assert inside(made, "secret", "cat", "/run/secrets/token") == "new"
    assert ids(made)["other-1"] == before["other-1"]


async def test_interpolated_variable_concerns_the_services_that_use_it(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(
        f"services:\n  a:{SLEEPER}    environment: {{LEVEL: '${{LEVEL}}'}}\n  b:{SLEEPER}    hostname: ${{NAME}}\n"
        f"  c:{SLEEPER}",
        {".env": "LEVEL=info\nNAME=one\n"},
    )
    made.up()
    actions = await change(docker, made, {".env": "LEVEL=debug\nNAME=two\n"})
    assert {action.service: action.reason for action in actions} == {"a": "LEVEL changed", "b": "its hostname changed"}
    assert made.environment("a")["LEVEL"] == "debug"
    assert made.container("b")["Config"]["Hostname"] == "two"


SHARED = f"""
services:
  api:{SLEEPER}    env_file: api.env
    ipc: shareable
    volumes: [./api.conf:/api.conf, /data]
  side:{SLEEPER.replace("network_mode: host", "network_mode: service:api")}
  tools:{SLEEPER}    pid: service:api
    ipc: service:api
  files:{SLEEPER}    volumes_from: [api]
  after:{SLEEPER}    depends_on: {{api: {{condition: service_started, restart: true}}}}
  plain:{SLEEPER}    depends_on: [api]
"""


async def test_services_that_share_namespaces_or_volumes_are_recreated_with_their_owner(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(SHARED, {"api.env": "KEY=1\n", "api.conf": "1"})
    made.up()
    before = ids(made)
    started = made.container("after")["State"]["StartedAt"]
    actions = await change(docker, made, {"api.env": "KEY=2\n"})
    assert {action.service: (action.kind, action.reason) for action in actions} == {
        "api": (ActionKind.RECREATE, "KEY changed"),
        "side": (ActionKind.RECREATE, "shares the network of api"),
        "tools": (ActionKind.RECREATE, "shares the IPC namespace and PID namespace of api"),
        "files": (ActionKind.RECREATE, "uses the volumes of api"),
        "after": (ActionKind.RESTART, "restarts with api"),
    }
    owner = f"container:{ids(made)['api-1']}"
    assert made.container("side")["HostConfig"]["NetworkMode"] == owner
    assert made.container("tools")["HostConfig"]["PidMode"] == owner
    assert all(ids(made)[f"{name}-1"] != before[f"{name}-1"] for name in ("api", "side", "tools", "files"))
    assert all(ids(made)[f"{name}-1"] == before[f"{name}-1"] for name in ("after", "plain"))
    assert made.container("after")["State"]["StartedAt"] != started
    assert all(made.container(name)["State"]["Running"] for name in ("api", "side", "tools", "files", "after", "plain"))


async def test_services_that_share_a_namespace_are_restarted_after_its_owner(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(SHARED, {"api.env": "KEY=1\n", "api.conf": "1"})
    made.up()
    before = ids(made)
    actions = await change(docker, made, {"api.conf": "2"}, OnChange(ChangeMode.RESTART))
    assert {action.service: action.kind for action in actions} == dict.fromkeys(
        ("after", "api", "side", "tools"), ActionKind.RESTART
    )
    assert ids(made) == before
    started = {name: made.container(name)["State"]["StartedAt"] for name in ("api", "side", "tools")}
    assert started["api"] == min(started.values())
    assert all(made.container(name)["State"]["Running"] for name in ("api", "side", "tools", "after"))


async def test_service_stopped_on_purpose_stays_stopped(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(
        f"services:\n  api:{SLEEPER}    env_file: [x.env]\n    depends_on: [job]\n"
        f"  job:{SLEEPER}    env_file: [x.env]\n"
        f"  never:{SLEEPER}    env_file: [x.env]\n    profiles: [debug]\n",
        {"x.env": "KEY=1\n"},
    )
    made.up()
    made.compose("stop", "job")
    before = ids(made)
    actions = await change(docker, made, {"x.env": "KEY=2\n"})
    assert [action.service for action in actions] == ["api"]
    assert ids(made).keys() == {"api-1", "job-1"}
    assert ids(made)["job-1"] == before["job-1"]
    assert not made.container("job")["State"]["Running"]


async def test_running_service_of_a_profile_is_seen_and_renewed(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(
        f"services:\n  debug:{SLEEPER}    env_file: [x.env]\n    profiles: [debug]\n    depends_on: [other]\n"
        f"  other:{SLEEPER}    profiles: [more]\n",
        {"x.env": "KEY=1\n"},
    )
    made.compose("--profile", "*", "up", "--detach")
    container = ids(made)["other-1"]
    assert [action.service for action in await change(docker, made, {"x.env": "KEY=2\n"})] == ["debug"]
    assert made.environment("debug")["KEY"] == "2"
    assert ids(made)["other-1"] == container


async def test_all_replicas_are_renewed(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(
        f"services:\n  api:{SLEEPER}    env_file: [x.env]\n    deploy: {{replicas: 2}}\n", {"x.env": "KEY=1\n"}
    )
    made.up()
    before = ids(made)
    await change(docker, made, {"x.env": "KEY=2\n"})
    after = ids(made)
    assert before.keys() == after.keys() == {"api-1", "api-2"}
    assert not set(before.values()) & set(after.values())
    containers = await docker.containers(stack_of(made), made.name)
    assert [container.environment["KEY"] for container in containers] == ["2", "2"]


async def test_number_of_replicas_may_come_from_a_file(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    deploy: {{replicas: $COUNT}}\n", {".env": "COUNT=1\n"})
    made.up()
    before = ids(made)
    (action,) = await change(docker, made, {".env": "COUNT=2\n"})
    assert action.reason == "its deploy changed"
    assert ids(made)["api-1"] == before["api-1"]
    assert ids(made).keys() == {"api-1", "api-2"}


async def test_values_of_a_container_are_those_of_the_model_to_the_letter(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    tricky = "HASH='$2y$10$abc.def'\nSPACES='  a b  '\nLINES=\"a\\nb\"\nUTF=žluť\nEMPTY=\nINHERITED\nHTML='<&>'\n"
    made = compose_project(f"services:\n  api:{SLEEPER}    env_file: api.env\n", {"api.env": tricky})
    made.up()
    stack = stack_of(made)
    now = await docker.project(stack)
    (container,) = await docker.containers(stack, now.name)
    assert affected_services.stale_keys(now.services["api"], [container]) == ()
    assert container.environment["HASH"] == "$2y$10$abc.def"
    assert "INHERITED" not in container.environment
    assert container.image_environment == {"PATH": "/bin"}


async def test_variables_of_the_daemon_do_not_reach_compose(compose_project: MakeProject, tmp_path: Path) -> None:
    made = compose_project(
        f"services:\n  api:{SLEEPER}    environment: [INHERITED, 'LEVEL=${{LEVEL:-none}}']\n", {".env": "LEVEL=file\n"}
    )
    environment = {**os.environ, "INHERITED": "daemon", "LEVEL": "daemon"}
    docker = DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), environment))
    project = await docker.project(stack_of(made))
    await docker.close()
    assert project.services["api"].environment == {"INHERITED": None, "LEVEL": "file"}


# --- the staged project ---

EVERYTHING = """
include:
  - included/compose.yaml
  - {path: [more/a.yaml, more/b.yaml], project_directory: more/home, env_file: [more/1.env, more/2.env]}
services:
  api:
    image: IMAGE
    env_file: [api.env, {path: absent.env, required: false}, {path: ../common.env}]
    environment: {FROM: $FROM, PWD_IS: $PWD, DOLLAR: "a$$b", UNSET: }
    volumes: ["./file.conf:/file.conf", "./mounted:/mounted", "../common.env:/common", "data:/data", "host:/host"]
    configs: [file, inline, variable]
    secrets: [secret_file, secret_variable]
    networks: [back]
    healthcheck: {test: "true"}
  extended:
    extends: {file: extends/base.yaml, service: base}
    profiles: [extra]
    build: {context: ./build, args: {FROM: $FROM}}
    ipc: service:api
configs:
  file: {file: ./file.conf}
  inline: {content: "hello ${FROM}"}
  variable: {environment: FROM}
secrets:
  secret_file: {file: ./mounted/secret}
  secret_variable: {environment: FROM}
networks:
  back: {driver: bridge}
volumes:
  data: {}
  host: {driver: local, driver_opts: {type: none, o: bind, device: ./mounted}}
"""
EVERY_FILE = {
    ".env": "FROM=dotenv\nWHERE=nested\n",
    "api.env": "KEY=1\nREF=${FROM}\n",
    "../common.env": "COMMON=1\n",
    "file.conf": "x",
    "mounted/secret": "s",
    "build/Dockerfile": "FROM scratch",
    "extends/base.yaml": "services:\n  base: {image: IMAGE, env_file: base.env, volumes: ['./v:/v'],"
    " extends: {file: deep/deeper.yaml, service: deeper}}\n",
    "extends/base.env": "BASE=1\n",
    "extends/deep/deeper.yaml": "services:\n  deeper: {image: IMAGE, env_file: deeper.env}\n",
    "extends/deep/deeper.env": "DEEPER=1\n",
    "included/compose.yaml": "include: ['${WHERE}.yaml']\nservices:\n"
    "  included: {image: IMAGE, env_file: i.env, environment: {OWN: $OWN}, volumes: ['./i:/i']}\n",
    "included/nested.yaml": "services:\n  nested: {image: IMAGE, environment: {OWN: $OWN}}\n",
    "included/i.env": "I=1\n",
    "included/.env": "OWN=included\n",
    "more/a.yaml": "services:\n  more: {image: IMAGE, environment: {M: $M}, volumes: ['./m:/m'],"
    " extends: {file: 'extended-${M}.yaml', service: more}}\n",
    "more/home/extended-2.yaml": "services:\n  more: {labels: {x: y}}\n",
    "more/home/extended-3.yaml": "services:\n  more: {labels: {x: z}}\n",
    "more/b.yaml": "services:\n  more: {environment: {N: $M}}\n",
    "more/1.env": "M=1\n",
    "more/2.env": "M=2\n",
    "more/home/.env": "M=unused\n",
}


@pytest.fixture
def everything(compose_project: MakeProject) -> ComposeProject:
    return compose_project(EVERYTHING, {name: text.replace("IMAGE", "x") for name, text in EVERY_FILE.items()})


async def test_staging_what_is_there_gives_the_live_model(everything: ComposeProject, docker: DockerCompose) -> None:
    live = await docker.project(stack_of(everything))
    names = [*EVERY_FILE, "compose.yaml"]
    trial = await docker.project(
        stack_of(everything), staged(everything, {name: (everything.directory / name).read_text() for name in names})
    )
    assert live.services.keys() == {"api", "extended", "included", "nested", "more"}
    assert trial == live
    assert trial.services["api"].environment["PWD_IS"] == str(everything.directory)
    assert trial.services["api"].environment["DOLLAR"] == "a$b"
    assert trial.services["api"].sources == {
        str(everything.directory / "file.conf"),
        str(everything.directory / "mounted"),
        str(everything.directory / "mounted/secret"),
        str(everything.directory.parent / "common.env"),
    }
    assert trial.services["extended"].namespace_of == {"api"}


@pytest.mark.parametrize(
    ("name", "text", "service", "environment"),
    [
        pytest.param("api.env", "KEY=2\n", "api", {"KEY": "2"}, id="env-file"),
        pytest.param("absent.env", "LATE=1\n", "api", {"LATE": "1"}, id="env-file-that-may-be-absent"),
        pytest.param("../common.env", "COMMON=2\n", "api", {"COMMON": "2"}, id="env-file-above"),
        pytest.param(".env", "FROM=other\nWHERE=nested\n", "api", {"FROM": "other", "REF": "other"}, id="dotenv"),
        pytest.param("extends/base.env", "BASE=2\n", "extended", {"BASE": "2"}, id="extended"),
        pytest.param("extends/deep/deeper.env", "DEEPER=2\n", "extended", {"DEEPER": "2"}, id="extended-twice"),
        pytest.param("included/i.env", "I=2\n", "included", {"I": "2"}, id="included"),
        pytest.param("included/.env", "OWN=2\n", "nested", {"OWN": "2"}, id="dotenv-of-an-include"),
        pytest.param("more/2.env", "M=3\n", "more", {"M": "3", "N": "3"}, id="env-file-of-an-include"),
        pytest.param("new/made/up.yaml", "", "api", {"KEY": "1"}, id="file-in-a-directory-that-does-not-exist"),
    ],
)
async def test_staged_file_is_seen_wherever_compose_reads_it(
    everything: ComposeProject, docker: DockerCompose, name: str, text: str, service: str, environment: dict[str, str]
) -> None:
    project = await docker.project(stack_of(everything), staged(everything, {name: text}))
    assert environment.items() <= project.services[service].environment.items()


async def test_staged_removal_is_seen(everything: ComposeProject, docker: DockerCompose) -> None:
    with pytest.raises(ModelRefusedError, match="the env file does not exist") as raised:
        await docker.project(stack_of(everything), staged(everything, {"api.env": None}))
    assert raised.value.where == str(everything.directory / "api.env")


async def test_absolute_path_to_a_staged_file_leads_to_the_live_one(
    compose_project: MakeProject, docker: DockerCompose, tmp_path: Path
) -> None:
    """The known limit: what is wrong with such a file shows only after it is written."""
    made = compose_project(f"services:\n  api: {{image: x, env_file: {tmp_path}/abs.env}}\n", {"../abs.env": "A=1\n"})
    trial = await docker.project(stack_of(made), staged(made, {"../abs.env": "A=2\n"}))
    assert trial.services["api"].environment == {"A": "1"}


READS_MUCH = """\
include: [included/compose.yaml]
services:
  api:
    extends: {file: base.yaml, service: base}
    env_file: [api.env, {path: optional.env, required: false}]
    environment: {FROM: "${FROM:-}"}
"""
INPUTS = {
    "base.yaml": f"services:\n  base:{SLEEPER}".replace("IMAGE", IMAGE),
    "included/compose.yaml": f"services:\n  other:{SLEEPER}    env_file: [other.env]\n".replace("IMAGE", IMAGE),
    "included/other.env": "A=1\n",
    "included/.env": "B=1\n",
    ".env": "FROM=1\n",
    "api.env": "KEY=1\n",
}


async def test_what_was_resolved_with_staged_files_holds_until_another_file_changes(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(READS_MUCH, INPUTS)
    stack = stack_of(made)
    trial = await docker.project(stack, staged(made, {"api.env": "KEY=2\n"}))
    assert not await docker.is_current(stack, trial)
    made.write("api.env", "KEY=2\n")
    assert await docker.is_current(stack, trial)
    for name in ("compose.yaml", *INPUTS, "optional.env", "compose.override.yaml"):
        path = made.directory / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + b"\n#\n")
        assert not await docker.is_current(stack, trial), name
        path.unlink() if before is None else path.write_bytes(before)
        assert await docker.is_current(stack, trial), name
    started = made.compose("-f", "compose.yaml", "-f", "base.yaml", "up", "-d", "--pull", "never", "api")
    assert started.returncode == 0, started.stderr
    assert not await docker.is_current(stack, trial)


@pytest.mark.parametrize("recent", [0.0, 60.0])
async def test_files_are_staged_as_the_project_ran_a_moment_ago_which_is_looked_at_again_once_they_are_in_place(
    compose_project: MakeProject, docker: DockerCompose, monkeypatch: pytest.MonkeyPatch, recent: float
) -> None:
    monkeypatch.setattr("reconciler.adapters.compose.project._RECENT", recent)
    made = compose_project(READS_MUCH, INPUTS)
    stack = stack_of(made)
    await docker.project_files(stack)
    started = made.compose("-f", "compose.yaml", "-f", "base.yaml", "up", "-d", "--pull", "never", "api")
    assert started.returncode == 0, started.stderr
    trial = await docker.project(stack, staged(made, {"api.env": "KEY=2\n"}))
    made.write("api.env", "KEY=2\n")
    assert await docker.is_current(stack, trial) is (recent == 0)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        pytest.param("services: {api: {image: x, env_file: HERE/api.env}}", "", id="absolute"),
        pytest.param("services: {api: {image: x, env_file: '${HERE}/api.env'}}", "", id="variable"),
        pytest.param("services: {api: {image: x, env_file: link/api.env}}", ".", id="link-to-directory"),
        pytest.param("services: {api: {image: x, env_file: link}}", "api.env", id="link-to-file"),
        pytest.param("include: [HERE/included.yaml]", "", id="absolute-include"),
        pytest.param("services: {api: {extends: {file: HERE/included.yaml, service: api}}}", "", id="absolute-base"),
        pytest.param("COMPOSE_FILE=HERE/included.yaml", "", id="absolute-compose-file"),
        pytest.param("COMPOSE_FILE=${HERE}/included.yaml", "", id="compose-file-by-a-variable"),
    ],
)
async def test_what_compose_may_have_read_past_the_staged_files_is_resolved_again(
    compose_project: MakeProject, docker: DockerCompose, text: str, link: str
) -> None:
    included = "services: {api: {image: x, env_file: api.env}}"
    files = {"included.yaml": included, "api.env": "A=1\n"}
    made = compose_project(text, files)
    written = text.replace("HERE", str(made.directory)) if "$" not in text else text
    by_name = text.startswith("COMPOSE_FILE")
    made.write("compose.yaml", included if by_name else written)
    made.write(".env", f"HERE={made.directory}\n{written if by_name else ''}\n")
    if link:
        (made.directory / "link").symlink_to(link)
    trial = await docker.project(stack_of(made), staged(made, {"api.env": "A=2\n"}))
    made.write("api.env", "A=2\n")
    assert trial.services["api"].environment == {"A": "1"}
    assert not await docker.is_current(stack_of(made), trial)


@pytest.mark.parametrize("files", [(), ("deploy/compose.yaml",), ("compose.yaml", "deploy/compose.yaml")])
async def test_project_reached_through_a_link(
    compose_project: MakeProject, docker: DockerCompose, tmp_path: Path, files: tuple[str, ...]
) -> None:
    text = "services:\n  api: {image: x, env_file: x.env, volumes: ['./x.env:/x']}\n"
    made = compose_project(text, {"x.env": "A=1\n", "deploy/compose.yaml": text, "deploy/x.env": "A=1\n"})
    link = tmp_path / "current"
    link.symlink_to(made.directory)
    stack = Stack("production", "app", str(link), files)
    live = await docker.project(stack)
    here = link if files[:1] != ("deploy/compose.yaml",) else link / "deploy"
    assert live.name == here.name
    assert live.services["api"].sources == {str(here / "x.env"), str(here.resolve() / "x.env")}
    trial = await docker.project(stack, {str(here / "x.env"): Secret(b"A=1\n")})
    assert trial == live


async def test_staged_project_may_begin_where_the_live_one_is_broken(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    env_file: api.env\n", {"api.env": "KEY=1\n"})
    made.up()
    (made.directory / "api.env").unlink()
    stack = stack_of(made)
    with pytest.raises(ModelRefusedError, match="the env file does not exist"):
        await docker.project(stack)
    containers = await docker.containers(stack, None)
    assert [(container.service, container.state, container.environment["KEY"]) for container in containers] == [
        ("api", "running", "1")
    ]
    (glanced,) = await docker.glance(stack)
    assert (glanced.id, glanced.service, glanced.state) == (containers[0].id, "api", "running")
    after = await docker.project(stack, staged(made, {"api.env": "KEY=2\n"}))
    assert after.name == made.name
    (action,) = affected_services.affected(stack, None, after, containers, {}, managed=all_managed(after))
    assert action.reason == "container runs older values of KEY"


# Stands in for docker on PATH. Looks for the secret in every file below the directories while Compose would read them;
# those of other tests are their own.
SPY = """#!/bin/sh
find {places} -maxdepth 4 -name 'pytest-of-*' -prune -o -type f -newer {begun} \
    -exec grep -lF {canary} {{}} + > {report} 2>/dev/null
ls -l "$PWD" >> {report}.listing
exec {docker} "$@"
"""


async def test_nothing_of_a_staged_file_touches_the_disk(compose_project: MakeProject, tmp_path: Path) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}    env_file: [api.env]\n", {"api.env": "KEY=1\n"})
    report, scratch, programs = tmp_path / "report", tmp_path / "scratch", tmp_path / "bin"
    real = lines("sh", "-c", "command -v docker")[0]
    programs.mkdir()
    spy, begun = programs / "docker", tmp_path / "begun"
    begun.touch()
    os.utime(begun, (time.time() - 60,) * 2)  # older files need no search: a machine may have many
    canary = f"c4n4ry-{secrets.token_hex(8)}"
    spy.write_text(
        SPY.format(canary=canary, places=f"{tmp_path} /tmp /dev/shm", begun=begun, report=report, docker=real)
    )
    spy.chmod(0o755)
    # The spy's own text holds the secret; it stands for the proof that the search finds one.
    docker = DockerCompose(
        LocalComposeContext(str(scratch), {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    )
    try:
        project = await docker.project(stack_of(made), staged(made, {"api.env": f"KEY={canary}\n"}))
    finally:
        await docker.close()
    assert project.services["api"].environment == {"KEY": canary}
    assert f"/proc/{os.getpid()}/fd/" in (tmp_path / "report.listing").read_text()
    assert set(report.read_text().split()) == {str(spy)}
    assert list(scratch.iterdir()) == []
    assert scratch.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("taken", ["", "open", "another user's", "link", "file"])
async def test_staged_projects_are_laid_out_in_memory_unless_others_can_write_there(
    compose_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(staging, "_MEMORY", str(memory))
    mine = memory / f"reconciler-{os.geteuid()}"
    match taken:
        case "open":
            mine.mkdir()
            mine.chmod(0o770)
        case "another user's" if os.geteuid():
            pytest.skip("only root can give it to another user")
        case "another user's":
            mine.mkdir(mode=0o700)
            os.chown(mine, 65534, -1)
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            mine.symlink_to(tmp_path / "elsewhere")
        case "file":
            mine.touch(mode=0o600)
    context = LocalComposeContext(str(tmp_path / "scratch"), os.environ, in_memory=True)
    made = compose_project("services: {api: {image: x}}", {"api.env": "A=1\n"})
    async with context.farm(str(made.directory), staged(made, {"api.env": "A=2\n"})) as root:
        assert Path(root).parent == (tmp_path / "scratch" if taken else mine)
        assert Path(root).parent.stat().st_mode & 0o777 == 0o700


async def test_what_a_killed_run_left_is_removed_and_what_is_in_use_stays(
    everything: ComposeProject, docker: DockerCompose, tmp_path: Path
) -> None:
    leftover = tmp_path / "scratch" / "leftover"
    leftover.mkdir(parents=True)
    (leftover / "link").symlink_to(everything.directory)
    contents = staged(everything, {"api.env": "KEY=2\n"})
    trials = [docker.project(stack_of(everything), contents) for _ in range(4)]
    assert len({project.services["api"].environment["KEY"] for project in await asyncio.gather(*trials)}) == 1
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (everything.directory / "api.env").read_text() == "KEY=1\nREF=${FROM}\n"


# --- the files Compose reads ---


async def test_every_project_file_is_one_that_compose_reads(everything: ComposeProject, docker: DockerCompose) -> None:
    """Broken in turn, each existing one of them must stop Compose; so must each environment file."""
    stack = stack_of(everything)
    read = await docker.project_files(stack)
    project, environments = read.files, read.environments
    directory = everything.directory
    existing = set(filter(os.path.exists, project))
    unused = "more/home/extended-3.yaml"
    names = {name for name in ("compose.yaml", *EVERY_FILE) if name.endswith(".yaml")} - {unused}
    assert existing == {str(directory / name) for name in names}
    assert environments == {str(directory / name) for name in (".env", "included/.env", "more/1.env", "more/2.env")}
    assert str(directory / "docker-compose.override.yml") in project
    for path in sorted(existing | environments):
        with pytest.raises(ModelRefusedError):
            await docker.project(stack, {path: Secret(b'services: [\nBROKEN="\n')})


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(f'KEY="{CANARY}\n', "a quote is opened and never closed", id="double-quote"),
        pytest.param(f"KEY='{CANARY}\n", "a quote is opened and never closed", id="single-quote"),
        pytest.param(f"A=1\nK/{CANARY}=x\n", "a variable's name has a character that is not allowed", id="character"),
        pytest.param(f"{CANARY} and more\nA=1\n", "the name of a variable holds a space", id="space"),
        pytest.param(f"A=${{{CANARY}\n", "is not valid", id="interpolation"),
        pytest.param(f"A=${{NEEDED:?{CANARY}}}\n", "the variable NEEDED is required and has no value", id="required"),
    ],
)
async def test_refused_env_file_is_named_and_no_value_quoted(
    compose_project: MakeProject, docker: DockerCompose, text: str, words: str
) -> None:
    made = compose_project("services:\n  api: {image: x, env_file: [other.env, api.env]}\n", {"other.env": "A=1\n"})
    made.write("api.env", "A=1\n")
    stack = stack_of(made)
    with pytest.raises(ModelRefusedError) as trial:
        await docker.project(stack, staged(made, {"other.env": "A=1\n", "api.env": text}))
    assert words in str(trial.value)
    assert CANARY not in everything_said(trial.value)
    if "(line " in trial.value.what:
        assert trial.value.where == str(made.directory / "api.env")
    made.write("api.env", text)
    with pytest.raises(ModelRefusedError) as live:
        await docker.project(stack)
    assert words in str(live.value)
    assert CANARY not in everything_said(live.value)


def everything_said(error: BaseException) -> str:
    said, current = [], error
    while current is not None:
        said += [str(current), repr(current), repr(current.__dict__)]
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return " ".join(said)


@pytest.mark.parametrize(
    ("compose", "words"),
    [
        pytest.param("services:\n  api:\n    image: [\n", "the YAML has an error", id="yaml"),
        pytest.param("services:\n  api:\n\timage: x\n", "the YAML has an error (line 3)", id="tab"),
        pytest.param("services: {api: {image: x, nonsense: 1}}", "services.api has a field nonsense", id="field"),
        pytest.param("services: {api: {image: 3}}", "services.api.image must be a string", id="type"),
        pytest.param("services: {api: {image: x, depends_on: [b]}}", "api depends on b, which is not", id="depends"),
        pytest.param("services: {api: {image: x, configs: [c]}}", "api uses the config c, which is not", id="config"),
        pytest.param("services: {api: {image: '${A:?c4n4ry-value}'}}", "the variable A is required", id="required"),
        pytest.param("services: {api: {image: '${A'}}", "the ${…} in services.api.image", id="interpolation"),
        pytest.param("services: {api: {image: x, ports: ['$PORT:1']}}", "a port of a service is not", id="port"),
        pytest.param("services: {api: {image: x, mem_limit: $PORT}}", "mem_limit of service api is invalid", id="size"),
        pytest.param("services: {api: {extends: {service: b}}}", "api extends one that is not defined", id="extends"),
        pytest.param("include: [nope.yaml]", "nope.yaml: Compose cannot resolve the project: the file", id="include"),
        pytest.param("", "the compose file is empty", id="empty"),
    ],
)
async def test_refused_compose_file_is_explained_and_no_value_quoted(
    compose_project: MakeProject, docker: DockerCompose, compose: str, words: str
) -> None:
    made = compose_project(compose, {".env": f"PORT={CANARY}\n"})
    with pytest.raises(ModelRefusedError) as raised:
        await docker.project(stack_of(made))
    assert words in str(raised.value)
    assert CANARY not in everything_said(raised.value)


async def test_profile_without_its_env_file_is_left_out_unless_the_stack_names_it(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """One compose file for several machines: each has the env files of its own profile only."""
    made = compose_project(
        f"services:\n  api:{SLEEPER}    env_file: [api.env]\n  db: {{image: x, env_file: db.env, profiles: [db]}}\n",
        {"api.env": "KEY=1\n"},
    )
    made.up()
    project = await docker.project(stack_of(made))
    assert project.services.keys() == {"api"}
    assert project.unresolved == {"db": f"{made.directory}/db.env: Compose cannot resolve the project: {MISSING}"}
    made.write("api.env", "KEY=2\n")
    await docker.recreate(project, ["api"])
    assert made.environment("api")["KEY"] == "2"
    with pytest.raises(ModelRefusedError):
        await docker.project(stack_of(made, profiles=("db",)))


async def test_compose_file_of_a_directory_above_is_never_taken(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project("services: {api: {image: x}}", {"inner/x.env": ""})
    for directory in (made.directory / "inner", made.directory / "absent"):
        with pytest.raises(EngineUnavailableError) as raised:
            await docker.project(replace(stack_of(made), directory=str(directory)))
        assert raised.value.where == str(directory)
        assert raised.value.hint
    with pytest.raises(EngineUnavailableError, match="directory does not exist"):
        await docker.recreate(Project("x", {}, Invocation(str(made.directory / "absent"))), ["api"])
    with pytest.raises(EngineUnavailableError, match="the compose file is missing"):
        await docker.project(stack_of(made, files=("absent.yaml",)))


async def test_compose_file_may_be_named_by_dotenv(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project("services: {a: {image: x}}", {".env": "COMPOSE_FILE=deploy/b.yaml\n"})
    made.write("deploy/b.yaml", "services: {b: {image: x}}")
    (made.directory / "compose.yaml").unlink()
    assert (await docker.project(stack_of(made))).services.keys() == {"b"}
    assert str(made.directory / "deploy/b.yaml") in (await docker.project_files(stack_of(made))).files


# --- starting services ---


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        pytest.param(
            "    image: reconciler-test/absent:1\n", "the image of a service is not on this server", id="image"
        ),
        pytest.param(
            "    volumes: [{type: bind, source: /nope, target: /x, bind: {create_host_path: false}}]\n",
            "mounts does not exist",
            id="mount",
        ),
        pytest.param(
            "    init: false\n    command: /nope\n", "the command of a service cannot be started", id="command"
        ),
    ],
)
async def test_service_that_cannot_be_started_is_explained(
    compose_project: MakeProject, docker: DockerCompose, extra: str, words: str
) -> None:
    keys = {line.split(":")[0].strip() for line in extra.splitlines()}
    kept = [line for line in SLEEPER.splitlines() if line.split(":")[0].strip() not in keys]
    made = compose_project("services:\n  api:" + "\n".join(kept) + f"\n{extra}    environment: {{KEY: {CANARY}}}\n")
    with pytest.raises(ModelRefusedError) as raised:
        await docker.recreate(project_of(made), ["api"])
    assert words in str(raised.value)
    assert CANARY not in everything_said(raised.value)


async def test_cancelled_recreate_is_finished_first(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  api:{DEAF}    env_file: [x.env]\n", {"x.env": "KEY=1\n"})
    made.up()
    made.write("x.env", "KEY=2\n")
    task = asyncio.create_task(docker.recreate(project_of(made), ["api"]))
    await asyncio.to_thread(eventually, lambda: len(ids(made)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ids(made).keys() == {"api-1"}
    assert made.environment("api")["KEY"] == "2"
    assert made.container("api")["State"]["Running"]


# Takes its whole grace period to stop.
DEAF = SLEEPER.replace("init: true", "stop_signal: TERM").replace(
    "command: sleep 1000", "command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]"
)


def interrupt_up(made: ComposeProject, number: signal.Signals) -> None:
    """Begin an `up`, and end it while the old containers are still stopping, each beside its new one."""
    containers = 2 * len(ids(made))
    argv = ["docker", "compose", "up", "--detach"]
    with subprocess.Popen(argv, cwd=made.directory, start_new_session=True, stderr=subprocess.DEVNULL) as interrupted:
        eventually(lambda: len(ids(made)) == containers)
        os.killpg(interrupted.pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_an_interrupted_compose_left_does_not_stop_the_next_recreate(
    compose_project: MakeProject, docker: DockerCompose, number: signal.Signals
) -> None:
    made = compose_project(f"services:\n  api:{DEAF}    env_file: [x.env]\n", {"x.env": "KEY=1\n"})
    made.up()
    made.write("x.env", "KEY=2\n")
    interrupt_up(made, number)
    assert len(ids(made)) == 2
    await docker.recreate(project_of(made), ["api"])
    assert ids(made).keys() == {"api-1"}
    assert made.environment("api")["KEY"] == "2"


# Stands in for docker on PATH: its `up` meets one leftover after the other, then it is the real one.
STUMBLES = """\
#!/bin/sh
case "$*" in *" up "*)
    echo >> {tries}
    test $(wc -l < {tries}) -gt {times} || {{
        echo 'Error response from daemon: {said}' >&2
        exit 1
    }};;
esac
exec {docker} "$@"
"""
TEMPORARY = 'Conflict. The container name "/0123456789ab_app-b-1" is already in use by container "6ad9eca6".'
REMOVING = "removal of container 6ad9eca6 is already in progress"
GONE = "Error response from daemon: No such container: 0123456789ab"


@pytest.fixture
async def stumbling(tmp_path: Path) -> AsyncIterator[Callable[[int, str], DockerCompose]]:
    made: list[DockerCompose] = []

    def make(times: int, said: str) -> DockerCompose:
        spy = tmp_path / "bin" / "docker"
        spy.parent.mkdir()
        real, tries = shutil.which("docker"), tmp_path / "tries"
        spy.write_text(STUMBLES.format(tries=tries, times=times, said=said, docker=real))
        spy.chmod(0o755)
        path = f"{spy.parent}:{os.environ['PATH']}"
        made.append(DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), {**os.environ, "PATH": path})))
        return made[-1]

    yield make
    for docker in made:
        await docker.close()


@pytest.mark.parametrize("said", [TEMPORARY, REMOVING, GONE])
async def test_an_interrupted_compose_may_have_left_something_of_several_services(
    compose_project: MakeProject, stumbling: Callable[[int, str], DockerCompose], said: str
) -> None:
    made = compose_project(f"services:\n  a:{SLEEPER}\n  b:{SLEEPER}")
    await stumbling(3, said).recreate(project_of(made), ["a", "b"])
    assert ids(made).keys() == {"a-1", "b-1"}


@pytest.mark.parametrize("said", [TEMPORARY, REMOVING, GONE])
async def test_an_engine_that_does_not_get_rid_of_a_container_blames_no_revision(
    compose_project: MakeProject,
    stumbling: Callable[[int, str], DockerCompose],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reconciler.adapters.compose.project._PAUSES", (0.0, 0.1))
    made = compose_project(f"services:\n  a:{SLEEPER}")
    with pytest.raises(EngineUnavailableError, match="still removing a container"):
        await stumbling(99, said).recreate(project_of(made), ["a"])


async def test_container_that_kept_its_temporary_name_gets_its_own_back(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """Newer versions of Compose take such a container for good, and start it as it is."""
    made = compose_project(f"services:\n  api:{SLEEPER}")
    made.up()
    output("docker", "rename", f"{made.name}-api-1", f"0123456789ab_{made.name}-api-1")
    await docker.recreate(project_of(made), ["api"])
    assert ids(made).keys() == {"api-1"}


async def test_two_recreates_of_one_project_take_turns(compose_project: MakeProject, docker: DockerCompose) -> None:
    made = compose_project(f"services:\n  a:{SLEEPER}\n  b:{SLEEPER}")
    made.up()
    before = ids(made)
    await asyncio.gather(*(docker.recreate(project_of(made), ["a", "b"], force=True) for _ in range(2)))
    assert ids(made).keys() == before.keys()
    assert not set(before.values()) & set(ids(made).values())


async def test_list_and_inspect_agree_on_state_health_and_exit_code(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    """It is read from the sentence that `docker ps` shows, so that one call is enough."""
    checked = "    healthcheck: {{test: test {} = yes, interval: 1s, start_period: {}, retries: 1}}\n"
    made = compose_project(
        f"services:\n  plain:{SLEEPER}  well:{SLEEPER}{checked.format('yes', '0s')}"
        f"  ill:{SLEEPER}{checked.format('no', '0s')}  starting:{SLEEPER}{checked.format('no', '1h')}"
        "  failed: {image: IMAGE, network_mode: host, command: [sh, -c, exit 3]}\n"
        f"  killed:{SLEEPER}  halted:{SLEEPER}"
    )
    made.up()
    made.compose("kill", "killed")
    made.compose("pause", "halted")
    expected = {
        "failed": ("exited", "", 3),
        "halted": ("paused", "", 0),
        "ill": ("running", "unhealthy", 0),
        "killed": ("exited", "", 137),
        "plain": ("running", "", 0),
        "starting": ("running", "starting", 0),
        "well": ("running", "healthy", 0),
    }

    def settled() -> bool:
        states = {service: made.container(service)["State"] for service in ("failed", "ill", "well")}
        checks = [states[service]["Health"]["Status"] for service in ("ill", "well")]
        return states["failed"]["Status"] == "exited" and checks == ["unhealthy", "healthy"]

    await asyncio.to_thread(eventually, settled, 30)
    stack = stack_of(made)
    for containers in (await docker.glance(stack), await docker.containers(stack, made.name)):
        assert {
            container.service: (container.state, container.health, container.exit_code) for container in containers
        } == expected


async def test_the_events_say_how_containers_ended(compose_project: MakeProject, docker: DockerCompose) -> None:
    names = ("hung-up", "killed", "removed", "restarted", "stopped")
    made = compose_project(
        "services:\n"
        + "".join(f"  {name}:{SLEEPER}" for name in names)
        + "  done: {image: IMAGE, network_mode: host, command: ['true']}\n"
        + "  failed: {image: IMAGE, network_mode: host, command: [sh, -c, exit 137]}\n"
    )
    made.up()
    by_service = {container.service: container for container in await docker.glance(stack_of(made))}
    container = {service: by_service[service].id for service in by_service}
    output("docker", "kill", container["killed"])
    output("docker", "kill", "-s", "HUP", container["hung-up"])
    output("docker", "rm", "-f", container["removed"])
    output("docker", "restart", "-t", "0", container["restarted"])
    made.compose("stop", "stopped")

    def have_ended() -> bool:
        ended = ("done", "failed", "hung-up", "killed")
        return all(made.container(name)["State"]["Status"] == "exited" for name in ended)

    await asyncio.to_thread(eventually, have_ended, 30)
    known = await docker.endings(container.values())
    assert {service: known[identity].value for service, identity in container.items() if identity in known} == {
        "done": "finished",
        "failed": "died",
        "hung-up": "died",
        "killed": "killed",
        "removed": "killed",
        "stopped": "stopped",
    }
    assert await docker.endings([container["killed"]]) == {container["killed"]: "killed"}

    taken = {by_service["removed"].name, by_service["killed"].name, "nobody-has-this"}
    assert await docker.names_in_use(taken) == {by_service["killed"].name}


async def test_containers_of_compose_run_are_not_the_services(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}")
    made.up()
    made.compose("run", "--detach", "api", "sleep", "1000")
    assert len(ids(made)) == 2
    assert [container.id for container in await docker.containers(stack_of(made), made.name)] == [ids(made)["api-1"]]


# --- no engine, no docker ---

CALLS: list[Callable[[DockerCompose, Stack], Awaitable[object]]] = [
    lambda docker, stack: docker.containers(stack, "x"),
    lambda docker, stack: docker.glance(stack),
    lambda docker, stack: docker.recreate(Project("x", {}, Invocation(stack.directory)), ["api"]),
    lambda docker, stack: docker.restart(Project("x", {}), ["api"]),
    lambda docker, stack: docker.signal(Project("x", {}), "api", "HUP"),
]


@pytest.mark.parametrize("call", CALLS, ids=["containers", "glance", "recreate", "restart", "signal"])
@pytest.mark.parametrize("host", ["unix://{tmp_path}/dead.sock", "tcp://127.0.0.1:1"], ids=["socket", "tcp"])
async def test_engine_that_does_not_answer(
    compose_project: MakeProject, tmp_path: Path, host: str, call: Callable[[DockerCompose, Stack], Awaitable[object]]
) -> None:
    made = compose_project("services: {api: {image: x}}")
    environment = {**os.environ, "DOCKER_HOST": host.format(tmp_path=tmp_path)}
    docker = DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), environment))
    with pytest.raises(EngineUnavailableError, match="the Docker engine does not answer") as raised:
        await call(docker, stack_of(made))
    assert raised.value.retryable
    assert raised.value.hint
    await docker.close()


async def test_an_engine_that_is_ending_does_not_say_that_somebody_stopped_its_containers(
    compose_project: MakeProject, tmp_path: Path
) -> None:
    """It takes no new connection, and stops every container while it still answers on those that it has."""
    made = compose_project(f"services:\n  api:{SLEEPER}")
    made.up()
    socket = tmp_path / "engine.sock"
    socket.symlink_to(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
    docker = DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), environment))
    (api,) = await docker.glance(stack_of(made))
    made.compose("stop")
    assert await docker.endings([api.id]) == {api.id: "stopped"}
    socket.unlink()
    assert await docker.glance(stack_of(made))
    with pytest.raises(EngineUnavailableError, match="does not answer"):
        await docker.endings([api.id])
    await docker.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param(None, "docker is not installed", id="no-docker"),
        pytest.param("echo 'unknown flag: --profile' >&2; exit 125", "docker has no compose command", id="no-plugin"),
        pytest.param("echo '[1, 2]'", "is no JSON", id="nonsense"),
        pytest.param("""echo '{"KEY": "c4n4ry-value"'""", "is no JSON", id="cut-off"),
        pytest.param("echo c4n4ry-value >&2; exit 9", "exit code 9", id="unknown-failure"),
    ],
)
async def test_docker_command_that_does_not_work(
    compose_project: MakeProject, tmp_path: Path, script: str | None, words: str
) -> None:
    made = compose_project("services: {api: {image: x}}")
    programs = tmp_path / "bin"
    programs.mkdir()
    if script is not None:
        (programs / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "docker").chmod(0o755)
    docker = DockerCompose(
        LocalComposeContext(str(tmp_path / "scratch"), {"PATH": str(programs), "HOME": str(tmp_path)})
    )
    with pytest.raises(ReconcilerError, match=words) as raised:
        await docker.project(stack_of(made))
    assert CANARY not in everything_said(raised.value)
    await docker.close()


async def test_a_project_is_not_resolved_while_nobody_can_say_how_it_was_started(
    compose_project: MakeProject, tmp_path: Path
) -> None:
    made = compose_project("services: {api: {image: x}}")
    docker = DockerCompose(
        LocalComposeContext(str(tmp_path / "scratch"), {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/dead.sock"})
    )
    with pytest.raises(EngineUnavailableError):
        await docker.project(stack_of(made))
    assert str(made.directory / "compose.yaml") in (await docker.project_files(stack_of(made))).files
    await docker.close()


# --- health ---


async def watch(docker: DockerCompose, made: ComposeProject, service: str, stable_for: float) -> health.HealthReport:
    """Look every fifth of a second until there is a verdict."""
    stack = stack_of(made, health=HealthPolicy(timeout=20, stable_for=stable_for))
    loop = asyncio.get_running_loop()
    watching = health.watch_health(stack, [service], [], loop.time())
    while True:
        watching, report = watching.look(await docker.containers(stack, made.name), loop.time())
        if report.verdict is not health.Verdict.WAIT:
            return report
        await asyncio.sleep(0.2)


PROBED = "    healthcheck: {{test: '{test}', interval: 1s, retries: 1, start_period: 0s, timeout: 1s}}\n"


@pytest.mark.parametrize(
    ("extra", "stable_for", "healthy", "reason"),
    [
        pytest.param("", 1, True, "api healthy", id="runs"),
        pytest.param(PROBED.format(test="true"), 600, True, "api healthy", id="healthy-ends-the-wait"),
        pytest.param(PROBED.format(test="false"), 600, False, "api is unhealthy", id="unhealthy"),
        pytest.param(
            "    command: sh -c 'sleep 1.3; exit 3'\n", 600, False, "exited with code 3 after 1 s", id="exits"
        ),
        pytest.param("    command: /nope\n", 600, False, "api exited with code 127 immediately", id="cannot-run"),
        pytest.param(
            "    restart: always\n    command: sh -c 'sleep 0.3; exit 4'\n", 600, False, "api ", id="crash-loop"
        ),
    ],
)
async def test_health(
    compose_project: MakeProject, docker: DockerCompose, extra: str, stable_for: float, healthy: bool, reason: str
) -> None:
    """`up --wait` would call the last three a success."""
    base = SLEEPER.replace("    command: sleep 1000\n", "") if "command" in extra else SLEEPER
    made = compose_project(f"services:\n  api:{base}{extra}")
    made.up()
    report = await watch(docker, made, "api", stable_for)
    assert (report.verdict is health.Verdict.HEALTHY) is healthy
    assert reason in report.reason
    assert ("restart" in report.reason) is ("restart" in extra)


async def test_it_is_noticed_when_a_container_turns_healthy_or_ends(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    made = compose_project(f"services:\n  api:{SLEEPER}{PROBED.format(test='test -e /tmp/well')}")
    made.up()
    (container,) = await docker.containers(stack_of(made), made.name)

    async def until(condition: Callable[[Any], bool], noticed: asyncio.Event) -> None:
        noticed.clear()
        while not condition((await docker.containers(stack_of(made), made.name))[0]):
            await asyncio.wait_for(noticed.wait(), 30)
            noticed.clear()

    async with docker.noticing(made) as noticed:
        await until(lambda it: it.health == "unhealthy", noticed)
        await asyncio.to_thread(output, "docker", "exec", container.id, "touch", "/tmp/well")
        await until(lambda it: it.health == "healthy", noticed)
        await asyncio.to_thread(output, "docker", "kill", container.id)
        await until(lambda it: it.state == "exited", noticed)


async def test_crash_after_a_restart_by_hand_is_counted_from_zero(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    base = SLEEPER.replace("command: sleep 1000", "restart: always\n    command: sh -c 'sleep 0.2; exit 4'")
    made = compose_project(f"services:\n  api:{base}")
    made.up()
    await asyncio.to_thread(eventually, lambda: made.container("api")["RestartCount"] >= 2)
    before = await docker.containers(stack_of(made), made.name)
    made.write("compose.yaml", "")
    await docker.restart(Project(made.name, {}), ["api"])
    assert made.container("api")["RestartCount"] < before[0].restarts
    run("docker", "stop", before[0].id)


async def test_variables_of_the_shell_that_started_a_container_are_not_lost_unsaid(
    compose_project: MakeProject, docker: DockerCompose
) -> None:
    text = f"services:\n  api:{SLEEPER}    env_file: api.env\n    environment: ['VERSION=${{VERSION-}}']\n"
    made = compose_project(text, {"api.env": "KEY=1\n"})
    output("docker", "compose", "up", "-d", cwd=made.directory, env={**os.environ, "VERSION": "v2"})
    stack = stack_of(made)
    before = await docker.project(stack)
    managed = managing({str(made.directory / "api.env"): {"KEY"}})
    containers = await docker.containers(stack, before.name)
    assert affected_services.affected(stack, before, before, containers, {}, managed=managed) == ()
    after = await docker.project(stack, staged(made, {"api.env": "KEY=2\n"}))
    actions = affected_services.affected(stack, before, after, containers, {}, managed=managed)
    (problem,) = edited(before, containers, actions, managed)
    assert "VERSION" in problem
    assert "v2" not in problem
    made.up()
    assert edited(before, await docker.containers(stack, before.name), actions, managed) == []
