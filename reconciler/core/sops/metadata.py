"""The ``sops`` section of an encrypted file: who can decrypt it. It must contain only what sops writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from reconciler.core.errors import BadCiphertextError, ForeignKeyError
from reconciler.core.sops.patterns import BASE64, ENCRYPTED, UNPRINTABLE, VERSION, place_in, restore_hint
from reconciler.core.text import key_name

_INDEX = r"(?:0|[1-9][0-9]{0,2})"
# What a server gives to sops: our age entries, and what contacts nobody. All else is removed before (own_keys.py).
_OURS = re.compile(
    rf"age__list_{_INDEX}__map_(?:recipient|enc)|mac|lastmodified|version|mac_only_encrypted|shamir_threshold"
    r"|(?:un)?encrypted_(?:suffix|regex|comment_regex)"
)
_OTHERS = re.compile(rf"(?P<kind>pgp|kms|gcp_kms|azure_kv|hc_vault|hckms)__list_{_INDEX}__map_.+")
_RECIPIENT = re.compile(rf"age1[0-9a-z]{{8,}}|ssh-(?:ed25519|rsa) {BASE64}(?: [ -~]*)?")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{8,64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})")
OTHER_KEYS = {
    "kms": "AWS KMS",
    "gcp_kms": "Google Cloud KMS",
    "azure_kv": "Azure Key Vault",
    "hc_vault": "HashiCorp Vault",
    "hckms": "Huawei Cloud KMS",
    "pgp": "PGP",
}
_GROUPS = ("key_groups", "shamir_threshold")


@dataclass(frozen=True, slots=True)
class SopsMetadata:
    """Who can decrypt the file (public keys), and when it was last written.

    ``others`` names the kinds of keys beside age ("PGP", "AWS KMS"), which a server ignores. ``rule`` is the setting by
    which sops leaves values in plain text; "" where it encrypts all. ``data_keys`` are hashes of the copies of the data
    key: two files that share one have the same data key.
    """

    age: tuple[str, ...]
    pgp: tuple[str, ...]
    lastmodified: str
    rule: str = ""
    others: tuple[str, ...] = ()
    data_keys: frozenset[str] = frozenset()


class Fields(list[tuple[str, int, object]]):
    """A mapping of a YAML or JSON file as (key, line, value); a value is Fields, list, str, None or another scalar.

    Not a dict: duplicate keys must be visible to be refused.
    """


def check_keys(name: str, fields: Fields) -> None:
    """Raises BadCiphertextError for a duplicate or unprintable key."""
    seen: set[str] = set()
    for key, line, _ in fields:
        if key in seen:
            raise BadCiphertextError(
                f"has {key_name(key)} twice", where=place_in(name, line), hint="Remove one of them"
            )
        if UNPRINTABLE.search(key):
            raise BadCiphertextError(
                "a key has unprintable characters", where=place_in(name, line), hint=restore_hint(name)
            )
        seen.add(key)


def flat_metadata(name: str, section: Fields) -> dict[str, tuple[str, int]]:
    """The `sops` section of a nested file as dotenv writes it: ``age__list_0__map_enc`` → (value, line)."""
    flat: dict[str, tuple[str, int]] = {}
    check_keys(name, section)
    for key, line, value in section:
        if value is None:  # older versions write `kms: null`, or `kms: []`
            continue
        if "__" in key or isinstance(value, Fields):
            _refuse_metadata(name, key, line)
        if not isinstance(value, list):
            flat[key] = (str(value), line)
            continue
        for index, element in enumerate(value):
            if not isinstance(element, Fields) or not element:
                _refuse_metadata(name, key, line)
            check_keys(name, element)
            for field, at, text in element:
                if isinstance(text, str):
                    flat[f"{key}__list_{index}__map_{field}"] = (text, at)
                elif key not in OTHER_KEYS:  # an entry of AWS KMS may hold a mapping
                    _refuse_metadata(name, key, at)
    return flat


def read_metadata(name: str, flat: Mapping[str, tuple[str, int]]) -> SopsMetadata:
    """Raises BadCiphertextError for metadata that sops never writes, ForeignKeyError for a key that is split."""
    kinds = []
    for key, (value, line) in flat.items():
        match = _OTHERS.fullmatch(key)
        if match is not None:
            kinds.append(match["kind"])
        # What is left of a split key after `sops updatekeys` for one group: a threshold of 1.
        elif not is_ours(key) or (key == "shamir_threshold" and value not in ("0", "1")):
            _refuse_metadata(name, key, line)
    for key, pattern in (("mac", ENCRYPTED), ("lastmodified", _TIME), ("version", VERSION)):
        value, line = flat.get(key, ("", 0))
        if not pattern.fullmatch(value):
            raise BadCiphertextError(
                f"its SOPS metadata has no valid {key}", where=place_in(name, line), hint=restore_hint(name)
            )
    age = _public_keys(name, flat, "__map_recipient", _RECIPIENT)
    pgp = _public_keys(name, flat, "__map_fp", _FINGERPRINT)
    if not age and not kinds:
        raise BadCiphertextError("its SOPS metadata names no key", where=name, hint=restore_hint(name))
    return SopsMetadata(
        age, pgp, flat["lastmodified"][0], _rule(flat), others=_services(kinds), data_keys=_data_keys(flat)
    )


def _public_keys(
    name: str, flat: Mapping[str, tuple[str, int]], ending: str, pattern: re.Pattern[str]
) -> tuple[str, ...]:
    fields = [field for key, field in flat.items() if key.endswith(ending)]
    for value, line in fields:
        if not pattern.fullmatch(value):  # messages show them
            raise BadCiphertextError("does not name a public key", where=place_in(name, line), hint=restore_hint(name))
    return tuple(value for value, _ in fields)


def _data_keys(flat: Mapping[str, tuple[str, int]]) -> frozenset[str]:
    copies = (
        value.strip() for key, (value, _) in flat.items() if key.startswith("age__") and key.endswith("__map_enc")
    )
    # In dotenv, a line break is written as two characters; the copy of the key has some.
    return frozenset(hashlib.sha256(copy.replace("\\n", "\n").strip().encode()).hexdigest()[:32] for copy in copies)


def _services(kinds: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(OTHER_KEYS[kind] for kind in kinds))


def is_ours(key: str) -> bool:
    """Whether a server gives this key of the metadata, in dotenv's form without ``sops_``, to sops."""
    return _OURS.fullmatch(key) is not None


def is_metadata_key(line_key: str) -> bool:
    """Whether a dotenv key such as ``sops_mac`` is one that sops writes, for any kind of key."""
    key = line_key.removeprefix("sops_")
    return is_ours(key) or key.partition("__")[0].lower() in (*OTHER_KEYS, *_GROUPS)


def _rule(flat: Mapping[str, tuple[str, int]]) -> str:
    """The setting that leaves values in plain text; the suffix ``_unencrypted`` is sops' default and does not count."""
    for key, (value, _) in flat.items():
        if key.startswith(("encrypted_", "unencrypted_")) and value not in ("", "_unencrypted"):
            return key
    return ""


def _refuse_metadata(name: str, key: str, line: int) -> NoReturn:
    if key.partition("__")[0] not in _GROUPS:
        raise BadCiphertextError(
            "its SOPS metadata contains what sops never writes", where=place_in(name, line), hint=restore_hint(name)
        )
    raise ForeignKeyError(
        "its key is split among groups (Shamir), and a server holds a key of one group only",
        where=place_in(name, line),
        hint="List the public keys in .sops.yaml without key_groups, then run "
        f"`sops updatekeys {name}` where a key of every needed group is at hand",
    )
