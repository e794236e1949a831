"""Samples of the same tokens are computed once, and train as if each had been."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig, _samples

_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)

OBJECTIVES = ("gspo", "gspo_token", "grpo", "dapo", "triplet")


def _doubled():
    """Two groups of four, of which some are the same; what else they hold differs."""
    held = models.sampled(models.llama(), groups=2, size=4, length=6)
    change = dataclasses.replace
    masked = [*held[0].loss_mask[:5], False, *held[0].loss_mask[6:]]
    logs = [x - 0.1 for x in held[1].log_probs]
    return [
        *held, change(held[0], reward=2.0), change(held[0], loss_mask=masked),
        change(held[1], log_probs=logs, reward=0.1), change(held[5], group=held[0].group),
        change(held[2], log_probs=None), change(held[2], loss_mask=[False] * 9),
    ]  # fmt: skip


def _trained(samples, **options):
    options = {"clip": ClipRange(low=0.5, high=0.5), "epochs": 3, "epsilon": 1e-3,
               "old_log_probs": "engine", **options}  # fmt: skip
    model = models.llama()
    trainer = GspoTrainer(model, TrainerConfig(**options), reference="frozen")
    metrics = trainer.train(samples)
    metrics["nll"] = trainer.evaluate(samples)
    metrics |= {f"fit {k}": v for k, v in trainer.fit(samples).items()}
    metrics.pop("tokens_per_s")
    return metrics, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("options", [
    *({"objective": name, "max_tokens": 9 if name == "triplet" else 0} for name in OBJECTIVES),
    {"micro_batch_tokens": 20}, {"kl_coefficient": 0.1, "temperature": 0.7},
    {"packed": True}, {"chunked_log_probs": True},
])  # fmt: skip
def test_it_trains_the_same(options, monkeypatch):
    options = {"objective": "gspo", **options}
    found, weights = _trained(_doubled(), **options)
    numbers = itertools.count()
    monkeypatch.setattr(_samples, "_tokens", lambda sample: next(numbers))
    expected, weights_of_each = _trained(_doubled(), **options)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (weights - weights_of_each).abs().max() < 1e-6


def test_the_model_is_given_each_once():
    model, seen = models.llama(), []
    model.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    trainer = GspoTrainer(model, TrainerConfig(old_log_probs="trainer", micro_batch_tokens=24))
    samples = [
        Sample(token_ids=[1, 2, 3, 4, end], loss_mask=[False] * 4 + [True], log_probs=None,
               reward=end * (place < 8), group="g")
        for end in (5, 6) for place in range(9)
    ]  # fmt: skip
    seen.clear()
    trainer.train(samples)
    assert seen == [(2, 5)]


def test_equal_ones_add_up_in_the_same_order_each_time():
    samples = models.sampled(models.llama(), groups=1, size=2, length=40) * 40
    samples = [dataclasses.replace(s, reward=float(n % 3)) for n, s in enumerate(samples)]
    first, again = (_trained(samples)[1] for _ in range(2))
    assert torch.equal(first, again)


def test_the_first_token_is_never_predicted_whatever_its_mask_says():
    rows = [
        _samples.Rows.of(
            [Sample(token_ids=[4, 5, 6], loss_mask=[first, True, True], log_probs=[0, -1, -2])],
            torch.device("cpu"),
        )
        for first in (False, True)
    ]
    assert rows[1].target_U.tolist() == [5, 6]
    for field in dataclasses.fields(rows[0]):
        assert torch.equal(getattr(rows[0], field.name), getattr(rows[1], field.name)), field.name
