"""docs/tutorial.md: every command in it is run, in order, in one shell, and what the page shows is what comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.compose import ComposeProject

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
IMAGE = "busybox:1.36"
FENCE = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"# exits (\d)$")
MARK = "@@@ block {} ended with {} @@@"


@dataclass(slots=True)
class Block:
    """Commands of the page with the lines that it shows of their output ("…" stands for anything) in order."""

    commands: str
    line: int
    output: list[str]

    @property
    def exit_code(self) -> int:
        match = EXITS.search(self.commands.rstrip())
        return int(match[1]) if match else 0


def blocks() -> list[Block]:
    result: list[Block] = []
    text = PAGE.read_text()
    for match in FENCE.finditer(text):
        if match[1] == "sh":
            result.append(Block(match[2], text.count("\n", 0, match.start()) + 1, []))
        else:
            result[-1].output += match[2].splitlines()
    return result


def as_pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in line.strip().split("…")))


@pytest.fixture
def busybox(docker_engine: str) -> Iterator[None]:
    """The page's image, without a registry."""
    if run("docker", "image", "inspect", IMAGE).returncode == 0:
        yield
        return
    assert run("docker", "tag", docker_engine, IMAGE).returncode == 0
    yield
    run("docker", "image", "rm", IMAGE)


@pytest.mark.docker
@pytest.mark.usefixtures("busybox")
def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    page = blocks()
    assert len(page) > 10
    home, steps = tmp_path / "home", tmp_path / "steps.sh"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Ada Example\n\temail = ada@example.org\n")
    # In groups, with a mark behind each: what they set and where they go stays for the next.
    script = "".join(
        f"set -e\n{block.commands}set +e\necho '{MARK.format(number, 0)}'\n"
        if not block.exit_code
        else f'set +e\n{block.commands.rstrip()}\necho "{MARK.format(number, "$?")}"\n'
        for number, block in enumerate(page)
    )
    tools = Path(sys.executable).parent
    env = {
        **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(home),
        "COLUMNS": "160",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    try:
        steps.write_text(script)
        done = run("bash", steps, env=env, cwd=home, timeout=300)
    finally:
        ComposeProject("reconciler-tutorial", tmp_path).remove()
    judge(page, done)
    assert sorted(path.name for path in home.iterdir() if path.name != ".docker") == [".gitconfig"]


def judge(page: list[Block], done: subprocess.CompletedProcess[bytes]) -> None:
    rest, errors = done.stdout.decode(), done.stderr.decode()
    assert "an-invented" not in rest + errors  # no value of a secret
    for number, block in enumerate(page):
        where = f"{PAGE.name}, line {block.line}"
        output, mark, rest = rest.partition(MARK.format(number, block.exit_code) + "\n")
        assert mark, f"{where}: it did not end with {block.exit_code}:\n{output}\n{errors}"
        position = 0
        for line in block.output:
            match = as_pattern(line).search(output, position)
            assert match, f"{where}: its output does not show {line!r} (there):\n{output}"
            position = match.end()


def test_the_page_is_linked_and_its_checks_can_fail() -> None:
    assert "docs/tutorial.md" in (ROOT / "README.md").read_text()
    (block, *_) = blocks()
    wrong = Block(block.commands, block.line, ["never shown"])
    output = f"something\n{MARK.format(0, 0)}\n".encode()
    with pytest.raises(AssertionError, match="does not show"):
        judge([wrong], subprocess.CompletedProcess([], 0, output, b""))
    with pytest.raises(AssertionError, match="did not end with 0"):
        judge([block], subprocess.CompletedProcess([], 1, b"something\n", b"why"))
