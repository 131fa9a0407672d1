"""The daemon itself: run, reload, a test of its notifications, and the version."""

from __future__ import annotations

import signal
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import click
from click.exceptions import Exit

from reconciler.cli.declarations import Commands, option
from reconciler.cli.exit_codes import ERROR, IN_SYNC
from reconciler.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from reconciler.core.errors import RefusedError

if TYPE_CHECKING:
    from reconciler.app.config.server import ServerConfig

commands = Commands()


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _load(path: str) -> ServerConfig:
    from reconciler.app.config.server import load_server_config

    return load_server_config(path)


@commands.command(short_help="run the daemon")
def run(
    config: ConfigFile = DEFAULT_CONFIG,
    log_level: Annotated[
        LogLevel,
        option(
            "--log-level",
            envvar="RECONCILER_LOG_LEVEL",
            help="The least that is logged; debug also has every git answer and every reconciliation.",
        ),
    ] = LogLevel.INFO,
) -> None:
    """Run the daemon until SIGTERM or SIGINT; it finishes a running reconciliation first. SIGHUP reloads CONFIG.

    Exits 0, or 1 if it cannot start.
    """
    early: list[int] = []  # a SIGHUP before the daemon can handle it would otherwise end the process
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    from reconciler.app.daemon.service import run_daemon

    run_daemon(_load(config), lambda: _load(config), early, log_level=log_level)


@commands.command(short_help="have the daemon take its configuration again")
def reload(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Have the daemon take CONFIG again between two reconciliations, and wait until it uses it.

    With a mistake in it, the daemon keeps the former one. Exits 0, or 1 if it does, or if no daemon runs.
    """
    from reconciler.app.daemon.commands import reload_daemon
    from reconciler.cli import render

    with render.progress() as progress:
        reload_daemon(config, progress)
    click.echo("The daemon uses the server configuration as it is now.")


@commands.command(short_help="send a test message to everybody who is notified")
def notify(
    test: Annotated[bool, option("--test", help="Required, as nothing else can be sent by hand.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Send one test message to every URL of notifications.urls_file, with or without a daemon, and show which was
    accepted. A URL is named by its line and scheme; nothing secret of it is shown.

    Exits 0 if all accepted it, 1 otherwise.
    """
    from reconciler.app.daemon.receiver_check import send_test_message
    from reconciler.cli import record_reports, render

    if not test:
        raise RefusedError("nothing to send", where="notify", hint="Use --test to send a test message")
    deliveries = send_test_message(config)
    report = record_reports.notify_report
    render.answer([asdict(delivery) for delivery in deliveries], report, as_json=as_json, list_name="receivers")
    raise Exit(IN_SYNC if all(delivery.accepted for delivery in deliveries) else ERROR)


@commands.command(short_help="print the version")
def version() -> None:
    """Print which program this is, its version, and the Python that runs it. Exits 0."""
    import platform
    import sys
    from importlib.metadata import metadata

    from reconciler import DISTRIBUTION

    about = metadata(DISTRIBUTION)
    click.echo(f"{DISTRIBUTION} {about['Version']}: {about['Summary'].replace('Keeps', 'keeps')}")
    click.echo(f"Python {platform.python_version()}, {sys.executable}")
