"""What cannot be meant is refused and named, and changes nothing; what is equal counts as equal."""

import dataclasses
import importlib.util
import itertools
import math
import time
from pathlib import Path
from random import Random

import pytest
import torch
from longcat_gspo import (
    CapabilityValue,
    ClipRange,
    Correction,
    GspoTrainer,
    Oversampler,
    PassRateCurriculum,
    Sample,
    Stagnation,
    TrainerConfig,
    TripletClip,
    allocate_budget,
    attempt_advantages,
    dapo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    knapsack_value,
    mismatch_weights,
    num_groups,
    sequence_mean,
    triplet_clip_loss,
    verification_items,
)
from torch import nn

NAN, INF = math.nan, math.inf


class _Out:
    def __init__(self, logits):
        self.logits = logits


class _Root(nn.Module):
    """Its logits have a term whose value is 0 and whose gradient is not a number."""

    def __init__(self, is_bad=True):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.zero = nn.Embedding(12, 12), nn.Parameter(torch.zeros(1))
        self.is_bad = is_bad

    def forward(self, input_ids, attention_mask=None):
        logits = self.embed(input_ids)
        return _Out(logits + (self.zero * self.zero).sqrt() if self.is_bad else logits)


def _sample(reward=0.0, ids=(1, 2, 3), log=-1.0, **more):
    mask = [False] + [True] * (len(ids) - 1)
    log_probs = [0.0] + [log] * (len(ids) - 1)
    return Sample(**{"token_ids": ids, "loss_mask": mask, "log_probs": log_probs,
                     "reward": reward, "group": "g", **more})  # fmt: skip


GOOD = [_sample(1.0), _sample(0.0, (1, 4, 5))]


def _state(trainer):
    inner = [v for s in trainer.optimizer.state.values() for v in s.values()]
    return [t.clone() for t in [*trainer.model.state_dict().values(), *inner]]


def _unchanged(trainer, before):
    return all(torch.equal(a, b) for a, b in zip(_state(trainer), before, strict=True))


# -- gradients, rewards, log-probs -------------------------------------------------------------


