"""What each method keeps of three experts, on a network small enough to train in seconds.

    python experts_in_small.py --seeds 0 1 2

One network answers three tasks, told which by a number. The base learned all three for a short
while, each expert then one of them, at a high rate (they move far) or a low one. A merge is good if
it is right on all three. Beside the merges: the experts themselves, and the base trained on on all
three together with as many steps as the experts had in all. No language model, no RL: it shows what
the methods do to experts that share a base, and whether the interference report foretells it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from longcat_fusion import METHODS, MergeConfig, interference, merge
from longcat_fusion._kinds import layer_of
from longcat_fusion._page import line_plot
from safetensors.torch import save_file
from torch import Tensor, nn

TASKS, INPUTS, WIDTH, INNER, LAYERS, CLASSES = 3, 16, 64, 128, 6, 10
BATCH, BASE_STEPS, EXPERT_STEPS = 256, 300, 300
RATES = {"far": 1e-3, "near": 1e-4}
HERE = Path(__file__).parent


class Mlp(nn.Module):
    """One residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict({
            "up_proj": nn.Linear(WIDTH, INNER), "down_proj": nn.Linear(INNER, WIDTH),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.mlp["up_proj"](self.norm(x)))
        return x + self.mlp["down_proj"](inner)


class Model(nn.Module):
    """Inputs and the task's embedding through residual layers to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tasks = nn.Embedding(TASKS, WIDTH)
        self.inputs = nn.Linear(INPUTS, WIDTH)
        self.layers = nn.ModuleList(Mlp() for _ in range(LAYERS))
        self.lm_head = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        hidden = self.inputs(x) + self.embed_tasks(task)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.lm_head(hidden)


def teachers(seed: int) -> list[tuple[Tensor, Tensor]]:
    """One random function from inputs to classes for each task."""
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(INPUTS, 24, generator=rng), torch.randn(24, CLASSES, generator=rng))
        for _ in range(TASKS)
    ]


def batch(rng: torch.Generator, known, tasks: list[int], size: int):
    """Inputs, tasks and right answers."""
    x = torch.randn(size, INPUTS, generator=rng)
    task = torch.tensor(tasks)[torch.randint(len(tasks), (size,), generator=rng)]
    answers = torch.stack([torch.relu(x @ a) @ b for a, b in known])
    return x, task, answers[task, torch.arange(size)].argmax(-1)


def train(model: Model, known, tasks: list[int], steps: int, rate: float, seed: int) -> Model:
    """Train in place."""
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        x, task, right = batch(rng, known, tasks, BATCH)
        loss = nn.functional.cross_entropy(model(x, task), right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@torch.no_grad()
def accuracy(weights: dict[str, Tensor], known) -> list[float]:
    """Share right of each task, on inputs that were not trained on."""
    model = Model()
    model.load_state_dict(weights)
    rng = torch.Generator().manual_seed(999)
    found = []
    for task in range(TASKS):
        x, tasks, right = batch(rng, known, [task], 4000)
        found.append(float((model(x, tasks).argmax(-1) == right).float().mean()))
    return found


def copy_of(weights: dict[str, Tensor]) -> Model:
    """A model that starts from the weights."""
    model = Model()
    model.load_state_dict(weights)
    return model


def configs() -> dict[str, MergeConfig]:
    """Each method with its defaults; sums averaged too, where that is another merge."""
    third = (1 / 3,) * 3
    found = {"recipe, average": MergeConfig(weights=third), "recipe, sum": MergeConfig()}
    for name in METHODS:
        if name in ("task_arithmetic", "dare", "breadcrumbs"):
            found[f"{name}, average"] = MergeConfig(method=name, weights=third)
            found[f"{name}, sum"] = MergeConfig(method=name)
        elif name not in ("recipe", "slerp"):
            found[name] = MergeConfig(method=name)
    return found


def one_seed(seed: int, rate: float, picture: Path | None) -> tuple[dict[str, list[float]], float]:
    """Accuracy on each task of everything that is compared, and the share that cancels."""
    torch.manual_seed(seed)
    known = teachers(seed)
    everything = list(range(TASKS))
    base = train(Model(), known, everything, BASE_STEPS, 2e-3, seed).state_dict()
    experts = [
        train(copy_of(base), known, [task], EXPERT_STEPS, rate, 100 * seed + task).state_dict()
        for task in everything
    ]
    together = train(copy_of(base), known, everything, TASKS * EXPERT_STEPS, rate, 7 + seed)
    own = [accuracy(expert, known)[task] for task, expert in enumerate(experts)]
    found = {
        "base": accuracy(base, known),
        "each expert, on its own task": own,
        "trained on all three together": accuracy(together.state_dict(), known),
    }
    for name, config in configs().items():
        found[f"merged: {name}"] = accuracy(merge(base, experts, config=config), known)
    return found, measure(base, experts, picture)


def measure(
    base: dict[str, Tensor], experts: list[dict[str, Tensor]], picture: Path | None
) -> float:
    """The share of change that a sum cancels; draws two of the report's plots."""
    with tempfile.TemporaryDirectory() as name:
        folders = []
        for place, weights in enumerate((base, *experts)):
            folder = Path(name) / ("base" if place == 0 else f"task {place}")
            folder.mkdir()
            save_file(weights, folder / "model.safetensors")
            folders.append(folder)
        report = interference(folders[0], folders[1:])
    layers = {str(k): t.figures() for k, t in report.by(layer_of).items()}
    pairs = ["1 and 2", "1 and 3", "2 and 3"]
    parts = []
    for place, (key, title) in enumerate((
        ("cosine", "Cosine between task vectors"),
        ("sign_conflict", "Sign conflict, of elements both moved"),
    )):  # fmt: skip
        series = {pair: [f[key][n] for f in layers.values()] for n, pair in enumerate(pairs)}
        plot = line_plot(title, list(layers), series)
        parts.append(plot.replace("<svg ", f'<svg x="{470 * place}" ', 1))
    if picture:
        picture.write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 195" width="940" '
            f'height="195"><rect width="940" height="195" fill="white"/>{"".join(parts)}</svg>\n'
        )
    return float(report.total().figures()["cancelled"])


