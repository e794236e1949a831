"""Does judging one's own answers help to answer? Three arms at equal tokens, several seeds.

usage: python verification_arms.py [--seeds 4] [--tokens 1000000]

A small transformer adds two numbers below 100, modulo 100, and says of a sum whether it is right. It
knows 300 sums by heart, and has learned from examples to judge: seven of ten verdicts on its own
answers are true, when half of the answers are right. Then GSPO takes it on: from answers alone; with every fifth batch made of verdicts on its own last answers (as
`verification_items` chooses them, worth what `verification_reward` says); and the same with rewards
shuffled among the verdicts, which keeps everything but what they teach. Arms end when the same
number of tokens was trained on. Sums that are asked at the end were in no batch.
"""

import argparse
import json
import random
import statistics
from typing import NamedTuple

import torch
from longcat_gspo import (
    ClipRange,
    GspoTrainer,
    Sample,
    TrainerConfig,
    verification_items,
    verification_reward,
)
from torch import nn

PLUS, EQUALS, ASK, NO, YES, SIZE = 10, 11, 12, 13, 14, 15
ARMS = ("answers alone", "every fifth batch judges", "the same, rewards shuffled")
GROUPS, ATTEMPTS, EVERY, WIDTH = 32, 8, 5, 64
T_OF_95 = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}


class Output(NamedTuple):
    logits: torch.Tensor


class Adder(nn.Module):
    """Two causal blocks over eleven places."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.places = nn.Embedding(SIZE, WIDTH), nn.Embedding(12, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, SIZE)

    def forward(self, input_ids, attention_mask=None):
        length = input_ids.shape[1]
        x = self.words(input_ids) + self.places(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return Output(self.out(self.blocks(x, mask=mask, is_causal=True)))


def question(a, b):
    return [*divmod(a, 10), PLUS, *divmod(b, 10), EQUALS]


def right(a, b):
    return [*divmod((a + b) % 100, 10)]


def split(rng):
    """Sums to learn from and sums to be asked at the end."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    rng.shuffle(pairs)
    return pairs[1000:], pairs[:1000]


@torch.no_grad()
def say(model, prompts, num, generator):
    """Sample `num` tokens behind each prompt, of one length; and their log-probs."""
    ids, said = torch.tensor(prompts), []
    for _ in range(num):
        log_probs = model(ids).logits[:, -1].log_softmax(-1)
        token = torch.multinomial(log_probs.exp(), 1, generator=generator)
        said.append(log_probs.gather(1, token))
        ids = torch.cat([ids, token], dim=1)
    return ids[:, -num:].tolist(), torch.cat(said, dim=1).tolist()


def sample(prompt, tokens, log_probs, reward, group):
    blank = [0.0] * len(prompt)
    mask = [False] * len(prompt) + [True] * len(tokens)
    return Sample(token_ids=[*prompt, *tokens], loss_mask=mask, log_probs=[*blank, *log_probs],
                  reward=reward, group=str(group))  # fmt: skip


def warm(seed, pairs):
    """Learn 300 sums by heart, and verdicts on all, until seven in ten are true."""
    model, rng = Adder(seed), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        for _ in range(50):
            sums = [[*question(*pair), *right(*pair)] for pair in rng.sample(pairs[:300], 64)]
            judged = [_judged(pair, rng) for pair in rng.sample(pairs, 256)]
            loss = 0.1 * _cross_entropy(model, sums, 2) + _cross_entropy(model, judged, 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if verdict_rate(model, pairs, generator, rng) >= 0.7:
            return model.state_dict()


def _judged(pair, rng):
    is_right = rng.random() < 0.5
    shown = right(*pair) if is_right else _other(pair, rng)
    return [*question(*pair), *shown, ASK, YES if is_right else NO]


def _other(pair, rng):
    """One digit is off, as in most wrong answers of one who has begun to learn."""
    shown, place = right(*pair), rng.randrange(2)
    shown[place] = (shown[place] + rng.randrange(1, 10)) % 10
    return shown


def _cross_entropy(model, rows, num):
    ids = torch.tensor(rows)
    logits = model(ids[:, :-1]).logits[:, -num:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -num:].flatten())


def solve_rate(model, pairs, generator):
    said, _ = say(model, [question(*pair) for pair in pairs], 2, generator)
    return statistics.fmean(a == right(*pair) for a, pair in zip(said, pairs, strict=True))


