"""Run by `test_kernels.py` in a process of its own, with Triton's interpreter: no GPU is needed.

    python kernels_interpreted.py CONFIG TRIALS

Prints one JSON line a case: how far the fused step is from the modules, in logits and in the cache.
"""

import dataclasses
import json
import sys

import torch
from longcat_moe import LongcatConfig, LongcatForCausalLM, get_preset
from longcat_moe.engine import _fused
from longcat_moe.engine._cache import LatentCache
from longcat_moe.engine._graphs import StaticView, _draw
from longcat_moe.engine._kernels import sample

ODD = LongcatConfig(
    vocab_size=90, hidden_size=48, num_layers=2, num_attention_heads=3, q_lora_rank=24,
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, ffn_hidden_size=72,
    expert_ffn_hidden_size=16, n_routed_experts=7, zero_expert_num=4, moe_topk=4,
    rope_theta=10_000.0, initializer_range=0.2,
)  # fmt: skip
CONFIGS = {"tiny": get_preset("tiny"), "odd": ODD}


@torch.inference_mode()
def step(name, num_rows, max_narrow):
    torch.manual_seed(0)
    config, blocks = CONFIGS[name], 8
    model = LongcatForCausalLM(config).eval()
    for key, value in model.state_dict().items():
        if "norm" in key:
            value.uniform_(0.5, 1.5)
        elif key.endswith("correction_bias"):
            value.normal_(std=0.02)
    caches = [
        LatentCache(config, num_blocks=num_rows * blocks, block_size=16, dtype=torch.float32,
        device="cpu")
        for _ in range(2)
    ]  # fmt: skip
    caches[0].full.normal_(std=0.5)
    caches[1].full.copy_(caches[0].full)
    table = torch.randperm(num_rows * blocks).view(num_rows, blocks)
    positions = torch.randint(0, blocks * 16 - 1, (num_rows,))
    ids = torch.randint(3, config.vocab_size, (num_rows,))
    _fused.MAX_NARROW = max_narrow
    fused = _fused.FusedStep(model, caches[0], num_rows=num_rows, max_length=blocks * 16)
    _spoil(fused, spare=(fused.cos, fused.sin, model.lm_head.weight))
    got = fused.step(ids, positions, table).clone()
    view = StaticView(caches[1], positions, table)
    view.begin()
    hidden = model.model(ids[None], None, positions[None], view)[0]
    expected = model.lm_head(hidden)
    longer = _fused.FusedStep(  # on the same buffers
        model, caches[0], num_rows=num_rows, max_length=4 * blocks * 16, like=fused
    )
    assert longer.logits.x is fused.logits.x
    other = float((longer.step(ids, positions, table) - got).norm() / got.norm())
    again = fused.step(ids, positions, table)
    stores = [cache.full for cache in caches]
    report(
        f"{name}, {num_rows} rows, narrow to {max_narrow}",
        logits=float((got - expected).norm() / expected.norm()),
        cache=float((stores[0] - stores[1]).norm() / stores[1].norm()),
        again=float((again - got).abs().max()),
        longer=other,
    )


def _spoil(fused, *, spare):
    """Fill the buffers with what is no number: nothing is read that nobody wrote."""
    spared = {tensor.data_ptr() for tensor in spare}
    for value in vars(fused).values():
        for tensor in _tensors(value):
            if tensor.is_floating_point() and tensor.data_ptr() not in spared:
                tensor.fill_(float("nan"))


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif dataclasses.is_dataclass(value) and hasattr(value, "squares"):
        yield from (value.x, value.unit, value.squares)


def draws(trials):
    torch.manual_seed(0)
    wrong, gap, num, words, steps = 0, 0.0, 5, 1000, 3
    for trial in range(trials):
        logits = 3 * torch.randn(num, words)
        heat, uniforms = torch.tensor([0.0, 1.0, 0.5, 2.0, 0.1]), torch.rand(steps, num)
        if trial == 0:
            uniforms[:] = 0.9999999
        tokens, log_probs = torch.zeros(steps, num, dtype=torch.long), torch.zeros(steps, num)
        ids, at = torch.zeros(num, dtype=torch.long), torch.arange(num)
        step_of = torch.ones(num, dtype=torch.long)
        limits = torch.tensor([9, 9, 3, 9, 4])
        sample[(num,)](
            logits, heat, uniforms, tokens, log_probs, ids, at, limits, step_of, num, words,
            BLOCK=256
        )  # fmt: skip
        expected = torch.where(
            heat > 0, _draw(logits, heat, uniforms[1][:, None]), logits.argmax(-1)
        )
        wrong += int((tokens[1] != expected).sum()) + int((ids != expected).sum())
        wrong += int((at != torch.tensor([1, 2, 3, 4, 4])).sum()) + int((step_of != 2).sum())
        said = logits.log_softmax(-1).gather(1, tokens[1][:, None])[:, 0]
        gap = max(gap, float((log_probs[1] - said).abs().max()))
    report("draws", wrong=wrong, gap=gap)


def report(case, **values):
    print(json.dumps({"case": case, **values}), flush=True)


if __name__ == "__main__":
    name, trials = sys.argv[1:]
    draws(int(trials))
    for num_rows, max_narrow in ((1, 32), (3, 32), (3, 2)):
        step(name, num_rows, max_narrow)
