"""Which real components this machine has. Each marker in pyproject.toml stands for some of them."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.demo import dockerd
from tests.support.commands import run

PROVISION = "make provision (as root)"
REMEDIES = {
    "docker": f"{PROVISION}, then run the tests as root or start the engine",
    "sshd": PROVISION,
    "prometheus": PROVISION,
    "browser": PROVISION,
    "root": "run the tests as root",
    "swarm": f"{PROVISION}, then run the tests as root",
    "systemd": f"{PROVISION}, then run the tests as root",
    "python": PROVISION,
    "image": PROVISION,
}
# What tests/provision.sh has unpacked or made: the newest Python, and the base of the Docker image.
TOOLS = Path("/usr/local/lib/reconciler-tests")
NEWEST_PYTHON = TOOLS / "python" / "bin" / "python"
IMAGE_BASE = TOOLS / "debian-13.tar"
# The script that judges whether a page can be used by everybody.
AXE = TOOLS / "axe.min.js"
# sshd and the like are not on every user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@dataclass(frozen=True, slots=True)
class Missing:
    """Why tests with ``marker`` cannot run here, and the command that changes it."""

    marker: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.marker}: {self.reason}. To run it: {self.remedy}"


def program(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH)


@functools.cache
def missing(marker: str) -> Missing | None:
    """What the marker's tests need and this machine lacks; None where it lacks nothing.

    Looked up once per process: installing something during a test session is not noticed.
    """
    reason = CHECKS[marker]()
    return None if reason is None else Missing(marker, reason, REMEDIES[marker])


def _docker() -> str | None:
    if reason := dockerd.obstacle():
        return reason
    if run("docker", "compose", "version").returncode != 0:
        return "docker has no compose plugin"
    return None if dockerd.static_busybox() else "there is no static busybox to make a test image of"


def _programs(*names: str) -> str | None:
    absent = [name for name in names if program(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def _python() -> str | None:
    return _programs("python3.11") or (None if NEWEST_PYTHON.exists() else "the newest Python was not unpacked")


def _root() -> str | None:
    return None if os.geteuid() == 0 else "only root may do this"


def _swarm() -> str | None:
    image = None if dockerd.static_busybox() else "there is no static busybox to make a test image of"
    return _root() or _programs("dockerd", "docker", "ip", "iptables", "nsenter", "unshare") or image


def _systemd() -> str | None:
    installed = os.access("/lib/systemd/systemd", os.X_OK)
    return _root() or _programs("systemctl", "unshare", "nsenter") or (None if installed else "there is no systemd")


CHECKS: dict[str, Callable[[], str | None]] = {
    "docker": _docker,
    "sshd": lambda: _programs("sshd", "ssh", "ssh-keygen"),
    "prometheus": lambda: _programs("prometheus", "promtool", "prometheus-alertmanager", "amtool"),
    "browser": lambda: _programs("chromium") or (None if AXE.exists() else "axe-core was not fetched"),
    "root": _root,
    "swarm": _swarm,
    "systemd": _systemd,
    "python": _python,
    "image": lambda: None if IMAGE_BASE.exists() else "the base of the image was not made",
}
