"""How far the merged weights are from a dense float64 merge, here and in mergekit.

    PEER_PYTHON=/path/to/venv/bin/python python distance_to_float64.py

Both sides read the same YAML. Random methods are compared by what they leave of the task vectors on
average, as their masks differ.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cost_against_mergekit import run, shapes
from longcat_fusion._headers import header_bytes, read_header
from longcat_fusion._numbers import decode, encode

WIDTH, LAYERS, VOCAB = 256, 1, 512
WEIGHTS = np.array([0.5, 0.3, 0.6])


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` largest, by sorting."""
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(values.shape)


def consensus(parts: np.ndarray, weights: np.ndarray, *, average: bool) -> np.ndarray:
    """Sum (or mean by weight) of the parts with the sign of the sum."""
    agree = np.sign(parts) == np.sign(parts.sum(0))
    agree &= parts != 0
    total = (parts * agree).sum(0)
    divisor = np.tensordot(weights, agree, 1)
    return total / np.where(divisor == 0, 1, divisor) if average else total


def weighted(deltas: np.ndarray) -> np.ndarray:
    """Task vectors times their weights."""
    return deltas * WEIGHTS.reshape(-1, *([1] * (deltas.ndim - 1)))


def ties(base: np.ndarray, deltas: np.ndarray, density: float) -> np.ndarray:
    """TIES."""
    kept = [d * largest(np.abs(d), max(1, int(density * d.size))) for d in deltas]
    return base + consensus(weighted(np.stack(kept)), WEIGHTS, average=True)


def breadcrumbs(base: np.ndarray, deltas: np.ndarray, density: float) -> np.ndarray:
    """Model breadcrumbs, gamma 0.01."""
    kept = []
    for delta in deltas:
        count, top = int(density * delta.size), int(0.01 * delta.size)
        top = min(top, delta.size - count)
        size = np.abs(delta)
        kept.append(delta * (largest(size, count + top) & ~largest(size, top)))
    return base + weighted(np.stack(kept)).sum(0)


def sce(base: np.ndarray, deltas: np.ndarray, select: float) -> np.ndarray:
    """SCE."""
    variance = deltas.var(0)
    kept = deltas * largest(variance, int(select * np.count_nonzero(variance)))
    energy = (kept**2).reshape(len(kept), -1).sum(1)
    share = energy / energy.sum()
    agree = (np.sign(kept) == np.sign(kept.sum(0))) & (kept != 0)
    top = np.tensordot(share, kept * agree, 1) if kept.ndim == 1 else None
    top = (
        (share.reshape(-1, *([1] * (kept.ndim - 1))) * kept * agree).sum(0) if top is None else top
    )
    bottom = np.tensordot(share, agree, 1)
    return base + top / np.where(bottom == 0, 1, bottom)


def karcher(experts: np.ndarray) -> np.ndarray:
    """The Karcher mean, by steps in the space itself."""
    flat = experts.reshape(len(experts), -1)
    norms = np.linalg.norm(flat, axis=1)
    units = flat / norms[:, None]
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    for _ in range(100):
        tangent = np.zeros_like(mean)
        for unit in units:
            dot = min(1.0, unit @ mean)
            angle = math.acos(dot)
            tangent += (angle / math.sin(angle) if angle > 0 else 1) * (unit - dot * mean) / 3
        length = np.linalg.norm(tangent)
        if length < 1e-15:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
    return (mean * norms.mean()).reshape(experts.shape[1:])


