"""Whether a file with a key is for its owner alone. Pure."""

from __future__ import annotations

from reconciler.core.decide.guards import is_below

_OTHERS = 0o077
_GROUP_READS = 0o040


def is_exposed(path: str, mode: int, credentials: str) -> bool:
    """Whether others may read or change the file at ``path``, by its ``mode``.

    systemd gives a credential to a service by an access control list, which the mode shows as a group that reads:
    below ``credentials``, the directory of our own unit ("": none), that is no exposure.
    """
    below = bool(credentials) and is_below(path, credentials)
    return bool(mode & _OTHERS & ~(_GROUP_READS if below else 0))
