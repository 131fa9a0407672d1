"""An age plugin, age-plugin-lab: it speaks the protocol of age, and its identities are X25519 keys in another form."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from reconciler.core.sops.bech32 import encode_bech32

_PLUGIN = r'''
import base64, hashlib, sys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from reconciler.core.sops.bech32 import decode_bech32

def stanzas():
    """The client's commands and answers: (arguments, body)."""
    while line := sys.stdin.readline():
        body = ""
        while True:
            part = sys.stdin.readline().rstrip("\n")
            body += part
            if len(part) < 64:
                break
        yield line.rstrip("\n").split(" ")[1:], base64.b64decode(body + "=" * (-len(body) % 4))

def send(*arguments, body=b""):
    text = base64.b64encode(body).decode().rstrip("=")
    print("->", *arguments)
    print(text, flush=True)

def pad(shared, public):
    return hashlib.sha256(shared + public).digest()[:16]

def xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=True))

def identity(commands):
    keys, wrapped = [], []
    for arguments, body in commands:
        if arguments[0] == "add-identity":
            keys.append(X25519PrivateKey.from_private_bytes(decode_bech32(arguments[1].lower())[1]))
        elif arguments[:1] == ["recipient-stanza"] and arguments[2] == "lab":
            wrapped.append((arguments[1], base64.b64decode(arguments[3] + "=="), body))
        elif arguments[0] == "done":
            break
    for index, ephemeral, body in wrapped:
        for key in keys:
            public = key.public_key().public_bytes_raw()
            shared = key.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            opened = xor(body[:16], pad(shared, public))
            if hashlib.sha256(opened).digest()[:4] == body[16:]:
                send("file-key", index, body=opened)
                next(commands)
                break

def recipient(commands):
    recipients, file_keys = [], []
    for arguments, body in commands:
        if arguments[0] == "add-recipient":
            recipients.append(decode_bech32(arguments[1])[1])
        elif arguments[0] == "wrap-file-key":
            file_keys.append(body)
        elif arguments[0] == "done":
            break
    for index, file_key in enumerate(file_keys):
        for public in recipients:
            ephemeral = X25519PrivateKey.generate()
            shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
            share = base64.b64encode(ephemeral.public_key().public_bytes_raw()).decode().rstrip("=")
            check = hashlib.sha256(file_key).digest()[:4]
            send("recipient-stanza", str(index), "lab", share, body=xor(file_key, pad(shared, public)) + check)
            next(commands)

open(MARKER, "a").write("started\n")
{"--age-plugin=identity-v1": identity, "--age-plugin=recipient-v1": recipient}[sys.argv[1]](commands := stanzas())
send("done")
'''


@dataclass(frozen=True, slots=True)
class LabPlugin:
    """``directory`` holds the program; ``starts`` counts how often it was started."""

    directory: Path

    @property
    def path(self) -> str:
        """A PATH that leads to it."""
        return f"{self.directory}{os.pathsep}{os.environ['PATH']}"

    @property
    def starts(self) -> int:
        marker = self.directory / "marker"
        return len(marker.read_text().splitlines()) if marker.exists() else 0


def install_plugin(directory: Path, name: str = "lab") -> LabPlugin:
    directory.mkdir(exist_ok=True)
    program = directory / f"age-plugin-{name}"
    marker = repr(str(directory / "marker"))
    program.write_text(f"#!{sys.executable}\nMARKER = {marker}\n{_PLUGIN}")
    program.chmod(0o755)
    return LabPlugin(directory)


def make_plugin_key(name: str = "lab") -> tuple[str, str]:
    """A recipient and the identity for it."""
    key = X25519PrivateKey.generate()
    public = encode_bech32(f"age1{name}", key.public_key().public_bytes_raw())
    return public, encode_bech32(f"age-plugin-{name}-", key.private_bytes_raw()).upper()
