"""Numbers of numpy and torch are numbers, kept as plain ones; truth values and texts are none."""

import dataclasses
import json
import math
from random import Random

import numpy as np
import pytest
import torch
from longcat_gspo import (
    CapabilityValue,
    ClipRange,
    ContextGrowth,
    Correction,
    Oversampler,
    PassRateCurriculum,
    StagedCurriculum,
    Stagnation,
    TaskFacts,
    TrainerConfig,
    TripletClip,
    allocate_budget,
    coba_value,
    gift_loss,
    group_advantages,
    knapsack_value,
    num_groups,
    triplet_clip_loss,
    verification_items,
)

REALS = [np.float32, np.float64, np.float16, torch.tensor, np.array,
         lambda value: torch.tensor(value, dtype=torch.bfloat16)]  # fmt: skip
WHOLES = [np.int64, np.int32, np.uint8, torch.tensor, np.array]
NO_NUMBERS = [True, np.True_, torch.tensor(True), "1", np.str_("1"), None, [1], np.array([1.0]),
              torch.tensor([1.0, 2.0]), 1j]  # fmt: skip


def _plain(config):
    """What a configuration holds, and that all of it goes into JSON."""
    held = dataclasses.asdict(config)
    json.dumps(held)
    return held


@pytest.mark.parametrize("real", REALS)
def test_settings_of_other_libraries_are_kept_as_floats(real):
    names = ("learning_rate", "weight_decay", "epsilon", "max_grad_norm", "kl_coefficient",
             "temperature", "top_p")  # fmt: skip
    config = TrainerConfig(betas=[real(0.5), real(0.75)], **{name: real(0.5) for name in names})
    assert config.betas == (0.5, 0.75)
    assert [(type(getattr(config, name)), getattr(config, name)) for name in names] == (
        [(float, 0.5)] * len(names)
    )
    _plain(config)
    for made in (ClipRange(low=real(0.5), high=real(0.5)), Correction(cap=real(1.5)),
                 TripletClip(negative_low=real(0.5), positive_high=real(2.0),
                             negative_high=real(1.0))):  # fmt: skip
        assert {type(value) for value in _plain(made).values()} <= {float, str}
    assert Correction(cap=real(1.5)).cap == 1.5


