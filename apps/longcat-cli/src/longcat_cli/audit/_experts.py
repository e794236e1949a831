"""An expert: rewards from tokens, log-probs from the version's weights, weights from batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from longcat_dora import (
    LongcatDoraError,
    Trajectory,
    check,
    read_events,
    read_trajectories,
    replay,
)
from longcat_moe import ChatFormat, LongcatForCausalLM, load_tokenizer

from longcat_cli.agent import DECLARE
from longcat_cli.folder import RunFolder
from longcat_cli.processes import tune_process
from longcat_cli.stages import experts
from longcat_cli.worlds import load_worlds, read_tasks

from ._again import attempt_of

TOLERANCE = 0.02
"""Nats a token, a trajectory's mean, between the engine's log-probs and a plain forward pass."""


def complaints(folder: RunFolder, limit: int, *, group: str) -> list[str]:
    """Train again on what was trained on, and derive up to `limit` attempts from their tokens."""
    place = folder.expert(group)
    log = place / "dora" / "log"
    report = check(read_events(log))
    if report.breaches:
        return [f"the log breaks its contract: {report.summary()}"]
    if not report.num_committed:
        return ["nothing was trained on"]
    trajectories = list(read_trajectories(log))
    return [
        *attempts(
            folder, folder.recipe.groups[group], trajectories[:: max(1, len(trajectories) // limit)]
        ),
        *_weights(folder, group, log, trajectories),
    ]


def attempts(
    folder: RunFolder, domains: list[str], trajectories: Sequence[Trajectory]
) -> Iterator[str]:
    """Derive attempts from their tokens, and compare what the log says of them."""
    worlds = load_worlds(domains)
    tasks = {task.id: task for domain in domains
             for task in read_tasks(folder.tasks(domain, "train"))}  # fmt: skip
    chat = ChatFormat(load_tokenizer(folder.cold_start), declare=DECLARE)
    for trajectory in trajectories:
        task = tasks[trajectory.task]
        attempt = attempt_of(trajectory, task, worlds, chat, folder.recipe.rl.max_turns)
        reward = attempt.episode.reward.total
        if reward != trajectory.reward:
            yield f"{trajectory.id}: its tokens earn {reward}, the log says {trajectory.reward}"
        if attempt.failed_turns != trajectory.info["failed_turns"]:
            yield (
                f"{trajectory.id}: turns {attempt.failed_turns} fail, the log says "
                f"{trajectory.info['failed_turns']}"
            )


class _Observed:
    """A trainer that looks, before each step, at what its present version sampled."""

    def __init__(self, trainer: Any, model: Any, trajectories: Sequence[Trajectory]) -> None:
        self.model, self.by_version = model, dict[int, list[Trajectory]]()
        for trajectory in trajectories:
            if not any(segment.moves for segment in trajectory.segments):
                self.by_version.setdefault(trajectory.version, []).append(trajectory)
        self.version, self.lines = 0, list[str]()
        self._trainer = trainer
        self.weights = self._trainer.weights

    def train(self, batch: Sequence[Trajectory]) -> Any:
        for trajectory in self.by_version.get(self.version, ())[:4]:
            gap = _gap(self.model, trajectory)
            if not gap <= TOLERANCE:
                self.lines.append(
                    f"{trajectory.id}: the weights of version {self.version} give other "
                    f"log-probs than were recorded, by {gap:.3f} nats a token"
                )
        self.version += 1
        return self._trainer.train(batch)


def _weights(
    folder: RunFolder, group: str, log: Path, trajectories: Sequence[Trajectory]
) -> Iterator[str]:
    tune_process()  # as the run was: another number of threads adds up in another order
    model = LongcatForCausalLM.from_pretrained(folder.cold_start).train()
    trainer = experts.make_trainer(model, folder.recipe)
    yield from steps_again(log, trainer, model, trajectories)
    kept = LongcatForCausalLM.from_pretrained(folder.expert(group) / "model").state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, kept[name]):
            yield f"{name} of the saved model is not what the last step led to"
            return


def steps_again(
    log: Path, trainer: Any, model: LongcatForCausalLM, trajectories: Sequence[Trajectory]
) -> Iterator[str]:
    """Take a run's steps once more, and look at what its versions sampled."""
    observed = _Observed(trainer, model, trajectories)
    try:
        for step in replay(log, observed):  # type: ignore[arg-type]
            if not step.is_exact:
                yield (
                    f"step to version {step.version}: its batch gives other weights than were "
                    f"published"
                )
                return
    except LongcatDoraError as error:
        yield str(error)
        return
    yield from observed.lines


def _gap(model: LongcatForCausalLM, trajectory: Trajectory) -> float:
    """Mean absolute difference of log-probs over a trajectory's sampled tokens."""
    gaps: list[float] = []
    with _evaluating(model), torch.inference_mode():
        for segment in trajectory.segments:
            ids = list(segment.token_ids)
            log_probs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            gaps += [
                abs(float(log_probs[place - 1, ids[place]]) - segment.log_probs[place])
                for place in range(1, len(ids))
                if segment.loss_mask[place]
            ]
    return sum(gaps) / max(len(gaps), 1)


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