@pytest.mark.parametrize("step", ["train", "fit"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_named(step):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    trainer.train(GOOD)
    trainer.model.is_bad = True
    before = _state(trainer)
    with pytest.raises(FloatingPointError, match="those of zero are not; no step was taken"):
        getattr(trainer, step)(GOOD)
    assert _unchanged(trainer, before)
    assert trainer.num_steps == 1
    trainer.model.is_bad = False
    assert math.isfinite(getattr(trainer, step)(GOOD)["grad_norm"])  # nothing is left of it


@pytest.mark.parametrize("reward", [NAN, INF, -INF])
@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out", "none"])
def test_a_reward_that_is_not_finite_is_named(reward, baseline):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig(baseline=baseline))
    before = _state(trainer)
    with pytest.raises(ValueError, match=r"sample 2 of group 'g'.*finite, got"):
        trainer.train([*GOOD, _sample(reward)])
    assert _unchanged(trainer, before)
    with pytest.raises(ValueError, match=r"finite, got .* at 1, of group 'b'"):
        group_advantages([1.0, reward], ["a", "b"], baseline=baseline)


@pytest.mark.parametrize("log", [NAN, -INF, INF])
def test_a_log_prob_that_is_not_finite_is_named(log):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    with pytest.raises(FloatingPointError, match=r"sample 1 of group 'g'.*no step was taken"):
        trainer.train([GOOD[0], _sample(log=log)])


def test_log_probs_that_nobody_filled_in_are_refused():
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    with pytest.raises(ValueError, match="got 0 for all"):
        trainer.train([_sample(1.0, log=0.0), _sample(0.0, log=0.0)])
    with pytest.raises(ValueError, match=r"must not be positive, got 0\.4"):
        trainer.train([GOOD[0], _sample(log=0.4)])
    trainer.train([_sample(1.0, log=0.0), _sample(0.0, (1, 4, 5))])  # one word may be certain


def test_a_forgotten_group_is_refused_and_one_task_needs_none():
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    apart = [_sample(1.0, group=""), _sample(0.0, (7, 2, 3), group="")]
    with pytest.raises(ValueError, match="2 different prompts must say their group"):
        trainer.train(apart)
    trainer.train([_sample(1.0, group=""), _sample(0.0, (1, 4, 5), group="")])
    GspoTrainer(_Root(is_bad=False), TrainerConfig(baseline="none")).train(apart)


@pytest.mark.parametrize(("said", "bad"), [
    ("token_ids must be whole numbers", {"token_ids": (1, 2, -3)}),
    ("token_ids must be whole numbers", {"token_ids": (1, 2, 3.5)}),
    ("token_ids must be whole numbers", {"token_ids": (1, "2", 3)}),
    ("token_ids must be whole numbers", {"token_ids": (1, None, 3)}),
    ("token_ids must be whole numbers", {"token_ids": (1, 2, 10**30)}),
    ("token_ids up to 99", {"token_ids": (1, 2, 99)}),
    ("loss_mask must be", {"loss_mask": [0, 2, 1]}),
    ("loss_mask must be", {"loss_mask": [0, NAN, 1]}),
    ("loss_mask must be", {"loss_mask": [0, None, 1]}),
    ("one length", {"loss_mask": [0, 1]}),
    ("log_probs must be numbers", {"log_probs": ["0", "-1", "-1"]}),
    ("its reward must be finite, got None", {"reward": None}),
    ("its reward must be finite, got 1", {"reward": "1"}),
    ("its reward must be finite", {"reward": 10**400}),
    ("group must be hashable", {"group": ["g"]}),
    ("attempt must be hashable", {"attempt": ["a"]}),
    ("sample 2 must say its group", {"group": ""}),
])  # fmt: skip
def test_a_sample_that_is_none_is_named_and_changes_nothing(said, bad):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    before = _state(trainer)
    sample = dataclasses.replace(_sample(0.0, (1, 5, 6)), **bad)
    with pytest.raises(ValueError, match=said):
        trainer.train([*GOOD, sample])
    if "token_ids" in bad or "loss_mask" in bad:
        for step in (trainer.fit, trainer.evaluate):
            with pytest.raises(ValueError, match=said):
                step([*GOOD, sample])
    assert _unchanged(trainer, before)
    assert math.isfinite(trainer.train(GOOD)["grad_norm"])


@pytest.mark.parametrize("batch", [None, 5, [{}], ["ab"]])
def test_a_batch_that_is_none_is_one_line(batch):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    for step in (trainer.train, trainer.fit, trainer.evaluate):
        with pytest.raises(ValueError, match="a batch must"):
            step(batch)


def test_an_id_outside_a_vocabulary_that_the_model_tells_is_found_before_it_computes():
    model = _Root(is_bad=False)
    model.get_input_embeddings = lambda: model.embed
    model.forward = None
    with pytest.raises(ValueError, match=r"sample 1: .* in \[0, 12\), got \(1, 2, 12\)"):
        GspoTrainer.train(_Told(model), [GOOD[0], _sample(ids=(1, 2, 12))])


class _Told:
    """As much of a trainer as checks need."""

    def __init__(self, model):
        self._plain, self.config = model, TrainerConfig()


def test_metrics_of_a_step_that_was_not_taken_are_absent():
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    assert "tokens_per_s" not in trainer.train([_sample(1.0), _sample(1.0)])
    began = time.perf_counter()
    metrics = trainer.train(GOOD)
    assert 0 < metrics["tokens"] / metrics["tokens_per_s"] <= time.perf_counter() - began


# -- attempts of several segments --------------------------------------------------------------


def test_an_attempt_counts_once_whatever_its_segments():
    batch = [_sample(1.0, attempt="a")] + [_sample(0.0, attempt="b")] * 7
    assert attempt_advantages(batch) == [1.0] + [-1.0] * 7
    assert attempt_advantages(batch, baseline="leave_one_out") == [1.0] + [-1.0] * 7
    # Seven copies of a segment push as one does.
    norms = [
        GspoTrainer(_Root(is_bad=False), TrainerConfig(max_grad_norm=1e9)).train(
            [_sample(1.0, attempt="a")] + [_sample(0.0, (1, 4, 5), attempt="b")] * num
        )["grad_norm"]
        for num in (1, 7)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    with pytest.raises(ValueError, match=r"one reward, got 1\.0 and 0\.0"):
        attempt_advantages([_sample(1.0, attempt="a"), _sample(0.0, attempt="a")])


# -- equal is equal ----------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out"])
@pytest.mark.parametrize("reward", [0.7, 0.1, 1 / 3, -0.7, 1e-9, 1e9, 0.0])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
def test_equal_rewards_have_advantage_exactly_zero(baseline, reward, size):
    assert group_advantages([reward] * size, ["g"] * size, baseline=baseline) == [0.0] * size


@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out"])
def test_rewards_equal_but_for_rounding_are_equal_and_small_ones_are_not(baseline):
    assert group_advantages([0.1 + 0.2, 0.3, 0.3], ["g"] * 3, baseline=baseline) == [0.0] * 3
    assert 0 not in group_advantages([1e-8, 3e-8], ["g"] * 2, baseline=baseline)


# -- pure functions ----------------------------------------------------------------------------


def _call(place, now, old, advantage, sequence, clip):
    num = len(advantage)
    if place == 1:
        advantage_T = advantage[sequence.clamp(max=num - 1)]
        return gspo_token_loss(now, old, advantage_T, sequence, num_sequences=num, clip=clip)
    if place == 4:
        return triplet_clip_loss(now, old, advantage, sequence, clip=TripletClip(), max_tokens=2)
    function = (gspo_loss, None, grpo_loss, dapo_loss)[place]
    return function(now, old, advantage, sequence, clip=clip)


def _calls(*arguments):
    return [_call(place, *arguments) for place in range(5)]


def test_the_old_side_has_no_gradient_even_if_it_is_the_new_one():
    sequence = torch.tensor([0, 1])
    for place in range(5):
        now = torch.tensor([-1.0, -2.0], requires_grad=True)
        loss, _ = _call(place, now, now, torch.ones(2), sequence, ClipRange())
        loss.backward()
        expected = -0.25 if place == 4 else -0.5  # triplet divides by max_tokens too
        assert now.grad.tolist() == [expected] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    torch.manual_seed(0)
    now, sequence = -torch.rand(1000) * 2, torch.zeros(1000, dtype=torch.long)
    old = (now + torch.randn(1000) * 0.05).to(dtype)
    now = now.to(dtype)
    wide, one = ClipRange(low=0.9, high=9), torch.ones(1)
    exact = _calls(now.double(), old.double(), one.double(), sequence, wide)
    for got, want in zip(_calls(now, old, one, sequence, wide), exact, strict=True):
        assert got[0].item() == pytest.approx(want[0].item(), rel=2e-5)
        assert got[1].ratio_S.item() == pytest.approx(want[1].ratio_S.item(), rel=2e-5)
    weights = [mismatch_weights(a, b, sequence, num_sequences=1, level="sequence")[0].item()
               for a, b in ((now, old), (now.double(), old.double()))]  # fmt: skip
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)
    assert sequence_mean(now, sequence, 1).dtype == torch.float32


def test_a_sequence_without_an_advantage_is_refused():
    now = torch.tensor([-1.0, -1.0])
    for place in range(5):
        with pytest.raises(ValueError, match="sequence must be in 0 to 0"):
            _call(place, now, now, torch.ones(1), torch.tensor([0, 1]), ClipRange())


# -- the configuration -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [
    ("learning_rate", NAN), ("learning_rate", -1e-4), ("learning_rate", 0), ("learning_rate", INF),
    ("learning_rate", "1e-4"), ("learning_rate", True), ("min_learning_rate", -1.0),
    ("min_learning_rate", 1.0), ("warmup_steps", -5), ("warmup_steps", 1.5), ("total_steps", -1),
    ("weight_decay", -0.1), ("weight_decay", NAN), ("betas", (0.9, 1.0)), ("betas", (0.9,)),
    ("betas", (NAN, 0.9)), ("epsilon", 0), ("epsilon", NAN), ("max_grad_norm", NAN),
    ("max_grad_norm", -1), ("baseline", "rloo"), ("baseline", None), ("objective", "ppo"),
    ("weigh", "tokens"), ("kl_coefficient", NAN), ("kl_coefficient", -1), ("temperature", 0),
    ("temperature", NAN), ("top_k", -1), ("top_k", 0.5), ("top_p", 0), ("top_p", 1.1),
    ("top_p", NAN), ("old_log_probs", "mine"), ("epochs", 0), ("epochs", 1.5), ("decay", "step"),
    ("micro_batch_tokens", 0), ("max_tokens", -1), ("learning_rate", 10**400), ("betas", 0.9),
    ("betas", ("0.9", "0.9")), ("betas", None), ("betas", (True, 0.9)), ("top_p", "1"),
    ("top_p", True), ("packed", "no"), ("shared_prefixes", 1), ("chunked_log_probs", 1), ("master_weights", None),
    ("clip", 0.2), ("clip", TripletClip()), ("triplet_clip", (0.2, 0.3)), ("correction", "token"),
])  # fmt: skip
def test_nonsense_is_refused_at_construction(name, value):
    with pytest.raises(ValueError, match=f"{name}|{'learning_rate' if 'min' in name else name}"):
        TrainerConfig(**{name: value})


