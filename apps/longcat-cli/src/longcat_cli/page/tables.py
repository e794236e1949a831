"""Rates by model, domain and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .facts import escape

Row = dict[str, Any]


def interval(passed: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a pass rate."""
    if total == 0:
        return 0.0, 1.0
    z, rate = 1.96, passed / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def matrix(rows: Sequence[Row]) -> str:
    """Models down, domains and noise across; each cell with its interval."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    levels = sorted({row["noise"] for row in rows})
    found = {(row["model"], row["domain"], row["noise"]): row for row in rows}
    best = {
        (domain, level): max(
            (row["passed"] for key, row in found.items() if key[1:] == (domain, level)), default=0
        )
        for domain in domains
        for level in levels
    }
    top = "".join(f'<th colspan="{len(levels)}">{escape(domain)}</th>' for domain in domains)
    sub = "".join(f"<th>{_noise(level)}</th>" for _ in domains for level in levels)
    lines = [f'<tr><th rowspan="2">model</th>{top}</tr><tr>{sub}</tr>']
    for model in models:
        cells = (
            _cell(found.get((model, domain, level)), best[domain, level])
            for domain in domains
            for level in levels
        )
        lines.append(f"<tr><th>{escape(model)}</th>{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="matrix">{"".join(lines)}</table></div>'


def _noise(level: float) -> str:
    return "clean" if level == 0 else f"noise {level:g}"


def _cell(row: Row | None, best: int) -> str:
    if row is None:
        return "<td></td>"
    low, high = interval(row["passed"], row["total"])
    rate = row["passed"] / max(row["total"], 1)
    mark = ' class="best"' if row["passed"] == best else ""
    bar = f'<span class="bar"><span style="left:{low:.1%};right:{1 - high:.1%}"></span></span>'
    return f"<td{mark}><b>{rate:.0%}</b><small>{low:.0%} to {high:.0%}</small>{bar}</td>"


def cells(rows: Sequence[Row]) -> str:
    """Every cell, a row each, as it stands in `evaluation.json`."""
    named = [("refused", "noise not certified"), ("invalid", "world failed")]
    more = [(key, title) for key, title in named if any(row.get(key) for row in rows)]
    has_tokens = any(row.get("tokens") for row in rows)
    head = ["model", "domain", "noise", "pass@1", "interval", "passed"]
    head += ["tokens a success"] * has_tokens + [title for _, title in more]
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for row in rows:
        low, high = interval(row["passed"], row["total"])
        rate = row["passed"] / max(row["total"], 1)
        tokens = (
            f"{row['tokens'] / row['passed']:.0f}" if row.get("tokens") and row["passed"] else "-"
        )
        values = [
            row["model"], row["domain"], f"{row['noise']:g}", f"{rate:.0%}",
            f"{low:.0%} to {high:.0%}", f"{row['passed']}/{row['total']}",
            *([tokens] if has_tokens else []), *(str(row.get(key, 0)) for key, _ in more),
        ]  # fmt: skip
        lines.append("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in values) + "</tr>")
    return f'<div class="wide"><table class="cells">{"".join(lines)}</table></div>'


def cards(means: dict[str, float], levels: Sequence[float]) -> str:
    """From the cold start to the fused model, at each level, as large numbers."""
    shown: list[str] = []
    for level in levels:
        before, after = (means.get(f"{kind}@{level}") for kind in ("cold_start", "fused"))
        if before is not None and after is not None:
            gain = 100 * (after - before)
            shown.append(
                f'<div class="card"><small>{_noise(level)}</small>'
                f"<b>{before:.0%} &rarr; {after:.0%}</b><small>{gain:+.1f} points, "
                f"cold start to fused</small></div>"
            )
    return f'<div class="cards">{"".join(shown)}</div>'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows) + "</dl>"


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="plain"><tr>{top}</tr>{body}</table></div>'
