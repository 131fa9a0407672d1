"""The one client of the control socket: a request goes to the daemon if it answers, else it is served here.

A request is plain JSON with a ``kind`` (see requests.py). The daemon answers with one JSON object a line: ``progress``
while it works, then one ``result`` or one ``error``. With a daemon a command needs little more than the standard
library, so everything else is imported where it is needed: operators and scripts ask often.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.app.config.state_dir import find_state_dir
from reconciler.core.errors import OutsideError, ReconcilerError

Progress = Callable[[str], None]
"""Takes what is being done, in a few words."""

Request = Mapping[str, Any]
"""A ``kind``, and what that kind needs."""

REQUEST_PATH = "/api/v1/request"

FROM_MEMORY = ("status", "history", "comparisons")
"""The kinds that the daemon answers from what it knows, also while it reconciles."""

# A daemon answers immediately, also while it reconciles: its answer then begins with what it is doing.
_PATIENCE = 3.0  # seconds
_READS = (*FROM_MEMORY, "plan", "age")
_SEE_THE_LOG = "Its log says why: `journalctl -u reconciler`"
_BUSY = 0.05  # seconds between two attempts, where more clients wait than the kernel lets queue


def control_socket(state_dir: str) -> str:
    return os.path.join(state_dir, "control.sock")


def serve_request(config_file: str, request: Request, progress: Progress, *, here: bool = True) -> Any:
    """Have the daemon serve the request if it answers, else serve it ``here`` under the same lock; return the result.

    Raises ReconcilerError, LockedError; without ``here`` OutsideError where no daemon runs.
    """
    answer = ask_daemon_of(config_file, request, progress)
    if answer is not None:
        return answer["result"]
    if not here:
        raise OutsideError("the daemon is not running", where=config_file, hint=_SEE_THE_LOG)
    from reconciler.app.daemon.without_daemon import serve_here

    return serve_here(config_file, request, progress)


def ask_daemon_of(config_file: str, request: Request, progress: Progress) -> dict[str, Any] | None:
    """The daemon's ``result``, or None where no daemon listens. Raises ReconcilerError with its error."""
    state_dir = find_state_dir(config_file)
    answer = ask_daemon(control_socket(state_dir), request, progress) if state_dir else None
    if answer and "error" in answer:
        raise ReconcilerError(**answer["error"])
    return answer


def ask_daemon(path: str, request: Request, progress: Progress) -> dict[str, Any] | None:
    """The last line of the daemon's answer, or None where no daemon listens.

    Raises OutsideError; for a request that only reads, also if the answer does not begin within 3 s, and for what the
    daemon answers from memory if it does not end within them.
    """
    deadline = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            if not _connect(connection, path, deadline):
                return None
            # HTTP/1.0: the answer comes as it is, not in chunks, and ends with the connection.
            body = json.dumps(request).encode()
            head = f"POST {REQUEST_PATH} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            _wait_for_answer(connection, request["kind"], progress, deadline)
            with connection.makefile("rb") as answer:
                if answer.readline().split()[1:2] != [b"200"]:
                    raise ConnectionError
                while answer.readline().strip():
                    pass  # the headers say nothing more
                for line in answer:
                    message = json.loads(line)
                    if "progress" not in message:
                        return dict(message)
                    progress(message["progress"])
        except TimeoutError:
            raise _silent(path) from None
        except (OSError, ValueError) as error:
            raise OutsideError("the daemon stopped answering", where=path, hint=_SEE_THE_LOG) from error
    raise OutsideError("the daemon stopped before it was done", where=path, hint=_SEE_THE_LOG)


def _connect(connection: socket.socket, path: str, deadline: float) -> bool:
    """Whether a daemon listens. Raises TimeoutError where it takes no connection."""
    while time.monotonic() < deadline:
        connection.settimeout(max(deadline - time.monotonic(), _BUSY))
        try:
            connection.connect(path)
        except BlockingIOError:
            time.sleep(_BUSY)
        except OSError:
            return False  # a killed daemon has left the socket behind
        else:
            return True
    raise TimeoutError


def _wait_for_answer(connection: socket.socket, kind: str, progress: Progress, deadline: float) -> None:
    """Return once the answer begins. Raises TimeoutError where the request only reads and that takes too long."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        if kind in _READS:
            raise
        progress(f"the daemon does not answer within {_PATIENCE:g} s; waiting. Ctrl-C ends that")
    connection.settimeout(max(deadline - time.monotonic(), _BUSY) if kind in FROM_MEMORY else None)


def _silent(path: str) -> OutsideError:
    lock = os.path.join(os.path.dirname(path), "lock")
    holder = ""
    with contextlib.suppress(OSError), open(lock, encoding="utf-8", errors="replace") as file:
        holder = file.read(200).strip()
    name = f" ({holder})" if holder else ""
    hint = f"It is stopped, hangs or is overloaded. {_SEE_THE_LOG}; `systemctl restart reconciler` starts it again"
    problem = f"the daemon{name} does not answer within {_PATIENCE:g} s"
    return OutsideError(problem, where=path, hint=hint, id="daemon-silent")
