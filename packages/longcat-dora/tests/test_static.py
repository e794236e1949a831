"""Decoding in fixed shapes: what is sampled, and what a later version takes over."""

import asyncio

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from longcat_dora.transformers import TransformersEngine  # noqa: E402
from safetensors.torch import save  # noqa: E402


def _llama(seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _bytes(seed):
    return save({k: v.contiguous() for k, v in _llama(seed).state_dict().items()})


async def _talk(engine, version, number):
    """Two turns, of lengths and temperatures that differ."""
    identifier = await engine.open(version, seed=number)
    said = []
    for turn in range(2):
        said.append(await engine.generate(
            identifier, [5 + number % 3, 7, 9][: 1 + turn], max_tokens=3 + 9 * number,
            temperature=(1.0, 0.6, 0.0)[number % 3],
        ))  # fmt: skip
    await engine.close(identifier)
    return said


async def _everyone(engine, versions, num=5):
    talks = [_talk(engine, version, number) for version in versions for number in range(num)]
    return [said for part in await asyncio.gather(*talks) for said in part]


def _engine(static):
    return TransformersEngine(_llama(0), num_rows=5, max_length=150, device="cpu", static=static)


def _assert_alike(found, expected):
    assert [part.token_ids for part in found] == [part.token_ids for part in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=2e-5)


@pytest.mark.asyncio
async def test_fixed_shapes_sample_what_free_ones_sample():
    found = {}
    for static in (False, True):
        engine = _engine(static)
        engine.load_weights(0, b"")
        engine.load_weights(1, _bytes(1))
        found[static] = await _everyone(engine, (0, 1))
        if static:
            shapes = [
                (s.num, s.length, s.fills)
                for v in engine._versions.values()
                for s in v.decoder.passes
            ]
            assert {(2, 64, False), (5, 64, False), (2, 128, False), (16, 64, True)} <= {*shapes}
            assert {num for num, _, fills in shapes if not fills} == {2, 5}
            assert {length for _, length, _ in shapes} <= {64, 128, 150}
        await engine.stop()
    _assert_alike(found[True], found[False])


@pytest.mark.asyncio
async def test_conversations_may_fill_the_cache_to_its_last_place():
    found = []
    for static in (False, True):
        engine = _engine(static)
        engine.load_weights(0, b"")
        c = await engine.open(0, seed=1)
        prompts = ([7] * 100, [9] * 20, [11] * 15, [5] * 8)
        found.append([
            await engine.generate(c, p, max_tokens=1 + 9 * (len(p) == 8), temperature=1.0)
            for p in prompts
        ])  # fmt: skip
        assert len(engine._conversations[c].tokens) == 150
        await engine.stop()
    assert found[0][-1].finish_reason == "length"
    _assert_alike(found[1], found[0])


@pytest.mark.asyncio
async def test_a_version_takes_over_what_a_retired_one_leaves():
    """Its passes read where they were captured; the retired one's bytes are not written to."""
    plain, engine, sent = _engine(False), _engine(True), {n: _bytes(n) for n in (1, 2, 3)}
    decoders = []
    for version in (1, 2, 3):
        for one in (plain, engine):
            one.load_weights(version, sent[version])
        _assert_alike(await _everyone(engine, (version,)), await _everyone(plain, (version,)))
        decoders.append(engine._versions[version].decoder)
        if version == 1:
            continue  # both are live
        for gone in (1, 2) if version == 2 else (3,):
            engine.retire(gone)
    await asyncio.gather(plain.stop(), engine.stop())
    assert decoders[0] is not decoders[1]
    assert decoders[2] in decoders[:2]
    assert sent == {n: _bytes(n) for n in sent}


def test_what_the_device_may_still_read_is_not_written_to_again():
    """A copy to the device may begin after the next one was asked for."""
    from longcat_dora.transformers import _static

    one = _static._Pass(_static.Shape(16, 64, fills=True), torch.device("cpu"))
    read = []

    class Later:
        shape, is_cuda = (4, 16), False

        def copy_(self, source, *, non_blocking):
            read.append(source)

    one._there = Later()
    for token in (3, 8):
        one.put([[token] * 5, range(5), [0] * 5, [4] * 5])
    assert [source[0, 0].item() for source in read] == [3, 8]


def test_who_looks_at_numbers_on_the_host_is_not_captured(monkeypatch):
    """A model of which no graph can be made goes on without."""
    from longcat_dora.transformers import _static

    decoder = _static.StaticDecoder(
        lambda ids, *_: torch.nn.functional.one_hot(ids[:, 0], 9) * 9.0,
        _Cache(), torch.device("cpu"),
    )  # fmt: skip
    decoder._can_capture = True
    tried = []

    def fails(*_, **__):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", fails)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for _ in range(3):
        tokens, logs = decoder.run([4, 7, 1], [0, 0, 0], [0.0, 0.0, 1.0], [0.5] * 3)
        assert tokens == [4, 7, 1]
        assert len(logs) == 3
    assert len(tried) == 1


class _Cache:
    num_rows, capacity = 5, 64

    def at(self, positions, longest):
        return torch.ones(len(positions), 1, 1, longest, dtype=torch.bool)
