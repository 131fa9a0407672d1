"""The name of an environment, as a person gives it on the command line."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

from reconciler.app.config.scalars import NAME
from reconciler.core.errors import RefusedError
from reconciler.core.text import printable


def check_environment(name: str) -> None:
    """Raises RefusedError for what cannot be the name of an environment."""
    try:
        NAME.read(name)
    except PydanticCustomError:
        hint = f"A name is {NAME.accepted}"
        raise RefusedError(f"{printable(name)!r} is no environment's name", hint=hint) from None