def mean_of(results: list[dict[str, list[float]]], name: str) -> tuple[float, str]:
    """Mean over tasks and seeds in per cent, and the lowest and highest seed."""
    means = [100 * sum(result[name]) / TASKS for result in results]
    return round(sum(means) / len(means), 1), f"{min(means):.1f} to {max(means):.1f}"


def main() -> None:
    """Train, merge, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    picture = HERE / "results" / "interference.svg"
    results: dict[str, list[dict[str, list[float]]]] = {rate: [] for rate in RATES}
    cancelled: dict[str, list[float]] = {rate: [] for rate in RATES}
    for name, rate in RATES.items():
        for seed in options.seeds:
            draws = picture if (name, seed) == ("far", options.seeds[0]) else None
            found, share = one_seed(seed, rate, draws)
            results[name].append(found)
            cancelled[name].append(100 * share)
    rows: list[list[object]] = [
        [name, *(cell for rate in RATES for cell in mean_of(results[rate], name))]
        for name in results["far"][0]
    ]
    rows[3:] = sorted(rows[3:], key=lambda row: -float(str(row[3])))
    columns = ["weights", "far: right on the three tasks, %", "far: lowest to highest seed",
               "near: right on the three tasks, %", "near: lowest to highest seed"]  # fmt: skip
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    best = {
        rate: max((mean_of(results[rate], name)[0], name) for name in results[rate][0]
                  if name.startswith("merged"))
        for rate in RATES
    }  # fmt: skip
    said = "; ".join(
        f"{rate} experts: base {mean_of(results[rate], 'base')[0]}%, best merge {best[rate][0]}% "
        f"({best[rate][1].removeprefix('merged: ')}), trained together "
        f"{mean_of(results[rate], 'trained on all three together')[0]}%"
        for rate in RATES
    )
    print(json.dumps({
        "title": "What each method keeps of three experts of a small network",
        "claim": f"Right on the three tasks, {said}.",
        "columns": columns, "rows": rows,
        "spread": f"lowest and highest of {len(options.seeds)} seeds", "seeds": options.seeds,
        "notes": [
            ("A residual MLP of 0.1M parameters, supervised, no RL: nothing here says how language "
            "models merge."),
            "Every method with its defaults; none was tuned.",
            "The interference report's share of change that cancels, by seed: " + "; ".join(
                f"{rate} {', '.join(f'{share:.0f}%' for share in cancelled[rate])}"
                for rate in RATES
            ) + ".",
        ],
        "pictures": ["results/interference.svg"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
