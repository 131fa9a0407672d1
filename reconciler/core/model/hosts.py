"""How the machines of an environment are reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SshAddress:
    """How to reach a machine over SSH. ``user`` "" is the operator's own, or what their ssh_config says.

    Without ``key_file`` the agent's keys are used. ``known_hosts_file`` None and ``personal`` mean: like the operator's
    own ssh, with ~/.ssh/config, known_hosts and keys. ``jump`` is the machine to connect through.
    """

    host: str
    port: int = 22
    user: str = ""
    key_file: str | None = None
    known_hosts_file: str | None = None
    jump: SshAddress | None = None
    personal: bool = False

    @property
    def shown(self) -> str:
        """As a URL, for messages."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}{'' if self.port == 22 else f':{self.port}'}"
