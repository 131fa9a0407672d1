"""What a review says needs an operator, and what it exits with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from reconciler.app.pages.attention import Attention
from reconciler.cli.exit_codes import ERROR, IN_SYNC, PENDING, ROLLED_BACK, review_exit_code
from reconciler.cli.layout import Page
from reconciler.cli.schemas import schema_of
from reconciler.cli.server_review_reports import as_data, as_html, as_mail, as_markdown, review_report
from tests.support import answers
from tests.support.json_answers import strict

HOSTILE = "<img src=x>\x1b[31m`|**"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], IN_SYNC),
        ([("info", "pinned")], IN_SYNC),
        ([("mid", "held"), ("info", "paused")], PENDING),
        ([("bad", "rolled_back"), ("mid", "held")], ROLLED_BACK),
        ([("mid", "rolling_back")], ROLLED_BACK),
        ([("bad", "quarantined"), ("bad", "unhealthy")], ERROR),
        ([("bad", "not looked at")], ERROR),
    ],
)
def test_the_exit_code_is_that_of_the_worst(words: Sequence[tuple[str, str]], code: int) -> None:
    assert review_exit_code(Attention(kind, word, "production") for kind, word in words) == code


def test_the_worst_comes_first_and_every_part_has_its_say() -> None:
    kinds = [entry.kind for entry in answers.REVIEW.attention()]
    assert kinds == sorted(kinds, key=("bad", "mid", "info").index)
    assert {entry.word for entry in answers.REVIEW.attention()} >= {
        *("failed", "held", "pending", "pinned", "paused", "orphan"),
        *("differs", "not compared", "not compared yet", "mistakes", "warnings", "old secrets", "partly looked at"),
    }
    assert answers.REVIEW_CLEAN.attention() == []


def test_pending_restarts_need_an_operator() -> None:
    restarts = answers.plan(actions=[answers.action("api", "it runs an older value of LEVEL")])
    reviewed = replace(answers.REVIEW_CLEAN, status=answers.status(answers.state("in_sync", restarts)))
    (entry,) = reviewed.attention()
    assert (entry.word, entry.items[0]["name"]) == ("pending restart", "app/api")


def test_foreign_text_is_harmless_in_every_form() -> None:
    pair = {**answers.PAIRS[0], "differences": [answers.difference("key", HOSTILE, HOSTILE, note=HOSTILE)]}
    hostile = replace(answers.REVIEW_CLEAN, comparisons=[pair], failures={"status": HOSTILE})
    html, markdown = as_html(hostile), as_markdown(hostile)
    outside_code = re.sub(r"(?<!\\)`[^`]*`", "", markdown)
    assert "<img" not in html + outside_code
    texts = (html, markdown, *review_report(hostile, Page()), *as_mail(hostile))
    assert not any("\x1b" in text for text in texts)


def test_the_data_is_as_its_schema_says() -> None:
    validator = Draft202012Validator(strict(schema_of("review")))
    for reviewed in (answers.REVIEW_FAILED, replace(answers.REVIEW, status=None)):
        validator.validate(json.loads(json.dumps(as_data(reviewed))))
