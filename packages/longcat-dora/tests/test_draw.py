"""How words are drawn, and what prompts that begin alike cost."""

import asyncio

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from longcat_dora.transformers import TransformersEngine  # noqa: E402
from longcat_dora.transformers._draw import drawn  # noqa: E402


@pytest.mark.parametrize("num_words", [1, 7, 256, 257, 1000])
def test_a_word_is_where_the_sum_of_probabilities_passes_the_number(num_words):
    generator = torch.Generator().manual_seed(num_words)
    logs_BV = (3 * torch.randn(400, num_words, generator=generator)).log_softmax(-1)
    draws_B1 = torch.rand(400, 1, generator=generator, dtype=torch.float64)
    draws_B1[:2, 0] = torch.tensor([0.0, 1 - 2**-53])
    sums_BV = logs_BV.exp().double().cumsum(-1)
    expected_B1 = (sums_BV <= draws_B1 * sums_BV[:, -1:]).sum(-1, keepdim=True)
    assert drawn(logs_BV, draws_B1).equal(expected_B1.clamp_max(num_words - 1))


def test_a_word_that_cannot_be_is_never_drawn():
    logs_BV = torch.full((4, 900), -torch.inf)
    logs_BV[:, [300, 301, 700]] = torch.tensor([0.25, 0.25, 0.5]).log()
    draws_B1 = torch.tensor([[0.0], [0.4999999], [0.5], [1 - 2**-53]], dtype=torch.float64)
    assert drawn(logs_BV, draws_B1)[:, 0].tolist() == [300, 301, 700, 700]


def _model():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, eos_token_id=None,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None,
        max_position_embeddings=128,
    )).eval()  # fmt: skip


async def test_prompts_are_computed_from_where_they_differ():
    model, passed = _model(), []
    engine = TransformersEngine(model, num_rows=4, max_length=64, stop_token_ids=[63])
    engine.load_weights(0, b"")
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    common = [5, 9, 2, 7, 7, 1]
    prompts = [[*common, 11, 12], [*common, 11, 13, 14], [8, 9], [*common, 11, 12]]
    conversations = [await engine.open(0, seed=n) for n in range(4)]
    found = await asyncio.gather(*(
        engine.generate(c, prompt, max_tokens=5, temperature=1.0)
        for c, prompt in zip(conversations, prompts, strict=True)
    ))  # fmt: skip
    assert [tuple(shape) for shape in passed[:3]] == [(1, 8), (1, 2), (1, 2)]
    assert tuple(passed[3]) == (4, 1), "the fourth prompt is the first one"
    for prompt, said in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt, *said.token_ids]])
        with torch.no_grad():
            exact = model(input_ids=ids).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, ids.shape[1] - 1)
        told = [exact[place, ids[0, place + 1]].item() for place in places]
        assert said.log_probs == pytest.approx(told, abs=1e-5)
    for conversation in conversations:
        await engine.close(conversation)
    await engine.stop()
