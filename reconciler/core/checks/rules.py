"""The rules of `reconciler check`, and its findings. docs/checks.md explains each rule."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """A server would refuse an error, or it would break a service; a warning deserves a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """``keyed`` rules check values; without a decryption key they only see files that are not encrypted."""

    id: str
    severity: Severity
    summary: str
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. ``path`` is relative to the checked directory; ``line`` counts from 1. Never contains a value.
    ``environments`` are other environments it concerns, besides that of ``path``."""

    rule: Rule
    path: str
    line: int
    message: str
    environments: tuple[str, ...] = ()


def _error(identity: str, summary: str, *, keyed: bool = False) -> Rule:
    return Rule(identity, Severity.ERROR, summary, keyed)


def _warning(identity: str, summary: str, *, keyed: bool = False) -> Rule:
    return Rule(identity, Severity.WARNING, summary, keyed)


# --- the configuration ---
MANIFEST_INVALID = _error("manifest-invalid", "environment.yaml cannot be read, breaks its schema or is not in git")
MANIFEST_MISSING = _warning("manifest-missing", "a directory has encrypted files but no environment.yaml")
SERVER_FILE_INVALID = _error("server-file-invalid", "a server configuration given with --server is invalid")
PROJECT_FILE = _error("project-file", "a target that Compose reads as a project, if --server is given")
HEALTH_TIMEOUT = _warning("health-timeout", "a health check in git allows more time than its stack's health.timeout")
TARGET_CONFLICT = _error("target-conflict", "two targets use the same live path, source or project")
SOURCE_MISSING = _error(
    "source-missing", "a target's source does not exist, or is not in git (ignored, in a submodule, not added)"
)
SOURCE_UNUSABLE = _error(
    "source-unusable", "a source or environment is a link, or a source is a directory, too large or an LFS pointer"
)
SOURCE_UNUSED = _warning("source-unused", "a file of an environment is not the source of a target")
CHECK_SETTINGS = _error("check-settings", "check.yaml names an unknown rule, lacks a reason or cannot be read")
EXEMPTION_UNUSED = _warning("exemption-unused", "an exemption in check.yaml exempts nothing")

# --- encryption ---
NOT_ENCRYPTED = _error(
    "not-encrypted", "a value or comment that must be encrypted is plain text, also in an env file without a target"
)
PLAIN_SECRET = _warning("plain-secret", "a secret, by its name or its form, in a file that is not encrypted")
BAD_CIPHERTEXT = _error("bad-ciphertext", "an encrypted file is damaged, or contains what sops never writes")
COPIED_CIPHERTEXT = _error("copied-ciphertext", "one ciphertext under two keys; sops binds each to its key")
SHARED_CIPHERTEXT = _warning("shared-ciphertext", "two environments have the same ciphertext: a copied file")
METADATA_KIND = _error("metadata-kind", "a file has no age key, or its key is split among groups")
ENCRYPTED_TWICE = _error("encrypted-twice", "a file or its values are encrypted twice, by their lengths")
STORE_FORMAT = _warning("store-format", "a JSON or YAML store in a file whose name says another format")
PARTIAL_ENCRYPTION = _warning("partial-encryption", "a sops rule can leave values in plain text")
RECIPIENTS_DIFFER = _error("recipients-differ", "a file's recipients are not exactly those of .sops.yaml")
NO_CREATION_RULE = _warning("no-creation-rule", "no rule of .sops.yaml matches an encrypted file")
SOPS_CONFIG_INVALID = _error("sops-config-invalid", ".sops.yaml cannot be read")
PRIVATE_KEY = _error("private-key", "a private key is in plain text")
ENCRYPTED_MARKED_PLAIN = _error("encrypted-marked-plain", "a target has encrypted: false, but its source is encrypted")
DECRYPT_FAILED = _error("decrypt-failed", "sops refuses a file (tampered with, or badly merged)", keyed=True)

# --- the lines of a file ---
CONFLICT_MARKER = _error("conflict-marker", "a merge conflict is not resolved")
LINE_ENDING = _error("line-ending", "an encrypted file or an env file has Windows line endings")
DUPLICATE_KEY = _error("duplicate-key", "a key is set twice in one file")
SOPS_KEY = _error("sops-key", "a variable's name begins with sops_")
KEY_NAME = _error("key-name", "a name that Compose or reconciler refuses, or that may be a bare secret")
ENV_UNREADABLE = _error("env-unreadable", "a file that its parser refuses", keyed=True)

# --- values ---
INTERPOLATION = _warning("interpolation", "Compose would treat part of a value as a variable", keyed=True)
PLACEHOLDER = _error("placeholder", "a value was never filled in", keyed=True)
SHARED_SECRET = _error("shared-secret", "two environments use the same secret", keyed=True)

# --- parity ---
EXAMPLE_KEY_MISSING = _error("example-key-missing", "a key of the example is missing in an environment")
EXAMPLE_KEY_UNKNOWN = _warning("example-key-unknown", "an environment has a key that the example lacks")
EXAMPLE_FILE_UNKNOWN = _warning("example-file-unknown", "an example names a file that is not a target's source")
EXAMPLE_CONTRACT = _error("example-contract", "an example has a default or a key that its contract refuses")
ENVIRONMENT_PARITY = _warning("environment-parity", "a key is missing in one environment but exists in another")

RETIRED_NAME = _warning("retired-name", "something still names a retired key, provider or host")

# --- contracts ---
CONTRACT_INVALID = _error("contract-invalid", "a contract cannot be read or is not a JSON Schema")
CONTRACT_MISSING = _error("contract-missing", "a target names a contract that does not exist, or is not in git")
CONTRACT_REQUIRED = _error("contract-required", "a key that the contract requires is missing")
CONTRACT_FORBIDDEN = _error("contract-forbidden", "a key exists that the contract forbids or does not know")
CONTRACT_DEPRECATED = _warning("contract-deprecated", "a key exists that the contract calls deprecated")
CONTRACT_VALUE = _error("contract-value", "a value breaks the contract", keyed=True)
CONTRACT_DIFFERS = _error("contract-differs", "x-differs is broken between two environments", keyed=True)
CONTRACT_AGE = _warning("contract-age", "a secret is older than its x-max-age")

ALL: tuple[Rule, ...] = tuple(value for value in tuple(globals().values()) if isinstance(value, Rule))
BY_ID = {rule.id: rule for rule in ALL}
