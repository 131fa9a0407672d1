"""What every --json answer promises; support/json_answers.py holds each real one in the other tests to its schema."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import click
import jsonschema
import pytest

from reconciler.cli import comments, compare_reports, render, reports
from reconciler.cli.main import app
from reconciler.cli.schemas import ANSWERS, NAMES, OPENAPI, schema_of
from reconciler.core.model.answers import SCHEMA
from tests.support import answers
from tests.support.cases import each
from tests.support.json_answers import read_answer, strict

EXAMPLES = {
    **{f"plan-{name}": ("plan", "outcomes", data) for name, data in answers.PLANS.items()},
    **{f"sync-{name}": ("sync", "outcomes", data) for name, data in answers.SYNCS.items()},
}


def commands() -> Mapping[str, click.Command]:
    """By name; `history verify` is history-verify, as for `reconciler schema`."""
    nested = {
        f"{name}-{sub}": subcommand
        for name, command in app.commands.items()
        for sub, subcommand in getattr(command, "commands", {}).items()
    }
    return {**app.commands, **nested}


def test_every_command_with_json_has_a_schema() -> None:
    with_json = {
        name
        for name, command in commands().items()
        if any("--json" in parameter.opts for parameter in command.get_params(click.Context(command)))
    }
    assert with_json == set(ANSWERS)


@each("name", [name for name in NAMES if name != OPENAPI])
def test_every_schema_is_valid_and_says_which_one_it_is(name: str) -> None:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:reconciler:schema:{f'{SCHEMA}:' if name in ANSWERS else ''}{name}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_outcomes_in_every_state_are_as_their_schema_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, list_name, data = EXAMPLES[name]
    monkeypatch.setattr("sys.stdout", written := io.StringIO())
    render.answer(data, lambda *_: (), as_json=True, list_name=list_name)
    assert json.loads(written.getvalue())["schema"] == SCHEMA
    assert len(read_answer(command, written.getvalue())) == len(data)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("check", reports.FORMATS["json"](answers.CHECK)),
        ("diff", comments.FORMATS["json"](answers.DIFF)),
        ("compare", compare_reports.as_json(answers.COMPARISON)),
    ],
)
def test_the_answers_about_a_clone_are_as_their_schemas_say(command: str, text: str) -> None:
    assert json.loads(text)["schema"] == SCHEMA
    read_answer(command, text)


def test_an_unknown_field_and_another_number_are_refused() -> None:
    answer = {"schema": SCHEMA, "restored": [], "from": "", "backup": ""}
    schema = schema_of("restore")
    jsonschema.validate(answer, strict(schema))
    jsonschema.validate({**answer, "new": 1}, schema)  # programs that read an answer shall not mind
    for changed, held_to in (({**answer, "new": 1}, strict(schema)), ({**answer, "schema": SCHEMA + 1}, schema)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, held_to)


def test_the_schema_of_contracts_knows_our_keywords_and_no_foreign_ones_at_any_depth() -> None:
    validator = jsonschema.Draft202012Validator(schema_of("contract"))
    good = {"type": "object", "properties": {"TOKEN": {"writeOnly": True, "x-max-age": "90d", "x-differs": "must"}}}
    assert validator.is_valid(good)
    for bad in ({"x-max-age": "soon"}, {"requird": True}, {"minLength": "1"}):
        assert not validator.is_valid({"type": "object", "properties": {"TOKEN": bad}})
