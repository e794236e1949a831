"""The multi-token prediction head, and what it guesses."""

import asyncio
import dataclasses

import pytest
import torch
from longcat_moe import Engine, LongcatForCausalLM


@pytest.fixture
def config(config):
    return dataclasses.replace(config, num_nextn_predict_layers=1)


def _teach_to_guess(model, prompts, *, temperature, num_new):
    """Let the head learn what the model says after a few prompts, until it guesses fairly."""
    torch.manual_seed(1)
    head, texts = model.model.mtp, []
    by_length = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt), []).append(prompt)
    for of_one_length in by_length.values():
        ids = torch.tensor(of_one_length)
        with torch.no_grad():
            for _ in range(num_new):
                logits = model(ids).logits[:, -1]
                probs = (logits / temperature).softmax(-1) if temperature else logits
                token = probs.multinomial(1) if temperature else logits.argmax(-1, keepdim=True)
                ids = torch.cat([ids, token], dim=1)
        texts.append(ids)
    model.requires_grad_(False)
    head.requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(25):
        for ids in texts:
            hidden = model.model(ids)
            target = model.lm_head(hidden[:, 1:]).softmax(-1)
            guess = model.lm_head(model.predict_next(hidden[:, :-1], ids[:, 1:]))
            loss = torch.nn.functional.cross_entropy(guess.flatten(0, 1), target.flatten(0, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.requires_grad_(False)


async def _answers(engine, prompts, **options):
    async def one(prompt):
        c = await engine.open(0)
        first = await engine.generate(c, prompt, stop_ids=(), **options)
        second = await engine.generate(c, [7, 8, 9], stop_ids=(), **options)
        await engine.close(c)
        return first, second

    return await asyncio.gather(*map(one, prompts))


async def _both_turns(engine):
    return await _answers(engine, PROMPTS, max_tokens=12, temperature=0)


PROMPTS = [[4, 5, 6], list(range(10, 40)), [50], list(range(60, 77))]


async def test_greedy_answers_are_the_same_with_and_without(model):
    _teach_to_guess(model, PROMPTS, temperature=0, num_new=15)
    plain = Engine(model.config, num_slots=4, max_length=96)
    guessing = Engine(model.config, num_slots=4, max_length=96, speculate=True, chunk_tokens=11)
    answers = []
    for engine in (plain, guessing):
        engine.add_model(0, model)
        answers.append(await _answers(engine, PROMPTS, max_tokens=15, temperature=0))
    for pair in zip(*answers, strict=True):
        for ours, theirs in zip(*pair, strict=True):
            assert ours.token_ids == theirs.token_ids
            assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)
    assert 0.1 < guessing.stats.acceptance_rate < 1
    assert guessing.stats.num_steps < plain.stats.num_steps


async def _counts(model, *, speculate, num=2000):
    """How often each pair of second and third token follows [4, 5]."""
    engine = Engine(
        model.config, num_slots=64, max_length=12, seed=int(speculate), speculate=speculate
    )
    engine.add_model(0, model)

    async def one():
        c = await engine.open(0)
        got = await engine.generate(c, [4, 5], max_tokens=3, stop_ids=(), temperature=0.7, top_k=4)
        await engine.close(c)
        return tuple(got.token_ids)

    drawn = await asyncio.gather(*(one() for _ in range(num)))
    counts: dict[tuple[int, ...], int] = {}
    for tokens in drawn:
        counts[tokens] = counts.get(tokens, 0) + 1
    return counts, engine


def _exact(model, params):
    """The probability of each continuation of [4, 5], by enumeration."""
    from longcat_moe.engine._sampling import distributions

    level = {(): 1.0}
    for _ in range(3):
        following = {}
        for tokens, p in level.items():
            with torch.no_grad():
                logits = model(torch.tensor([[4, 5, *tokens]])).logits[:, -1]
            probs = distributions(logits, [params])[0]
            for token in probs.nonzero().flatten().tolist():
                following[(*tokens, token)] = p * float(probs[token])
        level = following
    return level


def _chi2(counts, exact):
    num = sum(counts.values())
    assert set(counts) <= set(exact)
    kept = [key for key, p in exact.items() if p * num > 5]
    rest = num - sum(counts.get(key, 0) for key in kept)
    rest_p = 1 - sum(exact[key] for key in kept)
    cells = [(counts.get(key, 0), exact[key] * num) for key in kept]
    if rest_p * num > 5:
        cells.append((rest, rest_p * num))
    df = len(cells) - 1
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in cells), df


