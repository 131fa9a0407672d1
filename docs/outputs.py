"""Writes what README.md and docs/ show of the program's output, from what the program has printed.

A page marks such a block with a comment in the line before it:

    <!-- demo: 2 -->                 the second scene of docs/demo.txt
    <!-- answer: compare.80 -->      tests/data/answers/compare.80.txt
    <!-- answer: compare.80:8 -->    the first eight lines of it

`make outputs` runs the demo, writes docs/demo.txt, and brings all blocks and docs/demo.svg up to date. Tests compare
docs/demo.txt with a run of the demo, and the blocks and the picture with their sources.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRANSCRIPT = ROOT / "docs" / "demo.txt"
PICTURE = ROOT / "docs" / "demo.svg"
ANSWERS = ROOT / "tests" / "data" / "answers"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# The chapters of the demo that are shown, what they are called here, and the commands of each.
CHAPTERS = {
    "Somebody merges a change": ("A pull request is merged", ("reconciler diff", "reconciler history")),
    "What the operator sees": ("What the operator sees", ("reconciler status",)),
    "Somebody edits": ("Somebody edits a file on the server", ("vi ", "reconciler history")),
    "Somebody merges a bad value": ("A bad commit is merged", ("reconciler history", "git pull")),
}
_BLOCK = re.compile(r"^<!-- (demo|answer): (\S+) -->\n+```text\n.*?^```$", re.MULTILINE | re.DOTALL)
_WIDTH = 88


@dataclass(frozen=True, slots=True)
class Scene:
    """A title, and the lines of a terminal: each a command (``$ …``) or output."""

    title: str
    lines: tuple[str, ...]


def scenes_of(demo: str) -> list[Scene]:
    """The scenes in what `reconciler demo` printed in a pipe, without what differs from run to run.

    Raises StopIteration where a chapter or a command is missing.
    """
    chapters = re.split(r"^(.+?) ─+$", demo, flags=re.MULTILINE)[1:]
    texts = dict(zip(chapters[::2], chapters[1::2], strict=True))
    scenes = []
    for beginning, (title, commands) in CHAPTERS.items():
        text = next(text for chapter, text in texts.items() if chapter.startswith(beginning))
        blocks = re.findall(r"^\$ (?:.+\n)(?:    .*\n)*", text, flags=re.MULTILINE)
        lines: list[str] = []
        for command in commands:
            block = next(block for block in blocks if block.startswith(f"$ {command}"))
            first, *output = block.rstrip().splitlines()
            lines += [first, *(line.removeprefix("    ") for line in output if not _of_the_demo(line)), ""]
        scenes.append(Scene(title, tuple(lines[:-1])))
    return read_transcript(_steady(transcript(scenes)))


def transcript(scenes: list[Scene]) -> str:
    """The text of docs/demo.txt."""
    return "\n".join(f"== {scene.title}\n" + "\n".join(scene.lines) + "\n" for scene in scenes)


def read_transcript(text: str) -> list[Scene]:
    """The scenes of docs/demo.txt."""
    parts = re.split(r"^== (.+)\n", text, flags=re.MULTILINE)[1:]
    return [
        Scene(title, tuple(lines.strip("\n").split("\n"))) for title, lines in zip(parts[::2], parts[1::2], strict=True)
    ]


def refresh(page: str, scenes: list[Scene]) -> str:
    """The text of a page with its marked blocks as their sources are. Raises OSError, IndexError for an unknown one."""

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        text = "\n".join(scenes[int(name) - 1].lines) if kind == "demo" else _answer(*name.partition(":")[::2])
        return f"<!-- {kind}: {name} -->\n\n```text\n{_wrapped(text.rstrip())}\n```"

    return _BLOCK.sub(block, page)


def _answer(name: str, lines: str) -> str:
    text = (ANSWERS / f"{name}.txt").read_text()
    return "\n".join([*text.splitlines()[: int(lines)], "…"]) if lines else text


def picture(scenes: list[Scene]) -> str:
    """An SVG that shows one scene after the other, as a terminal would; without animation, it shows the last one."""
    screens = [_wrapped("\n".join(scene.lines)).splitlines() for scene in scenes]
    height = 92 + 20 * max(map(len, screens))
    share = 100 / len(scenes)
    label = "A terminal. " + "".join(f"{escape(scene.title)}. " for scene in scenes).rstrip()
    groups = "\n".join(
        f'<g class="scene" style="animation-delay:{-8 * (len(scenes) - number)}s">\n'
        f'<text class="title" x="24" y="34">{number + 1}. {escape(scene.title)}</text>\n'
        + "\n".join(_line(line, 72 + 20 * row) for row, line in enumerate(screen))
        + "\n</g>"
        for number, (scene, screen) in enumerate(zip(scenes, screens, strict=True))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" role="img" aria-label="{label}">
<style>
text {{ font: 13.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre }}
.title {{ font-weight: 600; font-size: 15px; fill: #fff }}
.command {{ font-weight: 600; fill: #fff }}
.added {{ fill: #56d364 }} .changed {{ fill: #e3b341 }} .removed {{ fill: #ff7b72 }}
.scene {{ opacity: 0; animation: turn {8 * len(scenes)}s infinite }}
.scene:last-child {{ opacity: 1 }}
@keyframes turn {{ 0%, {share - 1:.0f}% {{ opacity: 1 }} {share:.0f}%, 99% {{ opacity: 0 }} 100% {{ opacity: 1 }} }}
@media (prefers-reduced-motion: reduce) {{ .scene {{ animation: none }} }}
</style>
<rect width="800" height="{height}" rx="8" fill="#0d1117"/>
<line x1="0" y1="48.5" x2="800" y2="48.5" stroke="#30363d"/>
{groups}
</svg>
"""


