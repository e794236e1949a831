"""YaRN against transformers and the paper's formula; n-gram embeddings against loops; presets."""

import asyncio
import dataclasses
import itertools
import json
import math
from collections import Counter

import pytest
import torch
from longcat_moe import (
    Engine,
    LongcatConfig,
    LongcatForCausalLM,
    YarnScaling,
    count_active_parameters,
    count_parameters,
    get_preset,
    neighbours,
)
from longcat_moe._ngram import collides, table_sizes
from longcat_moe._rotary import rotary_tables

YARN = YarnScaling(factor=8, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.3)


def _with(config, **changes):
    torch.manual_seed(0)
    config = dataclasses.replace(config, **changes)
    return LongcatForCausalLM(config).eval()


def test_yarn_equals_transformers_from_the_same_folder(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(config, max_position_embeddings=512, initializer_range=0.15)
    model = _with(config, rope_scaling=YARN)
    model.save_pretrained(tmp_path, for_transformers=True)
    ours = LongcatForCausalLM.from_pretrained(tmp_path).eval()
    assert ours.config == model.config
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 96, (2, 120), generator=torch.Generator().manual_seed(1))
    plain = _with(config)
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
        torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=0)
        assert (plain(ids).logits - expected).abs().max() > 1e-2


def test_yarn_keeps_fast_turns_and_divides_slow_ones():
    """Frequency by frequency, by how often each turns over the old context."""
    yarn = YarnScaling(factor=4, original_max_position_embeddings=1000, beta_fast=20, beta_slow=2)
    config = dataclasses.replace(get_preset("tiny"), qk_rope_head_dim=64, rope_scaling=yarn)
    cos, sin = rotary_tables(torch.tensor([[1]]), config)
    got = torch.atan2(sin, cos)[0, 0]
    plain = config.rope_theta ** (-torch.arange(0, 64, 2) / 64)
    turns = 1000 * plain / (2 * math.pi)
    ratio = got / plain
    assert (turns > 25).sum() > 3
    assert (turns < 1.5).sum() > 3
    torch.testing.assert_close(ratio[turns > 25], torch.ones_like(ratio[turns > 25]))
    torch.testing.assert_close(ratio[turns < 1.5], torch.full_like(ratio[turns < 1.5], 0.25))
    assert (ratio.diff() < 1e-6).all()


def test_both_spellings_of_yarn_are_read():
    old = {"rope_scaling": {"type": "yarn", "factor": 10, "original_max_position_embeddings": 32}}
    assert LongcatConfig.from_dict({**old, "rope_theta": 5.0}).rope_scaling == YarnScaling(
        factor=10, original_max_position_embeddings=32, mscale=None, mscale_all_dim=None
    )
    new = {"rope_parameters": {"rope_type": "yarn", "factor": 10, "mscale": 0.5}}
    yarn = LongcatConfig.from_dict({**new, "max_position_embeddings": 640}).rope_scaling
    assert (yarn.original_max_position_embeddings, yarn.mscale) == (640, 0.5)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "yarn"}, "YaRN needs factor"),
        ({"type": "linear", "factor": 10}, "'default' or 'yarn', got 'linear'"),
        ({"rope_type": "deepseek_yarn", "factor": 10}, "got 'deepseek_yarn'"),
        ({"rope_type": "yarn", "factor": 10, "short_factor": [1]}, "those of YaRN"),
        ({"rope_type": "yarn", "factor": "10"}, "factor must be a positive number"),
        ({"rope_type": "yarn", "factor": float("inf")}, "factor must be a positive number"),
        ({"rope_type": "yarn", "factor": 4, "beta_fast": 1}, "beta_slow < beta_fast"),
        ({"rope_type": "yarn", "factor": 4, "truncate": "no"}, "truncate must be"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "those of YaRN"),
        ([4], "must be an object"),
    ],
)
def test_positions_that_are_not_understood_are_refused(rope, words):
    with pytest.raises(ValueError, match=words):
        LongcatConfig.from_dict({"rope_parameters": rope})


