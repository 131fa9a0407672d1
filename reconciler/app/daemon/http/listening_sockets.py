"""The sockets that the daemon listens at: made, checked, and removed again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.app.config.listening import Address, SocketFile, is_loopback
from reconciler.app.config.sections import Http
from reconciler.core.errors import RefusedError

_BACKLOG = 128
_SOCKET_MODE = 0o660


@dataclass(frozen=True, slots=True)
class HttpSockets:
    """Where HTTP is served. ``file`` is the socket's path with its device and inode, where it is one."""

    sockets: Sequence[socket.socket] = ()
    file: tuple[str, int, int] | None = None

    @property
    def port(self) -> int:
        """The TCP port of the first socket."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def lost(self) -> bool:
        """Whether the socket's file is no longer there."""
        return self.file is not None and not self._owns_file(self.file)

    def remove_file(self) -> None:
        """Remove the socket's file, but not what somebody has put in its place."""
        if self.file is not None and self._owns_file(self.file):
            os.unlink(self.file[0])

    def _owns_file(self, file: tuple[str, int, int]) -> bool:
        path, *identity = file
        try:
            return _identity(path) == identity
        except OSError:
            return False

    def serve(self, http: Http) -> None:
        """Stay for these settings, whose ``listen`` is the same. Raises OSError, RefusedError."""
        if isinstance(http.listen, SocketFile):
            _let_in(http.listen.path, http.socket_group)
        else:
            _refuse_strangers(http, (bound.getsockname()[0] for bound in self.sockets))


async def bind_http(http: Http) -> HttpSockets:
    """Listening sockets for every address of ``http.listen``, or the one in its file. Raises OSError, RefusedError."""
    if isinstance(http.listen, SocketFile):
        path = http.listen.path
        bound = _bind_socket_file(path, http.socket_group)
        device, inode = _identity(path)
        return HttpSockets((bound,), (path, device, inode))
    known = await asyncio.to_thread(_resolve, http.listen)
    _refuse_strangers(http, (str(address[0]) for *_, address in known))
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(known):
            sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return HttpSockets(sockets)


def check_http(http: Http) -> None:
    """Whether ``http.listen`` could be used, short of the port being free. Raises OSError, RefusedError."""
    if isinstance(http.listen, SocketFile):
        _check_directory(os.path.dirname(http.listen.path))
        _group_number(http.socket_group)
    else:
        _refuse_strangers(http, (str(address[0]) for *_, address in _resolve(http.listen)))


def bind_control_socket(path: str) -> socket.socket:
    """A listening socket for this user only, in the place of one that is left over. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return _bind_unix(path)


def _resolve(listen: Address) -> list[Any]:
    return socket.getaddrinfo(*listen, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _refuse_strangers(http: Http, addresses: Iterable[str]) -> None:
    beyond = sorted({address for address in map(str, addresses) if not is_loopback(address)})
    if beyond and http.token_file is None:
        problem = f"lets other machines connect ({', '.join(beyond)}), and there is no http.token_file"
        hint = "Set http.token_file, or let http.listen be 127.0.0.1:9464, or a unix: socket for a proxy"
        raise RefusedError(problem, where=f"http.listen: {http.listen}", hint=hint, id="http-token-missing")


def _bind_socket_file(path: str, group: str | None) -> socket.socket:
    """A listening socket for the daemon's user and ``group``, in the place of one that a daemon has left over.

    Nothing else is ever replaced: no file, no link, no socket of another user, none at which somebody listens.
    """
    _check_directory(os.path.dirname(path))
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if status.st_uid != os.geteuid() or _is_listening(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(path)
    bound = _bind_unix(path)
    try:
        _let_in(path, group)
    except BaseException:
        os.unlink(path)
        bound.close()
        raise
    return bound


def _check_directory(path: str) -> None:
    if os.stat(path).st_mode & 0o022:
        hint = f"`chmod go-w {path}`, or choose another directory for http.listen"
        raise RefusedError("others could replace the socket in it", where=path, hint=hint, id="cannot-listen")


def _bind_unix(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        bound.bind(path)
        bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(old)
    return bound


def _let_in(path: str, group: str | None) -> None:
    """Give the socket its group, then its mode: nobody of another group can connect in between."""
    number = _group_number(group)
    os.chmod(path, 0o600)
    os.chown(path, -1, number)
    os.chmod(path, _SOCKET_MODE)


def _group_number(group: str | None) -> int:
    try:
        return os.getegid() if group is None else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        problem, hint = f"there is no group {group}", "Create it, or correct it"
        raise RefusedError(problem, where="http.socket_group", hint=hint, id="cannot-listen") from None


def _identity(path: str) -> list[int]:
    status = os.lstat(path)
    return [status.st_dev, status.st_ino]


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:  # its queue is full, or it may not be asked
            return True
    return True
