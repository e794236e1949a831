"""The trainer: exact accumulation, exact resume, threads equal one thread, learning."""

import dataclasses
from collections import namedtuple

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
from torch import nn


class _Out:
    def __init__(self, logits):
        self.logits = logits


class _Tiny(nn.Module):
    """Looks at the present token only; enough to learn a bigram."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(12, 16), nn.Linear(16, 12)

    def forward(self, input_ids, attention_mask=None):
        return _Out(self.head(torch.tanh(self.embed(input_ids))))


def _samples(n=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(n):
        length = 3 + i % 5
        ids = torch.randint(1, 12, (length,), generator=g).tolist()
        mask = [j > 0 and (i + j) % 3 > 0 for j in range(length)]
        mask[1] = True
        out.append(Sample(token_ids=ids, loss_mask=mask, log_probs=[-2.4] * length,
                          reward=float(i % 2), group=str(i // 3)))  # fmt: skip
    return out


def _trained(steps=3, **config):
    trainer = GspoTrainer(_Tiny(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5), **config))
    for step in range(steps):
        trainer.train(_samples(seed=step))
    return trainer


def _state(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("limit", [1, 8, 14])
def test_splitting_a_batch_changes_nothing(limit):
    torch.testing.assert_close(
        _state(_trained(micro_batch_tokens=limit)), _state(_trained()), atol=1e-6, rtol=1e-5
    )


def test_resume_is_exact(tmp_path):
    whole = _trained(steps=4)
    part = _trained(steps=2)
    part.save(tmp_path)
    resumed = GspoTrainer(_Tiny(), part.config)
    resumed.restore(tmp_path)
    for step in (2, 3):
        resumed.train(_samples(seed=step))
    assert torch.equal(_state(resumed), _state(whole))
    assert resumed.num_steps == 4


def test_a_checkpoint_of_an_earlier_form_is_one_clear_error(tmp_path):
    trainer = _trained(steps=1)
    old = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    torch.save({**old, "num_steps": 1}, tmp_path / "trainer.pt")
    with pytest.raises(ValueError, match="of an earlier form"):
        trainer.restore(tmp_path)


class _Masked(_Tiny):
    def forward(self, input_ids, attention_mask=None, logits_mask=None):
        logits = super().forward(input_ids).logits
        return _Out(logits if logits_mask is None else logits[logits_mask])


def test_a_model_that_computes_only_what_is_wanted_learns_the_same():
    trainer = GspoTrainer(_Masked(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5)))
    for step in range(3):
        trainer.train(_samples(seed=step))
    torch.testing.assert_close(_state(trainer), _state(_trained()))


def test_failures_without_a_baseline_weigh_in_the_mean_and_push_nothing():
    wide = ClipRange(low=0.5, high=0.5)
    trainer = GspoTrainer(_Tiny(), TrainerConfig(clip=wide, baseline="none", max_grad_norm=1e9))
    samples = _samples()
    loss = torch.zeros(())
    for s in samples:  # mean over sequences of reward times the mean log-ratio's exponential
        log_probs = trainer.model(torch.tensor([s.token_ids])).logits[0].log_softmax(-1)
        gaps = [log_probs[j - 1, s.token_ids[j]] - s.log_probs[j]
                for j in range(1, len(s.token_ids)) if s.loss_mask[j]]  # fmt: skip
        loss = loss - (torch.stack(gaps).mean().exp().clamp(max=1.5) * s.reward) / len(samples)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
    trainer.model.zero_grad()
    metrics = trainer.train(samples)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["signal_share"] == pytest.approx(4 / 9)


def _llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def test_chunked_log_probs_train_a_hugging_face_model_the_same():
    states = []
    for chunked in (False, True):
        trainer = GspoTrainer(
            _llama(),
            TrainerConfig(clip=ClipRange(low=0.5, high=0.5), chunked_log_probs=chunked),
        )
        for step in range(3):
            trainer.train(_samples(seed=step))
        trainer.fit(_samples())
        states.append(_state(trainer))
    torch.testing.assert_close(*states, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunked", [False, True])
def test_bf16_autocast_keeps_weights_and_log_probs_in_float32(chunked):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    norms = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            trainer = GspoTrainer(
                _llama(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5), chunked_log_probs=chunked),
                accelerator=Accelerator(cpu=True, mixed_precision=precision),
            )  # fmt: skip
            kinds = set()
            trainer.model.model.layers[0].mlp.register_forward_hook(
                lambda *seen, kinds=kinds: kinds.add(seen[-1].dtype)
            )
            norms.append(trainer.train(_samples())["grad_norm"])
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert norms[0] != norms[1]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_chunked_log_probs_are_refused_where_logits_are_more_than_a_product():
    config = TrainerConfig(chunked_log_probs=True)
    with pytest.raises(ValueError, match="a Linear without bias, got NoneType"):
        GspoTrainer(_Tiny(), config)
    capped = _llama()
    plain = capped.forward
    capped.forward = lambda *a, **k: _Out(3 * torch.tanh(plain(*a, **k).logits + 1))
    with pytest.raises(ValueError, match="this model changes them further"):
        GspoTrainer(capped, config)


def test_epochs_are_steps_on_the_same_batch():
    twice = _trained(steps=1, epochs=2)
    once = GspoTrainer(_Tiny(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5)))
    for _ in range(2):
        once.train(_samples())
    assert torch.equal(_state(twice), _state(once))
    assert twice.num_steps == 2


def test_a_batch_without_signal_takes_no_step():
    trainer = GspoTrainer(_Tiny(), TrainerConfig())
    before = _state(trainer).clone()
    same = [Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, -1.0])] * 2
    assert trainer.train(same)["signal_share"] == 0
    assert trainer.num_steps == 0
    assert torch.equal(_state(trainer), before)


def test_the_learning_rate_warms_up_and_falls():
    linear = TrainerConfig(learning_rate=1.0, warmup_steps=1, decay="linear", total_steps=4)
    assert [linear.learning_rate_at(n) for n in range(5)] == [0.5, 0.75, 0.5, 0.25, 0.25]
    cosine = TrainerConfig(learning_rate=1.0, decay="cosine", total_steps=4)
    assert [round(cosine.learning_rate_at(n), 3) for n in (0, 2, 3)] == [1.0, 0.5, 0.146]
    with pytest.raises(ValueError, match="needs total_steps"):
        TrainerConfig(decay="linear")


def test_masked_tokens_get_no_gradient():
    trainer = GspoTrainer(_Tiny(), TrainerConfig())
    before = trainer.model.embed.weight.detach().clone()
    trainer.fit([Sample(token_ids=[1, 2, 3, 4], loss_mask=[False, True, False, False])])
    moved = (trainer.model.embed.weight.detach() != before).any(-1)
    assert moved.nonzero().flatten().tolist() == [1]


def test_fit_equals_cross_entropy():
    trainer = GspoTrainer(_Tiny(), TrainerConfig(micro_batch_tokens=6))
    samples = _samples()
    with torch.no_grad():
        total = count = 0
        for s in samples:
            ids = torch.tensor([s.token_ids])
            lp = trainer.model(ids).logits.log_softmax(-1)[0]
            for j in range(1, len(s.token_ids)):
                if s.loss_mask[j]:
                    total, count = total - lp[j - 1, s.token_ids[j]].item(), count + 1
    assert trainer.fit(samples)["loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_bandit_is_learned():
    trainer = GspoTrainer(
        _Tiny(), TrainerConfig(learning_rate=0.05, clip=ClipRange(low=0.2, high=0.2))
    )
    g = torch.Generator().manual_seed(0)
    for _ in range(40):
        with torch.no_grad():
            lp = trainer.model(torch.tensor([[1]])).logits[0, 0].log_softmax(-1)
        drawn = torch.multinomial(lp.exp(), 32, replacement=True, generator=g).tolist()
        trainer.train([
            Sample(token_ids=[1, t], loss_mask=[False, True], log_probs=[0.0, lp[t].item()],
                   reward=float(t == 7)) for t in drawn
        ])  # fmt: skip
    assert lp[7].exp() > 0.9


def test_bad_batches_are_named_and_change_nothing():
    trainer = GspoTrainer(_Tiny(), TrainerConfig())
    before = _state(trainer).clone()
    with pytest.raises(ValueError, match="at least one sample"):
        trainer.train([])
    with pytest.raises(ValueError, match="must have one length"):
        trainer.train([Sample(token_ids=[1, 2], loss_mask=[False, True])])
    bad = Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, float("nan")], reward=1)
    good = Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, -1.0])
    with pytest.raises(FloatingPointError, match="no step was taken"):
        trainer.train([bad, good])
    assert torch.equal(_state(trainer), before)


def _packed(model, samples):
    """Log-probs now and then, the sequence of each token, by a loop over tokens."""
    now, old, place = [], [], []
    for n, s in enumerate(samples):
        log_probs = model(torch.tensor([s.token_ids])).logits[0].log_softmax(-1)
        for j in range(1, len(s.token_ids)):
            if s.loss_mask[j]:
                now.append(log_probs[j - 1, s.token_ids[j]])
                old.append(s.log_probs[j])
                place.append(n)
    return torch.stack(now), torch.tensor(old), torch.tensor(place)


@pytest.mark.parametrize("objective", ["gspo", "gspo_token", "grpo", "dapo", "triplet"])
@pytest.mark.parametrize("limit", [8, 4096])
@pytest.mark.parametrize("correction", [None, "sequence", "token"])
def test_every_objective_is_its_function_on_the_whole_batch(objective, limit, correction):
    if (objective, correction) == ("gspo", "token"):
        with pytest.raises(ValueError, match="its correction needs level='sequence'"):
            TrainerConfig(objective=objective, correction=Correction())
        return
    clip, samples = ClipRange(low=0.2, high=0.2), _samples()
    held = Correction(level=correction, cap=1.02) if correction else None
    trainer = GspoTrainer(_Tiny(), TrainerConfig(
        objective=objective, clip=clip, max_tokens=7, micro_batch_tokens=limit, max_grad_norm=1e9,
        correction=held,
    ))  # fmt: skip
    now, old, sequence = _packed(trainer.model, samples)
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
    """One token a sequence, all twelve words: the engine's samples, weighed, are worth those of the policy."""
    rewards = torch.linspace(-1, 1, 12)
    model = _Tiny()
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
        GspoTrainer(_Tiny(), TrainerConfig(kl_coefficient=0.1))


