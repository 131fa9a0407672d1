"""Recipients come and go in every style of .sops.yaml, and nothing else in it changes."""

from __future__ import annotations

import re

import pytest

from reconciler.app.recipients.sops_rules import read_sops_rules, with_recipient, without_recipient
from reconciler.core.errors import RefusedError
from tests.support.cases import each

ADA, BEN = (f"age1{letter * 58}" for letter in "qp")
CLEO = f"age1{'z' * 58}"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBuE2y5J5wC1dLd2kP0n9q3w7mW7b3f4c0l6v8t5x1zA"

STYLES = {
    "one key": "creation_rules:\n  - path_regex: ^envs/a/  # of a\n    age: {ada}\n# end\n",
    "a line": "creation_rules:\n  - path_regex: ^envs/a/\n    age: {ada},{ben}\n",
    "quotes": 'creation_rules:\n  - path_regex: ^envs/a/\n    age: "{ada},{ben}"\n',
    "key first": "creation_rules:\n  - age: {ada},{ben}\n    path_regex: ^envs/a/\n",
    "folded": "creation_rules:\n  - path_regex: a\n    # ada: {ada}\n    age: >-\n      {ada},\n      {ben}\n\n  # c\n",
    "list": "creation_rules:\n  - path_regex: ^envs/a/\n    age:\n      - {ada} # ada\n      - {ben}\n",
    "flow list": "creation_rules:\n  - path_regex: ^envs/a/\n    age: [{ada}, {ben}]\n",
    "quoted list": "creation_rules:\n  - path_regex: ^envs/a/\n    age: ['{ada}', '{ben}']\n",
    "anchors": (
        "keys:\n  - &ada {ada}\n  - &ben {ben}\ncreation_rules:\n  - path_regex: ^envs/a/\n    key_groups:\n"
        "      - age:\n          - *ada\n          - *ben\n"
    ),
    "anchors in a line": "keys: &ada {ada}\ncreation_rules:\n  - path_regex: ^envs/a/\n    age: [*ada, {ben}]\n",
    "anchor in a list": "keys:\n  - &ada {ada}\ncreation_rules:\n  - path_regex: ^envs/a/\n    age: [*ada, {ben}]\n",
    "no line feed": "creation_rules:\n  - path_regex: ^envs/a/\n    age: {ada},{ben}",
    "one line a rule": "creation_rules:\n- {{path_regex: ^envs/a/, age: '{ada},{ben}'}}\n",
}
TWO = """\
creation_rules:
  - path_regex: ^envs/a/
    age: {ada},{ben}
  - path_regex: ^envs/b/
    age:
      - {ada}
      - {ben}  # ben
stores:
  json: {{indent: 2}}
"""


def rules_of(text: str) -> list[frozenset[str]]:
    return [rule.recipients for rule in read_sops_rules(".sops.yaml", text.encode()).rules]


@each("style", STYLES)
@each("key", [CLEO, SSH])
def test_somebody_comes_and_goes(style: str, key: str) -> None:
    text = STYLES[style].format(ada=ADA, ben=BEN)
    file = read_sops_rules(".sops.yaml", text.encode())
    (before,) = rules_of(text)

    added = with_recipient(file, [0], key, "cleo")
    assert rules_of(added) == [before | {key}]
    assert "# end" not in text or "# end" in added

    with_cleo = read_sops_rules(".sops.yaml", added.encode())
    removed = without_recipient(with_cleo, [0], key)
    assert rules_of(removed) == [before]
    assert key not in removed
    lines = [re.sub(r",$", "", line) for line in text.splitlines() if line.strip()]
    assert [re.sub(r",$", "", line) for line in removed.splitlines() if line.strip()] == lines


@each("style", sorted(STYLES.keys() - {"one key", "anchors in a line"}))
def test_the_first_goes_with_its_comment_and_its_anchor(style: str) -> None:
    text = STYLES[style].format(ada=ADA, ben=BEN)
    removed = without_recipient(read_sops_rules(".sops.yaml", text.encode()), [0], ADA)
    assert rules_of(removed) == [frozenset({BEN})]
    assert ADA not in removed


def test_names_are_read_from_anchors_and_comments() -> None:
    text = STYLES["anchors"].format(ada=ADA, ben=BEN)
    assert read_sops_rules(".sops.yaml", text.encode()).names == {ADA: "ada", BEN: "ben"}
    text = f"# cleo at work: {CLEO}\n" + STYLES["list"].format(ada=ADA, ben=BEN)
    assert read_sops_rules(".sops.yaml", text.encode()).names == {ADA: "ada", CLEO: "cleo at work"}
    several = f"creation_rules:\n  - age: {ADA},{BEN} # the team\n"
    assert read_sops_rules(".sops.yaml", several.encode()).names == {}


def test_an_anchor_whose_name_begins_like_another_stays() -> None:
    text = f"keys: [&ada-2 {BEN}, &ada {ADA}]\ncreation_rules:\n  - age: [{CLEO}, *ada-2, *ada]\n"
    removed = without_recipient(read_sops_rules(".sops.yaml", text.encode()), [0], ADA)
    assert rules_of(removed) == [frozenset({BEN, CLEO})]


def test_only_the_rules_that_are_meant_change() -> None:
    text = TWO.format(ada=ADA, ben=BEN)
    file = read_sops_rules(".sops.yaml", text.encode())
    assert rules_of(with_recipient(file, [1], CLEO, "cleo")) == [{ADA, BEN}, {ADA, BEN, CLEO}]
    assert rules_of(without_recipient(file, [0], BEN)) == [{ADA}, {ADA, BEN}]
    both = without_recipient(file, [0, 1], BEN)
    assert rules_of(both) == [{ADA}, {ADA}]
    assert both.endswith("stores:\n  json: {indent: 2}\n")


def test_what_cannot_be_changed_in_place_is_refused() -> None:
    text = STYLES["anchors in a line"].format(ada=ADA, ben=BEN)
    text = text.replace("age: [*ada", "age: &all [*ada") + "  - path_regex: ^envs/b/\n    age: *all\n"
    file = read_sops_rules(".sops.yaml", text.encode())
    with pytest.raises(RefusedError, match=r"creation_rules\[1\] cannot be changed in place"):
        with_recipient(file, [1], CLEO, "")
