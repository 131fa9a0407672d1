"""The gate in front of sops. tests/e2e/test_sops.py shows for the same tricks that sops itself would let them through.

The ciphertexts here are made up: nothing in the gate decrypts.
"""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import Callable

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.core.errors import BadCiphertextError, ForeignKeyError, NotEncryptedError, ReconcilerError, SourceError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.sops import ciphertext
from reconciler.core.sops.ciphertext import Ciphertext, EncryptedEntry
from reconciler.core.sops.file_format import format_of
from reconciler.core.sops.own_keys import without_other_keys
from reconciler.core.sops.patterns import MAX_BYTES
from tests.support.cases import each

CANARY = "cAn4ry-s3cret"
RECIPIENT = "age1r3jssezgpavpfe7g835uldxrq8jks3wmzjwcq9mfjewdw4g334hsglaxz6"
ARMOR = r"-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24=\n-----END AGE ENCRYPTED FILE-----\n"


def encrypted(seed: str = "x", kind: str = "str") -> str:
    def text(part: str, size: int) -> str:
        return base64.b64encode((part + seed).encode().ljust(size, b"."))[: size * 4 // 3].decode()

    return f"ENC[AES256_GCM,data:{text('d', 6)},iv:{text('i', 33)},tag:{text('t', 18)},type:{kind}]"


METADATA = {
    "sops_age__list_0__map_enc": ARMOR,
    "sops_age__list_0__map_recipient": RECIPIENT,
    "sops_lastmodified": "2026-01-02T03:04:05Z",
    "sops_mac": encrypted("mac"),
    "sops_unencrypted_suffix": "_unencrypted",
    "sops_version": "3.11.0",
}


def dotenv(*lines: str, **metadata: str | None) -> bytes:
    """Lines, then the metadata; a keyword replaces one of its values, None drops it."""
    merged = {**METADATA, **{f"sops_{key}": value for key, value in metadata.items()}}
    tail = [f"{key}={value}" for key, value in merged.items() if value is not None]
    return "\n".join([*lines, *tail, ""]).encode()


def sops_section(**changes: object) -> dict[str, object]:
    section = {
        "age": [{"recipient": RECIPIENT, "enc": ARMOR}],
        "lastmodified": "2026-01-02T03:04:05Z",
        "mac": encrypted("mac"),
        "version": "3.11.0",
    }
    return {key: value for key, value in {**section, **changes}.items() if value is not ...}


def as_json(content: dict[str, object], **changes: object) -> bytes:
    return json.dumps({**content, "sops": sops_section(**changes)}, indent=1).encode()


def as_yaml(content: str, **changes: object) -> bytes:
    return f"{content}\nsops: {json.dumps(sops_section(**changes))}\n".encode()


def as_yaml_block(content: dict[str, object]) -> bytes:
    """As sops writes it."""
    return yaml.safe_dump({**content, "sops": sops_section()}, indent=4, width=10_000).encode()


def read(name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
    return ciphertext.read_ciphertext(name, data, parse_yaml=parse_yaml, parser=parser)


def refused(name: str, data: bytes, kind: type[ReconcilerError] = BadCiphertextError) -> ReconcilerError:
    with pytest.raises(kind) as raised:
        read(name, data)
    assert type(raised.value) is kind
    assert CANARY not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    return raised.value


# --- the format ---


@each(
    ("name", "expected"),
    [
        ("api.env", Format.DOTENV),
        ("envs/production/api.env", Format.DOTENV),
        (".env", Format.DOTENV),
        (".env.production", Format.DOTENV),
        (".env-production", Format.DOTENV),
        ("api.env.production", Format.DOTENV),
        ("config.yaml", Format.YAML),
        ("config.yml", Format.YAML),
        (".env.yaml", Format.YAML),
        ("config.json", Format.JSON),
        ("config.ini", Format.INI),
        ("nginx.conf", Format.BINARY),
        ("server.key", Format.BINARY),
        ("environment", Format.BINARY),
        ("api.env/motd", Format.BINARY),
        ("", Format.BINARY),
    ],
)
def test_the_name_gives_the_format(name: str, expected: Format) -> None:
    assert format_of(name, b"") is expected


BINARY_STORE = {"data": encrypted()}
OLD_RULE = {"unencrypted_suffix": "_unencrypted", "version": "3.10.2"}
NEW_RULE = {"unencrypted_suffix": "_unencrypted", "version": "3.11.0"}


@pytest.mark.parametrize("name", ["api.env", ".env.production", "config.yaml", "config.json", "config.ini", "a.conf"])
def test_sops_binary_store_is_known_under_any_name(name: str) -> None:
    assert format_of(name, as_json(BINARY_STORE)) is Format.BINARY


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(as_json(BINARY_STORE), Format.BINARY, id="binary store"),
        pytest.param(as_json({"data": ""}), Format.BINARY, id="binary store of an empty file"),
        pytest.param(as_json(BINARY_STORE, **OLD_RULE), Format.BINARY, id="binary store of an older sops"),
        pytest.param(as_json(BINARY_STORE, **NEW_RULE), Format.JSON, id="document whose one key is data"),
        pytest.param(as_json({**BINARY_STORE, "more": encrypted()}), Format.JSON, id="more keys"),
        pytest.param(as_json({"data": {"a": encrypted()}}), Format.JSON, id="data is a mapping"),
        pytest.param(as_json({"data": "plain"}), Format.JSON, id="data is plain"),
        pytest.param(b'{"data": ' + b"[" * 100_000, Format.JSON, id="deeply nested"),
    ],
)
def test_a_json_file_is_a_binary_store_only_where_it_can_be_nothing_else(data: bytes, expected: Format) -> None:
    assert format_of("config.json", data) is expected


