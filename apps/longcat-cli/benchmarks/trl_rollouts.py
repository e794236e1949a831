"""Rollouts a second, and seconds to a reward, against TRL's GRPOTrainer on the same model and task, CPU.

usage: python trl_rollouts.py [--steps 40] [--size tiny|small] [--tokens 16]

The model is a small LongCat from one folder on both sides: `tiny` is the preset (0.15M), `small` the shape that
`longcat train` has (3M). A rollout is up to so many tokens; its reward is the number of even ones over how many there may
be: nothing is gained by ending early, which would make rollouts cheap on whichever side learns it first. 32 rollouts a
step, 4 prompts of 8, sequence-level ratio, one optimiser step, the same rate. All rollouts that are finished count, with
a signal or not (ours draws others in place of those without; TRL trains on them as they are).
Needs `trl` and `datasets` beside our packages.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

LEARNING_RATE, GOAL = 2e-3, 0.9
LENGTH = int(os.environ.get("ROLLOUT_TOKENS", "16"))
SIZES = {
    "tiny": {},
    "small": {
        "hidden_size": 128, "num_layers": 4, "num_attention_heads": 4, "q_lora_rank": 64,
        "kv_lora_rank": 32, "ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "n_routed_experts": 16,
        "zero_expert_num": 8,
    },
}  # fmt: skip


SOFT = {"sync": 0, "async": 1, "async 3": 3}
"""Mean staleness; the hard bound is four times that."""


def make_model(folder, size="tiny"):
    import torch
    from longcat_moe import LongcatForCausalLM, get_preset, save_tokenizer, train_tokenizer

    tokenizer = train_tokenizer(["one two three four"], vocab_size=320)
    torch.manual_seed(0)
    words = {"vocab_size": tokenizer.get_vocab_size()}
    config = dataclasses.replace(get_preset("tiny"), **words, **SIZES[size])
    LongcatForCausalLM(config).save_pretrained(folder, for_transformers=True)
    save_tokenizer(tokenizer, folder)


def prompts(num):
    return [f"one two {n % 7} three" for n in range(num)]


def reward_of(ids):
    """For the curves: the share of even tokens."""
    return sum(token % 2 == 0 for token in ids) / max(1, len(ids))


def full_reward(ids):
    return sum(token % 2 == 0 for token in ids) / LENGTH


async def _rollout(prompt, policy):
    return reward_of(await policy.generate(prompt))


async def _full_rollout(prompt, policy):
    return full_reward(await policy.generate(prompt))


def worker(folder):
    import torch
    from longcat_dora import Worker
    from longcat_moe import Engine, LongcatConfig

    torch.set_num_threads(1)
    engine = Engine(LongcatConfig.from_pretrained(folder), num_slots=160, max_length=LENGTH + 48)
    return Worker(engine=engine, rollout=_rollout, max_tokens=LENGTH)


def full_worker(folder):
    return dataclasses.replace(worker(folder), rollout=_full_rollout)


def trainer_of(folder, **options):
    from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
    from longcat_moe import LongcatForCausalLM

    model = LongcatForCausalLM.from_pretrained(folder).train()
    clip = ClipRange(low=0.2, high=0.2)
    return GspoTrainer(model, TrainerConfig(learning_rate=LEARNING_RATE, clip=clip, **options))


def ours(folder, steps, mode):
    import torch
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
    from longcat_moe import load_tokenizer

    torch.set_num_threads(2 if mode == "sync" else 1)
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in prompts(10_000)]
    marks, done = [], Counter()

    def count(group):
        done["rollouts"] += len(group)
        done["tokens"] += sum(trajectory.num_sampled for trajectory in group)

    def mark(progress):
        reward = progress.metrics["sampled_reward"]
        marks.append((time.monotonic(), reward, done["rollouts"], done["tokens"]))

    with tempfile.TemporaryDirectory() as run:
        staleness = SOFT[mode]
        LocalRuntime(
            RunConfig(
                folder=Path(run), max_steps=steps, save_every=10**6,
                scheduler=SchedulerConfig(
                    groups_per_batch=4, group_size=8, soft_staleness=staleness, hard_staleness=4 * staleness,
                    max_running=160,
                ),
            ),
            factory=functools.partial(full_worker, folder), trainer=trainer_of(folder),
            tasks=(Task(f"n{n}", prompt) for n, prompt in enumerate(ids)),
            on_step=mark,
            on_group=count,
        ).run()  # fmt: skip
    return marks


def trl(folder, steps, seed=42, reward=reward_of):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(2)
    marks = []

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "reward" in logs:
                _, _, num, tokens = marks[-1] if marks else (0, 0, 0, 0)
                tokens += 32 * logs["completions/mean_length"]
                marks.append((time.monotonic(), logs["reward"], num + 32, tokens))

    with tempfile.TemporaryDirectory() as run:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(folder),
            reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
            train_dataset=Dataset.from_dict({"prompt": prompts(10_000)}),
            args=GRPOConfig(
                output_dir=run, per_device_train_batch_size=32, num_generations=8,
                max_completion_length=LENGTH, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
                beta=0.0, importance_sampling_level="sequence", max_steps=steps, logging_steps=1,
                report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
                temperature=1.0, gradient_checkpointing=False, seed=seed,
            ),
            callbacks=[Watch()],
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    return marks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--tokens", type=int, default=LENGTH)
    parser.add_argument("--side", choices=[*SOFT, "trl"])
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    if options.side:
        began = time.monotonic()
        if options.side == "trl":
            marks = trl(options.model, options.steps, reward=full_reward)
        else:
            marks = ours(options.model, options.steps, options.side)
        print("marks " + json.dumps([(at - began, *rest) for at, *rest in marks]))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, options.size)
        os.environ["ROLLOUT_TOKENS"] = str(options.tokens)
        print(
            f"load {os.getloadavg()[0]:.1f}, {options.size}, {options.steps} steps of 32 rollouts of "
            f"{options.tokens} tokens"
        )
        print(
            f"| side | rollouts/s | tokens each | first step | seconds to {GOAL} | steps to {GOAL} |\n| --- | --- | --- | --- | --- | --- |"
        )
        for side in ("async 3", "async", "sync", "trl", "async 3", "trl"):
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, "--model", folder, "--steps", str(options.steps)],
                capture_output=True, text=True,
            )  # fmt: skip
            line = next((x for x in done.stdout.splitlines() if x.startswith("marks ")), None)
            if line is None:
                sys.exit(done.stderr[-3000:])
            marks = json.loads(line.removeprefix("marks "))
            seconds, num, tokens = (marks[-1][k] - marks[0][k] for k in (0, 2, 3))
            goal = next((n for n, (_, reward, *_) in enumerate(marks) if reward >= GOAL), None)
            reached = "-" if goal is None else f"{marks[goal][0]:.1f}"
            print(
                f"| {side} | {num / seconds:.0f} | {tokens / num:.1f} | {marks[0][0]:.1f} s | {reached} | {goal} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
