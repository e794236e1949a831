"""Train shallow and deep small models under each wiring of the norms; plot loss and gradients.

usage: python norms.py [--depths 2 16] [--steps 150] [--lr 2e-3] [--seeds 2] [--plot norms.png]

The task: texts of a second-order Markov source over 16 words, so that loss has a floor and
attention is needed. What is printed: the loss at the end (mean of the last tenth), and the norm of
the gradient of the first block's weights over that of the last block's, at the first step and at
the end.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from longcat_moe import LongcatConfig, LongcatForCausalLM
from longcat_moe._config import NORMS

BASE = LongcatConfig(
    vocab_size=16, hidden_size=64, num_layers=1, num_attention_heads=2, q_lora_rank=32,
    kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, ffn_hidden_size=128,
    expert_ffn_hidden_size=32, n_routed_experts=8, zero_expert_num=4, moe_topk=3,
    rope_theta=10_000.0, max_position_embeddings=128, routed_scaling_factor=4.0,
)  # fmt: skip
LENGTH, BATCH = 48, 16


def source(seed):
    """A second-order Markov source: sharp, and different for every pair of words before."""
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(2.5 * torch.randn(16, 16, 16, generator=g), -1)


def texts(table, g):
    ids = torch.randint(16, (BATCH, 2), generator=g)
    while ids.shape[1] < LENGTH:
        probs = table[ids[:, -2], ids[:, -1]]
        ids = torch.cat([ids, probs.multinomial(1, generator=g)], dim=1)
    return ids


def block_norm(layer):
    grads = [p.grad.norm() for p in layer.parameters() if p.grad is not None]
    return float(torch.stack(grads).norm())


def train(norm, depth, *, steps, lr, seed):
    torch.manual_seed(seed)
    config = dataclasses.replace(BASE, norm=norm, num_layers=depth)
    model = LongcatForCausalLM(config)
    table, g = source(0), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses, ratios = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20)
        ids = texts(table, g)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        layers = model.model.layers
        ratios.append(block_norm(layers[0]) / max(block_norm(layers[-1]), 1e-12))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, ratios


def plot(runs, path):
    import matplotlib.pyplot as plt

    depths = sorted({key[1] for key in runs})
    figure, axes = plt.subplots(2, len(depths), figsize=(5 * len(depths), 7), squeeze=False)
    for (norm, depth, seed), (losses, ratios) in runs.items():
        if seed:
            continue
        column = depths.index(depth)
        axes[0][column].plot(losses, label=norm, lw=1)
        axes[1][column].semilogy(ratios, label=norm, lw=1)
        axes[0][column].set_title(f"{2 * depth} blocks: loss")
        axes[1][column].set_title("gradient, first layer over last")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    print(
        f"lr {options.lr:g}, {options.steps} steps, {options.seeds} seeds, "
        f"torch {torch.__version__}"
    )
    print(
        "| norm | blocks | loss at the end, by seed | gradient first / last: at first "
        "| at the end |"
    )
    print("| --- | --- | --- | --- | --- |")
    runs, rows = {}, []
    for depth in options.depths:
        for norm in NORMS:
            for seed in range(options.seeds):
                runs[norm, depth, seed] = train(
                    norm, depth, steps=options.steps, lr=options.lr, seed=seed
                )
            tail = max(1, options.steps // 10)
            mine = [runs[norm, depth, seed] for seed in range(options.seeds)]
            ends = [sum(losses[-tail:]) / tail for losses, _ in mine]
            first, last = mine[0][1][0], sorted(mine[0][1][-tail:])[tail // 2]
            shown = ", ".join(f"{end:.3f}" for end in ends)
            print(f"| {norm} | {2 * depth} | {shown} | {first:.2g} | {last:.2g} |", flush=True)
            rows.append([norm, 2 * depth, round(sum(ends) / len(ends), 3), shown,
                         float(f"{first:.2g}"), float(f"{last:.2g}")])  # fmt: skip
    if options.plot:
        plot(runs, options.plot)
    _tell(rows, options)


def _tell(rows, options):
    """Say what came out, as a result."""
    deep = [row for row in rows if row[1] == 2 * max(options.depths)]
    best, worst = min(deep, key=lambda row: row[2]), max(deep, key=lambda row: row[2])
    print(json.dumps({
        "title": "Wirings of the norms in small models, shallow and deep",
        "claim": f"Asked: which wiring trains {deep[0][1]} blocks best. The least loss has "
        f"{best[0]} ({best[2]}), the greatest {worst[0]} ({worst[2]}).",
        "columns": ["norm", "blocks", "loss at the end", "by seed",
                    "gradient of the first layer over the last, at first", "at the end"],
        "rows": rows, "spread": f"{options.seeds} seeds, each in its column",
        "seeds": list(range(options.seeds)),
        "notes": [f"Rate {options.lr:g}, {options.steps} steps, width 64.",
                  "A Markov source of the second order over 16 words."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