def test_an_endless_number_is_not_computed() -> None:
    assert format_of("api.env", b'{"data": 1' + b"0" * 100_000 + b', "sops": {}}') is Format.BINARY


def test_what_is_too_large_is_not_looked_into() -> None:
    assert format_of("api.env", as_json(BINARY_STORE) + b" " * MAX_BYTES) is Format.DOTENV


# --- what is read ---


def test_a_dotenv_file_gives_its_entries_and_who_can_read_it() -> None:
    comment = encrypted("c", "comment")
    a, b = encrypted("a"), encrypted("b", "int")
    result = read("api.env", dotenv(f"#{comment}", "#", f"A={a}", f"export B={b}", "EMPTY=", f" C ={a}"))
    assert result.format is Format.DOTENV
    assert result.entries == (
        EncryptedEntry("", 1, comment, comment.split("iv:")[1].split(",")[0], comment=True),
        EncryptedEntry("A", 3, a, a.split("iv:")[1].split(",")[0]),
        EncryptedEntry("B", 4, b, b.split("iv:")[1].split(",")[0]),
        EncryptedEntry("EMPTY", 5),
        EncryptedEntry("C", 6, a, a.split("iv:")[1].split(",")[0]),
    )
    assert [entry.type for entry in result.entries] == ["comment", "str", "int", "", "str"]
    assert result.metadata.age == (RECIPIENT,)
    assert result.metadata.lastmodified == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("key", ["A", "a_b", "A1", "1A", "spring.datasource.url", "with-dash", "MÜLLER", "export"])
def test_names_that_compose_takes_pass(key: str) -> None:
    assert read("api.env", dotenv(f"{key}={encrypted()}")).entries[0].key == key


def test_an_empty_dotenv_file_and_blank_lines_pass() -> None:
    assert read("api.env", dotenv()).entries == ()
    assert [entry.line for entry in read("api.env", dotenv("", f"A={encrypted()}", "")).entries] == [2]


def test_yaml_gives_paths_lines_and_comments_in_order() -> None:
    value, comment = encrypted(), encrypted("c", "comment")
    text = f"a: {value}\n#{comment}\nb:\n  - {value}\n  - c: {value} #{comment}\n    n: null\n    e: ''\n    l: []\n"
    result = read("config.yaml", as_yaml(text))
    assert [(entry.key, entry.line, entry.comment) for entry in result.entries] == [
        ("a", 1, False),
        ("", 2, True),
        ("b[0]", 3, False),
        ("", 5, True),
        ("b[1].c", 5, False),
        ("b[1].n", 6, False),
        ("b[1].e", 7, False),
    ]
    assert result.metadata.age == (RECIPIENT,)


def test_json_gives_paths() -> None:
    result = read("config.json", as_json({"a": encrypted(), "b": [None, "", {"c": encrypted()}], "d": {}}))
    assert [(entry.key, bool(entry.encrypted)) for entry in result.entries] == [
        ("a", True),
        ("b[0]", False),
        ("b[1]", False),
        ("b[2].c", True),
    ]


def test_a_binary_store_has_one_entry() -> None:
    result = read("nginx.conf", as_json(BINARY_STORE))
    assert (result.format, [entry.key for entry in result.entries]) == (Format.BINARY, ["data"])


