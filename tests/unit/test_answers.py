"""What every command prints, at 80 and 120 columns and in a pipe, beside what it shall print (tests/data/answers).

`UPDATE_ANSWERS=1 pytest tests/unit/test_answers.py` writes the files again: read their diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import plan_reports, record_reports, setup_reports, status_reports
from reconciler.cli.layout import Page, foreign, length, page_on
from tests.support import answers

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
    "backups": partial(record_reports.backups_report, answers.BACKUPS),
    "restore": partial(record_reports.restore_report, answers.RESTORED),
    "adopt": partial(record_reports.adopt_report, answers.ADOPTED),
    "adopt-whole": partial(record_reports.adopt_report, answers.WHOLE),
    "age": partial(record_reports.age_report, answers.AGES, "90d"),
    "doctor": partial(record_reports.doctor_report, answers.FINDINGS),
    "import-draft": partial(setup_reports.draft_report, answers.DRAFT),
    "import": partial(setup_reports.import_report, answers.IMPORTED),
    "import-not_verified": partial(setup_reports.import_report, answers.NOT_VERIFIED),
    "init": partial(setup_reports.init_report, answers.INIT),
}
EACH = pytest.mark.parametrize("name", REPORTS)
UNBROKEN = re.compile(r"`[^`\n]*`|\S+")


@EACH
@pytest.mark.parametrize("width", PAGES)
def test_the_answer_is_the_one_that_was_looked_at(name: str, width: str) -> None:
    text = "".join(f"{line}\n" for line in REPORTS[name](PAGES[width]))
    file = SNAPSHOTS / f"{name}.{width}.txt"
    if os.environ.get("UPDATE_ANSWERS"):
        file.write_text(text)
    assert text == file.read_text()
