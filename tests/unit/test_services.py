"""Which services a change of files concerns, and what each of them needs: the decisions, without Compose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.decide.affected_services import MountedFiles, affected, stale_keys
from reconciler.core.decide.one_shots import with_one_shots
from reconciler.core.decide.stack_notes import stack_notes
from reconciler.core.model.compose import Action, ActionKind, Container, Invocation, Project, Service, Sight
from reconciler.core.model.targets import ChangeMode, OnChange, Stack
from reconciler.core.secret import Secret
from tests.support.cases import each
from tests.support.fidelity import edited, managing

STACK = Stack("production", "app", "/opt/app", one_shot=frozenset({"migrate"}))
FILE = "/opt/app/api.env"
IMAGE_ENVIRONMENT = {"PATH": "/bin"}
RECREATE = OnChange(ChangeMode.RECREATE)
RESTART = OnChange(ChangeMode.RESTART)
HUP = OnChange(ChangeMode.SIGNAL, "HUP")
USR1 = OnChange(ChangeMode.SIGNAL, "USR1")
NONE = OnChange(ChangeMode.NONE)


def service(
    name: str = "api",
    environment: Mapping[str, str | None] | None = None,
    fields: Mapping[str, Any] | None = None,
    references: Mapping[str, Any] | None = None,
    **more: Any,
) -> Service:
    """A service as Compose resolves it, whose values come from FILE; ``fields`` are its own, ``references`` such as
    {"configs": {…}}."""
    environment = {"KEY": "1"} if environment is None else environment
    definition = {"service": {**(fields or {}), "environment": environment}, **(references or {})}
    return Service(
        name, Secret(json.dumps(definition).encode()), environment, **{"env_files": frozenset({FILE}), **more}
    )


def project(*services: Service) -> Project:
    return Project("app", {service.name: service for service in services})


def container(of: Service | str = "api", **more: Any) -> Container:
    """A running container, made from exactly what the service resolves to."""
    of = service(of) if isinstance(of, str) else of
    values = {key: value for key, value in of.environment.items() if value is not None}
    made = Container(
        id=f"{of.name}-1",
        service=of.name,
        state="running",
        environment={**IMAGE_ENVIRONMENT, **values},
        image_environment=IMAGE_ENVIRONMENT,
    )
    return replace(made, **more)


def decide(
    before: Project | None,
    after: Project,
    containers: list[Container] | None = None,
    changed: Mapping[str, OnChange] | None = None,
    pending_restarts: tuple[Action, ...] = (),
    managed: frozenset[str] | None = None,
) -> tuple[Action, ...]:
    """By default every service has one running container, made from the project before, and every key is managed."""
    made = [container(service) for service in (before or after).services.values()] if containers is None else containers
    keys = {key for container in made for key in container.environment} | {
        key for service in after.services.values() for key in service.environment
    }
    return affected(
        STACK,
        before,
        after,
        made,
        changed or {},
        pending_restarts,
        managed=managing({FILE: keys if managed is None else managed}),
    )


def kinds(actions: tuple[Action, ...]) -> dict[str, ActionKind]:
    return {action.service: action.kind for action in actions}


# --- values and definition ---


def test_nothing_is_done_where_nothing_differs() -> None:
    same = project(service("api"), service("worker"))
    assert decide(same, same) == ()


def test_only_the_service_whose_values_differ_is_recreated() -> None:
    before = project(service("api"), service("worker"))
    after = project(service("api", {"KEY": "2"}), service("worker"))
    assert decide(before, after) == (Action("app", "api", ActionKind.RECREATE, "KEY changed"),)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        pytest.param({"B": "1", "A": "1"}, {"A": "2", "B": "2"}, "A, B changed", id="changed"),
        pytest.param({"A": "1"}, {"A": "1", "B": "2"}, "B added", id="added"),
        pytest.param({"A": "1", "B": "2"}, {"A": "1"}, "B removed", id="removed"),
        pytest.param({"A": "1", "B": "1"}, {"A": "2", "C": "1"}, "A changed; C added; B removed", id="all"),
        pytest.param({"A": None}, {"A": "1"}, "A changed", id="was-unset"),
        pytest.param(
            {f"K{n}": "1" for n in range(9)},
            {f"K{n}": "2" for n in range(9)},
            "K0, K1, K2, K3, K4 and 4 more changed",
            id="many",
        ),
    ],
)
def test_reason_names_keys_and_never_a_value(
    before: dict[str, str | None], after: dict[str, str | None], reason: str
) -> None:
    (action,) = decide(project(service(environment=before)), project(service(environment=after)))
    assert action.reason == reason


@pytest.mark.parametrize(
    ("before", "after", "reason", "force"),
    [
        pytest.param({"fields": {"image": "a:1"}}, {"fields": {"image": "a:2"}}, "its image changed", False, id="own"),
        pytest.param(
            {"references": {"configs": {"motd": {"content": "1"}}}},
            {"references": {"configs": {"motd": {"content": "2"}}}},
            "its config motd changed",
            True,
            id="inline-config",
        ),
        pytest.param(
            {"references": {"secrets": {"token": {"value": "1"}}}},
            {"references": {"secrets": {"token": {"value": "2"}}}},
            "its secret token changed",
            True,
            id="secret-from-a-variable",
        ),
        pytest.param(
            {"environment": {"A": "1"}, "references": {"configs": {"motd": {"content": "1"}}}},
            {"environment": {"A": "2"}, "references": {"configs": {"motd": {"content": "2"}}}},
            "A changed; its config motd changed",
            False,
            id="both",
        ),
    ],
)
def test_difference_beside_the_environment(
    before: dict[str, Any], after: dict[str, Any], reason: str, force: bool
) -> None:
    """Compose notices a difference in the service's own text; anything else must be forced upon it."""
    (action,) = decide(project(service(**before)), project(service(**after)))
    assert (action.kind, action.reason, action.force) == (ActionKind.RECREATE, reason, force)


