"""How records, runs and actions are written down in the state database: as JSON, and read from it."""

from __future__ import annotations

import json
from typing import Any

from reconciler.core.model.compose import Action, ActionKind, Ending, RanService
from reconciler.core.model.records import (
    EnvironmentRecord,
    Orphan,
    Pause,
    Pin,
    PromotionState,
    Quarantine,
    RestoredFile,
)
from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.runs import Result, Run, RunChange
from reconciler.core.model.targets import Parser


def record_from_json(text: str) -> EnvironmentRecord:
    data = json.loads(text)
    data["whole"] = data["whole"] if "whole" in data else data["applied"]  # an earlier version only had this
    for name in ("head", "applied", "healthy", "whole"):
        data[name] = Revision(**data[name]) if data[name] else None
    if pin := data["pin"]:
        data["pin"] = Pin(**{**pin, "revision": Revision(**pin["revision"])})
    data["quarantines"] = tuple(map(_quarantine_from_json, data["quarantines"]))
    data["reverts"] = tuple(data["reverts"])
    data["cut_off"] = tuple(data.get("cut_off", ()))
    data["pauses"] = tuple(Pause(**pause) for pause in data["pauses"])
    data["written_without_engine"] = tuple(data.get("written_without_engine", ()))  # an earlier version's has none
    data["orphans"] = tuple(Orphan(**orphan) for orphan in data.get("orphans", ()))
    data["restored"] = tuple(RestoredFile(**file) for file in data.get("restored", ()))
    data["promotion"] = PromotionState(**data.get("promotion", {}))
    return EnvironmentRecord(**data)


def _quarantine_from_json(data: dict[str, Any]) -> Quarantine:
    state = RevertState(data["revert"]) if data["revert"] else None
    return Quarantine(**{**data, "revision": Revision(**data["revision"]), "revert": state})


# Fields of a run that have no column.
_FACTS = (
    *("trigger", "revision", "from_commit", "backup", "changes", "actions", "failing", "silent", "rolling_back"),
    *("unplaced", "accepted", "restored_at", "error_id", "requested_by", "request_reason"),
)


def run_facts(run: Run) -> str:
    return json.dumps({name: getattr(run, name) for name in _FACTS}, default=_fields)


def _fields(record: object) -> dict[str, Any]:
    """As dataclasses.asdict, which copies every value: a tenth of a second for 1,000 changes. Nothing else that a run
    might hold by mistake is written down: raises TypeError."""
    if not isinstance(record, RunChange | Action | Revision):
        raise TypeError(f"a run holds a {type(record).__name__}")
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def run_from_row(row: tuple[Any, ...]) -> Run:
    identity, environment, started_at, finished_at, facts, result, reason = row
    data = json.loads(facts)
    return Run(
        id=identity,
        environment=environment,
        trigger=data["trigger"],
        started_at=started_at,
        revision=Revision(**data["revision"]),
        from_commit=data["from_commit"],
        backup=data["backup"],
        changes=tuple(_run_change_from_json(change) for change in data["changes"]),
        actions=tuple(action_from_json(action) for action in data["actions"]),
        failing=tuple(data["failing"]),
        silent=tuple(data["silent"]),
        unplaced=tuple(data.get("unplaced", ())),
        rolling_back=data["rolling_back"],
        accepted=tuple(data.get("accepted", ())),  # an earlier version's has none
        restored_at=data.get("restored_at", 0.0),
        finished_at=finished_at,
        result=Result(result) if result else None,
        reason=reason,
        error_id=data.get("error_id", ""),
        requested_by=data.get("requested_by", ""),
        request_reason=data.get("request_reason", ""),
    )


def _run_change_from_json(data: dict[str, Any]) -> RunChange:
    names = {field: tuple(data[field]) for field in ("added", "removed", "changed")}
    return RunChange(**{**data, **names, "parser": Parser(data["parser"]), "ignore_keys": tuple(data["ignore_keys"])})


def action_from_json(data: dict[str, Any]) -> Action:
    stale = data["stale"] if isinstance(data["stale"], list) else ()  # an earlier version only noted whether
    return Action(**{**data, "kind": ActionKind(data["kind"]), "stale": tuple(stale)})


def ran_service_from_json(data: dict[str, Any]) -> RanService:
    endings = {identity: Ending(ending) for identity, ending in data["endings"].items()}
    return RanService(**{**data, "endings": endings})
