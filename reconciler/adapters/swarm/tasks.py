"""Reads services and tasks, as the engine's API lists them, into containers: one for each place (slot). Pure.

A task never changes: a new one takes its place, and the old ones of the place stay for a while as its history. So a
container here is the newest task of its place, and what it restarted are the failed ones before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from reconciler.core.fidelity.swarm_service import image_reference
from reconciler.core.model.compose import Container

NAMESPACE_LABEL = "com.docker.stack.namespace"

Json = Mapping[str, Any]

# States of an update that ended without the new definition on every task.
PAUSED = frozenset({"paused", "rollback_paused"})
ROLLED_BACK = frozenset({"rollback_started", "rollback_completed", "rollback_paused"})
_UPDATING = frozenset({"updating", "rollback_started"})
_FAILED = frozenset({"failed", "rejected"})
_ENDED = frozenset({"failed", "rejected", "complete"})
_WAITING = frozenset({"new", "pending", "assigned", "accepted"})
_UNDER_WAY = _WAITING | {"preparing", "ready", "starting"}
_GIVEN_UP = frozenset({"shutdown", "remove", "orphaned"})
_ENDED_WITH_NODE = 255  # the exit code of a container whose engine was restarted without it
_SECOND = len("2026-11-29T10:00:00")
_NANOSECONDS = 1e9
_MONITOR = 5.0  # seconds that Swarm watches each updated task where update_config does not say
_GRACE = 10.0  # seconds that a task may take to stop where it does not say
_START = 5.0  # seconds until a task has been given to a node and started there, and the one before has left the DNS
_RESTART_DELAY = 5.0  # seconds until an ended task is replaced where restart_policy does not say
_INTERVAL, _TIMEOUT, _RETRIES = 30.0, 30.0, 3  # a health check's, where it does not say


def service_name(service: Json) -> str:
    """The name that the compose file has for it."""
    spec = service["Spec"]
    return str(spec["Name"]).removeprefix(f"{spec['Labels'].get(NAMESPACE_LABEL, '')}_")


def containers_of(
    service: Json, tasks: Iterable[Json], nodes: Mapping[str, str], *, ours: bool = False, down: Collection[str] = ()
) -> list[Container]:
    """Given a service, its tasks and the names of nodes by id, return its places.

    A task of another definition than the service's counts as not there yet: it is being updated. ``ours``: the service
    is not as we have deployed it, so an update that Swarm rolled back was ours, and has failed. ``down``: the ids of
    nodes that are; a task runs there only by Swarm's last word of it.
    """
    by_place = _by_place(service, tasks)
    count = wanted(service)
    update = (service.get("UpdateStatus") or {}).get("State", "")
    failure = _failure(service, by_place.values()) if update in PAUSED or (ours and update in ROLLED_BACK) else ""
    allowed = allowed_time(service)
    if update in _UPDATING and _waits_for_a_node(service, by_place.values()):
        update = ""  # what it has still to replace runs on no node: the others are as they will be
    containers: list[Container] = []
    for place, history in sorted(by_place.items()):
        if (task := _newest(history)) is not None:
            number = len(containers) + 1
            containers.append(_container(service, place, number, task, history, nodes, update, failure, allowed, down))
    for number in range(len(containers) + 1, (count or 0) + 1):
        name = f"{service['Spec']['Name']}.{number}"
        missing = Container(name, service_name(service), "pending", number=number, name=name, error="no task is there")
        containers.append(missing)
    return containers


def _waits_for_a_node(service: Json, histories: Iterable[list[Json]]) -> bool:
    """Whether all that an update has still to do is to run tasks that no node can take."""
    newest = [task for history in histories if (task := _newest(history)) is not None]
    stuck = [task for task in newest if task["Status"]["State"] == "pending" and task["Status"].get("Err")]
    rest = [task for task in newest if task not in stuck]
    return bool(stuck) and all(task["Status"]["State"] == "running" and is_current(task, service) for task in rest)


def wanted(service: Json) -> int | None:
    """How many tasks the service is to have; None where that is the number of nodes."""
    mode = service["Spec"].get("Mode") or {}
    if "Replicated" in mode:
        return int((mode["Replicated"] or {}).get("Replicas", 1))
    if "ReplicatedJob" in mode:
        return int((mode["ReplicatedJob"] or {}).get("TotalCompletions", 1))
    return None


def is_job(service: Json) -> bool:
    """Whether the service's tasks are meant to end."""
    return any(mode.endswith("Job") for mode in service["Spec"].get("Mode") or {})


def _is_of_iteration(task: Json, service: Json) -> bool:
    """Whether the task is none of an earlier run of a job: each update of a job runs it again."""
    return task.get("JobIteration") == (service.get("JobStatus") or {}).get("JobIteration")


def _written(service: Json) -> str:
    """When the service got its definition, RFC 3339; "" if it has always had it. Tasks that failed before, when it had
    the same one for a time, say nothing about those that it gets now."""
    started = (service.get("UpdateStatus") or {}).get("StartedAt")
    return str(started or (service["UpdatedAt"] if service.get("PreviousSpec") else ""))


