"""What only a GPU can show.

No plugin and no root configuration is needed: see `apps/longcat-cli/benchmarks/gpu.py`.
"""

import asyncio

import pytest
import torch
from longcat_moe import Engine, LongcatForCausalLM, get_preset
from longcat_moe._experts import Router, dispatch, dispatch_static
from longcat_moe.engine._cache import LatentCache
from longcat_moe.engine._fused import FusedStep
from longcat_moe.engine._graphs import StaticView
from safetensors.torch import save

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available()"),
]
PROMPTS = [[5, 6, 7, 8], list(range(3, 90)), [1, 2], list(range(50, 66)), [9]]


def _model(name="tiny", dtype=torch.float32):
    torch.manual_seed(0)
    model = LongcatForCausalLM(get_preset(name)).eval().to("cuda", dtype)
    for module in model.modules():
        if isinstance(module, Router):
            module.float()
    return model


def _answers(engine, **options):
    async def one(prompt):
        c = await engine.open(0)
        found = [
            await engine.generate(c, [*prompt, n + 3], stop_ids=(), **options) for n in range(3)
        ]
        await engine.close(c)
        return found

    async def everyone():
        return await asyncio.gather(*map(one, PROMPTS))

    return asyncio.run(everyone())


def _engine(model, dtype, **options):
    settings = {"num_slots": 8, "max_length": 512, "device": "cuda", "dtype": dtype, **options}
    engine = Engine(model.config, **settings)
    engine.add_model(0, model)
    return engine


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_logits_are_those_of_the_cpu(name):
    model = _model(name)
    ids = torch.randint(3, 256, (2, 40), device="cuda")
    with torch.no_grad():
        got = model(ids).logits.cpu()
        expected = model.cpu()(ids.cpu()).logits
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_a_forward_pass_in_bf16_never_waits_for_the_device():
    model = _model(dtype=torch.bfloat16).train()
    ids = torch.randint(3, 256, (2, 40), device="cuda")
    model(ids).logits.float().sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(ids).logits.float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_static_dispatch_equals_dispatch_and_ignores_rows_that_nobody_wrote():
    model = _model(dtype=torch.bfloat16)
    experts = model.model.layers[0].mlp.experts
    x = torch.randn(77, 64, device="cuda", dtype=torch.bfloat16)
    index = torch.stack([torch.randperm(12)[:3] for _ in range(77)]).cuda()
    weight = torch.rand(77, 3, device="cuda")
    found = []
    for way in (dispatch, dispatch_static):
        junk = [
            torch.full((231, n), float("nan"), device="cuda", dtype=torch.bfloat16)
            for n in (32, 64)
        ]
        del junk
        leaf = x.clone().requires_grad_()
        out = way(leaf, weight, index, 8, experts._grouped_ffn)
        (grad,) = torch.autograd.grad(out.float().square().sum(), leaf)
        found.append((out, grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_captured_steps_give_the_tokens_of_the_ordinary_step(dtype, temperature):
    model = _model(dtype=dtype)
    plain = _answers(_engine(model, dtype, decode_steps=0), max_tokens=25, temperature=temperature)
    fast = _engine(model, dtype, decode_steps=8)
    got = _answers(fast, max_tokens=25, temperature=temperature)
    same, total, gaps = 0, 0, []
    for left, right in zip(plain, got, strict=True):
        for a, b in zip(left, right, strict=True):
            assert len(a.token_ids) == len(b.token_ids) == 25
            pairs = list(zip(a.token_ids, b.token_ids, strict=True))
            until = next((n for n, (x, y) in enumerate(pairs) if x != y), len(pairs))
            gaps += [
                abs(x - y) for x, y in zip(a.log_probs[:until], b.log_probs[:until], strict=True)
            ]
            same, total = same + until, total + len(pairs)
    # In bf16 a tie between tokens may fall the other way; in float32 nothing may.
    assert same == total or (dtype == torch.bfloat16 and same > 0.3 * total)
    assert max(gaps) < (1e-3 if dtype == torch.float32 else 0.1)
    assert any(step.graphs for step in fast._versions.decoders[0]._steps.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny", "mini"])
@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_kernels_compute_what_the_modules_compute(name, dtype, num_rows):
    model = _model(name, dtype)
    config, generator = model.config, torch.Generator("cuda").manual_seed(0)
    with torch.inference_mode():
        for key, weight in model.named_parameters():
            if "norm" in key:
                weight.uniform_(0.5, 1.5, generator=generator)
        caches = [
            LatentCache(config, num_blocks=num_rows * 8, block_size=16, dtype=dtype, device="cuda")
            for _ in range(2)
        ]
        caches[0].full.normal_(std=0.5, generator=generator)
        caches[1].full.copy_(caches[0].full)
        positions = torch.randint(0, 127, (num_rows,), device="cuda", generator=generator)
        view = StaticView(
            caches[1], positions, torch.randperm(num_rows * 8).view(num_rows, 8).cuda()
        )
        ids = torch.randint(3, 256, (num_rows,), device="cuda")
        fused = FusedStep(model, caches[0], num_rows=num_rows, max_length=128)
        fused.logits.x.fill_(float("nan"))
        got = fused.step(ids, view.positions_B, view.table_BN)
        view.begin()
        hidden = model.model(ids[None], None, view.positions_B[None], view)[0]
        expected = model.lm_head(hidden).float()
    gaps_B = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
    stored = [cache.full.float() for cache in caches]
    gap = float((stored[0] - stored[1]).norm() / stored[1].norm())
    if dtype == torch.float32:
        assert max(float(gaps_B.max()), gap) < 1e-4
    else:  # a near tie between experts may fall the other way, and changes that whole row
        assert float(gaps_B.median()) < 3e-2
        assert gap < 6e-2


def test_weights_as_bytes_give_the_same_log_probs_and_keep_the_router_in_float32():
    model = _model(dtype=torch.bfloat16)
    engine = Engine(model.config, num_slots=2, max_length=128, device="cuda", dtype=torch.bfloat16)
    engine.load_weights(0, save({k: v.contiguous() for k, v in model.state_dict().items()}))
    for router in (m for m in engine._models[0].modules() if isinstance(m, Router)):
        assert router.classifier.weight.dtype == torch.float32
    (got,) = _answers(engine, max_tokens=8)[:1]
    ids = torch.tensor([[*PROMPTS[0], 3, *got[0].token_ids]], device="cuda")
    with torch.no_grad():
        logits = model(ids).logits[0, 4:-1].float().log_softmax(-1)
    expected = logits.gather(1, ids[0, 5:, None])[:, 0].tolist()
    assert got[0].log_probs == pytest.approx(expected, abs=0.05)


def test_compiled_layers_give_the_same_gradients():
    model = _model(dtype=torch.bfloat16).train()
    ids = torch.randint(3, 256, (2, 64), device="cuda")

    def grads():
        model.zero_grad()
        logits = model(ids).logits[:, :-1].float().flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        return {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}

    expected = grads()
    for layer in model.model.layers:
        layer.compile(fullgraph=True)
    found = grads()
    assert found.keys() == expected.keys()
    # All gradients as one vector: a router's alone is small, and ties move it.
    away = sum(float((found[name] - grad).square().sum()) for name, grad in expected.items())
    length = sum(float(grad.square().sum()) for grad in expected.values())
    assert (away / length) ** 0.5 < 0.05
    for name, grad in expected.items():
        gap = (found[name] - grad).norm() / grad.norm().clamp_min(1e-6)
        assert gap < 0.3, (name, float(gap))
