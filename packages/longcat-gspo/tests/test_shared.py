"""What sequences begin with alike is computed once, and trains the same."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig
from longcat_gspo._samples import Rows
from longcat_gspo._shared import Tree, shared_batches
from longcat_gspo.transformers import shares_prefixes

_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora

WIDE = ClipRange(low=0.5, high=0.5)


def _cut(sample, end):
    fields = ("token_ids", "loss_mask", "log_probs")
    return dataclasses.replace(sample, **{name: getattr(sample, name)[:end] for name in fields})


def _samples():
    """Groups of four of several lengths, a pair of them equal, one within another."""
    held = [_cut(s, 6 + n) for n, s in enumerate(sampled(llama(), groups=2, size=4))]
    twin = dataclasses.replace(held[2], reward=held[2].reward + 0.5)
    return [*held, twin, _cut(held[6], 5)]


def _sample(*ids):
    return Sample(token_ids=ids, loss_mask=[False, *[True] * (len(ids) - 1)], log_probs=None)


def test_a_tree_by_hand():
    rows = Rows.of([_sample(5, 6, 8), _sample(9, 6), _sample(5, 6, 7, 7)], torch.device("cpu"))
    tree = Tree.of(rows)
    assert tree.ids_N.tolist() == [5, 6, 7, 7, 8, 9, 6]
    assert tree.positions_N.tolist() == [0, 1, 2, 3, 2, 0, 1]
    seen = [row.nonzero()[:, 0].tolist() for row in tree.sees_NN]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6]]
    where = tree.wanted_W[tree.place_U].tolist()
    assert where == [0, 1, 5, 0, 1, 2]
    assert rows.target_U.tolist() == [6, 8, 6, 6, 7, 7]


@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("tokens", [4096, 20])
def test_shared_prefixes_train_the_same(adapts, tokens):
    weights, metrics = [], []
    for shared in (False, True):
        model = with_lora(llama()) if adapts else llama()
        config = TrainerConfig(clip=WIDE, shared_prefixes=shared, micro_batch_tokens=tokens,
                               epochs=2, epsilon=1e-3, temperature=0.8)  # fmt: skip
        trainer = GspoTrainer(model, config, reference="frozen")
        metrics.append(trainer.train(_samples()))
        metrics[-1]["nll"] = trainer.evaluate(_samples())
        metrics[-1] |= {f"fit {k}": v for k, v in trainer.fit(_samples()).items()}
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for one in metrics:
        one.pop("tokens_per_s")
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-6)
    assert (weights[0] - weights[1]).abs().max() < 1e-6


def test_the_model_is_given_each_beginning_once():
    model, seen = llama(), []
    trainer = GspoTrainer(model, TrainerConfig(shared_prefixes=True, old_log_probs="trainer"))
    model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((kwargs["input_ids"].shape[1], out.logits)),
        with_kwargs=True,
    )
    ids = [[1, 2, 3, 4, end] for end in (5, 6, 7, 8)]
    trainer.train([
        Sample(token_ids=i, loss_mask=[False] * 4 + [True], log_probs=None, reward=i[-1], group="g")
        for i in ids
    ])  # fmt: skip
    ((length, logits),) = seen
    assert length == 4 + 4
    assert logits.shape[:2] == (1, 1), "all four are predicted at one place"


@pytest.mark.parametrize("packed", [False, True])
def test_no_logits_are_computed_that_nobody_wants(packed):
    model, seen = llama(), []
    config = TrainerConfig(packed=packed, old_log_probs="trainer")
    trainer = GspoTrainer(with_lora(model), config)
    model.register_forward_hook(lambda module, args, out: seen.append(out.logits.shape[:2]))
    trainer.train([
        Sample(token_ids=[1, 2, 3, 4, end], loss_mask=[False] * 4 + [True], log_probs=None,
               reward=end, group="g") for end in (5, 6)
    ])  # fmt: skip
    assert seen == [(1, 2)] if packed else [(2, 1)]


def test_rows_are_cut_where_shared_tokens_fill_them():
    items = [_sample(2, 2), _sample(1, 1, 1, 3), _sample(1, 1, 1, 2), _sample(1, 1, 1, 3, 4)]
    ids = [[list(s.token_ids) for s in batch] for batch in shared_batches(items, lambda s: s, 6)]
    assert ids == [[[1, 1, 1, 2], [1, 1, 1, 3], [1, 1, 1, 3, 4]], [[2, 2]]]
    assert [len(b) for b in shared_batches(items, lambda s: s, 5)] == [2, 1, 1]
    assert [len(b) for b in shared_batches(items, lambda s: s, 1)] == [1, 1, 1, 1]
    assert shared_batches([], lambda s: s, 8) == []


def test_models_that_cannot_share_are_refused():
    eager = llama()
    eager.set_attn_implementation("eager")
    slides = llama()
    slides.config.sliding_window = 4
    kinds = llama()
    kinds.config.layer_types = ["full_attention", "sliding_attention"]
    for model, said in (
        (slides, "full attention in every layer"), (kinds, "full attention in every layer"),
        (eager, "attn_implementation='sdpa'"),
        (torch.nn.Sequential(torch.nn.Embedding(4, 4)), "takes a mask of its own"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            GspoTrainer(model, TrainerConfig(shared_prefixes=True))
        assert not shares_prefixes(model)
    assert shares_prefixes(with_lora(llama(dtype=torch.bfloat16)))
