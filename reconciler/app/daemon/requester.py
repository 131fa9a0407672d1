"""Who sends a request on this machine: by what the kernel knows of a process, never by what the process says."""

from __future__ import annotations

import pwd
from typing import Literal

_NOBODY_LOGGED_IN = 0xFFFFFFFF


def requester_of(uid: int, pid: int | Literal["self"]) -> str:
    """Given a process and its user's id, return who that is: "root, logged in as ada" after a sudo.

    SUDO_USER is a variable like any other, so it is not used.
    """
    try:
        with open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
            login = int(file.read())
    except (OSError, ValueError):  # a kernel without audit, or a process that has ended
        login = _NOBODY_LOGGED_IN
    name = _name(uid)
    return name if login in (uid, _NOBODY_LOGGED_IN) else f"{name}, logged in as {_name(login)}"


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