def test_hand_edit_that_no_container_got_is_reverted_without_a_recreate() -> None:
    edited, good = project(service(environment={"KEY": "edited"})), project(service(environment={"KEY": "good"}))
    assert decide(edited, good, [container(good.services["api"])]) == ()


def test_service_that_git_adds_needs_nothing_before_it_has_a_container() -> None:
    assert decide(project(service("api")), project(service("api"), service("new"))) == ()


# --- stale containers ---


@each(
    ("resolved", "actual", "stale"),
    [
        pytest.param({"A": "1"}, {"A": "1"}, (), id="equal"),
        pytest.param({"A": "2", "B": "2"}, {"A": "1", "B": "1"}, ("A", "B"), id="older-values"),
        pytest.param({"A": "1", "B": "2"}, {"A": "1"}, ("B",), id="never-got-it"),
        pytest.param({"A": "1"}, {"A": "1", "OLD": "x"}, ("OLD",), id="still-has-it"),
        pytest.param({"A": "1", "INHERITED": None}, {"A": "1"}, (), id="unset"),
        pytest.param({"A": "1", "INHERITED": None}, {"A": "1", "INHERITED": "from a shell"}, (), id="unset-here"),
        pytest.param({"PATH": "/opt/bin"}, {"PATH": "/opt/bin"}, (), id="overrides-the-image"),
        pytest.param({}, {"PATH": "/opt/bin"}, ("PATH",), id="no-longer-overrides-the-image"),
        pytest.param({}, {"HTTP_PROXY": "http://p", "no_proxy": "x"}, (), id="proxies-of-the-docker-client"),
        pytest.param({"HTTP_PROXY": "http://q"}, {"HTTP_PROXY": "http://p"}, ("HTTP_PROXY",), id="own-proxy"),
    ],
)
def test_stale_keys(resolved: dict[str, str | None], actual: dict[str, str], stale: tuple[str, ...]) -> None:
    made = container(environment={**IMAGE_ENVIRONMENT, **actual})
    assert stale_keys(service(environment=resolved), [made]) == stale


