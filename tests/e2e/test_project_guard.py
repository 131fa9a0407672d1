"""A recreate changes only what git explains: what the guard of the project holds, refuses and lets through.

Each route by which whoever can merge could become root is a test here: no container may see more of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import lines, output
from tests.support.compose import ComposeProject
from tests.support.json_answers import read_answer
from tests.support.server import ENVIRONMENT, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.docker

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
Start = Callable[..., tuple[Server, ComposeProject]]

COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    command: [sleep, infinity]
    env_file: [api.env]
"""
# What an attacker wants to run: the machine's own files, as root.
EVIL = COMPOSE.replace("    env_file", "    privileged: true\n    volumes: ['/etc:/host']\n    env_file")
SOURCES = {"api.env": b"LEVEL=info\n"}
CHANGED = {"api.env": b"LEVEL=debug\n"}


@pytest.fixture
def start(stack_server: MakeStackServer) -> Start:
    """``start(compose, files={}, sources={}, **stack)``: a server in sync, with its stack up."""

    def make(
        compose: str = COMPOSE,
        files: Mapping[str, str | bytes] | None = None,
        sources: Mapping[str, bytes] = SOURCES,
        **stack: Any,
    ) -> tuple[Server, ComposeProject]:
        server, project = stack_server(compose, files)
        server.commit(sources, server.manifest(list(sources), **stack))
        assert server.sync()["result"] == "applied"
        project.up()
        return server, project

    return make


def has_more(project: ComposeProject) -> bool:
    """Whether the container has what it must never get."""
    facts = project.container("api")
    return bool(facts["HostConfig"]["Privileged"] or facts["Mounts"])


def levels(project: ComposeProject) -> list[str]:
    """LEVEL in each running container."""
    ids = lines("docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project.name}")
    variables = lines("docker", "inspect", "--format", "{{json .Config.Env}}", *ids)
    return [dict(entry.split("=", 1) for entry in json.loads(line))["LEVEL"] for line in variables]


@contextlib.contextmanager
def edited(project: ComposeProject, before: str, after: str) -> Iterator[None]:
    """The compose file has the edit inside the block, and is as before afterwards."""
    path = project.directory / "compose.yaml"
    text = path.read_text()
    edit(project, before, after)
    yield
    path.write_text(text)


def edit(project: ComposeProject, before: str, after: str) -> None:
    path = project.directory / "compose.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def plain_targets(server: Server, files: Mapping[str, bytes]) -> str:
    """Commit a manifest in which the files are ordinary targets of no stack, and nothing else."""
    targets = {name: {"path": str(server.app / name), "encrypted": name == ".env"} for name in files}
    takes = {name: {**target, "on_first_contact": "take_over", "parser": "opaque"} for name, target in targets.items()}
    return server.commit(files, {"targets": takes})


def give_back(server: Server, **stack: Any) -> dict[str, Any]:
    """Put the stack into the manifest again, with a changed variable, and reconcile."""
    server.commit(CHANGED, server.manifest(["api.env"], **stack))
    return server.sync()


# --- what runs is not what the project says now ---


def test_a_project_that_was_edited_since_is_held_and_up_by_hand_clears_it(start: Start) -> None:
    server, project = start()
    edit(project, "infinity", "'1000000'")
    server.commit(CHANGED)
    with server.daemon() as daemon:
        held = eventually(lambda: [event for event in daemon.events() if event.get("result") == "held"])[-1]
        assert "api: command: the container has sleep infinity, the project now says sleep 1000000" in held["reason"]
        assert "up -d` in" in held["reason"]
        assert "reconciler sync --accept-project production/app" in held["reason"]
        assert server.live("api.env") == SOURCES["api.env"]

        project.up()

        eventually(lambda: server.live("api.env") == CHANGED["api.env"])
        eventually(lambda: project.environment("api").get("LEVEL") == "debug")
    assert project.container("api")["Config"]["Cmd"] == ["sleep", "1000000"]


