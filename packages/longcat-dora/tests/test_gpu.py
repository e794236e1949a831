"""Trainer and engine in two processes on one card.

`apps/longcat-cli/benchmarks/gpu.py` runs this without plugins.
"""

import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("longcat_moe")
pytest.importorskip("longcat_gspo")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available()"),
]

RUN = """
    import functools, sys
    from pathlib import Path
    import torch
    from accelerate import Accelerator
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task, Worker, check, read_events
    from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
    from longcat_moe import Engine, LongcatForCausalLM, get_preset

    async def world(prompt, policy):
        answer = await policy.generate(prompt)
        return sum(token % 2 == 0 for token in answer) / 8

    def worker():
        engine = Engine(get_preset("tiny"), num_slots=64, max_length=64, device="cuda")
        return Worker(engine=engine, rollout=world, max_tokens=8)

    if __name__ == "__main__":
        torch.manual_seed(0)
        config = TrainerConfig(learning_rate=2e-3, clip=ClipRange(low=0.2, high=0.2))
        trainer = GspoTrainer(LongcatForCausalLM(get_preset("tiny")).train(), config, accelerator=Accelerator())
        LocalRuntime(
            RunConfig(folder=Path(sys.argv[1]), max_steps=4,
                      scheduler=SchedulerConfig(groups_per_batch=2, group_size=8, hard_staleness=2)),
            factory=worker, trainer=trainer, tasks=(Task(f"n{n}", [3 + n % 4]) for n in range(10_000)),
        ).run()
        report = check(read_events(Path(sys.argv[1]) / "log"))
        assert not report.breaches, report.breaches
        assert next(trainer.model.parameters()).is_cuda
        print("done", trainer.num_steps)
"""


def test_a_run_trains_and_samples_on_the_same_card(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done 4" in done.stdout
