"""Imports of libraries that do more than we need while they are imported."""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify


def import_gitpython() -> None:
    """Import GitPython without letting it start a process: it is given a git that cannot be executed.

    It asks that one for its version, and is set to ignore the failure. We never let it run git.
    """
    _import("git", {"GIT_PYTHON_REFRESH": "quiet", "GIT_PYTHON_GIT_EXECUTABLE": os.devnull})


def import_aiohttp() -> None:
    """Import aiohttp without the certificates of this machine's authorities, which it would read twice: 2 MB, and a
    twentieth of the daemon's start. Whoever makes a request to another machine passes ``trust`` as its ``ssl``."""
    _import("aiohttp", {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull})


def import_notifier() -> type[RustNotify]:
    """watchfiles' notifier alone. The package itself imports anyio and multiprocessing, to wait for it in ways that we
    do not use: 1.5 MB."""
    name = "watchfiles._rust_notify"
    if name not in sys.modules:
        package = importlib.util.find_spec("watchfiles")  # finds it, and imports nothing
        found = package and importlib.machinery.PathFinder.find_spec(name, package.submodule_search_locations)
        if found is None or found.loader is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return cast("type[RustNotify]", sys.modules[name].RustNotify)


def trust(*urls: str) -> ssl.SSLContext | bool:
    """How the servers at these addresses are verified: by this machine's authorities, read once it comes to that."""
    return _authorities() if any(url.lower().startswith("https:") for url in urls) else True


@functools.cache
def _authorities() -> ssl.SSLContext:
    """As aiohttp makes it: some servers want to hear what is spoken over TLS."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _import(module: str, variables: Mapping[str, str]) -> None:
    if module not in sys.modules:
        with _environment(variables):
            importlib.import_module(module)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
