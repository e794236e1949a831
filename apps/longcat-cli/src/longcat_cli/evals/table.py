"""The figures of `longcat eval` for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def table(report: dict[str, Any]) -> Iterator[str]:
    """Lines: rates with intervals, then the gap that noise opens."""
    known = [key for key in report["rows"][0] if key.startswith(("pass@", "pass^"))]
    rates = ["avg", *(key for key in known if key[5:] != "1")]  # at 1, both are the average
    names = [f"avg@{report['attempts']}" if key == "avg" else key for key in rates]
    head = ["model", "domain", "noise", "tasks", *names, "tokens/success", "invalid", "cut",
            "out of turns"]  # fmt: skip
    body = [
        [
            row["model"], row["domain"], f"{row['noise']:g}", str(row["tasks"]),
            *(percent(row[key]) for key in rates), _tokens(row["tokens_per_success"]),
            str(row["invalid"]), str(row["cut"]), str(row["out_of_turns"]),
        ]
        for row in [*report["rows"], *report["over_domains"]]
    ]  # fmt: skip
    yield from _aligned(head, body)
    for row in report["rows"]:
        if row["note"]:
            yield f"{row['model']} on {row['domain']} at noise {row['noise']:g}: {row['note']}"
    if report["gaps"]:
        yield ""
        yield from _aligned(
            ["model", "domain", "noise", "tasks", "clean minus noisy, same tasks"],
            [
                [g["model"], g["domain"], f"{g['noise']:g}", str(g["tasks"]), percent(g["gap"])]
                for g in report["gaps"]
            ],
        )


def percent(estimate: dict[str, float] | None) -> str:
    """A share with its interval.

    >>> percent({"value": 0.5, "low": 0.25, "high": 0.75})
    '50.0% (25.0 to 75.0)'
    """
    if estimate is None:
        return "-"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"


def _tokens(estimate: dict[str, float | None] | None) -> str:
    if estimate is None:
        return "-"
    shown = {name: "any" if bound is None else f"{bound:.0f}" for name, bound in estimate.items()}
    return f"{shown['value']} ({shown['low']} to {shown['high']})"


def _aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    rows = [head, *body]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
