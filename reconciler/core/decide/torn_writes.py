"""Recognises what an interrupted write into a live file leaves. Pure."""

from __future__ import annotations

_BLOCK = 512  # bytes that a disk writes together, at least


def is_torn(live: bytes, old: bytes, new: bytes) -> bool:
    """Given the content of a live file, and what was being replaced by what in it, return whether it is a mix of both.

    A process that is killed leaves a beginning of the new content before the rest of the old; a machine that loses
    power any blocks of either, and zeros where none was written.
    """
    if live in (old, new) or len(live) > max(len(old), len(new)):
        return False
    same = next((at for at, (byte, desired) in enumerate(zip(live, new, strict=False)) if byte != desired), None)
    if same is None or live[same:] == old[same : len(live)]:
        return True
    blocks = (slice(at, min(at + _BLOCK, len(live))) for at in range(0, len(live), _BLOCK))
    return all(live[block] in (old[block], new[block]) or not any(live[block]) for block in blocks)
