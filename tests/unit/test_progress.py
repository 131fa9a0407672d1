"""The line of progress on a terminal: what is counted is shown as a bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reconciler.cli import render
from tests.support.waiting import eventually


def test_what_is_counted_is_shown_as_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(render, "_terminal", lambda _: Console(file=output, force_terminal=True, width=100))
    monkeypatch.setattr(render, "_SHOW_PROGRESS_AFTER", 0.0)
    with render.progress() as progress:
        progress("reading the revision")
        eventually(lambda: "reading the revision" in output.getvalue())
        assert "━" not in output.getvalue()
        progress("decrypting (3 of 20)")
        eventually(lambda: "decrypting (3 of 20)" in output.getvalue() and "━" in output.getvalue())
