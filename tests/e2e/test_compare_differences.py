"""`reconciler compare` finds every known difference between two sides of a large project, and nothing else."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_compare import data
from tests.support.compose import ComposeProject
from tests.support.differences import DIFFERENCES, Difference, expected_findings, findings, mirrored, project

pytestmark = [pytest.mark.slow]

SEEDS = 15


def edited(side: Path, differences: list[Difference]) -> Path:
    for difference in differences:
        difference.apply(project(side) if not side.exists() else side)
    return side


@pytest.mark.parametrize("environments", [False, True], ids=["servers", "environments"])
def test_every_seeded_difference_is_found_and_nothing_else(tmp_path: Path, *, environments: bool) -> None:
    mode = "--different-environments" if environments else "--same-environment"
    left, chosen = project(tmp_path / "left"), {}
    for seed in range(SEEDS):
        dice = random.Random(f"{seed} {environments}")
        subset = dice.sample(DIFFERENCES, dice.randint(1, len(DIFFERENCES)))
        chosen[f"file:{edited(tmp_path / f'right-{seed}', subset)}"] = subset
    report = data(tmp_path, f"file:{left}", *chosen, mode)
    for comparison in report["comparisons"]:
        expected = expected_findings(chosen[comparison["right"]], environments=environments)
        assert findings(comparison) == expected, [difference.name for difference in chosen[comparison["right"]]]
    right, everything = (
        edited(tmp_path / "right", list(DIFFERENCES)),
        expected_findings(DIFFERENCES, environments=environments),
    )
    (both_ways,) = data(tmp_path, f"file:{right}", f"file:{left}", mode)["comparisons"]
    assert findings(both_ways) == mirrored(everything)


# --- with containers -------------------------------------------------------------------------------------------------

STATES = {
    "service cache digest differs",  # another image has the same tag meanwhile
    "service search state differs",
    "service scheduler health missing-left",
    "service queue container missing-right",
    "service worker containers differs",
}


@pytest.fixture
def running(docker_engine: str, tmp_path: Path) -> Iterator[tuple[ComposeProject, ComposeProject]]:
    """Both sides with real containers, the right one with every difference that can run here."""
    sides = tuple(ComposeProject(f"rct-{secrets.token_hex(4)}", tmp_path) for _ in range(2))
    ...