def test_nonsense_in_pairs_is_refused_too():
    for options, said in (
        ({"chunked_log_probs": True, "top_k": 5}, "neither top_k"),
        ({"chunked_log_probs": True, "packed": True}, "nor packed"),
        ({"chunked_log_probs": True, "shared_prefixes": True}, "nor packed"),
        ({"packed": True, "shared_prefixes": True}, "either packed or shared_prefixes"),
        ({"min_learning_rate": 1e-5}, "what decay falls to: give decay"),
        ({"top_k": 1}, "top_k=1 leaves one word"),
        ({"correction": Correction(level="sequence"), "old_log_probs": "engine"}, "a correction"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainerConfig(**options)
    for bad in ({"low": NAN}, {"high": NAN}, {"high": INF}, {"low": 1.0}, {"low": -0.1}):
        with pytest.raises(ValueError, match="need 0 <= low"):
            ClipRange(**bad)
    for value in (NAN, "x", None, True):
        with pytest.raises(ValueError, match="need 0 <= low"):
            ClipRange(high=value)
        with pytest.raises(ValueError, match="need 0 <= negative_low"):
            TripletClip(negative_high=value)
        with pytest.raises(ValueError, match="cap must be"):
            Correction(cap=value)


def test_the_rate_falls_to_its_floor():
    config = TrainerConfig(learning_rate=1.0, min_learning_rate=0.2, decay="linear", total_steps=4)
    assert [config.learning_rate_at(n) for n in range(4)] == pytest.approx([1.0, 0.8, 0.6, 0.4])
    cosine = TrainerConfig(learning_rate=1.0, min_learning_rate=0.2, decay="cosine", total_steps=2)
    assert [cosine.learning_rate_at(n) for n in (0, 1)] == pytest.approx([1.0, 0.6])


# -- budgets, curricula, checkpoints -----------------------------------------------------------


@pytest.mark.parametrize("low", [0, 1, 2])
def test_knapsack_budgets_equal_brute_force_from_any_low(low):
    rng = Random(low)
    for _ in range(60):
        num, high = rng.randint(2, 4), low + rng.randint(1, 5)
        rates = [rng.choice([0.0, 0.3, 1.0, rng.random()]) for _ in range(num)]
        total = rng.randint(num * low, num * high)
        got = allocate_budget(rates, total=total, low=low, high=high, value=knapsack_value)
        best = max(
            sum(map(knapsack_value, budgets, rates))
            for budgets in itertools.product(range(low, high + 1), repeat=num)
            if sum(budgets) == total
        )
        assert sum(got) == total
        assert all(low <= budget <= high for budget in got)
        assert sum(map(knapsack_value, got, rates)) == pytest.approx(best, abs=1e-12)


def test_a_problem_too_large_to_be_exact_is_refused():
    with pytest.raises(ValueError, match="raise low until gains fall"):
        allocate_budget([0.3] * 20_000, total=200_000, low=0, high=32, value=knapsack_value)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got nan at 1"):
        allocate_budget([0.3, NAN], total=8, low=2, high=8, value=knapsack_value)


def test_what_watches_rewards_refuses_what_is_none():
    watch = Stagnation(patience=2)
    with pytest.raises(ValueError, match="finite, got nan"):
        watch.observe(NAN)
    assert not any(watch.observe(0.1 * step) for step in range(10))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        PassRateCurriculum(["a"], seed=0).record("a", NAN)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        CapabilityValue().observe([0.5, NAN])
    with pytest.raises(ValueError, match="finite, got nan at 1"):
        verification_items([1.0, NAN], ["a", "a"], num=2, rng=Random(0))


def test_a_folder_without_a_checkpoint_says_what_it_must_hold(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"a trainer's folder must hold trainer\.pt, none at"
    ):
        GspoTrainer(_Root(is_bad=False), TrainerConfig()).restore(tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_checkpoint_cut_short_is_one_line(tmp_path, cut):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    trainer.save(tmp_path)
    path = tmp_path / "trainer.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is cut short or no checkpoint"):
        trainer.restore(tmp_path)


def test_old_checkpoints_are_removed(tmp_path):
    trainer = GspoTrainer(_Root(is_bad=False), TrainerConfig())
    for _ in range(4):
        trainer.train(GOOD)
        path = trainer.checkpoint(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]
    trainer.restore(path)
    with pytest.raises(ValueError, match="keep must be"):
        trainer.checkpoint(tmp_path, keep=0)


# -- shares of domains -------------------------------------------------------------------------

_spec = importlib.util.spec_from_file_location("gspo_shares", Path(__file__).with_name("shares.py"))
shares = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shares)
QUICK = [(20, 0.9, 0.9), (200, 0.02, 0.9), (1, 0.02, 0.9), (20, 0.9, 0.3)]
LONG = list(itertools.product((1, 5, 20, 100), (0.02, 0.3, 0.9), (0.02, 0.3, 0.9)))


@pytest.mark.parametrize(("latency", "fast", "slow"), [
    *QUICK, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG),
])  # fmt: skip
def test_shares_hold_at_default_settings(latency, fast, slow):
    domains = {"fast": (1.0, fast), "slow": (float(latency), slow)}
    arrived, _, sampler = shares.simulate(domains, num=1600)
    assert shares.worst_error(arrived, domains) < 0.1
    assert sampler.hopeless == []