def verdict_rate(model, pairs, generator, rng):
    """True verdicts on the model's own answers, as many of them right as wrong."""
    said, _ = say(model, [question(*pair) for pair in pairs], 2, generator)
    shown = [(*question(*p), *a, ASK, a == right(*p)) for p, a in zip(pairs, said, strict=True)]
    kinds = [[row for row in shown if row[-1] is kind] for kind in (True, False)]
    num = min(map(len, kinds))
    rows = [row for kind in kinds for row in rng.sample(kind, num)]
    verdicts, _ = say(model, [list(row[:-1]) for row in rows], 1, generator)
    return statistics.fmean((v == [YES]) == row[-1] for v, row in zip(verdicts, rows, strict=True))


def answers(model, pairs, generator):
    """Groups of attempts at sums; the samples of a group one after the other."""
    asked = [pair for pair in pairs for _ in range(ATTEMPTS)]
    said, log_probs = say(model, [question(*pair) for pair in asked], 2, generator)
    return [
        sample(question(*pair), tokens, lp, float(tokens == right(*pair)), pair)
        for pair, tokens, lp in zip(asked, said, log_probs, strict=True)
    ]


def verdicts(model, judged, generator, rng, *, shuffled):
    """Groups of verdicts on answers of the batch before."""
    items = verification_items(
        [s.reward for s in judged], [s.group for s in judged], num=GROUPS, rng=rng
    )
    asked = [item for item in items for _ in range(ATTEMPTS)]
    prompts = [[*judged[item.place].token_ids, ASK] for item in asked]
    if not prompts:
        return []
    said, log_probs = say(model, prompts, 1, generator)
    worth = [
        verification_reward(item, {YES: True, NO: False}.get(tokens[0]))
        for item, tokens in zip(asked, said, strict=True)
    ]
    if shuffled:
        rng.shuffle(worth)
    return [
        sample(prompt, tokens, lp, reward, n // ATTEMPTS)
        for n, (prompt, tokens, lp, reward) in enumerate(
            zip(prompts, said, log_probs, worth, strict=True)
        )
    ]


def run(arm, weights, seed, split_pairs, budget):
    """Sums and verdicts that are right at the end, on sums that were in no batch."""
    learned, held_out = split_pairs
    model = Adder(seed)
    model.load_state_dict(weights)
    trainer = GspoTrainer(model, TrainerConfig(
        learning_rate=3e-4, clip=ClipRange(low=0.2, high=0.28), micro_batch_tokens=1 << 16,
    ))  # fmt: skip
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    batch, step, spent = [], 0, 0
    while spent < budget:
        step += 1
        judges = arm != ARMS[0] and step % EVERY == 0
        if judges:
            batch = verdicts(model, batch, generator, rng, shuffled=arm == ARMS[2])
        else:
            batch = answers(model, rng.sample(learned, GROUPS), generator)
        spent += sum(len(s.token_ids) for s in batch)
        if batch:
            trainer.train(batch)
    return solve_rate(model, held_out * 4, generator), verdict_rate(
        model, held_out * 4, generator, rng
    )


def interval(values, base):
    differences = [100 * (a - b) for a, b in zip(values, base, strict=True)]
    width = T_OF_95[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.fmean(differences):+.1f} ± {width:.1f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4, choices=T_OF_95)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seeds)
    splits = [split(random.Random(seed)) for seed in seeds]
    weights = [warm(seed, splits[seed][0]) for seed in seeds]
    before = [run(ARMS[0], weights[seed], seed, splits[seed], 0) for seed in seeds]
    rows = [["before", *(round(100 * statistics.fmean(v), 1) for v in zip(*before, strict=True)),
             "", ""]]  # fmt: skip
    base = None
    for arm in ARMS:
        ends = [run(arm, weights[seed], seed, splits[seed], options.tokens) for seed in seeds]
        sums, judged = zip(*ends, strict=True)
        base = base or (sums, judged)
        gaps = ["", ""] if arm == ARMS[0] else [interval(sums, base[0]), interval(judged, base[1])]
        means = [round(100 * statistics.fmean(values), 1) for values in (sums, judged)]
        rows.append([arm, *means, *gaps])
        print(rows[-1], flush=True)
    print(json.dumps({
        "title": "Self-verification: per cent right at equal tokens",
        "claim": f"Asked: do sums profit from verdicts. Against answers alone: {rows[2][3]} points "
        f"with verdicts, {rows[3][3]} with their rewards shuffled; verdicts themselves {rows[2][4]} "
        f"and {rows[3][4]}.",
        "columns": ["arm", "sums", "verdicts", "sums, over the first", "verdicts, over the first"],
        "rows": rows,
        "spread": f"95% interval of the paired difference over {options.seeds} seeds",
        "seeds": list(seeds),
        "notes": [(f"{options.tokens:,} tokens an arm, prompts included; 1,000 sums in no batch, "
                  "each asked four times; verdicts on own answers, half of them right.")],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