def test_empty_lists_of_other_keys_as_older_versions_write_them_pass() -> None:
    changes = {"kms": [], "gcp_kms": None, "azure_kv": [], "hc_vault": [], "pgp": [], "mac_only_encrypted": True}
    assert read("config.json", as_json({"a": encrypted()}, **changes)).metadata.pgp == ()


# --- plaintext: names, never values ---


@each(
    ("name", "data", "expected"),
    [
        pytest.param("api.env", dotenv(f"A={encrypted()}", f"B={CANARY}"), "is not encrypted at B.", id="dotenv"),
        pytest.param("api.env", dotenv("A=<nil>"), "is not encrypted at A.", id="sops set null"),
        pytest.param("api.env", dotenv(f"A_unencrypted={CANARY}"), "encrypted at line 1.", id="default suffix"),
        pytest.param("api.env", dotenv(f"# {CANARY}"), "encrypted at the comment in line 1.", id="dotenv comment"),
        pytest.param("a.yaml", as_yaml(f"a:\n  b: [{CANARY}]"), "is not encrypted at a.b[0].", id="yaml"),
        pytest.param("a.yaml", as_yaml("a: 12"), "is not encrypted at a.", id="yaml number"),
        pytest.param("a.yaml", as_yaml("a: 'null'"), "is not encrypted at a.", id="yaml quoted null"),
        pytest.param("a.yaml", as_yaml(f"a:  # {CANARY}"), "at the comment in line 1.", id="yaml comment"),
        pytest.param("a.json", as_json({"a": [CANARY]}), "is not encrypted at a[0].", id="json"),
        pytest.param("a.json", as_json({"a": 12, "b": True, "c": 1.5}), "encrypted at a, b, c.", id="json scalars"),
        pytest.param("a.conf", as_json({"data": CANARY}), "is not encrypted at data.", id="binary"),
    ],
)
def test_plaintext_in_an_encrypted_file_is_named(name: str, data: bytes, expected: str) -> None:
    error = refused(name, data, NotEncryptedError)
    assert expected in str(error)
    assert f"sops edit {name}" in error.hint


def test_a_rule_that_leaves_values_plain_is_named() -> None:
    error = refused("api.env", dotenv("A=1", f"SECRET={encrypted()}", encrypted_regex="^SECRET"), NotEncryptedError)
    assert "rule encrypted_regex" in error.hint


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        pytest.param(
            "api.env",
            f"# c\nA={CANARY}\nexport b=2\nEMPTY=\n".encode(),
            ": it contains plain values for A, b.",
            id="dotenv",
        ),
        pytest.param("api.env", f"A={CANARY}\r\n".encode(), ": it contains plain values for A.", id="windows"),
        pytest.param("api.env", b"", "is not encrypted. ", id="empty"),
        pytest.param("a.yaml", f"x: &a {CANARY}\ny: *a\n".encode(), "plain values for x, y.", id="yaml with an alias"),
        pytest.param("a.yaml", f"x: {CANARY} # sops\n".encode(), "plain values for x.", id="yaml that mentions sops"),
        pytest.param("a.json", f'{{\n  "x": "{CANARY}"\n}}'.encode(), "plain values for x.", id="json"),
        pytest.param("a.conf", f"worker {CANARY};".encode(), "is not encrypted. ", id="binary"),
        pytest.param("a.conf", b"\xff\x00" + CANARY.encode(), "is not encrypted. ", id="not text"),
    ],
)
def test_a_file_that_is_not_encrypted_names_its_keys(name: str, data: bytes, expected: str) -> None:
    error = refused(name, data, NotEncryptedError)
    assert expected in str(error)
    assert f"sops encrypt --in-place {name}" in error.hint


def test_of_many_keys_ten_are_named() -> None:
    error = refused("api.env", b"".join(b"K%d=x\n" % number for number in range(12)), NotEncryptedError)
    assert "K0, K1, K2, K3, K4, K5, K6, K7, K8, K9 and 2 more." in str(error)


@pytest.mark.parametrize(
    "line",
    [
        "MIIEvQIBADANBgkqhkiG9w0BAQ=x",
        "c2VjcmV0c2VjcmV0c2VjcmV0==",
        "JBSWY3DPEHPK3PXP======",
        '"password": "a=b',
        "s3cret value=x",
    ],
)
def test_what_may_be_a_piece_of_a_secret_is_called_by_its_line(line: str) -> None:
    """A private key in a quoted value of several lines leaves lines that look like keys."""
    for data in (f"A=x\n{line}\n".encode(), dotenv(f"A={encrypted()}", line)):
        with pytest.raises(ReconcilerError) as raised:
            read("api.env", data)
        assert line.partition("=")[0] not in str(raised.value)
        assert "line 2" in str(raised.value)