def test_stale_container_is_recreated_though_no_file_changed() -> None:
    now = project(service(environment={"KEY": "2"}))
    old = container(service(environment={"KEY": "1"}))
    (action,) = decide(now, now, [old])
    assert action == Action("app", "api", ActionKind.RECREATE, "container runs older values of KEY", stale=(FILE,))


def test_one_stale_replica_is_enough() -> None:
    now = project(service(environment={"KEY": "2"}))
    old = container(service(environment={"KEY": "1"}), id="api-2")
    assert kinds(decide(now, now, [container(now.services["api"]), old])) == {"api": ActionKind.RECREATE}


def test_without_a_model_before_containers_are_compared_with_the_model_after() -> None:
    after = project(service("api", {"KEY": "2"}), service("worker"))
    actions = decide(None, after, [container(service("api", {"KEY": "1"})), container(service("worker"))])
    assert kinds(actions) == {"api": ActionKind.RECREATE}


@pytest.mark.parametrize("state", ["exited", "dead"])
def test_container_that_does_not_run_is_not_stale(state: str) -> None:
    now = project(service(environment={"KEY": "2"}))
    assert decide(now, now, [container(state=state, exit_code=1)]) == ()


def test_change_that_meets_stale_containers_says_so() -> None:
    """The containers missed an earlier change as well: more than this revision's keys is wrong with them."""
    before, after = project(service(environment={"KEY": "2"})), project(service(environment={"KEY": "3"}))
    (action,) = decide(before, after, [container(service(environment={"KEY": "1"}))])
    assert (action.reason, action.stale) == ("KEY changed", (FILE,))


# --- who is left alone ---

BEFORE, AFTER = project(service()), project(service(environment={"KEY": "2"}))


@each(
    ("containers", "touched"),
    [
        pytest.param([], False, id="no-container"),
        pytest.param([container(state="created")], False, id="created"),
        pytest.param([container(state="removing")], False, id="removing"),
        pytest.param([container(state="exited", exit_code=0)], False, id="finished"),
        pytest.param([container(state="exited", exit_code=130)], False, id="interrupted"),
        pytest.param([container(state="exited", exit_code=137)], False, id="killed"),
        pytest.param([container(state="exited", exit_code=143)], False, id="terminated"),
        pytest.param([container(state="exited", exit_code=1)], True, id="crashed"),
        pytest.param([container(state="restarting", exit_code=1)], True, id="restarting"),
        pytest.param([container(state="paused")], True, id="paused"),
        pytest.param([container(state="dead")], True, id="dead"),
        pytest.param([container(id="1", state="exited"), container(id="2")], True, id="one-of-two-runs"),
    ],
)
def test_services_stopped_on_purpose_are_not_touched(containers: list[Container], touched: bool) -> None:
    actions = affected(STACK, BEFORE, AFTER, containers, {}, managed=managing({FILE: {"KEY"}}))
    assert kinds(actions) == ({"api": ActionKind.RECREATE} if touched else {})


def test_finished_one_shot_runs_again_for_new_values_only() -> None:
    old, new = service("migrate", {"URL": "1"}), service("migrate", {"URL": "2"})
    done = container(old, state="exited", exit_code=0)
    assert kinds(decide(project(old), project(new), [done])) == {"migrate": ActionKind.RECREATE}
    assert decide(project(new), project(new), [done]) == ()
    assert decide(project(old), project(new), [replace(done, exit_code=143)]) == ()


def test_container_of_a_service_that_is_no_longer_defined_is_not_touched() -> None:
    assert decide(project(service("gone")), project(service("api")), [container("gone")]) == ()


# --- mounted files ---

CONF = "/opt/app/nginx/nginx.conf"


