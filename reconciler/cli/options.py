"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_CONFIG = "/etc/reconciler/reconciler.yaml"

ConfigFile = Annotated[
    str, typer.Option("--config", envvar="RECONCILER_CONFIG", help="The server's file.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print data for programs instead of tables.")]
KeyFile = Annotated[
    str | None,
    typer.Option("--age-key-file", envvar="SOPS_AGE_KEY_FILE", help="An age key: values are looked at, too."),
]
EnvironmentsPath = Annotated[
    str, typer.Option("--path", help="The repository's directory that holds the environments.")
]
SshKey = Annotated[str | None, typer.Option("--ssh-key", help="The private key for ssh://. Default: as your own ssh.")]
KnownHosts = Annotated[
    str | None, typer.Option("--known-hosts", help="The host keys of ssh://. Default: as your own ssh.")
]
Environment = Annotated[
    list[str] | None, typer.Option("--environment", "-e", help="Only this environment (may be repeated).")
]
OneEnvironment = Annotated[str | None, typer.Option("--environment", "-e", help="Only this environment.")]