def test_accepting_the_project_takes_the_edit_along_and_says_who_did(start: Start) -> None:
    server, project = start()
    edit(project, "infinity", "'1000000'")
    server.commit(CHANGED)
    held = server.sync()
    assert (held["result"], held["exit_code"]) == ("held", 2)
    assert server.sync()["result"] == "held"  # it is looked at each time, and not remembered as a failure
    unknown = server.cli("sync", "--accept-project", "production/nope")
    assert unknown.returncode == 1
    assert "there is no stack production/nope" in unknown.stdout + unknown.stderr

    done = server.sync("--accept-project", "app")

    assert done["result"] == "applied", done["reason"]
    assert project.container("api")["Config"]["Cmd"] == ["sleep", "1000000"]
    (run, *_) = server.json("history")
    assert f"(uid {os.getuid()})" in run["reason"]
    assert "accepted the project of production/app as it stands (api: command: " in run["reason"]
    a_daemon_records_who_accepted_it_by_what_the_kernel_says(server, project)


def a_daemon_records_who_accepted_it_by_what_the_kernel_says(server: Server, project: ComposeProject) -> None:
    edit(project, "1000000", "2000000")
    server.commit(SOURCES)
    with server.daemon():
        done = server.cli("sync", "--accept-project", "production/app", "--json", environment={"SUDO_USER": "mallory"})
    (outcome,) = read_answer("sync", done.stdout)
    assert outcome["result"] == "applied", outcome["reason"]
    (run, *_) = server.json("history")
    assert f"(uid {os.getuid()})" in run["reason"]
    assert "mallory" not in run["reason"]


NETWORK = "network_mode: host"
EDITS = (
    (NETWORK, f"{NETWORK}\n    privileged: true", "privileged"),
    (NETWORK, "network_mode: none", "network_mode"),
    (NETWORK, f"{NETWORK}\n    mem_limit: 64m", "memory"),
    (NETWORK, f"{NETWORK}\n    user: '1000'", "user"),
    (NETWORK, f"{NETWORK}\n    volumes: ['/etc:/host']", "mounts /host"),
    (NETWORK, f"{NETWORK}\n    labels: {{a: b}}", "labels a"),
    ("env_file", "environment: {EXTRA: s3cr3t}\n    env_file", "environment: EXTRA"),
)


def test_an_edit_is_named_by_service_and_field_without_secrets(start: Start) -> None:
    server, project = start()
    server.commit(CHANGED)
    for before, after, said in EDITS:
        with edited(project, before, after):
            outcome = server.sync()
        assert (outcome["result"], f"api: {said}" in outcome["reason"]) == ("held", True), (said, outcome["reason"])
        assert "s3cr3t" not in outcome["reason"]
        assert not has_more(project), said

    extra = "    labels: {api.token: t0ps3cret}\n    volumes: ['./debug-info:/x']\n"
    command = f"    command: [sleep, '1000', --password, hunter2hunter]\n{extra}"
    with edited(project, "    command: [sleep, infinity]", command):
        reason = server.sync()["reason"]
    assert "--password ***" in reason
    assert "labels api.token" in reason
    for secret in ("hunter2hunter", "t0ps3cret"):
        assert secret not in reason

    # `docker update` changes a container behind Compose's back: a recreate would take that away.
    output("docker", "update", "--restart", "always", project.container("api")["Id"])
    outcome = server.sync()
    assert outcome["result"] == "held"
    assert "restart: the container has always, the project now says nothing" in outcome["reason"]
    output("docker", "update", "--restart", "no", project.container("api")["Id"])
    assert server.sync()["result"] == "applied"


