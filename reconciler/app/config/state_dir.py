"""Where the state directory is: all that a command needs to know before it asks the daemon."""

from __future__ import annotations

from reconciler.app.config.strict_yaml import MAX_BYTES, UnreadableError, read_document

DEFAULT_STATE_DIR = "/var/lib/reconciler"


def find_state_dir(config_file: str) -> str | None:
    """The ``state_dir`` of the server configuration; None where only reading all of it says what is wrong."""
    try:
        with open(config_file, "rb") as file:
            state_dir = read_document(file.read(MAX_BYTES + 1), config_file).data.get("state_dir", DEFAULT_STATE_DIR)
    except (OSError, UnreadableError):
        return None
    return state_dir if isinstance(state_dir, str) and state_dir.startswith("/") else None
