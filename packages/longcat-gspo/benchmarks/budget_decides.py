"""Does a rollout budget pay where the papers say it does? Spread rates, few tasks a step.

usage: python budget_decides.py [--seeds 4] [--steps 300] [--open] [--starts 0.05] [--skip 0.5/16]
                                [--folder KEPT]

1,000 tasks through one network, which has learned the right answers until their mean pass rate is
the wanted one, so that rates are spread. Each step draws 48 tasks and has 48 times 4, 8 or 16
rollouts for them: alike; by the knapsack value with the true rates, which nobody has; by the same
with estimates, the running mean of a task's own rewards, which begins at the mean of all. A task
may get none. `--open` asks again, with eight seeds, in the cells where the interval of four held 0,
with CoBA's value beside them. Groups weigh alike. All ways of a seed begin with the same weights
and draw the same tasks. What is finished is kept in `--folder` and not run again.
"""

import argparse
import functools
import itertools
import json
import random
import statistics
from pathlib import Path

import torch
from _table import Output, Shared, random_answers, trainer_of
from longcat_gspo import CapabilityValue, Sample, allocate_budget, knapsack_value

KEPT = Path.home() / ".cache" / "longcat" / "benchmarks" / "budget-decides"
TASKS, DRAWN, RATE = 1000, 48, 3e-3
STARTS, AVERAGES = (0.05, 0.3, 0.5), (4, 8, 16)
WAYS = ("alike", "knapsack, true rates", "knapsack, estimates")
OPEN = {
    (0.05, 4): WAYS[2:], (0.05, 8): WAYS[1:], (0.05, 16): WAYS[2:],
    (0.5, 8): WAYS[2:], (0.5, 16): WAYS[1:],
}  # fmt: skip
"""By cell, what four seeds did not decide: the interval of its difference from alike held 0."""
COBA = "CoBA, estimates"
T_OF_95 = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}


class Many(Shared):
    """All answers have their places in one tensor, so that a thousand cost little."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(random_answers(TASKS, (1, 2, 3, 4), generator), seed=seed)
        longest = max(map(len, self.answers))
        padded = [[*answer, *[-1] * (longest - len(answer))] for answer in self.answers]
        self.register_buffer("words_NP", torch.tensor(padded))

    def some(self, tasks_M):
        """Logits of some tasks alone, (tasks, places, words)."""
        return self.net(torch.cat([self.tasks[tasks_M], self.places[tasks_M]], dim=-1))

    def forward(self, input_ids, attention_mask=None):
        tasks_M, place_B = input_ids[:, 0].unique(return_inverse=True)
        return Output(self.some(tasks_M)[place_B, : input_ids.shape[1]])

    def right(self, tasks_M):
        """Log-probability of the right answer, by task."""
        words_MP = self.words_NP[tasks_M]
        log_probs = self.some(tasks_M)[:, : words_MP.shape[1]].log_softmax(-1)
        found = log_probs.gather(-1, words_MP.clamp(min=0)[..., None])[..., 0]
        return torch.where(words_MP >= 0, found, 0.0).sum(1)

    @torch.no_grad()
    def rates(self, tasks=range(TASKS)):
        return self.right(torch.tensor(tasks)).exp().double().tolist()

    @torch.no_grad()
    def groups(self, budgets, generator):
        """Attempts at tasks, by task, so many each; the reward is 1 for the right answer."""
        log_probs = self.some(torch.tensor(list(budgets))).log_softmax(-1)
        found = {}
        for of_PW, (task, num) in zip(log_probs, budgets.items(), strict=True):
            answer = list(self.answers[task])
            of_PW = of_PW[: len(answer)]
            drawn_PB = torch.multinomial(of_PW.exp(), num, replacement=True, generator=generator)
            said_BP = of_PW.gather(1, drawn_PB).T.tolist()
            found[task] = [
                Sample(token_ids=[task, *words], loss_mask=[False] + [True] * len(words),
                       log_probs=[0.0, *said], reward=float(words == answer), group=str(task))
                for words, said in zip(drawn_PB.T.tolist(), said_BP, strict=True)
            ]  # fmt: skip
        return found


@functools.lru_cache(maxsize=8)
def warm(seed, start):
    """A network whose mean pass rate is `start`, and what it was told of the tasks."""
    model = Many(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    while statistics.fmean(model.rates()) < start:
        for _ in range(5):
            loss = -model.right(torch.randperm(TASKS, generator=generator)[:100]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: tensor.clone() for name, tensor in model.net.state_dict().items()}


def kept(folder, way, start, average, seed, steps):
    """Read what was finished before, or run it."""
    name = f"{way.replace(', ', '-').replace(' ', '-')}-{start}-{average}-{seed}-{steps}.json"
    path = folder / name
    if not path.is_file():
        found = run(way, start, average, seed, steps)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def run(way, start, average, seed, steps):
    """The mean pass rate over the last tenth of the steps."""
    model, generator = Many(seed), torch.Generator().manual_seed(seed)
    model.net.load_state_dict(warm(seed, start))
    trainer, rng = trainer_of(model, RATE, weigh="groups"), random.Random(seed)
    mean, seen, ends = statistics.fmean(model.rates()), {}, []
    capability = CapabilityValue()
    for step in range(steps):
        drawn = rng.sample(range(TASKS), DRAWN)
        if way == "alike":
            nums = [average] * DRAWN
        else:
            knows = way.endswith("true rates")
            rates = model.rates(drawn) if knows else [seen.get(task, mean) for task in drawn]
            capability.observe(rates)
            value = capability.value() if way.startswith("CoBA") else knapsack_value
            nums = allocate_budget(
                rates, total=DRAWN * average, low=0, high=4 * average, value=value
            )
        tried = {task: num for task, num in zip(drawn, nums, strict=True) if num}
        groups = model.groups(tried, generator)
        for task, group in groups.items():
            rate = statistics.fmean(sample.reward for sample in group)
            weight = min(0.8, len(group) / (len(group) + 4))
            seen[task] = (1 - weight) * seen.get(task, mean) + weight * rate
        trainer.train([sample for group in groups.values() for sample in group])
        if step >= steps - max(1, steps // 10):
            ends.append(statistics.fmean(model.rates()))
        if step % 10 == 0:
            mean = statistics.fmean(seen.values())
    return statistics.fmean(ends)


def gap(values, base):
    """Mean difference and half of its 95% interval, paired by seed."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    width = T_OF_95[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.fmean(differences), width


