"""How every answer is laid out: sentences, items in columns that become blocks, folded keys, times.

A terminal has a width, colours and relative times; a pipe has none of them: one line per object, instants in UTC. No
name, command or path is ever broken.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from reconciler.core.text import absolute, ago, duration, epoch_seconds, printable

GAP = "   "
_NARROWEST = 40
_LEAST_COLUMN = 36  # characters; a sentence with less room goes below its item instead
_MOST_KEYS = 20
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}
_STYLED = re.compile(r"\x1b\[[0-9;]*m")
# A word; a command in backticks counts as one, so that it can be copied, and so does a short parenthesis.
_WORD = re.compile(r"(?:`[^`\n]*`|\([^()\n]{0,40}\)|\S)+")
# Behind a word of a command that is too long for a line: what is copied must stay one command.
_CONTINUES = "\N{NO-BREAK SPACE}"
_SIGNS = (("added", "+", "green"), ("changed", "~", "yellow"), ("removed", "-", "red"))
_STATES = {
    **dict.fromkeys(("in_sync", "applied", "corrected", "ok", "done", "recovered"), "green"),
    **dict.fromkeys(("held", "orphan", "warning", "drifted"), "yellow"),
    **dict.fromkeys(("rolled_back", "rolling_back", "unfinished"), "magenta"),
    "pending": "cyan",
}

Keys = Mapping[str, Sequence[str]]
"""Names of keys: ``added``, ``removed`` and ``changed``."""

Detail = str | tuple[str, ...]
"""A sentence, which wraps between words; or parts, which wrap between each other."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a list: its name, what else there is to say of it in a few words, and details below it.

    The last cell may be a sentence.
    """

    cells: tuple[str, ...]
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """What an answer is written on. ``width`` in characters; None: nothing wraps. ``now`` in epoch seconds; None: times
    are absolute. ``verbose``: long lists of keys do not fold."""

    width: int | None = None
    colour: bool = False
    now: float | None = None
    verbose: bool = False

    def style(self, style: str, text: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colour and text else text

    def state(self, state: str) -> str:
        """A result or a status, in its colour."""
        return self.style(_STATES.get(state, "red"), state.replace("_", " "))

    # --- lines ---

    def text(self, detail: Detail, indent: int = 0, hanging: int = 0) -> list[str]:
        """The lines of a detail; all but the first of a paragraph are indented by ``hanging`` more."""
        if isinstance(detail, tuple):
            return self._fill(self._parts(detail, indent), GAP, indent, hanging)
        lines: list[str] = []
        for paragraph in detail.split("\n"):
            inside = indent + len(paragraph) - len(paragraph.lstrip())
            words = [paragraph.strip()] if self.width is None else self._words(paragraph)
            lines += self._fill(words, " ", inside, hanging)
        return lines

    def _parts(self, parts: Iterable[str], indent: int) -> Iterator[str]:
        """The parts, one that does not fit as its words; but a sign stays with its key."""
        for part in parts:
            too_long = self.width is not None and indent + length(part) > self.width
            yield from part.split(" ") if too_long and part.count(" ") > 1 else [part]

    def _words(self, paragraph: str) -> Iterator[str]:
        for word in _WORD.findall(paragraph):
            if length(word) <= (self.width or 0) - 8:
                yield word
                continue
            in_command = False
            for part in word.split():
                in_command ^= part.count("`") % 2 == 1
                yield part + (_CONTINUES if in_command else "")

    def _fill(self, words: Iterable[str], between: str, indent: int, hanging: int) -> list[str]:
        lines: list[str] = []
        for word in words:
            longer = f"{lines[-1]}{between}{word}" if lines else ""
            if lines and (self.width is None or length(longer) + word.endswith(_CONTINUES) <= self.width):
                lines[-1] = longer
            else:
                lines.append(" " * (indent + hanging if lines else indent) + word)
        return [re.sub(f"{_CONTINUES}$", r" \\", line).replace(_CONTINUES, "") for line in lines]

    def items(self, items: Sequence[Item], indent: int = 2, *, apart: bool = False) -> list[str]:
        """The items in columns; where these do not fit, one block per item. ``apart``: an empty line between them."""
        # A few long names do not take the columns from all others.
        narrow = [self._fits(item.cells, _column_starts([item], indent)) for item in items]
        starts = _column_starts([item for item, fits in zip(items, narrow, strict=True) if fits], indent)
        in_columns = all(self._fits(item.cells, starts) for item, fits in zip(items, narrow, strict=True) if fits)
        lines: list[str] = []
        for number, (item, fits) in enumerate(zip(items, narrow, strict=True)):
            lines += [""] if apart and number else []
            lines += self._row(item.cells, starts, indent) if in_columns and fits else self._block(item.cells, indent)
            for detail in item.details:
                lines += self.text(detail, indent + 2)
        return lines

    def _fits(self, cells: tuple[str, ...], starts: Sequence[int]) -> bool:
        """Whether the cells fit beside each other; of a sentence at the end, whether it has room to wrap."""
        last = len(cells) - 1
        return self.width is None or last < 1 or starts[last] + min(length(cells[last]), _LEAST_COLUMN) <= self.width

    def _row(self, cells: tuple[str, ...], starts: Sequence[int], indent: int) -> list[str]:
        line = ""
        for start, cell in zip(starts, cells[:-1], strict=False):
            line = f"{_padded(line, start)}{cell}"
        start, last = starts[len(cells) - 1], cells[-1]
        if self.width is None or (start + length(last) <= self.width and "\n" not in last):
            return [f"{_padded(line, start)}{last}".rstrip()]
        if len(cells) > 1 and any(start + length(word) > self.width for word in self._words(last)):
            return [line.rstrip(), *self.text(last, indent + 2)]
        first, *more = self.text(last, start)
        return [f"{_padded(line, start)}{first.lstrip()}", *(f"{' ' * start}{text.lstrip()}" for text in more)]

    def _block(self, cells: tuple[str, ...], indent: int) -> list[str]:
        name, *others = cells
        lines = [f"{' ' * indent}{name}"]
        for line in self._fill(filter(None, others), GAP, indent + 2, 0):
            lines += self.text(line.strip(), indent + 2) if length(line) > (self.width or 0) else [line]
        return lines

    def keys(self, keys: Keys) -> list[Detail]:
        """The keys with their signs, or only their number where there are many; nothing where there are none."""
        parts, folded = [], []
        for kind, sign, colour in _SIGNS:
            names = keys[kind]
            if len(names) > _MOST_KEYS and not self.verbose:
                folded.append(self.style(colour, f"{sign} {len(names)} keys {kind}"))
            else:
                parts += [self.style(colour, f"{sign} {name}") for name in names]
        if folded:
            parts.append(f"{', '.join(folded)}; -v lists them")
        return [tuple(parts)] if parts else []

    # --- times; an instant is ISO 8601 in UTC, or None ---

    def ago(self, instant: str | None) -> str:
        """Such as ``2 min ago``; in a pipe the instant."""
        return ago(instant, self.now)

    def clock(self, instant: str | None) -> str:
        """Such as ``08:19Z``, with the date if it is another day; in a pipe the instant."""
        if not instant or self.now is None:
            return absolute(instant)
        today = datetime.fromtimestamp(self.now, UTC).date().isoformat()
        return f"{absolute(instant).removeprefix(today).strip()[:-4]}Z"

    def exact(self, instant: str | None) -> str:
        """The instant, for copying; on a terminal also ``2 min ago`` or ``in 5 min``."""
        return absolute(instant) if self.now is None else f"{absolute(instant)} ({ago(instant, self.now)})"

    def since(self, instant: str | None) -> str:
        """Such as ``for 3 h``; in a pipe ``since`` the instant."""
        if self.now is None or not instant:
            return f"since {absolute(instant)}"
        return f"for {duration(max(0.0, self.now - epoch_seconds(instant)))}"


def page_on(stream: TextIO, *, verbose: bool = False) -> Page:
    """The page that a stream is: a terminal, also where FORCE_COLOR says so, or a pipe. NO_COLOR is honoured."""
    if not (stream.isatty() or os.environ.get("FORCE_COLOR")):
        return Page(verbose=verbose)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    import shutil  # it loads every kind of compression

    width = max(_NARROWEST, shutil.get_terminal_size().columns)
    return Page(width, colour, time.time(), verbose)


def length(text: str) -> int:
    """How many characters wide the text is on a terminal."""
    plain = _STYLED.sub("", text)
    if plain.isascii():
        return len(plain)
    from rich.cells import cell_len

    return cell_len(plain)


def foreign(data: Any) -> Any:
    """Plain data that may be foreign, such as a server's path: nothing in it steers the terminal."""
    if isinstance(data, str):
        return "\n".join(printable(line) for line in data.split("\n"))
    if isinstance(data, Mapping):
        return {foreign(name): foreign(value) for name, value in data.items()}
    return [foreign(value) for value in data] if isinstance(data, list | tuple) else data


def counted(number: int, noun: str, plural: str = "") -> str:
    """Such as ``1 file`` and ``2 files``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def _column_starts(items: Sequence[Item], indent: int) -> list[int]:
    """Where each column begins. An item's last cell needs no room for others behind it."""
    columns = max((len(item.cells) for item in items), default=0)
    starts = [indent]
    for column in range(columns):
        widths = [length(item.cells[column]) for item in items if column < len(item.cells) - 1]
        starts.append(starts[-1] + max(widths, default=0) + len(GAP))
    return starts


def _padded(line: str, width: int) -> str:
    return line + " " * (width - length(line))