def test_an_edit_of_a_field_that_is_not_compared_is_held_too(start: Start) -> None:
    annotation, limit = "    annotations: {a: b}\n", "    ulimits: {nofile: 1024}\n"
    logging = "    logging: {driver: json-file, options: {max-size: 1m}}\n"
    server, project = start(COMPOSE + annotation + logging + limit)
    server.commit(CHANGED)
    assert server.sync()["result"] == "applied"
    server.commit({"api.env": b"LEVEL=info\nMORE=1\n"})
    assert server.sync()["result"] == "applied"
    server.commit(CHANGED)
    for before, after in (
        (annotation, f"{annotation}    expose: ['9000']\n"),
        (annotation, annotation.replace("b}", "c}")),
        (logging, ""),
        (limit, ""),
    ):
        with edited(project, before, after):
            outcome = server.sync()
        assert outcome["result"] == "held", (after, outcome["reason"])
        assert "api: the project now defines it otherwise than its container, in a field that" in outcome["reason"]
    edit(project, logging, "")
    project.up()
    assert server.sync()["result"] == "applied"


def test_a_network_or_a_name_given_by_hand_is_held_until_it_is_taken_back(start: Start) -> None:
    server, project = start(COMPOSE.replace("    network_mode: host\n", ""))
    name, network = project.container("api")["Name"].lstrip("/"), f"{project.name}_extra"
    server.commit(CHANGED)
    output("docker", "network", "create", "--label", f"com.docker.compose.project={project.name}", network)
    output("docker", "network", "connect", network, name)
    assert f"networks: the container has {network}, the project now says nothing" in server.sync()["reason"]
    output("docker", "network", "disconnect", network, name)
    output("docker", "rename", name, f"{name}-old")
    assert f"container_name: the container has {name}-old, the project now says {name}" in server.sync()["reason"]
    assert server.live("api.env") == SOURCES["api.env"]
    output("docker", "rename", f"{name}-old", name)
    assert server.sync()["result"] == "applied"


def test_another_stack_goes_on_while_one_is_held(start: Start, compose_project: Callable[..., ComposeProject]) -> None:
    server, project = start()
    second = compose_project(COMPOSE.replace("api.env", "web.env"), {"web.env": "A=1\n"})
    server.settings["allowed_paths"] = [str(server.app), str(second.directory)]
    edit(project, "infinity", "'1000000'")
    manifest = server.manifest(["api.env"])
    web = {
        "directory": str(second.directory),
        "health": {"stable_for": "1s"},
        "targets": {"web.env": {"on_first_contact": "take_over"}},
    }
    manifest["stacks"]["web"] = web
    server.commit({**CHANGED, "web.env": b"A=2\n"}, manifest)
    outcome = server.sync()
    assert outcome["result"] == "held"
    assert (second.directory / "web.env").read_bytes() == b"A=2\n"
    assert server.live("api.env") == SOURCES["api.env"]


# --- what git may change ---

INTERPOLATED = """\
services:
  api:
    image: ${REPO:-IMAGE}
    network_mode: host
    stop_grace_period: 0s
    command: [sleep, "${FOR:-infinity}"]
    mem_limit: ${MEMORY:-64m}
    volumes: ["${DATA_DIR:-./data}:/data"]
    environment: {LEVEL: "${LEVEL:-info}"}
"""


def test_variables_change_nothing_of_a_project_but_the_environment_and_what_the_server_names(start: Start) -> None:
    server, project = start(INTERPOLATED, {"data/.keep": ""}, {".env": b"LEVEL=info\n"})
    before = project.container("api")["Id"]
    for line, said in (
        (b"DATA_DIR=/etc\n", "volumes would change"),
        (b"FOR=1000\n", "command would change from sleep infinity to sleep"),
        (b"REPO=evil/busybox:1\n", "image would change"),
        (b"MEMORY=128m\n", "git_may_change: [resources] for production/app"),
    ):
        server.commit({".env": b"LEVEL=info\n" + line})
        outcome = server.sync()
        assert (outcome["result"], outcome["exit_code"]) == ("held", 2), line
        assert said in outcome["reason"]
        assert project.container("api")["Id"] == before, line
        assert server.live(".env") == b"LEVEL=info\n"

    server.commit({".env": b"LEVEL=debug\n"})
    assert server.sync()["result"] == "applied"
    assert project.environment("api")["LEVEL"] == "debug"

    server.settings["stacks"] = {"production/app": {"git_may_change": ["resources"]}}
    server.commit({".env": b"LEVEL=info\nMEMORY=128m\n"})
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert project.container("api")["HostConfig"]["Memory"] == 128 * 1024 * 1024
    server.commit({".env": b"LEVEL=info\nMEMORY=128m\nFOR=1000\n"})
    assert server.sync()["result"] == "held"


