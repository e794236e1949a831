"""Sparse attention against a mask over all pairs, in training and in the engine."""

import asyncio
import dataclasses

import pytest
import torch
from longcat_moe import (
    Engine,
    LongcatConfig,
    LongcatForCausalLM,
    SparseAttention,
    Window,
    calibrate,
    get_preset,
    sparsify,
)
from longcat_moe._sparse import windowed_attention

SMALL = Window(num_sink=1, num_local=3, block_size=4)


def _sees(query, key, window):
    """The rule, pair by pair."""
    own, other = query // window.block_size, key // window.block_size
    return key <= query and (other < window.num_sink or own - window.num_local < other <= own)


@pytest.mark.parametrize("length", [1, 5, 16, 17, 29, 64])
@pytest.mark.parametrize("window", [SMALL, Window(num_sink=0, num_local=1, block_size=4),
                                    Window(num_sink=3, num_local=2, block_size=4)])  # fmt: skip
def test_windowed_attention_is_attention_under_the_mask(length, window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[_sees(i, j, window) for j in range(length)] for i in range(length)])
    scores = (q @ k.mT * 0.3).masked_fill(~mask, float("-inf"))
    expected = scores.softmax(-1) @ v
    assert torch.allclose(windowed_attention(q, k, v, window, scale=0.3), expected, atol=1e-12)


