"""Where an import begins: a machine, or a place on it, named as for `reconciler compare`."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.app.compare.addresses import ssh_address
from reconciler.app.compare.side_names import Kind, read_side
from reconciler.core.errors import RefusedError
from reconciler.core.model.hosts import SshAddress
from reconciler.core.text import printable

_FORMS = (
    "An import begins at ssh://USER@HOST[:PORT]/PATH, ssh://USER@HOST for all of its Compose projects, file:PATH, or "
    "here: for all Compose projects of this machine"
)


@dataclass(frozen=True, slots=True)
class Side:
    """``text`` as it was typed; ``address`` None is this machine; ``path`` None is every Compose project there."""

    text: str
    address: SshAddress | None
    path: str | None


def parse(text: str, ssh_key: str | None = None, known_hosts: str | None = None) -> Side:
    """Given a side as it was typed, and the files to log in with, return it. Raises RefusedError for any other."""
    if text == "here:":
        return Side(text, None, None)
    name = read_side(text)
    if name.kind not in (Kind.FILE, Kind.SSH):
        raise RefusedError("is no machine", where=printable(text), hint=_FORMS)
    return Side(text, ssh_address(name, ssh_key, known_hosts), name.what)
