"""Asks the Docker engine directly: a look takes a millisecond rather than the start of a `docker`."""

from __future__ import annotations

import http.client
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 300.0  # seconds; long, so that a busy machine fails no test
_USUAL_SOCKET = "/var/run/docker.sock"
KINDS = {"container": "containers", "network": "networks", "volume": "volumes"}


def engine_socket() -> str:
    """The socket of the engine that `docker` would use."""
    return os.environ.get("DOCKER_HOST", f"unix://{_USUAL_SOCKET}").removeprefix("unix://")


def ask_engine(method: str, path: str, **query: str) -> Any:
    """The engine's answer to a request as data; None for one without content, or about what is not there."""
    status, content = request(method, path, **query)
    return content if status < 400 else None


def request(
    method: str, path: str, *, at: str = "", body: Any = None, timeout: float = TIMEOUT, **query: str
) -> tuple[int, Any]:
    """Status and content (None for none) of a request to the engine, or to the one whose socket lies ``at`` a path.

    Raises OSError if it does not answer within ``timeout`` seconds.
    """
    connection = _Connection(at or engine_socket(), timeout)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, f"/{path}?{urlencode(query)}", data, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            content = response.read()
            return response.status, json.loads(content) if content[:1] in (b"{", b"[") else content.decode() or None
    finally:
        connection.close()


def labelled(kind: str, **labels: str) -> list[str]:
    """The ids of the containers (running or not), networks or volumes with these labels of Compose, newest first."""
    filters = json.dumps({"label": [f"com.docker.compose.{name}={value}" for name, value in labels.items()]})
    match kind:
        case "container":
            return [container["Id"] for container in ask_engine("GET", "containers/json", all="1", filters=filters)]
        case "network":
            return [network["Id"] for network in ask_engine("GET", "networks", filters=filters)]
        case _:
            return [volume["Name"] for volume in ask_engine("GET", "volumes", filters=filters)["Volumes"] or []]


def remove_labelled(**labels: str) -> bool:
    """Remove the containers, networks and volumes; return whether there were any, so that the caller looks again."""
    removed = False
    for kind, plural in KINDS.items():
        if identifiers := labelled(kind, **labels):
            removed = True
            options = {"force": "1", "v": "1"} if kind == "container" else {"force": "1"} if kind == "volume" else {}
            with ThreadPoolExecutor() as pool:  # one that has gone by itself is not a failure
                list(pool.map(lambda name: ask_engine("DELETE", f"{plural}/{name}", **options), identifiers))  # noqa: B023
    return removed


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
