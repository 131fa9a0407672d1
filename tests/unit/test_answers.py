"""What every command prints, at 80 and 120 columns and in a pipe, beside what it shall print (tests/data/answers).

`UPDATE_ANSWERS=1 pytest tests/unit/test_answers.py` writes the files again: read their diff.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from reconciler.cli import (
    comments,
    compare_table,
    edit_reports,
    history_reports,
    plan_reports,
    promotion_reports,
    record_reports,
    reports,
    server_review_reports,
    setup_reports,
    status_reports,
)
from reconciler.cli.layout import Item, Page, foreign, length, page_on
from reconciler.core.change_words import Said
from tests.support import answers
from tests.support.cases import each

SNAPSHOTS = Path(__file__).parents[1] / "data" / "answers"
PAGES = {"80": Page(80, False, answers.NOW), "120": Page(120, False, answers.NOW), "pipe": Page()}
Report = Callable[[Page], Iterable[str]]

REPORTS: dict[str, Report] = {
    **{f"plan-{name}": partial(plan_reports.plan_report, data) for name, data in answers.PLANS.items()},
    "plan-summary": partial(plan_reports.plan_report, answers.PLANS["many_keys"], summary=True),
    **{f"sync-{name}": partial(plan_reports.outcome_report, data) for name, data in answers.SYNCS.items()},
    **{f"status-{name}": partial(status_reports.status_report, data) for name, data in answers.STATUSES.items()},
    "history": partial(record_reports.history_report, answers.HISTORY),
    "history-none": partial(record_reports.history_report, []),
    "history-verify": partial(history_reports.verification_report, answers.WHOLE_HISTORY),
    "history-verify-broken": partial(history_reports.verification_report, answers.BROKEN_HISTORY),
    "report": partial(history_reports.history_report, answers.REPORT),
    "report-quiet": partial(history_reports.history_report, answers.QUIET_REPORT),
    "backups": partial(record_reports.backups_report, answers.BACKUPS),
    "restore": partial(record_reports.restore_report, answers.RESTORATION),
    "adopt": partial(record_reports.adopt_report, answers.ADOPTED),
    "adopt-whole": partial(record_reports.adopt_report, answers.WHOLE),
    "age": partial(record_reports.age_report, answers.AGES, "90d"),
    "doctor": partial(record_reports.doctor_report, answers.FINDINGS),
    "notify": partial(record_reports.notify_report, answers.DELIVERIES),
    "import-draft": partial(setup_reports.draft_report, answers.DRAFT),
    "import-update": partial(setup_reports.draft_report, answers.UPDATE_DRAFT),
    "import": partial(setup_reports.import_report, answers.IMPORTED, base="main"),
    "import-not_verified": partial(setup_reports.import_report, answers.NOT_VERIFIED, base="main"),
    "check": partial(reports.check_report, answers.CHECK),
    "check-clean": partial(reports.check_report, answers.CHECK_CLEAN),
    "diff": partial(comments.diff_report, answers.DIFF),
    "diff-renamed": partial(comments.diff_report, answers.RENAMING),
    "set": partial(edit_reports.edit_report, answers.SET),
    "edit": partial(edit_reports.edit_report, answers.EDITED),
    "edit-unchanged": partial(edit_reports.edit_report, answers.UNCHANGED),
    "compare": partial(compare_table.compare_report, answers.COMPARISON, everything=False),
    "compare-environments": partial(compare_table.compare_report, answers.ENVIRONMENTS, everything=False),
    "compare-same": partial(compare_table.compare_report, answers.ALIKE, everything=False),
    "review": partial(server_review_reports.review_report, answers.REVIEW),
    "review-clean": partial(server_review_reports.review_report, answers.REVIEW_CLEAN),
    "review-failed": partial(server_review_reports.review_report, answers.REVIEW_FAILED),
    "promote": partial(promotion_reports.promotion_report, answers.PROMOTION),
    "promote-dry_run": partial(promotion_reports.promotion_report, {**answers.PROMOTION, **answers.NOT_PROMOTED}),
    "promote-none": partial(promotion_reports.promotion_report, {**answers.PROMOTION, "keys": [], "findings": []}),
    "init": partial(setup_reports.init_report, answers.INIT),
}
EACH = each("name", REPORTS)
EVERY_WIDTH = each("width", PAGES)


@EACH
@EVERY_WIDTH
def test_the_answer_is_the_one_that_was_looked_at(name: str, width: str) -> None:
    text = "".join(f"{line}\n" for line in REPORTS[name](PAGES[width]))
    file = SNAPSHOTS / f"{name}.{width}.txt"
    if os.environ.get("UPDATE_ANSWERS"):
        file.write_text(text)
    assert text == file.read_text()


@EACH
def test_only_a_name_that_is_itself_too_long_exceeds_the_width(name: str) -> None:
    for page in (PAGES["80"], PAGES["120"], replace(PAGES["80"], width=60)):
        for line in REPORTS[name](page):
            if length(line) > (page.width or 0):
                assert len([word for word in line.split() if word not in "+~-"]) == 1, line


@EACH
@each("width", [60, 80, 120])
def test_a_terminal_shows_every_word_that_a_pipe_shows_and_breaks_none(name: str, width: int) -> None:
    # Without relative times, so that both say the same.
    on_terminal, piped = (" ".join(REPORTS[name](page)).split() for page in (Page(width), Page()))
    assert sorted(word for word in on_terminal if word != "\\") == sorted(piped)


@EACH
def test_a_pipe_has_no_escape_codes_and_a_terminal_only_those_of_colours(name: str) -> None:
    assert "\x1b" not in "".join(REPORTS[name](Page()))
    coloured = [length(line) for line in REPORTS[name](Page(80, True, answers.NOW))]
    assert coloured == [length(line) for line in REPORTS[name](PAGES["80"])]


def test_no_reason_is_said_twice() -> None:
    for name in ("sync-rolled_back", "status-quarantined", "status-suspended", "status-stalled", "sync-stalled"):
        text = " ".join(REPORTS[name](Page()))
        assert text.count(answers.HOW) <= 1, name
        assert text.count("PORT must be a number") <= 1, name


def test_a_short_reason_is_left_out_and_a_long_one_referred_to() -> None:
    said = Said()
    assert said.unsaid(f"no key\n{answers.UNHEALTHY}") == f"no key\n{answers.UNHEALTHY}"
    assert said.unsaid(f"no key.\nquarantined: {answers.UNHEALTHY}. Fix it") == "quarantined: see above. Fix it"
    assert said.unsaid("worker: unhealthy for 30 s after the change") == "worker: unhealthy for 30 s after the change"


def test_verbose_lists_every_key() -> None:
    for name in ("plan-many_keys", "status-drifted", "history", "diff"):
        folded, listed = (" ".join(REPORTS[name](Page(verbose=verbose))) for verbose in (False, True))
        assert "112 keys added; -v lists them" in folded
        assert set(answers.MANY) <= set(listed.split())
        assert "-v" not in listed.split()


def test_foreign_text_steers_no_terminal() -> None:
    hostile = foreign({"a\x1b[2J": ["b\x9b31m\n\x07", 1, None, True]})
    assert hostile == {
        "a\N{REPLACEMENT CHARACTER}[2J": ["b\N{REPLACEMENT CHARACTER}31m\n\N{REPLACEMENT CHARACTER}", 1, None, True]
    }


@pytest.mark.parametrize(
    ("variables", "terminal", "expected"),
    [
        ({}, False, (None, False)),
        ({"COLUMNS": "90"}, False, (None, False)),
        ({"COLUMNS": "90"}, True, (90, True)),
        ({"COLUMNS": "90", "NO_COLOR": "1"}, True, (90, False)),
        ({"COLUMNS": "90", "TERM": "dumb"}, True, (90, False)),
        ({"COLUMNS": "90", "FORCE_COLOR": "1"}, False, (90, True)),
    ],
)
def test_width_and_colour_come_from_the_terminal(
    variables: dict[str, str], terminal: bool, expected: tuple[int | None, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "NO_COLOR", "TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    page = page_on(stream)
    assert (page.width, page.colour) == expected
    assert (page.now is not None) == (page.width is not None)


def test_wide_characters_are_measured_as_the_terminal_shows_them() -> None:
    assert length("\x1b[31m漢字\x1b[0m") == 4
    assert Page(80).items([Item(("漢字", "x")), Item(("ab", "y"))]) == ["  漢字   x", "  ab     y"]


@pytest.mark.parametrize(
    ("instant", "ago", "clock"),
    [
        ("2026-11-29T07:59:59+00:00", "just now", "07:59Z"),
        ("2026-11-29T07:59:50+00:00", "10 s ago", "07:59Z"),
        ("2026-11-29T07:00:00+00:00", "1 h ago", "07:00Z"),
        ("2026-11-27T07:00:00+00:00", "2 days ago", "2026-11-27 07:00Z"),
        ("2026-11-29T08:02:00+00:00", "in 2 min", "08:02Z"),
    ],
)
def test_times_are_relative_on_a_terminal_and_instants_in_a_pipe(instant: str, ago: str, clock: str) -> None:
    page, piped = PAGES["80"], instant.replace("T", " ").replace("+00:00", "Z")
    assert (page.ago(instant), page.clock(instant)) == (ago, clock)
    assert {Page().ago(instant), Page().clock(instant), Page().exact(instant)} == {piped}
    assert page.exact(instant) == f"{piped} ({ago})"
