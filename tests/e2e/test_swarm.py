"""Stacks of a Docker Swarm, on a real Swarm of one node."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.age_key import AgeKey
from tests.support.engine import IMAGE
from tests.support.git_remote import GitRemote
from tests.support.importer import make_importer
from tests.support.registry import private_registry
from tests.support.server import Server
from tests.support.sshd import Sshd
from tests.support.swarm import NAMESPACE, Swarm, single_node_swarm
from tests.support.waiting import eventually

pytestmark = [pytest.mark.swarm, pytest.mark.xdist_group("single-swarm")]

DEPLOY = "deploy: {update_config: *update, restart_policy: {delay: 100ms}}"
# MODE=bad makes the health check fail. Short times, so that a failed update is over soon.
COMPOSE = f"""\
x-update: &update
  order: start-first
  failure_action: rollback
  monitor: 500ms
services:
  api:
    image: {IMAGE}
    env_file: [api.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    healthcheck: {{test: 'test "$$MODE" != bad', interval: 300ms, timeout: 5s, retries: 2}}
    {DEPLOY}
  worker:
    image: {IMAGE}
    env_file: [worker.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    {DEPLOY}
"""


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with single_node_swarm() as made:
        yield made


@pytest.fixture
def swarm_server(
    swarm: Swarm,
    tmp_path: Path,
    git_remote: Callable[..., GitRemote],
    age_key: AgeKey,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[Server, str]]]:
    """``swarm_server(compose, files)`` is the manager of a Swarm with the stack deployed by hand, and its name."""
    monkeypatch.setenv("DOCKER_HOST", swarm.host)
    stacks: list[str] = []

    def make(compose: str, files: dict[str, bytes]) -> tuple[Server, str]:
        name = f"rct{secrets.token_hex(4)}"
        app = tmp_path / name
        app.mkdir()
        for path, data in {"compose.yaml": compose.encode(), **files}.items():
            (app / path).write_bytes(data)
            (app / path).chmod(0o600)
        server = Server(tmp_path, app, git_remote(), age_key, forked=True)
        server.settings["swarm_manager"] = True
        stacks.append(name)
        swarm.deploy(app, name)
        return server, name

    yield make
    for stack in stacks:
        swarm.remove(stack)


FILES = {"api.env": b"MODE=good\nA=1\n", "worker.env": b"W=1\n"}
# Nobody but its user may read the files that it binds.
MOUNTING = f"""\
services:
  web:
    image: {IMAGE}
    user: "1000:1000"
    command:
      - sh
      - -c
      - 'cat /app.conf /run/secrets/token /etc/web.conf /etc/key; stat -c "%u %g %a" /etc/web.conf /etc/key; sleep 9999'
    stop_grace_period: 0s
    configs: [app.conf]
    secrets: [token]
    volumes: ["./web.conf:/etc/web.conf:ro", "./key:/etc/key:ro"]
    deploy: {{update_config: {{monitor: 500ms}}}}
configs: {{app.conf: {{file: ./app.conf, template_driver: golang}}}}
secrets: {{token: {{file: ./token}}}}
"""


def names(swarm: Swarm, kind: str, stack: str) -> set[str]:
    listed = swarm.docker(kind, "ls", "--format", "{{.Name}}", "--filter", f"label={NAMESPACE}={stack}")
    return {name for name in listed.split() if "_" in name.removeprefix(f"{stack}_")}


def mounted(swarm: Swarm, service: str) -> str:
    """What the service's task reads of its files."""
    listed = swarm.docker("ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={service}")
    return swarm.docker("logs", listed.split()[0]) if listed.split() else ""


def test_what_somebody_changes_in_a_service_by_hand_is_noticed_named_and_repaired(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    server, name = swarm_server(COMPOSE, FILES)
    server.commit(FILES, server.manifest(["api.env", "worker.env"], kind="swarm", project=name))
    assert server.sync()["result"] == "in_sync"
    server.commit({"api.env": b"MODE=good\nA=2\n", "worker.env": b"W=2\n"})
    first = server.sync()
    assert first["result"] == "applied", first["reason"]
    api, worker = f"{name}_api", f"{name}_worker"

    with server.daemon() as daemon:
        swarm.docker("service", "update", "--detach", "--env-add", "A=9", "--env-add", "EXTRA=s3cr3t", api)
        began = time.monotonic()  # git is polled, and files are looked at, every ten minutes: only events come sooner
        eventually(lambda: "EXTRA" in daemon.log.read_text() or swarm.environment(api)["A"] == "2", timeout=60)
        print(f"a hand edit was acted upon {time.monotonic() - began:.2f} s later")
        eventually(lambda: swarm.environment(api) == {"MODE": "good", "A": "2"}, timeout=60)
        swarm.docker("service", "rm", worker)
        eventually(lambda: swarm.service(worker) and swarm.environment(worker) == {"W": "2"}, timeout=60)
        corrected = [event for event in daemon.events() if event.get("result") == "corrected"]
        eventually(lambda: [event for event in daemon.events() if event.get("result") == "corrected"][1:], timeout=60)
        text = daemon.log.read_text()
        assert "EXTRA" in text, corrected
        assert "somebody removed it" in text
        assert "s3cr3t" not in text

    swarm.docker("service", "scale", "--detach", f"{worker}=0")
    scaled = server.sync()
    assert scaled["result"] == "in_sync", scaled
    assert "worker is scaled to 0 by hand, the project says 1" in str(server.json("plan")), server.json("plan")
    server.commit({"worker.env": b"W=3\n"})
    assert server.sync()["result"] == "applied"
    assert swarm.service(worker)["Spec"]["Mode"]["Replicated"]["Replicas"] == 0
    start = re.search(r"`docker (service scale \S+)` starts it", server.cli("status").stdout)
    assert start
    swarm.docker(*start[1].split())
    assert (swarm.environment(worker), len(swarm.tasks(worker))) == ({"W": "3"}, 1)

    server.commit({}, server.manifest(["api.env", "worker.env"], kind="swarm", project=name, on_drift="report"))
    swarm.docker("service", "update", "--detach", "--env-add", "A=9", api)
    reported = server.sync()
    assert (reported["result"], swarm.environment(api)["A"]) == ("held", "9"), reported
    assert reported["reason"].endswith("app/api: A was changed by hand; on_drift is report")


def test_files_come_as_configs_and_secrets_that_are_replaced_with_their_content(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    files = {"app.conf": b"{{.Task.Slot}} conf-1\n", "token": b"token-1\n", "web.conf": b"web-1\n", "key": b"key\n"}
    server, name = swarm_server(MOUNTING, files)
    private = {"owner": "1000", "group": "1000", "mode": "0600"}
    targets = {
        "app.conf": {"encrypted": False},
        "web.conf": {"encrypted": False, **private},
        "token.bin": {"path": "token"},
        "key.bin": {"path": "key", **private},
    }

    def commit(generation: int, token: bytes = b"") -> None:
        content = {kind: f"{kind}-{generation}\n".encode() for kind in ("conf", "token", "web")}
        server.remote.commit(
            {
                "envs/production/environment.yaml": yaml.safe_dump(
                    server.manifest(targets, kind="swarm", project=name)
                ).encode(),
                "envs/production/app.conf": b"{{.Task.Slot}} " + content["conf"],
                "envs/production/web.conf": content["web"],
                "envs/production/token.bin": server.key.encrypt("token.bin", token or content["token"], "binary"),
                "envs/production/key.bin": server.key.encrypt("key.bin", b"key\n", "binary"),
            },
            "Change",
        )

    commit(1)
    first = server.sync("--accept-project", "production/app")
    commit(2)
    second = server.sync("--accept-project", "production/app")
    assert second["result"] == "applied", (first, second)
    expected = "1 conf-2\ntoken-2\nweb-2\nkey\n1000 1000 600\n1000 1000 600\n"
    eventually(lambda: mounted(swarm, f"{name}_web") == expected, timeout=30)
    spec = swarm.service(f"{name}_web")["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert "Mounts" not in spec
    commit(3)
    assert server.sync()["result"] == "applied"
    assert len(names(swarm, "config", name)) == 4, "the generation before stays"
    commit(4)
    assert server.sync()["result"] == "applied"
    assert (len(names(swarm, "config", name)), len(names(swarm, "secret", name))) == (4, 3)
    commit(5, bytes(512_000))  # what the engine itself does not take
    refused = server.sync()
    assert (refused["result"], server.live("web.conf")) == ("stalled", b"web-4\n")
    assert "the secret token has 512000 bytes, and a Swarm takes 1 to 511999" in refused["reason"]


def test_what_no_node_can_run_is_told_with_the_schedulers_reason_and_without_a_manager_nothing_is_written(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    needs = "      resources: {reservations: {memory: '${MEMORY:-8M}'}}\n"
    server, name = swarm_server(COMPOSE.replace(DEPLOY, f"deploy:\n      update_config: *update\n{needs}"), FILES)
    server.settings["stacks"] = {"app": {"git_may_change": ["resources"]}}
    targets = {**dict.fromkeys(FILES), "memory.env": {"path": ".env"}}
    manifest = server.manifest(targets, kind="swarm", project=name, health={"timeout": "4s", "stable_for": "1s"})
    server.commit({**FILES, "memory.env": b"MEMORY=8M\n"}, manifest)
    assert server.sync()["result"] == "applied"
    before = {service: swarm.tasks(f"{name}_{service}") for service in ("api", "worker")}

    server.commit({"memory.env": b"MEMORY=900G\n"})
    stuck = server.sync()
    assert stuck["result"] == "rolled_back", stuck
    assert "no suitable node (insufficient resources on 1 node)" in stuck["reason"]
    assert server.live(".env") == b"MEMORY=8M\n"
    assert {service: swarm.tasks(f"{name}_{service}") for service in before} == before

    (server.app / "api.env").write_bytes(b"MODE=good\nA=hand\n")
    swarm.docker("swarm", "leave", "--force")
    try:
        lost = server.sync()
    finally:
        swarm.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    assert (lost["result"], lost["error_id"]) == ("failed", "swarm-unavailable"), lost
    assert "not a Swarm manager" in lost["reason"]
    assert server.live("api.env") == b"MODE=good\nA=hand\n", "a hand edit waits too"


def test_a_key_reaches_only_the_service_that_reads_it_and_an_unhealthy_one_is_rolled_back(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    server, name = swarm_server(COMPOSE, FILES)
    server.settings["rollback"] = {"git": "push"}
    server.commit(FILES, server.manifest(["api.env", "worker.env"], kind="swarm", project=name))
    first = server.sync()
    assert (first["result"], first["exit_code"]) == ("in_sync", 0), first
    worker = swarm.tasks(f"{name}_worker")

    server.commit({"api.env": b"MODE=good\nA=2\n"})
    applied = server.sync()
    assert applied["result"] == "applied", applied
    assert swarm.environment(f"{name}_api")["A"] == "2"
    assert swarm.tasks(f"{name}_worker") == worker

    server.commit({"api.env": b"MODE=good\nA=3\n"})
    interrupted = server.start("sync")
    eventually(lambda: swarm.environment(f"{name}_api")["A"] == "3", timeout=60)
    interrupted.kill()
    interrupted.wait()
    resumed = server.sync()
    assert resumed["result"] == "applied", resumed
    previous = swarm.service(f"{name}_api")["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"]
    assert "A=2" in previous, "what Swarm itself would roll back to"

    server.commit({"api.env": b"MODE=bad\nA=4\n"})
    failed = server.sync()
    assert failed["result"] == "rolled_back", failed
    assert server.live("api.env") == b"MODE=good\nA=3\n"
    assert swarm.environment(f"{name}_api") == {"MODE": "good", "A": "3"}
    assert "Reconciler-Rollback-Of" in server.remote.git("log", "-1", "main")
    assert swarm.tasks(f"{name}_worker") == worker
    assert server.sync()["result"] == "in_sync"


OTHER_MODES = f"""\
  agent:
    image: {IMAGE}
    command: [sleep, infinity]
    stop_grace_period: 0s
    deploy: {{mode: global}}
  migrate:
    image: {IMAGE}
    command: ["true"]
    deploy: {{mode: replicated-job, restart_policy: {{condition: none}}}}
"""


def test_a_stack_is_imported_as_one_of_a_swarm_and_compared_with_its_replicas(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", swarm.host)
    importer = make_importer(tmp_path / "importer")
    for path in importer.stack.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = {"api.env": "MODE=good\nTOKEN=invented-s3cr3t\n", "worker.env": "W=1\n"}
    compose = f"{COMPOSE}{OTHER_MODES}"
    importer.write({"compose.yaml": compose, **files})
    name = f"rct{secrets.token_hex(4)}"  # not as the directory is called: its services tell
    swarm.deploy(importer.stack, name)
    try:
        eventually(lambda: len(swarm.tasks(f"{name}_api")) == 1, timeout=30)
        refused = importer.refused("here:", "--yes")
        assert f"Swarm runs {name}, and does not keep where the compose files are" in refused
        done = importer.imports()
        assert (done["exit_code"], done["verification"]["problems"]) == (0, []), done
        assert done["verification"]["planned"], "the real plan was made, of the Swarm"
        assert done["verification"]["empty"] == done["verification"]["planned"], done["verification"]
        ((_, stack),) = importer.manifest()["stacks"].items()
        assert (stack["kind"], stack["project"], set(stack["targets"])) == ("swarm", name, set(files))
        assert importer.decrypted("api.env") == files["api.env"].encode()

        other = tmp_path / "other"
        importer.write({"compose.yaml": compose, **files}, directory=other)
        sides = f"container:{name}/api", f"file:{other}/api.env"
        apart = importer.reconciler("compare", *sides, "--same-environment").stdout
        assert "nothing unexplained\n  Explained: 2 same" in apart, apart
        swarm.docker("service", "update", "--detach", "--replicas", "2", "--env-add", "TOKEN=by-hand-9", f"{name}_api")
        eventually(lambda: swarm.environment(f"{name}_api")["TOKEN"] == "by-hand-9", timeout=30)
        # Until the update has a task that runs, the service has no variables.
        apart = eventually(lambda: importer.reconciler("compare", *sides, "--same-environment").stdout, timeout=30)
        assert "TOKEN" in apart, apart
        assert "by-hand-9" not in apart
        (other / "compose.yaml").write_text(f"{compose}  more:\n    image: {IMAGE}\n")  # is no longer this stack
        both = importer.reconciler("compare", f"file:{importer.stack}", f"file:{other}", "--same-environment", "--json")
        services = json.loads(both.stdout)["comparisons"][0]["services"]
        facts = {(each["service"], fact["name"]): fact for each in services for fact in each["facts"]}
        assert facts["migrate", "state"]["class"] != "failed", facts["migrate", "state"]
        assert facts["agent", "state"]["left"] == "running", facts["agent", "state"]
        assert (facts["api", "container"]["left"], facts["api", "container"]["right"]) == ("yes", "missing"), facts
        assert "s3cr3t" not in both.stdout
        assert "by-hand-9" not in both.stdout
    finally:
        swarm.remove(name)


EACH_MODE = f"""\
services:
  agent:
    image: {IMAGE}
    env_file: [agent.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    deploy: {{mode: global, update_config: {{monitor: 500ms}}}}
  migrate:
    image: {IMAGE}
    env_file: [job.env]
    command: [sh, -c, 'exit $$CODE']
    deploy: {{mode: replicated-job, replicas: 2, restart_policy: {{condition: none}}}}
  sweep:
    image: {IMAGE}
    env_file: [job.env]
    command: [sh, -c, 'exit $$CODE']
    deploy: {{mode: global-job, restart_policy: {{condition: none}}}}
"""


def test_a_global_service_is_updated_and_jobs_run_again_with_each_change(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    files = {"agent.env": b"V=1\n", "job.env": b"V=1\nCODE=0\n"}
    server, name = swarm_server(EACH_MODE, files)
    server.commit(files, server.manifest(list(files), kind="swarm", project=name))
    assert server.sync()["result"] == "in_sync"
    server.commit({"agent.env": b"V=2\n", "job.env": b"V=2\nCODE=0\n"})
    applied = server.sync()
    assert applied["result"] == "applied", applied
    values = [swarm.environment(f"{name}_{service}")["V"] for service in ("agent", "migrate", "sweep")]
    assert values == ["2", "2", "2"]
    tasks = swarm.docker("service", "ps", "--format", "{{.CurrentState}}", f"{name}_migrate", f"{name}_sweep")
    assert tasks.count("Complete") == len(tasks.splitlines()) >= 3, tasks
    assert server.sync()["result"] == "in_sync"

    server.commit({"job.env": b"V=3\nCODE=3\n"})
    failed = server.sync()
    assert (failed["result"], server.live("job.env")) == ("rolled_back", b"V=2\nCODE=0\n"), failed
    assert "task: non-zero exit (3)" in failed["reason"]

    (server.app / "compose.yaml").write_text(EACH_MODE.replace("mode: global,", "mode: replicated,"))
    server.commit({"agent.env": b"V=3\n", "job.env": b"V=2\nCODE=0\n"})
    held = server.sync("--accept-project", "production/app")
    assert (held["result"], server.live("agent.env")) == ("held", b"V=2\n"), held
    remove = re.search(r"`docker (service rm \S+)`, then `reconciler sync` creates it again", held["reason"])
    assert remove, held
    swarm.docker(*remove[1].split())
    assert server.sync()["result"] == "applied"
    assert swarm.service(f"{name}_agent")["Spec"]["Mode"] == {"Replicated": {"Replicas": 1}}


PULLED = """\
services:
  api:
    image: REGISTRY/app:${TAG:-1}
    env_file: [api.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    healthcheck: {test: 'test "$$MODE" != bad', interval: 300ms, timeout: 5s, retries: 2}
    deploy: {update_config: {monitor: 500ms}, restart_policy: {delay: 100ms}}
"""


def test_a_login_reaches_the_nodes_and_a_rollback_runs_the_image_from_before_although_its_tag_moved(
    swarm: Swarm,
    swarm_server: Callable[..., tuple[Server, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with private_registry(swarm.namespace) as registry:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_bytes(registry.docker_config)

        def push(tag: str, image: str) -> None:
            """Have the image in the registry by that tag, and not on the node."""
            name = f"{registry.host}/app:{tag}"
            swarm.docker("tag", image, name)
            swarm.docker("--config", str(tmp_path / "docker"), "push", name)
            swarm.docker("image", "rm", name)

        for tag in ("1", "2", "3"):
            push(tag, IMAGE)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        files = {"api.env": b"MODE=good\n", ".env": b"TAG=1\n"}
        server, name = swarm_server(PULLED.replace("REGISTRY", registry.host), files)
        server.settings["stacks"] = {"app": {"git_may_change": ["image_tag"]}}
        manifest = server.manifest({"api.env": None, "tag.env": {"path": ".env"}}, kind="swarm", project=name)
        server.commit({"api.env": files["api.env"], "tag.env": files[".env"]}, manifest)
        assert server.sync()["result"] == "in_sync"
        server.commit({"tag.env": b"TAG=2\n"})
        applied = server.sync()
        assert applied["result"] == "applied", applied

        def image() -> str:
            return str(swarm.service(f"{name}_api")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])

        second = image()
        assert second.startswith(f"{registry.host}/app:2@sha256:")
        push("2", swarm.docker("build", "--quiet", "-", stdin=f"FROM {IMAGE}\nLABEL another=one\n".encode()).strip())
        server.commit({"api.env": b"MODE=bad\n", "tag.env": b"TAG=3\n"})
        failed = server.sync()
        assert (failed["result"], image()) == ("rolled_back", second), failed


@pytest.mark.sshd
def test_the_manager_may_be_a_host_that_is_reached_over_ssh(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]], sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, name = swarm_server(COMPOSE, FILES)
    login = ("--config", str(sshd.directory / "home" / ".docker"), "context")
    swarm.docker(*login, "create", "swarm", "--docker", f"host={swarm.host}")
    swarm.docker(*login, "use", "swarm")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    manager = sshd.as_host(docker_socket=swarm.host.removeprefix("unix://"))
    server.settings |= {"local": False, "hosts": {"web-1": manager}, "swarm_manager": False}
    manifest = server.manifest(["api.env", "worker.env"], kind="swarm", project=name, hosts=["web-1"])
    server.commit(FILES, manifest)
    refused = server.sync()
    assert "does not say that web-1 is a manager" in refused["reason"], refused

    manager["swarm_manager"] = True
    assert server.sync()["result"] == "in_sync"
    server.commit({"api.env": b"MODE=good\nA=2\n"})
    applied = server.sync()
    assert applied["result"] == "applied", applied
    api = f"{name}_api"
    assert swarm.environment(api) == {"MODE": "good", "A": "2"}
    swarm.docker("service", "update", "--detach", "--env-add", "A=9", api)
    corrected = server.sync()
    assert (corrected["result"], swarm.environment(api)["A"]) == ("corrected", "2"), corrected