def ram(base: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """RAM, threshold 1e-5."""
    moved = np.abs(deltas) > 1e-5
    return base + (deltas * moved).sum(0) / np.maximum(moved.sum(0), 1)


Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]
EXACT: dict[str, tuple[str, str, str, Reference]] = {
    "linear": ("linear", "", "{}",
               lambda b, d: b + np.tensordot(WEIGHTS / WEIGHTS.sum(), d, 1)),
    "task_arithmetic": ("task_arithmetic", "", "{}", lambda b, d: b + weighted(d).sum(0)),
    "karcher": ("karcher", "", "{}", lambda b, d: karcher(b + d)),
    "ties 1.0": ("ties", "density: 1", "{}", lambda b, d: ties(b, d, 1)),
    "ties 0.5": ("ties", "density: 0.5", "{}", lambda b, d: ties(b, d, 0.5)),
    "breadcrumbs 0.5": ("breadcrumbs", "density: 0.5", "{}", lambda b, d: breadcrumbs(b, d, 0.5)),
    "sce 1.0": ("sce", "", "{select_topk: 1}", lambda b, d: sce(b, d, 1)),
    "sce 0.5": ("sce", "", "{select_topk: 0.5}", lambda b, d: sce(b, d, 0.5)),
    "ram": ("ram", "", "{}", ram),
}  # fmt: skip
RANDOM = {
    "dare_linear 0.5": ("dare_linear", "density: 0.5", "{}"),
    "della_linear 0.5": ("della_linear", "density: 0.5, epsilon: 0.15", "{}"),
}


def make(folder: Path, dtype: str) -> list[dict[str, np.ndarray]]:
    """Write base and experts; return their values in float64."""
    found = []
    for number, name in enumerate(("base", "a", "b", "c")):
        values = {}
        for place, (tensor, shape) in enumerate(shapes(WIDTH, LAYERS, VOCAB).items()):
            value = np.random.default_rng(place).standard_normal(shape) * 0.02
            if number:
                rng = np.random.default_rng((place, number))
                change = rng.standard_normal(shape) * 2e-3 * (rng.random(shape) < 0.3)
                value = value + change
            raw = encode(value.astype(np.float32).reshape(-1), dtype)
            values[tensor] = raw
        (folder / name).mkdir(parents=True)
        write(folder / name, values, dtype)
        found.append({n: decode(r, dtype).astype(float).reshape(shapes(WIDTH, LAYERS, VOCAB)[n])
                      for n, r in values.items()})  # fmt: skip
    return found


def write(folder: Path, values: dict[str, np.ndarray], dtype: str) -> None:
    """Write a checkpoint of one file, as a Llama."""
    head, _ = header_bytes(
        [(n, dtype, s) for n, s in shapes(WIDTH, LAYERS, VOCAB).items()], {"format": "pt"}
    )
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(head)
        for raw in values.values():
            opened.write(raw.tobytes())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": WIDTH * 8 // 3 // 64 * 64, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCAB,
        "tie_word_embeddings": False,
    }))  # fmt: skip


def merged(folder: Path, dtype: str) -> dict[str, np.ndarray]:
    """Values of a merged folder, in float64."""
    found = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        for entry in read_header(file).entries:
            assert entry.dtype == dtype, (entry.name, entry.dtype)
            raw = np.frombuffer(data, np.uint8, entry.num_bytes, entry.begin)
            found[entry.name] = decode(raw, dtype).astype(float).reshape(entry.shape)
    return found


def both(folder: Path, name: str, method: tuple[str, str, str], dtype: str, peer: str):
    """Merge here and there; return both results."""
    kind, setting, shared = method
    lines = [f"merge_method: {kind}", f"parameters: {shared}", "models:",
             f"dtype: {'bfloat16' if dtype == 'BF16' else 'float32'}"]  # fmt: skip
    models = []
    for model, weight in zip("abc", WEIGHTS, strict=True):
        plain = kind in ("karcher", "sce", "ram")
        parameters = ", ".join(p for p in ("" if plain else f"weight: {weight}", setting) if p)
        models.append(f"  - {{model: {folder / model}, parameters: {{{parameters}}}}}")
    lines[3:3] = models
    if kind not in ("linear", "karcher"):
        lines.append(f"base_model: {folder / 'base'}")
    path = folder / "merge.yml"
    path.write_text("\n".join(lines) + "\n")
    run([sys.executable, "-m", "longcat_fusion", "merge", str(path), "--out",
         str(folder / "mine")], folder / "mine")  # fmt: skip
    run([peer, "-m", "mergekit.scripts.run_yaml", str(path), str(folder / "theirs"),
         "--no-copy-tokenizer", "--quiet"], folder / "theirs")  # fmt: skip
    print("merged", name, dtype, file=sys.stderr, flush=True)
    return merged(folder / "mine", dtype), merged(folder / "theirs", dtype)


