"""What the tests of the engine share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.compose.project import DockerCompose


@pytest.fixture
async def docker(tmp_path: Path) -> AsyncIterator[DockerCompose]:
    compose = DockerCompose(LocalComposeContext(str(tmp_path / "scratch"), os.environ))
    yield compose
    await compose.close()
