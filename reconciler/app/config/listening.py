"""Where the HTTP server may listen: an address or a socket file, as ``http.listen`` names it."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from reconciler.app.config.scalars import Form, normalised

UNIX = "unix:"
_LONGEST_SOCKET_PATH = 107  # bytes, the limit of Linux


class Address(NamedTuple):
    """A TCP address. An IPv6 ``host`` is without brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines can connect; a name is not known before it is resolved, so it is not."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return not is_loopback(self.host)


class SocketFile(NamedTuple):
    """A Unix domain socket."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"

    @property
    def beyond_loopback(self) -> bool:
        return False


def is_loopback(host: str) -> bool:
    """Whether an IP address, also an IPv4 one written as IPv6, is this machine's own. A name is not."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _listening(text: str) -> Address | SocketFile:
    if text.startswith(UNIX):
        path = normalised(text.removeprefix(UNIX))
        if len(path.encode()) > _LONGEST_SOCKET_PATH:
            raise ValueError(f"is longer than the {_LONGEST_SOCKET_PATH} bytes of a socket's path")
        return SocketFile(path)
    host, _, port = text.rpartition(":")
    if int(port) > 65535:
        raise ValueError("has a port above 65535")
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    return Address(host, int(port))


LISTEN = Form(
    "an address to listen at",
    "host:port, such as 127.0.0.1:9464 or [::1]:9464, or a socket such as unix:/run/reconciler/http.sock",
    r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}|unix:(?!(.*/)?\.\.(/|$))(?!.*/\.?$)/[^\x00-\x1f\x7f\\]+)$",
    _listening,
)
