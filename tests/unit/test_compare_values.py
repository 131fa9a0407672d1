"""Comparisons of values: plain, quoted, and with references to other variables."""

from __future__ import annotations

from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.app.compare.contents import NO_VARIABLES, KnownVariables, Reader
from reconciler.core.compare.comparison import compare_sides
from reconciler.core.compare.types import Comparison, Expectations, KeyResult, Side, SideFile, Status, Value
from reconciler.core.model.targets import Parser
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester
from tests.support.cases import each

READER = Reader(Digester(bytes(DIGEST_KEY_BYTES)), parse_yaml, None)


def file(text: str, known: KnownVariables = NO_VARIABLES, parser: Parser = Parser.COMPOSE) -> SideFile:
    content = READER.read_plain(text.encode(), parser, known)
    assert content.problem == ""
    return SideFile("api.env", ("api.env",), content.keys, content.digest)


def container(**variables: str) -> SideFile:
    return SideFile("api.env", ("api.env",), {key: READER.value(value) for key, value in variables.items()}, None)


def held(left: SideFile, right: SideFile, *, different: bool = False) -> Comparison:
    return compare_sides(Side("left", (left,)), Side("right", (right,)), Expectations(), different=different)


def key(left: SideFile, right: SideFile, name: str = "A", *, different: bool = False) -> KeyResult:
    (both,) = held(left, right, different=different).files
    return next(result for result in both.keys if result.key == name)


def status(left: SideFile, right: SideFile, name: str = "A", *, different: bool = False) -> Status:
    return key(left, right, name, different=different).status


@each(
    ("left", "right"),
    [
        ("A=postgres://${DB_MAIN}/x\n", "A=postgres://${DB_OTHER}/x\n"),
        ("A=ab$cd9\n", "A=ab$xy7\n"),
        ("A=ab$cd9\n", "A=ab\n"),
        ("A=ab$cd9\n", "A='ab$cd9'\n"),
        ("A=${LEVEL:-info}\n", "A=info\n"),
        ("A=${LEVEL:-info}\n", "A=${LEVEL:-debug}\n"),
        ("A=${LEVEL:+x}\n", "A=\n"),
        ("A\n", "A=\n"),
        ("A\n", "A=${A}\n"),
        ("A=${X}\nA=1\nB=2\nA=${Y}\n", "A=${X}\nA=1\nB=2\nA=${Z}\n"),
    ],
)
@each("beside", ["", "REQUIRED=${X:?}\n"])
def test_values_with_other_references_are_not_the_same(left: str, right: str, beside: str) -> None:
    result = key(file(left + beside), file(right + beside))
    assert (result.status, result.unexplained) == (Status.DIFFERS, True)


@each(
    ("left", "right"),
    [
        ("A=${X}/y\n", 'A="${X}/y"\n'),
        ("A=$X/y\n", "A=${X}/y # of the host\n"),
        ("A=a b\n", "A='a b'\n"),
        ("A='a b'\n", 'A="a b"\n'),
        ("A='ab$cd9'\n", "A=ab$$cd9\n"),
        ("A=\n", "A=''\n"),
        ("A\n", "export A\n"),
        ("A=${X:?}\n", "A=${X:?}\n"),
        ("B=1\nA=${B}2\n", "A=12\nB=1\n"),
        ("A=1\nA=${A}2\n", "A=12\n"),
    ],
)
@each("beside", ["", "REQUIRED=${Z:?}\n"])
def test_values_with_the_same_meaning_are_the_same_despite_their_quotes(left: str, right: str, beside: str) -> None:
    assert status(file(left + beside), file(right + beside)) is Status.SAME


def test_a_key_that_refers_to_another_of_its_file_differs_with_it() -> None:
    assert status(file("B=${X}\nA=${B}\n"), file("B=${Y}\nA=${B}\n")) is Status.DIFFERS
    assert status(file("B=1\nA=${B}-${X}\n"), file("B=2\nA=${B}-${X}\n")) is Status.DIFFERS
    assert status(file("B=1\nB=${X}\nA=${B}\n"), file("A=1\n")) is Status.DIFFERS


