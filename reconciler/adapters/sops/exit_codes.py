"""What the exit code of sops means. Its messages are never passed on: they can quote a decrypted value. Only those of
the Go runtime, of a crash, are searched for what has run out."""

from __future__ import annotations

from collections import Counter

from reconciler.adapters.process import Completed
from reconciler.core.errors import (
    BadCiphertextError,
    DecryptFailedError,
    ReconcilerError,
)
from reconciler.core.exhaustion import MEMORY, exhausted_in
from reconciler.core.model.targets import Format
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.key_mismatch import KeyMismatch, OwnKeys, UnopenedError
from reconciler.core.sops.patterns import first_names, restore_hint

# Exit codes of sops (cmd/sops/codes in its source), and of the Go runtime when it panics.
_PANIC = 2
_NO_USABLE_KEY = 128
_UNREADABLE = frozenset({1, 4, 111})
_MAC_MISMATCH = frozenset({24, 51, 52})
_VALUE_DAMAGED = 25


def decrypt_error(name: str, checked: Ciphertext, ours: OwnKeys, done: Completed) -> ReconcilerError:
    if done.timed_out or done.overflowed:
        return sops_failure(name, done)
    if done.exit_code == _NO_USABLE_KEY:
        return UnopenedError([KeyMismatch(name, checked.metadata.age, ours)])
    if done.exit_code in _MAC_MISMATCH:
        return BadCiphertextError(
            "its MAC does not match: a line was changed, dropped or moved without sops (a manual merge?)",
            where=name,
            hint=restore_hint(name),
            id="mac-mismatch",
        )
    if done.exit_code == _VALUE_DAMAGED:
        problem = f"a value does not decrypt{_suspects(checked)}"
        return BadCiphertextError(problem, where=name, hint=restore_hint(name), id="type-changed")
    if done.exit_code in _UNREADABLE:
        return BadCiphertextError(f"sops cannot read it ({exit_reason(done)})", where=name, hint=restore_hint(name))
    return sops_failure(name, done)


def _suspects(checked: Ciphertext) -> str:
    """What in the file may explain it: a copied value (each is bound to its key), or a changed type."""
    times = Counter(entry.encrypted for entry in checked.entries)
    copied = [entry.key for entry in checked.entries if entry.encrypted and times[entry.encrypted] > 1]
    retyped = [entry.key for entry in checked.entries if entry.type not in ("", "str", "comment")]
    if copied:
        return f": {first_names(copied)} share one ciphertext, but a value cannot be copied from key to key"
    if retyped and checked.format is Format.DOTENV:
        return f", perhaps one that is not marked type:str: {first_names(retyped)}"
    return ""


def crashed(done: Completed) -> bool:
    return (done.exit_code == _PANIC or done.exit_code < 0) and not done.timed_out and not done.overflowed


def sops_failure(name: str, done: Completed) -> DecryptFailedError:
    facts = MEMORY if done.out_of_memory else exhausted_in(done.stderr) if crashed(done) else None
    if facts:
        return DecryptFailedError(f"sops failed: {facts[0]} ({exit_reason(done)})", where=name, hint=facts[1])
    return DecryptFailedError(
        f"sops failed: {exit_reason(done)}", where=name, hint="`reconciler doctor` checks sops and the key"
    )


def exit_reason(done: Completed) -> str:
    if done.timed_out:
        return "timed out"
    if done.overflowed:
        return "it printed too much"
    return f"killed by signal {-done.exit_code}" if done.exit_code < 0 else f"exit code {done.exit_code}"
