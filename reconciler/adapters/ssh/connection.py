"""A persistent SSH connection to another machine, for commands and SFTP; host keys are checked against known_hosts.

asyncssh takes 0.2 s and 14 MB to load, so it is only imported on the first connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.adapters import process
from reconciler.core.errors import HostUnreachableError
from reconciler.core.model.hosts import SshAddress

if TYPE_CHECKING:
    from asyncssh import SFTPClient, SSHClientConnection, SSHClientProcess

CONNECT = 10.0  # seconds for the TCP connection, the key exchange and the login together
ANSWER = 20.0  # seconds for one file operation
_GIVEN_UP = 3.0  # seconds
# Commands that run over one connection at the same time: sshd allows 10 sessions by default (MaxSessions), and SFTP
# takes one, for a while two.
_AT_ONCE = 8
# Seconds before a refused session is asked for again: sshd counts one for a moment after its command has ended.
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
# A connection that is silent for three times this long (seconds) is given up.
_KEEPALIVE = 10.0
# The cheapest secure algorithms come first; the rest of asyncssh's lists remains for other servers. For small packets
# AES-GCM takes a third of the CPU time of asyncssh's first choice, ChaCha20.
_KEY_EXCHANGES = "^curve25519-sha256,curve25519-sha256@libssh.org"
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


class SshConnection:
    """A connection that is opened on first use, kept, and reopened after it was lost.

    ``name`` is what messages call the machine. Everything raises HostUnreachableError where it does not answer.
    """

    def __init__(self, address: SshAddress, name: str = "") -> None:
        self.address = address
        self.name = name or address.shown
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tunnels: dict[str, str] = {}
        self._stack: contextlib.AsyncExitStack | None = None
        self._connection: SSHClientConnection | None = None
        self._sftp: SFTPClient | None = None
        self._failure: tuple[float, HostUnreachableError] | None = None

    async def close(self) -> None:
        stack, self._stack, self._connection, self._sftp = self._stack, None, None, None
        if stack is not None:
            await _ended(stack)

    async def connected(self) -> SSHClientConnection:
        """The connection. At most one attempt to open it runs at a time."""
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                await self.close()
                self._connection = await self._make()
            return self._connection

    async def _make(self) -> SSHClientConnection:
        """A new connection. A failed attempt is not repeated for _GIVEN_UP seconds: each takes time."""
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise self._failure[1].with_traceback(None)
        stack = contextlib.AsyncExitStack()
        try:
            async with self._translating(CONNECT):
                connection = await self._connect(stack, self.address)
                for here, there in self._tunnels.items():
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(here)
                    await connection.forward_local_path(here, there)
        except BaseException as error:
            await _ended(stack)
            if isinstance(error, HostUnreachableError):
                self._failure = time.monotonic() + _GIVEN_UP, error
            raise
        self._stack, self._failure = stack, None
        return connection

    def tunnel(self, here: str, there: str) -> None:
        """Make the socket at the path ``here`` lead to the one at ``there`` while connected."""
        self._tunnels[here] = there

    async def sftp(self) -> SFTPClient:
        """The one SFTP session of this connection."""
        connection = await self.connected()
        async with self._connecting:
            if self._sftp is None:
                async with self._translating(CONNECT):
                    # Names that are not UTF-8 are valid too.
                    self._sftp = await connection.start_sftp_client(path_errors="surrogateescape")
            return self._sftp

    async def run(
        self,
        argv: Sequence[str],
        *,
        limits: process.Limits,
        directory: str = "",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> process.Completed:
        """Run a command there and return what it printed, as ``process.run`` does locally.

        With ``env``, its environment is that plus PATH and HOME of the login. The words are quoted for a POSIX shell.
        Raises MissingProgramError for a program that is not installed.
        """
        connection = await self.connected()
        async with self._slots, self._translating(None):
            command: Any = _command(argv, directory, env)  # asyncssh sends bytes unchanged, but declares only str
            running = await asyncio.wait_for(_start(connection, command), ANSWER)
            try:
                completed = await _collect(running, os.path.basename(argv[0]), stdin, limits)
            finally:
                running.close()
        cut_short = completed.timed_out or completed.overflowed
        if running.exit_status is None and running.exit_signal is None and not cut_short:
            raise _gone(self, "the connection was lost while a command ran") from None
        if completed.exit_code in (126, 127):
            raise process.MissingProgramError(completed.program)
        return completed

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Limit the time of one operation over ``sftp()``, and translate a lost connection into our error.

        Other SFTP errors are the caller's. An operation that hangs ends its SFTP session, not the connection: a command
        that runs beside it continues, and the keepalive detects a dead machine.
        """
        used, session = self._connection, self._sftp
        try:
            async with self._translating(ANSWER):
                yield
        except HostUnreachableError as error:
            if isinstance(error.__cause__, TimeoutError):
                self._drop(session)
            elif self._connection is used:
                await self.close()
            raise

    @contextlib.asynccontextmanager
    async def _translating(self, seconds: float | None) -> AsyncIterator[None]:
        import asyncssh

        try:
            async with asyncio.timeout(seconds):
                yield
        except asyncssh.SFTPError as error:
            if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
                raise _unreachable(self, error) from error
            raise
        except (asyncssh.Error, OSError, TimeoutError, ValueError) as error:
            # asyncssh raises ValueError for a key or a known_hosts file that cannot be read.
            raise _unreachable(self, error) from error

    def _drop(self, session: SFTPClient | None) -> None:
        if session is not None:
            session.exit()
        if self._sftp is session:
            self._sftp = None

    async def _connect(self, stack: contextlib.AsyncExitStack, address: SshAddress) -> SSHClientConnection:
        import asyncssh

        options: dict[str, Any] = {"keepalive_interval": _KEEPALIVE}
        options |= {"kex_algs": _KEY_EXCHANGES, "encryption_algs": _CIPHERS}
        if address.jump is not None:
            options["tunnel"] = await self._connect(stack, address.jump)
        if not address.personal:
            options |= {"config": None, "known_hosts": _readable(self, address.known_hosts_file or os.devnull)}
            if address.key_file:
                options |= {"client_keys": [_readable(self, address.key_file)], "agent_path": None}
        if address.user:
            options["username"] = address.user
        if address.port != 22:
            options["port"] = address.port
        connection = await asyncssh.connect(address.host, **options)
        stack.push_async_callback(connection.wait_closed)
        stack.callback(connection.close)
        return connection