def test_a_sample_that_is_masked_counts_in_its_group_alone():
    wide = ClipRange(low=0.5, high=0.5)
    masked = Sample(
        token_ids=[3, 4], loss_mask=[False] * 2, log_probs=[0, 0], reward=1.0, group="0"
    )
    trainer = GspoTrainer(_Tiny(), TrainerConfig(clip=wide, max_grad_norm=1e9))
    samples = _samples(3)  # one group: rewards 0, 1, 0
    packed = _packed(trainer.model, samples)
    advantage = torch.tensor(group_advantages([0.0, 1.0, 0.0, 1.0], ["0"] * 4)[:3])
    loss, _ = gspo_loss(packed[0], packed[1], advantage, packed[2], clip=wide)
    metrics = trainer.train([*samples, masked])
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["masked_share"] == 0.25
    before = _state(trainer).clone()
    assert trainer.train([masked, masked])["signal_share"] == 0
    assert torch.equal(_state(trainer), before)


def test_the_reference_holds_back_and_is_measured():
    class Frozen(_Tiny):
        def __init__(self):
            super().__init__()
            torch.nn.init.normal_(self.head.weight)

    reference, samples = Frozen(), _samples()
    trainer = GspoTrainer(
        _Tiny(), TrainerConfig(kl_coefficient=0.3, learning_rate=1e-2, max_grad_norm=1e9, micro_batch_tokens=8),
        reference=reference,
    )  # fmt: skip
    packed = _packed(trainer.model, samples)
    refers, _, place = _packed(reference, samples)
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
    trainer, samples = GspoTrainer(_Tiny(), TrainerConfig(baseline="none")), _samples()
    samples = [s for s in samples if s.reward]
    with torch.no_grad():
        now, old, _ = _packed(trainer.model, samples)
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
    samples = [dataclasses.replace(s, version=0) for s in _samples()]
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
    trainer = GspoTrainer(_Tiny(), TrainerConfig(clip=wide, max_grad_norm=1e9))
    now, old, sequence = _packed(trainer.model, samples)
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
    wide, samples = ClipRange(low=0.5, high=0.5), _samples(9)
    samples += [dataclasses.replace(s, group="2") for s in _samples(5, seed=4)]  # 3, 3 and 8
    trainer = GspoTrainer(_Tiny(), TrainerConfig(clip=wide, weigh="groups", max_grad_norm=1e9))
    loss = 0.0
    for name in ("0", "1", "2"):
        group = [s for s in samples if s.group == name]
        packed = _packed(trainer.model, group)
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
