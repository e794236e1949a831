"""What one sees while a run goes on: a live panel in a terminal, plain lines elsewhere.

Figures come at least every five seconds, also while a stage has none yet: a thread shows what it
is doing and for how long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 4.0
"""Between two plain lines; with `BEAT_S` and a busy machine less than five."""
BEAT_S = 0.4


class Display:
    """Shows stages and the present stage's figures."""

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
        self._clock, self._lock = clock, threading.Lock()
        self._present, self._began, self._printed = "", clock(), 0.0
        self._first: tuple[float, float] | None = None
        self._values: dict[str, Any] = {}
        self._watched: Callable[[], dict[str, Any]] = dict
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

    def begin(self, stage: str, watch: Callable[[], dict[str, Any]] = dict) -> None:
        """A stage begins; `watch` gives figures beside its own whenever it is looked at."""
        with self._lock:
            self._present, self._first, self._values = stage, None, {}
            self._began = self._printed = self._clock()
            self._watched = watch
            if not self.is_live:
                self._say(f"{stage} ...")

    def note(self, **values: Any) -> None:
        """Show what the stage prepares before its work proper, by which time left is reckoned."""
        with self._lock:
            self._values = values
            self._print_if_due()

    def update(self, *, done: float, **values: Any) -> None:
        """Show figures of the present stage; `done` is its finished share."""
        with self._lock:
            self._values = {"done": f"{100 * done:.0f}%", **values, **self._left(done)}
            if done >= 1 and not self.is_live:
                self._print()
            else:
                self._print_if_due()

    def end(self, stage: str, note: str) -> None:
        """A stage is done."""
        with self._lock:
            self.stages[stage] = note
            self._present = ""
            if not self.is_live:
                self._say(f"{stage}: {note}")

    def _left(self, done: float) -> dict[str, str]:
        """Time left at the pace since the first figures: what came before them was preparation."""
        now = self._clock()
        if self._first is None:
            self._first = now, done
        since, at = self._first
        return {"left": f"{(now - since) * (1 - done) / (done - at):.0f} s"} if done > at else {}

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_S):
            with self._lock:
                if self._present:
                    self._print_if_due()

    def _print_if_due(self) -> None:
        if not self.is_live and self._clock() - self._printed >= PLAIN_EVERY_S:
            self._print()

    def _print(self) -> None:
        self._printed = self._clock()
        self._say(f"  {self._present}: {self._figures()}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _figures(self) -> str:
        """Never empty: at least how long the stage has been at it."""
        values = {**self._values, **self._watched()}
        values["after"] = f"{self._clock() - self._began:.0f} s"
        return "  ".join(f"{key} {_show(value)}" for key, value in values.items())

    def _panel(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for stage, note in self.stages.items():
            mark = "[green]done[/]" if note else "[cyan]now[/]" if stage == self._present else ""
            table.add_row(stage, mark, note)
        return Group(table, Text(self._figures() if self._present else ""))


def _show(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
