"""No dropout of any kind acts in RL steps, and checkpointing goes on: beside a loop in eval mode."""

import copy
import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, MopdTrainer, TrainerConfig

transformers = pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora

SMALL = {"vocab_size": 24, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
         "pad_token_id": None}  # fmt: skip
WIDE = ClipRange(low=0.5, high=0.5)
CONFIG = TrainerConfig(
    old_log_probs="trainer", max_grad_norm=1e9, learning_rate=1e-9, clip=WIDE, micro_batch_tokens=60
)


def _gpt2():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4)
    )


def _opt():
    torch.manual_seed(0)
    return transformers.OPTForCausalLM(transformers.OPTConfig(
        **{**SMALL, "pad_token_id": 1}, init_std=0.3, hidden_size=32, ffn_dim=48, layerdrop=0.3,
        num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, attention_dropout=0.2,
    ))  # fmt: skip


def _llama():
    return llama(attention_dropout=0.3, initializer_range=0.3)


def _dora():
    return with_lora(_llama(), lora_dropout=0.3, use_dora=True)


def _samples(seed=0):
    samples = sampled(llama(), groups=2, size=3, length=8, seed=seed)
    return [dataclasses.replace(s, log_probs=None) for s in samples]


def _eval_norm(model, samples):
    """Of GSPO's gradient where ratios are 1: advantages times mean log-probs, over the samples."""
    from longcat_gspo import group_advantages

    model = copy.deepcopy(model).eval()
    advantages = group_advantages([s.reward for s in samples], [s.group for s in samples])
    for sample, advantage in zip(samples, advantages, strict=True):
        ids = torch.tensor([sample.token_ids])
        log_probs = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        own = log_probs.gather(1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(sample.loss_mask[1:])
        (-advantage * own[mask].mean() / len(samples)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.stack([g.norm() for g in grads]).norm())


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("make", [_gpt2, _opt, _llama, _dora])
def test_no_dropout_acts_in_rl_steps(make, checkpoints, recwarn):
    model, samples = make(), _samples()
    norm = _eval_norm(model, samples)
    rates = _rates(model)
    if checkpoints:
        model.gradient_checkpointing_enable()
    calls = []
    attentions = [m for n, m in model.named_modules() if n.endswith(("attn", "attention"))]
    attentions[0].register_forward_hook(lambda *_: calls.append(1))
    trainer = GspoTrainer(model, CONFIG)
    for _ in range(2):
        calls.clear()
        assert trainer.train(samples)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    # Two micro-batches, each again in its backward pass.
    assert len(calls) == (4 if checkpoints else 2)
    assert _rates(model) == rates
    assert not [w for w in recwarn if "random in train mode" in str(w.message)]
    assert trainer.fit(samples)["loss"] != pytest.approx(trainer.evaluate(samples), rel=1e-4)


def _rates(model):
    return [
        (name, key, value)
        for name, module in model.named_modules()
        for owner in (module, vars(module).get("config"))
        for key, value in getattr(owner, "__dict__", {}).items()
        if isinstance(value, float) and (key == "p" or "drop" in key)
    ]


@pytest.mark.parametrize("option", ["packed", "shared_prefixes", "chunked_log_probs"])
def test_no_dropout_acts_whatever_the_rows(option):
    model, samples = _llama(), _samples()
    norm = _eval_norm(model, samples)
    model.gradient_checkpointing_enable()
    trainer = GspoTrainer(model.train(), dataclasses.replace(CONFIG, **{option: True}))
    assert trainer.train(samples)["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_no_dropout_acts_in_distillation():
    norms = []
    for changes in ({}, {"attention_dropout": 0.4}):
        student, teacher = llama(initializer_range=0.3, **changes), llama(seed=1)
        batch = [SimpleNamespace(domain="a", segments=[s], reward=s.reward, group=s.group)
                 for s in _samples()]  # fmt: skip
        trainer = MopdTrainer(student, CONFIG, teachers={"a": teacher}, low=1.0, high=1.0)
        norms.append(trainer.train(batch)["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


class _Noisy(torch.nn.Module):
    """Noise that nobody could know of by a name."""

    def __init__(self):
        super().__init__()
        self.plain = llama(initializer_range=0.3)

    def forward(self, ids, attention_mask=None):
        out = self.plain(ids, attention_mask=attention_mask, use_cache=False)
        if self.training:
            out.logits = out.logits + torch.randn_like(out.logits)
        return out


def test_a_model_that_is_random_all_the_same_is_trained_in_eval_mode():
    samples, model = _samples(), _Noisy()
    norm = _eval_norm(model.plain, samples)
    trainer = GspoTrainer(model, CONFIG)
    with pytest.warns(UserWarning, match="_Noisy is random in train mode"):
        assert trainer.train(samples)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert trainer.train(samples)["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_it_is_noticed_too_where_the_output_matrix_is_passed_by():
    """A step with `chunked_log_probs` calls what lies below it alone."""
    samples, model = _samples(), llama(initializer_range=0.3)
    norm = _eval_norm(model, samples)

    def noise(module, _, states):
        return states + torch.randn_like(states) if module.training else states

    model.model.norm.register_forward_hook(noise)
    trainer = GspoTrainer(model, dataclasses.replace(CONFIG, chunked_log_probs=True))
    with pytest.warns(UserWarning, match="is random in train mode"):
        assert trainer.train(samples)["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_rates_are_back_after_a_step_that_failed():
    model = _gpt2()
    model.gradient_checkpointing_enable()
    before = _rates(model)
    trainer = GspoTrainer(model, CONFIG)
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train(_samples())
    assert _rates(model) == before
