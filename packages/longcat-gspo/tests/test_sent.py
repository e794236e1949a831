"""What engines are sent: each weight once, adapters merged or alone, in their own precision."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
from longcat_gspo._packing import to_safetensors
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora
WIDE = ClipRange(low=0.5, high=0.5)


def _logits(model, ids=((1, 2, 3, 4, 5),)):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.float()


def test_tied_weights_are_sent_once_and_load():
    model = llama()
    state = load_safetensors(GspoTrainer(model, TrainerConfig()).weights())
    assert "lm_head.weight" not in state
    other = llama(seed=5)
    missing = other.load_state_dict(state, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], [])
    assert torch.equal(_logits(other), _logits(model))


def test_weights_that_share_memory_in_part_are_sent_whole():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            both = torch.randn(8, 4)
            self.first, self.second = nn.Parameter(both[:4]), nn.Parameter(both[4:])
            self.register_buffer("turned", torch.randn(3, 4).T)

        def forward(self, ids, attention_mask=None):
            raise NotImplementedError

    model = Fused()
    state = load_safetensors(GspoTrainer(model, TrainerConfig()).weights())
    assert state.keys() == {"first", "second", "turned"}
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_is_merged_under_the_plain_models_names(options):
    tied = "modules_to_save" not in options
    model = with_lora(llama(tie_word_embeddings=tied), **options)
    before = _logits(model)
    trainer = GspoTrainer(model, TrainerConfig())
    state = load_safetensors(trainer.weights())
    plain = llama(seed=5, tie_word_embeddings=tied)
    assert not plain.load_state_dict(state, strict=False).unexpected_keys
    torch.testing.assert_close(_logits(plain), before, atol=1e-5, rtol=1e-4)
    assert torch.equal(_logits(model), before)  # it goes on as it was


def test_an_adapter_is_sent_alone_with_its_config():
    import peft

    model = with_lora(llama())
    sent = GspoTrainer(model, TrainerConfig(), send="adapter").weights()
    state = load_safetensors(sent)
    assert all("lora_" in name for name in state)
    head = json.loads(sent[8 : 8 + int.from_bytes(sent[:8], "little")])
    config = json.loads(head["__metadata__"]["peft_config"])
    other = peft.get_peft_model(llama(), peft.LoraConfig(**{k: config[k] for k in
        ("r", "lora_alpha", "target_modules")}))  # fmt: skip
    peft.set_peft_model_state_dict(other, state)
    assert torch.equal(_logits(other), _logits(model))
    with pytest.raises(ValueError, match="'adapter' of a PEFT model"):
        GspoTrainer(llama(), TrainerConfig(), send="adapter")


def _adapted(config, **options):
    import peft

    torch.manual_seed(1)
    return peft.get_peft_model(llama(), config(peft), **options)


@pytest.mark.filterwarnings(
    "ignore:Model has .tie_word_embeddings", "ignore:Setting .save_embedding"
)
@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["lm_head"]])
def test_an_adapter_on_one_of_two_tied_layers_is_not_merged_into_both(tmp_path, targets):
    model = _adapted(lambda peft: peft.LoraConfig(r=4, target_modules=targets))
    trainer = GspoTrainer(model, TrainerConfig(old_log_probs="trainer"))
    trainer.train(sampled(llama()))
    for merges in (trainer.weights, lambda: trainer.export(tmp_path)):
        with pytest.raises(ValueError, match="also the output matrix cannot be merged"):
            merges()
    trainer.export(tmp_path, only_adapter=True)
    untied = with_lora(llama(tie_word_embeddings=False))
    assert GspoTrainer(untied, TrainerConfig()).weights()


def test_an_adapter_goes_out_whatever_its_name():
    model = _adapted(
        lambda peft: peft.LoraConfig(r=4, target_modules="all-linear"), adapter_name="mine"
    )
    state = load_safetensors(GspoTrainer(model, TrainerConfig(), send="adapter").weights())
    assert len(state) == 2 * 2 * 7
    assert not any("mine" in name for name in state)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_adapters_that_write_tokens_are_refused(kind):
    model = _adapted(lambda peft: getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ValueError, match=f"tokens before the prompt, of {kind}"):
        GspoTrainer(model, TrainerConfig())


def test_bf16_weights_go_out_in_bf16():
    model = llama(dtype=torch.bfloat16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = load_safetensors(GspoTrainer(model, TrainerConfig()).weights())
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    assert all(torch.equal(before[k], v) for k, v in state.items())


# -- precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [None, {"peft_config": '{"r": 4, "name": "é"}'}])
def test_the_bytes_are_those_of_safetensors(metadata):
    """Of every dtype, empty and scalar tensors, and such as lie in memory with others."""
    torch.manual_seed(0)
    both = torch.randn(6, 4)
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
             torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
             torch.float8_e5m2)  # fmt: skip
    tensors = {f"z.{n}.weight": (torch.randn(3, 2 + n) * 3).to(k) for n, k in enumerate(kinds)}
    tensors |= {
        "first": both[:3], "second": both[3:], "turned": both.T, "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 7), "a.\"quoted\"é": torch.ones(1, dtype=torch.bfloat16),
    }  # fmt: skip
    plain = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    assert to_safetensors(tensors, metadata=metadata) == save_safetensors(plain, metadata)
    low = {"first": torch.bfloat16, "scalar": torch.float16}
    turned = {name: t.to(low.get(name, t.dtype)) for name, t in plain.items()}
    assert to_safetensors(tensors, low) == save_safetensors(turned)
    assert to_safetensors({}) == save_safetensors({})


def test_a_dtype_that_no_file_holds_is_named():
    with pytest.raises(ValueError, match=r"odd must be of a dtype .*complex64"):
        to_safetensors({"odd": torch.zeros(2, dtype=torch.complex64)})
