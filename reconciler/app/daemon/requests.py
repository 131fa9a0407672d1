"""What an operator can request, by ``kind``: plain JSON in, plain JSON out. Served while nothing is reconciled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from reconciler.app.daemon.answers import serialize
from reconciler.app.daemon.client import Progress, Request
from reconciler.app.wiring.server import Runtime
from reconciler.core.errors import RefusedError
from reconciler.core.history.entries import run_facts_of
from reconciler.core.model.requests import GitAnswer, OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.runs import Activity, Outcome, RunOrigin
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.core.ports.store import Store
from reconciler.engine.backup import find_backup
from reconciler.engine.restore import restore_backup
from reconciler.engine.rollout import select_units, without_needless_refusals
from reconciler.engine.secret_age import secret_ages
from reconciler.engine.target_revision import accepted_head, ask_git, target_revision

Reconcile = Callable[[ReconcileRequest, Collection[str]], Awaitable[tuple[Outcome, ...]]]
"""Reconciles some environments (all, where none is given), and returns the outcome of each."""


Turn = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Does work while no reconciliation runs, and returns what it returns."""

# What follows the branch waits for git first. What may be urgent, a pause or a rollback, does not.
_ASK_GIT = ("sync", "plan", "adopt", "retry", "resume", "unpin", "accept-rewrite", "forget")

_MOST_AFTER_FORGET = 4  # entries of the history: its own, and those of the reconciliation after it
_TARGET_FORM = "A target is ENVIRONMENT/SOURCE, as `reconciler status` lists it"
_STACK_FORM = "A stack is ENVIRONMENT/NAME, as `reconciler status` lists it"


async def serve(built: Runtime, reconcile: Reconcile, request: Request, turn: Turn, progress: Progress) -> Any:
    """Do what is requested and return plain data: names and times, never values. Raises ReconcilerError.

    Git is asked, and pushed to, outside of ``turn``: if it does not answer, no reconciliation waits for it.
    """
    kind, request = request["kind"], resolve_names(built.reconcilers, request)
    asking = replace(built.ports, progress=progress, activity=Activity())  # no step of the loop's
    answer = await ask_git(asking, built.reconcilers) if kind in _ASK_GIT else None
    match kind:
        case "restore":
            return await turn(lambda: _restore(built, request))
        case "adopt":
            assert answer is not None
            return await _adopt(built, request, answer, turn, progress)
        case "age":
            return await turn(lambda: _age(built, request))
    unreachable = answer is not None and answer.error is not None
    prepared = replace(_reconcile_request(request), answer=answer, revert=not unreachable)
    outcomes = await turn(lambda: reconcile(prepared, request["environments"]))
    return [_answer(built, request, outcome) for outcome in outcomes]


def resolve_names(units: Collection[str], request: Request) -> Request:
    """The request with every environment that it concerns; ``units`` are this server's environments, on each host.

    Raises RefusedError for a name that this server does not have.
    """
    environments = list(dict.fromkeys(environment_of(unit) for unit in units))
    match request["kind"]:
        case "status" | "comparisons" | "restore":
            return request
        case "adopt":
            environment, _, source = request["target"].partition("/")
            if environment not in units or not source:
                raise RefusedError(f"no target {request['target']} here", hint=_TARGET_FORM)
            return request
        case "sync":
            check_environments(units, request["environments"])
            _check_scopes(units, "target", request["take_over"], _TARGET_FORM)
            accepted = [
                f"{environment}/{name}" if "/" not in name else name
                for name in request.get("accept_projects", ())
                for environment in ((request["environments"] or environments) if "/" not in name else [""])
            ]
            _check_scopes(units, "stack", accepted, _STACK_FORM)
            return {**request, "accept_projects": accepted}
    check_environments(units, request["environments"])
    if request["environments"] or request["kind"] in ("plan", "history"):
        return request
    if len(environments) > 1 and request["kind"] != "age":
        hint = f"Name one with --environment: {', '.join(environments)}"
        raise RefusedError("this server follows several environments", hint=hint)
    return {**request, "environments": environments}


def check_environments(units: Collection[str], names: Iterable[str]) -> None:
    """Raises RefusedError for a name that is no environment of this server, nor one on one of its hosts."""
    known = dict.fromkeys([*(environment_of(unit) for unit in units), *units])
    if unknown := sorted(name for name in names if name not in known):
        hint = f"The server configuration has: {', '.join(known)}"
        raise RefusedError(f"no environment {', '.join(unknown)} here", hint=hint)


def _check_scopes(units: Collection[str], noun: str, names: Sequence[str], form: str) -> None:
    known = {*(environment_of(unit) for unit in units), *units}
    if unknown := [name for name in names if name.partition("/")[0] not in known]:
        raise RefusedError(f"no {noun} {', '.join(unknown)} here", hint=form)


def units_of(units: Collection[str], environment: str | None) -> frozenset[str] | None:
    """What an environment is called, also on each of its hosts; None for all environments."""
    if environment is None:
        return None
    return frozenset({environment, *(unit for unit in units if environment_of(unit) == environment)})


def list_runs(store: Store, units: Collection[str], request: Request) -> list[dict[str, Any]]:
    """The runs and decisions (no recoveries, nobody decides them) of the request's environment or of all, newest first;
    unfinished ones before, unless those ``before`` a run are requested. Raises RefusedError for an unknown one."""
    check_environments(units, request["environments"])
    names, limit = units_of(units, next(iter(request["environments"]), None)), request["limit"]
    before, open_runs = request.get("before"), _open_runs(store, names)
    ended = [entry.shown() for entry in store.history(names, limit, before=before, recoveries=False)]
    open_ids = {run["run"] for run in open_runs}
    return [*([] if before else open_runs), *(facts for facts in ended if facts["run"] not in open_ids)][:limit]


