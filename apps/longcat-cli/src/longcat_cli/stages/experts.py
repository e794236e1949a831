"""experts: one RL run per group of domains, through DORA, GSPO and the noise curriculum.

The artefact of each is a checkpoint folder and the run's event log, which the checker must pass.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from longcat_dora import (
    Invalid,
    LocalRuntime,
    Policy,
    Progress,
    RunConfig,
    Runtime,
    SchedulerConfig,
    Trajectory,
    Worker,
    check,
    read_events,
)
from longcat_dora import Task as Job
from longcat_envs import InvalidEpisode
from longcat_gspo import ClipRange, GspoTrainer, PassRateCurriculum, TrainerConfig
from longcat_moe import (
    ChatFormat,
    Engine,
    LongcatConfig,
    LongcatForCausalLM,
    load_tokenizer,
    save_tokenizer,
)
from longcat_noise import CurriculumConfig, NoiseCurriculum

from longcat_cli.agent import DECLARE, act, transcript
from longcat_cli.budget import Budget
from longcat_cli.display import Shows
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.lessons import relative_change
from longcat_cli.processes import tune_process
from longcat_cli.recipe import Recipe
from longcat_cli.worlds import AnyTask, load_worlds, read_task, read_tasks


def run(folder: RunFolder, display: Shows, group: str) -> dict[str, Any]:
    """Train one expert, or continue it; return the facts."""
    recipe = folder.recipe
    tune_process()
    place = folder.expert(group)
    model = LongcatForCausalLM.from_pretrained(folder.cold_start).train()
    source = TaskSource(folder, group)
    runtime = runtime_of(recipe)(
        _run_config(recipe, place / "dora"),
        # Ray's workers have working directories of their own.
        factory=functools.partial(make_worker, str(folder.path.resolve()), group),
        trainer=make_trainer(model, recipe),
        tasks=iter(source),
        on_step=lambda progress: _show(display, progress, source, recipe),
        on_group=source.record,
    )
    display.note(doing="starting Ray" if recipe.rl.runtime == "ray" else "starting its processes")
    steps = runtime.run()
    report = check(read_events(place / "dora" / "log"))
    if not report.is_clean:
        raise UsageError(f"the event log of expert {group} breaks its contract: {report.summary()}")
    model.save_pretrained(place / "model")
    save_tokenizer(load_tokenizer(folder.cold_start), place / "model", declare=DECLARE)
    write_json(place / "samples.json", source.samples)
    return {
        "contract": report.summary(),
        "steps": steps,
        "moved": relative_change(folder.cold_start, place / "model"),
        "staleness": {str(k): v for k, v in sorted(report.staleness.items())},
        "ended": dict(report.reasons),
        "noise_level": source.noise.level,
        "noise_refused": source.num_without,
        "trajectories": report.num_committed,
    }


def runtime_of(recipe: Recipe) -> Callable[..., Runtime]:
    """Where controllers run."""
    if recipe.rl.runtime == "local":
        return LocalRuntime
    try:
        from longcat_dora.ray import RayRuntime
    except ImportError as error:
        raise UsageError("--runtime ray needs: pip install 'longcat-dora[ray]'") from error
    return functools.partial(RayRuntime, address=recipe.rl.ray_address or None)


def _run_config(recipe: Recipe, folder: Path) -> RunConfig:
    rl = recipe.rl
    return RunConfig(
        folder=folder,
        max_steps=rl.steps,
        num_controllers=rl.num_controllers,
        save_every=rl.save_every,
        tasks_go_on=True,
        scheduler=SchedulerConfig(
            groups_per_batch=rl.groups_per_batch,
            group_size=rl.group_size,
            soft_staleness=rl.soft_staleness,
            hard_staleness=rl.hard_staleness,
            at_bound=rl.at_bound,
            max_running=rl.max_running,
        ),
    )


def make_worker(run: str, group: str) -> Worker:
    """Build what an expert's rollout controller runs; called inside its process."""
    folder = RunFolder.open(Path(run))
    return worker_for(folder, folder.recipe.groups[group])


def worker_for(folder: RunFolder, domains: list[str]) -> Worker:
    """Build what samples attempts in some domains."""
    tune_process()
    rl = folder.recipe.rl
    worlds = load_worlds(domains)

    async def rollout(
        payload: dict[str, Any], policy: Policy
    ) -> tuple[float, dict[str, Any]] | Invalid:
        task = read_task(payload["task"])
        try:
            attempt = await act(
                worlds, task, policy, level=payload["level"], episode=payload["episode"],
                max_turns=rl.max_turns,
            )  # fmt: skip
        except InvalidEpisode as error:
            return Invalid(str(error))
        episode = attempt.episode
        return episode.reward.total, {
            "level": attempt.level,
            "refused": attempt.num_refused,
            "key": payload["key"],
            "episode": payload["episode"],
            "failed_turns": attempt.failed_turns,
            "status": episode.status,
            "calls": episode.num_calls,
            "errors": episode.num_errors,
            "transcript": transcript(episode.messages),
        }

    config = LongcatConfig.from_pretrained(folder.cold_start)
    return Worker(
        engine=Engine(
            config, num_slots=rl.max_running, max_length=rl.max_length, seed=folder.recipe.seed
        ),
        renderer=ChatFormat(load_tokenizer(folder.cold_start), declare=DECLARE),
        rollout=rollout,
        max_tokens=rl.max_tokens,
        temperature=rl.temperature,
    )


