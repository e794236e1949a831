"""Train the summary stage of heavy thinking: GSPO through DORA, over recorded answers.

    pip install longcat-dora longcat-gspo longcat-moe        python train_the_summary.py

It prints how often one answer is right and how often a vote among five, then every tenth step how
often the summary is: first as often as one answer, in the end nearly as often as the vote. Half a
minute on two cores.

A thinker reads a digit rightly in some half of its attempts. A summary sees five of its answers,
in any order, and gives one. It begins by repeating any one of them, and is rewarded for the right
one. The thinker is never trained. With curves, three seeds, thinkers that share their mistakes, and
questions that the training did not hold: apps/longcat-cli/benchmarks/summary_rl.py.
"""

import dataclasses
import functools
import random
import tempfile
from pathlib import Path

import torch
from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task, Worker
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig
from longcat_moe import Engine, LongcatConfig, LongcatForCausalLM, get_preset

THINKER, SUMMARY, DIGIT, WIDTH = 4, 5, 10, 5


def record(rng):
    """What five attempts said, and what is right."""
    right = rng.randrange(10)
    return [right if rng.random() < 0.5 else rng.randrange(10) for _ in range(WIDTH)], right


def prompt_of(answers):
    return [token for answer in answers for token in (THINKER, DIGIT + answer)] + [SUMMARY]


async def summary(task, policy):
    answers, right = task
    (token,) = await policy.generate(prompt_of(answers))
    return float(token == DIGIT + right)


def worker(folder):
    torch.set_num_threads(1)
    engine = Engine(LongcatConfig.from_pretrained(folder), num_slots=128, max_length=16)
    return Worker(engine=engine, rollout=summary, max_tokens=1)


def cold_start(folder, rng):
    """The form of a summary: one of the answers, whichever."""
    torch.manual_seed(0)
    config = dataclasses.replace(get_preset("tiny"), vocab_size=32)
    trainer = GspoTrainer(LongcatForCausalLM(config).train(), TrainerConfig(learning_rate=3e-3))
    for _ in range(60):
        batch = []
        for _ in range(32):
            answers, _ = record(rng)
            ids = [*prompt_of(answers), DIGIT + rng.choice(answers)]
            batch.append(Sample(token_ids=ids, loss_mask=[False] * (len(ids) - 1) + [True]))
        trainer.fit(batch)
    trainer.model.save_pretrained(folder)


def main():
    torch.set_num_threads(1)
    rng = random.Random(0)
    records = [record(rng) for _ in range(2000)]
    votes = sum(max(set(a), key=a.count) == right for a, right in records) / len(records)
    print(
        f"one answer is right in {sum(a[0] == r for a, r in records) / 2000:.0%}, "
        f"a vote in {votes:.0%}"
    )
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        cold_start(start, rng)
        model = LongcatForCausalLM.from_pretrained(start).train()
        clip = ClipRange(low=0.2, high=0.2)
        LocalRuntime(
            RunConfig(
                folder=Path(folder) / "run", max_steps=80,
                scheduler=SchedulerConfig(groups_per_batch=16, group_size=8, hard_staleness=4),
            ),
            factory=functools.partial(worker, str(start)),
            trainer=GspoTrainer(model, TrainerConfig(learning_rate=1e-3, clip=clip)),
            tasks=(Task(f"n{n}", rng.choice(records)) for n in range(100_000)),
            on_step=lambda p: p.step % 10 or print(
                f"step {p.step:2d}: the summary is right in {p.metrics['sampled_reward']:.0%}"
            ),
        ).run()  # fmt: skip


if __name__ == "__main__":
    main()
