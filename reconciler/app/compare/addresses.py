"""The SSH address of a side."""

from __future__ import annotations

import os

from reconciler.app.compare.side_names import SideKind, SideName
from reconciler.core.model.hosts import SshAddress


def ssh_address(name: SideName, ssh_key: str | None, known_hosts: str | None) -> SshAddress | None:
    """The address of an ssh:// side, None for any other. Without key and known_hosts files, the user's own ssh settings
    apply."""
    if name.kind is not SideKind.SSH:
        return None
    if ssh_key is None and known_hosts is None:
        return SshAddress(name.host, name.port, name.user, personal=True)
    known = known_hosts or os.path.expanduser("~/.ssh/known_hosts")
    return SshAddress(name.host, name.port, name.user, ssh_key, known)
