"""Distil: the experts judge each token that the merged model samples (MOPD).

A run of DORA over all domains, as an expert's is over its own. Each attempt is judged by the expert
of its domain, so that rewards are only told, and groups are of one attempt. Noise is drawn evenly
over the levels that the experts' curriculum may climb.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from longcat_dora import Progress, RunConfig, SchedulerConfig, Worker, check, read_events
from longcat_dora import Task as Job
from longcat_gspo import MopdTrainer, TrainerConfig
from longcat_moe import LongcatForCausalLM

from longcat_cli.display import Shows
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe import Recipe
from longcat_cli.worlds import read_tasks

from .experts import runtime_of, worker_for

TRIED_PER_ATTEMPT = 4
"""Tasks drawn for each attempt that is wanted, at most: ends a run whose attempts all fail."""


def run(folder: RunFolder, display: Shows) -> tuple[LongcatForCausalLM, dict[str, Any]]:
    """Distil the merged model, or continue to; return it with the facts."""
    student = LongcatForCausalLM.from_pretrained(folder.merged).train()
    recipe = folder.recipe
    display.note(doing="the merged model samples, its experts judge")
    runtime = runtime_of(recipe)(
        run_config(folder),
        # Ray's workers have working directories of their own.
        factory=functools.partial(make_worker, str(folder.path.resolve())),
        trainer=make_trainer(student, folder),
        tasks=jobs(folder),
        on_step=lambda progress: _show(display, progress, recipe),
    )
    steps = runtime.run()
    report = check(read_events(folder.distil / "log"))
    if not report.is_clean:
        raise UsageError(f"the log of the distillation breaks its contract: {report.summary()}")
    return student, {
        "contract": report.summary(),
        "steps": steps,
        "trajectories": report.num_committed,
        "ended": dict(report.reasons),
    }


def run_config(folder: RunFolder) -> RunConfig:
    """Sizes and bounds, as in the experts' runs."""
    rl, fuse = folder.recipe.rl, folder.recipe.fuse
    return RunConfig(
        folder=folder.distil,
        max_steps=fuse.distil_steps,
        num_controllers=rl.num_controllers,
        save_every=rl.save_every,
        seed=1,  # not the experts' draws once more
        scheduler=SchedulerConfig(
            groups_per_batch=fuse.distil_attempts,
            group_size=1,
            keep_equal_rewards=True,
            soft_staleness=rl.soft_staleness,
            hard_staleness=rl.hard_staleness,
            at_bound=rl.at_bound,
            max_running=rl.max_running,
        ),
    )


def make_worker(run: str) -> Worker:
    """Build what samples attempts in all domains; called inside a controller's process."""
    folder = RunFolder.open(Path(run))
    return worker_for(folder, folder.recipe.domains)


def make_trainer(student: LongcatForCausalLM, folder: RunFolder) -> MopdTrainer:
    """Build what learns, each domain's expert its teacher."""
    fuse, groups = folder.recipe.fuse, folder.recipe.groups
    expert_of = {
        Path(domain).stem: group for group, domains in groups.items() for domain in domains
    }
    return MopdTrainer(
        student,
        TrainerConfig(
            learning_rate=fuse.distil_learning_rate,
            warmup_steps=fuse.distil_steps // 20,
            decay="linear",
            total_steps=max(1, fuse.distil_steps),
        ),
        teachers={
            group: LongcatForCausalLM.from_pretrained(folder.expert(group) / "model")
            for group in groups
        },
        teacher_of=lambda attempt: expert_of[attempt.domain],
    )


def jobs(folder: RunFolder) -> Iterator[Job]:
    """Draw tasks evenly over domains, and noise as the experts met it."""
    recipe = folder.recipe
    tasks = {domain: list(read_tasks(folder.tasks(domain, "train"))) for domain in recipe.domains}
    rng = Random(f"{recipe.seed}:distil")
    wanted = recipe.fuse.distil_steps * recipe.fuse.distil_attempts
    for number in range(TRIED_PER_ATTEMPT * wanted):
        task = rng.choice(tasks[recipe.domains[number % len(tasks)]])
        is_clean = rng.random() < recipe.noise.share_clean
        level = 0.0 if is_clean else rng.choice(recipe.noise.levels)
        episode = f"distil:{task.id}:{number}"
        payload = {"task": task.to_json(), "level": level, "episode": episode, "key": task.domain}
        yield Job(task.id, payload, task.domain)


def _show(display: Shows, progress: Progress, recipe: Recipe) -> None:
    metrics = progress.metrics
    display.update(
        done=progress.step / (recipe.fuse.steps_of_road + recipe.fuse.head_steps),
        step=progress.step,
        teacher_kl=metrics.get("teacher_kl", 0.0),
        pass_rate=metrics.get("reward", 0.0),
        trajectories_per_s=metrics["trajectories_per_s"],
    )
