"""Three versions are merged by key: what each side changed, in our order, with everybody's comments."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from reconciler.core.merging.leaves import applied, merge_leaves
from reconciler.core.merging.lines import MergedLines, MergeSide, StoredLine, TwiceError, merge_lines
from tests.support.cases import each


def lines(text: str) -> list[StoredLine]:
    return [
        StoredLine("" if line.startswith("#") else line.partition("=")[0], line, line) for line in text.splitlines()
    ]


def merged(base: str, ours: str, theirs: str, **decisions: MergeSide) -> MergedLines:
    return merge_lines(lines(base), lines(ours), lines(theirs), decisions)


def text(result: MergedLines) -> str:
    assert not result.conflicts
    return "".join(f"{line.stored}\n" for line in result.decided)


BASE = "# one\nA=1\nB=2\n# three\nC=3\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("# one\nA=9\nB=2\n# three\nC=3\n", "# one\nA=1\nB=2\n# three\nC=8\n", "# one\nA=9\nB=2\n# three\nC=8\n"),
        (BASE, "# one\nA=1\n# three\nC=3\n", "# one\nA=1\n# three\nC=3\n"),
        (f"{BASE}X=1\n", f"{BASE}Y=1\n", f"{BASE}Y=1\nX=1\n"),
        ("C=3\nB=2\nA=1\n", "# one\nA=1\n# new\nN=1\nB=2\n# three\nC=3\n", "C=3\nB=2\nA=1\n# new\nN=1\n"),
        (BASE, "# changed\nA=1\nB=2\nC=3\n", "# changed\nA=1\nB=2\nC=3\n"),
        ("# one\nA=5\nB=2\n# three\nC=3\n", "# one\nA=5\nB=2\n# three\nC=3\n", "# one\nA=5\nB=2\n# three\nC=3\n"),
        ("A=1\n", BASE, "A=1\n"),
        (f"# both\n{BASE}", f"# both\n{BASE}", f"# both\n{BASE}"),
    ],
)
def test_what_each_side_changed_is_kept(ours: str, theirs: str, expected: str) -> None:
    assert text(merged(BASE, ours, theirs)) == expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("A=8\nB=2\n", "A=9\nB=2\n"),
        ("B=2\n", "A=9\nB=2\n"),
        ("A=8\nB=2\n", "B=2\n"),
    ],
)
def test_a_key_that_both_sides_changed_is_a_conflict_until_it_is_decided(ours: str, theirs: str) -> None:
    base = "A=1\nB=2\n"
    assert [conflict.key for conflict in merged(base, ours, theirs).conflicts] == ["A"]
    assert text(merged(base, ours, theirs, A=MergeSide.OURS)) == ours
    assert text(merged(base, ours, theirs, A=MergeSide.THEIRS)) == theirs


def test_a_key_that_stands_twice_cannot_be_merged() -> None:
    with pytest.raises(TwiceError):
        merged("A=1\n", "A=1\nA=2\n", "A=3\n")


@each("seed", range(20))
def test_disjoint_changes_merge_as_the_oracle_says(seed: int) -> None:
    """50 random pairs a seed: 1,000 in all."""
    chance = random.Random(seed)
    for _ in range(50):
        base = {f"K{number}": str(chance.random()) for number in range(chance.randrange(1, 12))}
        keys = [*base, *(f"N{number}" for number in range(6))]
        chance.shuffle(keys)
        half = len(keys) // 2
        sides, oracle = [], dict(base)
        for own in (keys[:half], keys[half:]):
            side = dict(base)
            for key in own:
                match chance.randrange(3):
                    case 0:
                        side[key] = oracle[key] = str(chance.random())
                    case 1:
                        side.pop(key, None)
                        oracle.pop(key, None)
            sides.append("".join(f"{key}={value}\n" for key, value in side.items()))
        written = "".join(f"{key}={value}\n" for key, value in base.items())
        result = text(merged(written, *sides))
        assert dict(line.split("=") for line in result.splitlines()) == oracle


def test_documents_merge_by_their_leaves() -> None:
    base = {"db": {"host": "a", "password": "x", "ports": [1, 2]}, "log": None}
    ours = {"db": {"host": "b", "password": "x", "ports": [1, 2]}, "log": None, "mine": 1}
    theirs = {"db": {"host": "a", "password": "y", "ports": [1]}, "theirs": {"deep": True}}
    result = merge_leaves(base, ours, theirs)
    assert result.conflicts == ()
    assert applied(ours, result.changes) == {
        "db": {"host": "b", "password": "y", "ports": [1]},
        "mine": 1,
        "theirs": {"deep": True},
    }


@pytest.mark.parametrize(
    ("base", "theirs"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": {"b": 1, "c": {"d": 2}}}, {}),
        ({"a": {"b": 1, "c": {"d": 2}}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": "value"}),
        ({"a": "value"}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": {"b": [1]}}),
    ],
)
def test_a_document_takes_the_form_of_the_side_that_changed_it(base: dict[str, Any], theirs: dict[str, Any]) -> None:
    result = merge_leaves({"x": 1, **base}, {"x": 2, **base}, {"x": 1, **theirs})
    assert result.conflicts == ()
    changed = applied({"x": 2, **base}, result.changes)
    assert json.dumps(changed) == json.dumps({"x": 2, **theirs})
    assert list(result.changes.values()) == sorted(result.changes.values(), key=lambda leaf: leaf is not None)


def test_leaves_that_both_sides_changed_are_conflicts() -> None:
    base, ours, theirs = {"a": {"b": 1}}, {"a": {"b": 2}}, {"a": {"b": 3}}
    assert merge_leaves(base, ours, theirs).conflicts == (("a", "b"),)
    decided = merge_leaves(base, ours, theirs, {"a.b": MergeSide.THEIRS})
    assert applied(ours, decided.changes) == theirs
    assert merge_leaves(base, {"a": 5}, theirs).conflicts == (("a", "b"),)  # a value where they have a mapping
    assert merge_leaves(base, {"a": {"b": {"c": 1}}}, theirs).conflicts == (("a", "b"),)
    assert merge_leaves({"a": 1}, {"a": 5}, {"a": {"b": 1}}).conflicts == (("a", "b"), ("a",))
    assert merge_leaves({}, {"a": {"b": 1}}, {"a": 5}).conflicts == (("a",),)


def test_what_ours_added_to_a_mapping_stays_where_theirs_removed_it() -> None:
    ours = {"a": {"b": 1, "new": 2}}
    assert applied(ours, merge_leaves({"a": {"b": 1}}, ours, {}).changes) == {"a": {"new": 2}}