def _yarn_parameters():
    """All combinations of the keys that may be there or not."""
    keys = {
        "mscale": (0.7, 0, None), "mscale_all_dim": (1.3, 0, None), "attention_factor": (1.2, None),
        "truncate": (False, True, None), "beta_fast": (20.0, None), "factor": (8.0, 0.5),
    }  # fmt: skip
    for values in itertools.product(*keys.values()):
        rope = dict(zip(keys, values, strict=True))
        yield {key: value for key, value in rope.items() if value is not None}


def test_every_combination_of_yarn_s_keys_turns_as_transformers_does(config):
    transformers = pytest.importorskip("transformers")
    from transformers.models.longcat_flash import modeling_longcat_flash as peer

    positions = torch.arange(0, 500, 7)[None]
    seen = set()
    for more in _yarn_parameters():
        rope = {"rope_type": "yarn", "original_max_position_embeddings": 64, **more}
        values = {**config.to_dict(), "max_position_embeddings": 512, "rope_parameters": rope}
        ours = LongcatConfig.from_dict(values)
        theirs = transformers.LongcatFlashConfig.from_dict({**values, "rope_parameters": {**rope}})
        cos, sin = rotary_tables(positions, ours)
        half = cos.shape[-1]
        for got, expected in zip(
            (cos, sin),
            peer.LongcatFlashRotaryEmbedding(theirs)(torch.zeros(1), positions),
            strict=True,
        ):
            torch.testing.assert_close(got, expected[..., :half], atol=1e-5, rtol=0)
        attention = peer.LongcatFlashMLA(theirs, 0)
        scale = ours.qk_head_dim**-0.5 * ours.rope_scaling.softmax_scale
        assert scale == pytest.approx(attention.scaling, rel=1e-6)
        assert LongcatConfig.from_dict(ours.to_dict()) == ours
        seen.add((round(ours.rope_scaling.table_scale, 6), round(scale, 6)))
    assert len(seen) == 6


NGRAM = {"ngram_vocab_size_ratio": 2.3, "emb_neighbor_num": 3, "emb_split_num": 2}


def _loop_over_ngrams(model, ids):
    """Equation 3 token by token, with whole numbers as large as they come."""
    config, tables = model.config, model.model.ngram_embeddings
    out = []
    for i, token in enumerate(ids):
        total = model.model.embed_tokens.weight[token].clone()
        text = ids[: i + 1]
        for back in range(1, len(text)):  # begin after the last EOS before this token
            if text[-1 - back] == config.eos_token_id:
                text = text[len(text) - back :]
                break
        for n in range(2, config.emb_neighbor_num + 1):
            gram = [text[-1 - j] if j < len(text) else 0 for j in range(n)]
            number = sum(t * config.vocab_size**j for j, t in enumerate(gram))
            for k in range(config.emb_split_num):
                place = (n - 2) * config.emb_split_num + k
                row = number % int(
                    config.ngram_vocab_size_ratio * config.vocab_size + 2 * place + 1
                )
                total += tables.post_projs[place].weight @ tables.embedders[place].weight[row]
        out.append(total / ((config.emb_neighbor_num - 1) * config.emb_split_num + 1))
    return torch.stack(out)


def test_ngram_embeddings_equal_a_loop_and_restart_after_eos(config):
    model = _with(config, **NGRAM)
    ids = [5, 9, 9, 2, 7, 2, 2, 11, 5, 9]  # 2 ends a text
    x = torch.tensor([ids])
    with torch.no_grad():
        got = model.model.ngram_embeddings(model.model.embed_tokens(x), x, None)[0]
        torch.testing.assert_close(got, _loop_over_ngrams(model, ids))
    assert neighbours(x, num=2, eos=2)[0].tolist() == [
        [0, 0], [5, 0], [9, 5], [9, 9], [0, 0], [7, 0], [0, 0], [0, 0], [11, 0], [5, 11]
    ]  # fmt: skip


