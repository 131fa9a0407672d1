"""The fields by which what runs is compared with what the project says: one form for both. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]


def single(value: object) -> dict[str, str]:
    """A field that is one value: nothing at all where it is unset."""
    return {} if value in (None, "", [], {}, False) else {"": text_of(value)}


def text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    return "yes" if value is True else json.dumps(value, sort_keys=True)


def several(values: Iterable[str]) -> dict[str, str]:
    """A field that is a set of names."""
    return dict.fromkeys(sorted(values), "")


def number(value: object) -> dict[str, str]:
    """A field that is a number, unset where it is 0."""
    return {"": f"{value:g}"} if isinstance(value, int | float) and value else {}


def capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def signal(name: str | None) -> str:
    """SIGTERM, also of TERM; a number and nothing stay as they are."""
    return f"SIG{name.upper().removeprefix('SIG')}" if name and not name.isdecimal() else name or ""


def security_options(options: Iterable[str]) -> Iterator[str]:
    """Without what says the same in other words (a profile's content, a colon for an equals sign), and without what the
    engine adds by itself where a container shares a namespace with the machine."""
    for option in options:
        name, _, value = option.replace("=", ":", 1).partition(":")
        if name == "seccomp" and value != "unconfined":
            yield "seccomp:a profile"
        elif (name, value) != ("label", "disable"):
            yield f"{name}:{value or 'true'}"


def host_entry(entry: str) -> str:
    """NAME:ADDRESS, however it is written."""
    name, _, address = entry.replace("=", ":", 1).partition(":")
    return f"{name}:{address.strip('[]')}"
