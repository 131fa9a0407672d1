"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli import completion

DEFAULT_CONFIG = "/etc/reconciler/reconciler.yaml"

ConfigFile = Annotated[
    str, typer.Option("--config", metavar="FILE", envvar="RECONCILER_CONFIG", help="The server configuration.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="List every key, however many there are.")]
KeyFile = Annotated[
    str | None,
    typer.Option("--age-key-file", envvar="SOPS_AGE_KEY_FILE", help="An age key file, to check values as well."),
]
EnvironmentsPath = Annotated[str, typer.Option("--path", help="The repository's directory of environments.")]
SshKey = Annotated[
    str | None, typer.Option("--ssh-key", help="The private key for ssh://. Default: your ssh settings.")
]
KnownHosts = Annotated[
    str | None, typer.Option("--known-hosts", help="The known_hosts file for ssh://. Default: your ssh settings.")
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--environment", "-e", help="Only this environment (may be repeated).", autocompletion=completion.environments
    ),
]
OneEnvironment = Annotated[
    str | None,
    typer.Option("--environment", "-e", help="Only this environment.", autocompletion=completion.environments),
]