def _by_place(service: Json, tasks: Iterable[Json]) -> dict[str, list[Json]]:
    """Tasks, oldest first, by slot; of a global service by node. Of a job, those of its latest run."""
    places: dict[str, list[Json]] = {}
    by_node = wanted(service) is None
    for task in sorted(tasks, key=lambda task: (task["CreatedAt"], task["Version"]["Index"])):
        if _is_of_iteration(task, service):
            place = task.get("NodeID", "") if by_node else f"{task.get('Slot') or 0:06}"
            places.setdefault(place, []).append(task)
    return places


def _newest(history: list[Json]) -> Json | None:
    """The task that has the place; None where the place was given up. Where an update starts new tasks first, an old
    one may outlive the new one that failed."""
    meant = [task for task in history if task["DesiredState"] not in _GIVEN_UP]
    if meant:
        return meant[-1]
    ended = history[-1]["Status"]["State"] in _ENDED and history[-1]["DesiredState"] != "remove"
    return history[-1] if ended else None


def is_current(task: Json, service: Json) -> bool:
    """Whether the task was made from the service's definition as it is now. Where it may run is no part of a task."""
    template = service["Spec"]["TaskTemplate"]
    return _comparable(task["Spec"]) == _comparable(template)


def _comparable(template: Json) -> dict[str, Any]:
    return {name: value for name, value in template.items() if name not in ("Placement", "Runtime")}


def _container(
    service: Json,
    place: str,
    number: int,
    task: Json,
    history: list[Json],
    nodes: Mapping[str, str],
    update: str,
    failure: str,
    allowed: float,
    down: Collection[str],
) -> Container:
    status, spec = task["Status"], task["Spec"].get("ContainerSpec") or {}
    current = is_current(task, service)
    others = [other for other in history if other is not task and is_current(other, service)]
    since = _written(service)
    failed = [other for other in others if _has_failed(other, history) and other["CreatedAt"] >= since]
    state, health = _state(status["State"], failed, checked=_has_check(spec))
    error = status.get("Err", "") if status["State"] not in ("running", "complete") else ""
    if state == "pending" and not error:
        error = status.get("Message", "") if status.get("Message") != "created" else ""
    last = failed[-1] if failed and state == "restarting" else task
    error = error or (last["Status"].get("Err", "") if last is not task else "")
    if failure:
        state, health, error = "exited", "", failure
    elif task.get("NodeID") in down and status["State"] not in _ENDED:
        state, health, error = "pending", "", f"node {nodes.get(task['NodeID'], task['NodeID'])} is down"
    elif status["State"] in _FAILED and not _has_failed(task, history):
        state = "pending"  # its node took it along
    elif state == "running" and (not current or update in _UPDATING):
        health = "starting"
    elif state == "pending" and not current and update in _UPDATING:
        health = "starting"  # that no node takes it says nothing about the task that the update has yet to give to it
    result = last["Status"].get("ContainerStatus") or {}
    slot = str(int(place)) if place.isdecimal() else place
    return Container(
        id=task["ID"],
        service=service_name(service),
        state=state,
        health=health,
        exit_code=int(result.get("ExitCode") or (1 if state == "exited" and status["State"] != "complete" else 0)),
        restarts=len(failed),
        started_at=task["CreatedAt"],
        finished_at=status.get("Timestamp", ""),
        image=_image(service, spec),
        number=number,
        name=f"{service['Spec']['Name']}.{slot}",
        environment=_variables(spec.get("Env") or ()),
        error=error,
        node=nodes.get(task.get("NodeID", ""), task.get("NodeID", "")),
        allowed=allowed,
        logs=f"docker service logs --tail 50 {service['Spec']['Name']}",
    )


def _state(state: str, failed: Collection[Json], *, checked: bool) -> tuple[str, str]:
    """What a task's state is for a container, and its health."""
    if state == "running":
        # A task with a health check only counts as running once that has succeeded.
        return "running", "healthy" if checked else ""
    if state in _ENDED:
        return "exited", ""
    if failed:
        return "restarting", ""
    return ("pending", "") if state in _WAITING else ("running", "starting")


def _has_failed(task: Json, history: Collection[Json]) -> bool:
    """Whether the task itself failed, given those of its place; not its node, or one that had only just come back."""
    status = task["Status"]
    if status["State"] not in _FAILED or "when swarm is not active" in status.get("Err", ""):
        return False
    if not _ended_with_node(task):
        return True
    if _was_replaced_before(task, history):
        return False
    # A node that restarts before Swarm calls it down leaves nothing but the exit code: once may be that, twice is not.
    alike = [it for it in history if _ended_with_node(it) and _comparable(it["Spec"]) == _comparable(task["Spec"])]
    return sum(not _was_replaced_before(it, history) for it in alike) > 1


def _ended_with_node(task: Json) -> bool:
    return (task["Status"].get("ContainerStatus") or {}).get("ExitCode") == _ENDED_WITH_NODE


