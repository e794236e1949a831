"""The tool graph of a domain as SVG: a column for each class, an edge for each dependency."""

from __future__ import annotations

from html import escape

from .graph import Graph

WIDTH, LINE, GAP = 190, 17, 26
COLOURS = {"get": "#7a8", "search": "#487", "query": "#59a", "write": "#b52"}


def draw(graph: Graph, title: str) -> str:
    """Return the graph as an SVG document; a tool's dependencies are lit while one points at it."""
    columns: dict[str, list[str]] = {}
    for name, tool in graph.tools.items():
        columns.setdefault(tool.of, []).append(name)
    places: dict[str, tuple[float, float]] = {}
    per_row, top, height = 5, 50.0, 0
    parts: list[str] = []
    for number, (of, names) in enumerate(columns.items()):
        if number and number % per_row == 0:
            top, height = top + height * LINE + GAP + 24, 0
        x = 20 + number % per_row * WIDTH
        height = max(height, len(names) + 1)
        parts.append(f'<text x="{x}" y="{top}" class="of">{escape(of.replace("_", " "))}</text>')
        for place, name in enumerate(names, start=1):
            places[name] = (x, top + place * LINE)
    edges = [(a, b) for a, others in graph.successors.items() for b in others]
    for one, other in edges:
        (x1, y1), (x2, y2) = places[one], places[other]
        middle = (x1 + x2) / 2 + 30
        parts.append(
            f'<path class="{one} {other}" d="M{x1:.0f} {y1 - 4:.0f} Q{middle:.0f} '
            f'{(y1 + y2) / 2 - 20:.0f} {x2:.0f} {y2 - 4:.0f}"/>'
        )
    for name, (x, y) in places.items():
        colour = COLOURS[graph.tools[name].kind]
        parts.append(f'<text x="{x + 5}" y="{y}" fill="{colour}">{escape(name)}'
                     f"<title>{escape(graph.tools[name].description)}</title></text>")  # fmt: skip
    bottom, right = top + height * LINE + 20, 20 + per_row * WIDTH
    style = (
        "text{font:11px sans-serif}.of{font-weight:bold;font-size:13px}.head{font-size:16px}"
        "path{fill:none;stroke:#88a;stroke-opacity:.10}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom:.0f}">'
        f"<style>{style}</style>"
        f'<text x="20" y="24" class="head">{escape(title)}: {len(graph.tools)} tools, '
        f"{graph.num_edges} dependencies</text>" + "".join(parts) + "</svg>\n"
    )
