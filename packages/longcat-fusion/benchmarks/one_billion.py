"""Merges of a model of 1B parameters, here and in mergekit: CPU, memory, distance to float64.

    PEER_PYTHON=/path/to/venv/bin/python BENCH_FOLDER=/large/disk python one_billion.py

A base and three bf16 experts in the shapes of a Llama, with random weights, alike in every layer;
needs 13 GB of disk and half an hour of CPU, nearly all of it mergekit's. Both sides read the same
YAML, on one thread. `BENCH_LOCK` names a file that is locked around each pair of merges.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cost_against_mergekit import METHODS, Server, make_models, quiet, write_yaml
from distance_to_float64 import _nearest_bf16
from longcat_fusion._headers import Entry, read_header
from longcat_fusion._numbers import decode

Values = np.ndarray
WEIGHT = 0.5
"""Of each expert, in all methods but `linear` and `sce`, which have means of their own."""


def sampled(layers: int) -> tuple[str, ...]:
    """Tensors whose results are compared with float64."""
    middle = f"model.layers.{layers // 2}"
    return (
        "model.layers.0.self_attn.q_proj.weight",
        f"{middle}.mlp.down_proj.weight",
        f"{middle}.input_layernorm.weight",
    )


def entries(folder: Path) -> dict[str, Entry]:
    """Where the tensors of a checkpoint lie."""
    return {e.name: e for file in folder.glob("*.safetensors") for e in read_header(file).entries}


def values_of(entry: Entry) -> Values:
    """The values of one bf16 tensor in float64."""
    assert entry.dtype == "BF16", entry
    raw = np.fromfile(entry.file, np.uint8, entry.num_bytes, offset=entry.begin)
    return decode(raw, "BF16").astype(float)


def at_least(values: Values, count: int) -> tuple[Values, Values]:
    """The `count` largest, and those tied with the least of them, of which any may be kept."""
    if count < 1:
        return np.zeros(values.size, bool), np.zeros(values.size, bool)
    least = np.partition(values, values.size - count)[values.size - count]
    return values >= least, (values == least) & (least > 0)


def consensus(parts: Values, weights: Values) -> Values:
    """Mean by weight of the parts that have the sign of their sum."""
    agree = (np.sign(parts) == np.sign(parts.sum(0))) & (parts != 0)
    divisor = np.tensordot(weights, agree, 1)
    return (parts * agree).sum(0) / np.where(divisor == 0, 1, divisor)


def reference(method: str, base: Values, deltas: Values) -> tuple[Values, Values]:
    """The merge in float64, and which elements are open: tied with a threshold."""
    size, is_open = base.size, np.zeros(base.size, bool)
    if method == "linear":
        return base + deltas.mean(0), is_open
    if method == "sce":
        variance = deltas.var(0)
        kept, is_open = at_least(variance, int(0.5 * np.count_nonzero(variance)))
        parts = deltas * kept
        energy = (parts**2).sum(1)
        share = energy / energy.sum()
        agree = (np.sign(parts) == np.sign(parts.sum(0))) & (parts != 0)
        divisor = np.tensordot(share, agree, 1)
        total = (share[:, None] * parts * agree).sum(0)
        return base + total / np.where(divisor == 0, 1, divisor), is_open
    parts = []
    for delta in deltas:
        lengths = np.abs(delta)
        count = int(0.5 * size)
        top = min(int(0.01 * size), size - count) if method == "breadcrumbs" else 0
        kept, tied = at_least(lengths, count + top)
        outliers, outliers_tied = at_least(lengths, top)
        parts.append(WEIGHT * delta * (kept & ~outliers))
        is_open |= tied | outliers_tied
    stacked = np.stack(parts)
    if method == "ties":
        return base + consensus(stacked, np.full(len(parts), WEIGHT)), is_open
    return base + stacked.sum(0), is_open


def distances(folder: Path, method: str, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """What is compared, and its figures here and in mergekit."""
    inputs = [entries(folder / name) for name in ("base", "a", "b", "c")]
    outputs = [entries(folder / name) for name in ("mine", "theirs")]
    sums, counted, along, total = [0, 0], 0, [0.0, 0.0], 0.0
    for name in names:
        base, *experts = (values_of(found[name]) for found in inputs)
        deltas = np.stack(experts) - base
        merged = [values_of(found[name]) for found in outputs]
        if method == "della":
            summed = WEIGHT * deltas.sum(0)
            total += float(summed @ summed)
            for place, found in enumerate(merged):
                along[place] += float((found - base) @ summed)
            continue
        wanted, is_open = reference(method, base, deltas)
        near = _nearest_bf16(wanted)
        counted += int(np.count_nonzero(~is_open))
        for place, found in enumerate(merged):
            sums[place] += int(np.count_nonzero((found != near) & ~is_open))
    if method == "della":
        return "along the sum", [f"{part / total:.3f}" for part in along]
    return "not nearest", [f"{100 * part / counted:.3f}%" for part in sums]


def measure(
    folder: Path, method: str, servers: tuple[Server, Server], names: tuple[str, ...]
) -> list[object]:
    """Merge here and there, and compare."""
    path = write_yaml(folder, method)
    with quiet():
        found = [
            server.merge(path, folder / out)
            for server, out in zip(servers, ("mine", "theirs"), strict=True)
        ]
    kind, figures = distances(folder, method, names)
    mine, theirs = found
    row = [
        method, round(mine["cpu"], 1), round(theirs["cpu"], 1),
        round(theirs["cpu"] / mine["cpu"], 1), round(mine["peak"]), round(theirs["peak"]), kind,
        *figures,
    ]  # fmt: skip
    print(row, file=sys.stderr, flush=True)
    return row


@contextlib.contextmanager
def folder_of() -> Iterator[Path]:
    """The folder for checkpoints, which is deleted."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        yield Path(name)


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--vocab", type=int, default=32000)
    methods = ["linear", "ties", "sce", "breadcrumbs", "della"]
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    parser.add_argument("--minutes", type=float, default=600, help="no method is begun later")
    options = parser.parse_args()
    peer = os.environ["PEER_PYTHON"]
    assert set(methods) <= set(METHODS)
    with folder_of() as folder, contextlib.ExitStack() as stack:
        size = make_models(folder, options.width, options.layers, options.vocab, alike=True)
        servers = Server(sys.executable, "here"), Server(peer, "mergekit")
        for server in servers:
            stack.callback(server.close)
        names = sampled(options.layers)
        began, rows = time.monotonic(), []
        for method in options.methods:
            if time.monotonic() - began < 60 * options.minutes:
                rows.append(measure(folder, method, servers, names))
    version = subprocess.run(
        [peer, "-c", "from importlib.metadata import version as v; print(v('mergekit'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    columns = [
        "method", "CPU s, here", "CPU s, mergekit", "ratio", "peak MB, here", "peak MB, mergekit",
        "distance to float64", "here", "mergekit",
    ]  # fmt: skip
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    ratios = {str(row[0]): float(str(row[3])) for row in rows}
    trimming = [ratio for method, ratio in ratios.items() if method != "linear"]
    said = f"{min(trimming):.1f} to {max(trimming):.1f} times the CPU" if trimming else "CPU"
    left = [method for method in options.methods if method not in ratios]
    missing = [f"Not measured, for want of time: {', '.join(left)}."] if left else []
    print(json.dumps({
        "title": "A model of 1B parameters and three experts, here and in mergekit",
        "claim": f"On {size / 1e9:.2f}B parameters at least 4 times less CPU was asked on the "
        f"methods that trim: mergekit takes {said} there and {ratios.get('linear', 0):.1f} times "
        f"on linear; the peak is at most {max(float(str(row[4])) for row in rows):.0f} MB of the "
        "512 that are the budget.",
        "columns": columns, "rows": rows,
        "spread": "one run; see cost-against-mergekit for rounds",
        "seeds": [0],
        "versions": {"mergekit": version},
        "notes": [
            ("Merges alone, no imports, one thread each; peak: the largest RssAnon above the idle "
            "process, looked at every 10 ms; a shared machine."),
            ("Not nearest: share of elements that are not the bf16 number nearest to a dense "
            f"float64 merge, in {len(names)} sampled tensors; elements tied with a threshold are "
            "left out, as any of them may be kept."),
            ("Along the sum (DELLA is random): the component of the result along the weighted sum "
            "of the task vectors; 1 is right on average."),
            *missing,
            "Here digests of all inputs and outputs are taken and every value is checked.",
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