def _was_replaced_before(task: Json, history: Iterable[Json]) -> bool:
    """Of a node that was lost, Swarm hears how a task ended when the node is back: long after it has replaced that."""
    ended = task["Status"].get("Timestamp", "")[:_SECOND]
    return any(task["CreatedAt"] < later["CreatedAt"] and later["CreatedAt"][:_SECOND] < ended for later in history)


def lost_update(service: Json, tasks: Iterable[Json], nodes: Mapping[str, str], down: Collection[str]) -> str:
    """Which node's loss has ended an update, or holds it up for ever, as a sentence; "" where that is not so.

    Swarm goes on waiting for the task that it had given to a node, and takes what ends with a node for a failed update.
    """
    tasks, update = list(tasks), service.get("UpdateStatus") or {}
    message, state = update.get("Message", ""), update.get("State", "")
    for history in _by_place(service, tasks).values():
        for task in history:
            blamed = state in PAUSED | ROLLED_BACK and task["ID"] in message
            ended_with_node = task["Status"]["State"] in _FAILED and not _has_failed(task, history)
            waits = state in _UPDATING and task["DesiredState"] == "shutdown" and task["Status"]["State"] in _UNDER_WAY
            node = task.get("NodeID", "")
            if (blamed and (node in down or ended_with_node)) or (waits and node in down and is_current(task, service)):
                name, updated = nodes.get(node, node), service_name(service)
                if _ended_with_node(task) and node not in down:
                    return f"a task of {updated} ended during the update, as when its node {name} restarts (exit 255)"
                return f"node {name} was lost during the update of {updated}"
    return ""


def _has_check(spec: Json) -> bool:
    test = (spec.get("Healthcheck") or {}).get("Test") or []
    return bool(test) and test[0] != "NONE"


def _failure(service: Json, histories: Iterable[Sequence[Json]]) -> str:
    """Why the update of a service has failed: Swarm's own sentence, and the error of the newest task that failed."""
    message = (service.get("UpdateStatus") or {}).get("Message", "")
    errors = [
        (task["Status"].get("Timestamp", ""), _task_error(task))
        for history in histories
        for task in history
        if _has_failed(task, history)
    ]
    return ": ".join(filter(None, [message, max(errors)[1] if errors else ""]))


def _task_error(task: Json) -> str:
    return str(task["Status"].get("Err") or task["Status"].get("Message") or "")


def _image(service: Json, spec: Json) -> str:
    """The reference as the project has it: Swarm puts a digest behind the one that it was given."""
    image, given = str(spec.get("Image", "")), image_reference(service["Spec"]["Labels"])
    return given if given and image.partition("@")[0] == given else image


def _variables(entries: Iterable[str]) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals}


def allowed_time(service: Json) -> float:
    """Seconds that Swarm itself may need until an update of the service is over, if every task becomes healthy; 0 for a
    job, which is not updated in batches, and ends."""
    if is_job(service):
        return 0.0
    template, state = service["Spec"]["TaskTemplate"], (service.get("UpdateStatus") or {}).get("State")
    container = template.get("ContainerSpec") or {}
    update = service["Spec"].get("RollbackConfig" if state in ROLLED_BACK else "UpdateConfig") or {}
    count = wanted(service) or 1
    parallel = int(update.get("Parallelism", 1)) or count
    batches = -(-count // parallel)
    monitor = (update.get("Monitor") or 0) / _NANOSECONDS or _MONITOR
    delay = (update.get("Delay") or 0) / _NANOSECONDS
    stop = _seconds(container.get("StopGracePeriod"), _GRACE) + _START
    # Swarm does not wait for it in an update, but a task that ends with its node comes back after it.
    restart = _seconds((template.get("RestartPolicy") or {}).get("Delay"), _RESTART_DELAY)
    return batches * (stop + _check_time(container.get("Healthcheck") or {}) + monitor + delay) + restart


def _seconds(duration: int | None, default: float) -> float:
    """A duration of the API, where 0 is a value of its own."""
    return default if duration is None else duration / _NANOSECONDS


def _check_time(check: Json) -> float:
    """Seconds until the engine must call a task healthy or unhealthy; 0 without a health check."""
    if (check.get("Test") or ["NONE"])[0] == "NONE":
        return 0.0
    times = {name: (check.get(name) or 0) / _NANOSECONDS for name in ("StartPeriod", "Interval", "Timeout")}
    probe = (times["Interval"] or _INTERVAL) + (times["Timeout"] or _TIMEOUT)
    return times["StartPeriod"] + int(check.get("Retries") or _RETRIES) * probe


def references(service: Json, tasks: Iterable[Json]) -> Iterator[str]:
    """The ids of the configs and secrets that the service refers to, now, before its last update, or by a task that
    has not ended."""
    templates = [(service.get(name) or {}).get("TaskTemplate") for name in ("Spec", "PreviousSpec")]
    templates += [task["Spec"] for task in tasks if task["Status"]["State"] not in (*_ENDED, "shutdown", "remove")]
    for template in filter(None, templates):
        spec = template.get("ContainerSpec") or {}
        yield from (entry["SecretID"] for entry in spec.get("Secrets") or ())
        yield from (entry["ConfigID"] for entry in spec.get("Configs") or ())
