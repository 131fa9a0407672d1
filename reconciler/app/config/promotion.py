"""The section of the server configuration about promotion gates (docs/promotion.md)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated

from pydantic import Field

from reconciler.app.config.models import Items, Section
from reconciler.app.config.scalars import DURATION, NAME, Form, Name
from reconciler.app.config.strict_yaml import Problem, shown

_NAME = NAME.pattern.removeprefix("^").removesuffix("$")
_LONGEST = 7 * 86400.0


def _up_to_a_week(text: str) -> float:
    seconds = float(DURATION.read(text))
    if seconds > _LONGEST:
        raise ValueError("is longer than a week")
    return seconds


_FOR = Form("a duration", "5s, 10m, 2h, at most 7d", DURATION.pattern, _up_to_a_week)
_UNIT = Form("an environment on a host", "ENVIRONMENT@HOST, such as staging@web-1", rf"^{_NAME}@{_NAME}$")


class PromotionGateSettings(Section):
    """What an environment waits for before it gets a new revision."""

    after: Annotated[tuple[Annotated[str, _UNIT], ...], Items(1)] = Field(
        description="Every environment and host that must be healthy with the commit, as their servers report it."
    )
    for_: Annotated[float, _FOR] = Field(
        alias="for",
        default=600.0,
        json_schema_extra={"default": "10m"},
        description="For how long, by the clock of each of those hosts; 7d at most.",
    )


class PromotionSettings(Section):
    """Which environments wait for others, and whether this server reports its health to those that wait for it."""

    publish: bool = Field(
        default=False,
        description="Report, as refs below refs/reconciler/healthy of the config repository, with which commit the "
        "environments of this server are healthy. Needs a key that may push.",
    )
    gates: dict[Name, PromotionGateSettings] = Field(
        default_factory=dict, description="By environment of this server, what it waits for."
    )


def gates_make_sense(gates: Mapping[str, object], environments: Collection[str]) -> Iterator[Problem]:
    """Mistakes that depend on the rest of the file, in ``promotion.gates`` as it is written."""
    for name, fields in gates.items():
        field = ("promotion", "gates", name)
        if name not in environments:
            yield Problem(field, f"{shown(name)} is not one of the server's environments", ", ".join(environments))
        after = fields.get("after") if isinstance(fields, dict) else None
        units = [unit for unit in after if isinstance(unit, str)] if isinstance(after, list) else []
        if any(unit.partition("@")[0] == name for unit in units):
            yield Problem((*field, "after"), "names the environment itself, which would wait forever", "another one")