def _steady(text: str) -> str:
    """Without what differs from run to run: times, ids, paths, who runs the demo, which trigger was the fastest,
    whether there was a look since the change was applied, and whether there is one right now."""
    text = re.sub(r"/\S*/reconciler-(demo-\w+)/\1", "/opt/app", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "2026-11-02 08:19:07Z", text)
    text = re.sub(r", \w+(, run \w+\n.*\(drift\))", r", watch\1", text)
    text = re.sub(r", \w+(, run \w+\n.*\(update\))", r", webhook\1", text)
    text = text.replace(": applied at ", ": in sync at ")
    text = re.sub(r"( edited by: ).*", r"\1ada (login uid of the process that wrote it)", text)
    known: dict[str, str] = {}

    def steady(match: re.Match[str]) -> str:
        number = known.setdefault(match[0][:7], str(len(known)))
        return hashlib.sha256(f"id {number}".encode()).hexdigest()[: len(match[0])]

    text = re.sub(r"^  reconciling since .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\b[0-9a-f]{7,40}\b", steady, text)


def _of_the_demo(line: str) -> bool:
    """Whether the demo itself says this below the output of a command."""
    return re.match(r" {4}\w+ +(untouched|recreated|is gone from)\b", line) is not None


def _wrapped(text: str) -> str:
    """No line longer than a page shows; what continues is indented."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        ) if len(line) > _WIDTH else [line]  # fmt: skip
    return "\n".join(lines)


def _line(line: str, y: int) -> str:
    if line.startswith("$ "):
        return f'<text class="command" x="24" y="{y}">{escape(line)}</text>'
    parts = re.split(r"(?<=  )([+~-] [\w.]+)", line)
    colours = {"+": "added", "~": "changed", "-": "removed"}
    spans = [
        f'<tspan class="{colours[part[0]]}">{escape(part)}</tspan>' if number % 2 else escape(part)
        for number, part in enumerate(parts)
    ]
    return f'<text x="24" y="{y}">{"".join(spans)}</text>'


def main() -> None:
    if arguments := sys.argv[1:]:
        TRANSCRIPT.write_text(transcript(scenes_of(Path(arguments[0]).read_text())))
    scenes = read_transcript(TRANSCRIPT.read_text())
    PICTURE.write_text(picture(scenes))
    for page in PAGES:
        page.write_text(refresh(page.read_text(), scenes))


if __name__ == "__main__":
    main()
