"""Three roads from several RL experts to one model, at equal compute: merge, mix data, distil.

    python one_model.py --seeds 0 1 2

A causal transformer of 58,000 parameters answers three domains of sums in two turns: it says two
digits, is told a third, and says two more. What it is told is masked in every loss. The base
learned all three domains a little; each expert is the base after RL on one of them, paid for each
digit that is right. Then each road may spend the same compute on a student:

    merge    nothing: the methods of longcat-fusion alone
    mix      experts' trajectories, verified, in equal parts; supervised steps on them
    distil   MOPD: the student samples, the domain's expert judges each token
    RL       the same RL on all domains together, for comparison

from the base and, but for RL, from the merged model. Compute is counted in forward passes of a
token: one to sample or judge, three to train. No language model: nothing here says how large ones
behave.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from longcat_fusion import MergeConfig, merge
from longcat_gspo import ClipRange, dapo_loss, group_advantages, mopd_loss
from torch import Tensor, nn

DOMAINS, DIGITS, TOLD = 3, 4, 7
"""Digits are tokens 0 to 3, domains 4 to 6. Sequence: domain, 4 digits, 2 said, 1 told, 2 said."""
VOCABULARY, LENGTH, WIDTH, LAYERS, HEADS = 7, 10, 48, 2, 4
SAID = [5, 6, 8, 9]
BATCH, GROUP = 128, 8
SAMPLE, JUDGE, TRAIN = LENGTH, LENGTH, 3 * LENGTH
"""Forward passes of a token that a sequence costs."""
THIRDS = (1 / 3,) * 3


class Block(nn.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm, self.post_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv_proj, self.o_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up_proj, self.down_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTD: Tensor) -> Tensor:
        count, length, _ = x_BTD.shape
        q, k, v = (
            part.view(count, length, HEADS, -1).transpose(1, 2)
            for part in self.qkv_proj(self.input_norm(x_BTD)).chunk(3, -1)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.o_proj(seen.transpose(1, 2).reshape(x_BTD.shape))
        return x_BTD + self.down_proj(torch.relu(self.up_proj(self.post_norm(x_BTD))))


class Model(nn.Module):
    """Tokens to the logits of the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.embed_places = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        hidden = self.embed_tokens(ids_BT) + self.embed_places.weight[: ids_BT.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.lm_head(self.norm(hidden))


def prompts(rng: torch.Generator, domains: list[int], count: int) -> Tensor:
    """Sequences with domain, digits and what will be told; what is said is still 0."""
    ids_BT = torch.randint(DIGITS, (count, LENGTH), generator=rng)
    ids_BT[:, 0] = DIGITS + torch.tensor(domains).repeat(-(-count // len(domains)))[:count]
    ids_BT[:, SAID] = 0
    return ids_BT


def answers(ids_BT: Tensor) -> Tensor:
    """What should be said, (B, 4)."""
    domain, a, b, c, d = (ids_BT[:, place] for place in range(5))
    told = ids_BT[:, TOLD]
    found = torch.stack([
        torch.stack([a + b, c + d, a + b + told, c + d + told], 1),
        torch.stack([a * c, b * d, told * a, told * d], 1),
        torch.stack([a - b, b - c, told - c, told - d + 1], 1),
    ])  # fmt: skip
    return found[domain - DIGITS, torch.arange(len(ids_BT))] % DIGITS


@torch.no_grad()
def sample(model: Model, ids_BT: Tensor, rng: torch.Generator | None) -> Tensor:
    """Say the digits one after another: sampled, or without `rng` the likeliest."""
    ids_BT = ids_BT.clone()
    for place in SAID:
        logits = model(ids_BT[:, :place])[:, -1, :DIGITS]
        best = logits.argmax(-1)
        ids_BT[:, place] = (
            best if rng is None else torch.multinomial(logits.softmax(-1), 1, generator=rng)[:, 0]
        )
    return ids_BT


def is_right(ids_BT: Tensor) -> Tensor:
    """Whether all four digits are."""
    return (ids_BT[:, SAID] == answers(ids_BT)).all(1)


def log_probs(model: Model, ids_BT: Tensor) -> Tensor:
    """Of the digits that were said alone, (4 B,): the turns' mask."""
    logs = model(ids_BT[:, :-1])[..., :DIGITS].log_softmax(-1)
    places = [place - 1 for place in SAID]
    return logs[:, places].gather(2, ids_BT[:, SAID, None])[..., 0].reshape(-1)


Loss = Callable[[Model, torch.Generator], tuple[Tensor, int]]
"""The loss of one step, and what it cost."""


def train(model: Model, loss_of: Loss, budget: int, rate: float, seed: int) -> Model:
    """Take steps until the budget is spent; the rate falls to 0 with it."""
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
    spent = 0
    while spent < budget:
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - spent / budget)
        loss, cost = loss_of(model, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        spent += cost
    return model


def teach(domains: list[int]) -> Loss:
    """Supervised, on right answers that nobody had to find: for the base alone."""

    def loss_of(model: Model, rng: torch.Generator) -> tuple[Tensor, int]:
        ids_BT = prompts(rng, domains, BATCH)
        ids_BT[:, SAID] = answers(ids_BT)
        return -log_probs(model, ids_BT).mean(), BATCH * TRAIN

    return loss_of


def reinforce(domains: list[int]) -> Loss:
    """Each digit is paid, against the same digit of its group; one step on each batch."""

    def loss_of(model: Model, rng: torch.Generator) -> tuple[Tensor, int]:
        ids_BT = prompts(rng, domains, BATCH // GROUP).repeat_interleave(GROUP, 0)
        ids_BT = sample(model, ids_BT, rng)
        rewards = (ids_BT[:, SAID] == answers(ids_BT)).float().reshape(-1).tolist()
        groups = [(n // (GROUP * len(SAID)), n % len(SAID)) for n in range(len(rewards))]
        advantages = torch.tensor(group_advantages(rewards, groups))
        new = log_probs(model, ids_BT)
        every = torch.arange(len(rewards))
        loss, _ = dapo_loss(new, new.detach(), advantages, every, clip=ClipRange())
        return loss, BATCH * (SAMPLE + TRAIN)

    return loss_of


def mix(experts: list[Model]) -> Loss:
    """Supervised, on trajectories of the experts that were verified, in equal parts."""

    def loss_of(model: Model, rng: torch.Generator) -> tuple[Tensor, int]:
        kept, sampled = [], 0
        for domain, expert in enumerate(experts):
            found = sample(expert, prompts(rng, [domain], BATCH // DOMAINS), rng)
            sampled += len(found)
            kept.append(found[is_right(found)])
        ids_BT = torch.cat(kept)
        if not len(ids_BT):  # paid for in vain
            return 0 * model.lm_head.weight.sum(), sampled * SAMPLE
        return -log_probs(model, ids_BT).mean(), sampled * SAMPLE + len(ids_BT) * TRAIN

    return loss_of


def distil(experts: list[Model]) -> Loss:
    """MOPD: the student's own samples, each judged by the expert of its domain."""

    def loss_of(model: Model, rng: torch.Generator) -> tuple[Tensor, int]:
        ids_BT = sample(model, prompts(rng, list(range(DOMAINS)), BATCH), rng)
        new = log_probs(model, ids_BT)
        judged = torch.empty(BATCH, len(SAID))
        with torch.no_grad():
            for domain, expert in enumerate(experts):
                own = ids_BT[:, 0] == DIGITS + domain
                judged[own] = log_probs(expert, ids_BT[own]).view(-1, len(SAID))
        sequence = torch.arange(BATCH).repeat_interleave(len(SAID))
        loss, _ = mopd_loss(
            new, judged.reshape(-1), new.detach(), sequence, num_sequences=BATCH, max_gap=20.0
        )
        return loss, BATCH * (SAMPLE + JUDGE + TRAIN)

    return loss_of


def accuracy(model: Model, seed: int) -> list[float]:
    """Share right of each domain, the likeliest digit said."""
    rng = torch.Generator().manual_seed(seed)
    return [
        float(is_right(sample(model, prompts(rng, [d], 2000), None)).float().mean())
        for d in range(DOMAINS)
    ]


def copy_of(weights: dict[str, Tensor]) -> Model:
    """A model that starts from the weights."""
    model = Model()
    model.load_state_dict(weights)
    return model


@dataclass(frozen=True)
class Budget:
    """Steps of RL (their compute) for the base, each expert, and each road."""

    base: int
    expert: int
    road: int
    rates: tuple[float, ...]


def best(start: dict[str, Tensor], loss_of: Loss, budget: int, rates, seed: int) -> Model:
    """The model of the rate that is best on other prompts than those of the test."""
    models = [train(copy_of(start), loss_of, budget, rate, seed) for rate in rates]
    return max(models, key=lambda model: sum(accuracy(model, 1)))


def one_seed(seed: int, budget: Budget) -> dict[str, list[float]]:
    """Accuracy by domain of everything that is compared."""
    torch.manual_seed(seed)
    unit, everything = BATCH * (SAMPLE + TRAIN), list(range(DOMAINS))
    base = train(Model(), teach(everything), budget.base * unit, 3e-3, seed).state_dict()
    experts = [
        train(copy_of(base), reinforce([d]), budget.expert * unit, 1e-3, 10 * seed + d)
        for d in everything
    ]
    weights = [expert.state_dict() for expert in experts]
    merges = {
        "recipe": MergeConfig(weights=THIRDS), "recipe, sum": MergeConfig(),
        "linear": MergeConfig(method="linear"), "ram": MergeConfig(method="ram"),
        "ties": MergeConfig(method="ties"),
    }  # fmt: skip
    merged = {name: merge(base, weights, config=config) for name, config in merges.items()}
    found = {
        "base": accuracy(copy_of(base), 2),
        "each expert, on its own domain": [
            accuracy(expert, 2)[d] for d, expert in enumerate(experts)
        ],
    }
    for name, state in merged.items():
        found[f"merge: {name}"] = accuracy(copy_of(state), 2)
    roads = {"mix": mix(experts), "distil": distil(experts), "RL": reinforce(everything)}
    for place, start in (("base", base), ("merged", merged["recipe"])):
        for name, loss_of in roads.items():
            if (place, name) == ("merged", "RL"):
                continue
            model = best(start, loss_of, budget.road * unit, budget.rates, 100 + seed)
            found[f"{name}, from the {place}"] = accuracy(model, 2)
    return found


def main() -> None:
    """Compare, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=int, default=200)
    parser.add_argument("--expert", type=int, default=300)
    parser.add_argument("--road", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(options.base, options.expert, options.road, tuple(options.rates))
    results = [one_seed(seed, budget) for seed in options.seeds]
    rows: list[list[object]] = []
    for name in results[0]:
        means = [100 * sum(result[name]) / DOMAINS for result in results]
        by_domain = [100 * sum(r[name][d] for r in results) / len(results) for d in range(DOMAINS)]
        rows.append([
            name, round(sum(means) / len(means), 1), f"{min(means):.1f} to {max(means):.1f}",
            ", ".join(f"{share:.0f}" for share in by_domain),
        ])  # fmt: skip
    columns = ["model", "right, % of three domains", "lowest to highest seed", "by domain"]
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    mean = {str(row[0]): float(str(row[1])) for row in rows}
    top = max((n for n in mean if n.startswith("merge")), key=lambda name: mean[name])
    roads = "; ".join(f"{n} {share}%" for n, share in mean.items() if ", from" in n)
    print(json.dumps({
        "title": "Roads from three RL experts to one small model, at equal compute",
        "claim": f"Right on three domains: base {mean['base']}%, experts on their own "
        f"{mean['each expert, on its own domain']}%, best merge {mean[top]}% "
        f"({top.removeprefix('merge: ')}); with the compute of {options.road} RL steps: {roads}.",
        "columns": columns, "rows": rows,
        "spread": f"lowest and highest of {len(options.seeds)} seeds", "seeds": options.seeds,
        "notes": [
            ("A transformer of 58,000 parameters on sums in two turns, experts by RL of "
            f"{options.expert} steps each; nothing here says how language models behave."),
            (f"Each road has the best of {len(options.rates)} rates, chosen on other prompts than "
            "those of the test; merges have their defaults, the recipe and task vectors averaged "
            "unless a sum is named."),
            ("Compute in forward passes of a token: 1 to sample or judge, 3 to train; a trajectory "
            "that fails its check is paid for, and not trained on. A merge costs none."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
