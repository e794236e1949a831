"""Weights of a trainer as bytes for an engine: each copied once, and by the library's own `save`.

usage: python weights_bytes.py [--megabytes 500] [--repeats 5]

A model of Linear layers in bfloat16, as one that was loaded so and is sent so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from longcat_gspo._packing import to_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

WIDTH = 2048


def library(state: dict[str, Tensor]) -> bytes:
    """As the trainer did it before."""
    return save_safetensors({name: t.detach().cpu().contiguous() for name, t in state.items()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    num = max(1, options.megabytes * 10**6 // (2 * WIDTH * WIDTH))
    layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num)).bfloat16()
    state = layers.state_dict()
    assert to_safetensors(state) == library(state)
    ways = {"one copy": to_safetensors, "safetensors' save": library}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.repeats):
        for way in list(ways) if turn % 2 else list(ways)[::-1]:
            began = time.perf_counter()
            size = len(ways[way](state))
            times[way].append(time.perf_counter() - began)
    ratios = sorted(b / a for a, b in zip(*times.values(), strict=True))
    rows = [[way, round(size / 1e9 / statistics.median(took), 2), round(statistics.median(took), 3)]
            for way, took in times.items()]  # fmt: skip
    print("| way | GB/s | s |\n| --- | --- | --- |")
    print("\n".join(f"| {way} | {rate} | {took} |" for way, rate, took in rows))
    print(json.dumps({
        "title": "A trainer's weights as bytes, on CPU",
        "claim": "Asked: how fast weights are ready for an engine. safetensors' own save takes "
        f"{statistics.median(ratios):.2f} times as long as one copy of each tensor.",
        "columns": ["way", "GB/s", "s"], "rows": rows,
        "spread": f"ratio {ratios[0]:.2f} to {ratios[-1]:.2f} in {options.repeats} pairs",
        "notes": [f"{size / 1e6:.0f} MB of bfloat16 in {num} matrices; the bytes are equal."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
