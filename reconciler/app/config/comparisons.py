"""The pairs of sides that the daemon keeps comparing: `comparisons` in the server configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from reconciler.app.config.models import Section
from reconciler.app.config.scalars import DURATION, NAME, Duration, Form, OwnFile, decided_elsewhere, written
from reconciler.app.config.strict_yaml import Problem, shown

SIDES = "git:ENVIRONMENT, live:ENVIRONMENT, live:ENVIRONMENT@HOST or ssh://USER@HOST[:PORT]/PATH"
_ENVIRONMENT = NAME.pattern.removeprefix("^").removesuffix("$")
_MACHINE = r"ssh://([A-Za-z0-9_][A-Za-z0-9._-]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?"
_PATH = r"(?!(.*/)?\.\.(/|$))/[^\x00-\x20\x7f\\?#%]*"


def _side(text: str) -> str:
    try:
        urlsplit(text).port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("has an invalid host or port") from None
    return text


SIDE = Form(
    "a side to compare",
    SIDES,
    rf"^(git:{_ENVIRONMENT}|live:{_ENVIRONMENT}(@{_ENVIRONMENT})?|{_MACHINE}({_PATH})?)$",
    _side,
    quote=False,  # an address may have a password
)


class ComparisonSettings(Section):
    """Two sides that the daemon keeps comparing."""

    left: Annotated[str, SIDE] = Field(description="The side that others are compared with, such as git:staging.")
    right: Annotated[str, SIDE] = Field(
        description="The side that must not lack anything, such as git:production: an alert says when it does."
    )
    interval: Duration = written(
        "15m", DURATION, "How often they are compared, beside every time that git brings a change of one of them."
    )
    same_environment: bool | None = decided_elsewhere(
        None, "Whether both are one environment, whose secrets are the same. Default: their names decide."
    )
    ssh_key_file: OwnFile | None = Field(
        default=None, description="The private key for ssh:// sides. Default: the daemon user's own ssh settings."
    )
    known_hosts_file: OwnFile | None = Field(
        default=None, description="The accepted host keys of ssh:// sides; a changed key is an error, never learnt."
    )


def comparisons_make_sense(comparisons: Mapping[str, object], units: Collection[str]) -> Iterator[Problem]:
    """Mistakes that depend on the rest of the file, in ``comparisons`` as it is written. ``units`` are the server's
    environments: production here, production@web-2 on another host."""
    known = ", ".join(f"live:{unit}" for unit in units) or "git:ENVIRONMENT"
    for name, fields in comparisons.items():
        sides = {side: fields.get(side) for side in ("left", "right")} if isinstance(fields, dict) else {}
        for side, text in sides.items():
            if isinstance(text, str) and text.startswith("live:") and text.removeprefix("live:") not in units:
                problem = f"{shown(text)} is not one of the server's environments and hosts"
                yield Problem(("comparisons", name, side), problem, known)
        if sides and sides["left"] is not None and sides["left"] == sides["right"]:
            yield Problem(("comparisons", name, "right"), "is the left side itself", "another side")
