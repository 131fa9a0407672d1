"""Pages of the documentation as scripts: their commands run in order, in one shell, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run
from tests.support.forks import COMMAND, forked_command

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^ *```(sh|text)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"# exits (\d)\b.*$", re.MULTILINE)
MARK = "@@@ block {} ended with {} @@@"


@dataclass(slots=True)
class Block:
    """Commands of a page with the lines that it shows of their output ("…" stands for anything) in order."""

    commands: str
    line: int
    output: list[str]

    @property
    def exit_code(self) -> int:
        """What its last command ends with."""
        match = EXITS.search(self.commands.rstrip().rpartition("\n")[2])
        return int(match[1]) if match else 0


def read_blocks(page: Path) -> list[Block]:
    result: list[Block] = []
    text = page.read_text()
    for match in FENCE.finditer(text):
        if match[1] == "sh":
            result.append(Block(match[2], text.count("\n", 0, match.start()) + 1, []))
        else:
            result[-1].output += match[2].splitlines()
    return result


def run_blocks(blocks: list[Block], home: Path, before: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run ``before``, then the page, in a new home directory with the command on PATH."""
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Ada Example\n\temail = ada@example.org\n")
    # In groups, with a mark behind each: what they set and where they go stays for the next.
    script = "".join(
        f"set -e\n{block.commands}set +e\necho '{MARK.format(number, 0)}'\n"
        if not block.exit_code
        else f'set +e\n{block.commands.rstrip()}\necho "{MARK.format(number, "$?")}"\n'
        for number, block in enumerate(blocks)
    )
    env = {
        **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        "PATH": f"{forked_command().parent}:{COMMAND.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "COLUMNS": "160",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    steps = home.parent / "steps.sh"
    steps.write_text(f"set -e\n{before}{script}")
    return run("bash", steps, env=env, cwd=home, timeout=300)


def judge(page: Path, blocks: list[Block], done: subprocess.CompletedProcess[bytes]) -> None:
    """Assert that each block ended as the page says, and printed what it shows."""
    rest, errors = done.stdout.decode(), done.stderr.decode()
    assert "an-invented" not in rest + errors  # no value of a secret
    for number, block in enumerate(blocks):
        where = f"{page.name}, line {block.line}"
        output, mark, rest = rest.partition(MARK.format(number, block.exit_code) + "\n")
        assert mark, f"{where}: it did not end with {block.exit_code}:\n{output}\n{errors}"
        position = 0
        for line in block.output:
            match = _as_pattern(line).search(output, position)
            assert match, f"{where}: its output does not show {line!r} (there):\n{output}"
            position = match.end()


def _as_pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in line.strip().split("…")))
