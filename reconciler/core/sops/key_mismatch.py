"""Files that none of our keys opens: one message per cause, however many files there are. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

from reconciler.core.errors import ForeignKeyError, KeyUnavailableError, ReconcilerError
from reconciler.core.text import listed

_LONGEST_KEY = 120
_GROUPS_SHOWN = 3
_NATIVE = ("", "1pq", "1tag", "1tagpq")


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """Our age identities, without secrets.

    ``recipients`` are the public keys, sorted. ``plugins`` are the plugins of identities whose public key only they
    know, which ``noted`` has where a comment beside them names it. ``place`` is where the identities come from, ``add``
    how to add one. ``warnings`` say which are left out, and why. ``fingerprint`` changes with any of them.
    """

    recipients: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    place: str = ""
    add: str = ""
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def shown(self) -> str:
        """The public keys for a sentence, as far as they are known."""
        unknown = [f"an identity of age-plugin-{plugin}" for plugin in self.plugins if not self.noted]
        return brief_keys([*self.recipients, *self.noted, *unknown]) or "none"

    def may_open(self, recipients: Sequence[str]) -> bool:
        """Whether one of them may open a file for these public keys."""
        return bool(self.plugins) or not set(self.recipients).isdisjoint(map(public_key, recipients))


@dataclass(frozen=True, slots=True)
class KeyMismatch:
    """Why a file does not open: it is for ``theirs`` (public keys), or only for other ``kinds`` of keys."""

    file: str
    theirs: tuple[str, ...]
    ours: OwnKeys
    kinds: tuple[str, ...] = field(default=())


class NotForUsError(ForeignKeyError):
    """Files that are encrypted for other keys than ours."""

    def __init__(self, mismatches: Sequence[KeyMismatch]) -> None:
        self.mismatches = tuple(mismatches)
        where, subject = _subject(mismatches, "is not encrypted", "are not encrypted")
        super().__init__(f"{subject} for this server{_files(mismatches)}", where=where, hint=_ways_on(mismatches))


class UnopenedError(KeyUnavailableError):
    """Files that our keys should open, as far as can be seen, and do not."""

    def __init__(self, mismatches: Sequence[KeyMismatch]) -> None:
        self.mismatches = tuple(mismatches)
        where, subject = _subject(mismatches, "it", "")
        ours, name = mismatches[0].ours, _file_argument(mismatches)
        hint = f"{_theirs(mismatches)}. Where that is right, the key entry is damaged: `sops rotate --in-place {name}`"
        hint += " on a machine that can still decrypt it writes new ones"
        if ours.plugins:
            programs = listed([f"age-plugin-{plugin}" for plugin in ours.plugins])
            hint += f"; or {programs} fails: a plugin that waits for a PIN or a touch cannot serve a daemon"
        super().__init__(
            f"no key in {ours.place} opens {subject}{_files(mismatches)}", where=where, hint=hint, id="unopened"
        )


def gathered(errors: Sequence[ReconcilerError]) -> list[ReconcilerError]:
    """Given the errors of several files, return those with the same cause as one error."""
    foreign = [error for error in errors if isinstance(error, NotForUsError)]
    unopened = [error for error in errors if isinstance(error, UnopenedError)]
    rest = [error for error in errors if not isinstance(error, NotForUsError | UnopenedError)]
    causes: list[ReconcilerError] = []
    if foreign:
        causes.append(NotForUsError([mismatch for error in foreign for mismatch in error.mismatches]))
    if unopened:
        causes.append(UnopenedError([mismatch for error in unopened for mismatch in error.mismatches]))
    return [*causes, *rest]


def public_key(recipient: str) -> str:
    """A recipient without the comment that may follow an SSH key."""
    return " ".join(recipient.split()[:2])


def plugin_of(recipient: str) -> str:
    """The plugin that a public key belongs to, such as yubikey; "" for age's own keys and those of SSH."""
    kind = recipient.rpartition("1")[0].removeprefix("age") if recipient.startswith("age1") else ""
    return "" if kind in _NATIVE else kind.removeprefix("1")


def brief_keys(recipients: Sequence[str], most: int = 5) -> str:
    """Public keys for a sentence. Those of RSA, and post-quantum ones of 2,000 letters, are shortened."""
    return listed([_brief(recipient) for recipient in recipients], most)


def _brief(recipient: str) -> str:
    return recipient if len(recipient) <= _LONGEST_KEY else f"{recipient[:24]}…{recipient[-8:]}"


def _subject(mismatches: Sequence[KeyMismatch], singular: str, plural: str) -> tuple[str, str]:
    """The ``where`` of an error, and how its sentence begins."""
    files = [mismatch.file for mismatch in mismatches]
    if len(files) == 1:
        return files[0], singular
    directory = posixpath.commonpath([posixpath.dirname(file) for file in files])
    return directory, f"{len(files)} files {plural}".rstrip()


def _files(mismatches: Sequence[KeyMismatch]) -> str:
    files = [mismatch.file for mismatch in mismatches]
    if len(files) == 1:
        return ""
    directory = posixpath.commonpath([posixpath.dirname(file) for file in files])
    return f" ({listed([posixpath.relpath(file, directory or '.') for file in files])})"


def _theirs(mismatches: Sequence[KeyMismatch]) -> str:
    """For whom the files are: the keys of most of them first."""
    groups: dict[str, list[str]] = {}
    for mismatch in mismatches:
        groups.setdefault(_whose(mismatch), []).append(posixpath.basename(mismatch.file))
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    sentences = [ordered[0][0], *(f"{keys} ({listed(files, 2)})" for keys, files in ordered[1:])]
    return f"{'They are' if len(mismatches) > 1 else 'It is'} for {listed(sentences, _GROUPS_SHOWN)}"


def _whose(mismatch: KeyMismatch) -> str:
    if mismatch.kinds:
        return f"{listed(mismatch.kinds)} only, and a server decrypts with its age key"
    return brief_keys(mismatch.theirs) or "nobody"


def _file_argument(mismatches: Sequence[KeyMismatch]) -> str:
    return mismatches[0].file if len(mismatches) == 1 else "FILE"


def _ways_on(mismatches: Sequence[KeyMismatch]) -> str:
    ours, argument = mismatches[0].ours, _file_argument(mismatches)
    them, each = ("it", "") if len(mismatches) == 1 else ("them", " for each")
    ways = [
        f"encrypt {them} for this server too (add its key to .sops.yaml, run `sops updatekeys {argument}`{each} on a "
        f"machine that decrypts {them}, commit)"
    ]
    if not all(mismatch.kinds for mismatch in mismatches):
        ways.append(f"{ours.add}, then `reconciler sync`")
    ways.append("revert the commit that changed the keys")
    return (
        f"{_theirs(mismatches)}; this server has {ours.shown} ({ours.place}). Ways on: {'; or '.join(ways)}. "
        "Steps: docs/keys.md"
    )