def test_a_scale_by_hand_is_no_edit_and_is_kept(start: Start) -> None:
    server, project = start()
    assert project.compose("up", "--detach", "--pull", "never", "--scale", "api=3").returncode == 0
    server.commit(CHANGED)
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert levels(project) == ["debug"] * 3


def test_the_number_of_containers_is_gits_where_the_server_says_so(start: Start) -> None:
    compose = INTERPOLATED + "    scale: ${COUNT:-1}\n"
    source = b"LEVEL=info\nCOUNT=2\n"
    server, project = start(compose, {"data/.keep": "", ".env": source}, {".env": source})
    assert levels(project) == ["info"] * 2
    server.commit({".env": b"LEVEL=info\nCOUNT=3\n"})
    outcome = server.sync()
    assert outcome["result"] == "held"
    assert "git_may_change: [replicas] for production/app" in outcome["reason"]
    server.settings["stacks"] = {"app": {"git_may_change": ["replicas"]}}
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert levels(project) == ["info"] * 3
    server.commit({".env": b"LEVEL=debug\nCOUNT=1\n"})
    assert server.sync()["result"] == "applied"
    assert levels(project) == ["debug"]


# --- a project's .env with control keys of an operator ---


def test_a_control_key_is_not_changed_and_a_change_beside_it_goes_through(stack_server: MakeStackServer) -> None:
    """An operator's `.env` sets COMPOSE_PROFILES; git has the same file."""
    server, project = stack_server(INTERPOLATED, {"data/.keep": "", ".env": "COMPOSE_PROFILES=a\nLEVEL=info\n"})
    server.commit({".env": b"COMPOSE_PROFILES=a\nLEVEL=info\n"}, server.manifest([".env"]))
    assert server.sync()["result"] == "applied"  # its mode
    project.up()
    for desired in (
        b"COMPOSE_PROFILES=a\nCOMPOSE_FILE=compose.yaml\n",  # added
        b"COMPOSE_PROFILES=a,evil\n",  # changed
        b"OTHER=1\n",  # removed
        b"OTHER=a\nCOMPOSE_PROFILES=${OTHER}\n",  # by reference
    ):
        server.commit({".env": b"LEVEL=debug\n" + desired})
        outcome = server.sync()
        assert outcome["result"] == "stalled", (desired, outcome["reason"])
        assert "would change what Compose runs; the server must set allow_compose_files" in outcome["reason"]
        assert project.environment("api")["LEVEL"] == "info"
        assert server.live(".env") == b"COMPOSE_PROFILES=a\nLEVEL=info\n", desired

    for level in ("debug", "error"):  # the second time, reconciler has written the file before
        server.commit({".env": f"LEVEL={level}\n# moved\nCOMPOSE_PROFILES='a'\n".encode()})
        outcome = server.sync()
        assert outcome["result"] == "applied", outcome["reason"]
        assert project.environment("api")["LEVEL"] == level
    (server.app / ".env").write_text("LEVEL=error\n")  # a hand edit of the control key is drift like any other
    assert server.sync()["result"] == "corrected"
    assert server.live(".env") == b"LEVEL=error\n# moved\nCOMPOSE_PROFILES='a'\n"


# --- the routes to root ---


def assert_no_way(server: Server, project: ComposeProject, outcome: Mapping[str, Any]) -> None:
    assert outcome["result"] in ("stalled", "held"), outcome["reason"]
    assert "allow_compose_files" in outcome["reason"]
    assert project.environment("api")["LEVEL"] == "info"
    assert not has_more(project)


