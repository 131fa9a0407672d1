"""The ids that messages end with: each has its section in docs/errors.md, and each section is of one.

tests/data/error_ids.txt lists them. It only grows: people search for an id, and alerts and scripts compare it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.structure import read_modules
from reconciler.core import errors
from reconciler.core.errors import SEVERAL, GuardError, ManifestError, ReconcilerError, all_of, with_id

ROOT = Path(__file__).parents[2]
SECTIONS = re.findall(r"^### (.*)$", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
KNOWN = (ROOT / "tests" / "data" / "error_ids.txt").read_text().split()
BY_SYSTEMD = {"watchdog-timeout"}  # systemd prints that message
pytestmark = pytest.mark.xdist_group("sources")  # parsed once


@pytest.fixture(scope="module")
def nodes() -> list[ast.AST]:
    return [node for module in read_modules("reconciler") for node in ast.walk(module.tree)]


def texts(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def given(nodes: list[ast.AST]) -> set[str]:
    """The ids of the error classes, and what is written as an argument `id` or `error_id`."""
    classes = {known.id for known in vars(errors).values() if isinstance(known, type) and hasattr(known, "id")}
    arguments = (node for node in nodes if isinstance(node, ast.keyword) and node.arg in ("id", "error_id"))
    return classes.union(*(texts(argument.value) for argument in arguments if isinstance(argument.value, ast.Constant)))


def test_every_id_has_a_section_and_is_in_the_list(nodes: list[ast.AST]) -> None:
    assert given(nodes) - {""} <= set(SECTIONS)
    assert sorted(SECTIONS) == sorted(set(SECTIONS))
    assert sorted(SECTIONS) == KNOWN, "a new id goes into the list as well; one that is in it never changes"


def test_every_section_is_of_an_id_that_something_prints(nodes: list[ast.AST]) -> None:
    used = {text.strip("[] ") for node in nodes if isinstance(node, ast.Constant) for text in texts(node)}
    printed = {name for text in used for name in re.findall(r"[a-z]+(?:-[a-z]+)*", text.rpartition("[")[2])}
    assert set(SECTIONS) - BY_SYSTEMD <= printed


def test_every_error_class_has_an_id_of_its_own() -> None:
    classes = [known for known in vars(errors).values() if isinstance(known, type) and issubclass(known, Exception)]
    assert len({known.id for known in classes}) == len(classes)


def test_an_id_is_printed_once_at_the_end() -> None:
    error = ManifestError("is gone", where="a.yaml", hint="Add it", id="missing-manifest")
    assert with_id(str(error), error.id) == "a.yaml: is gone. Add it [missing-manifest]"
    assert ManifestError("is gone").id == "manifest-invalid"
    assert with_id("in sync", "") == "in sync"


@pytest.mark.parametrize(
    ("ids", "text", "id"),
    [
        (["a", "a"], "x\nx", "a"),
        (["a", "b"], "x [a]\nx [b]", SEVERAL),
    ],
)
def test_problems_of_several_kinds_have_an_id_on_each_line(ids: list[str], text: str, id: str) -> None:
    problems: list[ReconcilerError] = [GuardError("x", id=id) for id in ids]
    assert all_of(problems) == (text, id)
    assert with_id(*all_of(problems, "Fix it")).endswith(f"x. Fix it [{ids[-1]}]")