@pytest.mark.parametrize(
    ("source", "user"),
    [
        pytest.param(CONF, True, id="the-file"),
        pytest.param("/opt/app/nginx", True, id="its-directory"),
        pytest.param("/opt", True, id="a-directory-above"),
        pytest.param("/", True, id="the-root"),
        pytest.param("/opt/app/nginx/nginx", False, id="a-prefix-of-its-name"),
        pytest.param("/opt/app/nginx/nginx.conf/x", False, id="below-it"),
        pytest.param("/opt/app/other", False, id="elsewhere"),
    ],
)
def test_file_users(source: str, user: bool) -> None:
    same = project(service(sources=frozenset({source})))
    assert bool(decide(same, same, changed={CONF: RECREATE})) is user


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        pytest.param([RECREATE], (ActionKind.RECREATE, "", True), id="recreate"),
        pytest.param([RESTART], (ActionKind.RESTART, "", False), id="restart"),
        pytest.param([HUP], (ActionKind.SIGNAL, "HUP", False), id="signal"),
        pytest.param([NONE], None, id="none"),
        pytest.param([HUP, RESTART], (ActionKind.RESTART, "", False), id="restart-over-signal"),
        pytest.param([RESTART, RECREATE], (ActionKind.RECREATE, "", True), id="recreate-over-restart"),
        pytest.param([NONE, HUP], (ActionKind.SIGNAL, "HUP", False), id="signal-over-none"),
        pytest.param([HUP, USR1], (ActionKind.RESTART, "", False), id="two-signals-become-a-restart"),
        pytest.param([HUP, HUP], (ActionKind.SIGNAL, "HUP", False), id="the-same-signal-twice"),
    ],
)
def test_on_change_says_what_file_users_need(
    effects: list[OnChange], expected: tuple[ActionKind, str, bool] | None
) -> None:
    paths = [f"/opt/app/conf/{number}" for number in range(len(effects))]
    same = project(service(sources=frozenset({"/opt/app/conf"})))
    actions = decide(same, same, changed=dict(zip(paths, effects, strict=True)))
    assert [(action.kind, action.signal, action.force) for action in actions] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param(CONF, "mounts nginx/nginx.conf", id="below-the-stack"),
        pytest.param("/etc/app/x.conf", "mounts /etc/app/x.conf", id="elsewhere"),
    ],
)
def test_reason_names_the_mounted_file(path: str, reason: str) -> None:
    same = project(service(sources=frozenset({path})))
    (action,) = decide(same, same, changed={path: RESTART})
    assert action.reason == reason


def test_signal_to_a_service_that_does_not_run_becomes_a_restart() -> None:
    same = project(service(sources=frozenset({CONF})))
    crashed = container(state="exited", exit_code=1)
    assert kinds(decide(same, same, [crashed], {CONF: HUP})) == {"api": ActionKind.RESTART}


def test_changed_values_and_a_changed_mount_are_one_recreate_with_both_reasons() -> None:
    sources = frozenset({CONF})
    before, after = (project(service(environment={"KEY": value}, sources=sources)) for value in "12")
    (action,) = decide(before, after, changed={CONF: HUP})
    assert (action.kind, action.reason) == (ActionKind.RECREATE, "KEY changed; mounts nginx/nginx.conf")
    assert (action.signal, action.force) == ("", False)


# --- services that live with others ---


def shares(field: str, owner: str) -> Mapping[str, Any]:
    return {"fields": {field: f"service:{owner}"}, "namespace_of": frozenset({owner})}