PROJECT_FILES = {
    "compose.yaml": EVIL.encode(),
    "compose.override.yaml": b"services: {api: {privileged: true}}\n",
    ".env": b"COMPOSE_FILE=compose.yaml:evil.yaml\n",
}


def test_a_file_is_not_written_while_its_stack_is_out_of_the_manifest(start: Start) -> None:
    server, project = start()
    for name, content in PROJECT_FILES.items():
        plain_targets(server, {name: content, "evil.yaml": b"services: {api: {privileged: true}}\n"})
        outcome = server.sync()
        assert_no_way(server, project, outcome)
        assert outcome["result"] == "stalled", name


def test_what_was_written_before_its_project_was_known_is_never_run(start: Start) -> None:
    """The stack is down when its file is written, so that nothing on the host tells of it."""
    server, project = start()
    project.write("evil.yaml", "services: {api: {privileged: true}}\n")
    project.remove()
    good = (server.app / "compose.yaml").read_bytes()
    for name in ("compose.yaml", "compose.override.yaml"):  # Compose's own names are refused where nothing is known
        plain_targets(server, {name: PROJECT_FILES[name].replace(b"IMAGE", b"reconciler-test/busybox:1")})
        outcome = server.sync()
        assert outcome["result"] == "stalled", name
        assert "would take a file of this name for a project" in outcome["reason"]
        assert (server.app / name).exists() == (name == "compose.yaml")
        assert (server.app / "compose.yaml").read_bytes() == good

    plain_targets(server, {".env": PROJECT_FILES[".env"]})
    outcome = server.sync()
    assert outcome["result"] in ("applied", "held"), outcome["reason"]  # held: api.env has left git
    written = server.live(".env")
    (server.app / ".env").unlink()  # an operator starts what was there before …
    project.up()
    (server.app / ".env").write_bytes(written)  # … and a slip brings the file of git back
    assert_no_way(server, project, give_back(server))


def test_what_programs_of_compose_would_run_is_not_written(start: Start) -> None:
    """Compose passes a project's .env on to the programs it starts: credential helpers, git, buildx."""
    server, project = start(sources={**SOURCES, ".env": b"A=1\n"})
    for line in (b"LD_PRELOAD=/opt/app/evil.so\n", b"GIT_SSH_COMMAND=id\n", b"DOCKER_HOST=tcp://x\n"):
        server.commit({**CHANGED, ".env": b"A=1\n" + line})
        assert_no_way(server, project, server.sync())
        assert server.live(".env") == b"A=1\n", line


def test_nothing_that_git_names_runs_or_is_asked_before_the_guards_refuse_it(start: Start, tmp_path: Path) -> None:
    """Compose fetches what a compose file includes with git, which runs what the project's `.env` names for SSH."""
    server, project = start()
    marker = tmp_path / "ran"
    lure = {
        "env": f"COMPOSE_EXPERIMENTAL_GIT_REMOTE=true\nGIT_SSH_COMMAND='touch {marker};'\n".encode(),
        "yaml": b"include: ['git@127.0.0.1:x.git']\n",
    }
    take = {"encrypted": False, "parser": "opaque", "on_first_contact": "take_over"}
    files = {".env": lure["env"], "compose.yaml": lure["yaml"] + EVIL.encode()}
    server.commit({**CHANGED, **files}, server.manifest({"api.env": None, ".env": None, "compose.yaml": take}))
    assert_no_way(server, project, server.sync())
    assert not marker.exists()

    lone = {name: {"path": str(server.app / name)} for name in ("any.env", "any.yaml")}
    lone["any.yaml"].update(take)
    server.commit({"any.env": lure["env"], "any.yaml": lure["yaml"]}, {"targets": lone})
    assert server.sync()["result"] in ("applied", "held")
    assert server.live("any.yaml") == lure["yaml"]
    project.remove()  # else its containers say that it is started otherwise
    outcome = give_back(server, files=["compose.yaml", "any.yaml"], env_files=["any.env"])
    assert outcome["result"] == "stalled", outcome["reason"]
    assert "what Compose would have to fetch, and git names it" in outcome["reason"]
    assert not marker.exists()