# --- damage, and tricks ---

HEX_INDEX = "sops_age__list_999999999__map_enc=x"


@each(
    ("lines", "line", "expected"),
    [
        pytest.param([f"A={encrypted()}junk"], 1, "value of A is damaged", id="junk after the value"),
        pytest.param([f"A={encrypted()} # {CANARY}"], 1, "value of A is damaged", id="a remark after the value"),
        pytest.param([f"A={encrypted()[:-1]}"], 1, "value of A is damaged", id="cut short"),
        pytest.param([f"A={encrypted(kind='comment')}"], 1, "value of A is damaged", id="a comment as a value"),
        pytest.param([f"A={encrypted(kind='bytes')}"], 1, "value of A is damaged", id="a type that crashes sops"),
        pytest.param([f"A={encrypted()}", "A="], 2, "A is already set in line 1", id="empty duplicate"),
        pytest.param([f"A={encrypted()}", "export A="], 2, "A is already set in line 1", id="duplicate with export"),
        pytest.param([f"A={encrypted()}", " A ="], 2, "A is already set in line 1", id="duplicate with spaces"),
        pytest.param([f"A: {CANARY}="], 1, "is not a valid variable name", id="a colon hides a value"),
        pytest.param(["A:x="], 1, "is not a valid variable name", id="a colon without a space"),
        pytest.param(["A B="], 1, "is not a valid variable name", id="a space in the name"),
        pytest.param(["export -n A="], 1, "is not a valid variable name", id="export with an option"),
        pytest.param(['"A"='], 1, "is not a valid variable name", id="quotes in the name"),
        pytest.param(["="], 1, "is not a valid variable name", id="no name"),
        pytest.param([" sops_mac="], 1, "is not a valid variable name", id="metadata behind a space"),
        pytest.param(["export sops_mac="], 1, "is not a valid variable name", id="metadata behind export"),
        pytest.param([CANARY], 1, "is not of the form KEY=ENC[…]", id="no equals sign"),
        pytest.param(["#" + encrypted()], 1, "comment in line 1", id="a value as a comment"),
        pytest.param([f"A={encrypted()}\r"], 1, "Windows line endings", id="windows line endings"),
        pytest.param(["\ufeffA="], 1, "unprintable character U+FEFF", id="byte order mark"),
        pytest.param(["A=", "B=\x00"], 2, "unprintable character U+0000", id="null byte"),
        pytest.param(["A=\u2028B="], 1, "unprintable character U+2028", id="another kind of line end"),
        pytest.param(["<<<<<<< HEAD", "A="], 1, "merge conflict", id="conflict, ours"),
        pytest.param(["A=", "||||||| 1234567"], 2, "merge conflict", id="conflict, base"),
        pytest.param(["A=", "=======", "B="], 2, "is not a valid variable name", id="conflict, middle"),
        pytest.param(["A=", ">>>>>>> branch"], 2, "merge conflict", id="conflict, theirs"),
        pytest.param(["sops_mac=" + encrypted()], 0, "repeats a line of the SOPS metadata", id="metadata twice"),
        pytest.param([HEX_INDEX], 1, "what sops never writes", id="list index that eats all memory"),
        pytest.param(["sops_age__list_-1__map_enc=x"], 1, "what sops never writes", id="negative list index"),
        pytest.param(["sops_age__list_01__map_enc=x"], 1, "what sops never writes", id="list index with a zero"),
        pytest.param(["sops_age__list_١__map_enc=x"], 1, "what sops never writes", id="list index in other digits"),
        pytest.param(["sops_AGE__list_1__map_enc=x"], 1, "what sops never writes", id="another case"),
        pytest.param(["sops_age__list_0__list_0=x"], 1, "what sops never writes", id="another shape"),
        pytest.param(["sops_new_thing=x"], 1, "what sops never writes", id="unknown metadata"),
        pytest.param(["sops_=x"], 1, "what sops never writes", id="nameless metadata"),
    ],
)
def test_damage_is_refused_with_its_line(lines: list[str], line: int, expected: str) -> None:
    kind = NotEncryptedError if "comment in" in expected else BadCiphertextError
    error = refused("api.env", dotenv(*lines), kind)
    assert expected in str(error)
    assert error.hint
    if line and kind is BadCiphertextError:
        assert error.where == f"api.env, line {line}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"mac": None}, "no valid mac", id="no MAC"),
        pytest.param({"mac": ""}, "no valid mac", id="empty MAC"),
        pytest.param({"lastmodified": "yesterday"}, "no valid lastmodified", id="bad time"),
        pytest.param({"version": None}, "no valid version", id="no version"),
        pytest.param({"age__list_0__map_recipient": None}, "names no key", id="nobody"),
        pytest.param({"age__list_0__map_recipient": "\x1b[31mred"}, "U+001B", id="control characters as a key"),
        pytest.param({"age__list_0__map_recipient": "everybody"}, "not name a public key", id="not a key"),
    ],
)
def test_metadata_must_be_whole(changes: dict[str, str | None], expected: str) -> None:
    assert expected in str(refused("api.env", dotenv(f"A={encrypted()}", **changes)))