@pytest.mark.parametrize(
    ("tie", "on_recreate", "on_restart"),
    [
        pytest.param(
            shares("network_mode", "api"),
            (ActionKind.RECREATE, "shares the network of api"),
            (ActionKind.RESTART, "shares the network of api"),
            id="network",
        ),
        pytest.param(
            shares("ipc", "api"),
            (ActionKind.RECREATE, "shares the IPC namespace of api"),
            (ActionKind.RESTART, "shares the IPC namespace of api"),
            id="ipc",
        ),
        pytest.param(
            shares("pid", "api"),
            (ActionKind.RECREATE, "shares the PID namespace of api"),
            (ActionKind.RESTART, "shares the PID namespace of api"),
            id="pid",
        ),
        pytest.param(
            {"volumes_of": frozenset({"api"})}, (ActionKind.RECREATE, "uses the volumes of api"), None, id="volumes"
        ),
        pytest.param(
            {"restarts_with": frozenset({"api"})},
            (ActionKind.RESTART, "restarts with api"),
            (ActionKind.RESTART, "restarts with api"),
            id="depends-on-restart",
        ),
    ],
)
def test_dependents_follow(
    tie: dict[str, Any], on_recreate: tuple[ActionKind, str] | None, on_restart: tuple[ActionKind, str] | None
) -> None:
    same = project(service("api", sources=frozenset({CONF})), service("side", **tie))
    for effect, expected in ((RECREATE, on_recreate), (RESTART, on_restart), (HUP, None)):
        actions = decide(same, same, changed={CONF: effect})
        followed = [(action.kind, action.reason) for action in actions if action.service == "side"]
        assert followed == ([expected] if expected else [])


def test_dependents_follow_through_others() -> None:
    same = project(
        service("api", sources=frozenset({CONF})),
        service("vpn", **shares("network_mode", "api")),
        service("web", **shares("network_mode", "vpn")),
        service("cron", restarts_with=frozenset({"web"})),
        service("other"),
    )
    assert kinds(decide(same, same, changed={CONF: RECREATE})) == {
        "api": ActionKind.RECREATE,
        "cron": ActionKind.RESTART,
        "vpn": ActionKind.RECREATE,
        "web": ActionKind.RECREATE,
    }


def test_dependent_of_two_is_recreated_if_one_of_them_is() -> None:
    """The second way to it is found after the first, and carries on to those behind it."""
    same = project(
        service("a", sources=frozenset({CONF})),
        service("b", sources=frozenset({"/opt/app/b"})),
        service("c", restarts_with=frozenset({"a"}), **shares("ipc", "b")),
        service("d", **shares("network_mode", "c")),
    )
    actions = kinds(decide(same, same, changed={CONF: RESTART, "/opt/app/b": RECREATE}))
    assert (actions["c"], actions["d"]) == (ActionKind.RECREATE, ActionKind.RECREATE)


def test_services_that_follow_each_other_in_a_circle_end() -> None:
    same = project(
        service("a", sources=frozenset({CONF}), restarts_with=frozenset({"b"})),
        service("b", restarts_with=frozenset({"a"})),
    )
    assert kinds(decide(same, same, changed={CONF: RESTART})) == {"a": ActionKind.RESTART, "b": ActionKind.RESTART}


def test_recreates_of_a_stack_are_forced_together_so_that_no_guest_is_left_behind() -> None:
    """A guest recreated before its owner would keep the owner's old network."""
    before, after = (
        project(service("api", {"KEY": value}), service("a-guest", sources=frozenset({CONF}), **shares("ipc", "api")))
        for value in "12"
    )
    actions = decide(before, after, changed={CONF: RECREATE})
    assert {action.service: action.force for action in actions} == {"a-guest": True, "api": True}


def test_dependent_that_was_stopped_on_purpose_stays_stopped() -> None:
    same = project(service("api", sources=frozenset({CONF})), service("side", **shares("network_mode", "api")))
    containers = [container("api"), container("side", state="exited", exit_code=0)]
    assert kinds(decide(same, same, containers, {CONF: RECREATE})) == {"api": ActionKind.RECREATE}


# --- pending restarts ---


@pytest.mark.parametrize(
    "containers",
    [
        pytest.param([], id="no-container"),
        pytest.param([container(state="created")], id="created"),
        pytest.param([container(state="exited", exit_code=137)], id="stopped-by-compose"),
        pytest.param([container()], id="running"),
    ],
)
def test_pending_action_is_due_in_whatever_state_the_interruption_left_the_service(containers: list[Container]) -> None:
    same = project(service())
    pending_restarts = Action("app", "api", ActionKind.RECREATE, "KEY changed", force=True)
    assert decide(same, same, containers, pending_restarts=(pending_restarts,)) == (pending_restarts,)