@pytest.mark.parametrize(("weights", "latency", "places"), [
    ((1, 1), 20, 512), ((1, 1), 5, 256), ((9, 1), 20, 64), ((19, 1), 20, 64), ((1, 9), 20, 256),
])  # fmt: skip
def test_shares_are_those_of_what_arrives_however_much_runs(weights, latency, places):
    """What a slow domain always has under way is not what it was given."""
    domains = {"fast": (1.0, 0.9), "slow": (float(latency), 0.9)}
    asked = dict(zip(domains, map(float, weights), strict=True))
    arrived, _, _ = shares.simulate(domains, num=6000, places=places, shares=asked)
    late = arrived[3000:]
    assert late.count("slow") / len(late) == pytest.approx(weights[1] / sum(weights), rel=0.15)


def test_shares_hold_in_the_far_corner_once_rates_are_known():
    """Two hundred times as slow, and fifty attempts for one signal: the first batches lack it."""
    domains = {"fast": (1.0, 0.9), "slow": (200.0, 0.02)}
    arrived, _, sampler = shares.simulate(domains, num=3000)
    assert shares.worst_error(arrived[5 * 192 :], domains) < 0.1
    assert sampler.hopeless == []


def test_a_hopeless_domain_is_named_held_back_and_taken_again():
    domains = {"a": (1.0, 0.9), "b": (5.0, 0.3), "dead": (2.0, 0.0)}
    arrived, starts, sampler = shares.simulate(domains, num=3000)
    assert sampler.hopeless == ["dead"]
    assert "held back" in sampler.explain("dead")
    assert starts["dead"] < 0.1 * sum(starts.values())
    assert shares.worst_error(arrived, {"a": 0, "b": 0}) < 0.1
    sampler.start()
    while sampler.start() != "dead":
        pass
    sampler.finish("dead", has_signal=True)
    assert sampler.hopeless == []