def test_a_token_sees_eight_blocks_at_most_and_all_of_1024_tokens():
    window = Window()
    assert window.num_tokens == 1024
    keys = torch.arange(5000)
    for position in (0, 127, 1023, 1024, 4999):
        seen = window.sees(torch.tensor(position), keys) & (keys <= position)
        assert int(seen.sum()) <= 1024
        assert (len(set((keys[seen] // 128).tolist()))) <= 8
        if position < 1024:
            assert int(seen.sum()) == position + 1


@pytest.fixture
def sparse(model, config):
    """The same weights, three of four attentions sparse with a small window."""
    config = dataclasses.replace(
        config, sparse_attention=SparseAttention(layer_type="1011", window=SMALL)
    )
    other = LongcatForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_up_to_a_window_s_length_sparse_is_full(model, sparse):
    ids = torch.randint(3, 96, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, windowed = model(ids).logits, sparse(ids).logits
    assert torch.allclose(full[:, :16], windowed[:, :16], atol=1e-5)
    assert not torch.allclose(full[:, 20:], windowed[:, 20:], atol=1e-3)


@pytest.mark.parametrize("chunk_tokens", [7, 2048])
async def test_the_engine_equals_the_forward_pass(sparse, chunk_tokens):
    engine = Engine(
        sparse.config, num_slots=4, max_length=128, block_size=4, chunk_tokens=chunk_tokens
    )
    engine.add_model(0, sparse)

    async def talk(first, second):
        c = await engine.open(0)
        a = await engine.generate(c, first, max_tokens=9, stop_ids=())
        b = await engine.generate(c, second, max_tokens=7, stop_ids=())
        return first + a.token_ids + second, b

    talks = [(list(range(3, 60)), [5, 6]), ([4, 5], list(range(20, 61))), (list(range(9, 30)), [8])]
    for context, b in await asyncio.gather(*(talk(*t) for t in talks)):
        with torch.no_grad():
            logits = sparse(torch.tensor([context + b.token_ids])).logits[0].log_softmax(-1)
        expected = [logits[len(context) - 1 + i, t].item() for i, t in enumerate(b.token_ids)]
        assert b.log_probs == pytest.approx(expected, abs=1e-4)


def _sparse_engine(sparse, **options):
    engine = Engine(sparse.config, **{"num_slots": 4, "max_length": 256, "block_size": 4} | options)
    engine.add_model(0, sparse)
    return engine


async def _greedy(engine, ids, num):
    c = await engine.open(0)
    out = await engine.generate(c, ids, max_tokens=num, stop_ids=(), temperature=0)
    await engine.close(c)
    return out.token_ids


async def test_the_cache_of_sparse_attentions_grows_with_the_window_not_the_length(sparse):
    engine = _sparse_engine(sparse, num_slots=1, chunk_tokens=8)
    full, near = engine._scheduler.pool, engine._scheduler.near_pool
    most = {}
    for num in (40, 80, 160, 240):
        c = await engine.open(0)
        # The longest token of a step: the window, 1 + 3 blocks of 4, and the chunk of 8.
        seen = []
        engine.on_cached = lambda *_, seen=seen: seen.append(near.num_used)
        await engine.generate(c, [3 + i % 50 for i in range(num - 10)], max_tokens=9, stop_ids=())
        assert full.num_used == -(-(num - 2) // 4)
        most[num] = max(seen)
        await engine.close(c)
    assert set(most.values()) == {4}
    assert near.num_blocks <= 4 + 1 + 8 // 4 + 1
    assert full.num_used == near.num_used == 0
    assert engine._cache.near.shape[:2] == (3, near.num_blocks)


async def test_a_shared_prefix_needs_what_sparse_attentions_see_too(sparse):
    prefix = [3 + i * 7 % 90 for i in range(80)]
    alone = await _greedy(_sparse_engine(sparse), [*prefix, 5, 6], 12)
    engine = _sparse_engine(sparse)
    await _greedy(engine, [*prefix, 8, 9, 10], 12)
    before = engine.stats.num_reused
    assert await _greedy(engine, [*prefix, 5, 6], 12) == alone
    assert engine.stats.num_reused - before == 80
    # Now others take the blocks of the window, while those of the full attentions stay.
    near = engine._scheduler.near_pool
    taken = [near.take() for _ in range(near.num_blocks)]
    for block in taken:
        near.give(block)
    before = engine.stats.num_reused
    assert await _greedy(engine, [*prefix, 5, 6], 12) == alone
    assert engine.stats.num_reused == before


async def test_sparse_conversations_move_to_host_memory_and_back(sparse):
    prompts = [[3 + (i * k + k) % 90 for i in range(60)] for k in range(1, 9)]

    async def talk(engine):
        return await asyncio.gather(*(_greedy(engine, p, 30) for p in prompts))

    wide = await talk(_sparse_engine(sparse, num_slots=8, max_length=128))
    tight = _sparse_engine(sparse, num_slots=8, max_length=128, cache_tokens=256)
    assert await talk(tight) == wide
    assert tight.stats.num_swapped_in > 0
    assert tight._scheduler.pool.num_used == tight._scheduler.near_pool.num_used == 0


def test_a_decoding_step_gathers_the_window_not_the_length(sparse):
    """What is read from the cache stops growing."""
    from longcat_moe.engine._cache import LatentCache, Span

    cache = LatentCache(
        sparse.config, num_blocks=64, num_near=64, block_size=4, dtype=torch.float32, device="cpu"
    )
    widths = []
    for end in (10, 60, 200):
        view = cache.view([Span(range(64), end - 1, 1, range(64))])
        pair = [
            next(iter(view.extend(index, torch.zeros(1,
            sparse.config.latent_dim)))).latents_BSL.shape[1]
            for index in (0, 1)
        ]  # fmt: skip
        widths.append(pair)
    assert widths == [[12, 12], [16, 60], [16, 200]]


def test_config_survives_json(config):
    sparse = dataclasses.replace(
        config, sparse_attention=SparseAttention(layer_type="0110", window=SMALL)
    )
    assert LongcatConfig.from_dict(sparse.to_dict()) == sparse
    with pytest.raises(ValueError, match="4 attentions, got 3"):
        dataclasses.replace(config, sparse_attention=SparseAttention(layer_type="011"))
    with pytest.raises(ValueError, match="0 and 1"):
        SparseAttention(layer_type="01a")
    assert get_preset("zigzag").sparse_attention.layer_type.count("1") == 28


def test_calibration_finds_the_attention_that_looks_far(config):
    """Only attention 2 is made to matter beyond the window; it must be the one that stays full."""
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    ids = torch.randint(3, 96, (4, 33), generator=torch.Generator().manual_seed(1))
    # Teach attention 2 alone to tell tokens by what is far away: the last token repeats the sixth.
    ids[:, -1] = ids[:, 6]
    frozen = model.requires_grad_(False)
    attention = model.model.layers[1].self_attn[0]
    for part in (attention, model.model.layers[1].mlps[0]):
        part.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in frozen.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        logits = model(ids[:, :-1]).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # Calibrate on the same texts: what the model uses of what is far, it learned there.
    alphas = calibrate(model, [ids] * 30, lr=0.05, window=SMALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, p in frozen.named_parameters() if p.requires_grad
    }
    assert len(alphas) == 4
    assert len(set(alphas)) == 4
    config = sparsify(model.config, alphas, window=SMALL)
    kept = [i for i, kind in enumerate(config.sparse_attention.layer_type) if kind == "0"]
    assert kept == sorted(sorted(range(4), key=lambda i: alphas[i])[2:])
    with pytest.raises(ValueError, match="longer than the window"):
        calibrate(model, [ids[:, :10]], lr=0.1, window=SMALL)


@pytest.mark.parametrize("place", [0, 2])
def test_the_attention_that_must_see_all_is_the_one_that_is_kept(model, config, place):
    """Texts are drawn from a model in which one attention alone is full: that one is needed."""
    window = Window(num_sink=0, num_local=1, block_size=4)
    kind = "".join("0" if i == place else "1" for i in range(4))
    sparse = SparseAttention(layer_type=kind, window=window)
    teacher = LongcatForCausalLM(dataclasses.replace(config, sparse_attention=sparse)).eval()
    teacher.load_state_dict(model.state_dict())
    engine = Engine(teacher.config, num_slots=16, max_length=64)
    engine.add_model(0, teacher)

    async def one(n):
        c = await engine.open(0, seed=n)
        got = await engine.generate(c, [3 + n], max_tokens=50, stop_ids=())
        return [3 + n, *got.token_ids]

    async def all_texts():
        return await asyncio.gather(*(one(n) for n in range(16)))

    ids = torch.tensor(asyncio.run(all_texts()))
    alphas = calibrate(model, [ids] * 10, lr=0.06, window=window)
    assert max(range(4), key=lambda i: alphas[i]) == place
    assert alphas[place] > 0.7 > 0.4 > max(a for i, a in enumerate(alphas) if i != place)
    kept = sparsify(config, alphas, share=0.75, window=window).sparse_attention
    assert kept.layer_type == kind