def test_hashes_stay_exact_at_the_released_sizes():
    config = get_preset("lite")
    sizes = table_sizes(config)
    assert sizes[0] == 78 * 131_072 + 1
    assert len(sizes) == 12
    from longcat_moe._ngram import NgramEmbedding

    with torch.device("meta"):
        tables = NgramEmbedding(config)
    ids, before = [131_071], [131_070, 131_069, 131_068]
    for place, size in enumerate(sizes):
        gram = [*ids, *before[: place // 4 + 1]]
        number = sum(t * config.vocab_size**j for j, t in enumerate(gram))
        row = tables.rows(place, torch.tensor([ids]), torch.tensor([[before]]))
        assert row.item() == number % size


def test_the_engine_knows_what_came_before(config):
    model = _with(config, **NGRAM)
    turns = [[5, 9, 11, 2, 7], [8, 8], [3]]

    async def talk():
        engine = Engine(model.config, num_slots=2, max_length=64)
        engine.add_model(0, model)
        other = await engine.open(0)
        one = await engine.open(0)
        await engine.generate(other, [4, 4, 4], max_tokens=2, temperature=0)
        seen, log_probs = [], []
        for turn in turns:
            result = await engine.generate(one, turn, max_tokens=4, temperature=0, stop_ids=())
            seen += [(t, None) for t in turn]
            seen += list(zip(result.token_ids, result.log_probs, strict=True))
        return seen, log_probs

    seen, _ = asyncio.run(talk())
    with torch.no_grad():
        whole = model(torch.tensor([[t for t, _ in seen]])).logits[0].log_softmax(-1)
    sampled = [(place, t, lp) for place, (t, lp) in enumerate(seen) if lp is not None]
    assert len(sampled) == 12
    for place, token, log_prob in sampled:
        assert log_prob == pytest.approx(whole[place - 1, token].item(), abs=1e-4)


def test_ngram_folders_come_back_and_name_their_kind(config, tmp_path):
    model = _with(config, **NGRAM)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "longcat_flash_ngram"
    ids = torch.tensor([[4, 8, 15, 16, 23, 42]])
    with torch.no_grad():
        again = LongcatForCausalLM.from_pretrained(tmp_path).eval()(ids).logits
        torch.testing.assert_close(again, model(ids).logits)


def _collisions(config, num=20_000):
    """2-grams that share a row of the first table, by Zipf's law, over those of a random hash."""
    g = torch.Generator().manual_seed(0)
    rank = torch.arange(1, config.vocab_size + 1, dtype=torch.float64)
    drawn = torch.multinomial(1 / rank, 2 * num, replacement=True, generator=g).view(-1, 2)
    grams = sorted(set(map(tuple, drawn.tolist())))
    size = table_sizes(config)[0]
    rows = Counter((a + b * config.vocab_size) % size for b, a in grams)
    expected = len(grams) - size * (1 - (1 - 1 / size) ** len(grams))
    return (len(grams) - len(rows)) / expected


@pytest.mark.parametrize(
    ("ratio", "bad"), [(30.0, True), (30.5, True), (30.27, False), (78.3, False)]
)
def test_sizes_near_multiples_collide_and_are_warned_of(config, ratio, bad):
    config = dataclasses.replace(config, vocab_size=4096, ngram_vocab_size_ratio=ratio)
    assert collides(config) is bad
    assert (_collisions(config) > 1.6) is bad
    if bad:
        with pytest.warns(UserWarning, match="many 2-grams will share a row"):
            LongcatForCausalLM(dataclasses.replace(config, emb_neighbor_num=2))


def test_presets_have_the_published_sizes():
    assert round(count_parameters("flash") / 1e9, 2) == 560.66
    assert round(count_parameters("lite") / 1e9, 1) == 68.6  # published as 68.5B
    idle, one = (count_active_parameters("flash", num_ffn_experts=n) / 1e9 for n in (0, 1))
    assert (round(idle, 2), round(one - idle, 3)) == (18.69, 1.057)
    tables = sum(table_sizes(get_preset("lite"))) * 256 / 1e9
    assert round(tables, 1) == 31.4
    with pytest.raises(ValueError, match="must be one of flash"):
        get_preset("huge")
