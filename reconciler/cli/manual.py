"""The manual page, from what --help prints: `make man` writes deploy/man/reconciler.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import click

from reconciler.cli.exit_codes import MEANINGS
from reconciler.cli.main import app

_VARIABLES = {
    "RECONCILER_CONFIG": "The server configuration, where --config is not given.",
    "RECONCILER_LOG_LEVEL": "What the daemon logs, where --log-level is not given.",
    "SOPS_AGE_KEY_FILE": "The age key file, where --age-key-file is not given.",
    "NO_COLOR": "Without colours on a terminal, and in the daemon's log there.",
    "DOCKER_HOST, DOCKER_CONTEXT, DOCKER_CONFIG": "The Docker engine, as for the docker command.",
    "HTTPS_PROXY, ALL_PROXY, NO_PROXY": "The proxy to a git remote over https.",
    "GIT_SSL_CAINFO, SSL_CERT_FILE": "The CA certificates for a git remote over https.",
}
_FILES = {
    "/etc/reconciler/reconciler.yaml": "The server configuration.",
    "/var/lib/reconciler": "The state directory: database, mirror, backups, control socket.",
}


def manual() -> str:
    """The page in man's macros, ending with a newline."""
    context = click.Context(app, info_name="reconciler")
    lines = [
        '.TH RECONCILER 1 "" reconciler "User Commands"',
        ".SH NAME",
        f"reconciler \\- {_text(_first_sentence(app.help))}",
        ".SH SYNOPSIS",
        ".B reconciler",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...",
        ".SH DESCRIPTION",
        *_paragraphs(app.help),
        ".SH OPTIONS",
        *_options(app, context),
        ".SH COMMANDS",
    ]
    for name, command in app.commands.items():
        lines += _command(name, command, context)
    lines += [".SH EXIT STATUS", *_terms((str(code), text) for code, text in MEANINGS.items())]
    lines += [".SH ENVIRONMENT", *_terms(_VARIABLES.items()), ".SH FILES", *_terms(_FILES.items())]
    lines += [".SH SEE ALSO", ".BR sops (1),", ".BR docker\\-compose (1),", ".BR git (1)"]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f".SS {_text(name)}"
    yield f"\\fBreconciler {_text(name)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}"
    yield ".PP"
    yield from _paragraphs(command.help)
    yield from _options(command, context)
    for nested, subcommand in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {nested}", subcommand, parent)


def _options(command: Any, context: click.Context) -> Iterator[str]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from _terms(record for record in records if record and record[1])


def _terms(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in terms:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(text))


def _paragraphs(text: str | None) -> Iterator[str]:
    for number, paragraph in enumerate((text or "").strip().split("\n\n")):
        if number:
            yield ".PP"
        yield _text(paragraph)


def _first_sentence(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].rstrip(".")


def _text(text: str) -> str:
    """One line that man takes for text and nothing else; what stands in backticks is bold."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    bold = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escaped)
    return f"\\&{bold}" if bold.startswith((".", "'")) else bold


if __name__ == "__main__":
    print(manual(), end="")
