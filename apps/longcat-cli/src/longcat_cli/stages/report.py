"""report: curves as PNG files, and one page, `report.html`, that opens offline."""

from __future__ import annotations

import base64
import html
import json
import math
from pathlib import Path
from typing import Any

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder

from .evaluate import averages

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;
text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}
.line{margin:.15rem 0}.who{display:inline-block;width:6rem;color:#888}
.call{color:#06c}.tool{color:#555;font-family:monospace}.thought{color:#999;font-style:italic}
details{margin:.5rem 0;border:1px solid #ddd;border-radius:.4rem;padding:.4rem .8rem}
"""


def run(folder: RunFolder, display: Display) -> dict[str, Any]:
    """Write the curves and the page; return where they are."""
    curves = {group: _rows(folder.expert(group) / "dora" / "metrics.jsonl")
              for group in folder.recipe.groups}  # fmt: skip
    cold = _rows(folder.path / "cold_start.jsonl")
    pictures = [folder.path / "cold_start.png", folder.path / "reward.png",
                folder.path / "staleness.png"]  # fmt: skip
    _plot_cold_start(cold, pictures[0])
    _plot_rewards(curves, pictures[1])
    _plot_staleness(curves, pictures[2])
    rows = json.loads((folder.path / "evaluation.json").read_text("utf-8"))
    examples = json.loads((folder.path / "examples.json").read_text("utf-8"))
    page = _page(folder, rows, examples, pictures)
    part = folder.path / ".report.part"
    part.write_text(page, encoding="utf-8")
    part.replace(folder.path / "report.html")
    display.update(done=1.0, page="report.html")
    return {"page": "report.html"}


def interval(passed: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a pass rate."""
    if total == 0:
        return 0.0, 1.0
    z, rate = 1.96, passed / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _figure() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot_cold_start(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = _figure()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], lw=1)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="cold start", yscale="log")
    _save(figure, path)


def _plot_rewards(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = _figure()
    for group, rows in curves.items():
        steps = [row["step"] for row in rows]
        (line,) = axes.plot(steps, _smooth(rows, "sampled_reward"), label=f"{group}, all sampled")
        axes.plot(steps, _smooth(rows, "reward"), lw=1, ls=":", color=line.get_color())
    axes.set(xlabel="step", ylabel="pass rate (mean of 10 steps)", ylim=(0, 1),
             title="RL: all that was sampled, and (dotted) what was trained on")  # fmt: skip
    if curves:
        axes.legend(frameon=False)
    _save(figure, path)


def _smooth(rows: list[dict[str, Any]], key: str) -> list[float]:
    values = [row[key] for row in rows]
    return [sum(values[max(0, i - 9) : i + 1]) / min(i + 1, 10) for i in range(len(values))]


def _plot_staleness(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = _figure()
    for group, rows in curves.items():
        means = [
            sum(int(k) * v for k, v in row["staleness"].items())
            / max(sum(row["staleness"].values()), 1)
            for row in rows
        ]
        axes.plot([row["step"] for row in rows], means, lw=1, label=group)
    axes.set(xlabel="step", ylabel="versions behind", title="mean staleness of each batch")
    if curves:
        axes.legend(frameon=False)
    _save(figure, path)


def _page(
    folder: RunFolder, rows: list[dict[str, Any]], examples: list[Any], pictures: list[Path]
) -> str:
    recipe = folder.recipe
    parts = [
        f"<!doctype html><meta charset=utf-8><title>longcat: {html.escape(folder.path.name)}</title>",
        f"<style>{STYLE}</style><h1>{html.escape(recipe.name)}: {html.escape(folder.path.name)}</h1>",
        "<p>Held-out tasks, one try each. The interval is Wilson's, 95%.</p>",
        _table(rows),
        _averages(rows),
        "<h2>Curves</h2>",
        *(_image(path) for path in pictures),
        "<h2>What each stage cost</h2>",
        _costs(folder),
        "<h2>Before and after</h2>",
        *(_example(cell) for cell in examples if cell["model"] in ("cold_start", "fused")),
    ]
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["<tr><th>model<th>domain<th>noise<th>pass@1<th>interval<th>passed"]
    for row in rows:
        low, high = interval(row["passed"], row["total"])
        rate = row["passed"] / max(row["total"], 1)
        lines.append(
            f"<tr><td>{html.escape(row['model'])}<td>{html.escape(row['domain'])}"
            f"<td>{row['noise']:g}<td>{rate:.0%}<td>{low:.0%} to {high:.0%}"
            f"<td>{row['passed']}/{row['total']}"
        )
    return f"<table>{''.join(lines)}</table>"


def _averages(rows: list[dict[str, Any]]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(key)}<td>{rate:.1%}" for key, rate in averages(rows).items()
    )
    return f"<h2>Mean over domains</h2><table><tr><th>model@noise<th>pass@1{cells}</table>"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{path.stem}" src="data:image/png;base64,{data}">'


def _costs(folder: RunFolder) -> str:
    lines = ["<tr><th>stage<th>seconds<th>notes"]
    for file in sorted((folder.path / "stages").glob("*.json"), key=lambda f: f.stat().st_mtime):
        facts = json.loads(file.read_text("utf-8"))
        notes = ", ".join(f"{k} {v}" for k, v in facts.items() if k != "seconds")
        seconds = facts.get("seconds", 0.0)
        lines.append(f"<tr><td>{file.stem}<td>{seconds:.0f}<td>{html.escape(notes)[:400]}")
    return f"<table>{''.join(lines)}</table>"


def _example(cell: dict[str, Any]) -> str:
    body = []
    for example in cell["examples"]:
        lines = "".join(
            f'<div class="line {line["who"]}"><span class=who>{line["who"]}</span>'
            f"{html.escape(line['text'])}</div>"
            for line in example["transcript"]
        )
        verdict = "passed" if example["reward"] == 1 else "failed"
        body.append(f"<p><b>{html.escape(example['task'])}: {verdict}</b>{lines}")
    title = f"{cell['model']}, {cell['domain']}, noise {cell['noise']:g}"
    return f"<details><summary>{html.escape(title)}</summary>{''.join(body)}</details>"
