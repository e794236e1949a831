"""Curves as inline SVG. Text and axes take the page's colour, series the page's palette.

matplotlib draws them in colours that stand for others; these are replaced in what it wrote.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_POINTS = 400
INK = "#010203"
"""Stands for the page's text colour."""
PALETTE = tuple(f"#0{number}0{number}f{number}" for number in range(1, 7))
"""Stand for `--series-1` and so on."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    series: int
    """Colour, from 0."""
    is_dotted: bool = False


def chart(
    lines: Sequence[Line], *, title: str, x: str, y: str, png: Path, is_log: bool = False,
    is_share: bool = False,
) -> str:  # fmt: skip
    """Draw curves; leave them as a PNG file too, for wherever pictures go."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 11}):
        figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
        _draw(axes, lines)
        axes.set(xlabel=x, ylabel=y, title=title)
        if is_log:
            axes.set_yscale("log")
        if is_share:
            axes.set_ylim(0, 1)
        if len({line.label for line in lines if line.label}) > 1:
            axes.legend(frameon=False)
        figure.savefig(png, dpi=110)
        _ink(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return _inline(written.getvalue(), title)


def _draw(axes: Any, lines: Sequence[Line]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    for line in lines:
        every = max(1, len(line.x) // MOST_POINTS)
        axes.plot(
            line.x[::every], line.y[::every], lw=1 if line.is_dotted else 1.6,
            ls=":" if line.is_dotted else "-", color=PALETTE[line.series % len(PALETTE)],
            label=line.label or None,
        )  # fmt: skip


def _ink(axes: Any) -> None:
    axes.tick_params(colors=INK, which="both")
    for part in (axes.title, axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    if axes.get_legend() is not None:
        for text in axes.get_legend().get_texts():
            text.set_color(INK)


def _inline(svg: str, title: str) -> str:
    """The `<svg>` element alone, as wide as there is room, named for those who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    svg = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for number, colour in enumerate(PALETTE, start=1):
        svg = svg.replace(colour, f"var(--series-{number})")
    return svg.replace(INK, "currentColor")


def smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """Running means over the last `width` values.

    >>> smooth([0.0, 1.0, 2.0, 3.0], width=2)
    [0.0, 0.5, 1.5, 2.5]
    """
    return [sum(values[max(0, n - width + 1) : n + 1]) / min(n + 1, width)
            for n in range(len(values))]  # fmt: skip
