"""The same run on a Ray cluster: one class instead of another.

    pip install 'longcat-dora[ray]'

With `address="auto"` (or `"ray://head:10001"`) controllers are actors of a cluster, spread over its nodes; without
one, as here, Ray is started on this machine. A node that is lost costs what it was sampling, and no more.
"""

import functools
import tempfile
from pathlib import Path

from longcat_dora import RunConfig, Task, check, read_events
from longcat_dora.ray import RayRuntime
from longcat_dora.testing import TabularTrainer, tabular_worker

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        RayRuntime(
            RunConfig(folder=Path(folder), max_steps=40, num_controllers=2),
            factory=functools.partial(tabular_worker, 0.01),
            trainer=TabularTrainer(),
            tasks=(Task(f"n{n}", n % 8) for n in range(400)),
            on_step=lambda p: print(f"{p.step:3d} {'#' * round(40 * p.metrics['reward'])}"),
        ).run()
        print(check(read_events(Path(folder) / "log")).summary())
