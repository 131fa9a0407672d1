"""Checks how an encrypted file is stored: for which keys, in which format, and whether more than once."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.encrypted_twice import fix_encrypted_twice, has_lengths_of_ciphertexts, holds_store
from reconciler.core.text import listed


def check_store(path: str, name: str, data: bytes, cipher: Ciphertext, earlier: Collection[bytes]) -> Iterator[Finding]:
    """Given an encrypted file, what it says without a key, its ``name`` in commands, and its ``earlier`` versions, find
    what a server or sops cannot do with it."""
    if cipher.metadata.others and not cipher.metadata.age:
        kinds = listed(cipher.metadata.others)
        message = f"is encrypted for {kinds} only, and servers decrypt with age keys: add the server's to .sops.yaml"
        yield Finding(rules.METADATA_KIND, path, 1, f"{message}, then run `sops updatekeys {name}`")
    if holds_store(data, earlier):
        message = "is encrypted twice: an earlier version in git is encrypted, and exactly as long as what it holds"
        yield Finding(rules.ENCRYPTED_TWICE, path, 1, f"{message}. {fix_encrypted_twice(name, cipher.format)}")
    elif has_lengths_of_ciphertexts(cipher):
        message = "each value is as long as an encrypted one: the file seems to be encrypted twice"
        yield Finding(rules.ENCRYPTED_TWICE, path, 1, message)
    if cipher.output is not cipher.format:
        store = cipher.format.upper()
        message = f"is a {store} store, which its name does not say: servers decrypt it, `sops edit {name}` does not. "
        yield Finding(rules.STORE_FORMAT, path, 1, f"{message}Convert it: {_conversion(name, cipher)}")


def _conversion(name: str, cipher: Ciphertext) -> str:
    """The command that turns a store into one of the format that its name says, for the same recipients. Those of
    others are known to .sops.yaml only."""
    store, output, file = cipher.format, cipher.output, shlex.quote(name)
    recipients = "" if cipher.metadata.others else f" --age {shlex.quote(','.join(cipher.metadata.age))}"
    return (
        f"`sops decrypt --in-place --input-type {store} --output-type {output} {file} && "
        f"sops encrypt --in-place --input-type {output} --output-type {output}{recipients} {file}`"
    )
