"""Env files: the corpus of what Docker really reads, refusals that name no secret, differences that show none."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.dotenv.grammar import (
    DotenvEntry,
    EnvFileError,
    Quote,
    duplicate_keys,
    parse_env_file,
    parse_raw_env_file,
)
from reconciler.core.dotenv.ignored_keys import with_server_keys, without_keys
from reconciler.core.dotenv.interpolation import resolve_env_file, resolve_raw_env_file
from reconciler.core.dotenv.readings import key_diff
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser
from tests.support.cases import each

ENVIRONMENT = {
    "EL_SET": "fromos",
    "EL_EMPTY": "",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}
CORPUS = Path(__file__).parent.parent / "data" / "env-corpus.jsonl"
CASES = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
# Files without a variable: `docker create` sends null for them, as the corpus has for a refused file.
RAW_WITHOUT_VARIABLES = {
    *("basic/empty_file", "basic/indented_comment", "basic/only_crlf", "basic/only_spaces"),
    *("enc/bom_only", "err/html_page", "inh/unset"),
}


def content(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["text_b64"]) if "text_b64" in case else case["text"].encode()


def refusal(read: Callable[[], object]) -> EnvFileError:
    with pytest.raises(EnvFileError) as caught:
        read()
    return caught.value


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_the_corpus_is_whole() -> None:
    assert len(CASES) == 237


@each("case", CASES, ids=lambda case: case["id"])
def test_compose_file_is_read_as_compose_reads_it(case: dict[str, Any]) -> None:
    if case["accepted"]:
        assert resolve_env_file(content(case), ENVIRONMENT) == case["compose"]
    else:
        refusal(lambda: resolve_env_file(content(case), ENVIRONMENT))


@each("case", CASES, ids=lambda case: case["id"])
def test_raw_file_is_read_as_docker_run_reads_it(case: dict[str, Any]) -> None:
    if case["docker_run"] is not None:
        expected = dict(variable.split("=", 1) for variable in case["docker_run"])
        assert resolve_raw_env_file(content(case), ENVIRONMENT) == expected
    elif case["id"] in RAW_WITHOUT_VARIABLES:
        assert resolve_raw_env_file(content(case), ENVIRONMENT) == {}
    else:
        refusal(lambda: resolve_raw_env_file(content(case), ENVIRONMENT))


# --- what the corpus leaves out; every line was read with Docker Compose 2.26.1 --------------------------------------


@each(
    ("text", "expected"),
    [
        pytest.param("A=${X:-{a}} ${EL_SET:-b}", {"A": "{a} fromos"}, id="a default may hold a pair of braces"),
        pytest.param("A=${X:-{a} $EL_SET} }z", {"A": "{a} fromos }z"}, id="the first balanced brace closes"),
        pytest.param("A=${X:-{}}x}", {"A": "{}}x"}, id="the character after an opening brace does not count"),
        pytest.param("A=${X:-{{}}}", {"A": "{{}}"}, id="two opening braces count once"),
        pytest.param(
            "A=${X:-{a $EL_SET }  $EL_SET", {"A": "{a fromos   fromos"}, id="unbalanced: the line's last brace closes"
        ),
        pytest.param('A="${X:-a}}\n${EL_SET}"', {"A": "a}\nfromos"}, id="a reference does not reach the next line"),
        pytest.param("A=${X:-${Y:-${Z:-${EL_SET}}}}", {"A": "fromos"}, id="defaults nest"),
        pytest.param("A=${EL_SET?${X:-a}}", {"A": "fromos"}, id="the message of ? is substituted"),
        pytest.param("A=${X:-$$}$", {"A": "$$"}, id="a doubled dollar in a default"),
        pytest.param("A=${X:-$}", {"A": "$"}, id="a lone dollar in a default"),
        pytest.param(
            "\u017f=1\n\u212a=2\nA=$\u017f${\u212a}", {"\u017f": "1", "\u212a": "2", "A": "12"}, id="case folding"
        ),
        pytest.param("A=x\nB=${A\u017f:-y}${A\u212a:-y}", {"A": "x", "B": "yy"}, id="case folding inside a name"),
        pytest.param("A=$éx", {"A": "$éx"}, id="other letters make no reference"),
        pytest.param('A="$$ \\$$ $\\$"\n', {"A": "$ $$ $$"}, id="an escaped dollar is a doubled one"),
        pytest.param(
            'A="\\$EL_SET \\\\$EL_SET"\n', {"A": "$EL_SET \\fromos"}, id="an escaped backslash escapes nothing"
        ),
        pytest.param('A="\\0377\\0400\\0378\\0\\01"\n', {"A": "ÿ\\400\\378\\\\1"}, id="octal escapes"),
        pytest.param("A='a\\'b\\\\'\n", {"A": "a'b\\\\"}, id="single quotes know one escape"),
        pytest.param("A='a\\\\\\'b'\n", {"A": "a\\\\'b"}, id="a pair of backslashes, then an escaped quote"),
        pytest.param("export\n# c\nA=1\n", {"A": "1"}, id="export alone names nothing"),
        pytest.param("export\vA=1\n", {"export\vA": "1"}, id="a vertical tab does not end export"),
        pytest.param("A\u00a0B=1\n", {"A\u00a0B": "1"}, id="a blank other than space may stand in a key"),
        pytest.param("A=x\x1c\n", {"A": "x\x1c"}, id="a file separator is no blank"),
        pytest.param("A B", {"": "A B"}, id="an end without newline makes a value of what is there"),
        pytest.param('A=""B', {"A": "", "": "B"}, id="the same after a quote"),
        pytest.param("EL_SET:\n", {"EL_SET": ""}, id="an empty value is not inherited"),
    ],
)
def test_rules_that_the_corpus_leaves_out(text: str, expected: dict[str, str]) -> None:
    assert resolve_env_file(text.encode(), ENVIRONMENT) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"A=\xe2\x82\n", {"A": "\ufffd\ufffd"}, id="one replacement for each byte"),
        pytest.param(b"A=\xed\xa0\x80\n", {"A": "\ufffd" * 3}, id="an encoded surrogate is not UTF-8"),
        pytest.param(b"A=\xc3\nB=${A}\xa9\n", {"A": "\ufffd", "B": "é"}, id="bytes that substitution joins"),
    ],
)
def test_bytes_that_are_not_utf8(data: bytes, expected: dict[str, str]) -> None:
    assert resolve_env_file(data, {}) == expected


def test_environment_wins_in_references_but_not_over_the_key_itself() -> None:
    assert resolve_env_file(b"EL_SET=file\nA=$EL_SET\n", ENVIRONMENT) == {"EL_SET": "file", "A": "fromos"}


def test_a_value_is_not_substituted_twice() -> None:
    assert resolve_env_file(b"A=$OUTSIDE\nB=$A\n", {"OUTSIDE": "$A ${"}) == {"A": "$A ${", "B": "$A ${"}


@pytest.mark.parametrize(
    ("size", "ending", "accepted"),
    [(65533, b"", True), (65533, b"\n", True), (65532, b"\r\n", True), (65534, b"\n", False), (65533, b"\r\n", False)],
)
def test_raw_line_length_is_limited_as_docker_limits_it(size: int, ending: bytes, accepted: bool) -> None:
    data = b"A=" + b"x" * size + ending
    if accepted:
        assert resolve_raw_env_file(data, {}) == {"A": "x" * size}
    else:
        assert refusal(lambda: resolve_raw_env_file(data, {})).code == "line-too-long"


def test_raw_line_loses_one_carriage_return() -> None:
    assert resolve_raw_env_file(b"A=1\r\r\n", {}) == {"A": "1\r"}


def test_raw_byte_order_mark_counts_only_at_the_start() -> None:
    assert resolve_raw_env_file(b"\xef\xbb\xbfA=1\n\xef\xbb\xbfB=2\r\n", {}) == {"A": "1", "\ufeffB": "2"}


# --- refusals --------------------------------------------------------------------------------------------------------


@each(
    ("text", "line", "code"),
    [
        ("A=1\n\n# c\nB@C=2\n", 4, "bad-key"),
        ("A\x1c=1\n", 1, "bad-key"),
        ("\ufeff\ufeffA=1\n", 1, "bad-key"),
        ("A=1\nINVALID LINE\n", 2, "space-in-key"),
        ("export export A=1\n", 1, "space-in-key"),
        ("A=1\r\nexport ", 2, "missing-key"),
        ("A='x\ny'\nB=\"x\ny\n", 3, "unterminated-quote"),
        ('A=1\nB="x\\"\n', 2, "unterminated-quote"),
        ("A=1\nB=${\n", 2, "bad-substitution"),
        ('A="\n\n"\nB="x\n${1}"\n', 4, "bad-substitution"),
        ("A=${X:-{}} ${EL_SET:-b}", 1, "bad-substitution"),
        ('A="${X:-${Y:-a}\n}"', 1, "bad-substitution"),
        ("A=${EL_SET:-${}}", 1, "bad-substitution"),
        ("A=${\u0131:-a}", 1, "bad-substitution"),
        ("\ufeffA=1\nB=${X:?}", 2, "required-variable"),
        ("A=${EL_EMPTY:?set it}", 1, "required-variable"),
        ("A=${EL_SET:-${X?set it}}", 1, "required-variable"),
    ],
)
def test_refusal_names_line_and_code(text: str, line: int, code: str) -> None:
    error = refusal(lambda: resolve_env_file(text.encode(), ENVIRONMENT))
    assert (error.line, error.code) == (line, code)
    assert str(error).startswith(f"line {line}: {code}: ")


@pytest.mark.parametrize(
    ("data", "line", "code"),
    [
        (b"A=1\n=2\n", 2, "missing-key"),
        (b"A=1\nA B=2\n", 2, "space-in-key"),
        (b"A=1\n#\n\tA\t=2\n", 3, "space-in-key"),
        (b"A=1\nA=\xff\n", 2, "not-utf8"),
        (b"A=\xed\xa0\x80\n", 1, "not-utf8"),
    ],
)
def test_raw_refusal_names_line_and_code(data: bytes, line: int, code: str) -> None:
    error = refusal(lambda: resolve_raw_env_file(data, ENVIRONMENT))
    assert (error.line, error.code) == (line, code)


def test_values_that_double_each_other_are_refused_before_they_fill_the_memory() -> None:
    data = b"A=aaaaaaaaaaaaaaaa\n" + b"A=$A$A\n" * 100
    assert refusal(lambda: resolve_env_file(data, {})).code == "too-large"


# --- entries ---------------------------------------------------------------------------------------------------------


def test_entries_come_in_order_with_lines_and_quotes() -> None:
    entries = parse_env_file(b"# c\nB='x\ny' A=\"$B\"\nexport C\n\nB: 2 # c\n")
    assert [(entry.key, entry.line, entry.template, entry.inherited, entry.quote) for entry in entries] == [
        ("B", 2, "x\ny", False, Quote.SINGLE),
        ("A", 3, "$B", False, Quote.DOUBLE),
        ("C", 4, "", True, None),
        ("B", 6, "2", False, None),
    ]


def test_export_alone_is_not_an_entry() -> None:
    assert parse_env_file(b"export\nexport \t\n") == ()


def test_raw_entries_keep_everything_after_the_equals_sign() -> None:
    entries = parse_raw_env_file(b"B='x' # c\n\n  C\r\nB=\n")
    assert [(entry.key, entry.line, entry.template, entry.inherited, entry.quote) for entry in entries] == [
        ("B", 1, "'x' # c", False, None),
        ("C", 3, "", True, None),
        ("B", 4, "", False, None),
    ]


def test_repr_of_an_entry_shows_no_value() -> None:
    assert "canary" not in repr(parse_env_file(b"A='canary'\nB=$canary\n") + parse_raw_env_file(b"A=canary\n"))


def test_duplicates_are_the_keys_that_occur_twice() -> None:
    assert duplicate_keys(parse_env_file(b"B=1\nA=1\nC=1\nA\nB=2\nA=3\n")) == ("A", "B")
    assert duplicate_keys(parse_env_file(b"A=1\na=1\n")) == ()


# --- differences -----------------------------------------------------------------------------------------------------


def test_key_diff_gives_sorted_names() -> None:
    diff = key_diff(b"D=1\nC=1\nB=1\nA=1\nE=1\n", b"E=1\nB=2\nA=2\nG=1\nF=1\n")
    assert diff == KeyChange(added=("F", "G"), removed=("C", "D"), changed=("A", "B"))
    assert not diff.empty


def test_key_diff_with_an_absent_file() -> None:
    assert key_diff(None, b"B=1\nA=1\n") == KeyChange(added=("A", "B"))
    assert key_diff(b"B=1\nA=1\n", None) == KeyChange(removed=("A", "B"))
    assert key_diff(None, None).empty


def test_key_diff_compares_what_references_stand_for() -> None:
    assert key_diff(b"A=fromos\nB=x\n", b"A=$EL_SET\nB=${A:+x}\n", {"EL_SET": "fromos"}).empty
    assert key_diff(b"X=1\nA=${X}\n", b"X=2\nA=${X}\n").changed == ("A", "X")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"A=postgres://${ONE}/x\n", b"A=postgres://${TWO}/x\n"),
        (b"A=ab$cd9\n", b"A=ab$xy7\n"),
        (b"A=${LEVEL:-info}\n", b"A=info\n"),
        (b"A=${ONE:?}\nB=1\n", b"A=${TWO:?}\nB=1\n"),
        (b"A\n", b"A=\n"),
    ],
)
def test_what_refers_to_something_unknown_is_compared_as_it_is_written(old: bytes, new: bytes) -> None:
    assert key_diff(old, new).changed == ("A",)
    assert key_diff(old, old).empty
    assert key_diff(b"A='${X}'\n", b'A="\\${X}"\n').empty
    assert key_diff(b'A="${X}"\n', b"A=$X\n").empty


def test_key_diff_follows_the_parser() -> None:
    old, new = b"A=1\n", b"A='1'\n"
    assert key_diff(old, new).empty
    assert key_diff(old, new, parser=Parser.RAW) == KeyChange(changed=("A",))
    assert key_diff(b"\xff", b"'", parser=Parser.OPAQUE).empty


@pytest.mark.parametrize(("old", "new"), [(b"A='", b"A=1"), (b"A=1", b"A='"), (None, b"A='"), (b"A='", b"A='")])
def test_key_diff_refuses_what_compose_refuses(old: bytes | None, new: bytes) -> None:
    assert refusal(lambda: key_diff(old, new)).code == "unterminated-quote"


# --- properties ------------------------------------------------------------------------------------------------------

relaxed = settings(deadline=None, max_examples=150)
pieces = st.sampled_from(
    (
        *(
            "A",
            "B",
            "EL_SET",
            "=",
            "=",
            "=",
            ":",
            "\n",
            "\n",
            "\r",
            "\t",
            " ",
            " #",
            "#",
            "$",
            "${",
            "${A:-",
            "${B?",
            "$A",
        ),
        *(
            "${EL_SET:+",
            "{",
            "}",
            "}",
            "'",
            '"',
            "\\",
            "\\n",
            "\\0101",
            "export ",
            "\ufeff",
            "é",
            "\x00",
            "\u2028",
            "\x1c",
        ),
    )
)
written = st.lists(pieces, max_size=30).map("".join)
anything = st.one_of(st.binary(max_size=200), written.map(str.encode), st.text(max_size=100).map(str.encode))
environments = st.dictionaries(st.sampled_from(["A", "B", "EL_SET", "é"]), written, max_size=3)


Read = Callable[[bytes, Mapping[str, str]], dict[str, str]]
readers = pytest.mark.parametrize(
    ("read", "entries_of"), [(resolve_env_file, parse_env_file), (resolve_raw_env_file, parse_raw_env_file)]
)


def attempt(read: Read, data: bytes, environment: Mapping[str, str]) -> dict[str, str] | EnvFileError:
    try:
        return read(data, environment)
    except EnvFileError as error:
        return error


@readers
@relaxed
@given(data=anything, environment=environments)
def test_a_file_is_read_or_refused_and_nothing_else(
    read: Read, entries_of: Callable[[bytes], tuple[DotenvEntry, ...]], data: bytes, environment: dict[str, str]
) -> None:
    values = attempt(read, data, environment)
    if isinstance(values, EnvFileError):
        assert 1 <= values.line <= data.count(b"\n") + 1
        return
    json.dumps(values, ensure_ascii=False).encode()  # no half characters
    entries = entries_of(data)
    assert {entry.key for entry in entries if not entry.inherited} <= values.keys()
    assert values.keys() <= {entry.key for entry in entries}
    assert [entry.line for entry in entries] == sorted(entry.line for entry in entries)


@relaxed
@given(anything, environments, st.sampled_from([Parser.COMPOSE, Parser.RAW]))
def test_a_file_does_not_differ_from_itself(data: bytes, environment: dict[str, str], parser: Parser) -> None:
    with contextlib.suppress(EnvFileError):
        assert key_diff(data, data, environment, parser).empty


@pytest.mark.parametrize("read", [resolve_env_file, resolve_raw_env_file])
@relaxed
@given(before=st.lists(pieces, max_size=15), after=st.lists(pieces, max_size=15))
def test_an_error_shows_nothing_of_the_file(read: Read, before: list[str], after: list[str]) -> None:
    canary = "CANARY5e1f"
    error = attempt(read, "".join((*before, canary, *after)).encode(), {})
    if isinstance(error, EnvFileError):
        assert error.__context__ is None
        texts = (str(error), repr(error), str(vars(error)), *traceback.format_exception(error))
        assert canary not in "".join(texts)


def in_single_quotes(value: str) -> str:
    return "'" + value.replace("'", "\\'") + "'"


def in_double_quotes(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def bare(value: str) -> str:
    return value.replace("$", "$$")


@st.composite
def assignments(draw: st.DrawFn) -> tuple[str, str, str]:
    """A value, and two ways to write it that Compose reads alike."""
    value = draw(st.one_of(st.text(max_size=20), st.text("abc 12#$'\"\\{}\n=", max_size=12)))
    ways = [in_double_quotes]
    if "\\" not in value:  # single quotes cannot hold every backslash
        ways.append(in_single_quotes)
    if value and value == value.strip() and value.isprintable() and value[0] not in "'\"" and " #" not in value:
        ways.append(bare)
    first, second = draw(st.sampled_from(ways)), draw(st.sampled_from(ways))
    return value, first(value), second(value)


@relaxed
@given(
    st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_.]{0,5}", fullmatch=True), assignments(), max_size=6), st.randoms()
)
def test_order_quotes_and_comments_are_cosmetic(expected: dict[str, tuple[str, str, str]], rng: Any) -> None:
    old = "".join(f"{key}={first}\n" for key, (_, first, _) in expected.items())
    lines = [f"export {key} = {second} # why\n" for key, (_, _, second) in expected.items()]
    rng.shuffle(lines)
    new = "# rewritten\n\n" + "".join(lines)
    assert resolve_env_file(old.encode(), {}) == {key: value for key, (value, _, _) in expected.items()}
    assert key_diff(old.encode(), new.encode()).empty


@relaxed
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_changed_value_is_seen(old: str, new: str) -> None:
    diff = key_diff(f"A={in_double_quotes(old)}\nB=1".encode(), f"A={in_double_quotes(new)}\nB=1".encode())
    assert diff.changed == (() if old == new else ("A",))


# --- hostile files ---------------------------------------------------------------------------------------------------


def test_deep_nesting_is_read_without_recursion() -> None:
    depth = 50_000
    assert resolve_env_file(b"A=" + b"${X:-" * depth + b"x" + b"}" * depth, {}) == {"A": "x"}
    assert resolve_env_file(b"A=" + b"${X:+" * depth + b"x" + b"}" * depth, {"X": "y"}) == {"A": "x"}
    assert refusal(lambda: resolve_env_file(b"A=" + b"${X:-" * depth, {})).code == "bad-substitution"


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "open references": lambda n: b"A=" + b"${" * n,
    "open defaults": lambda n: b"A=" + b"${A:-" * n,
    "nested defaults": lambda n: b"A=" + b"${X:-x" * n + b"}" * n,
    "nested alternatives": lambda n: b"A=" + b"${SET:+x" * n + b"}" * n,
    "defaults in one line": lambda n: b"A=" + b"${X:-x}" * n + b"y" * 100 * n,
    "defaults in many lines": lambda n: b'A="' + b"${X:-{x}\n" * n + b'"',
    "unbalanced defaults": lambda n: b"A=" + b"${X:-{" * n + b"}" * n,
    "opening braces": lambda n: b"A=${X:-" + b"{" * n + b"}",
    "closing braces": lambda n: b"A=${X:-" + b"}" * n,
    "dollars": lambda n: b"A=" + b"$" * n,
    "a long name": lambda n: b"A=${" + b"A" * n,
    "double quotes": lambda n: b"A=" + b'""' * n,
    "open double quote": lambda n: b'A="' + b"x\n" * n,
    "open single quote": lambda n: b"A='" + b"\\'" * n,
    "backslashes": lambda n: b'A="' + b"\\\\" * n + b'"',
    "many assignments in a line": lambda n: b'A="" ' * n + b"#" * 100 * n,
    "keys": lambda n: b"A=\n" * n,
    "bare keys": lambda n: b"A\n" * n,
    "comments": lambda n: b"# c\n" * n,
    "blanks": lambda n: b"A" + b" \t" * n + b"=1",
    "newlines": lambda n: b"\n" * n,
    "exports": lambda n: b"export\n" * n,
    "bytes that are not UTF-8": lambda n: b"A=" + b"\xff" * n,
    "doubling": lambda n: b"A=aaaaaaaa\n" + b"A=$A$A\n" * n,
}


def seconds(data: bytes) -> float:
    start = time.process_time()
    with contextlib.suppress(EnvFileError):
        resolve_env_file(data, {"SET": "x"})
    return time.process_time() - start


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_no_faster_than_the_file(hostile: Callable[[int], bytes]) -> None:
    small = min(seconds(hostile(1_000)) for _ in range(3))
    large = min(seconds(hostile(16_000)) for _ in range(2))
    # Sixteen times the size; what grows with the square of it would take 256 times as long.
    assert large < 40 * small + 0.05, f"{small:.3f} s, then {large:.3f} s"


# --- keys that are left to the server --------------------------------------------------------------------------------


@each("parser", [Parser.COMPOSE, Parser.RAW])
@each("case", CASES, ids=lambda case: case["id"])
def test_a_file_without_nothing_is_the_file(case: dict[str, Any], parser: Parser) -> None:
    assert without_keys(content(case), parser, ["never-a-key"]) == content(case)
    assert with_server_keys(content(case), b"other=1\n", parser, ["never-a-key"]) == content(case)


@each("case", CASES, ids=lambda case: case["id"])
def test_a_file_without_everything_has_no_variable(case: dict[str, Any]) -> None:
    try:
        parse_env_file(content(case))
    except EnvFileError:
        return
    assert [
        entry.key for entry in parse_env_file(without_keys(content(case), Parser.COMPOSE, ["*"])) if entry.key
    ] == []


@pytest.mark.parametrize(
    ("git", "live", "merged"),
    [
        ("A=1\nFLAG_X=off\nB=2\n", "A=0\nFLAG_X=on\n", "A=1\nFLAG_X=on\nB=2\n"),
        ("A=1\n", "A=0\nFLAG_X=on", "A=1\nFLAG_X=on"),
        ("A=1", "FLAG_X=on\nFLAG_Y=off\n", "A=1\nFLAG_X=on\nFLAG_Y=off\n"),
        ("FLAG_X=off\nA=1\n", "A=1\n", "FLAG_X=off\nA=1\n"),
        ("A=1\nFLAG_X=off\n", "FLAG_X='two\nlines' # why\n", "A=1\nFLAG_X='two\nlines' # why\n"),
        ("A=1\nFLAG_X=off\n", "FLAG_X='not closed\n", "A=1\nFLAG_X=off\n"),
    ],
    ids=["in-place", "added", "no-newline", "gone-from-the-server", "several-lines", "unreadable"],
)
def test_matching_keys_keep_their_live_statement(git: str, live: str, merged: str) -> None:
    assert with_server_keys(git.encode(), live.encode(), Parser.COMPOSE, ["FLAG_*"]).decode() == merged


def test_what_matches_makes_no_difference_between_two_files() -> None:
    first, two = b"A=1\nFLAG_X=on\n# c\nB=2\n", b"A=1\n# c\nB=2\n"
    assert without_keys(first, Parser.COMPOSE, ["FLAG_*"]) == without_keys(two, Parser.COMPOSE, ["FLAG_*"]) == two


@given(st.lists(st.tuples(st.sampled_from("ABXY"), st.text("ab \"'#$\\", max_size=6))), st.booleans())
def test_an_overlaid_file_has_the_live_values_of_the_keys_left_to_it(pairs: list[tuple[str, str]], end: bool) -> None:
    live = "\n".join(f"{key}='{value.replace(chr(39), '')}'" for key, value in pairs) + "\n" * end
    try:
        values = resolve_env_file(live.encode(), {})
    except EnvFileError:
        return
    merged = resolve_env_file(with_server_keys(b"A=git\nX=git\n", live.encode(), Parser.COMPOSE, ["X", "Y"]), {})
    assert merged["A"] == "git"
    assert merged["X"] == values.get("X", "git")
    assert merged.get("Y") == values.get("Y")