def test_values_without_metadata_are_a_bad_merge() -> None:
    assert "sops_… lines are missing" in str(refused("api.env", f"A={encrypted()}\n".encode()))


Changes = dict[str, str | None]
STORES: dict[str, Callable[[Changes, dict[str, object]], bytes]] = {
    "api.env": lambda flat, nested: dotenv(f"A={encrypted()}", **flat),
    "a.yaml": lambda flat, nested: as_yaml(f"A: {encrypted()}", **nested),
    "a.json": lambda flat, nested: as_json({"A": encrypted()}, **nested),
    "a.conf": lambda flat, nested: as_json(BINARY_STORE, **nested),
}


@each("name", STORES)
@each("kind", ["kms", "gcp_kms", "azure_kv", "hc_vault", "hckms", "pgp"])
def test_keys_of_others_are_named_and_removed_before_sops_sees_the_file(name: str, kind: str) -> None:
    flat: Changes = {f"{kind}__list_0__map_vault_address": "http://192.0.2.1", f"{kind}__list_0__map_enc": "x"}
    data = STORES[name](flat, {kind: [{"vault_address": "http://192.0.2.1", "enc": "x"}]})
    checked = read(name, data)
    assert len(checked.metadata.others) == 1
    if name != "a.yaml":  # in block style, as sops writes it: below
        copy = without_other_keys(data, checked)
        assert b"192.0.2.1" not in copy
        assert kind.encode() not in copy
        assert read(name, copy).entries == checked.entries


def test_an_endless_number_beside_the_keys_of_others_is_not_computed() -> None:
    data = as_json({"A": encrypted()}, pgp=[{"enc": "x"}], shamir_threshold=1).replace(
        b": 1,", b": 1" + b"0" * 9999 + b","
    )
    data = data.replace(b'"shamir_threshold": 1\n', b'"shamir_threshold": 1' + b"0" * 9999 + b"\n")
    assert b"000000" in data
    assert b"000000" not in without_other_keys(data, read("a.json", data))


def test_keys_of_others_in_yaml_are_removed_with_all_their_lines() -> None:
    others = {"hc_vault": [{"vault_address": "http://192.0.2.1", "enc": "a\nb\n"}], "pgp": [{"enc": "a\n\nb\n"}]}
    data = f"A: {encrypted()}\nB:\n    pgp:\n        - {encrypted('b')}\n".encode()
    data += yaml.safe_dump({"sops": sops_section(**others)}, indent=4, width=10_000).encode()
    checked = read("a.yaml", data)
    copy = without_other_keys(data, checked)
    assert yaml.safe_load(copy) == {**yaml.safe_load(data), "sops": sops_section()}
    assert read("a.yaml", copy).metadata.age == (RECIPIENT,)


@each("name", STORES)
@each("key", ["HC_VAULT", "Kms", "hc_Vault", "keyservice"])
def test_keys_in_a_spelling_that_sops_never_writes_are_refused(name: str, key: str) -> None:
    data = STORES[name]({f"{key}__list_0__map_x": "y"}, {key: [{"x": "y"}]})
    assert "what sops never writes" in str(refused(name, data))


@pytest.mark.parametrize("name", STORES)
def test_a_split_key_is_refused_with_the_true_reason(name: str) -> None:
    groups = [{"age": [{"recipient": RECIPIENT, "enc": ARMOR}]}, {"age": [{"recipient": RECIPIENT, "enc": ARMOR}]}]
    flat: Changes = {"key_groups__list_0__map_age__list_0__map_enc": "x", "shamir_threshold": "2"}
    error = refused(name, STORES[name](flat, {"key_groups": groups, "shamir_threshold": 2}), ForeignKeyError)
    assert "split among groups (Shamir)" in str(error)
    assert "contact" not in str(error)


@pytest.mark.parametrize("name", STORES)
def test_the_threshold_that_updatekeys_leaves_behind_is_no_split_key(name: str) -> None:
    read(name, STORES[name]({"shamir_threshold": "1"}, {"shamir_threshold": 1}))


