"""What sops is given: arguments and environment. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from reconciler.core.model.targets import Format

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def decrypt_arguments(store: Format, output: Format) -> list[str]:
    """Arguments for ciphertext on standard input. sops searches for no configuration file."""
    return ["--config", "/dev/null", "decrypt", "--input-type", store, "--output-type", output]


def encrypt_arguments(file_format: Format, recipients: Sequence[str]) -> list[str]:
    """Arguments for plaintext on standard input, which sops refuses without a file name."""
    types = ["--input-type", file_format, "--output-type", file_format, "--filename-override", "stdin"]
    return ["--config", "/dev/null", "encrypt", "--age", ",".join(recipients), *types]


def amend_arguments(
    file_format: Format, path: str, place: Sequence[str], *, removes: bool, ignore_mac: bool = False
) -> list[str]:
    """Arguments that set the value on standard input, as JSON, in the file at ``path``; or remove it. ``place`` leads
    to it through mappings."""
    command = ["unset"] if removes else ["set", "--value-stdin"]
    types = ["--input-type", file_format, "--output-type", file_format, *(["--ignore-mac"] if ignore_mac else [])]
    index = "".join(json.dumps([key], ensure_ascii=False) for key in place)
    return ["--config", "/dev/null", *command, *types, path, index]


def edit_arguments(file_format: Format, path: str) -> list[str]:
    """Arguments that give the file at ``path`` the content that the program in EDITOR makes."""
    return ["--config", "/dev/null", "edit", "--input-type", file_format, "--output-type", file_format, path]


def update_keys_arguments(file_format: Format, path: str, rules: str) -> list[str]:
    """Arguments that make the keys of the file at ``path`` those of the configuration file ``rules``."""
    return ["--config", rules, "updatekeys", "--yes", "--input-type", file_format, path]


def rotate_arguments(file_format: Format, path: str) -> list[str]:
    """Arguments that give the file at ``path`` a new data key."""
    types = ["--input-type", file_format, "--output-type", file_format]
    return ["--config", "/dev/null", "rotate", "--in-place", *types, path]


def sops_environment() -> dict[str, str]:
    """All that sops may see beside our identities: no HOME, so no user's keys, and no address of a key service.

    A process of 20 ms needs next to no garbage collection, which would take a tenth of them.
    """
    return {
        "HOME": "/nonexistent",
        "PATH": _PATH,
        "GOGC": "400",
        "GOMAXPROCS": "1",
        "GOTRACEBACK": "none",
        "SOPS_DISABLE_VERSION_CHECK": "1",
        "SOPS_HC_VAULT_ALLOWLIST": "none",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SOPS_DECRYPTION_ORDER": "age",
    }