def test_a_project_that_git_has_broken_before_is_not_changed_more(start: Start) -> None:
    """The route of a project that cannot be resolved, so that there is nothing to compare the new one with."""
    compose = INTERPOLATED.replace("${LEVEL:-info}", "${LEVEL:?}")
    server, project = start(compose, {"data/.keep": ""}, {".env": b"LEVEL=info\n"})
    before = project.container("api")["Id"]
    plain_targets(server, {".env": b"OTHER=1\n"})
    assert server.sync()["result"] == "applied"
    assert server.live(".env") == b"OTHER=1\n"
    server.commit({".env": b"OTHER=1\nLEVEL=debug\nDATA_DIR=/etc\n"}, server.manifest([".env"]))
    outcome = server.sync()
    assert outcome["result"] == "held", outcome["reason"]
    assert "mounts /data" in outcome["reason"]
    assert project.container("api")["Id"] == before


def test_an_ordinary_file_never_becomes_a_compose_file(start: Start) -> None:
    """The route of `files:`: a later commit names what an earlier one wrote as an ordinary target."""
    server, project = start()
    targets = {"api.env": None, "extra.yaml": {"encrypted": False, "parser": "opaque"}}
    server.commit({"extra.yaml": b"services: {api: {privileged: true}}\n"}, server.manifest(targets))
    assert server.sync()["result"] == "applied"
    outcome = give_back(server, files=["compose.yaml", "extra.yaml"])
    assert outcome["result"] in ("stalled", "held"), outcome["reason"]
    assert project.environment("api")["LEVEL"] == "info"
    assert not has_more(project)


def test_another_environment_of_the_server_is_no_way_in(start: Start) -> None:
    server, project = start()
    server.settings["environment"] = [ENVIRONMENT, "staging"]
    target = {"path": str(server.app / "compose.yaml"), "encrypted": False, "on_first_contact": "take_over"}
    server.commit({"compose.yaml": EVIL.encode()}, {"targets": {"compose.yaml": target}}, environment="staging")
    server.commit(CHANGED)
    outcomes = server.outcomes()
    assert outcomes["staging"]["result"] == "stalled"
    assert "allow_compose_files" in outcomes["staging"]["reason"]
    assert not has_more(project)


@pytest.mark.parametrize(
    ("first", "added"),
    [
        pytest.param(
            "include: [parts/extra.yaml]\n", "services: {other: {image: IMAGE, privileged: true}}\n", id="include"
        ),
        pytest.param("", "services: {base: {image: IMAGE, privileged: true}}\n", id="extends"),
    ],
)
def test_what_a_project_includes_or_extends_is_not_written(start: Start, first: str, added: str) -> None:
    compose = first + COMPOSE
    if not first:
        compose = compose.replace("    image: IMAGE\n", "    extends: {file: parts/extra.yaml, service: base}\n")
    server, project = start(compose, {"parts/extra.yaml": "services: {base: {image: reconciler-test/busybox:1}}\n"})
    targets = {"api.env": None, "parts/extra.yaml": {"encrypted": False, "on_first_contact": "take_over"}}
    server.commit({"parts/extra.yaml": added.encode()}, server.manifest(targets))
    assert_no_way(server, project, server.sync())


def test_a_link_on_the_way_gives_no_file_a_second_name(start: Start) -> None:
    server, project = start(COMPOSE, {"v1/extra.yaml": "services: {}\n"})
    (server.app / "current").symlink_to("v1")
    edit(project, "services:", "include: [current/extra.yaml]\nservices:")
    targets = {"api.env": None, "v1/extra.yaml": {"encrypted": False, "on_first_contact": "take_over"}}
    server.commit({"v1/extra.yaml": EVIL.encode()}, server.manifest(targets))
    assert_no_way(server, project, server.sync())