def test_pending_and_new_causes_are_one_action_without_repetition() -> None:
    pending_restarts = Action("app", "api", ActionKind.RECREATE, "KEY changed")
    assert decide(BEFORE, AFTER, pending_restarts=(pending_restarts,)) == (pending_restarts,)


def test_pending_action_of_a_service_that_is_gone_is_dropped() -> None:
    same = project(service())
    assert decide(same, same, pending_restarts=(Action("app", "gone", ActionKind.RECREATE, "KEY changed"),)) == ()


def test_actions_come_sorted_by_service() -> None:
    names = ["web", "api", "db"]
    before = project(*(service(name) for name in names))
    after = project(*(service(name, {"KEY": "2"}) for name in names))
    assert [action.service for action in decide(before, after)] == ["api", "db", "web"]


def test_no_value_reaches_an_action() -> None:
    canary = "c4n4ry"
    before = project(service(environment={"KEY": canary, "GONE": canary}, fields={"command": canary}))
    after = project(service(environment={"KEY": f"{canary}2"}, fields={"command": f"{canary}2"}))
    assert canary not in repr(decide(before, after))


# --- what no file of ours explains ---


def test_a_key_that_no_managed_file_holds_makes_no_container_stale() -> None:
    started = container(environment={**IMAGE_ENVIRONMENT, "KEY": "1", "VERSION": "v2"})
    assert decide(project(service()), project(service()), [started], managed=frozenset({"KEY"})) == ()


def recreate(name: str = "api") -> list[Action]:
    return [Action("app", name, ActionKind.RECREATE, "KEY changed")]


def test_values_from_a_shell_that_a_recreate_would_lose_are_named() -> None:
    before = project(service(environment={"KEY": "1", "VERSION": ""}))
    started = container(environment={**IMAGE_ENVIRONMENT, "KEY": "1", "VERSION": "v2"})
    (problem,) = edited(before, [started], recreate(), managing({FILE: {"KEY"}}))
    assert "VERSION" in problem
    assert "v2" not in problem


def test_an_image_that_a_recreate_would_change_is_named() -> None:
    before = project(service(fields={"image": "app:latest"}))
    (problem,) = edited(before, [container(image="app:v2")], recreate(), managing({FILE: {"KEY"}}))
    assert problem == "api: image: the container has app:v2, the project now says app:latest"


@pytest.mark.parametrize(
    ("started", "actions"),
    [
        pytest.param(container(image="app:v1"), recreate(), id="nothing differs"),
        pytest.param(container(image="app:v1", environment={"KEY": "0"}), recreate(), id="only a managed key differs"),
        pytest.param(container(image="app:v2"), recreate("worker"), id="another service is recreated"),
    ],
)
def test_what_a_recreate_does_not_change_is_not_a_problem(started: Container, actions: list[Action]) -> None:
    before = project(service(fields={"image": "app:v1"}), service("worker"))
    assert edited(before, [started], actions, managing({FILE: {"KEY", *IMAGE_ENVIRONMENT}})) == []


# --- which file explains a key, and what is only noted ---


def test_a_key_is_explained_by_a_file_that_compose_reads_only() -> None:
    """Case env-file-1: prod.env is managed and holds the name, and this project does not interpolate with it."""
    before = project(service(environment={"KEY": "", "OWN": "1"}))
    started = container(environment={**IMAGE_ENVIRONMENT, "KEY": "secret", "OWN": "1"})
    managed = managing({FILE: {"OWN"}, "/opt/app/prod.env": {"KEY"}})
    (problem,) = edited(before, [started], recreate(), managed)
    assert "environment: KEY differs, and no managed file that it reads explains that" in problem
    assert affected(STACK, before, before, [started], {}, managed=managed) == ()


