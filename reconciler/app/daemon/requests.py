"""What an operator can request, by ``kind``: plain JSON in, plain JSON out. Served while nothing is reconciled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reconciler.app.daemon import serialize
from reconciler.app.wiring.server import Runtime
from reconciler.core.errors import RefusedError
from reconciler.core.model.requests import Order, OrderKind
from reconciler.core.model.runs import Outcome
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.adopt import adopt
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Turn, chosen_units, obeyed, take_turn
from reconciler.engine.secret_age import secret_ages
from reconciler.engine.target_revision import accepted_head, target_revision

_OLDER_OR_NEWER = "It is older or newer than the command: restart it"


class Reconcile(Protocol):
    """Reconciles the environments (all, where none is given) and returns the outcome of each."""

    async def __call__(
        self,
        trigger: str,
        *,
        dry_run: bool = False,
        take_over: Sequence[str] = (),
        environments: Sequence[str] = (),
        order: Order | None = None,
    ) -> Sequence[Outcome]: ...


async def serve(built: Runtime, reconcile: Reconcile, request: Mapping[str, Any]) -> Any:
    """Do what is requested and return plain data: names and times, never values. Raises ReconcilerError."""
    match request["kind"]:
        case "sync":
            outcomes = await reconcile(
                "manual", take_over=request["take_over"], environments=request["environments"]
            )
        case "plan":
            order = Order(OrderKind.PLAN, request["revision"]) if request["revision"] else None
            outcomes = await reconcile("plan", dry_run=True, environments=request["environments"], order=order)
        case "restore":
            return await _restore(built, request)
        case "adopt":
            return await _adopt(built, request)
        case "age":
            return await _age(built, request)
        case kind if kind in list(OrderKind):
            fields = {name: request[name] for name in ("revision", "reason", "scope", "seconds") if name in request}
            order = Order(OrderKind(kind), **fields)
            outcomes = await reconcile(kind, environments=[request["environment"]], order=order)
        case _:
            raise RefusedError("this daemon does not know that request", hint=_OLDER_OR_NEWER)
    return [serialize.serialize_outcome(outcome) for outcome in outcomes]


async def serve_without_daemon(built: Runtime, request: Mapping[str, Any]) -> Any:
    """The same where no daemon runs; also ``status``, which a daemon answers from memory. Raises ReconcilerError."""
    if request["kind"] == "status":
        environments = [await _status_of(built, unit) for unit in built.reconcilers]
        return {"daemon": {"running": False, "pid": None}, "environments": environments}

    async def reconcile(
        trigger: str,
        *,
        dry_run: bool = False,
        take_over: Sequence[str] = (),
        environments: Sequence[str] = (),
        order: Order | None = None,
    ) -> Sequence[Outcome]:
        async def make(host: Reconciler, turn: Turn) -> Outcome:
            return await take_turn(host, trigger, turn, dry_run=dry_run, take_over=take_over)

        only = chosen_units(built.reconcilers, environments)
        outcomes: list[Outcome] = []
        for rollout in built.rollouts:
            outcomes += await rollout.run(make, dry_run=dry_run, only=only, order=order)
        return obeyed(outcomes)

    return await serve(built, reconcile, request)


async def _status_of(built: Runtime, unit: str) -> dict[str, Any]:
    reconciler = built.reconcilers[unit]
    outcome = await reconciler.run("status", poll=False, dry_run=True)
    record = built.ports.store.environment(unit)
    status = serialize.serialize_environment(record, outcome, at=built.ports.clock.now())
    return {**status, **await serialize.serialize_services(reconciler)}


async def _adopt(built: Runtime, request: Mapping[str, Any]) -> dict[str, Any]:
    environment = request["target"].partition("/")[0]
    ports = built.ports_of(environment)
    adopted = await adopt(ports, environment, request["target"], request["keys"])
    return serialize.serialize_adopted(adopted, ports.settings.branch)


async def _age(built: Runtime, request: Mapping[str, Any]) -> dict[str, Any]:
    # Ages come from git: they are the same on every host of an environment.
    units = list(built.reconcilers)
    chosen = sorted(chosen_units(units, request["environments"]), key=units.index)
    first = {environment_of(unit): unit for unit in reversed(chosen)}
    ages = [await _age_of(built.ports_of(unit), unit, request["max_age"]) for unit in reversed(first.values())]
    return {"environments": ages}


async def _age_of(ports: Ports, environment: str, max_age: float | None) -> dict[str, Any]:
    head, _ = await accepted_head(ports, environment, poll=False)
    revision, _ = target_revision(ports, environment, head)
    ages = await secret_ages(ports, environment, revision)
    oldest = None if max_age is None else ports.clock.now() - max_age
    return serialize.serialize_ages(environment, revision, ages, oldest)
