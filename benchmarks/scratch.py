"""A server in a scratch directory: a git remote, an age key, a server configuration and 50 encrypted targets."""

from __future__ import annotations

from pathlib import Path

from tests.support.age_key import make_age_key
from tests.support.git_remote import make_git_remote
from tests.support.server import Server

TARGETS = 50
KEYS = 20  # in each file
SOURCES = [f"service-{number:02}.env" for number in range(TARGETS)]


def content(source: str, changed: str = "first") -> bytes:
    """An env file of an ordinary size; ``changed`` is the value of one key."""
    lines = [f"SETTING_{number:02}=value {number} of {source}" for number in range(KEYS - 1)]
    return "\n".join([*lines, f"CHANGED={changed}", ""]).encode()


def make_server(root: Path, compose: str | None = None, name: str = "app") -> Server:
    """Everything below ``root``, committed; live files in its directory ``name``.

    With ``compose`` the targets belong to the stack that it describes.
    """
    app = root / name
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))
    manifest = server.plain(SOURCES) if compose is None else server.manifest(SOURCES)
    if compose is not None:
        (app / "compose.yaml").write_text(compose)
    server.commit({source: content(source) for source in SOURCES}, manifest)
    return server
