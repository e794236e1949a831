"""A trainer of your own for longcat-dora: four methods, here a table that learns with plain Python.

    pip install longcat-dora        python own_trainer.py

It prints the reward of each step as a bar that grows.

`train` gets whole groups: advantages are yours to form. What `weights` returns goes to every
engine's `load_weights`; `save` and `restore` make a run continue where it was killed.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from longcat_dora import LocalRuntime, RunConfig, Task, Trajectory, check, read_events
from longcat_dora.testing import tabular_worker


class MyTrainer:
    def __init__(self) -> None:
        self.table = [[0.0] * 8 for _ in range(8)]

    def train(self, batch: Sequence[Trajectory]) -> dict[str, float]:
        mean = sum(t.reward for t in batch) / len(batch)
        for t in batch:
            question, answer = t.segments[0].token_ids
            self.table[question][answer] += t.reward - mean
        return {"reward": mean}

    def weights(self) -> bytes:
        return json.dumps(self.table).encode()

    def save(self, folder: Path) -> None:
        (folder / "table.json").write_bytes(self.weights())

    def restore(self, folder: Path) -> None:
        self.table = json.loads((folder / "table.json").read_bytes())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        LocalRuntime(
            RunConfig(folder=Path(folder), max_steps=40),
            factory=tabular_worker,
            trainer=MyTrainer(),
            tasks=(Task(f"n{n}", n % 8) for n in range(400)),
            on_step=lambda p: print(f"{p.step:3d} {'#' * round(40 * p.metrics['reward'])}"),
        ).run()
        print(check(read_events(Path(folder) / "log")).summary())