def find_run(store: Store, identity: str) -> dict[str, Any] | None:
    """The run or decision with this id, as ``list_runs`` has it; None where there is none, or not any more."""
    for run in _open_runs(store, None):
        if run["run"] == identity:
            return run
    entry = store.history_of(identity)
    return entry.shown() if entry else None


def _open_runs(store: Store, names: Collection[str] | None) -> list[dict[str, Any]]:
    runs = [run for name in names or store.environments() if (run := store.unfinished(name))]
    return [{**run_facts_of(run), "entry": None} for run in sorted(runs, key=lambda run: -run.started_at)]


def _answer(built: Runtime, request: Request, outcome: Outcome) -> dict[str, Any]:
    """An outcome as data; after a pause or its end also with the pauses that there are now, and after a target was
    forgotten with what that did."""
    answer, kind = serialize.serialize_outcome(outcome), request["kind"]
    if kind == RequestKind.FORGET and not request["delete"] and not outcome.refused:
        recent = (entry.facts for entry in built.ports.store.history([outcome.environment], _MOST_AFTER_FORGET))
        answer["forgotten"] = next((facts["reason"] for facts in recent if facts["trigger"] == kind), "")
    if kind in (RequestKind.PAUSE, RequestKind.RESUME) and not outcome.refused:
        record = built.ports.store.environment(outcome.environment)
        answer["pauses"] = serialize.serialize_pauses(record, built.ports.clock.now())
    return answer


async def serve_without_daemon(built: Runtime, request: Request) -> Any:
    """The same where no daemon runs; also ``status``, which a daemon answers from memory. Raises ReconcilerError."""
    if request["kind"] == "status":
        environments = [await _status_of(built, unit) for unit in built.reconcilers]
        daemon, history = {"running": False, "pid": None, "http": ""}, asdict(built.ports.store.history_head())
        return {"daemon": daemon, "history": history, "environments": environments}

    async def reconcile(request: ReconcileRequest, environments: Collection[str]) -> tuple[Outcome, ...]:
        only = select_units(built.reconcilers, environments)
        outcomes = [outcome for rollout in built.rollouts for outcome in await rollout.reconcile(request, only=only)]
        return without_needless_refusals(outcomes)

    return await serve(built, reconcile, request, lambda work: work(), built.relay)


def _reconcile_request(request: Request) -> ReconcileRequest:
    """The reconciliation that a request starts. Raises RefusedError for an unknown kind."""
    match request["kind"]:
        case "sync":
            return ReconcileRequest(
                "manual",
                take_over=request["take_over"],
                accept_projects=request.get("accept_projects", ()),
                requested_by=request.get("requested_by", ""),
                reason=request.get("reason", ""),
                skip_promotion=request.get("skip_promotion", False),
            )
        case "plan":
            operator = OperatorRequest(RequestKind.PLAN, request["revision"]) if request["revision"] else None
            return ReconcileRequest("plan", dry_run=True, operator=operator)
        case kind if kind in list(RequestKind):
            names = ("revision", "reason", "scope", "seconds", "delete", "requested_by")
            fields = {name: request[name] for name in names if name in request}
            return ReconcileRequest(kind, operator=OperatorRequest(RequestKind(kind), **fields))
    hint = "It is older or newer than the command: restart it"
    raise RefusedError("this daemon does not know that request", hint=hint)


async def _status_of(built: Runtime, unit: str) -> dict[str, Any]:
    reconciler = built.reconcilers[unit]
    outcome = await reconciler.reconcile(ReconcileRequest("status", poll=False, dry_run=True))
    record, applied = built.ports.store.environment(unit), built.ports.store.applied(unit)
    status = serialize.serialize_environment(record, outcome, applied, at=built.ports.clock.now())
    services = await serialize.serialize_services(reconciler)
    return {**status, **services, "engine_away": services.get("services_unknown", ""), "reconciling": None}


async def _restore(built: Runtime, request: Request) -> dict[str, Any]:
    unit = find_backup(built.ports, request["backup"]).environment
    facts = {name: request.get(name, "") for name in ("requested_by", "reason")}
    restored = await restore_backup(built.ports_of(unit), unit, request["backup"], request["only"], **facts)
    return serialize.serialize_restored(restored)


async def _adopt(built: Runtime, request: Request, answer: GitAnswer, turn: Turn, progress: Progress) -> dict[str, Any]:
    from reconciler.engine.adopt import prepare_adoption, push_adoption  # rare, and large

    unit, target = request["target"].partition("/")[0], request["target"]
    ports = built.ports_of(unit)
    adoption = await turn(lambda: prepare_adoption(ports, unit, target, request["keys"], answer))
    origin = RunOrigin("adopt", request.get("requested_by", ""), request.get("reason", ""))
    adopted = await push_adoption(replace(ports, progress=progress), adoption, origin)
    return serialize.serialize_adopted(adopted, ports.settings.branch)


async def _age(built: Runtime, request: Request) -> dict[str, Any]:
    # Ages come from git: they are the same on every host of an environment.
    units = list(built.reconcilers)
    chosen = sorted(select_units(units, request["environments"]), key=units.index)
    first = {environment_of(unit): unit for unit in reversed(chosen)}
    ages = [await _age_of(built.ports_of(unit), unit, request["max_age"]) for unit in reversed(first.values())]
    return {"environments": ages}


async def _age_of(ports: Ports, environment: str, max_age: float | None) -> dict[str, Any]:
    head, _ = await accepted_head(ports, environment, poll=False)
    revision, _ = target_revision(ports, environment, head)
    ages = await secret_ages(ports, environment, revision)
    oldest = None if max_age is None else ports.clock.now() - max_age
    return serialize.serialize_ages(environment, revision, ages, oldest)
