"""What Compose may fetch to read a project: only what an operator's own files name."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.compose.files import is_remote, read_file
from reconciler.adapters.compose.remotes import may_fetch
from reconciler.core.model.compose import Invocation
from reconciler.core.secret import Secret

FETCHED = "include: ['oci://registry.example/app']\n"
CHOSEN = "include: ['${WHERE}']\n"
PLAIN = "services: {api: {image: x}}\n"


@pytest.mark.parametrize(
    ("files", "staged", "written", "expected"),
    [
        pytest.param({"compose.yaml": PLAIN}, {}, (), False, id="nothing to fetch"),
        pytest.param({"compose.yaml": FETCHED}, {}, (), True, id="an operator's"),
        pytest.param(
            {"compose.yaml": "services: {a: {extends: {file: 'git@example.com:x.git', service: b}}}\n"},
            {},
            (),
            True,
            id="an operator's, extended",
        ),
        pytest.param({"compose.yaml": FETCHED, ".env": "A=1\n"}, {".env": "A=2\n"}, (), True, id="variables from git"),
        pytest.param(
            {"compose.yaml": FETCHED, ".env": "COMPOSE_EXPERIMENTAL_OCI_REMOTE=1\n"},
            {},
            (".env",),
            True,
            id="git keeps what the operator sets for Compose",
        ),
        pytest.param({"compose.yaml": PLAIN}, {"compose.yaml": FETCHED}, (), False, id="git adds it"),
        pytest.param({"compose.yaml": FETCHED}, {}, ("compose.yaml",), False, id="git has added it"),
        pytest.param(
            {"compose.yaml": "include: [more.yaml]\n", "more.yaml": FETCHED}, {}, ("more.yaml",), False, id="included"
        ),
        pytest.param(
            {"compose.yaml": CHOSEN},
            {".env": "WHERE=git@example.com:x.git\n"},
            (),
            False,
            id="git chooses it by a variable",
        ),
        pytest.param(
            {"compose.yaml": PLAIN},
            {".env": "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=https://example.com/x.git\n"},
            (),
            False,
            id="git begins with it",
        ),
        pytest.param(
            {"compose.yaml": FETCHED}, {".env": "GIT_SSH_COMMAND=id\n"}, (), False, id="git says how it is fetched"
        ),
        pytest.param({"compose.yaml": FETCHED, ".env": "PATH=/opt/app\n"}, {}, (".env",), False, id="git has said how"),
        pytest.param({"compose.yaml": FETCHED}, {".env": "A='\n"}, (), False, id="nobody can read what git says"),
    ],
)
async def test_only_what_an_operator_names_is_fetched(
    tmp_path: Path, files: dict[str, str], staged: dict[str, str], written: Collection[str], expected: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    context = LocalComposeContext(str(tmp_path / "scratch"), {"PATH": os.defpath})
    secrets = {str(tmp_path / name): Secret(text.encode()) for name, text in staged.items()}
    configuration = await context.configuration(Invocation(str(tmp_path)), secrets)
    ours = {str(tmp_path / name) for name in written}
    assert await may_fetch(context, configuration, secrets, ours.intersection) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://example.com/x.git#main:dir", True),
        ("ssh://git@example.com/x.git", True),
        ("git://example.com/x.git", True),
        ("oci://example.com/x:1", True),
        ("github.com/docker/compose", True),
        ("git@example.com:x.git", True),
        ("../common/compose.yaml", False),
        ("/opt/app/a@b.yaml", False),
        ("C.yaml", False),
    ],
)
def test_names_that_compose_would_fetch(name: str, expected: bool) -> None:
    assert is_remote(name) is expected


def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read_file(str(pipe)) is None
    assert read_file("/dev/zero") is None
