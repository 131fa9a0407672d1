"""Users of this machine: what the kernel and systemd-logind say of processes and login sessions."""

from __future__ import annotations

import contextlib
import os
import pwd

from reconciler.core.decide.editors import FileWriter

_NOBODY_LOGGED_IN = 0xFFFFFFFF
_SESSIONS = "/run/systemd/sessions"
_MICROSECONDS = 1_000_000


def login_uid(pid: int | str) -> int | None:
    """The audit login uid of a process: who has logged in, whatever `sudo` or `su` came after. None: nobody, a kernel
    without audit, or a process that has ended."""
    try:
        with open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY_LOGGED_IN else uid


def user_name(uid: int) -> str:
    """Such as ``ada``, or ``uid 1000`` for one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def writer_of(pid: int) -> FileWriter | None:
    """Who is behind a process; None where it has ended."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            program = file.read().rstrip("\n")
    except OSError:
        return None
    login = login_uid(pid)
    return FileWriter(None if login is None else user_name(login), user_name(uid), program)


def login_sessions(at: float, directory: str = _SESSIONS) -> tuple[str, ...] | None:
    """The users with a session that began before ``at`` (epoch seconds) and has not ended; None where systemd-logind
    keeps none here, or in another form."""
    users = []
    try:
        names = [entry.path for entry in os.scandir(directory) if not entry.name.endswith(".ref")]
        for path in names:
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                with open(path, encoding="utf-8") as file:
                    facts = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
                if facts.get("CLASS", "user").startswith("user") and int(facts["REALTIME"]) <= at * _MICROSECONDS:
                    users.append(facts.get("USER") or user_name(int(facts["UID"])))
    except (OSError, ValueError, KeyError):
        return None
    return tuple(users)