def test_a_key_is_explained_by_a_managed_file_that_its_value_is_interpolated_from() -> None:
    interpolated = service(environment={"PASSWORD": "2"}, references={}, env_files=frozenset())
    after = replace(
        project(replace(interpolated, references={"PASSWORD": frozenset({"DB_PASSWORD"})})),
        environments=frozenset({"/opt/app/prod.env"}),
    )
    started = container(environment={**IMAGE_ENVIRONMENT, "PASSWORD": "1"})
    managed = managing({"/opt/app/prod.env": {"DB_PASSWORD"}})
    (action,) = affected(STACK, after, after, [started], {}, managed=managed)
    assert action.reason == "container runs older values of PASSWORD"
    assert edited(after, [started], [action], managed) == []


@pytest.mark.parametrize(
    ("numbers", "before", "after", "scale"),
    [
        pytest.param([1], 1, 1, None, id="as the project says"),
        pytest.param([1, 2, 3], 1, 1, 3, id="scaled by hand"),
        pytest.param([1, 2], 3, 3, 2, id="scaled down by hand"),
        pytest.param([1, 3], 3, 3, None, id="one was removed from between"),
        pytest.param([1, 4], 3, 3, None, id="one was removed after a scale down and up"),
        pytest.param([1, 3, 4], 1, 1, 3, id="one was made again"),
        pytest.param([1, 2, 2], 2, 2, None, id="an interrupted up left two of one number"),
        pytest.param([1, 2], 2, 3, None, id="git scales"),
        pytest.param([1, 2, 3], 2, 4, 3, id="git scales what is scaled by hand"),
    ],
)
def test_the_count_that_runs_is_kept(numbers: list[int], before: int, after: int, scale: int | None) -> None:
    old, new = service(replicas=before), service(environment={"KEY": "2"}, replicas=after)
    containers = [container(id=f"api-{at}", number=number) for at, number in enumerate(numbers)]
    (action,) = decide(project(old), project(new), containers)
    assert action.scale == scale


def test_a_dead_replica_counts_and_a_pending_restart_keeps_its_count() -> None:
    dead = container(number=2, state="exited", exit_code=1)
    (action,) = decide(project(service()), project(service(environment={"KEY": "2"})), [container(number=1), dead])
    assert action.scale == 2
    pending = replace(action, scale=3)
    (again,) = decide(project(service()), project(service()), [container()], pending_restarts=(pending,))
    assert again.scale == 3
    (again,) = decide(project(service()), project(service()), [], pending_restarts=(replace(action, scale=None),))
    assert again.scale is None


def test_what_holds_nothing_is_noted() -> None:
    here = replace(
        project(service(sources=frozenset({"/opt/app/conf"}))),
        environments=frozenset({"/opt/app/.env"}),
        unresolved={"broken": "x.env: the env file does not exist"},
        invocation=Invocation("/opt/app", project="blue"),
    )
    env_files = {path: path for path in (FILE, "/opt/app/.env", "/opt/app/conf/mounted.env", "/opt/app/prod.env")}
    containers = [container(), container("gone"), container("stopped", state="exited"), container("broken")]
    assert stack_notes(STACK, here, containers, env_files, {}) == [
        "stack app: prod.env: no service reads this env file",
        "stack app: gone still runs, and the project has no such service any more. "
        "`docker compose -p blue up -d --remove-orphans` in /opt/app removes it",
        "stack app: left out broken, which Compose cannot resolve: x.env: the env file does not exist",
    ]
    assert stack_notes(STACK, None, containers, env_files, {}) == []


# --- files that are mounted by themselves ---

MOUNTED = "/opt/app/app.conf"


