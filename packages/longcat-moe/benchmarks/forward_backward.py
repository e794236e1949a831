"""One forward pass, and forward and backward, against transformers on the same weights.

usage: python forward_backward.py [--preset mini] [--lengths 1024 4096] [--repeats 5]
"""

import argparse

import torch
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
            print(
                f"| {name} | {length} | {length / mine:,.0f} | {length / other:,.0f} | "
                f"{ratio:.1f} ({least:.1f}, {most:.1f}) |",
                flush=True,
            )
        print(f"largest difference of the logits at {length}: {gap:.1e}")
        print(f"ours, forward + backward: {shares(lambda: both_ways(ours))}", flush=True)


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
