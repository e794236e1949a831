"""Models without memory, and what is loaded to make one that has some."""

import subprocess
import sys

import torch
from longcat_moe import LongcatForCausalLM, get_preset, on_meta
from longcat_moe._meta import take_memory
from torch import nn

COSTLY = ("torch._dynamo", "sympy", "torch.distributed.tensor")


def test_to_load_and_ask_a_model_loads_no_compiler(tmp_path):
    """They cost a process more than the whole of torch does."""
    LongcatForCausalLM(get_preset("tiny")).save_pretrained(tmp_path)
    code = f"""
import sys
from pathlib import Path
from longcat_moe import Engine, LongcatForCausalLM, SamplingParams, count_parameters
model = LongcatForCausalLM.from_pretrained(Path({str(tmp_path)!r}))
count_parameters(model.config)
engine = Engine(model.config, num_slots=2, max_length=32)
engine.add_model(0, model)
print([name for name in {COSTLY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_memory_nothing_is_drawn_and_all_shapes_are_there():
    config = get_preset("tiny")
    before = torch.get_rng_state()
    with on_meta():
        bare = LongcatForCausalLM(config)
    assert torch.get_rng_state().equal(before)
    assert {t.device.type for t in bare.state_dict().values()} == {"meta"}
    real = LongcatForCausalLM(config).state_dict()
    assert {k: (t.shape, t.dtype) for k, t in bare.state_dict().items()} == {
        k: (t.shape, t.dtype) for k, t in real.items()
    }
    torch.manual_seed(3)
    drawn = nn.Linear(4, 4).weight  # and afterwards they are drawn again
    torch.manual_seed(3)
    assert nn.Linear(4, 4).weight.equal(drawn)
    assert drawn.std() > 0


def test_memory_keeps_ties_and_what_is_trained_and_saved():
    with on_meta():
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 3))
        model[0].register_buffer("scratch", torch.zeros(2, dtype=torch.int8), persistent=False)
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    names = list(model.state_dict())
    take_memory(model, "cpu")
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert model[2].weight is model[0].weight
    assert isinstance(model[2].bias, nn.Parameter)
    assert (model[0].weight.requires_grad, model[2].bias.requires_grad) == (True, False)
    assert model[0].scratch.dtype == torch.int8
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model[0].weight.fill_(1)
    assert float(model[2].weight.detach().sum()) == 9
