"""A step of the trainer against its objective, written as a loop over the whole batch."""

import dataclasses
import importlib.util
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from longcat_gspo import (
    ClipRange,
    Correction,
    GspoTrainer,
    Sample,
    TrainerConfig,
    TripletClip,
    as_samples,
    attempt_advantages,
    dapo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    linear_log_probs_and_entropy,
    mismatch_weights,
    sequence_mean,
    triplet_clip_loss,
)

_spec = importlib.util.spec_from_file_location("gspo_bigram", Path(__file__).with_name("bigram.py"))
bigram = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bigram)


@pytest.mark.parametrize("objective", ["gspo", "gspo_token", "grpo", "dapo", "triplet"])
@pytest.mark.parametrize("limit", [8, 4096])
@pytest.mark.parametrize("correction", [None, "sequence", "token"])
def test_every_objective_is_its_function_on_the_whole_batch(objective, limit, correction):
    if (objective, correction) == ("gspo", "token"):
        with pytest.raises(ValueError, match="its correction needs level='sequence'"):
            TrainerConfig(objective=objective, correction=Correction())
        return
    clip, samples = ClipRange(low=0.2, high=0.2), bigram.samples_of()
    held = Correction(level=correction, cap=1.02) if correction else None
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig(
        objective=objective, clip=clip, max_tokens=7, micro_batch_tokens=limit, max_grad_norm=1e9,
        correction=held,
    ))  # fmt: skip
    now, old, sequence = bigram.packed_of(trainer.model, samples)
    advantage = torch.tensor(
        group_advantages([s.reward for s in samples], [s.group for s in samples])
    )
    options = {}
    if held:  # against the weights as they are, and weighed by how the engine differs
        options["weight_T"] = mismatch_weights(
            now, old, sequence, num_sequences=9, level=correction, cap=1.02
        )
        assert (options["weight_T"] == 1.02).any()
        assert (options["weight_T"] < 1.02).any()
        old = now.detach()
    if objective == "gspo_token":
        loss, _ = gspo_token_loss(
            now, old, advantage[sequence], sequence, num_sequences=9, clip=clip, **options
        )
    elif objective == "triplet":
        loss, _ = triplet_clip_loss(
            now, old, advantage, sequence, clip=TripletClip(), max_tokens=7, **options
        )
    else:
        function = {"gspo": gspo_loss, "grpo": grpo_loss, "dapo": dapo_loss}[objective]
        loss, _ = function(now, old, advantage, sequence, clip=clip, **options)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
    trainer.model.zero_grad()
    metrics = trainer.train(samples)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert ("correction" in metrics) == bool(held)


@pytest.mark.parametrize("objective", ["gspo", "grpo"])
def test_an_engine_that_does_not_agree_is_corrected_for(objective):
    """One token a sequence, all twelve words: weighed, the engine's samples are the policy's."""
    rewards = torch.linspace(-1, 1, 12)
    model = bigram.Bigram()
    policy = model(torch.tensor([[5]])).logits[0, 0].log_softmax(-1)
    engine = (policy + torch.linspace(0.5, -0.5, 12)).detach().log_softmax(-1)  # has other ideas
    baseline = (policy.exp() * rewards).sum().detach()
    (policy.exp() * (rewards - baseline)).sum().backward()  # the policy gradient, by enumeration
    exact = [p.grad.clone() for p in model.parameters()]

    now = model(torch.tensor([[5]] * 12)).logits[:, 0].log_softmax(-1).diagonal()
    place = torch.arange(12)
    weight = mismatch_weights(now, engine, place, num_sequences=12, level="sequence", cap=100)
    # Each word as often as the engine says it: its share of the mean is put into its advantage.
    advantage = (rewards - baseline) * engine.exp() * 12
    function = gspo_loss if objective == "gspo" else grpo_loss
    loss, _ = function(now, now.detach(), advantage, place, clip=ClipRange(), weight_T=weight)
    model.zero_grad()
    (-loss).backward()
    for parameter, expected in zip(model.parameters(), exact, strict=True):
        assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_objectives_that_are_not_are_named():
    with pytest.raises(ValueError, match="objective must be one of"):
        TrainerConfig(objective="ppo")
    with pytest.raises(ValueError, match="needs max_tokens"):
        TrainerConfig(objective="triplet")
    with pytest.raises(ValueError, match="needs a reference model"):
        GspoTrainer(bigram.Bigram(), TrainerConfig(kl_coefficient=0.1))


def test_a_sample_that_is_masked_counts_in_its_group_alone():
    wide = ClipRange(low=0.5, high=0.5)
    masked = Sample(
        token_ids=[3, 4], loss_mask=[False] * 2, log_probs=[0, 0], reward=1.0, group="0"
    )
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig(clip=wide, max_grad_norm=1e9))
    samples = bigram.samples_of(3)  # one group: rewards 0, 1, 0
    packed = bigram.packed_of(trainer.model, samples)
    advantage = torch.tensor(group_advantages([0.0, 1.0, 0.0, 1.0], ["0"] * 4)[:3])
    loss, _ = gspo_loss(packed[0], packed[1], advantage, packed[2], clip=wide)
    metrics = trainer.train([*samples, masked])
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["masked_share"] == 0.25
    before = bigram.state_of(trainer).clone()
    assert trainer.train([masked, masked])["signal_share"] == 0
    assert torch.equal(bigram.state_of(trainer), before)


