"""torch.compile without a graph break, and torch.export, of the model and its transformers form."""

import os
import subprocess
from pathlib import Path

import longcat_moe
import pytest
import torch

pytest.importorskip("transformers")

from longcat_moe import transformers as ours


@pytest.fixture
def hf(model):
    hf = ours.LongcatHfForCausalLM(ours.LongcatHfConfig.from_longcat(model.config))
    hf.load_state_dict(model.state_dict())
    return hf.eval()


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _ids(rows=2, width=11, seed=0):
    return torch.randint(3, 96, (rows, width), generator=torch.Generator().manual_seed(seed))


def test_a_training_step_is_compiled_whole_with_the_same_loss_and_gradients(hf):
    """`fullgraph` raises at the first break; the gradients go through the traced backward pass."""
    ids, plain = _ids(), hf.train()
    plain(ids, labels=ids).loss.backward()
    expected = {name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None}
    counts = plain.model.layers[0].mlp.router.counts.clone()
    plain.zero_grad()
    compiled = torch.compile(hf, backend="aot_eager", fullgraph=True)
    output = compiled(ids, labels=ids)
    torch.testing.assert_close(output.loss, plain(ids, labels=ids).loss, atol=1e-5, rtol=0)
    output.loss.backward()
    grads = {name: p.grad for name, p in hf.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-5, rtol=1e-4)
    assert torch.equal(plain.model.layers[0].mlp.router.counts, 3 * counts)


@pytest.mark.parametrize("kind", ["hf", pytest.param("core", marks=pytest.mark.long)])
def test_an_exported_program_takes_batches_and_lengths_it_was_not_traced_with(model, hf, kind):
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2)
    options, shapes = {}, {"input_ids": {0: batch, 1: length}}
    if kind == "hf":
        options, shapes = {"use_cache": False}, {**shapes, "use_cache": None}
    program = torch.export.export(
        hf if kind == "hf" else model, (_ids(),), options, dynamic_shapes=shapes, strict=False
    )
    for ids in (_ids(), _ids(3, 17, seed=1)):
        with torch.no_grad():
            got = program.module()(ids, **options).logits
            torch.testing.assert_close(got, model(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.long
def test_trl_takes_ten_steps():
    """In an environment that has TRL and what this package needs; `LONGCAT_TRL` is its Python."""
    if "LONGCAT_TRL" not in os.environ:
        pytest.skip("LONGCAT_TRL must be a Python that has trl and peft")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "sft_by_trl.py"
    source = Path(longcat_moe.__file__).parents[1]
    done = subprocess.run(
        [os.environ["LONGCAT_TRL"], str(script)], env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
