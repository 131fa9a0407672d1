"""Merges three versions of an encrypted file. With a key, in memory and by what they say; without one, as far as the
ciphertexts tell.

The ciphertext of a value is taken from the side that changed it, so that its iv, by which its age is known, stays. sops
then writes the MAC. The result must decrypt to what was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.app.wiring import clone
from reconciler.core.errors import ReconcilerError, SourceError
from reconciler.core.merging.leaves import Path, applied, merge_leaves, same_document, settable_changes, shown
from reconciler.core.merging.lines import Conflict, MergedLines, MergeSide, StoredLine, TwiceError, merge_lines
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext

WHOLE = "."
"""The name of a file without keys, in conflicts and decisions."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What git has of a file: in the common ancestor (b"" for none), here, and on the other side."""

    path: str
    base: bytes = field(repr=False)
    ours: bytes = field(repr=False)
    theirs: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Merged:
    """``data`` is the merged file, or with ``conflicts`` (names of keys) one with markers. ``problem`` is why it could
    not be merged, "" if it could. ``taken`` counts what came from theirs."""

    data: bytes = field(repr=False)
    conflicts: tuple[str, ...] = ()
    problem: str = ""
    taken: int = 0

    @property
    def clean(self) -> bool:
        return not self.conflicts and not self.problem


def is_encrypted(versions: Versions) -> bool:
    """Whether sops made the file, on both sides."""
    return all(b"ENC[AES256_GCM," in data for data in (versions.ours, versions.theirs))


async def merge_encrypted(versions: Versions, keys: clone.Keys | None, decisions: Mapping[str, MergeSide]) -> Merged:
    """Merge the versions; ``decisions`` take a side for a key. A failure is a result with a ``problem``."""
    merge = _Merge(versions, keys, decisions)
    try:
        return await merge.run()
    except TwiceError as error:
        return merge.unmerged(f"{error} stands in it twice")
    except ReconcilerError as error:
        return merge.unmerged(f"{error.what}. {error.hint}" if error.hint else error.what)