def test_the_reference_holds_back_and_is_measured():
    class Frozen(bigram.Bigram):
        def __init__(self):
            super().__init__()
            torch.nn.init.normal_(self.head.weight)

    reference, samples = Frozen(), bigram.samples_of()
    trainer = GspoTrainer(
        bigram.Bigram(), TrainerConfig(kl_coefficient=0.3, learning_rate=1e-2, max_grad_norm=1e9,
        micro_batch_tokens=8),
        reference=reference,
    )  # fmt: skip
    packed = bigram.packed_of(trainer.model, samples)
    refers, _, place = bigram.packed_of(reference, samples)
    gap = refers.detach() - packed[0]
    advantage = torch.tensor(
        group_advantages([s.reward for s in samples], [s.group for s in samples])
    )
    loss, _ = gspo_loss(packed[0], packed[1], advantage, packed[2], clip=ClipRange())
    loss = loss + 0.3 * sequence_mean(gap.exp() - 1 - gap, place, 9).mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
    trainer.model.zero_grad()
    metrics = trainer.train(samples)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["reference_kl"] == pytest.approx((gap.exp() - 1 - gap).mean().item(), rel=1e-4)
    for _ in range(200):
        last = trainer.train(samples)
    assert last["reference_kl"] < metrics["reference_kl"] / 2


def test_entropy_and_divergence_are_their_definitions():
    trainer, samples = (
        GspoTrainer(bigram.Bigram(), TrainerConfig(baseline="none")),
        bigram.samples_of(),
    )
    samples = [s for s in samples if s.reward]
    with torch.no_grad():
        now, old, _ = bigram.packed_of(trainer.model, samples)
        all_ = torch.cat([
            trainer.model(torch.tensor([s.token_ids])).logits[0, :-1][torch.tensor(s.loss_mask[1:])]
            for s in samples
        ])  # fmt: skip
        entropy = torch.distributions.Categorical(logits=all_).entropy().mean().item()
    metrics = trainer.train(samples)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-5)
    gap = now - old
    assert metrics["behaviour_kl"] == pytest.approx((gap.exp() - 1 - gap).mean().item(), rel=1e-4)


def test_chunked_entropy_is_the_plain_one():
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(7, 5), torch.randn(11, 5), torch.randint(11, (7,))
    log_probs, entropy = linear_log_probs_and_entropy(hidden, weight, target, chunk_tokens=3)
    plain = torch.distributions.Categorical(logits=hidden @ weight.T)
    torch.testing.assert_close(entropy, plain.entropy())
    torch.testing.assert_close(log_probs, plain.log_prob(target))
    assert not entropy.requires_grad


def test_attempts_of_several_segments_are_a_sample_for_each_and_count_once():
    Segment = namedtuple("Segment", "token_ids loss_mask log_probs")
    Trajectory = namedtuple("Trajectory", "group reward segments version")
    samples = [dataclasses.replace(s, version=0) for s in bigram.samples_of()]
    batch = [
        Trajectory(s.group, s.reward, [Segment(s.token_ids, s.loss_mask, s.log_probs)], 0)
        for s in samples[:-2]
    ]
    two = [Segment(s.token_ids, s.loss_mask, s.log_probs) for s in samples[-2:]]
    batch.append(Trajectory(samples[-1].group, 1.0, two, 0))
    samples[-2:] = [
        dataclasses.replace(s, group=samples[-1].group, reward=1.0, attempt="#7")
        for s in samples[-2:]
    ]
    assert as_samples(batch) == samples
    assert attempt_advantages(batch)[-3:] == [-1.0, 1.0, 1.0]
    wide = ClipRange(low=0.5, high=0.5)
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig(clip=wide, max_grad_norm=1e9))
    now, old, sequence = bigram.packed_of(trainer.model, samples)
    weight = torch.tensor([1.0] * 7 + [0.5, 0.5])  # of eight attempts, by a loop over sequences
    loss = 0.0
    for n, advantage in enumerate(attempt_advantages(batch)):
        ratio = (now - old)[sequence == n].mean().exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.5, 1.5) * advantage)
        loss = loss - weight[n] * surrogate / 8
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
    trainer.model.zero_grad()
    metrics = trainer.train(batch)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["reward"] == pytest.approx(4 / 8)


def test_groups_weigh_alike_where_that_is_wanted():
    """The mean over groups of each group's mean, by a loop."""
    wide, samples = ClipRange(low=0.5, high=0.5), bigram.samples_of(9)
    samples += [
        dataclasses.replace(s, group="2") for s in bigram.samples_of(5, seed=4)
    ]  # 3, 3 and 8
    trainer = GspoTrainer(
        bigram.Bigram(), TrainerConfig(clip=wide, weigh="groups", max_grad_norm=1e9)
    )
    loss = 0.0
    for name in ("0", "1", "2"):
        group = [s for s in samples if s.group == name]
        packed = bigram.packed_of(trainer.model, group)
        advantage = torch.tensor(group_advantages([s.reward for s in group], [name] * len(group)))
        loss = loss + gspo_loss(packed[0], packed[1], advantage, packed[2], clip=wide)[0] / 3
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
    trainer.model.zero_grad()
    metrics = trainer.train(samples)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    with pytest.raises(ValueError, match="weigh must be"):
        TrainerConfig(weigh="tasks")