# --- stores whose name says another format ---


@each(
    ("name", "data", "parser", "expected"),
    [
        (".env.prod", as_json({"A": encrypted()}), Parser.COMPOSE, (Format.JSON, Format.DOTENV)),
        ("app.env", as_yaml_block({"A": encrypted()}), Parser.COMPOSE, (Format.YAML, Format.DOTENV)),
        ("secrets.txt", as_json({"A": encrypted()}), Parser.RAW, (Format.JSON, Format.DOTENV)),
        ("secrets.txt", as_json({"A": encrypted()}), Parser.OPAQUE, (Format.JSON, Format.JSON)),
        ("config", as_yaml_block({"A": {"B": encrypted()}}), Parser.OPAQUE, (Format.YAML, Format.YAML)),
        ("app.json", as_yaml_block({"A": encrypted()}), Parser.OPAQUE, (Format.YAML, Format.JSON)),
        ("app.json", as_json({"A": encrypted()}), Parser.OPAQUE, (Format.JSON, Format.JSON)),
        ("env", dotenv(f"A={encrypted()}"), Parser.OPAQUE, (Format.DOTENV, Format.DOTENV)),
        ("app.json", dotenv(f"A={encrypted()}"), Parser.OPAQUE, (Format.DOTENV, Format.DOTENV)),
        ("app.env", as_json(BINARY_STORE), Parser.COMPOSE, (Format.BINARY, Format.BINARY)),
    ],
)
def test_the_content_gives_the_store_and_the_target_what_it_becomes(
    name: str, data: bytes, parser: Parser, expected: tuple[Format, Format]
) -> None:
    checked = read(name, data, parser)
    assert (checked.format, checked.output) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"A": {"B": encrypted()}}, "nested values (A)"),
        ({"A": [encrypted()]}, "nested values (A)"),
        ({"A": encrypted(kind="float")}, "numbers, dates or nulls at A"),
        ({"A": None}, "numbers, dates or nulls at A"),
    ],
)
def test_what_an_env_file_cannot_hold_is_named(content: dict[str, object], expected: str) -> None:
    assert expected in str(refused(".env.prod", as_json(content), SourceError))


@pytest.mark.parametrize("name", ["app.conf", "app.env"])
def test_an_ini_store_is_called_one_under_any_name(name: str) -> None:
    store = f"[app]\nA = {encrypted()}\n[sops]\nlastmodified = 2026-01-02T03:04:05Z\nmac = {encrypted('mac')}\n"
    assert "INI files are not supported" in str(refused(name, store.encode(), SourceError))


# --- nested files ---


