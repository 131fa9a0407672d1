"""An unforeseen error on one side affects only that side of `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reconciler.app.compare import run
from reconciler.app.compare.command import CompareRequest, run_comparison

VALUE = "invented-s3cret"


def test_a_defect_on_one_side_affects_only_that_side_and_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("left", "odd", "right"):
        (tmp_path / f"{name}.env").write_text("A=1\n")
    open_side = run.open_side

    async def stumbling(name: Any, context: Any) -> Any:
        if "odd" in name.text:
            raise TypeError(VALUE)
        return await open_side(name, context)

    monkeypatch.setattr(run, "open_side", stumbling)
    request = CompareRequest(repository=str(tmp_path), path="envs", config=str(tmp_path / "none"))
    left, *rights = (f"file:{tmp_path}/{name}.env" for name in ("left", "odd", "right"))
    done = run_comparison(left, rights, request, lambda done, of: None)
    assert [comparison.right.name for comparison in done.comparisons] == [rights[1]]
    ((side, reason),) = done.failures
    assert side == rights[0]
    assert "TypeError in test_compare_run.py" in reason
    assert VALUE not in reason