async def test_sampled_answers_have_the_model_s_distribution(model, monkeypatch):
    from longcat_moe.engine import _step
    from longcat_moe.engine._sampling import SamplingParams

    _teach_to_guess(model, [[4, 5]] * 24, temperature=0.7, num_new=4)
    exact = _exact(model, SamplingParams(max_tokens=3, temperature=0.7, top_k=4))
    counts, engine = await _counts(model, speculate=True)
    assert engine.stats.num_accepted > 250
    chi2, df = _chi2(counts, exact)
    assert chi2 < df + 5 * (2 * df) ** 0.5
    # The test can fail: whoever keeps every guess has another distribution.
    verify = _step._verify

    def keep_all(logits, ready, outcomes):
        for _, work in ready:
            if work.has_draft:
                draft = work.conversation.draft
                draft.probs_W[draft.token_id] = 0
        return verify(logits, ready, outcomes)

    monkeypatch.setattr(_step, "_verify", keep_all)
    wrong, _ = await _counts(model, speculate=True)
    assert _distance(wrong, exact) > 1.7 * _distance(counts, exact)


def _distance(counts, exact):
    num = sum(counts.values())
    return sum(abs(counts.get(key, 0) / num - exact.get(key, 0)) for key in {*counts, *exact})


def test_the_head_is_a_block_on_state_and_next_token(model, config):
    """Against the formula, written out."""
    head, ids = model.model.mtp, torch.tensor([[5, 6, 7, 8]])
    hidden = model.model(ids)
    got = model.predict_next(hidden[:, :-1], ids[:, 1:])

    def rms(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    from longcat_moe._rotary import rotary_tables

    block = head.layers[0]
    joined = torch.cat(
        [
            rms(head.embed_tokens.weight[ids[:, 1:]], block.enorm.m.weight),
            rms(hidden[:, :-1], block.hnorm.m.weight),
        ],
        dim=-1,
    )
    x = joined @ block.eh_proj.weight.T
    x = x + block.self_attn(
        rms(x, block.input_layernorm.weight), rotary_tables(torch.arange(3)[None], config)
    )
    h, ffn = rms(x, block.post_attention_layernorm.weight), block.transformer_layer.mlp
    gate, up = h @ ffn.gate_proj.weight.T, h @ ffn.up_proj.weight.T
    x = x + (gate * gate.sigmoid() * up) @ ffn.down_proj.weight.T
    assert torch.allclose(got, rms(x, head.norm.weight), atol=1e-5)


def test_a_head_s_names_are_those_of_the_checkpoints(model, tmp_path):
    from safetensors import safe_open

    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = {key for key in file.keys() if key.startswith("model.mtp.")}  # noqa: SIM118
    attention = {
        f"model.mtp.layers.0.self_attn.{part}.weight"
        for part in (
            "q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm",
            "kv_b_proj", "o_proj",
        )
    }  # fmt: skip
    rest = {
        f"model.mtp.{part}.weight"
        for part in (
            "embed_tokens", "norm", "layers.0.eh_proj", "layers.0.enorm.m", "layers.0.hnorm.m",
            "layers.0.input_layernorm", "layers.0.post_attention_layernorm",
            "layers.0.transformer_layer.mlp.gate_proj", "layers.0.transformer_layer.mlp.up_proj",
            "layers.0.transformer_layer.mlp.down_proj",
        )
    }  # fmt: skip
    assert names == attention | rest
    again = LongcatForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(
        again.predict_next(again.model(ids), ids), model.predict_next(model.model(ids), ids)
    )


def test_a_model_without_a_head_gets_one_that_can_be_trained_and_guesses(model, config, tmp_path):
    """As `longcat train` leaves a model: no head. What it says stays the same to the bit."""
    from longcat_moe import add_prediction_head, mtp_loss

    plain = LongcatForCausalLM(dataclasses.replace(config, num_nextn_predict_layers=0)).eval()
    large = add_prediction_head(plain).eval()
    ids = torch.randint(3, 96, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(large(ids).logits, plain(ids).logits)
    optimizer = torch.optim.Adam(large.model.mtp.parameters(), lr=5e-3)
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    losses = []
    for _ in range(25):
        with torch.no_grad():
            hidden = large.model(ids)
        loss = mtp_loss(large, hidden, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert all(torch.equal(w, before[n]) for n, w in plain.state_dict().items())
    large.save_pretrained(tmp_path)
    again = LongcatForCausalLM.from_pretrained(tmp_path).eval()
    # As `longcat serve --speculate` has it: every token is the one that greedy decoding takes.
    engine = Engine(again.config, num_slots=4, max_length=64, speculate=True, threaded=True)
    engine.add_model(0, again)
    for prompt, answers in zip(PROMPTS, asyncio.run(_both_turns(engine)), strict=True):
        said = list(prompt)
        for given, answer in zip(([], [7, 8, 9]), answers, strict=True):
            said += given
            for token in answer.token_ids:
                with torch.no_grad():
                    assert token == int(plain(torch.tensor([said])).logits[0, -1].argmax())
                said.append(token)
    assert engine.stats.num_drafted > 0
    with pytest.raises(ValueError, match="has one"):
        add_prediction_head(again)