@pytest.mark.parametrize("whole", WHOLES)
def test_whole_settings_of_other_libraries_are_kept_as_ints(whole):
    names = ("warmup_steps", "total_steps", "max_tokens", "top_k", "epochs", "micro_batch_tokens")
    config = TrainerConfig(packed=np.True_, **{name: whole(3) for name in names})
    assert [(type(getattr(config, name)), getattr(config, name)) for name in names] == (
        [(int, 3)] * len(names)
    )
    assert config.packed is True
    _plain(config)
    assert type(TrainerConfig(learning_rate=whole(1)).learning_rate) is float


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_refused_by_name(value):
    for name in ("learning_rate", "top_p", "weight_decay", "epochs", "top_k"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            TrainerConfig(**{name: value})
    with pytest.raises(ValueError, match="betas must be"):
        TrainerConfig(betas=(value, 0.9))
    for make, said in (
        (lambda: ClipRange(high=value), "need 0 <= low"),
        (lambda: TripletClip(negative_low=value), "need 0 <= negative_low"),
        (lambda: Correction(cap=value), "cap must be"),
        (lambda: Oversampler({"a": value}), "positive share"),
        (lambda: Oversampler({"a": 1}, memory=value), "memory must be a number"),
        (lambda: num_groups(value, group_size=8), "pass_rate must be a number"),
        (lambda: num_groups(0.5, group_size=value), "group_size must be a whole number"),
        (lambda: CapabilityValue(kappa=value), "kappa must be a number"),
        (lambda: CapabilityValue(memory=value), "memory must be a whole number"),
        (lambda: CapabilityValue().observe([value]), "pass rate 0 must be a number"),
        (lambda: coba_value(alpha=value, beta=2), "alpha must be a number"),
        (lambda: allocate_budget([value], total=1, low=0, high=1, value=knapsack_value),
         "pass rate 0 must be a number"),
        (lambda: allocate_budget([0.5], total=value, low=0, high=1, value=knapsack_value),
         "total must be a whole number"),
        (lambda: PassRateCurriculum({"a": value}, seed=0), "share of 'a' must be a number"),
        (lambda: PassRateCurriculum(["a"], seed=0, floor=value), "floor must be a number"),
        (lambda: PassRateCurriculum(["a"], seed=0).record("a", value), "must be a number"),
        (lambda: TaskFacts("a", value), "pass_rate of 'a' must be a number"),
        (lambda: StagedCurriculum([TaskFacts("a", 1)], seed=0, easy=value), "easy must be"),
        (lambda: StagedCurriculum([TaskFacts("a", 1)], seed=0).advance(value), "progress must be"),
        (lambda: ContextGrowth([value]), "a limit must be a whole number"),
        (lambda: ContextGrowth(near=value), "near must be a number"),
        (lambda: Stagnation(patience=value), "patience must be a whole number"),
        (lambda: Stagnation(least_gain=value), "least_gain must be a number"),
        (lambda: Stagnation().observe(value), "a mean reward must be a number"),
        (lambda: verification_items([1], ["a"], num=value, rng=Random(0)), "num must be a whole"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            make()


@pytest.mark.parametrize("value", [math.nan, -0.5, math.inf])
def test_numbers_out_of_their_range_are_refused(value):
    for make in (
        lambda: PassRateCurriculum({"a": value}, seed=0),
        lambda: PassRateCurriculum(["a"], seed=0, floor=value),
        lambda: Stagnation(least_gain=value),
        lambda: TaskFacts("a", value),
        lambda: Oversampler({"a": 1.0}, memory=value),
        lambda: CapabilityValue(lam=value if value != math.inf else -1.0),
    ):
        with pytest.raises(ValueError, match=r"must be in|need|with a positive share"):
            make()
    if value != math.inf:  # which is plain cross-entropy
        with pytest.raises(ValueError, match="need beta"):
            gift_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1).long(), beta=value)
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        triplet_clip_loss(one, one, one, one.long(), clip=TripletClip(), max_tokens=0)


@pytest.mark.parametrize("options", [
    {"memory": 1.0}, {"memory": 1.5}, {"max_running_share": 0.0}, {"max_running_share": 1.5},
])  # fmt: skip
def test_shares_of_what_runs_and_memories_have_their_ranges(options):
    with pytest.raises(ValueError, match=r"need max_running_share in \(0, 1\] and memory in"):
        Oversampler({"a": 1.0}, **options)


@pytest.mark.parametrize("real", [np.float32, torch.tensor])
def test_what_was_seen_in_numbers_of_other_libraries_goes_into_json(real):
    curriculum = PassRateCurriculum({"a": real(0.5), "b": real(0.5)}, seed=np.int64(0))
    curriculum.record("a", real(0.25))
    watch, capability = Stagnation(patience=np.int64(2), memory=real(0.5)), CapabilityValue()
    watch.observe(real(0.5))
    capability.observe(np.array([0.25, 0.75], dtype=np.float32))
    staged = StagedCurriculum([TaskFacts("a", real(0.5))], seed=np.int64(1))
    staged.advance(real(0.5))
    sampler = Oversampler({"a": real(1.0)})
    sampler.start()
    sampler.finish("a", has_signal=np.float32(1) > 0)
    growth = ContextGrowth(np.array([4, 8]))
    assert growth.observe(np.array([4, 4]))
    assert (growth.limit, type(growth.limit)) == (8, int)
    for held in (curriculum, watch, capability, staged, sampler, growth):
        json.dumps(held.state_dict())
    assert curriculum.pass_rate("a") == 0.375
    assert (capability.failure, watch.stagnates) == (0.5, False)


def test_budgets_of_rates_in_arrays_are_those_of_lists():
    rates = [0.1, 0.5, 0.9, 0.0]
    for value in (knapsack_value, coba_value(alpha=np.float32(3), beta=torch.tensor(8))):
        plain = allocate_budget(rates, total=24, low=2, high=16, value=value)
        for given in (np.array(rates), torch.tensor(rates, dtype=torch.float64)):
            total, low, high = np.int64(24), np.int64(2), torch.tensor(16)
            got = allocate_budget(given, total=total, low=low, high=high, value=value)
            assert got == plain
            json.dumps(got)
    assert num_groups(np.float32(0.5), group_size=np.int64(2)) == 2
    assert group_advantages(np.array([1, 0], dtype=np.float32), ["a", "a"]) == [1.0, -1.0]
