"""Edits of a manifest or contract that somebody wrote by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.app.onboarding.yaml_edits import YamlEdits
from reconciler.core.errors import RefusedError
from tests.support.cases import each

MANIFEST = """\
# production, by hand
stacks:
  shop:   # the shop
    health: {timeout: 60s}
    directory: /opt/shop
    targets:
      api.env: {schema: contracts/api.yaml, mode: "0640"}   # hand-tuned
      # the mail
      mail.env:
      cron.env: jobs/cron.env  # short

      site.conf:
        path: nginx/site.conf
        encrypted: false
        # a mounted file
        on_change: restart
    # the end
    on_failure: hold

# beside the stacks
targets:
  motd.env: {path: /etc/motd.env}
"""
TARGETS = ("stacks", "shop", "targets")


def line(text: str) -> Callable[[int], list[str]]:
    return lambda indent: [" " * indent + text]


def edited(edit: Callable[[YamlEdits], None], text: str = MANIFEST) -> str:
    edits = YamlEdits(text, "environment.yaml")
    edit(edits)
    return edits.finish()


@each(
    ("edit", "old", "new"),
    [
        pytest.param(lambda e: e.remove((*TARGETS, "mail.env")), "      mail.env:\n", "", id="remove"),
        pytest.param(
            lambda e: e.remove((*TARGETS, "site.conf")),
            MANIFEST[MANIFEST.index("      site.conf:") : MANIFEST.index("    # the end")],
            "",
            id="remove-a-block",
        ),
        pytest.param(
            lambda e: e.remove((*TARGETS, "api.env", "mode")),
            ', mode: "0640"}',
            "}",
            id="remove-a-field-of-a-flow",
        ),
        pytest.param(
            lambda e: e.remove((*TARGETS, "site.conf", "encrypted")),
            "        encrypted: false\n",
            "",
            id="remove-a-field",
        ),
        pytest.param(
            lambda e: e.rename((*TARGETS, "api.env"), "api.env.bin"), "api.env: {", "api.env.bin: {", id="rename"
        ),
        pytest.param(
            lambda e: e.add((*TARGETS, "new.env"), None, line("new.env:  # new")),
            "on_change: restart\n",
            "on_change: restart\n      new.env:  # new\n",
            id="add",
        ),
        pytest.param(
            lambda e: e.add(("targets", "b.env"), {"path": "/b.env"}, line("b.env: {path: /b.env}")),
            "motd.env: {path: /etc/motd.env}\n",
            "motd.env: {path: /etc/motd.env}\n  b.env: {path: /b.env}\n",
            id="add-at-the-end",
        ),
        pytest.param(
            lambda e: e.set_field((*TARGETS, "mail.env"), "encrypted", False, "path"),
            "mail.env:\n",
            "mail.env: {encrypted: false}\n",
            id="set-where-there-is-none",
        ),
        pytest.param(
            lambda e: e.set_field((*TARGETS, "cron.env"), "encrypted", False, "path"),
            "cron.env: jobs/cron.env  #",
            "cron.env: {path: jobs/cron.env, encrypted: false}  #",
            id="set-in-a-short-one",
        ),
        pytest.param(
            lambda e: e.set_field((*TARGETS, "api.env"), "encrypted", False, "path"),
            '"0640"}',
            '"0640", encrypted: false}',
            id="set-in-a-flow",
        ),
        pytest.param(
            lambda e: e.set_field((*TARGETS, "site.conf"), "encrypted", True, "path"),
            "encrypted: false",
            "encrypted: true",
            id="set-another-value",
        ),
    ],
)
def test_only_the_edited_text_changes(edit: Callable[[YamlEdits], None], old: str, new: str) -> None:
    assert MANIFEST.count(old) == 1
    assert edited(edit) == MANIFEST.replace(old, new)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("a: 1\n", "a: 1\n\ntargets:\n  b.env: x\n"),
        ("a: 1", "a: 1\n\ntargets:\n  b.env: x\n"),
        ("targets:\n", "targets:\n  b.env: x\n"),
        ("targets: {}  # none\n", "targets:  # none\n  b.env: x\n"),
        ("targets: {a.env: y}\n", "targets: {a.env: y, b.env: x}\n"),
        ("# nothing\n", "# nothing\n\ntargets:\n  b.env: x\n"),
    ],
)
def test_a_target_is_added_where_there_was_none(text: str, new: str) -> None:
    assert edited(lambda edits: edits.add(("targets", "b.env"), "x", line("b.env: x")), text) == new


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("required:\n  - A\n  # b\n  - B\ntype: object\n", "required:\n  - A\n  # b\ntype: object\n"),
        ("required: [A, B]\n", "required: [A]\n"),
        ("required: [B, A]\n", "required: [A]\n"),
        ("required: [B]\n", "required: []\n"),
        ("required:\n- B\nx: 1\n", "required: []\nx: 1\n"),
        ("required: [A]\n", "required: [A]\n"),
    ],
)
def test_an_item_of_a_list_is_removed(text: str, new: str) -> None:
    assert edited(lambda edits: edits.remove_item(("required",), "B"), text) == new


def test_a_text_that_would_mean_something_else_is_refused() -> None:
    edits = YamlEdits("a: {b: 1}\n", "environment.yaml")
    edits.remove(("a", "b"))
    edits.text += "c: 2\n"
    with pytest.raises(RefusedError, match=r"environment\.yaml"):
        edits.finish()


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        pytest.param(
            lambda e: e.remove(("properties", "A")), "d: &d\n  A: {}\nproperties:\n  <<: *d\n  B: {}\n", id="merge-key"
        ),
        pytest.param(
            lambda e: e.set_field(("targets", "a.env"), "path", "b.env", "path"), "targets: {a.env}\n", id="no-colon"
        ),
    ],
)
def test_an_entry_that_has_no_place_of_its_own_is_refused(edit: Callable[[YamlEdits], None], text: str) -> None:
    with pytest.raises(RefusedError, match="cannot be changed in place"):
        edited(edit, text)
