"""One forward pass, and forward and backward, against transformers on the same weights.

usage: python forward_backward.py [--preset mini] [--lengths 1024 4096] [--repeats 5]
"""

import argparse
import json

import torch
import transformers
from _peer import both, compare, header
from torch.profiler import ProfilerActivity, profile


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    ours, theirs = both(options.preset, dtype=getattr(torch, options.dtype), device=options.device)
    print(f"preset {options.preset}, {options.dtype}, {header()}")
    print("| pass | tokens | ours, tokens/s | transformers | ratio (least, greatest) |")
    print("| --- | --- | --- | --- | --- |")
    rows, notes = [], []
    for length in options.lengths:
        ids = torch.randint(3, ours.config.vocab_size, (1, length), device=options.device)

        def forward(model, ids=ids):
            with torch.no_grad():
                return model(ids).logits

        def both_ways(model, ids=ids):
            logits = model(ids).logits[0, :-1].float()
            torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
            model.zero_grad()

        gap = (forward(ours) - forward(theirs)).abs().max().item()
        for name, work in (("forward", forward), ("forward + backward", both_ways)):
            mine, other, (ratio, least, most) = compare(
                lambda work=work: work(ours),
                lambda work=work: work(theirs),
                repeats=options.repeats,
            )
            rows.append([name, length, round(length / mine), round(length / other),
                         *(round(x, 2) for x in (ratio, least, most))])  # fmt: skip
            print(
                f"| {name} | {length} | {length / mine:,.0f} | {length / other:,.0f} | "
                f"{ratio:.1f} ({least:.1f}, {most:.1f}) |",
                flush=True,
            )
        taken = shares(lambda both_ways=both_ways: both_ways(ours))
        notes.append(f"At {length} tokens logits differ by {gap:.1e} at most; ours takes: {taken}.")
        print(notes[-1], flush=True)
    _tell(rows, notes, options)


def _tell(rows, notes, options):
    """Say what came out, as a result."""
    told = ", ".join(f"{row[4]} ({row[0]}, {row[1]} tokens)" for row in rows)
    print(json.dumps({
        "title": f"Forward and backward against transformers, {options.preset}, {options.dtype}",
        "claim": f"Asked: how much faster on the same weights. Ours over transformers: {told}.",
        "columns": ["pass", "tokens", "ours, tokens/s", "transformers, tokens/s", "ratio", "least",
                    "greatest"],
        "rows": rows, "notes": notes, "versions": {"transformers": transformers.__version__},
        "spread": f"least to greatest of {options.repeats} interleaved pairs",
    }))  # fmt: skip


def shares(work):
    """What share of CPU time the operations take that take most."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    rows = seen.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    kinds = {"aten::mm": "matrix products", "dot_product": "attention", "aten::fill_": "zeroing"}
    parts = {
        name: sum(r.self_cpu_time_total for r in rows if key in r.key) / total
        for key, name in kinds.items()
    }
    return ", ".join(f"{name} {part:.0%}" for name, part in parts.items())


if __name__ == "__main__":
    main()