@each(
    ("name", "data", "kind", "expected"),
    [
        pytest.param("a.json", b'{"sops": ', BadCiphertextError, "is not valid JSON", id="json cut short"),
        pytest.param("a.json", b'["sops"]', BadCiphertextError, "is not a mapping", id="json list"),
        pytest.param("a.json", b'{"sops": 1}', BadCiphertextError, "one `sops` section", id="sops is a number"),
        pytest.param("a.json", as_json({"SOPS": {}}), BadCiphertextError, "one `sops` section", id="SOPS"),
        pytest.param("a.json", as_json({"ſops": {}}), BadCiphertextError, "one `sops` section", id="long s"),
        pytest.param("a.json", b'{"a":"","a":"","sops":{}}', BadCiphertextError, "has a twice", id="duplicate"),
        pytest.param(
            "a.json", b'{"sops":{"mac":"","mac":""}}', BadCiphertextError, "has mac twice", id="twice in sops"
        ),
        pytest.param("a.json", b'{"sops":{},"sops":{}}', BadCiphertextError, "has sops twice", id="sops twice"),
        pytest.param("a.json", as_json({"a\ud800": ""}), BadCiphertextError, "unprintable", id="lone surrogate"),
        pytest.param("a.json", b'{"sops":' + b"[" * 99_999, SourceError, "deeper", id="json brackets"),
        pytest.param(
            "a.json", b'{"sops":{},"a":' + b"[" * 50 + b"]" * 50 + b"}", SourceError, "deeper", id="deep json"
        ),
        pytest.param(
            "a.json", b'{"sops":{},"a":' + b"[" * 5000 + b"]" * 5000 + b"}", SourceError, "deeper", id="deepest json"
        ),
        pytest.param("a.json", as_json({}, age=[[RECIPIENT]]), BadCiphertextError, "never writes", id="list in age"),
        pytest.param("a.json", as_json({}, age={"0": "x"}), BadCiphertextError, "never writes", id="mapping as age"),
        pytest.param("a.json", as_json({}, age=[{"enc": 1}]), BadCiphertextError, "never writes", id="number in age"),
        pytest.param(
            "a.json",
            as_json({}, age__list_0__map_recipient=RECIPIENT),
            BadCiphertextError,
            "never writes",
            id="flat in nested",
        ),
        pytest.param("a.json", as_json({}, age=[{"enc": "x"}] * 1001), BadCiphertextError, "never", id="1001 keys"),
        pytest.param("a.conf", b"sops\xff", BadCiphertextError, "not UTF-8", id="not text"),
        pytest.param("a.yaml", as_yaml("a: [x"), BadCiphertextError, "is not valid YAML", id="yaml broken"),
        pytest.param("a.yaml", as_yaml("- a"), BadCiphertextError, "is not valid YAML", id="yaml list"),
        pytest.param("a.yaml", b"sops", BadCiphertextError, "is not a mapping", id="yaml scalar"),
        pytest.param("a.yaml", as_yaml("a: &x ''"), SourceError, "an anchor, an alias or a tag", id="anchor"),
        pytest.param("a.yaml", as_yaml("a: *x"), SourceError, "an anchor, an alias or a tag", id="alias"),
        pytest.param("a.yaml", as_yaml("a: !!str ''"), SourceError, "an anchor, an alias or a tag", id="tag"),
        pytest.param("a.yaml", as_yaml("!x a: ''"), SourceError, "an anchor, an alias or a tag", id="tag on a key"),
        pytest.param("a.yaml", as_yaml("? [a]\n: ''"), SourceError, "a key of several parts", id="list as a key"),
        pytest.param("a.yaml", as_yaml("<<: {a: ''}"), SourceError, "a merge key", id="merge key"),
        pytest.param("a.yaml", as_yaml("a: ''") + b"---\nb: ''\n", SourceError, "a second document", id="2 documents"),
        pytest.param("a.yaml", b"%YAML 1.1\n---\n" + as_yaml("a: ''"), SourceError, "a directive", id="directive"),
        pytest.param("a.yaml", as_yaml("a: " + "[" * 40 + "]" * 40), SourceError, "32 levels", id="deep yaml"),
        pytest.param("a.yaml", as_yaml("a: ''\na: ''"), BadCiphertextError, "has a twice", id="yaml duplicate"),
        pytest.param("a.yaml", as_yaml("a: ''\r"), BadCiphertextError, "Windows line endings", id="yaml windows"),
        pytest.param("a.yaml", as_yaml("<<<<<<< x"), BadCiphertextError, "merge conflict", id="yaml conflict"),
        pytest.param(
            "a.json",
            b'{"sops":{},"a":[0' + b",0" * 250_000 + b"]}",
            SourceError,
            "250000 values",
            id="many json values",
        ),
        pytest.param(
            "a.yaml", as_yaml("a: [" + "'', " * 250_000 + "]"), SourceError, "250000 values", id="many in yaml"
        ),
        pytest.param("a.env", dotenv() + b"\n" * 250_000, SourceError, "250000 lines", id="many lines"),
        pytest.param("a.ini", b"[sops]", SourceError, "INI files are not supported", id="ini"),
        pytest.param("a.env", b" " * (MAX_BYTES + 1), SourceError, "is too large", id="too large"),
    ],
)
def test_nested_files_are_refused(name: str, data: bytes, kind: type[ReconcilerError], expected: str) -> None:
    error = refused(name, data, kind)
    assert expected in str(error)
    assert error.hint
    assert error.where.startswith(name)
    assert error.blames_revision


def test_a_broken_yaml_file_names_the_line() -> None:
    value = encrypted()
    assert refused("a.yaml", as_yaml(f"a: {value}\nb: {value}\nc: [{CANARY}")).where == "a.yaml, line 4"
    assert refused("a.yaml", as_yaml(f"a: {value}\nb: ''\na: ''")).where == "a.yaml, line 3"


# --- whatever comes: an answer, soon ---

PIECES = st.sampled_from(
    [
        *("sops", "sops_", "sops_mac=", "A", "export ", "=", ":", "#", "\n", "\r", " ", "\t", "{", "}", "[", "]", ","),
        *('"', "'", "&a ", "*a", "!!x ", "<<", "- ", "? ", "| ", "---\n", "%", "\\", "\x00", "\ufeff", "\u2028", "é"),
        *(encrypted(), '"data":', '"sops":', "null", "<<<<<<< ", dotenv().decode(), as_json(BINARY_STORE).decode()),
    ]
)
NAMES = st.sampled_from(["api.env", ".env.x", "a.yaml", "a.json", "a.conf", "a.ini"])


