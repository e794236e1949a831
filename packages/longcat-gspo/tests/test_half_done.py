"""A step that ends half way leaves nothing to the next; what a check computes needs no dropout."""

import importlib.util
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from longcat_gspo import GspoTrainer, MopdTrainer, Sample, TrainerConfig, attempt_advantages
from longcat_gspo import group_advantages as advantages_of

_spec = importlib.util.spec_from_file_location("gspo_bigram", Path(__file__).with_name("bigram.py"))
_bigram = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_bigram)
Bigram = _bigram.Bigram

CONFIG = TrainerConfig(max_grad_norm=1e9, micro_batch_tokens=4)


def _samples():
    return [
        Sample(token_ids=[1, 2 + n, 3], loss_mask=[0, 1, 1], log_probs=[0, -2.0, -2.0],
               reward=float(n % 2), group="g")
        for n in range(4)
    ]  # fmt: skip


def _attempts():
    return [
        SimpleNamespace(domain="a", segments=[s], reward=s.reward, group="g") for s in _samples()
    ]


def _trainer(kind):
    if kind == "distil":
        teacher = Bigram()
        teacher.embed.weight.data.mul_(2)
        return MopdTrainer(Bigram(), CONFIG, teachers={"a": teacher})
    return GspoTrainer(Bigram(), CONFIG)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
@pytest.mark.parametrize("kind", ["train", "fit", "distil"])
def test_a_step_that_ends_half_way_leaves_no_gradient(kind, error):
    def step(trainer):
        if kind == "fit":
            return trainer.fit(_samples())["grad_norm"]
        return trainer.train(_attempts() if kind == "distil" else _samples())["grad_norm"]

    passes = []
    right = _trainer(kind)
    right.model.register_forward_pre_hook(lambda *_: passes.append(0))
    norm, trainer = step(right), _trainer(kind)

    def fail(*_):
        passes.pop()
        if not passes:  # the last
            raise error

    hook = trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        step(trainer)
    hook.remove()
    assert step(trainer) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("option", ["packed", "shared_prefixes", "chunked_log_probs"])
def test_a_model_with_dropout_in_train_mode_is_taken_and_stays_so(option):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 16}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        **sizes, num_attention_heads=2, num_key_value_heads=2, attention_dropout=0.5,
    )).train()  # fmt: skip
    model.lm_head.eval()
    GspoTrainer(model, TrainerConfig(**{option: True}))
    assert model.training
    assert model.model.layers[0].self_attn.training
    assert not model.lm_head.training


def test_rewards_of_other_libraries_are_numbers():
    right = advantages_of([1.0, 0.0, 0.0], list("ggg"))
    for kind in (bool, np.bool_, np.int8, np.float16, Decimal, torch.tensor):
        assert advantages_of([kind(1), kind(0), kind(0)], list("ggg")) == right
    learned = torch.tensor(1.0, requires_grad=True)
    assert GspoTrainer(Bigram(), CONFIG).train([
        Sample(token_ids=[1, 2], loss_mask=[0, 1], log_probs=[0, -1.0], reward=reward, group="g")
        for reward in (learned.detach(), np.bool_(0))
    ])["reward"] == 0.5  # fmt: skip
    far = [np.int8(100), np.int8(-100), np.int8(0)]
    assert advantages_of(far, list("ggg")) == advantages_of([100.0, -100.0, 0.0], list("ggg"))


def test_an_attempt_that_said_nothing_counts_in_its_group():
    said, silent = _attempts()[1], SimpleNamespace(domain="a", segments=[], reward=0.0, group="g")
    assert attempt_advantages([said, silent], baseline="mean") == [0.5, -0.5]
    assert GspoTrainer(Bigram(), CONFIG).train([said, silent])["reward"] == 0.5
    distilled = [_trainer("distil").train(batch) for batch in ([said], [silent, said])]
    assert distilled[0]["loss"] == pytest.approx(distilled[1]["loss"])


@pytest.mark.parametrize(("said", "changes"), [
    ("group must be a name or a number, got nan", {"group": float("nan")}),
    ("group must be a name or a number", {"group": torch.tensor(1)}),
    ("token_ids and loss_mask must have one axis", {"token_ids": [[1], [2], [3]]}),
    ("token_ids and loss_mask must have one axis", {"loss_mask": [[0], [1], [1]]}),
    ("log_probs must be numbers", {"log_probs": [[0.0], [-1.0], [-1.0]]}),
])  # fmt: skip
def test_what_has_another_form_is_refused(said, changes):
    fields = {"token_ids": [1, 2, 3], "loss_mask": [0, 1, 1], "log_probs": [0, -1.0, -1.0]}
    odd = Sample(**{**fields, "reward": 1.0, "group": "g", **changes})
    with pytest.raises(ValueError, match=f"sample 4.*{said}"):
        GspoTrainer(Bigram(), CONFIG).train([*_samples(), odd])


def test_a_group_named_0_is_a_name():
    tasks = [
        Sample(token_ids=[first, 2, 3], loss_mask=[0, 1, 1], log_probs=[0, -1.0, -1.0],
               reward=reward, group=0)
        for first, reward in ((1, 0.0), (4, 1.0))
    ]  # fmt: skip
    assert GspoTrainer(Bigram(), CONFIG).train(tasks)["signal_share"] == 1
