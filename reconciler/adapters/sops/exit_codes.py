"""What the exit code of sops means. Its messages are never passed on: they can quote a decrypted value. Only those of
the Go runtime, of a crash, are searched for what has run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reconciler.adapters.process import Completed
from reconciler.adapters.sops.age_key_file import AgeIdentities
from reconciler.core.errors import (
    BadCiphertextError,
    DecryptFailedError,
    ForeignKeyError,
    KeyUnavailableError,
    ReconcilerError,
)
from reconciler.core.exhaustion import MEMORY, exhausted_in
from reconciler.core.model.targets import Format
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.patterns import first_names, restore_hint
from reconciler.core.text import listed

# Exit codes of sops (cmd/sops/codes in its source), and of the Go runtime when it panics.
_PANIC = 2
_NO_USABLE_KEY = 128
_UNREADABLE = frozenset({1, 4, 111})
_MAC_MISMATCH = frozenset({24, 51, 52})
_VALUE_DAMAGED = 25


def decrypt_error(
    name: str, checked: Ciphertext, ours: AgeIdentities, done: Completed, key_file: str
) -> ReconcilerError:
    if done.timed_out or done.overflowed:
        return sops_failure(name, done)
    if done.exit_code == _NO_USABLE_KEY:
        return _key_error(name, checked, ours, key_file)
    if done.exit_code in _MAC_MISMATCH:
        return BadCiphertextError(
            "its MAC does not match: a line was changed, dropped or moved without sops (a manual merge?)",
            where=name,
            hint=restore_hint(name),
        )
    if done.exit_code == _VALUE_DAMAGED:
        return BadCiphertextError(f"a value does not decrypt{_suspects(checked)}", where=name, hint=restore_hint(name))
    if done.exit_code in _UNREADABLE:
        return BadCiphertextError(f"sops cannot read it ({exit_reason(done)})", where=name, hint=restore_hint(name))
    return sops_failure(name, done)


def not_for_age(name: str, kinds: Sequence[str]) -> ForeignKeyError:
    """The error for a file that is for other kinds of keys only."""
    return ForeignKeyError(
        f"is encrypted for {listed(kinds)} only, and a server decrypts with its age key",
        where=name,
        hint=f"Add the server's public age key to .sops.yaml, run `sops updatekeys {name}` and commit",
    )


def _key_error(name: str, checked: Ciphertext, ours: AgeIdentities, key_file: str) -> ReconcilerError:
    theirs = checked.metadata.age
    if not ours.others and not set(ours.recipients) & set(theirs):
        return ForeignKeyError(
            "is not encrypted for this server",
            where=name,
            hint=f"It is for {first_names(theirs) or 'nobody'}; this server has {first_names(ours.recipients)}: "
            f"add that to .sops.yaml, run `sops updatekeys {name}` and commit",
        )
    return KeyUnavailableError(
        f"no key in {key_file} opens it",
        where=name,
        hint=f"It is encrypted for {first_names(theirs)}. Where that is right, its key entry is damaged:"
        f" `sops rotate --in-place {name}` on a machine that can still decrypt it writes new ones",
    )


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
