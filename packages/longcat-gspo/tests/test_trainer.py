"""The trainer: exact accumulation, exact resume, threads equal one thread, learning."""

import importlib.util
from pathlib import Path

import pytest
import torch
from longcat_gspo import (
    ClipRange,
    GspoTrainer,
    Sample,
    TrainerConfig,
)

_spec = importlib.util.spec_from_file_location("gspo_bigram", Path(__file__).with_name("bigram.py"))
bigram = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bigram)


@pytest.mark.parametrize("limit", [1, 8, 14])
def test_splitting_a_batch_changes_nothing(limit):
    torch.testing.assert_close(
        bigram.state_of(bigram.trained(micro_batch_tokens=limit)),
        bigram.state_of(bigram.trained()),
        atol=1e-6,
        rtol=1e-5,
    )


def test_resume_is_exact(tmp_path):
    whole = bigram.trained(steps=4)
    part = bigram.trained(steps=2)
    part.save(tmp_path)
    resumed = GspoTrainer(bigram.Bigram(), part.config)
    resumed.restore(tmp_path)
    for step in (2, 3):
        resumed.train(bigram.samples_of(seed=step))
    assert torch.equal(bigram.state_of(resumed), bigram.state_of(whole))
    assert resumed.num_steps == 4


def test_a_checkpoint_of_an_earlier_form_is_one_clear_error(tmp_path):
    trainer = bigram.trained(steps=1)
    old = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    torch.save({**old, "num_steps": 1}, tmp_path / "trainer.pt")
    with pytest.raises(ValueError, match="of an earlier form"):
        trainer.restore(tmp_path)


class _Masked(bigram.Bigram):
    def forward(self, input_ids, attention_mask=None, logits_mask=None):
        logits = super().forward(input_ids).logits
        return bigram.Out(logits if logits_mask is None else logits[logits_mask])


def test_a_model_that_computes_only_what_is_wanted_learns_the_same():
    trainer = GspoTrainer(_Masked(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5)))
    for step in range(3):
        trainer.train(bigram.samples_of(seed=step))
    torch.testing.assert_close(bigram.state_of(trainer), bigram.state_of(bigram.trained()))


def test_failures_without_a_baseline_weigh_in_the_mean_and_push_nothing():
    wide = ClipRange(low=0.5, high=0.5)
    trainer = GspoTrainer(
        bigram.Bigram(), TrainerConfig(clip=wide, baseline="none", max_grad_norm=1e9)
    )
    samples = bigram.samples_of()
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
            trainer.train(bigram.samples_of(seed=step))
        trainer.fit(bigram.samples_of())
        states.append(bigram.state_of(trainer))
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
                _llama(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5),
                chunked_log_probs=chunked),
                accelerator=Accelerator(cpu=True, mixed_precision=precision),
            )  # fmt: skip
            kinds = set()
            trainer.model.model.layers[0].mlp.register_forward_hook(
                lambda *seen, kinds=kinds: kinds.add(seen[-1].dtype)
            )
            norms.append(trainer.train(bigram.samples_of())["grad_norm"])
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert norms[0] != norms[1]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_chunked_log_probs_are_refused_where_logits_are_more_than_a_product():
    config = TrainerConfig(chunked_log_probs=True)
    with pytest.raises(ValueError, match="a Linear without bias, got NoneType"):
        GspoTrainer(bigram.Bigram(), config)
    capped = _llama()
    plain = capped.forward
    capped.forward = lambda *a, **k: bigram.Out(3 * torch.tanh(plain(*a, **k).logits + 1))
    with pytest.raises(ValueError, match="this model changes them further"):
        GspoTrainer(capped, config)


def test_epochs_are_steps_on_the_same_batch():
    twice = bigram.trained(steps=1, epochs=2)
    once = GspoTrainer(bigram.Bigram(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5)))
    for _ in range(2):
        once.train(bigram.samples_of())
    assert torch.equal(bigram.state_of(twice), bigram.state_of(once))
    assert twice.num_steps == 2


def test_a_batch_without_signal_takes_no_step():
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig())
    before = bigram.state_of(trainer).clone()
    same = [Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, -1.0])] * 2
    assert trainer.train(same)["signal_share"] == 0
    assert trainer.num_steps == 0
    assert torch.equal(bigram.state_of(trainer), before)


def test_the_learning_rate_warms_up_and_falls():
    linear = TrainerConfig(learning_rate=1.0, warmup_steps=1, decay="linear", total_steps=4)
    assert [linear.learning_rate_at(n) for n in range(5)] == [0.5, 0.75, 0.5, 0.25, 0.25]
    cosine = TrainerConfig(learning_rate=1.0, decay="cosine", total_steps=4)
    assert [round(cosine.learning_rate_at(n), 3) for n in (0, 2, 3)] == [1.0, 0.5, 0.146]
    with pytest.raises(ValueError, match="needs total_steps"):
        TrainerConfig(decay="linear")


def test_masked_tokens_get_no_gradient():
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig())
    before = trainer.model.embed.weight.detach().clone()
    trainer.fit([Sample(token_ids=[1, 2, 3, 4], loss_mask=[False, True, False, False])])
    moved = (trainer.model.embed.weight.detach() != before).any(-1)
    assert moved.nonzero().flatten().tolist() == [1]


def test_fit_computes_no_entropy_which_it_would_not_show(monkeypatch):
    """A pass over all logits; what an RL step says of them is computed there alone."""
    asked = []

    def entropy(log_probs_TV):
        asked.append(len(log_probs_TV))
        return log_probs_TV.sum(-1) * 0

    monkeypatch.setattr("longcat_gspo._predict._entropy", entropy)
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig())
    trainer.fit(bigram.samples_of())
    trainer.evaluate(bigram.samples_of())
    assert asked == []
    assert trainer.train(bigram.samples_of())["entropy"] == 0
    assert asked != []


def test_fit_equals_cross_entropy():
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig(micro_batch_tokens=6))
    samples = bigram.samples_of()
    with torch.no_grad():
        total = count = 0
        for s in samples:
            ids = torch.tensor([s.token_ids])
            lp = trainer.model(ids).logits.log_softmax(-1)[0]
            for j in range(1, len(s.token_ids)):
                if s.loss_mask[j]:
                    total, count = total - lp[j - 1, s.token_ids[j]].item(), count + 1
    assert trainer.evaluate(samples) == pytest.approx(total / count, rel=1e-5)
    assert trainer.fit(samples)["loss"] == pytest.approx(total / count, rel=1e-5)
    with pytest.raises(ValueError, match="at least one token to predict, got none"):
        trainer.evaluate([Sample(token_ids=[1, 2], loss_mask=[True, False])])


def test_a_bandit_is_learned():
    trainer = GspoTrainer(
        bigram.Bigram(), TrainerConfig(learning_rate=0.05, clip=ClipRange(low=0.2, high=0.2))
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
    trainer = GspoTrainer(bigram.Bigram(), TrainerConfig())
    before = bigram.state_of(trainer).clone()
    with pytest.raises(ValueError, match="at least one sample"):
        trainer.train([])
    with pytest.raises(ValueError, match="must have one length"):
        trainer.train([Sample(token_ids=[1, 2], loss_mask=[False, True])])
    bad = Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, float("nan")], reward=1)
    good = Sample(token_ids=[1, 2], loss_mask=[False, True], log_probs=[0, -1.0])
    with pytest.raises(FloatingPointError, match="no step was taken"):
        trainer.train([bad, good])
    assert torch.equal(bigram.state_of(trainer), before)
