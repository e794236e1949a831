"""Optimisers by name: what they hold, how they step, what is refused."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
from longcat_gspo._optimizer import clip_finite, parameter_groups

pytest.importorskip("transformers")
pytest.importorskip("peft")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora
OPTIONS = {"clip": ClipRange(low=0.5, high=0.5), "old_log_probs": "trainer", "learning_rate": 1e-3}
SIZES = {"hidden_size": 64, "intermediate_size": 128}  # 8 bits are for 4,096 numbers and more


def _resumes(make, config, folder):
    """Whether three steps are two, a checkpoint, and one."""
    batches = [sampled(make(), groups=2, size=4, seed=n) for n in range(3)]
    one, other = GspoTrainer(make(), config), GspoTrainer(make(), config)
    for batch in batches[:2]:
        one.train(batch)
    one.save(folder)
    other.restore(folder)
    ends = [trainer.train(batches[2])["loss"] for trainer in (one, other)]
    return ends[0] == ends[1] and one.weights() == other.weights()


@pytest.mark.parametrize("adapts", [False, True])
def test_muon_steps_hidden_matrices_and_adamw_the_rest(adapts):
    def make():
        return with_lora(llama()) if adapts else llama(attention_bias=True)

    steps = {}
    for optimizer in ("adamw", "muon"):
        model = make()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        GspoTrainer(model, TrainerConfig(optimizer=optimizer, **OPTIONS)).train(sampled(make()))
        steps[optimizer] = {n: p.detach() - before[n] for n, p in model.named_parameters()
                            if p.requires_grad}  # fmt: skip
    for name, step in steps["muon"].items():
        is_hidden = step.ndim == 2 and "embed" not in name
        assert is_hidden or torch.equal(step, steps["adamw"][name])
        if is_hidden:  # all singular values alike, of the size of AdamW's step at this rate
            values = torch.linalg.svdvals(step)[: min(step.shape)]
            assert values.max() < 2.5 * values.median()
            assert 0.5 < step.square().mean().sqrt() / (0.2 * OPTIONS["learning_rate"]) < 1.5
    assert adapts or {n for n, s in steps["muon"].items() if s.ndim < 2}


@pytest.mark.parametrize("adapts", [False, True])
def test_muon_resumes_exactly(tmp_path, adapts):
    def make():
        return with_lora(llama()) if adapts else llama(dtype=torch.bfloat16)

    config = TrainerConfig(
        optimizer="muon", weight_decay=0.1, warmup_steps=2, decay="linear", total_steps=9, **OPTIONS
    )
    assert _resumes(make, config, tmp_path)


def test_the_rate_and_the_decay_reach_both_halves():
    config = TrainerConfig(optimizer="muon", weight_decay=0.1, warmup_steps=1, **OPTIONS)
    trainer = GspoTrainer(llama(), config)
    trainer.train(sampled(llama()))
    halves = [half.param_groups for _, half in trainer.optimizer.optimizer._halves]
    assert [group["lr"] for groups in halves for group in groups] == [5e-4] * 3
    assert [group["weight_decay"] for groups in halves for group in groups] == [0.1, 0.1, 0]


def test_a_rate_that_is_held_in_a_tensor_moves_there():
    """As torchao's optimisers and those within a CUDA graph hold it."""
    rates = []

    def make(groups):
        rates.extend(torch.tensor(0.5) for _ in groups)
        given = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        return torch.optim.AdamW(given, foreach=False)

    config = TrainerConfig(warmup_steps=3, **OPTIONS)
    trainer = GspoTrainer(llama(), config, optimizer=make)
    assert trainer.train(sampled(llama()))["learning_rate"] == 2.5e-4
    assert [rate.item() for rate in rates] == pytest.approx([2.5e-4] * 2)


def test_an_optimizer_whose_library_is_absent_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    config = TrainerConfig(optimizer="adamw_8bit")
    with pytest.raises(ValueError, match=r"needs: pip install 'longcat-gspo\[8bit\]'"):
        GspoTrainer(llama(), config)


def test_8_bits_are_asked_of_bitsandbytes(monkeypatch):
    """With a library of the same name; the real one is tried below where it is installed."""
    made = []

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, groups, **options):
            made.append(options)
            super().__init__(groups, **options)

    fake = ModuleType("bitsandbytes.optim")
    fake.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", fake)
    config = TrainerConfig(optimizer="adamw_8bit", **OPTIONS)
    assert GspoTrainer(llama(), config).train(sampled(llama()))["grad_norm"] > 0
    assert made == [{"betas": (0.9, 0.98), "eps": 1e-16}]


def test_8_bits_train_as_32_do_and_resume_exactly(tmp_path):
    pytest.importorskip("bitsandbytes")
    ends = []
    for optimizer in ("adamw", "adamw_8bit"):
        config = TrainerConfig(optimizer=optimizer, **OPTIONS)
        trainer = GspoTrainer(llama(**SIZES), config)
        for seed in range(3):
            trainer.train(sampled(llama(**SIZES), groups=2, size=4, seed=seed))
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    begin = torch.cat([p.detach().flatten() for p in llama(**SIZES).parameters()])
    moved = [end - begin for end in ends]
    assert 0 < (moved[0] - moved[1]).norm() < 0.3 * moved[0].norm()
    kinds = {t.dtype for s in trainer.optimizer.state.values() for t in s.values()
             if isinstance(t, torch.Tensor)}  # fmt: skip
    assert torch.uint8 in kinds
    assert _resumes(lambda: llama(**SIZES), config, tmp_path)


@pytest.mark.parametrize(("options", "said"), [
    ({"optimizer": "sgd"}, "optimizer must be one of"),
    ({"optimizer": None}, "optimizer must be one of"),
    ({"optimizer": ["muon"]}, "optimizer must be one of"),
])  # fmt: skip
def test_an_optimizer_that_is_none_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        TrainerConfig(**options)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_output_matrix_is_no_hidden_one(is_tied):
    model = llama(tie_word_embeddings=is_tied)
    (hidden,) = [g for g in parameter_groups(model, TrainerConfig(optimizer="muon"))
                 if g.get("is_hidden")]  # fmt: skip
    of = {id(p) for p in hidden["params"]}
    assert id(model.lm_head.weight) not in of
    assert id(model.model.embed_tokens.weight) not in of
    assert len(of) == 7 * len(model.model.layers)


def test_a_model_without_an_output_matrix_has_hidden_ones_all_the_same():
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    model.get_output_embeddings = lambda: None
    groups = parameter_groups(model, TrainerConfig(optimizer="muon"))
    shapes = [[tuple(p.shape) for p in group["params"]] for group in groups]
    assert shapes == [[(8, 4)], [(8, 4)], [(8,)]]
    assert groups[0]["params"][0] is model[1].weight


def test_the_first_three_gradients_that_are_not_finite_are_named_and_the_others_counted():
    named = [(f"p{n}", torch.nn.Parameter(torch.ones(2))) for n in range(6)]
    for n, (_, parameter) in enumerate(named):
        parameter.grad = torch.full((2,), float("nan" if n else 1.0))
    with pytest.raises(FloatingPointError, match="those of p1, p2, p3 and 2 more are not"):
        clip_finite(named, 1.0)
    with pytest.raises(FloatingPointError, match="those of p1, p2, p3 are not"):
        clip_finite(named[:4], 1.0)
