"""What one sees while a run goes on: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 5.0


class Display:
    """Shows stages and the present stage's figures."""

    def __init__(self, stages: list[str], *, console: Console | None = None) -> None:
        self.console = console or Console()
        self.stages = dict.fromkeys(stages, "")
        self.is_live = self.console.is_terminal
        self._live = Live(console=self.console, refresh_per_second=4) if self.is_live else None
        self._present, self._printed = "", 0.0
        self._first: tuple[float, float] | None = None
        self._values: dict[str, Any] = {}

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._present, self._printed, self._first = stage, 0.0, None
        self._values = {}
        if not self.is_live:
            self.console.print(f"{stage} ...", highlight=False, soft_wrap=True)
        self._refresh()

    def update(self, *, done: float, **values: Any) -> None:
        """Show figures of the present stage; `done` is its finished share."""
        self._values = {"done": f"{100 * done:.0f}%", **values, **self._left(done)}
        if self.is_live:
            self._refresh()
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S or done >= 1:
            self._printed = time.monotonic()
            self.console.print(
                f"  {self._present}: {_line(self._values)}", highlight=False, soft_wrap=True
            )

    def _left(self, done: float) -> dict[str, str]:
        """Time left at the pace since the first figures: what came before them was preparation."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        since, at = self._first
        return {"left": f"{(now - since) * (1 - done) / (done - at):.0f} s"} if done > at else {}

    def end(self, stage: str, note: str) -> None:
        """A stage is done."""
        self.stages[stage] = note
        self._present = ""
        if not self.is_live:
            self.console.print(f"{stage}: {note}", highlight=False, soft_wrap=True)
        self._refresh()

    def _refresh(self) -> None:
        if self._live is None:
            return
        table = Table.grid(padding=(0, 2))
        for stage, note in self.stages.items():
            mark = "[green]done[/]" if note else "[cyan]now[/]" if stage == self._present else ""
            table.add_row(stage, mark, note)
        self._live.update(Group(table, Text(_line(self._values) if self._present else "")))


def _line(values: dict[str, Any]) -> str:
    return "  ".join(f"{key} {_show(value)}" for key, value in values.items())


def _show(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