def shown(values, base):
    mean, width = gap(values, base)
    return f"{100 * mean:+.1f} ± {100 * width:.1f}"


def verdict(rows_of):
    """How many cells a way surely wins and surely loses."""
    won = sum(mean > width for mean, width in rows_of)
    lost = sum(-mean > width for mean, width in rows_of)
    return f"surely better in {won}, surely worse in {lost} of {len(rows_of)} cells"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, choices=T_OF_95, help="4; with --open 8.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--open", action="store_true", help="What four seeds left open, and CoBA.")
    parser.add_argument("--starts", type=float, nargs="+", default=STARTS, choices=STARTS)
    parser.add_argument("--skip", nargs="+", default=(), help="Cells left out, such as 0.5/16.")
    parser.add_argument("--folder", type=Path, default=KEPT)
    options = parser.parse_args()
    seeds = range(options.seeds or (8 if options.open else 4))
    torch.set_num_threads(1)
    ways = (*WAYS, COBA) if options.open else WAYS
    rows, gaps = [], {way: [] for way in ways[1:]}
    columns = ["mean rate at the start", "rollouts a task", *ways]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for start, average in itertools.product(options.starts, AVERAGES):
        is_asked = not options.open or (start, average) in OPEN
        if not is_asked or f"{start}/{average}" in options.skip:
            continue
        asked = (*OPEN[start, average], COBA) if options.open else ways[1:]
        ends = {
            way: [kept(options.folder, way, start, average, n, options.steps) for n in seeds]
            for way in ("alike", *asked)
        }
        base = ends["alike"]
        for way in asked:
            gaps[way].append(gap(ends[way], base))
        cells = [shown(ends[way], base) if way in asked else "" for way in ways[1:]]
        rows.append([start, average, round(100 * statistics.fmean(base), 1), *cells])
        print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    said = "; ".join(f"{way}: {verdict(gaps[way])}" for way in ways[1:])
    print(json.dumps({
        "title": f"Does a rollout budget pay{', or CoBA' if options.open else ''}? "
        "Points over rollouts spread alike",
        "claim": f"Asked: is a budget worth its estimates. {said}.",
        "columns": columns, "rows": rows,
        "spread": f"95% interval of the paired difference over {len(seeds)} seeds",
        "seeds": list(seeds),
        "notes": [(f"{TASKS} tasks, {DRAWN} a step, {options.steps} steps; exact pass rates in per "
                  "cent, mean of the last tenth of the steps; budgets from 0 to 4 times the mean.")]
        + ["The cells and ways that four seeds left open."] * options.open
        + [f"Not asked again: {cell}." for cell in options.skip],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
