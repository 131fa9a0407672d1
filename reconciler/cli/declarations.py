"""How commands are declared: a function whose parameters say how they are given, and click, which parses them.

``path: Annotated[str, option("--path", help="…")] = "envs"`` is name, type, default and option in one place. A
command's module is imported when it is asked for, and its options are made when it runs: `--help` needs no options.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., None])

Completer = Callable[[click.Context, click.Parameter, str], list[str]]
"""Takes what is typed so far; returns the names that begin with it."""


@dataclass(frozen=True, slots=True)
class Given:
    """How a parameter is given: by a flag, or without flags by its position; and click's settings for that."""

    flags: Sequence[str]
    settings: Mapping[str, Any]
    limits: tuple[int | None, int | None] | None = None


def option(
    *flags: str,
    help: str,
    metavar: str | None = None,
    envvar: str | None = None,
    limits: tuple[int | None, int | None] | None = None,
    complete: Completer | None = None,
) -> Given:
    """A parameter that is given by name: alone for a bool, repeatable for a list. ``limits`` are of a number."""
    return Given(flags, {"help": help, "metavar": metavar, "envvar": envvar, "shell_complete": complete}, limits)


def argument(*, help: str | None, metavar: str | None = None, complete: Completer | None = None) -> Given:
    """A parameter that is given by position; one without a default is required, one without ``help`` hidden."""
    return Given((), {"help": help, "metavar": metavar, "shell_complete": complete})


class Declared(click.Command):
    """A command whose parameters are those of its function."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params and self.callback is not None:
            self.params = list(_parameters(self.callback))
        return super().get_params(ctx)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but without hidden arguments."""
        arguments = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Argument)]
        if documented := [argument.get_help_record(ctx) for argument in arguments if argument.help]:
            with formatter.section("Arguments"):
                formatter.write_dl(documented)


class Commands:
    """The commands of a module, by name, in the order of --help."""

    def __init__(self) -> None:
        self.by_name: dict[str, click.Command] = {}

    def command(self, name: str = "", *, short_help: str) -> Callable[[_Function], _Function]:
        """Makes a function a command; its docstring is the help."""

        def declare(function: _Function) -> _Function:
            called = name or function.__name__.replace("_", "-")
            self.by_name[called] = Declared(called, callback=function, help=function.__doc__, short_help=short_help)
            return function

        return declare


class CommandsOfModules(Mapping[str, click.Command]):
    """The commands of several modules; a module is imported when one of its commands is asked for."""

    def __init__(self, modules: Mapping[str, Sequence[str]]) -> None:
        """Takes the names of the commands by module, in the order of --help."""
        self._modules = {name: module for module, names in modules.items() for name in names}

    def __getitem__(self, name: str) -> click.Command:
        commands: Commands = import_module(f"reconciler.cli.{self._modules[name]}").commands
        return commands.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _parameters(function: Callable[..., None]) -> Iterator[click.Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, given = typing.get_args(hints[name])
        yield _parameter(name, kind, parameter.default, given)


def _parameter(name: str, kind: Any, default: Any, given: Given) -> click.Parameter:
    if isinstance(kind, types.UnionType):
        kind = next(member for member in kind.__args__ if member is not types.NoneType)
    many = typing.get_origin(kind) is list
    kind = kind.__args__[0] if many else kind
    settings = {**given.settings, "type": _click_type(kind, given), "callback": _converter(kind, many)}
    if isinstance(default, StrEnum):
        default = default.value
    if given.flags:
        if kind is not bool:
            settings["metavar"] = settings["metavar"] or f"<{_values(kind, given)}>"
        return click.Option(
            [*given.flags, name],
            default=default,
            is_flag=kind is bool,
            multiple=many,
            show_default=default != "",
            show_envvar=True,
            **settings,
        )
    required = default is inspect.Parameter.empty
    metavar = settings["metavar"] or (_values(kind, given) if issubclass(kind, StrEnum) else name.upper())
    settings["metavar"] = metavar if required or metavar.startswith("[") else f"[{metavar}]"
    if settings["help"] and (required or default):
        settings["help"] += "  [required]" if required else f"  [default: {default}]"
    if not required:
        settings["default"] = default
    return click.Argument([name], nargs=-1 if many else 1, required=required, **settings)


def _click_type(kind: type, given: Given) -> click.ParamType[Any] | type:
    if issubclass(kind, StrEnum):
        return click.Choice([member.value for member in kind])
    return kind if given.limits is None else click.IntRange(*given.limits)


def _values(kind: type, given: Given) -> str:
    """What may be given, for --help."""
    if issubclass(kind, StrEnum):
        return "|".join(kind)
    return kind.__name__ if given.limits is None else f"{kind.__name__} range"


def _converter(kind: type, many: bool) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """click gives tuples and text; a command gets a list, or the member of its enum."""

    def convert(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if many:
            return list(value)
        return kind(value) if value is not None and issubclass(kind, StrEnum) else value

    return convert
