"""A page about robustness: the gap by level, the recovery by kind, and the figures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, MARGIN = 460, 240, 46
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}
td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;text-align:right}
td:first-child,th:first-child{text-align:left}"""
COLUMNS = ("level", "tasks", "attempts", "clean", "noisy", "gap", "gap_low", "gap_high", "recovery",
           "extra_turns", "extra_tokens", "duplicate_writes", "over_trust")  # fmt: skip


def page(rows: Sequence[dict[str, Any]], *, num_invalid: int = 0) -> str:
    """Return the page as HTML, with nothing to fetch."""
    kinds = [f"<h2>Recovery by kind, level {row['level']:g}</h2>{_bars(row['by_kind'])}"
             for row in rows if row["by_kind"]]  # fmt: skip
    note = f"<p>{num_invalid} invalid attempts left out.</p>" if num_invalid else ""
    return (
        f"<!doctype html><meta charset=utf-8><title>Robustness</title><style>{STYLE}</style>"
        f"<h1>Robustness</h1>{gap_picture(rows)}{note}{_table(rows)}{''.join(kinds)}"
    )


def gap_picture(rows: Sequence[dict[str, Any]]) -> str:
    """Return the clean-noisy gap by level as SVG, with intervals."""
    known = [row for row in rows if row["gap"] is not None]
    top = max([0.1, *(row["gap_high"] for row in known)])
    bottom = min([0.0, *(row["gap_low"] for row in known)])

    def x(level: float) -> float:
        return MARGIN + level * (WIDTH - 2 * MARGIN)

    def y(gap: float) -> float:
        return HEIGHT - MARGIN - (gap - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN)

    marks = [_text(MARGIN - 6, y(g) + 4, f"{g:.2f}", "end") for g in (bottom, 0.0, top)]
    marks += [_line(MARGIN, y(0), WIDTH - MARGIN, y(0), "#999")]
    for row in known:
        at = x(row["level"])
        marks += [
            _line(at, y(row["gap_low"]), at, y(row["gap_high"]), "#2563eb"),
            f'<circle cx="{at:.1f}" cy="{y(row["gap"]):.1f}" r="4" fill="#2563eb"/>',
            _text(at, HEIGHT - MARGIN + 18, f"{row['level']:g}"),
        ]
    marks.append(_text(WIDTH / 2, HEIGHT - 8, "level of noise"))
    marks.append(_text(MARGIN, 20, "clean minus noisy pass rate, 95% interval", "start"))
    return _svg(WIDTH, HEIGHT, marks)


def _bars(kinds: dict[str, dict[str, Any]]) -> str:
    marks: list[str] = []
    for index, (kind, found) in enumerate(kinds.items()):
        y, share = 22 * index, found["recovery"]
        marks += [
            _text(110, y + 15, kind, "end"),
            f'<rect x="118" y="{y + 3}" width="{260 * share:.1f}" height="15" fill="#2563eb"/>',
            _text(124 + 260 * share, y + 15, f"{share:.0%} of {found['attempts']}", "start"),
        ]
    return _svg(WIDTH, 22 * len(kinds) + 6, marks)


def _svg(width: float, height: float, marks: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f"{''.join(marks)}</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="2"/>'
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in COLUMNS)
    lines = ["<tr>" + "".join(f"<td>{_cell(row[name])}" for name in COLUMNS) for row in rows]
    return f"<table><tr>{head}{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
