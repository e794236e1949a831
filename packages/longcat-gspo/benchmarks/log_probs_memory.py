"""Peak memory and time of log-probs and gradients: in chunks, the plain way, and TRL's.

usage: python log_probs_memory.py [--tokens 4096] [--words 131072] [--width 256]

Each way runs in a process of its own, whose greatest resident size is read before and after; then
both are timed in turn, in one process.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import resource
import statistics
import time

import torch
from longcat_gspo import linear_log_probs


def plain(hidden, weight, target):
    """As most trainers do it."""
    return (hidden @ weight.T).float().log_softmax(-1).gather(1, target[:, None])[:, 0]


def chunked(hidden, weight, target):
    """Ours."""
    return linear_log_probs(hidden, weight, target)


def trl(hidden, weight, target):
    """What TRL's GRPOTrainer takes from the logits."""
    from trl.trainer.utils import selective_log_softmax

    return selective_log_softmax((hidden @ weight.T)[None], target[None])[0]


WAYS = {"plain": plain, "chunks": chunked}
if importlib.util.find_spec("trl") is not None:
    WAYS["TRL"] = trl


def _case(tokens, words, width):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=g, requires_grad=True)
    weight = torch.randn(words, width, generator=g).mul_(width**-0.5).requires_grad_()
    return hidden, weight, torch.randint(0, words, (tokens,), generator=g)


def _peak(way, sizes, results):
    case = _case(*sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = WAYS[way](*case).mean()
    loss.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put(((after - before) / 1024, case[0].grad, case[1].grad))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--words", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = options.tokens, options.words, options.width
    print(
        f"{sizes[0]} tokens, {sizes[1]} words, width {sizes[2]}, float32, "
        f"torch {torch.__version__}, "
        f"{torch.get_num_threads()} CPU threads"
    )
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    peaks, grads = {}, {}
    for way in WAYS:
        process = context.Process(target=_peak, args=(way, sizes, results))
        process.start()
        peaks[way], *grads[way] = results.get()
        process.join()
    gap = max(
        (a - b).abs().max().item()
        for way in WAYS
        for a, b in zip(grads[way], grads["chunks"], strict=True)
    )
    _tell(sizes, options.repeats, peaks, gap)


def _tell(sizes, repeats, peaks, gap) -> None:
    case = _case(*sizes)
    times = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, call in WAYS.items():
            began = time.perf_counter()
            call(*case).mean().backward()
            times[way].append(time.perf_counter() - began)
    rows = []
    print("| way | peak, MB above the inputs | seconds | over chunks: memory | time | range |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        ratios = sorted(p / c for p, c in zip(times[way], times["chunks"], strict=True))
        rows.append([way, round(peaks[way]), round(statistics.median(times[way]), 2),
                     round(peaks[way] / peaks["chunks"], 1), round(statistics.median(ratios), 2),
                     f"{ratios[0]:.2f} to {ratios[-1]:.2f}"])  # fmt: skip
        print("| " + " | ".join(map(str, rows[-1])) + " |")
    print(f"gradients differ by {gap:.1e}")
    others = [f"{row[0]} {row[3]} times the memory and {row[4]} times the time"
              for row in rows if row[0] != "chunks"]  # fmt: skip
    told = {"TRL": importlib.metadata.version("trl")} if "TRL" in WAYS else {}
    print(json.dumps({
        "title": "Log-probabilities from hidden states: memory and time, both ways",
        "claim": f"Asked: how much memory chunks save. Over chunks: {'; '.join(others)}.",
        "columns": ["way", "peak MB above the inputs", "s", "memory over chunks",
                    "time over chunks", "range"],
        "rows": rows, "spread": f"times: {repeats} interleaved runs; memory: one run",
        "seeds": [0], "versions": told,
        "notes": [(f"{sizes[0]} tokens, {sizes[1]} words, width {sizes[2]}, float32, "
                  f"{torch.get_num_threads()} threads; gradients differ by {gap:.1e}.")],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