def test_a_domain_is_held_back_and_said_to_be_at_once():
    sampler = Oversampler({"a": 1.0})
    for _ in range(399):
        sampler.finish(sampler.start(), has_signal=False)
    assert (sampler.hopeless, "held back" in sampler.explain("a")) == ([], False)
    sampler.finish(sampler.start(), has_signal=False)
    assert (sampler.hopeless, "held back" in sampler.explain("a")) == (["a"], True)


@pytest.mark.parametrize("shares", [
    {}, {"a": 0}, {"a": -1}, {"a": NAN}, {"a": INF}, {"a": True}, {"a": "1"}, {"a": None}, ["a"],
])  # fmt: skip
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="need at least one key, all with a positive share"):
        Oversampler(shares)


def test_extreme_shares_and_rates_are_numbers():
    sampler = Oversampler({"a": 1e308, "b": 1e308})
    assert {sampler.start(), sampler.start()} == {"a", "b"}
    assert Oversampler({"a": 1e-300, "b": 1.0}).start() == "b"
    assert num_groups(1e-320, group_size=8) == num_groups(1e-17, group_size=8) == 4
    with pytest.raises(ValueError, match="nothing running"):
        sampler.finish("other", has_signal=True)
    for state in ({}, None, [], {"given": {"a": 1}}):
        with pytest.raises(ValueError, match="a state must be what state_dict returned"):
            sampler.load_state_dict(state)
