"""Creates an age key file that only its owner may read."""

from __future__ import annotations

import os

from reconciler.core.errors import RefusedError


def make_age_key_file(path: str) -> str:
    """Create a key file at ``path``, 0600, atomically; return the public key.

    Raises RefusedError where the path exists already, or cannot be written.
    """
    from pyrage import x25519

    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"# public key: {public}\n{identity}\n")
                file.flush()
                os.fsync(descriptor)
            os.link(new, path)  # unlike a rename, this never overwrites
        finally:
            os.unlink(new)
    except FileExistsError as error:
        hint = "Name another file with --age-key-file; a key is never overwritten"
        raise RefusedError("exists already", where=str(error.filename2 or error.filename), hint=hint) from None
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        hint = "Name another path with --age-key-file"
        raise RefusedError(f"the key cannot be written ({reason})", where=path, hint=hint) from None
    return public
