"""What of a live file goes into git: decided from bytes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import ChangeMode, OnChange, Parser, Target
from reconciler.core.secret import Secret
from reconciler.core.sops import adoption
from reconciler.core.sops.adoption import Proposal

TARGET = Target("prod", "api.env", "/opt/app/api.env")
CANARY = "cAn4ry"


def proposed(
    git: str, live: str, *keys: str, last: str | None = None, parser: Parser = Parser.COMPOSE
) -> tuple[str, KeyChange]:
    target = replace(TARGET, parser=parser)
    pairs = adoption.lines_of(target, git.encode(), live.encode(), None if last is None else last.encode(), keys)
    return pairs.content.reveal().decode(), pairs.keys


def edited(git: str, live: str, *keys: str, parser: Parser = Parser.COMPOSE) -> dict[str, str | None]:
    """The edits for sops: label → value."""
    target = replace(TARGET, parser=parser)
    pairs = adoption.lines_of(target, git.encode(), live.encode(), None, keys)
    edits = adoption.edits(target, git.encode(), pairs)
    return {label: value.reveal().decode() if value else None for label, value in edits.items()}


def edits_for_sops(git: bytes, live: bytes, last: bytes | None, keys: Sequence[str]) -> dict[str, Secret | None]:
    return adoption.edits(TARGET, git, adoption.lines_of(TARGET, git, live, last, keys))


def refusal(git: str | bytes, live: str | bytes, *keys: str, last: str | None = None) -> RefusedError:
    """Why it is refused; no value is ever shown."""
    data = [text.encode() if isinstance(text, str) else text for text in (git, live)]
    with pytest.raises(RefusedError) as caught:
        edits_for_sops(data[0], data[1], None if last is None else last.encode(), keys)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error} {error.args} {vars(error)}"
        error = error.__cause__
    assert caught.value.hint
    return caught.value


# --- what is proposed ------------------------------------------------------------------------------------------------


def test_the_whole_live_file_is_proposed_as_it_is() -> None:
    content, keys = proposed("A=1\nB=2\n", "A=1\nB=3\nC=4\n")
    assert content == "A=1\nB=3\nC=4\n"
    assert keys == KeyChange(added=("C",), changed=("B",))


def test_of_named_keys_git_keeps_all_the_rest() -> None:
    content, keys = proposed("# mine\nA=1\nB=2\nC=3\n", "NEW=n\n\n# theirs\nC=30\nB=20\n", "B", "A", "NEW")
    assert content == "# mine\nB=20\nC=3\nNEW=n\n"
    assert keys == KeyChange(added=("NEW",), removed=("A",), changed=("B",))


def test_a_named_key_is_taken_from_a_file_that_could_not_be_adopted_whole() -> None:
    content, _ = proposed("A=1\n", 'A=2\n\nB="two\nlines"\n  # indented\nC: 3', "A")
    assert content == "A=2\n"


def test_a_key_that_is_exported_now_is_another_one_to_sops_and_goes_to_the_end() -> None:
    git, live = "export A=1\nB=2\n", "A=3\nB=2\n"
    assert proposed(git, live, "A")[0] == "B=2\nA=3\n"
    assert edited(git, live, "A") == {"A": "3", "export A": None}


def test_bytes_count_and_not_what_compose_makes_of_them() -> None:
    assert edited("A=1\n", "A='1'\n") == {"A": "'1'"}


@pytest.mark.parametrize(
    ("git", "live", "expected"),
    [
        pytest.param("A=1\nB=2\n", "A=1\nB=3\n", {"B": "3"}, id="changed"),
        pytest.param("A=1\nB=2\n", "B=2\n", {"A": None}, id="removed"),
        pytest.param("A=1\n", "A=1\nB=2\nC=3\n", {"B": "2", "C": "3"}, id="added"),
        pytest.param("# c\nA=1\nexport B=2\n", "# c\nA=\nexport B=x y\n", {"A": "", "export B": "x y"}, id="label"),
        pytest.param("A=1\n", "A=a\\nb # no\n", {"A": "a\nb # no"}, id="escaped-line-feed"),
        pytest.param("A=1\nB=2\r\n", "A=3\r\nB=2 \n", {"A": "3"}, id="line-ends-are-gits"),
        pytest.param("A=1\n", "A=ü=$X`\n", {"A": "ü=$X`"}, id="unicode"),
        pytest.param("A=1\nB=2\n", "B=2\nexport A=1\n", {"export A": "1", "A": None}, id="exported-at-the-end"),
    ],
)
def test_sops_gets_the_differences_and_nothing_else(git: str, live: str, expected: dict[str, str | None]) -> None:
    assert edited(git, live) == expected


def test_the_order_in_which_sops_adds_keys_is_that_of_the_live_file() -> None:
    assert list(edited("A=1\n", "A=1\nZ=1\nB=1\nM=1\n")) == ["Z", "B", "M"]


NAMES = ["A", "B", "C", "D", "E"]
FILES = st.dictionaries(st.sampled_from(NAMES), st.text("xyz\\n\"'#$ ", max_size=6), min_size=1)


@given(FILES, FILES, st.lists(st.sampled_from(NAMES), max_size=3))
def test_the_edits_for_sops_give_the_proposed_content(
    before: dict[str, str], after: dict[str, str], keys: Sequence[str]
) -> None:
    """Or it is refused; with keys that differ, the file never is for what stands around them."""
    git, live = (
        ("".join(f"{name}={value}\n" for name, value in variables.items())).encode() for variables in (before, after)
    )
    target = replace(TARGET, parser=Parser.RAW)
    try:
        pairs = adoption.lines_of(target, git, live, None, keys)
        edits = adoption.edits(target, git, pairs)
    except RefusedError:
        differing = {name for name in NAMES if before.get(name) != after.get(name)}
        assert not keys or not differing.issuperset(keys)
        return
    made: dict[str, bytes] = {name: value.encode() for name, value in before.items()}
    for label, value in edits.items():
        if value is None:
            del made[label]
        else:
            made[label] = value.reveal().replace(b"\n", b"\\n")
    assert b"".join(name.encode() + b"=" + value + b"\n" for name, value in made.items()) == pairs.content.reveal()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "line", "said"),
    [
        pytest.param(f"A={CANARY}\nB\n", 2, "without a value", id="bare-key"),
        pytest.param(f"A={CANARY}\nB=2\nC_unencrypted=3\n", 3, "plain text", id="left-in-plain-text"),
        pytest.param(f"A={CANARY}\nB=2\nsops_mac=3\n", 3, "metadata", id="metadata"),
        pytest.param(f"A={CANARY}\n".encode() + b"B=\xff\n", 2, "UTF-8", id="not-utf8"),
    ],
)
def test_what_sops_cannot_hold_is_refused_with_its_line_and_the_way_out(
    live: str | bytes, line: int, said: str
) -> None:
    error = refusal("A=1\nB=2\n", live)
    assert error.where == f"/opt/app/api.env, line {line}"
    assert said in error.what
    assert "binary" in error.hint


@pytest.mark.parametrize(
    ("git", "live", "line", "said"),
    [
        pytest.param("A=1\nB=2\n", "B=2\nA=1\n", 1, "another order", id="order"),
        pytest.param("A=1\nB=2\n", "A=1\nC=3\nB=2\n", 2, "another order", id="new-key-between"),
        pytest.param("# a\nA=1\n", "# b\nA=1\n", 1, "comment", id="comment-changed"),
        pytest.param("A=1\n", "A=1\n# b\n", 2, "comment", id="comment-added"),
        pytest.param("# a\nA=1\n", "A=1\n", 1, "comment", id="comment-removed"),
    ],
)
def test_sops_cannot_change_comments_or_the_order(git: str, live: str, line: int, said: str) -> None:
    error = refusal(git, live)
    assert error.where == f"/opt/app/api.env, line {line}"
    assert said in error.what
    assert "reconciler edit" in error.hint


def test_a_refusal_names_the_keys_that_can_be_adopted_alone() -> None:
    assert "--key B --key NEW" in refusal("A=1\nB=2\n", "# new\nA=1\nB=3\nNEW=1\n").hint


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        pytest.param("# c\n\nA=2\nB=2\n", {"A": "2"}, id="a-blank-line-that-git-lacks"),
        pytest.param("# c\nA=1\n#\n\nB=2\nC=3", {"C": "3"}, id="no-last-line-feed"),
        pytest.param("  # c\nA=1\nB=2\nA=3\n", {"A": "3"}, id="set-again-at-the-end"),
        pytest.param('# c\nA="1\n$2"\nB=2\n', {"A": '"1\n$2"'}, id="a-value-of-several-lines"),
        pytest.param("\ufeff# c\nA: 2\nB=2\n", {"A": "2"}, id="a-colon"),
    ],
)
def test_a_live_file_is_adopted_in_its_normal_form_with_the_blank_lines_of_git(
    live: str, expected: dict[str, str]
) -> None:
    assert edited("# c\nA=1\n#\nB=2\n", live) == expected


@pytest.mark.parametrize("live", ["A=1\n\nB=2\n", "A=1\r\nB=2", "A=0\nA: 1\nB=2\n"])
def test_what_only_looks_different_is_nothing_to_adopt(live: str) -> None:
    assert "nothing to adopt" in refusal("A=1\nB=2\n", live).what


def test_of_a_file_that_a_container_reads_itself_only_blank_lines_are_ignored() -> None:
    target = replace(TARGET, on_change=OnChange(ChangeMode.RESTART))
    git = b"A=1\nB=2\n"
    assert adoption.lines_of(target, git, b"A=1\n\nB=3\n", None, ()).content.reveal() == b"A=1\nB=3\n"
    with pytest.raises(RefusedError, match="line 1"):
        adoption.lines_of(target, git, b'A="1\n"\nB=2\n', None, ())


@pytest.mark.parametrize(
    "live",
    [
        pytest.param(f"A=1\n{CANARY}Xy==\n", id="base64"),
        pytest.param(f"A=1\n{CANARY}=value\n", id="mixed-case"),
        pytest.param(f"A=1\nB={CANARY}\n{CANARY}\n", id="bare"),
    ],
)
def test_what_may_be_a_piece_of_a_pasted_key_is_not_a_name_and_is_not_shown(live: str) -> None:
    assert "line " in refusal("A=1\n", live).where


def test_a_name_of_mixed_case_is_adopted_if_the_operator_names_it() -> None:
    assert proposed("A=1\n", "A=1\nmyKey=2\n", "myKey")[0] == "A=1\nmyKey=2\n"


def test_nothing_to_adopt() -> None:
    assert "nothing to adopt" in refusal("A=1\n", "A=1\n").what


def test_a_key_that_is_nowhere_and_one_that_does_not_differ() -> None:
    assert "neither git nor the live file has X" in refusal("A=1\nB=2\n", "A=1\nB=3\n", "X").what
    same = refusal("A=1\nB=2\n", "A=1\nB=3\n", "A")
    assert same.what == "A is the same in git"
    assert same.hint == "What differs: B"


def test_a_live_file_that_its_reader_refuses_or_reads_twice() -> None:
    assert "unterminated-quote" in refusal("A=1\n", f'A="{CANARY}\n').what
    assert refusal("A=1\n", f"A={CANARY}\nA=$A\n").where.endswith("line 2")


def test_a_named_key_whose_value_has_several_lines() -> None:
    assert proposed("A=1\n", 'B=2\nA="x\ny"\n', "A")[0] == 'A="x\\ny"\n'
    error = refusal("A=1\n", f'A="{CANARY}\n{CANARY}"\nTZ\n', "A")
    assert "cannot hold the live A" in error.what


# --- git has moved as well -------------------------------------------------------------------------------------------


def test_a_change_of_gits_that_waits_is_never_undone() -> None:
    """Last applied A=1 B=2; git now wants A=9; by hand B=3. The whole live file would take A back."""
    error = refusal("A=9\nB=2\n", "A=1\nB=3\n", last="A=1\nB=2\n")
    assert error.what.startswith("A: only git has changed it")
    assert "--key B" in error.hint
    assert proposed("A=9\nB=2\n", "A=1\nB=3\n", "B", last="A=1\nB=2\n")[0] == "A=9\nB=3\n"
    assert "A: only git" in refusal("A=9\nB=2\n", "A=1\nB=3\n", "A", last="A=1\nB=2\n").what
    assert "N: only git" in refusal("A=1\nN=1\n", "A=1\n", last="A=1\n").what


def test_a_key_that_both_have_changed_can_be_adopted() -> None:
    assert proposed("A=9\n", "A=3\n", last="A=1\n")[0] == "A=3\n"


def test_a_file_without_keys_that_both_have_changed_is_for_an_operator() -> None:
    def whole(git: bytes, live: bytes, last: bytes | None) -> Proposal:
        return adoption.whole(TARGET, git, live, last)

    assert whole(b"1", b"2", None).content.reveal() == b"2"
    assert whole(b"1", b"2", b"1").content.reveal() == b"2"
    for live, said in ((b"1", "nothing to adopt"), (b"3", "by somebody here too"), (b"0", "only git has changed")):
        with pytest.raises(RefusedError, match=said):
            whole(b"1", live, b"0")


# --- the commit ------------------------------------------------------------------------------------------------------


def test_the_message_names_the_keys_the_target_and_the_host() -> None:
    keys = KeyChange(added=("NEW",), removed=("GONE",), changed=("A", "B"))
    assert adoption.adoption_message(TARGET, keys, "web-1\nX: y") == (
        "Adopt A, B, GONE and 1 more of prod/api.env from web-1 X: y\n\n"
        "Edited manually on the server, now proposed for git.\n\n"
        "Changed: A, B\nAdded: NEW\nRemoved: GONE\n\n"
        "Reconciler-Adopt-Target: prod/api.env\nReconciler-Adopt-Host: web-1 X: y\n"
    )
    assert "The file as a whole." in adoption.adoption_message(TARGET, KeyChange(), "web-1")


def test_the_branch_says_which_environment_and_when() -> None:
    assert adoption.branch("prod", 0.0) == "reconciler/adopt-prod-19700101T000000.000Z"
