"""What is planned before a merge is what the merge then does. `make bench` replays 200 of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.age_key import AgeKey
from tests.support.git_remote import GitRemote
from tests.support.merge_replay import replay
from tests.support.server import Server

pytestmark = pytest.mark.slow


async def test_random_merges_do_what_was_planned(
    tmp_path: Path, git_remote: Callable[..., GitRemote], age_key: AgeKey
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    merges = await replay(Server(tmp_path, app, git_remote(), age_key), 8, seed=5)
    assert [merge for merge in merges if not merge.equal] == []
    assert {merge.done == "refused" for merge in merges} == {True, False}
