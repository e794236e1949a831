"""The interference report as one HTML page with plots by layer; no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ._interference import Interference

_COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e6c8a", "#b08900", "#444444")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 460, 190, 44, 28, 34
_PLOTS = (
    ("cosine", "Cosine between task vectors", True),
    ("sign_conflict", "Sign conflict, of elements both moved", True),
    ("overlap", "Overlap, of elements either moved", True),
    ("unchanged", "Unchanged elements", False),
    ("relative_norm", "Norm of the task vector over the base's", False),
    ("cancelled", "Change that a sum cancels", None),
)


def page(report: Interference) -> str:
    """Render the report."""
    data = report.as_json()
    layers = list(data["layers"].values())
    pairs = [" and ".join(pair) for pair in combinations(report.experts, 2)]
    plots = []
    for key, title, by_pair in _PLOTS:
        names = ["all experts"] if by_pair is None else pairs if by_pair else list(report.experts)
        if layers and names:
            columns = [[layer[key]] if by_pair is None else layer[key] for layer in layers]
            series = {name: [column[n] for column in columns] for n, name in enumerate(names)}
            plots.append(line_plot(title, list(data["layers"]), series))
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in data["reasons"])
    return f"""<!doctype html>
<meta charset="utf-8"><title>Interference</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.2em .8em;border-bottom:1px solid #ddd;
text-align:right}}td:first-child,th:first-child{{text-align:left}}svg{{margin:.5em}}</style>
<h1>Will merging work? {data["verdict"].capitalize()}.</h1>
<ul>{reasons}</ul>
<p>{html.escape(", ".join(report.experts))}. The bounds are rules of thumb: {_bounds(data)}.</p>
{"".join(plots)}
<h2>Experts</h2>{_experts(data)}
<h2>Kinds of tensors</h2>{_kinds(data["kinds"])}
"""


def _bounds(data: dict[str, Any]) -> str:
    low, high = data["bounds"]["cancelled"]
    return (
        f"cancelled up to {low:.0%} is likely to work and from {high:.0%} unlikely; a task vector "
        f"of {data['bounds']['relative_norm']:.0%} of the base's norm is of another base"
    )


def _experts(data: dict[str, Any]) -> str:
    total = data["total"]
    rows = [
        [name, f"{total['norm'][n]:.4g}", f"{total['relative_norm'][n]:.3%}",
         f"{total['unchanged'][n]:.1%}"]
        for n, name in enumerate(data["experts"])
    ]  # fmt: skip
    return _table(["expert", "norm", "of the base's", "unchanged"], rows)


def _kinds(kinds: Mapping[str, dict[str, Any]]) -> str:
    rows = [
        [kind, f"{f['elements']:,}", _range(f["cosine"], "{:.3f}"),
         _range(f["sign_conflict"], "{:.1%}"), f"{f['cancelled']:.1%}", f"{f['lost']:.1%}"]
        for kind, f in kinds.items()
    ]  # fmt: skip
    return _table(["kind", "elements", "cosine", "sign conflict", "cancelled", "lost"], rows)


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def line_plot(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Draw lines over the labels, as an SVG element."""
    values = [value for line in series.values() for value in line]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1.0
    width, height = _WIDTH - _LEFT - 12, _HEIGHT - _TOP - _BOTTOM

    def x(place: int) -> float:
        return _LEFT + width * (place / (len(labels) - 1) if len(labels) > 1 else 0.5)

    def y(value: float) -> float:
        return _TOP + height * (high - value) / (high - low)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="11">'
        ),
        f'<text x="{_LEFT}" y="16" font-size="13">{html.escape(title)}</text>',
    ]
    for value in (low, (low + high) / 2, high):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#ddd"/><text x="{_LEFT - 4}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{value:.3g}</text>"
        )
    for place in sorted({0, len(labels) // 2, len(labels) - 1}):
        parts.append(
            f'<text x="{x(place):.1f}" y="{_TOP + height + 14}" text-anchor="middle">'
            f"{html.escape(labels[place])}</text>"
        )
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{_LEFT + 100 * number}" y="{_HEIGHT - 4}" fill="{colour}">'
            f"{html.escape(name[:18])}</text>"
        )
    return "".join([*parts, "</svg>"])