def main() -> None:
    """Compare, print a table and one line of JSON."""
    peer = os.environ["PEER_PYTHON"]
    rows: list[list[object]] = []
    for dtype in ("F32", "BF16"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            base, *experts = make(folder, dtype)
            for label, (*method, reference) in EXACT.items():
                if dtype == "BF16" and label.endswith("0.5"):
                    continue  # bf16 changes are often equal in size: which are kept is not defined
                results = both(folder, label, tuple(method), dtype, peer)
                rows.append([label, dtype, *_distances(results, base, experts, reference, dtype)])
            if dtype == "F32":
                for label, method in RANDOM.items():
                    results = both(folder, label, method, dtype, peer)
                    rows.append([label, dtype, *_shares(results, base, experts)])
    version = subprocess.run(
        [peer, "-c", "from importlib.metadata import version as v; print(v('mergekit'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    columns = ["method and density", "stored as", "measure", "here", "mergekit"]
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    off, other = (
        [float(str(row[place]).rstrip("%")) for row in rows if row[1] == "BF16"] for place in (3, 4)
    )
    print(json.dumps({
        "title": "Distance to a dense float64 merge, here and in mergekit",
        "claim": f"Of bf16 results at most {max(off):.2f}% are not the nearest to float64, in "
        f"mergekit at most {max(other):.2f}%.",
        "columns": columns, "rows": rows,
        "spread": "one deterministic run a side", "seeds": [0],
        "versions": {"mergekit": version},
        "notes": [
            ("F32: the largest distance of an element, over the root mean square of the change. A "
            "figure near 1 would be another element kept or another sign elected."),
            "BF16: share of elements that are not the bf16 number nearest to the float64 result.",
            ("Random methods: the component of the result along the weighted sum of the task "
            "vectors; 1 is right on average, their masks differ."),
        ],
    }))  # fmt: skip


def _distances(results, base, experts, reference, dtype) -> list[str]:
    wanted = {n: reference(b, np.stack([e[n] - b for e in experts])) for n, b in base.items()}
    if dtype == "F32":
        size = math.sqrt(np.mean(np.concatenate(
            [((wanted[n] - base[n]) ** 2).reshape(-1) for n in base])))  # fmt: skip
        return ["max / rms", *(
            f"{max(np.abs(found[n] - wanted[n]).max() for n in base) / size:.1e}"
            for found in results
        )]  # fmt: skip
    total = sum(b.size for b in base.values())
    shares = []
    for found in results:
        off = sum(int(np.count_nonzero(found[n] != _nearest_bf16(wanted[n]))) for n in base)
        shares.append(f"{100 * off / total:.3f}%")
    return ["not nearest", *shares]


def _nearest_bf16(values: np.ndarray) -> np.ndarray:
    """The bf16 number nearest to each float64, by comparing the neighbours."""
    near = decode(encode(values.astype(np.float32).reshape(-1), "BF16"), "BF16")
    near = near.astype(float).reshape(values.shape)
    step = np.exp2(np.floor(np.log2(np.abs(np.where(near == 0, 1, near)))) - 7)
    best = near
    for other in (near - step, near + step):
        best = np.where(np.abs(other - values) < np.abs(best - values), other, best)
    return best


def _shares(results, base, experts) -> list[str]:
    names = list(base)
    total = np.concatenate([
        weighted(np.stack([e[n] - base[n] for e in experts])).sum(0).reshape(-1) for n in names
    ])  # fmt: skip
    shares = []
    for found in results:
        change = np.concatenate([(found[n] - base[n]).reshape(-1) for n in names])
        shares.append(f"{change @ total / (total @ total):.3f}")
    return ["along the sum", *shares]


if __name__ == "__main__":
    main()