@pytest.mark.parametrize(
    ("source", "effect", "mounts", "kind"),
    [
        pytest.param(MOUNTED, HUP, MountedFiles(replaced=frozenset({MOUNTED})), ActionKind.RESTART, id="signal"),
        pytest.param(
            MOUNTED, OnChange(ChangeMode.NONE), MountedFiles(replaced=frozenset({MOUNTED})), "restart", id="none"
        ),
        pytest.param(MOUNTED, OnChange(), MountedFiles(replaced=frozenset({MOUNTED})), "recreate", id="recreate"),
        pytest.param("/opt/app", HUP, MountedFiles(replaced=frozenset({MOUNTED})), "signal", id="its directory"),
        pytest.param(MOUNTED, HUP, MountedFiles(), "signal", id="written in place"),
        pytest.param(
            MOUNTED, HUP, MountedFiles(sights={"api": {MOUNTED: Sight.SAME}}), "signal", id="in place, has it"
        ),
        pytest.param(
            MOUNTED, HUP, MountedFiles(sights={"api": {MOUNTED: Sight.EQUAL}}), "restart", id="in place, another"
        ),
    ],
)
def test_a_container_that_mounts_a_file_by_itself_gets_the_new_one(
    source: str, effect: OnChange, mounts: MountedFiles, kind: str
) -> None:
    here = project(service(sources=frozenset({source})))
    (action,) = affected(STACK, here, here, [container()], {MOUNTED: effect}, managed={}, mounts=mounts)
    assert action.kind == kind
    assert action.stale == ()


@pytest.mark.parametrize(
    ("sight", "effect", "kind"),
    [
        (Sight.OTHER, HUP, "restart"),
        (Sight.OTHER, OnChange(), "recreate"),
        *((sight, HUP, None) for sight in (Sight.SAME, Sight.EQUAL, Sight.UNKNOWN)),
    ],
)
def test_a_container_that_has_another_file_than_lies_there_is_stale(
    sight: Sight, effect: OnChange, kind: str | None
) -> None:
    here = project(service(sources=frozenset({MOUNTED})))
    mounts = MountedFiles({MOUNTED: effect}, sights={"api": {MOUNTED: sight}})
    actions = affected(STACK, here, here, [container()], {}, managed={}, mounts=mounts)
    assert [(action.kind, action.stale) for action in actions] == ([(kind, (MOUNTED,))] if kind else [])


# --- services that are meant to end ---

COMPLETED = "service_completed_successfully"
ENDED = {"HostConfig": {"RestartPolicy": {"Name": "no"}}, "Config": {}}


def ended(**facts: Any) -> Container:
    """A container of ``init`` that ended with 0; ``facts`` are added to what inspect says of its HostConfig."""
    inspected = {**ENDED, "HostConfig": {**ENDED["HostConfig"], **facts}}
    return container("init", state="exited", exit_code=0, facts=inspected)


@pytest.mark.parametrize(
    ("containers", "depends_on", "one_shot"),
    [
        pytest.param([container("init", state="exited")], {"init": COMPLETED}, True, id="awaited-by-the-project"),
        pytest.param(
            [container("init", state="exited"), container(depends_on={"init": COMPLETED})],
            {},
            True,
            id="awaited-by-a-container",
        ),
        pytest.param([ended()], {}, True, id="ended-by-itself"),
        pytest.param([ended()], {"init": "service_healthy"}, False, id="others-need-it-healthy"),
        pytest.param([ended(RestartPolicy={"Name": "unless-stopped"})], {}, False, id="is-restarted"),
        pytest.param([ended(PortBindings={"80/tcp": []})], {}, False, id="has-ports"),
        pytest.param([ended(), container("init", id="2")], {}, False, id="a-replica-runs"),
        pytest.param([replace(ended(), exit_code=1)], {}, False, id="crashed"),
        pytest.param([container("init", state="exited")], {}, False, id="nothing-is-known"),
    ],
)
def test_a_service_that_is_meant_to_end_is_recognised(
    containers: list[Container], depends_on: dict[str, str], one_shot: bool
) -> None:
    stack = with_one_shots(Stack("production", "app", "/opt/app"), project(service(depends_on=depends_on)), containers)
    assert stack.one_shot == ({"init"} if one_shot else set())
    assert not with_one_shots(STACK, None, [ended()], long_running={"init"}).one_shot - STACK.one_shot