def make_trainer(model: LongcatForCausalLM, recipe: Recipe) -> GspoTrainer:
    """Build what learns from the rollouts; it meets DORA's trainer protocol."""
    return GspoTrainer(model, trainer_config(recipe))


def trainer_config(recipe: Recipe) -> TrainerConfig:
    """How an expert's trainer takes its steps."""
    rl = recipe.rl
    return TrainerConfig(
        learning_rate=rl.learning_rate,
        warmup_steps=rl.warmup_steps,
        epochs=rl.epochs,
        objective=rl.objective,
        baseline=rl.baseline,
        clip=ClipRange(low=rl.clip_low, high=rl.clip_high),
        # A task must not count more because it was tried more often.
        weigh="attempts" if rl.budget == "even" else "groups",
        max_tokens=rl.max_length if rl.objective == "triplet" else 0,
    )


class TaskSource:
    """Draws tasks by capability and noise by the curriculum, from what groups report."""

    def __init__(self, folder: RunFolder, group: str) -> None:
        recipe = folder.recipe
        self.noise = NoiseCurriculum(
            CurriculumConfig(
                levels=tuple(recipe.noise.levels),
                max_gap=recipe.noise.max_gap,
                min_pass_rate=recipe.noise.min_pass_rate,
            )
        )
        self.samples: dict[str, Any] = {"first": [], "last": []}
        self.pass_rate = 0.0
        self._share_clean = recipe.noise.share_clean
        self._max_groups = recipe.rl.steps * recipe.rl.max_groups_per_step
        self._tasks: dict[str, list[AnyTask]] = {}
        for domain in recipe.groups[group]:
            for task in read_tasks(folder.tasks(domain, "train")):
                self._tasks.setdefault(f"{task.domain}/{'+'.join(task.tags)}", []).append(task)
        self._state = folder.expert(group) / "curriculum.json"
        if self._state.is_file():
            self.noise.restore(json.loads(self._state.read_text("utf-8")))
        self._rng = Random(f"{recipe.seed}:{group}:{_lines(folder.expert(group))}")
        self._keys = PassRateCurriculum(
            {key: float(len(tasks)) for key, tasks in self._tasks.items()},
            seed=self._rng.randrange(2**31),
        )
        self._budget = Budget(recipe.rl)
        self._num = 0
        self.num_without = 0
        """Groups that were to be noisy and had a perfect world, since no draw was certified."""

    def __iter__(self) -> Iterator[Job]:
        while self._num < self._max_groups:
            keys = [self._keys.draw() for _ in range(self._budget.num_tasks)]
            rates = [self._keys.pass_rate(key) for key in keys]
            for key, attempts in zip(keys, self._budget.attempts(rates), strict=True):
                yield self._job(key, attempts)

    def _job(self, key: str, attempts: int | None) -> Job:
        task = self._rng.choice(self._tasks[key])
        clean = self._rng.random() < self._share_clean
        level = 0.0 if clean else self.noise.level
        episode = f"{task.id}:{self._num}"
        self._num += 1
        payload = {"task": task.to_json(), "level": level, "episode": episode, "key": key}
        return Job(task.id, payload, task.domain, attempts)

    def record(self, group: list[Trajectory]) -> None:
        """Take note of a complete group."""
        rate = sum(t.reward for t in group) / len(group)
        self._keys.record(group[0].info["key"], rate)
        self._budget.record(rate)
        self.pass_rate = 0.9 * self.pass_rate + 0.1 * rate if self.pass_rate else rate
        info = group[0].info
        self.num_without += info.get("refused", 0) > 0 and not info["level"]
        # Once a group, since attempts at one task are not independent; paired within a capability.
        passed = sum(t.reward == 1 for t in group) / len(group)
        self.noise.record(group[0].info["level"], passed=passed, key=group[0].info["key"])
        write_json(self._state, self.noise.state())
        example = {"reward": group[0].reward, "transcript": group[0].info["transcript"]}
        if len(self.samples["first"]) < 3:
            self.samples["first"].append(example)
        self.samples["last"] = [*self.samples["last"][-2:], example]


def _lines(place: Path) -> int:
    metrics = place / "dora" / "metrics.jsonl"
    return len(metrics.read_text("utf-8").splitlines()) if metrics.is_file() else 0


def _show(display: Shows, progress: Progress, source: TaskSource, recipe: Recipe) -> None:
    metrics = progress.metrics
    with_staleness = sum(int(k) * v for k, v in metrics["staleness"].items())
    display.update(
        done=progress.step / recipe.rl.steps,
        step=progress.step,
        pass_rate=source.pass_rate,
        noise=source.noise.level,
        trajectories_per_s=metrics["trajectories_per_s"],
        staleness=with_staleness / len(progress.batch),
        versions=metrics["live_versions"],
        trainer_idle=metrics["trainer_idle_share"],
    )
