"""docs/checks.md and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from reconciler.app.checks.check_settings import CheckFile, read_check_settings
from reconciler.app.config.contract import read_contract
from reconciler.core.checks import rules
from reconciler.core.contract import FORMATS, notes
from reconciler.core.tree import Tree

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checks.md").read_text()


def test_the_page_has_every_rule_with_its_severity_and_what_it_needs() -> None:
    lines = PAGE.partition("<!-- table: rules -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    documented = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert documented == [
        (f"`{rule.id}`", str(rule.severity), "values" if rule.keyed else "", rule.summary) for rule in rules.ALL
    ]


def test_every_rule_has_an_id_of_its_own() -> None:
    assert len(rules.BY_ID) == len(rules.ALL)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", identity) for identity in rules.BY_ID)


@pytest.mark.parametrize("text", re.findall(r"^```yaml contract\n(.+?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
def test_the_contracts_of_the_page_can_be_used(text: str) -> None:
    assert notes([read_contract("example.yaml", text.encode())])


def test_the_exemption_of_the_page_can_be_used() -> None:
    (text,) = (
        block for block in re.findall(r"^```yaml\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "exempt" in block
    )
    settings = read_check_settings(Tree({"check.yaml": text.encode()}))
    assert settings.findings == ()
    assert (
        len(settings.exemptions.exemptions)
        == len(CheckFile.model_validate(yaml.safe_load(text), strict=False).exempt)
        == 1
    )


def test_the_page_names_every_format_that_is_checked() -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `format` |"))
    assert set(re.findall(r"`([a-z0-9]+)`", row)) - {"format"} == FORMATS


def test_the_files_that_the_page_links_to_are_there() -> None:
    for link in re.findall(r"\]\((\.\./[^)#]+)", PAGE):
        assert (ROOT / "docs" / link).resolve().exists(), link
