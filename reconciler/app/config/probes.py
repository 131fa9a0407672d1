"""Parity probes: what an operator has asked of both sides. They are in the server configuration or a file of their own.

Never in git: permission to merge there must not be permission to run a command.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from reconciler.app.config.models import Items, Section, read_sections
from reconciler.app.config.scalars import (
    ARGUMENT,
    DURATION,
    PROGRAM,
    AbsolutePath,
    Duration,
    Form,
    Name,
    http_url,
    mistake,
    written,
)
from reconciler.app.config.strict_yaml import read_config_file
from reconciler.core.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from reconciler.core.compare.types import Probe

_REASON = Form("a reason", "a sentence of at least 10 characters", r"^.{10,500}$", quote=False)
_URL = Form(
    "an address to ask",
    "http:// or https:// with a host, without user and password",
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[!-~]*)?$",
    http_url,
)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return text


_PATTERN = Form("a regular expression", "one of Python's, such as 'built at .*'", r"^.{1,500}$", _pattern)


class ProbeFields(Section):
    """A command, or an address, whose answers on two sides are compared."""

    run: Annotated[tuple[Annotated[str, ARGUMENT], ...], Items(1)] | None = Field(
        default=None, description="The program and its arguments, a list; no shell reads it."
    )
    url: Annotated[str, _URL] | None = Field(
        default=None, description="Asked from the side's own machine; its status and its text are compared."
    )
    service: Name | None = Field(
        default=None, description="Run it in this service's container (docker compose exec -T) and not beside it."
    )
    directory: AbsolutePath | None = Field(
        default=None, description="Where it runs. Default: the directory of the side; of a service, its project's."
    )
    ignore: Annotated[str, _PATTERN] | None = Field(
        default=None, description="What of the output may differ: every match is cut out before it is compared."
    )
    timeout: Duration = written("30s", DURATION, "How long it may take.")
    show: bool = Field(default=False, description="Show what it printed; hidden by default.")
    expected: Annotated[str, _REASON] | None = Field(
        default=None, description="Why the two sides may differ: then the difference is explained."
    )

    @model_validator(mode="after")
    def _asks_one_thing(self) -> ProbeFields:
        if (self.run is None) == (self.url is None):
            raise mistake("must have either run or url", "run: [alembic, current] or url: http://…")
        if self.service is not None and self.run is None:
            raise mistake("has a service, in which only run can be run", "run: [alembic, current]")
        if self.run is not None and self.service is None and not re.fullmatch(PROGRAM.pattern, self.run[0]):
            # Relative to the directory it could be a file that git has brought there.
            raise mistake("runs a program by a relative path", PROGRAM.accepted)
        return self

    def probe(self, name: str) -> Probe:
        from reconciler.core.compare.types import Probe

        return Probe(
            name,
            run=self.run or (),
            url=self.url or "",
            service=self.service or "",
            directory=self.directory or "",
            ignore=self.ignore or "",
            seconds=self.timeout,
            show=self.show,
            expected=self.expected or "",
        )


class ProbeFile(Section):
    """A file with probes alone."""

    probes: dict[Name, ProbeFields] = Field(description="The probes, by name.")


def load_probes(path: str, clone: str) -> dict[str, ProbeFields]:
    """Read a file of probes. Raises RefusedError for one inside of ``clone``, ConfigError with every problem in it."""
    top = _top(os.path.realpath(clone))
    if top and os.path.realpath(path).startswith(f"{top}/"):
        hint = "Keep it outside of the clone: permission to merge must not be permission to run commands"
        raise RefusedError("lies in the repository, where git could change it", where=path, hint=hint)
    content = read_config_file(path, hint="Correct --probes")
    return dict(read_sections(ProbeFile, content, file=path, error=ConfigError, rules=lambda _: ()).probes)


def _top(directory: str) -> str:
    """The top of the clone around ``directory``, "" where there is none."""
    while directory != "/":
        if os.path.exists(os.path.join(directory, ".git")):
            return directory
        directory = os.path.dirname(directory)
    return ""
