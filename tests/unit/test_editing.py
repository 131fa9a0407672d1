"""How a value and an edited text get into an encrypted source: decided from text alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.adapters.local.private_text import editor_command, file_system_at
from reconciler.core.dotenv.grammar import Quote, parse_env_file
from reconciler.core.dotenv.interpolation import resolve_env_file, resolve_raw_env_file
from reconciler.core.dotenv.quoting import UnwritableValueError, write_value
from reconciler.core.editing.source_edits import edited_text, set_value, unset_value
from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from tests.support.cases import each

CANARY = "cAn4ry"
GIT = f"# head\nA=1\nexport B='two'\nREF=${{A}}\nC={CANARY}\n".encode()
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.text("\\'\"$ #\n\r\t{}=aA")


def set_in(git: bytes, key: str, value: str, parser: Parser = Parser.COMPOSE) -> str | None:
    edit = set_value("production/api.env", git, key, Secret(value.encode()), parser)
    return edit and edit.content.reveal().decode()


def refusal(key: str, value: bytes = b"x", git: bytes = GIT, parser: Parser = Parser.COMPOSE) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        set_value("production/api.env", git, key, Secret(value), parser)
    assert CANARY not in f"{caught.value} {caught.value.__context__!r}"
    return caught.value


# --- a value ---------------------------------------------------------------------------------------------------------


@given(VALUES, st.sampled_from([None, *Quote]))
def test_every_value_reaches_the_container_as_it_is_in_one_line(value: str, quote: Quote | None) -> None:
    line = f"KEY={write_value(value.encode(), Parser.COMPOSE, quote)}\n"
    assert resolve_env_file(line.encode(), {"A": "other", "a": "other"}) == {"KEY": value}
    assert line.count("\n") == 1


@given(VALUES)
def test_a_file_of_docker_run_holds_the_value_itself_or_nothing(value: str) -> None:
    try:
        line = f"KEY={write_value(value.encode(), Parser.RAW)}\n"
    except UnwritableValueError:
        assert "\n" in value or value.endswith("\r")
    else:
        assert line == f"KEY={value}\n"
        assert resolve_raw_env_file(line.encode(), {}) == {"KEY": value}


@each(
    ("value", "quote", "written"),
    [
        pytest.param("https://host/a?b=c", None, "https://host/a?b=c", id="plain"),
        pytest.param("", None, "", id="empty"),
        pytest.param("plain", Quote.SINGLE, "'plain'", id="as it was quoted"),
        pytest.param("it's", Quote.SINGLE, '"it\'s"', id="quotes that no longer fit"),
        pytest.param("$2b$12$x", None, "'$2b$12$x'", id="dollar"),
        pytest.param("#1", None, "'#1'", id="hash"),
        pytest.param("a\nb", None, r'"a\nb"', id="line break"),
        pytest.param(r"a\nb", None, r"'a\nb'", id="backslash and n"),
        pytest.param("a\\", None, r'"a\\"', id="backslash at the end"),
        pytest.param("it's $5", None, r'"it' + "'" + r's \$5"', id="quote and dollar"),
    ],
)
def test_a_value_gets_the_simplest_quotes(value: str, quote: Quote | None, written: str) -> None:
    assert write_value(value.encode(), Parser.COMPOSE, quote) == written


@pytest.mark.parametrize("value", [b"a\0" + CANARY.encode(), b"\xff" + CANARY.encode()], ids=["NUL", "not UTF-8"])
def test_what_no_variable_can_hold_is_refused_without_quoting_it(value: bytes) -> None:
    assert "the value" in str(refusal("A", value))


# --- a key -----------------------------------------------------------------------------------------------------------


def test_only_the_line_of_the_key_changes() -> None:
    assert set_in(GIT, "B", "new one") == GIT.decode().replace("'two'", "'new one'")
    assert set_in(GIT, "NEW", "1") == f"{GIT.decode()}NEW=1\n"
    assert unset_value("t", GIT, "B", Parser.COMPOSE).content.reveal() == GIT.replace(b"export B='two'\n", b"")


def test_the_value_that_it_has_already_is_no_edit() -> None:
    assert set_in(GIT, "A", "1") is None
    assert set_in(GIT, "B", "two") is None


def test_a_reference_is_replaced_even_by_the_value_that_it_has_now() -> None:
    assert set_in(GIT, "REF", "1") == GIT.decode().replace("${A}", "1")


@pytest.mark.parametrize(
    ("key", "says"),
    [("A B", "not the name of a key"), ("1A", "not the name"), ("sops_mac", "metadata"), ("X_unencrypted", "plain")],
)
def test_what_cannot_be_a_key_is_refused(key: str, says: str) -> None:
    assert says in str(refusal(key))


def test_a_file_that_cannot_be_changed_by_key_names_the_line_and_the_way_on() -> None:
    error = refusal("A", git=b"A=1\nA=2\n")
    assert "line 2" in str(error)
    assert "`reconciler edit production/api.env`" in error.hint


def test_a_key_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(RefusedError, match=r"no such key.*A, B, REF, C"):
        unset_value("t", GIT, "NONE", Parser.COMPOSE)


# --- a text ----------------------------------------------------------------------------------------------------------


def test_comments_order_and_groups_stay_as_they_were_edited() -> None:
    edit = edited_text(GIT, b"B=2\n\n# group\nNEW=1\nA=1\n \n\n", Parser.COMPOSE)
    assert edit.content.reveal() == b"B=2\n#\n# group\nNEW=1\nA=1\n"
    assert edit.keys == KeyChange(added=("NEW",), removed=("C", "REF"), changed=("B",))
    assert edit.blank_lines == 1
    assert len(parse_env_file(edit.content.reveal())) == 3


def test_a_line_that_sops_cannot_hold_is_named_by_its_number_in_the_editor() -> None:
    with pytest.raises(RefusedError, match="line 4: it is not one KEY=value") as caught:
        edited_text(GIT, f"A=1\n\nB=2\n{CANARY}\n".encode(), Parser.COMPOSE)
    assert CANARY not in str(caught.value)


# --- the editor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"EDITOR": "nano -w", "VISUAL": "code --wait"}, ["code", "--wait"]),
        ({"EDITOR": "'my editor' -x", "VISUAL": " "}, ["my editor", "-x"]),
        ({}, ["vi"]),
    ],
)
def test_visual_comes_before_editor_and_both_may_have_arguments(settings: dict[str, str], command: list[str]) -> None:
    assert editor_command({"PATH": "/nowhere", **settings}) == command


def test_vim_is_told_to_keep_nothing_elsewhere() -> None:
    command = editor_command({"PATH": "/nowhere", "EDITOR": "/usr/local/bin/nvim -R"})
    assert command[:5] == ["/usr/local/bin/nvim", "-R", "-n", "-i", "NONE"]


def test_a_quote_that_is_not_closed_names_its_variable() -> None:
    with pytest.raises(RefusedError, match="EDITOR: has a quote"):
        editor_command({"EDITOR": "vi 'x"})


def test_the_file_system_is_that_of_the_deepest_and_latest_mount() -> None:
    mounts = (
        "1 1 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / /dev rw - devtmpfs udev rw\n"
        "3 2 0:3 / /dev/shm rw shared:1 - tmpfs tmpfs rw\n4 1 0:4 / /with\\040space rw - tmpfs t rw\n"
        "5 1 0:5 / /run rw - tmpfs t rw\n6 1 8:2 / /run rw - xfs /dev/sdb rw\n"
    )
    paths = ("/tmp", "/dev/shm", "/dev/shm/x", "/dev/shmx", "/with space/x", "/run/user/0")
    assert [file_system_at(path, mounts) for path in paths] == ["ext4", "tmpfs", "tmpfs", "devtmpfs", "tmpfs", "xfs"]
