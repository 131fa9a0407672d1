"""A real sshd on a free loopback port, with keys and settings of its own, ended by its process."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.commands import output
from tests.support.components import SEARCH_PATH, program
from tests.support.processes import children
from tests.support.waiting import eventually

ATTEMPTS = 5  # another process may take the free port before sshd does
ENDING = 10.0  # seconds


@dataclass(slots=True)
class Sshd:
    """Logs in ``user`` (who runs the tests) with the key ``key_path``; ``known_hosts`` holds its host key.

    Commands get the machine's ordinary search path; the sftp subsystem is there.
    """

    directory: Path
    host: str = "localhost"
    port: int = 0
    user: str = field(default_factory=lambda: pwd.getpwuid(os.geteuid()).pw_name)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def key_path(self) -> Path:
        return self.directory / "client_key"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def log(self) -> str:
        """What sshd has said so far."""
        return (self.directory / "sshd.log").read_text(errors="replace")

    @property
    def git_ssh_command(self) -> str:
        """For GIT_SSH_COMMAND: this key and these known hosts, nothing of the person's own."""
        options = (
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.known_hosts}",
            f"GlobalKnownHostsFile={os.devnull}",
        )
        return " ".join(["ssh", "-F", os.devnull, "-i", str(self.key_path), *(f"-o {option}" for option in options)])

    def url(self, path: Path) -> str:
        """The git URL of the repository at ``path``."""
        return f"ssh://{self.user}@{self.host}:{self.port}{path}"

    def as_host(self, **more: Any) -> dict[str, Any]:
        """An entry of hosts in the server configuration."""
        return {
            "address": "127.0.0.1",
            "port": self.port,
            "user": self.user,
            "key_file": str(self.key_path),
            "known_hosts_file": str(self.known_hosts),
            "backup_dir": str(self.directory / "backups"),
            **more,
        }

    def let_in(self, key: Path, *, read_only: bool = False) -> None:
        """Accept the key too, or in future only for git's reading, as a forge's read-only deploy key."""
        public = key.with_name(f"{key.name}.pub").read_text()
        others = [line for line in self._authorized_keys.read_text().splitlines(True) if public not in line]
        gate = self.directory / "read_only"
        gate.write_text(
            '#!/bin/sh\ncase "$SSH_ORIGINAL_COMMAND" in git-upload-pack*) exec sh -c "$SSH_ORIGINAL_COMMAND";; esac\n'
            'echo "ERROR: The key you are authenticating with has been marked as read only." >&2\nexit 1\n'
        )
        gate.chmod(0o755)
        options = f'restrict,command="{gate}" ' if read_only else ""
        self._authorized_keys.write_text("".join((*others, options + public)))

    @property
    def _authorized_keys(self) -> Path:
        return self.directory / "authorized_keys"

    def start(self) -> None:
        """Start it, again on the same port if it ran before. Raises AssertionError with its log."""
        fixed = self.port != 0
        for _ in range(1 if fixed else ATTEMPTS):
            if not fixed:
                self.port = _free_port()
            if self._try_to_start():
                return
        raise AssertionError(f"sshd does not start:\n{self.log}")

    def stop(self) -> None:
        """End it and all it serves immediately, as when a server loses power. Does nothing if it does not run."""
        if self._process is not None:
            served = _descendants(self._process.pid)
            self._process.terminate()
            self._process.wait(ENDING)
            for pid in served:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process = None

    def served(self) -> list[int]:
        """The processes that serve its connections."""
        return _descendants(self._process.pid) if self._process else []

    def rotate_host_key(self, *, tell_clients: bool = False) -> None:
        """Restart with a new host key. Clients know the old one unless ``tell_clients``."""
        self.stop()
        _make_key(self.directory / "host_key")
        self.start()
        if tell_clients:
            self.write_known_hosts()

    def write_known_hosts(self) -> None:
        key = (self.directory / "host_key.pub").read_text()
        names = f"[{self.host}]:{self.port},[127.0.0.1]:{self.port}"
        self.known_hosts.write_text(f"{names} {key}")

    def _try_to_start(self) -> bool:
        config = self.directory / "sshd_config"
        config.write_text(_settings(self.directory, self.port))
        sshd = program("sshd")
        assert sshd is not None
        with (self.directory / "sshd.log").open("ab") as log:
            process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(lambda: process.poll() is not None or _greets(self.port))
        if process.poll() is not None:
            return False
        self._process = process
        return True


def make_sshd(directory: Path) -> Sshd:
    """A running sshd with its files in ``directory``."""
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd drops its privileges into it
    _make_key(directory / "host_key")
    _make_key(directory / "client_key")
    (directory / "authorized_keys").write_bytes((directory / "client_key.pub").read_bytes())
    (directory / "home").mkdir()
    server = Sshd(directory)
    server.start()
    server.write_known_hosts()
    return server


def _descendants(pid: int) -> list[int]:
    """Each connection is served by a child of sshd, in a session of its own, and that one's children."""
    return [process for child in children(pid) for process in (child, *_descendants(child))]


def _make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "reconciler-test", "-f", path)


def _settings(directory: Path, port: int) -> str:
    return f"""\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
# The temporary directory lies below /tmp, which everybody may write to.
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
# Tests open many connections at the same time.
MaxStartups 100
Subsystem sftp internal-sftp
# bash reads ~/.bashrc for every command over SSH: what a developer has there may take half a second.
SetEnv PATH={SEARCH_PATH} HOME={directory}/home
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
