"""What one sees while a run goes on: a live panel in a terminal, plain lines elsewhere.

Figures come at least every five seconds, also while a stage has none yet: a thread shows what it
is doing and for how long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 4.0
"""Between two plain lines; with `BEAT_S` and a busy machine less than five."""
BEAT_S = 0.4


class Shows(Protocol):
    """What a stage tells of itself while it goes on."""

    def note(self, **values: Any) -> None:
        """Show what is prepared before the work proper, by which time left is reckoned."""
        ...

    def update(self, *, done: float, **values: Any) -> None:
        """Show figures; `done` is the finished share."""
        ...


class Figures:
    """What is shown of one stage that goes on; others may beside it."""

    def __init__(self, display: Display, stage: str, watch: Callable[[], dict[str, Any]]) -> None:
        self.stage, self.began = stage, display.clock()
        self._display, self._watch, self._printed = display, watch, self.began
        self._first: tuple[float, float] | None = None
        self._values: dict[str, Any] = {}

    def note(self, **values: Any) -> None:
        """Show what the stage prepares before its work proper, by which time left is reckoned."""
        with self._display.lock:
            self._values = values
            self.print_if_due()

    def update(self, *, done: float, **values: Any) -> None:
        """Show figures of the stage; `done` is its finished share."""
        with self._display.lock:
            self._values = {"done": f"{100 * done:.0f}%", **values, **self._left(done)}
            if done >= 1 and not self._display.is_live:
                self._print()
            else:
                self.print_if_due()

    def print_if_due(self) -> None:
        """Print a line if the last one is some seconds old; the lock is held."""
        now = self._display.clock()
        if not self._display.is_live and now - self._printed >= PLAIN_EVERY_S:
            self._print()

    def __str__(self) -> str:
        """Never empty: at least how long the stage has been at it."""
        values = {**self._values, **self._watch()}
        values["after"] = f"{self._display.clock() - self.began:.0f} s"
        return "  ".join(f"{key} {_show(value)}" for key, value in values.items())

    def _left(self, done: float) -> dict[str, str]:
        """Time left at the pace since the first figures: what came before them was preparation."""
        now = self._display.clock()
        if self._first is None:
            self._first = now, done
        since, at = self._first
        return {"left": f"{(now - since) * (1 - done) / (done - at):.0f} s"} if done > at else {}

    def _print(self) -> None:
        self._printed = self._display.clock()
        self._display.say(f"  {self.stage}: {self}")


class Display:
    """Shows stages, and the figures of those that go on."""

    def __init__(
        self,
        stages: list[str],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self.stages = dict.fromkeys(stages, "")
        self.is_live = self.console.is_terminal
        self.clock, self.lock = clock, threading.Lock()
        self._present: dict[str, Figures] = {}
        self._newest = Figures(self, "", dict)
        self._is_over = threading.Event()
        self._beats: threading.Thread | None = None
        self._live: Live | None = None
        if self.is_live:
            self._live = Live(
                console=self.console, refresh_per_second=4, get_renderable=self._panel
            )

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        else:
            self._beats = threading.Thread(target=self._beat, daemon=True)
            self._beats.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._beats is not None:
            self._beats.join()
        if self._live is not None:
            self._live.stop()

    def begin(self, stage: str, watch: Callable[[], dict[str, Any]] = dict) -> Figures:
        """A stage begins; `watch` gives figures beside its own whenever it is looked at."""
        with self.lock:
            self._present[stage] = self._newest = Figures(self, stage, watch)
            if not self.is_live:
                self.say(f"{stage} ...")
            return self._newest

    def note(self, **values: Any) -> None:
        """`Figures.note` of the stage that began last."""
        self._newest.note(**values)

    def update(self, *, done: float, **values: Any) -> None:
        """`Figures.update` of the stage that began last."""
        self._newest.update(done=done, **values)

    def end(self, stage: str, note: str) -> None:
        """A stage is done."""
        with self.lock:
            self.stages[stage] = note
            self._present.pop(stage, None)
            if not self.is_live:
                self.say(f"{stage}: {note}")

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_S):
            with self.lock:
                for figures in self._present.values():
                    figures.print_if_due()

    def _panel(self) -> Group:
        with self.lock:
            present = list(self._present.values())
        names = [figures.stage for figures in present]
        table = Table.grid(padding=(0, 2))
        for stage, note in self.stages.items():
            mark = "[green]done[/]" if note else "[cyan]now[/]" if stage in names else ""
            table.add_row(stage, mark, note)
        told = (f"{f.stage}: {f}" if len(present) > 1 else str(f) for f in present)
        return Group(table, Text("\n".join(told)))


def _show(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
