"""How the machine of a side is reached."""

from __future__ import annotations

import os

from reconciler.app.compare.side_names import Kind, SideName
from reconciler.core.model.hosts import SshAddress


def ssh_address(name: SideName, ssh_key: str | None, known_hosts: str | None) -> SshAddress | None:
    """The address of an ssh:// side, None for any other. Without files to log in with, as the person's own ssh."""
    if name.kind is not Kind.SSH:
        return None
    if ssh_key is None and known_hosts is None:
        return SshAddress(name.host, name.port, name.user, personal=True)
    known = known_hosts or os.path.expanduser("~/.ssh/known_hosts")
    return SshAddress(name.host, name.port, name.user, ssh_key, known)