async def _ended(stack: contextlib.AsyncExitStack) -> None:
    with contextlib.suppress(Exception):
        await stack.aclose()


def _gone(connection: SshConnection, reason: str) -> HostUnreachableError:
    return HostUnreachableError(reason, where=connection.name, hint="Check its sshd and the network")


def _readable(connection: SshConnection, path: str) -> str:
    """The path, if the file can be read: asyncssh treats a missing known_hosts file as empty."""
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        hint = f"Correct hosts.{connection.name} in the server configuration, or provide the file"
        raise HostUnreachableError(f"{path} cannot be read ({reason})", where=connection.name, hint=hint) from None


def _unreachable(connection: SshConnection, error: Exception) -> HostUnreachableError:
    import asyncssh

    address = connection.address
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        known = address.known_hosts_file or "~/.ssh/known_hosts"
        problem = "its host key is unknown, or not the one we know"
        hint = (
            "Ask its administrator whether the key was changed. If so, add the new one (`ssh-keyscan "
            f"-p {address.port} {address.host}`, compared with what they say) to {known}; it is never "
            "added automatically"
        )
        return HostUnreachableError(problem, where=connection.name, hint=hint)
    if isinstance(error, asyncssh.PermissionDenied):
        key = f"the public half of {address.key_file}" if address.key_file else "your public key"
        hint = f"Add {key} to authorized_keys of {address.user or 'the user'} there"
        return HostUnreachableError("it refuses our login", where=connection.name, hint=hint)
    if isinstance(error, asyncssh.KeyImportError):
        hint = "It must be a private key without a passphrase, in OpenSSH or PEM format"
        return HostUnreachableError(f"{address.key_file} is not a usable key", where=connection.name, hint=hint)
    if isinstance(error, asyncssh.ChannelOpenError):
        return _gone(connection, f"it refuses another session ({_reason(error)})")
    if isinstance(error, ValueError):
        hint = f"A line of {address.known_hosts_file} may be damaged"
        return HostUnreachableError("a file for the connection cannot be read", where=connection.name, hint=hint)
    return _gone(connection, f"the machine does not answer ({_reason(error)})")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "reason", "") or type(error).__name__


def _command(argv: Sequence[str], directory: str, env: Mapping[str, str] | None) -> bytes:
    """The command as one line for the login's shell. Names that are not UTF-8 are valid too."""
    words = shlex.join(argv)
    if env is not None:
        given = shlex.join(f"{name}={value}" for name, value in env.items())
        words = f'env -i PATH="$PATH" HOME="$HOME" {given} {words}'
    line = f"cd {shlex.quote(directory)} && exec {words}" if directory else f"exec {words}"
    return line.encode("utf-8", "surrogateescape")


async def _start(connection: SSHClientConnection, command: Any) -> SSHClientProcess[bytes]:
    import asyncssh

    for pause in _PAUSES:
        with contextlib.suppress(asyncssh.ChannelOpenError):
            return await connection.create_process(command, encoding=None, term_type=None)
        await asyncio.sleep(pause)
    return await connection.create_process(command, encoding=None, term_type=None)


async def _collect(running: Any, program: str, stdin: bytes, limits: process.Limits) -> process.Completed:
    async def feed() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            running.stdin.write(stdin)
            running.stdin.write_eof()

    async def drain(stream: Any, limit: int) -> bytes:
        kept = bytearray()
        while chunk := await stream.read(64 * process.KIB):
            kept += chunk
            if len(kept) > limit:
                raise _TooMuchError
        return bytes(kept)

    try:
        async with asyncio.timeout(limits.timeout):
            _, stdout, stderr = await asyncio.gather(
                feed(), drain(running.stdout, limits.stdout), drain(running.stderr, limits.stderr)
            )
            await running.wait_closed()
    except TimeoutError:
        running.terminate()
        return process.Completed(program, -15, timed_out=True)
    except _TooMuchError:
        running.terminate()
        return process.Completed(program, -15, overflowed=True)
    status = running.exit_status
    return process.Completed(program, -1 if status is None or status < 0 else status, stdout, stderr)


class _TooMuchError(Exception):
    """The command prints more than it may."""
