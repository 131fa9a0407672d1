"""The server's own digest key: made at the first start, and never replaced."""

from __future__ import annotations

import contextlib
import os
import secrets

from reconciler.adapters.store import SqliteStore
from reconciler.core.errors import StoreError
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester

_ANOTHER_KEY = (
    "Restore the right one from a backup of the machine. If it is lost, move state.db and digest.key away and start "
    "again: files equal to git are then recorded, one that differs is held as first contact. Existing backups stay, "
    "but can only be restored by hand"
)


def open_digester(state_dir: str, store: SqliteStore) -> Digester:
    """The server's own digest key, created at the first start (0600).

    Raises StoreError if it cannot be created or read, has the wrong size, or is not the one that the store's digests
    were made with: with another, every file would look changed in every reconciliation.
    """
    path, known = digest_key_file(state_dir), store.digest_key()
    try:
        if known is None and not os.path.exists(path):
            _make_digest_key(path)
    except OSError as error:
        hint = "Make the state directory writable for the daemon's user, with room in it"
        problem = f"the digest key cannot be created ({os.strerror(error.errno or 0)})"
        raise StoreError(problem, where=path, hint=hint) from error
    digester = read_digester(state_dir)
    mark = digester(b"the digest key")
    if known is None:
        store.note_digest_key(mark)
    elif known != mark:
        problem = "this is not the digest key that state.db was made with"
        raise StoreError(problem, where=path, hint=_ANOTHER_KEY, id="digest-key-replaced")
    return digester


def digest_key_file(state_dir: str) -> str:
    """Where the key is kept."""
    return os.path.join(state_dir, "digest.key")


def read_digester(state_dir: str) -> Digester:
    """The digester with the key that there is. Raises StoreError."""
    path = digest_key_file(state_dir)
    try:
        with open(path, "rb") as file:
            key = file.read(DIGEST_KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise StoreError("the digest key is gone", where=path, hint=_ANOTHER_KEY, id="digest-key-lost") from error
    except OSError as error:
        hint = "Make it readable for the daemon's user"
        problem = f"the digest key cannot be read ({os.strerror(error.errno or 0)})"
        raise StoreError(problem, where=path, hint=hint) from error
    if len(key) != DIGEST_KEY_BYTES:
        problem = f"the digest key does not have {DIGEST_KEY_BYTES} bytes"
        raise StoreError(problem, where=path, hint=_ANOTHER_KEY, id="digest-key-replaced")
    return Digester(key)


def _make_digest_key(path: str) -> None:
    """All or nothing; if another process is faster, its key stays."""
    new = f"{path}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(DIGEST_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.unlink(new)