def test_letters_case_gives_no_file_a_second_name(start: Start) -> None:
    """As on a file system that does not tell case apart."""
    server, project = start()
    targets = {"api.env": None, "Compose.YAML": {"encrypted": False, "parser": "opaque"}}
    server.commit({"Compose.YAML": EVIL.encode()}, server.manifest(targets))
    assert_no_way(server, project, server.sync())


def test_a_target_that_moves_away_leaves_its_path_known(start: Start) -> None:
    server, project = start()
    target = {"encrypted": False, "parser": "opaque"}
    server.commit(
        {"extra.yaml": b"services: {api: {privileged: true}}\n"},
        server.manifest({"api.env": None, "extra.yaml": target}),
    )
    assert server.sync()["result"] == "applied"
    moved = {"api.env": None, "extra.yaml": {**target, "path": "elsewhere.yaml"}}
    server.commit({}, server.manifest(moved))
    server.sync()
    assert (server.app / "extra.yaml").exists()
    server.commit(CHANGED, server.manifest(moved, files=["compose.yaml", "extra.yaml"]))
    outcome = server.sync()
    assert outcome["result"] in ("stalled", "held")
    assert not has_more(project)


def test_a_project_below_the_stack_is_out_of_reach(start: Start) -> None:
    """The stack's directory is a parent of another project's, which no manifest names."""
    server, project = start()
    inner = ComposeProject("inner", server.app / "inner")
    inner.write("compose.yaml", (server.app / "compose.yaml").read_text().replace("api.env", "../api.env"))
    try:
        inner.up()
        targets = {"api.env": None, "inner/compose.override.yaml": {"encrypted": False}}
        server.commit(
            {"inner/compose.override.yaml": b"services: {api: {privileged: true}}\n"}, server.manifest(targets)
        )
        assert_no_way(server, project, server.sync())
    finally:
        inner.remove()


def test_a_restore_writes_no_project_file(start: Start) -> None:
    """A backup of a file that has become a project's since is no way in either."""
    server, project = start()
    target = {"encrypted": False, "parser": "opaque"}
    manifest = server.manifest({"api.env": None, "extra.yaml": target})
    server.commit({"extra.yaml": b"services: {api: {privileged: true}}\n"}, manifest)
    server.sync()
    server.commit({"extra.yaml": b"services: {}\n"})
    backup = server.sync()["backup"]
    server.commit({}, server.manifest(["api.env"], files=["compose.yaml", "extra.yaml"]))
    server.sync()
    done = server.cli("restore", backup)
    assert done.returncode == 1
    assert "allow_compose_files" in done.stdout + done.stderr
    assert server.live("extra.yaml") == b"services: {}\n"
    assert not has_more(project)


def test_a_rollback_takes_no_edit_along(start: Start, tmp_path: Path) -> None:
    """The project is edited while the new version of a service is watched."""
    compose = COMPOSE.replace(
        "[sleep, infinity]", "[sh, -c, 'case $$LEVEL in bad) sleep 4; exit 1;; esac; exec sleep infinity']"
    )
    server, project = start(compose)
    server.commit(
        {"api.env": b"LEVEL=bad\n"}, server.manifest(["api.env"], health={"timeout": "20s", "stable_for": "8s"})
    )
    with server.daemon(ready=False) as daemon:
        eventually(lambda: project.environment("api").get("LEVEL") == "bad")
        edit(project, "    env_file", "    privileged: true\n    env_file")
        outcome = eventually(lambda: [run for run in daemon.history() if "roll" in run["result"]])[0]
    assert outcome["result"] == "rollback_failed", outcome["reason"]
    assert "privileged" in outcome["reason"]
    assert server.live("api.env") == SOURCES["api.env"]
    assert not has_more(project)
