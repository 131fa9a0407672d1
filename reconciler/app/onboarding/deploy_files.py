"""`reconciler deploy-files`: write the unit, the alerts, the dashboard and the compose file of the package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources

from reconciler.core.errors import RefusedError
from reconciler.core.text import listed

EXAMPLE = "example"  # belongs to the demo
_PYTHON_CACHE = "__pycache__"  # an installer compiles the one script among the files


@dataclass(frozen=True, slots=True)
class DeployFile:
    """``path`` is relative to the directory; ``created`` is False where it was there already, with the same bytes."""

    path: str
    created: bool


def shared_directory(name: str) -> str:
    """The directory ``deploy`` or ``envs``: inside an installed package, or beside the package in a checkout."""
    package = resources.files("reconciler")
    installed = package / "shared" / name
    return str(installed) if installed.is_dir() else os.path.join(os.path.dirname(str(package)), name)


def write_deploy_files(directory: str) -> list[DeployFile]:
    """Write the files below ``directory``, which is created if missing. A file that exists does not change.

    Raises RefusedError, before anything is written, where a file exists with other content.
    """
    shared = shared_directory("deploy")
    try:
        contents = {path: _content(os.path.join(shared, path)) for path in _paths(shared)}
        existing = [path for path in contents if os.path.lexists(os.path.join(directory, path))]
        if different := [path for path in existing if not _holds(os.path.join(directory, path), contents[path])]:
            raise RefusedError(
                f"already has other versions of {listed(different)}; nothing was written",
                where=directory,
                hint="Name an empty directory, and compare the two",
            )
        for path, content in contents.items():
            if path not in existing:
                _create(os.path.join(directory, path), content)
    except OSError as error:
        where, hint = str(error.filename or directory), "Name another directory"
        raise RefusedError(f"cannot be written ({error.strerror})", where=where, hint=hint) from None
    return [DeployFile(path, path not in existing) for path in contents]


def _paths(shared: str) -> list[str]:
    paths = []
    for folder, folders, names in os.walk(shared):
        folders[:] = [name for name in folders if name not in (EXAMPLE, _PYTHON_CACHE)]
        paths += [os.path.relpath(os.path.join(folder, name), shared) for name in names]
    return sorted(paths)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _holds(path: str, data: bytes) -> bool:
    return os.path.isfile(path) and _content(path) == data  # a named pipe would block for ever


def _create(path: str, data: bytes) -> None:
    """Create the file whole or not at all. Raises FileExistsError where one has appeared meanwhile."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            os.unlink(path)
            raise
