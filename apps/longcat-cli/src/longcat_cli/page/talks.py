"""Conversations side by side: a task before and after, RL's first and last attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .facts import escape

Example = dict[str, Any]


def before_and_after(cells: Sequence[dict[str, Any]]) -> str:
    """For each domain and level, a task that the cold start and the fused model were both asked.

    The first one that the fused model passes and the cold start fails; else the first that they end
    differently; else the first.
    """
    by = {(c["model"], c["domain"], c["noise"]): c["examples"] for c in cells}
    pairs: list[tuple[str, Example, Example]] = []
    for model, domain, noise in by:
        if model != "cold_start" or ("fused", domain, noise) not in by:
            continue
        pair = _chosen(by["cold_start", domain, noise], by["fused", domain, noise])
        if pair is not None:
            level = "clean" if noise == 0 else f"noise {noise:g}"
            pairs.append((f"{domain}, {level}: {pair[0]['task']}", *pair))
    pairs.sort(
        key=lambda pair: pair[1]["reward"] == pair[2]["reward"]
    )  # what shows something first
    return "".join(
        _pair(title, ("cold start", before), ("fused", after), is_open=number == 0)
        for number, (title, before, after) in enumerate(pairs)
    )


def _chosen(before: Sequence[Example], after: Sequence[Example]) -> tuple[Example, Example] | None:
    later = {example["task"]: example for example in after}
    both = [(example, later[example["task"]]) for example in before if example["task"] in later]
    won = [pair for pair in both if pair[0]["reward"] < 1 <= pair[1]["reward"]]
    other = [pair for pair in both if pair[0]["reward"] != pair[1]["reward"]]
    return next(iter([*won, *other, *both]), None)


def first_and_last(samples: dict[str, dict[str, list[Example]]]) -> str:
    """Each expert's first and last attempt in RL."""
    return "".join(
        _pair(f"expert {group}", ("first attempt", found["first"][0]),
              ("last attempt", found["last"][-1]))
        for group, found in samples.items()
        if found["first"] and found["last"]
    )  # fmt: skip


def _pair(
    title: str, left: tuple[str, Example], right: tuple[str, Example], *, is_open: bool = False
) -> str:
    sides = "".join(_side(name, example) for name, example in (left, right))
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>"
        f'<div class="sides">{sides}</div></details>'
    )


def _side(name: str, example: Example) -> str:
    lines = "".join(
        f'<div class="line {escape(line["who"])}"><span>{escape(line["who"])}</span>'
        f"<p>{escape(line['text'])}</p></div>"
        for line in example["transcript"]
    )
    has_passed = example["reward"] == 1
    verdict = "passed" if has_passed else "failed"
    rubrics = "".join(
        f'<li class="{"met" if met else "unmet"}">{escape(text)}</li>'
        for text, met in example.get("rubrics", {}).items()
    )
    return (
        f'<div class="side"><h4>{escape(name)} <span class="{verdict}">{verdict}</span></h4>'
        f"{lines}<ul>{rubrics}</ul></div>"
    )