class _Merge:
    def __init__(self, versions: Versions, keys: clone.Keys | None, decisions: Mapping[str, MergeSide]) -> None:
        self._versions = versions
        self._keys = keys
        self._decisions = decisions

    async def run(self) -> Merged:
        base, ours, theirs = (self._read(data) for data in self._data)
        assert ours is not None
        assert theirs is not None
        if {ours.format, theirs.format, (base or ours).format} != {ours.format} or ours.output is not ours.format:
            return self.unmerged("the versions are stores of different formats")
        if _settings(theirs) != _settings(ours):
            return self.unmerged("the sides differ in keys of other kinds than age, or in settings of sops")
        if ours.format is Format.DOTENV:
            return await self._merge_dotenv(base, ours, theirs)
        if self._keys is None:
            return self.unmerged(_NEEDS_KEY)
        if ours.format is Format.BINARY:
            return await self._merge_whole(base, ours, theirs)
        return await self._merge_document(base, ours, theirs)

    @property
    def _data(self) -> tuple[bytes, bytes, bytes]:
        return self._versions.base, self._versions.ours, self._versions.theirs

    def _read(self, data: bytes) -> Ciphertext | None:
        return clone.read_encrypted(self._versions.path, data) if data else None

    def unmerged(self, problem: str) -> Merged:
        """The whole file as one conflict."""
        ours, theirs = (data if data.endswith(b"\n") else data + b"\n" for data in self._data[1:])
        return Merged(b"".join([_OURS, ours, _BETWEEN, theirs, _THEIRS]), (), problem)

    # --- dotenv ---

    async def _merge_dotenv(self, base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> Merged:
        same_key = not _was_rotated(base, ours, theirs)
        if self._keys is None and not same_key:
            return self.unmerged(_NEEDS_KEY)
        versions = [await self._lines(data) for data in self._data]
        merged = merge_lines(versions[0], versions[1], versions[2], self._decisions)
        if merged.conflicts:
            names = tuple(conflict.key for conflict in merged.conflicts)
            return Merged(_with_markers(merged, self._versions.ours), names, "", merged.taken)
        recipients = _merged_recipients(base, ours, theirs)
        for number, side in ((1, ours), (2, theirs)) if same_key else ():
            if _tokens(merged.decided) == _tokens(versions[number]) and set(side.metadata.age) == recipients:
                return Merged(self._data[number], taken=merged.taken)
        if self._keys is None:
            return Merged(_with_open_mac(merged, *self._data[1:]), (), _NEEDS_MAC, merged.taken)
        content = Secret("".join(f"{line.token}\n" for line in merged.decided).encode(errors="surrogateescape"))
        with_copies = _with_their_copies(self._versions, recipients - set(ours.metadata.age)) if same_key else None
        result = await self._spliced(merged, with_copies) if with_copies else None
        if result is None:
            with clone.private_directory() as directory:
                into = with_copies or self._unrotated(base, ours, theirs)
                result = await self._keys.edit(self._versions.path, into, content, directory)
        return await self._finished(result, content, base, ours, theirs, merged.taken)

    def _unrotated(self, base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> bytes:
        """The side that has the former data key: whoever leaves with the new one knows its values, by their ivs."""
        theirs_is = base is not None and _share_data_key(base, theirs) and not _share_data_key(base, ours)
        return self._versions.theirs if theirs_is else self._versions.ours

    async def _lines(self, data: bytes) -> list[StoredLine]:
        """A dotenv file as stored lines. sops keeps every line, so those of the plaintext are the same."""
        stored = [line for line in data.decode().split("\n") if line and not line.startswith("sops_")]
        if self._keys is None or not data:
            plain: Sequence[str] = stored
        else:
            text = (await self._keys.decrypt(self._versions.path, data)).reveal().decode(errors="surrogateescape")
            plain = text.removesuffix("\n").split("\n") if text else []
        if len(plain) != len(stored):
            raise SourceError("has lines that sops does not write", where=self._versions.path)
        return [
            StoredLine("" if line.startswith("#") else line.partition("=")[0].strip(), token, line)
            for token, line in zip(plain, stored, strict=True)
        ]

    async def _spliced(self, merged: MergedLines, ours: bytes) -> bytes | None:
        """The ciphertexts of both sides in ``ours``, with a MAC by sops; None where no value could be set for that."""
        assert self._keys is not None
        last = next((line for line in reversed(merged.decided) if line.key and line.stored.endswith("]")), None)
        if last is None:
            return None
        body = "".join(f"{line.stored}\n" for line in merged.decided)
        footer = "".join(f"{line}\n" for line in _metadata_lines(ours))
        label, _, value = last.token.partition("=")
        text = Secret(json.dumps(value.replace("\\n", "\n")).encode())
        data = (body + footer).encode()
        return await self._keys.amend_places(self._versions.path, data, {(label,): text}, ignore_mac=True)

    # --- other stores ---

    async def _merge_whole(self, base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> Merged:
        assert self._keys is not None
        texts = [await self._keys.decrypt(self._versions.path, data) if data else None for data in self._data]
        decided = self._decisions.get(WHOLE)
        if texts[1] != texts[2] and texts[0] not in texts[1:] and decided is None:
            return Merged(self.unmerged("").data, (WHOLE,))
        takes_theirs = decided is MergeSide.THEIRS or (decided is None and texts[0] == texts[1] != texts[2])
        content = texts[2] if takes_theirs else texts[1]
        assert content is not None
        data = self._versions.theirs if takes_theirs else self._versions.ours
        return await self._finished(data, content, base, ours, theirs, int(takes_theirs))

    async def _merge_document(self, base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> Merged:
        assert self._keys is not None
        documents = [await self._document(data) for data in self._data]
        leaves = merge_leaves(documents[0], documents[1], documents[2], self._decisions)
        if leaves.conflicts:
            return Merged(self.unmerged("").data, tuple(map(shown, leaves.conflicts)))
        expected = applied(documents[1], leaves.changes)
        settable = settable_changes(leaves.changes, expected)
        if settable is None:
            return self.unmerged("sops cannot set a list that is in no mapping: make the change with `sops edit`")
        if date := _first_date([shown(path) for path, leaf in settable.items() if leaf is not None], ours, theirs):
            return self.unmerged(f"sops cannot set a date ({date}): make the change with `sops edit`")
        values: dict[Path, Secret | None] = {
            path: None if leaf is None else Secret(json.dumps(leaf.value).encode()) for path, leaf in settable.items()
        }
        data = await self._keys.amend_places(self._versions.path, self._versions.ours, values)
        if not same_document(await self._document(data), expected):
            return self.unmerged("sops does not write what was meant")
        return await self._finished(data, None, base, ours, theirs, len(leaves.changes))

    async def _document(self, data: bytes) -> object:
        assert self._keys is not None
        if not data:
            return {}
        return json.loads((await self._keys.decrypt(self._versions.path, data, output=Format.JSON)).reveal())

    # --- what all have ---

    async def _finished(
        self,
        data: bytes,
        content: Secret | None,
        base: Ciphertext | None,
        ours: Ciphertext,
        theirs: Ciphertext,
        taken: int,
    ) -> Merged:
        """For the recipients of both sides, with a new data key where somebody has left; verified.

        Whoever only one side names reads the result by the copy of the data key that this side has for them: anybody
        can write a name into a file. Where a copy would have to be made, that is a conflict.
        """
        assert self._keys is not None
        path, sides = self._versions.path, set(ours.metadata.age) | set(theirs.metadata.age)
        newcomers = sides - (set(base.metadata.age) if base else set(ours.metadata.age) & set(theirs.metadata.age))
        refused = {key for key in newcomers if key in ours.metadata.age and self._decides(key) is MergeSide.THEIRS}
        refused |= {key for key in newcomers if key in theirs.metadata.age and self._decides(key) is MergeSide.OURS}
        recipients = _merged_recipients(base, ours, theirs) - refused
        present = set(self._keys.read(path, data, Parser.OPAQUE).metadata.age)
        rotate = bool(sides - recipients) or _was_rotated(base, ours, theirs)
        new_copies = newcomers & (recipients if rotate else recipients - present)
        if undecided := sorted(key for key in new_copies if self._decides(key) is None):
            return Merged(self.unmerged("").data, tuple(undecided))
        if rotate or present != recipients:
            data = await self._keys.rekey(path, data, sorted(recipients), rotate=rotate)
        decrypted = await self._keys.decrypt(path, data)
        if content is not None and decrypted != content:
            return self.unmerged("sops does not write what was meant")
        return Merged(data, taken=taken)

    def _decides(self, recipient: str) -> MergeSide | None:
        return self._decisions.get(recipient)


_OURS, _BETWEEN, _THEIRS = b"<<<<<<< ours\n", b"=======\n", b">>>>>>> theirs\n"
_NEEDS_KEY = "only a key shows what has changed"
_NEEDS_MAC = "its values are merged, but only a key can write the MAC over them"


def _first_date(places: Iterable[str], *sides: Ciphertext) -> str:
    """A date of YAML at or below one of the places, "" if there is none. JSON, in which sops gets values, has none."""
    dates = [entry.key for side in sides for entry in side.entries if entry.type == "time"]
    inside = tuple(f"{place}{sign}" for place in places for sign in ".[")
    return next((date for date in dates if f"{date}.".startswith(inside)), "")


def _settings(version: Ciphertext) -> tuple[object, ...]:
    """What is not merged."""
    return version.metadata.pgp, version.metadata.others, version.metadata.rule


def _was_rotated(base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> bool:
    """Whether the versions have, or may have, different data keys."""
    return not all(_share_data_key(ours, version) for version in (base, theirs) if version is not None)


def _share_data_key(left: Ciphertext, right: Ciphertext) -> bool:
    """Whether two versions that their keys decrypt have one data key: all copies of it are the same, or one decrypts a
    value of the other. A single copy proves nothing, as it can stand beside copies of another data key."""
    values = [{entry.encrypted for entry in version.entries if entry.encrypted} for version in (left, right)]
    return left.metadata.data_keys == right.metadata.data_keys or bool(values[0] & values[1])


def _merged_recipients(base: Ciphertext | None, ours: Ciphertext, theirs: Ciphertext) -> set[str]:
    """Whoever one side has added, without whom one side has removed."""
    before = set(base.metadata.age) if base else set()
    mine, new = set(ours.metadata.age), set(theirs.metadata.age)
    return ((mine | new) - (before - mine)) - (before - new)


def _with_their_copies(versions: Versions, recipients: Collection[str]) -> bytes:
    """Our dotenv file with the other side's copies of the data key for these ``recipients``."""
    ours = _metadata_lines(versions.ours)
    copies: list[str] = []
    taken = sum(_RECIPIENT.match(line) is not None for line in ours)
    theirs = dict(line.partition("=")[::2] for line in _metadata_lines(versions.theirs))
    for name, value in theirs.items():
        if value in recipients and _RECIPIENT.match(f"{name}="):
            copy = theirs.get(name.replace("recipient", "enc"), "")
            number = taken + len(copies) // 2
            copies += [f"sops_age__list_{number}__map_enc={copy}", f"sops_age__list_{number}__map_recipient={value}"]
    return versions.ours + "".join(f"{line}\n" for line in copies).encode()


_RECIPIENT = re.compile(r"sops_age__list_\d+__map_recipient=")


def _metadata_lines(data: bytes) -> list[str]:
    return [line for line in data.decode().split("\n") if line.startswith("sops_")]


def _tokens(lines: Sequence[StoredLine]) -> list[str]:
    return [line.token for line in lines]


def _with_markers(merged: MergedLines, ours: bytes) -> bytes:
    """The stored lines with each conflict between markers; the rest of ours after them."""
    lines: list[str] = []
    for line in merged.lines:
        if isinstance(line, Conflict):
            sides = [side.stored for side in (line.ours,) if side], [side.stored for side in (line.theirs,) if side]
            lines += ["<<<<<<< ours", *sides[0], "=======", *sides[1], ">>>>>>> theirs"]
        else:
            lines.append(line.stored)
    lines += _metadata_lines(ours)
    return "".join(f"{line}\n" for line in lines).encode()


def _with_open_mac(merged: MergedLines, ours: bytes, theirs: bytes) -> bytes:
    """The merged values, with the MACs of both sides between markers: neither is right."""
    body = "".join(f"{line.stored}\n" for line in merged.decided)
    footers = [_metadata_lines(data) for data in (ours, theirs)]
    mac = [next((line for line in footer if line.startswith("sops_mac=")), "") for footer in footers]
    marked = ["<<<<<<< ours", mac[0], "=======", mac[1], ">>>>>>> theirs"]
    rest = [line for line in footers[0] if not line.startswith("sops_mac=")]
    return (body + "".join(f"{line}\n" for line in [*rest, *marked])).encode()
