"""Says who edited a live file, and how sure that is. A guess is called one; nobody is named without a reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core.text import listed, printable

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FileWriter:
    """A process that wrote to a file: the name of the user who had logged in (None: nobody, as for a service or a
    container; the audit login uid outlives `sudo` and `su`), the user it ran as, and the ``program``'s own word."""

    login: str | None
    user: str
    program: str


def editor_sentence(writers: Sequence[FileWriter], sessions: Sequence[str] | None, owner: str) -> str:
    """Given the processes that wrote to the file since we last did (none where the kernel did not say), the users with
    a login session when it was written (None: not known) and its owner, return who edited it."""
    if writers:
        names = list(dict.fromkeys(_name(writer) for writer in writers))
        sure = (
            "login uid of the process that wrote it" if len(names) == 1 else "login uids of the processes that wrote it"
        )
        logged_in = any(writer.login is not None for writer in writers)
        return f"{', then '.join(names)}{f' ({sure})' if logged_in else ''}"
    users = sorted(set(sessions or ()))
    if len(users) == 1:
        return f"probably {users[0]}: the only login session then"
    facts = [f"logged in then: {listed(users)}"] if users else []
    facts += [f"the file belongs to {owner}"] if owner else []
    return f"{UNKNOWN} ({'; '.join(facts)})" if facts else UNKNOWN


def _name(writer: FileWriter) -> str:
    return writer.login or f"{printable(writer.program)!r}, a process without a login, as {writer.user}"
