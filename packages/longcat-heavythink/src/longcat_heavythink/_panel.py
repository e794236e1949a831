"""The thinkers side by side in a terminal, while they think.

A grid of cells, one for each call of the stage, is drawn over itself; the summary then streams
below it. Where the output is no terminal, one line is written for each answer.
"""

from __future__ import annotations

import shutil
import time
import unicodedata
from dataclasses import dataclass, field
from typing import TextIO

from ._events import (
    CallDelta,
    CallFinished,
    CallRetried,
    CallStarted,
    Event,
    FellBack,
    StageDecided,
    StageStarted,
)

_LEAST_WIDTH = 28
_LINES = 4
_PERIOD_S = 0.1
_SPEAKERS = {"sample": "thinker", "summarise": "summary"}


@dataclass(slots=True)
class _Cell:
    state: str = "waits"
    text: str = ""
    began_s: float = field(default_factory=time.monotonic)


class Panel:
    """Shows a run's progress on `out`, and streams the final answer to `answer_out`."""

    def __init__(self, out: TextIO, answer_out: TextIO, *, size: tuple[int, int] | None = None):
        self._out, self._answer_out = out, answer_out
        self._is_live = out.isatty()
        self._is_shown = answer_out.isatty()
        self._size = size
        self._cells: list[_Cell] = []
        self._stage, self._drawn, self._next_s = "", 0, 0.0
        self._stage_number = 0
        self._held: list[str] = []
        """Lines not written yet: where all calls fail alike, the run's error says it once."""
        self._outcomes: set[str | None] = set()
        """Why calls failed; `None` for a good one."""
        self.has_answered = False
        """Whether pieces of the final answer were written."""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StageStarted):
            self._flush()
            self._stage, self._stage_number = event.name, event.stage
            self._cells = [_Cell() for _ in range(event.width)]
        elif isinstance(event, CallDelta):
            self._delta(event)
        elif isinstance(event, CallStarted):
            self._cell(event.index).state = "thinks"
            self._draw()
        elif isinstance(event, CallRetried):
            self._cell(event.index).state = f"again in {event.pause_s:.1f} s"
            self._draw()
        elif isinstance(event, CallFinished):
            self._finished(event)
        elif isinstance(event, StageDecided):
            self._flush()
            self._say(f"{event.reason}; {event.num_cancelled} cancelled")
        elif isinstance(event, FellBack):
            self._flush()
            if self.has_answered:
                self._answer_out.write("\n")
            self._say(event.reason)
        else:
            self._flush()

    def _cell(self, index: int) -> _Cell:
        while len(self._cells) <= index:
            self._cells.append(_Cell())
        return self._cells[index]

    def _delta(self, event: CallDelta) -> None:
        if event.is_final:
            if event.text:
                if not self.has_answered:
                    self._flush()
                self.has_answered = True
                self._answer_out.write(printable(event.text) if self._is_shown else event.text)
                self._answer_out.flush()
            return
        cell = self._cell(event.index)
        cell.text = (cell.text + event.thoughts + event.text)[-1000:]
        self._draw()

    def _finished(self, event: CallFinished) -> None:
        reply, cell = event.reply, self._cell(event.index)
        used = reply.usage.completion_tokens if reply.usage else 0
        seconds = time.monotonic() - cell.began_s
        cell.state = f"{used} tokens, {seconds:.1f} s" if reply.good else "failed"
        if event.is_recorded:
            cell.state = "from the journal"
        cell.text = reply.text if reply.failure is None else reply.failure.message
        self._outcomes.add(None if reply.failure is None else cell.text)
        if self.has_answered:
            return
        if self._is_live:
            self._draw()
        else:
            first = next(iter(cell.text.strip().splitlines()), "(calls tools)")
            speaker = _SPEAKERS.get(self._stage, self._stage)
            line = f"{speaker} {event.index + 1}: {first[:100]} ({cell.state})"
            self._held.append(f"  {line}\n")
            if not self._is_one_failure:
                self._tell()

    @property
    def _is_one_failure(self) -> bool:
        return len(self._outcomes) == 1 and None not in self._outcomes

    def clear(self) -> None:
        """Take back what only shows one failure many times, as it is about to be told."""
        if self._is_live and self._drawn and self._is_one_failure:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._out.flush()
            self._drawn = 0

    def _say(self, words: str) -> None:
        self._held.append(f"  {words}\n")
        self._tell()

    def _tell(self) -> None:
        self._out.write("".join(self._held))
        self._out.flush()
        self._held.clear()

    def _flush(self) -> None:
        """Draw the last state and leave it standing."""
        if self._is_live and self._drawn:
            self._draw(is_forced=True)
        self._drawn = 0

    def _draw(self, *, is_forced: bool = False) -> None:
        now = time.monotonic()
        if not self._is_live or self.has_answered or (now < self._next_s and not is_forced):
            return
        self._next_s = now + _PERIOD_S
        columns, rows = self._size or shutil.get_terminal_size()
        lines = grid([(cell.state, cell.text) for cell in self._cells], columns, rows - 2)
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)


def grid(cells: list[tuple[str, str]], columns: int, rows: int) -> list[str]:
    """Return lines that show cells side by side: a state, and the end of a text.

    >>> grid([("done", "a b"), ("thinks", "c")], 60, 9)[0].split("|")[0].strip()
    '#1 done'
    """
    per_row = max(1, min(len(cells), columns // _LEAST_WIDTH))
    width = max(4, columns // per_row - 3)
    height = max(1, min(_LINES, rows // max(1, -(-len(cells) // per_row))))
    lines: list[str] = []
    for first in range(0, len(cells), per_row):
        blocks = [
            _block(first + place, cell, width, height)
            for place, cell in enumerate(cells[first : first + per_row])
        ]
        lines += [" | ".join(parts).rstrip() for parts in zip(*blocks, strict=True)]
    return lines[: max(1, rows)]


def _block(number: int, cell: tuple[str, str], width: int, height: int) -> list[str]:
    state, text = cell
    wrapped = _wrap(" ".join(printable(text).split()), width)[-(height - 1) :] if height > 1 else []
    lines = [f"#{number + 1} {state}", *wrapped]
    return [_pad(line, width) for line in [*lines, *[""] * (height - len(lines))]]


def printable(text: str) -> str:
    """Return a text without what would steer a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t " else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _wrap(text: str, width: int) -> list[str]:
    lines, line, used = [""][:0], "", 0
    for letter in text[-8 * width :]:
        wide = _columns(letter)
        if used + wide > width:
            lines.append(line)
            line, used = "", 0
        line, used = line + letter, used + wide
    return [*lines, line] if line else lines


def _pad(line: str, width: int) -> str:
    line = _wrap(line, width)[0] if line else ""
    return line + " " * (width - sum(map(_columns, line)))
