"""A step on padded rows, on packed ones, and with beginnings shared: time, and the same gradient.

usage: python packing.py [--rounds 3]

A small Llama (3M weights, all of them trained), float32, one thread. Eight tasks, four attempts at
each: prompts of 24 to 160 tokens, answers of 4 to 256, most of them short. The ways take turns;
nothing is kept of a step but its gradient. `padded` has sorted the sequences by length, as
`GspoTrainer` always does: it is not what padding costs elsewhere.
"""

import argparse
import json
import random
import statistics
import time
from importlib.metadata import version

import torch
import transformers
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig

WAYS = {
    "padded": {},
    "packed": {"packed": True},
    "beginnings shared": {"shared_prefixes": True},
}
SIZES = (512, 2048)
"""Tokens of a micro-batch."""
WORDS = 2048


class Kept(torch.optim.SGD):
    """Takes no step; keeps the gradient that it would be taken by."""

    def step(self, closure=None):
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        self.gradient = torch.cat(grads)


def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def batch(seed):
    rng = random.Random(seed)
    samples = []
    for task in range(8):
        prompt = [rng.randrange(WORDS) for _ in range(rng.randint(24, 160))]
        for attempt in range(4):
            num = min(256, max(4, round(rng.lognormvariate(3.6, 0.9))))
            answer = [rng.randrange(WORDS) for _ in range(num)]
            samples.append(Sample(
                token_ids=prompt + answer, loss_mask=[False] * len(prompt) + [True] * num,
                log_probs=None, reward=attempt % 2 + 0.1 * attempt, group=str(task),
            ))  # fmt: skip
    return samples


def trainer_of(network, size, way):
    config = TrainerConfig(
        micro_batch_tokens=size, clip=ClipRange(low=0.2, high=0.2), max_grad_norm=1e9,
        old_log_probs="trainer", **WAYS[way],
    )  # fmt: skip
    return GspoTrainer(network, config, optimizer=lambda groups: Kept(list(groups), lr=1.0))


def measure(size, rounds):
    """Seconds of each way and round, how far gradients are from padded ones, and tokens computed."""
    network, seconds, gaps = model(), {way: [] for way in WAYS}, dict.fromkeys(WAYS, 0.0)
    trainers = {way: trainer_of(network, size, way) for way in WAYS}
    given = dict.fromkeys(WAYS, 0)
    now = [""]

    def count(module, args, kwargs, out):
        given[now[0]] += (args[0] if args else kwargs["input_ids"]).numel()

    network.register_forward_hook(count, with_kwargs=True)
    for turn in range(rounds + 1):
        samples, grads = batch(turn), {}
        for way in sorted(WAYS, key=lambda way: (len(way) * (turn + 1)) % 7):
            now[0], began = way, time.perf_counter()
            trainers[way].train(samples)
            if turn:  # the first one warms up
                seconds[way].append(time.perf_counter() - began)
            grads[way] = trainers[way].optimizer.optimizer.gradient
        for way, grad in grads.items():
            off = (grad - grads["padded"]).norm() / grads["padded"].norm()
            gaps[way] = max(gaps[way], off.item())
    return seconds, gaps, {way: num // (rounds + 1) for way, num in given.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = [
        "micro-batch",
        "way",
        "tokens computed",
        "s a step",
        "of padded's",
        "gradient off by",
    ]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    rows, told = [], []
    for size in SIZES:
        seconds, gaps, tokens = measure(size, options.rounds)
        for way, mine in seconds.items():
            ratios = [a / b for a, b in zip(mine, seconds["padded"], strict=True)]
            of = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            spent = round(statistics.median(mine), 2)
            rows.append([size, way, tokens[way], spent, of, f"{gaps[way]:.0e}"])
            if way != "padded":
                told.append(f"{way} {statistics.median(ratios):.2f} at {size}")
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    worst = max(float(row[-1]) for row in rows)
    print(json.dumps({
        "title": "Padding, packing and shared beginnings: a step of the trainer on CPU",
        "claim": f"Asked: the same gradient in less time. The largest difference is {worst:.0e} of "
        f"its norm; of padded's time: {', '.join(told)}.",
        "columns": columns, "rows": rows,
        "spread": f"median, min to max of {options.rounds} rounds, all ways in each",
        "seeds": list(range(1, options.rounds + 1)),
        "versions": {"transformers": version("transformers")},
        "notes": [
            ("Float32, one thread beside other work; a Llama of width 256 with 4 layers and 2,048 words; 8 tasks x 4 attempts, "
             "prompts of 24 to 160 tokens, answers of 4 to 256."),
            ("Padded rows are sorted by length first, so that little padding is left. A packed row's "
             "attention is over the whole row with a mask: on CPU without flash attention its cost "
             "grows with the row's square."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
