"""Ways in which a stage does nothing, or something else, and leaves its files all the same.

Each returns what to put in place of the stage's own part. What runs in a rollout controller must be
importable there, so that these live in a module of their own.
"""

import random
from unittest import mock

from longcat_cli.stages import cold_start, evaluate, experts, fuse, grow, report

REAL_WORKER, REAL_TRAINER = experts.make_worker, experts.make_trainer
REAL_SAMPLE, REAL_SAMPLES = cold_start._sample, fuse.samples_of
REAL_CELL, REAL_GROW, REAL_TABLE = evaluate.evaluate_cell, grow._grow, report._table


# -- grow --------------------------------------------------------------------------------------


def held_out_is_trained_on(domain, split, path, count, seed, config):
    told = REAL_GROW(domain, split, path, count, seed, config)
    if split == "eval":
        trained = path.with_name(path.name.replace(".eval.", ".train.")).read_text("utf-8")
        path.write_text("".join(trained.splitlines(keepends=True)[:count]), "utf-8")
    return told


# -- cold start --------------------------------------------------------------------------------


def fit_does_nothing(trainer, samples):
    trainer.num_steps += 1
    return {"loss": 0.1, "active_experts": 3.0}


def learns_what_it_was_told(demo, chat):
    """The mask turned round: results and requests are imitated, answers are not."""
    sample = REAL_SAMPLE(demo, chat)
    turned = [not is_learned for is_learned in sample.loss_mask]
    return type(sample)(token_ids=sample.token_ids, loss_mask=turned)


# -- experts -----------------------------------------------------------------------------------


def _trainer_with(change):
    def make(model, recipe):
        trainer = REAL_TRAINER(model, recipe)
        change(trainer)
        return trainer

    return make


def _trains_nothing(trainer):
    real = trainer.train

    def train(batch):
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        metrics = real(batch)
        trainer.model.load_state_dict(before)
        return metrics

    trainer.train = train


def _shuffles_rewards(trainer):
    real, rng = trainer.train, random.Random(0)

    def train(batch):
        rewards = [t.reward for t in batch]
        rng.shuffle(rewards)
        kept = [t.reward for t in batch]
        for trajectory, reward in zip(batch, rewards, strict=True):
            object.__setattr__(trajectory, "reward", reward)
        metrics = real(batch)
        for trajectory, reward in zip(batch, kept, strict=True):
            object.__setattr__(trajectory, "reward", reward)
        return metrics

    trainer.train = train


def _publishes_stale_weights(trainer):
    real, first = trainer.weights, []

    def weights():
        first.append(real())
        return first[0]

    trainer.weights = weights


def _empties_masks(trainer):
    real = trainer.train

    def train(batch):
        for trajectory in batch[1:]:
            for segment in trajectory.segments:
                object.__setattr__(segment, "loss_mask", [False] * len(segment.token_ids))
        return real(batch)

    trainer.train = train


trains_nothing = _trainer_with(_trains_nothing)
shuffles_rewards = _trainer_with(_shuffles_rewards)
publishes_stale_weights = _trainer_with(_publishes_stale_weights)
empties_masks = _trainer_with(_empties_masks)


def worker_that_invents_rewards(run, group):
    return _invents_rewards(REAL_WORKER(run, group))


def worker_that_keeps_old_weights(run, group):
    """Every version is answered by the first one's weights."""
    return _keeps_old_weights(REAL_WORKER(run, group))


def worker_that_lies_twice(run, group):
    return _invents_rewards(_keeps_old_weights(REAL_WORKER(run, group)))


def _invents_rewards(worker):
    import dataclasses

    rng = random.Random(0)

    async def rollout(payload, policy):
        _, info = await worker.rollout(payload, policy)
        return float(rng.random() < 0.5), info

    return dataclasses.replace(worker, rollout=rollout)


def _keeps_old_weights(worker):
    real, first = worker.engine.load_weights, []

    def load_weights(version, weights):
        first.append(bytes(weights))
        return real(version, first[0])

    worker.engine.load_weights = load_weights
    return worker


# -- fuse --------------------------------------------------------------------------------------


def learns_nothing(model, samples, recipe, display=None):
    return None


def head_learns_nothing(model, samples, recipe, display=None):
    from longcat_moe import add_prediction_head

    return add_prediction_head(model)


def masks_other_turns(folder):
    """The first turn's mask is turned round: imitated where its call failed, and not where it did.

    A run may have no attempt that passed after a failed call, and every attempt has a first turn.
    """
    from longcat_cli.stages import _successes

    real = _successes._failed_turns_of
    with mock.patch.object(_successes, "_failed_turns_of", lambda t: real(t) ^ {0}):
        return REAL_SAMPLES(folder)


def takes_half_of_the_samples(folder):
    return REAL_SAMPLES(folder)[::2]


def merges_one_expert(folder, out):
    import shutil

    shutil.copytree(folder.expert(next(iter(folder.recipe.groups))) / "model", out)


# -- evaluate and report -----------------------------------------------------------------------


def asks_the_cold_start(run, name, model, domain, noise):
    from pathlib import Path

    return REAL_CELL(run, name, str(Path(run) / "cold_start"), domain, noise)


def passes_everybody(run, name, model, domain, noise):
    result = REAL_CELL(run, name, model, domain, noise)
    result["row"]["passed"] = result["row"]["total"]
    return result


def table_of_last_year(rows):
    return REAL_TABLE([{**row, "passed": 0} for row in rows])