@given(
    name=NAMES, data=st.binary(max_size=200) | st.lists(PIECES, max_size=25).map(lambda parts: "".join(parts).encode())
)
@example(name="a.yaml", data=b"sops: \xed\xa0\x80")
@example(name="a.json", data=b'{"sops": "\\ud800"}')
def test_anything_else_than_an_error_of_ours_is_a_bug(name: str, data: bytes) -> None:
    try:
        read(name, data)
    except ReconcilerError as error:
        str(error).encode()


@given(position=st.integers(0, 400), replacement=st.binary(max_size=3))
def test_a_damaged_file_gives_entries_or_an_error_of_ours(position: int, replacement: bytes) -> None:
    for name, data in (
        ("api.env", dotenv(f"A={encrypted()}", "B=")),
        ("a.yaml", as_yaml(f"a: {encrypted()}\nb: ['']")),
        ("a.json", as_json({"a": encrypted(), "b": [""]})),
    ):
        try:
            read(name, data[:position] + replacement + data[position + 1 :])
        except ReconcilerError as error:
            str(error).encode()


def filled(head: bytes, unit: bytes, tail: bytes = b"") -> Callable[[], bytes]:
    return lambda: head + unit * ((MAX_BYTES - len(head) - len(tail)) // len(unit)) + tail


YAML_HEAD = b"sops: {}\na: "


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("a.env", filled(dotenv(), b"\n"), id="blank lines"),
        pytest.param("a.env", filled(dotenv(), b"A=\n"), id="short lines"),
        pytest.param("a.env", filled(dotenv(), b" ", b"!="), id="spaces in a name"),
        pytest.param("a.env", filled(dotenv() + b"export", b" ", b"!="), id="spaces after export"),
        pytest.param("a.env", filled(dotenv(), b"a", b"!="), id="a long name"),
        pytest.param("a.env", filled(dotenv() + b"A=ENC[AES256_GCM,data:", b"A"), id="a value without an end"),
        pytest.param("a.env", filled(b"", b"A=x\n"), id="plain lines"),
        pytest.param("a.env", filled(b"", b"<"), id="conflict markers"),
        pytest.param("a.env", filled(b"{", b'"a":1,'), id="json of one key"),
        pytest.param("a.env", filled(b'{"sops":1,"data":', b"9", b"}"), id="a number of 5 million digits"),
        pytest.param("a.json", filled(b'{"sops":', b"["), id="json brackets"),
        pytest.param("a.json", filled(b'{"sops":{},"a":[0', b",0", b"]}"), id="json list"),
        pytest.param("a.json", filled(b'{"sops":{},"a":"', b"\\u0041", b'"}'), id="json escapes"),
        pytest.param("a.yaml", filled(YAML_HEAD + b"[", b"a,"), id="yaml list"),
        pytest.param("a.yaml", filled(YAML_HEAD, b"["), id="yaml brackets"),
        pytest.param("a.yaml", filled(YAML_HEAD, b"{"), id="yaml braces"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b"- "), id="yaml dashes"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b"? "), id="yaml question marks"),
        pytest.param("a.yaml", filled(YAML_HEAD, b"a "), id="yaml long line"),
        pytest.param("a.yaml", filled(YAML_HEAD, b"a\n "), id="yaml lines of one value"),
        pytest.param("a.yaml", filled(YAML_HEAD + b'"', b"\\x41"), id="yaml escapes"),
        pytest.param("a.yaml", filled(YAML_HEAD + b"|\n", b" \n"), id="yaml block"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b"# #\n"), id="yaml comments"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b"a: b\n"), id="yaml one key"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b": "), id="yaml colons"),
        pytest.param("a.yaml", filled(b"sops: {}\n", b"%"), id="yaml percent"),
    ],
)
def test_the_largest_file_takes_no_time(name: str, make: Callable[[], bytes]) -> None:
    data = make()
    started = time.process_time()
    with pytest.raises(ReconcilerError):
        read(name, data)
    assert time.process_time() - started < 2


def test_an_alias_bomb_ends_at_its_first_anchor() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    started = time.process_time()
    error = refused("a.yaml", as_yaml("\n".join(lines)), SourceError)
    assert error.where == "a.yaml, line 1"
    assert time.process_time() - started < 0.5


def test_a_real_file_takes_no_time() -> None:
    data = dotenv(*(f"KEY_{number}={encrypted(str(number))}" for number in range(1000)))
    started = time.process_time()
    assert len(read("api.env", data).entries) == 1000
    assert time.process_time() - started < 0.5
