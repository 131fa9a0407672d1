"""The forms of single settings: how each is read, its message for a mistake, and its JSON Schema, in one place."""

from __future__ import annotations

import enum
import posixpath
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from reconciler.app.config import durations
from reconciler.app.config.credentials import CREDENTIALS, expand_credentials
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import ChangeMode, OnChange
from reconciler.core.text import printable

MISTAKE = "mistake"
"""The pydantic error type of every mistake that has a message of its own."""

MAX_PATH_BYTES = 1024
MAX_PATH_PARTS = 32
"""Far above what servers use, and low enough that hostile paths are cheap to compare."""

_MAX_PART_BYTES = 255  # the limit of Linux for a file name


def mistake(problem: str, accepted: str, *, quote: bool = False, id: str = "") -> PydanticCustomError:
    """The error for one value; ``quote`` puts the value before ``problem``, unless it is long or may be a secret."""
    context = {"problem": problem, "accepted": accepted, "quote": quote, "id": id}
    return PydanticCustomError(MISTAKE, "{problem}", context)


def kind_of(value: object) -> str:
    """The type of a value in plain words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a true/false value"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"


@dataclass(frozen=True, slots=True)
class Form:
    """Text of one shape. ``pattern`` is understood by Python and by JSON Schema; ``parse`` turns the text into the
    setting's value, and raises ValueError with a message for mistakes that a pattern cannot express."""

    noun: str
    accepted: str
    pattern: str
    parse: Callable[[str], Any] = str
    quote: bool = True

    def read(self, value: object) -> Any:
        if not isinstance(value, str):
            in_quotes = ": put it in quotes" if isinstance(value, int | float) else ""
            raise mistake(f"must be text, not {kind_of(value)}{in_quotes}", self.accepted)
        if not value.isprintable():
            raise mistake("holds a control or invisible character", self.accepted)
        if not re.fullmatch(self.pattern, value):
            raise mistake(f"is not {self.noun}", self.accepted, quote=self.quote)
        try:
            return self.parse(value)
        except ValueError as error:
            raise mistake(str(error), self.accepted, quote=self.quote) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": self.pattern}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an enum's values. ``false`` is the value that YAML reads as false where it is written without quotes."""

    false: str | None = None

    def __get_pydantic_core_schema__(self, source: type[enum.StrEnum], handler: GetCoreSchemaHandler) -> CoreSchema:
        accepted = ", ".join(source)

        def read(value: object) -> enum.StrEnum:
            if value is False and self.false:
                value = self.false
            if not isinstance(value, str):
                raise mistake(f"must be text, not {kind_of(value)}", accepted)
            if value not in list(source):
                raise mistake("is not one of the choices", accepted, quote=True)
            return source(value)

        return core_schema.no_info_plain_validator_function(read, metadata={"choices": list(source)})

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        choices: list[object] = [str(choice) for choice in schema["metadata"]["choices"]]
        return {"enum": [*choices, False] if self.false else choices}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        accepted = f"a whole number from {self.low} to {self.high}"

        def read(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise mistake(f"must be a whole number, not {kind_of(value)}", accepted)
            if not self.low <= value <= self.high:
                raise mistake("is out of range", accepted)
            return value

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


def written(default: str, form: Form, description: str) -> Any:
    """A field whose default is given as it is written in the file, also in the JSON Schema."""
    return Field(default=form.read(default), json_schema_extra={"default": default}, description=description)


def decided_elsewhere(default: Any, description: str) -> Any:
    """A field whose default depends on something else, so the JSON Schema shows none."""

    def without_default(schema: JsonSchemaValue) -> None:
        schema.pop("default")

    return Field(default=default, json_schema_extra=without_default, description=description)


def _octal(text: str) -> int:
    return int(text, 8)


def http_url(text: str) -> str:
    """The address, if its host and port are valid."""
    try:
        urlsplit(text).port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("has an invalid host or port") from None
    return text


def _limited(path: str) -> str:
    parts = path.split("/")
    if len(path.encode()) > MAX_PATH_BYTES or len(parts) > MAX_PATH_PARTS:
        raise ValueError(f"is longer than {MAX_PATH_BYTES} bytes or {MAX_PATH_PARTS} levels")
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        raise ValueError(f"has a name longer than {_MAX_PART_BYTES} bytes")
    return path


def normalised(path: str) -> str:
    """``path`` without ``//`` and ``/./``; a leading ``//``, which is special in POSIX, becomes ``/``."""
    return _limited(re.sub("^//+", "/", posixpath.normpath(path)))


def _own_file(path: str) -> str:
    return normalised(expand_credentials(path) if path.startswith(CREDENTIALS) else path)


def _in_repository(path: str) -> str:
    """The root of the repository is "", not "."."""
    clean = normalised(path)
    return "" if clean == "." else clean


def _on_change(text: str) -> OnChange:
    mode, _, name = text.partition(":")
    return OnChange(ChangeMode(mode), name)


_SIGNALS = "|".join(sorted({member.name.removeprefix("SIG") for member in signal.Signals}))
_UP = r"(?!(.*/)?\.\.(/|$))"  # looks ahead: no part of the path is ".."
_CLEAN = r"[^\x00-\x1f\x7f\\]"

NAME = Form(
    "a name",
    "up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit, without '..'",
    r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
)
STACK = Form(
    "a stack",
    "NAME or ENVIRONMENT/NAME, such as app or production/app",
    rf"{NAME.pattern.removesuffix('$')}(/[A-Za-z0-9][A-Za-z0-9._-]{{0,62}})?$",
)
PERSON = Form("a user or group", "its name or, in quotes, its number", r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,31}\$?$")
HOST = Form("a host", "a host name or address, without a port", r"^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$")
DURATION = Form("a duration", durations.ACCEPTED, durations.PATTERN, durations.seconds)
MODE = Form(
    "a file mode", 'octal digits in quotes, such as "0600", without setuid, setgid and sticky', "^0?[0-7]{3}$", _octal
)
PAGE_URL = Form(
    "an address",
    "https://… or http://…, without user and password",
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[!-~]*)?$",
    http_url,
    quote=False,
)
ABSOLUTE_PATH = Form("an absolute path without '..'", "a path such as /opt/app", rf"^{_UP}/{_CLEAN}*$", normalised)
ABSOLUTE_FILE = Form(
    "a file's absolute path without '..'",
    "a path such as /opt/app/api.env",
    rf"^{_UP}(?!(.*/)\.?$)/{_CLEAN}+$",
    normalised,
)
OWN_FILE = Form(
    "a file's absolute path without '..'",
    f"a path such as /etc/reconciler/age.key, or {CREDENTIALS}/age.key",
    rf"^{_UP}(?!(.*/)\.?$)({re.escape(CREDENTIALS)})?/{_CLEAN}+$",
    _own_file,
)
LIVE_FILE = Form(
    "a file's path without '..'",
    "a path below the stack's directory, such as config/api.env, or an absolute one",
    rf"^{_UP}(?!(.*/)?\.?$){_CLEAN}+$",
    normalised,
)
SOURCE = Form(
    "a file's path beside environment.yaml",
    "a path such as api.env or app/api.env, without '.', '..', '//' and without a leading / or -",
    rf"^(?![/-])(?!(.*/)?\.{{0,2}}(/|$)){_CLEAN}+$",
    _limited,
)
CONTRACT = Form(
    "a file's path below repository.path",
    "a path such as contracts/api.yaml, without '.', '..', '//' and without a leading / or -",
    SOURCE.pattern,
    _limited,
)
COMPOSE_FILE = Form(
    "a file's path without '..'",
    "a path below the stack's directory, such as compose.yaml, or an absolute one",
    rf"^(?!-){_UP}(?!(.*/)?\.?$){_CLEAN}+$",
    normalised,
)
PROJECT_DIRECTORY = Form(
    "a directory's path without '..'",
    "a path below the stack's directory, such as deploy, or an absolute one",
    rf"^(?!-){_UP}{_CLEAN}+$",
    normalised,
)
PROJECT = Form(
    "the name of a Compose project",
    "lower-case letters, digits, dashes and underscores, beginning with a letter or digit",
    r"^[a-z0-9][a-z0-9_-]{0,62}$",
)
DIRECTORY_IN_GIT = Form(
    "a directory of the repository",
    "a path such as envs, or '.', without '..' and without a leading / or -",
    rf"^(?![/-]){_UP}{_CLEAN}+$",
    _in_repository,
)
PROGRAM = Form("a program", "a name on PATH, or an absolute path", r"^([A-Za-z0-9][A-Za-z0-9._-]*|/.+)$")
URL = Form("an address", "ssh://…, https://… or an absolute path", r"^[^\x00-\x1f\x7f]+$", quote=False)
BRANCH = Form("a branch", "a branch's name, such as main", r"^(?!-)(?!.*\.\.)[^\x00-\x20\x7f~^:?*\[\\]+$", _limited)
BRANCHES = Form(
    "a pattern of branches", "a pattern such as * or change/*", r"^(?!-)(?!.*\.\.)[^\x00-\x20\x7f~^:\\]+$", _limited
)
AUTHOR = Form("an author", "Name <address@host>", r"^[^<>\x00-\x1f]+ <[^<>\s@]+@[^<>\s@]+>$")
ARGUMENT = Form("an argument", "text that is not empty", r"^[^\x00-\x1f\x7f]+$", quote=False)
ON_CHANGE = Form(
    "something a change can do",
    "recreate, restart, none, or signal:NAME such as signal:HUP",
    rf"^(recreate|restart|none|signal:({_SIGNALS}))$",
    _on_change,
)


def check_environment_name(name: str) -> None:
    """Raises RefusedError for an invalid name of an environment."""
    try:
        NAME.read(name)
    except PydanticCustomError:
        hint = f"Use {NAME.accepted}"
        raise RefusedError(f"{printable(name)!r} is not a valid environment name", hint=hint) from None


Name = Annotated[str, NAME]
Person = Annotated[str, PERSON]
Host = Annotated[str, HOST]
Duration = Annotated[float, DURATION]
Mode = Annotated[int, MODE]
AbsolutePath = Annotated[str, ABSOLUTE_PATH]
AbsoluteFile = Annotated[str, ABSOLUTE_FILE]
OwnFile = Annotated[str, OWN_FILE]
