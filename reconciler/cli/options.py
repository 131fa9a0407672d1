"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

from reconciler.cli import completion
from reconciler.cli.declarations import option

DEFAULT_CONFIG = "/etc/reconciler/reconciler.yaml"

ConfigFile = Annotated[
    str, option("--config", metavar="FILE", envvar="RECONCILER_CONFIG", help="The server configuration.")
]
Json = Annotated[bool, option("--json", help="Print JSON instead of text.")]
Verbose = Annotated[bool, option("--verbose", "-v", help="List every key, however many there are.")]
KeyFile = Annotated[
    str | None,
    option("--age-key-file", envvar="SOPS_AGE_KEY_FILE", help="An age key file, to check values as well."),
]
EnvironmentsPath = Annotated[str, option("--path", help="The repository's directory of environments.")]
SshKey = Annotated[str | None, option("--ssh-key", help="The private key for ssh://. Default: your ssh settings.")]
KnownHosts = Annotated[
    str | None, option("--known-hosts", help="The known_hosts file for ssh://. Default: your ssh settings.")
]
Environment = Annotated[
    list[str] | None,
    option("--environment", "-e", help="Only this environment (may be repeated).", complete=completion.environments),
]
OneEnvironment = Annotated[
    str | None,
    option("--environment", "-e", help="Only this environment.", complete=completion.environments),
]
