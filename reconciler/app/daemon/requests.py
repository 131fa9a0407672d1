"""What a person asks for beside passes: adopt a hand edit, tell the age of secrets. Done while no pass runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler.app.daemon import serialize
from reconciler.core.errors import RefusedError
from reconciler.core.model.requests import Adopted, KeyAge, TargetAge
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.adopt import adopt
from reconciler.engine.rollout import select_units
from reconciler.engine.secret_age import secret_ages
from reconciler.engine.target_revision import accepted_head, target_revision


async def carry_out(ports_of: Callable[[str], Ports], units: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Given what travelled through the control socket, do it and return plain data: names and times, never values.

    Raises ReconcilerError.
    """
    match asked["errand"]:
        case "adopt":
            environment = asked["target"].partition("/")[0]
            ports = ports_of(environment)
            return adopted(await adopt(ports, environment, asked["target"], asked["keys"]), ports.settings.branch)
        case "age":
            # Ages are git's: they are the same on every host of an environment.
            chosen = sorted(select_units(units, asked["environments"]), key=list(units).index)
            first = {environment_of(unit): unit for unit in reversed(chosen)}
            return {
                "environments": [await _age(ports_of(one), one, asked["max_age"]) for one in reversed(first.values())]
            }
    raise RefusedError("this daemon does not know that", hint="It is older or newer than the command: restart it")


async def _age(ports: Ports, environment: str, max_age: float | None) -> dict[str, Any]:
    head, _ = await accepted_head(ports, environment, poll=False)
    revision, _ = target_revision(ports, environment, head)
    found = await secret_ages(ports, environment, revision)
    latest = None if max_age is None else ports.clock.now() - max_age
    return ages(environment, revision, found, latest)


def adopted(one: Adopted, base_branch: str) -> dict[str, Any]:
    return {
        "target": one.target.id,
        "branch": one.branch,
        "commit": one.commit,
        "base": one.base.commit,
        "base_branch": base_branch,
        "keys": {"added": one.keys.added, "removed": one.keys.removed, "changed": one.keys.changed},
        "whole": one.whole,
    }


def ages(environment: str, revision: Revision, found: Sequence[TargetAge], latest: float | None) -> dict[str, Any]:
    """``latest``: what was made before that instant (epoch seconds) is too old; None: nothing is."""
    return {
        "environment": environment,
        "revision": serialize.revision(revision),
        "targets": [
            {
                "target": one.target.id,
                "last_rotated": serialize.instant(one.oldest),
                "keys": [_key(key, latest) for key in one.keys],
            }
            for one in found
        ],
    }


def _key(one: KeyAge, latest: float | None) -> dict[str, Any]:
    return {
        "key": one.key,
        "empty": one.at is None,
        "last_rotated": serialize.instant(one.at),
        "too_old": latest is not None and one.at is not None and one.at < latest,
    }
