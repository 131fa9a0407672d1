"""What the daemon's pages show, from the data that its API gives. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reconciler.app.pages.attention import Attention, attention_of
from reconciler.core.change_words import Data, Tense, cause_of, done_to_file, effect_of, files_removed

_NOTHING_MORE = {"engine_away": "", "services_unknown": "", "reconciling": None}
_FOLDED = 12  # targets in sync that are listed without folding


def overview_facts(status: Data, runs: Sequence[Data], pairs: Sequence[Data] = ()) -> dict[str, Any]:
    """What ``overview.html`` needs of GET /api/v1/status, of the last runs, and of the pairs that are compared."""
    environments: Sequence[Data] = status["environments"]
    attention = attention_of(environments, pairs)
    return {
        "attention": attention,
        "urgent": sum(entry.kind != "info" for entry in attention),
        "figures": _figures(environments, attention),
        "units": [_unit(environment) for environment in environments],
        "runs": [run_facts(run) for run in runs],
    }


def _figures(environments: Sequence[Data], attention: Sequence[Attention]) -> list[tuple[str, str, str]]:
    """Number, label and kind of each card."""
    changes = [change for environment in environments for change in _changes(environment)]
    services = [service for environment in environments for service in environment.get("services", ())]
    in_sync = sum(_settled(change) for change in changes)
    well = sum(service["healthy"] for service in services)
    drifted = sum(change["sync"] == "drifted" for change in changes)
    missed = [service for service in services if not service["healthy"] and not service.get("acknowledged")]
    urgent = [entry.kind for entry in attention if entry.kind != "info"]
    cards = [
        (_of(in_sync, len(changes)), "targets in sync", "" if in_sync == len(changes) else "mid"),
        (str(drifted), "drifted", "mid" if drifted else ""),
        (_of(well, len(services)), "services healthy", "bad" if missed else "mid" if well != len(services) else ""),
        (str(len(urgent)), "to look at", "bad" if "bad" in urgent else "mid" if urgent else ""),
    ]
    return [card for card in cards if services or card[1] != "services healthy"]


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if part != whole else str(whole)


def _changes(environment: Data) -> Sequence[Data]:
    return environment["after"]["changes"] if environment["after"] else ()


def _settled(change: Data) -> bool:
    return bool(change["sync"] == "in_sync" and change["kind"] == "in_sync")


def _unit(environment: Data) -> dict[str, Any]:
    """An environment on one host: its revisions, and its targets, those in sync last."""
    changes, services = _changes(environment), environment.get("services", ())
    settled = [change for change in changes if _settled(change)]
    revision = environment["revision"] or environment["applied"] or environment["head"]
    return {
        **_NOTHING_MORE,
        **environment,
        "badges": _badges(environment),
        "revision": revision,
        "behind": _behind(environment, revision),
        "unsettled": [_target(change) for change in changes if not _settled(change)],
        "settled": [_target(change) for change in settled],
        "folded": len(settled) > _FOLDED,
        "services": sorted(
            ({"acknowledged": False, "reason": "", **service} for service in services),
            key=lambda service: service["healthy"],
        ),
        "well": sum(service["healthy"] for service in services),
        "notes": environment["after"]["notes"] if environment["after"] else (),
    }


def _badges(environment: Data) -> list[tuple[str, str]]:
    """The result, and what else there is to know of the environment in a word; each with its kind ("": by the word)."""
    others = [
        ("engine away", "bad", environment.get("engine_away")),
        ("quarantined", "bad", environment["quarantine"]),
        ("suspended", "bad", environment["suspended"]),
        ("pinned", "info", environment["pin"]),
        ("paused", "info", environment["pauses"]),
    ]
    return [(environment["result"] or "not reconciled yet", ""), *((word, kind) for word, kind, so in others if so)]


def _behind(environment: Data, revision: Data | None) -> list[tuple[str, Data]]:
    """Head, applied and healthy revision, where they are another than the one that is shown; equal ones together."""
    names: dict[str, list[str]] = {}
    for name in ("head", "applied", "healthy"):
        known = environment[name]
        if known and (revision is None or known["commit"] != revision["commit"]):
            names.setdefault(known["commit"], []).append(name)
    return [(" and ".join(every), environment[every[0]]) for every in names.values()]


def _target(change: Data) -> dict[str, Any]:
    return {
        **change,
        "cause": cause_of(change),
        "becomes": "paused" if change["error_id"] == "paused" else effect_of(change, Tense.FUTURE),
        "keyed": _keyed(change["keys"]),
        "at": (change["edited_at"] if change["sync"] == "drifted" else change.get("left_at")) or change.get("since"),
    }


def _keyed(keys: Data) -> bool:
    return any(keys[kind] for kind in ("added", "changed", "removed"))


def run_facts(run: Data) -> dict[str, Any]:
    """A run as GET /api/v1/history gives it, with its changes in words."""
    changes = [{**change, "done": done_to_file(change), "keyed": _keyed(change)} for change in run["changes"]]
    services = list(dict.fromkeys(action["service"] for action in run["actions"]))
    return {**run, "changes": changes, "services": services, "said": files_removed(run["reason"])}


def comparison_facts(pairs: Iterable[Data]) -> dict[str, Any]:
    """What ``comparison.html`` needs of the pairs of GET /api/v1/comparison: those that need an operator first."""
    ordered = sorted(pairs, key=lambda pair: (not pair["error"], -pair["unexplained"], pair["at"] is not None))
    return {"pairs": ordered, "unexplained": sum(pair["unexplained"] for pair in ordered)}


def secrets_facts(environments: Iterable[Data]) -> dict[str, Any]:
    """What ``secrets.html`` needs of the ages of each environment: its secrets, the oldest first."""
    return {"environments": [_aged(environment) for environment in environments]}


def _aged(environment: Data) -> dict[str, Any]:
    rows: list[Mapping[str, Any]] = [
        {**key, "target": target["target"]} for target in environment["targets"] for key in target["keys"]
    ]
    rows.sort(key=lambda row: row["last_rotated"] or "~")
    old = sum(row["too_old"] for row in rows)
    return {**environment, "rows": rows, "old": old}