def test_a_long_chain_of_references_takes_no_longer_than_its_lines() -> None:
    chain = "".join(f"K{number}=$K{number - 1}$K{number - 1}$X\n" for number in range(1, 5000))
    known = KnownVariables({"X": ""})
    assert status(file(f"K0=$Y\n{chain}", known), file(f"K0=$Y\n{chain}", known), "K4999") is Status.SAME
    assert status(file(f"K0=$Y\n{chain}", known), file(f"K0=$Z\n{chain}", known), "K4999") is Status.DIFFERS


# --- what is known of the project ---


def test_variables_of_the_project_are_resolved() -> None:
    first, second = KnownVariables({"X": "1"}), KnownVariables({"X": "2"})
    assert status(file("A=${X}\n", first), file("A=1\n")) is Status.SAME
    assert status(file("A=${X:-2}\n", first), file("A=2\n", second)) is Status.DIFFERS
    assert status(file("A=${X}\n", first), file("A=${X}\n", second)) is Status.DIFFERS
    assert status(file("A=${X}-${Y}\n", first), file("A=${X}-${Y}\n", second)) is Status.DIFFERS
    assert status(file("A=${X}-${Y}\n", first), file("A=${X}-${Y}\n", first)) is Status.SAME
    assert status(file("A\n", first), file("A\n", KnownVariables({"A": "1"}))) is Status.DIFFERS


def test_a_side_without_a_project_is_compared_with_one_that_has_it_as_written() -> None:
    assert status(file("A=${X}\n"), file("A=${X}\n", KnownVariables({"X": "1"}))) is Status.SAME
    assert status(file("A=${Y}\n"), file("A=${X}\n", KnownVariables({"X": "1"}))) is Status.DIFFERS
    text = "X=1\nA=${X}\n"  # the project's own X wins, of which the other side cannot know
    assert status(file(text), file(text, KnownVariables({"X": "2"}))) is Status.SAME
    assert status(file(text), file("X=1\nA=2\n")) is Status.DIFFERS


def test_a_name_that_may_come_from_another_env_file_is_not_resolved() -> None:
    unsure = KnownVariables({}, frozenset({"X"}))
    assert status(file("X=1\nA=${X}\n", unsure), file("X=1\nA=1\n", unsure)) is Status.DIFFERS
    assert status(file("X=1\nA=${X}\n", unsure), file("X=1\nA=${X}\n")) is Status.SAME


# --- against a container ---


def test_a_container_is_the_same_only_where_the_value_is_known() -> None:
    assert status(file("A='x'\n"), container(A="x")) is Status.SAME
    assert status(file("B=x\nA=${B}\n"), container(A="x", B="x")) is Status.SAME
    assert status(file("A=${X}\n", KnownVariables({"X": "x"})), container(A="x")) is Status.SAME
    assert status(file("A=${X}\n", KnownVariables({"X": "x"})), container(A="y")) is Status.DIFFERS
    for text, value in (("A=ab$cd9\n", "ab"), ("A=${X:-x}\n", "x"), ("A\n", ""), ("A=${X}\n", "${X}")):
        result = key(file(text), container(A=value))
        assert (result.status, result.reason) == (Status.DIFFERS, "refers to a variable whose value is not known")
    assert status(file("A=ab$cd9\n", parser=Parser.RAW), container(A="ab$cd9")) is Status.SAME


# --- two environments ---


def test_a_secret_behind_a_reference_is_neither_shared_nor_another() -> None:
    for left, right in (("${P}", "${P}"), ("${P}", "${Q}"), ("${P}", "invented")):
        result = key(file(f"API_TOKEN={left}\n"), file(f"API_TOKEN={right}\n"), "API_TOKEN", different=True)
        assert (result.status, result.unexplained) == (Status.UNKNOWN, False)
        assert result.reason == "refers to a variable whose value is not known"
    known = file("API_TOKEN=${P}\n", KnownVariables({"P": "invented"}))
    assert status(known, file("API_TOKEN=invented\n"), "API_TOKEN", different=True) is Status.SAME_SECRET


def test_a_sealed_value_stays_unknown() -> None:
    sealed = SideFile("api.env", ("api.env",), {"A": Value(None)}, None)
    for right in (file("A=1\n"), file("A=${X}\n"), sealed):
        result = key(sealed, right)
        assert (result.status, result.reason) == (Status.UNKNOWN, "")
