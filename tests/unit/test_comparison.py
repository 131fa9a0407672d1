"""Two sides held against each other: probes, pairs of files, hosts, services, owners."""

from __future__ import annotations

import pytest

from reconciler.core.comparison import Probe, Status, compare_answers
from reconciler.core.ports import Ran
from reconciler.core.secret import Secret

# --- probes ---

COMMAND = Probe("it", run=("alembic", "current"), expected="the second one is upgraded tonight")
ADDRESS = Probe("it", url="http://127.0.0.1/health", expected="each says its own name")


def ran(code: int | None, text: str = "", problem: str = "") -> Ran:
    return Ran(code, Secret(text.encode()), problem)


@pytest.mark.parametrize(
    ("probe", "good", "bad"),
    [
        (COMMAND, ran(0, "1"), ran(127)),
        (COMMAND, ran(0, "1"), ran(1, "1")),
        (COMMAND, ran(0, "1"), ran(None, problem="alembic is not there")),
        (COMMAND, ran(0), ran(None, problem="alembic did not end within 30 s")),
        (ADDRESS, ran(200, "ok"), ran(503, "ok")),
        (ADDRESS, ran(200, "ok"), ran(404, "ok")),
        (ADDRESS, ran(200, "ok"), ran(None, problem="no answer")),
    ],
)
def test_what_fails_on_one_side_is_expected_by_nobody(probe: Probe, good: Ran, bad: Ran) -> None:
    for left, right in ((good, bad), (bad, good)):
        told = compare_answers(probe, left, right)
        assert (told.status, told.reason, told.unexplained) == (Status.DIFFERS, "", True)
    assert compare_answers(probe, bad, bad).status is Status.FAILED


@pytest.mark.parametrize(
    ("probe", "left", "right"),
    [(COMMAND, ran(0, "1"), ran(0, "2")), (ADDRESS, ran(200, "a"), ran(200, "b")), (ADDRESS, ran(200), ran(301))],
)
def test_other_answers_are_expected_for_the_probes_reason(probe: Probe, left: Ran, right: Ran) -> None:
    told = compare_answers(probe, left, right)
    assert (told.status, told.reason, told.unexplained) == (Status.EXPECTED, probe.expected, False)
