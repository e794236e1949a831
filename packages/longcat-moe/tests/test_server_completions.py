"""Completions as vLLM's server answers them, the small routes, and who is let in."""

import asyncio
import json

import httpx
import pytest
import torch
from longcat_moe import ChatFormat, Engine, LongcatForCausalLM
from longcat_moe.server import create_app
from longcat_moe.server import serve as run_server
from safetensors.torch import save

openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "find the book of Ada"}]
TEXTS = ["find the book", "of Ada Berg, quickly", "I look"]


@pytest.fixture(scope="module")
def table(engine, tokenizer):
    """Log-probabilities of the model itself after each token of a text."""
    torch.manual_seed(0)
    model = LongcatForCausalLM(engine.config).eval()

    def table(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return table


def _ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_a_list_of_prompts_is_answered_in_order(client, tokenizer):
    options = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    alone = [client.completions.create(prompt=text, **options).choices[0].text for text in TEXTS]
    for prompts in (TEXTS, [_ids(tokenizer, text) for text in TEXTS]):
        got = client.completions.create(prompt=prompts, n=2, **options)
        assert [choice.index for choice in got.choices] == list(range(6))
        assert [choice.text for choice in got.choices] == [text for text in alone for _ in range(2)]
        assert got.usage.prompt_tokens == sum(len(_ids(tokenizer, text)) for text in TEXTS)
        assert got.usage.completion_tokens == 30


def test_many_prompts_are_not_refused_because_of_themselves(client, engine):
    got = client.completions.create(model="tiny", prompt=["find"] * 40, max_tokens=2)
    assert len(got.choices) == 40
    assert engine.num_open == 0


@pytest.mark.parametrize("max_tokens", [0, 4])
def test_echo_scores_the_prompt_as_the_model_does(client, tokenizer, table, max_tokens):
    got = client.completions.create(
        model="tiny", prompt=TEXTS, max_tokens=max_tokens, echo=True, logprobs=3, temperature=0
    )
    for text, choice in zip(TEXTS, got.choices, strict=True):
        ids, said = _ids(tokenizer, text), choice.logprobs
        assert choice.text.startswith(text)
        assert "".join(said.tokens[: len(ids)]) == text
        assert said.text_offset[:2] == [0, len(said.tokens[0])]
        assert len(said.tokens) == len(ids) + max_tokens == len(said.token_logprobs)
        expected = table(ids)
        assert said.token_logprobs[0] is None
        assert said.top_logprobs[0] is None
        for place in range(1, len(ids)):
            want = expected[place - 1, ids[place]].item()
            assert said.token_logprobs[place] == pytest.approx(want, abs=1e-4)
            top = said.top_logprobs[place]
            best = expected[place - 1].topk(3)
            assert max(top.values()) == pytest.approx(best.values[0].item(), abs=1e-4)
            assert tokenizer.decode([best.indices[0].item()], skip_special_tokens=False) == max(
                top, key=top.get
            )
            assert said.tokens[place] in top
    assert got.usage.completion_tokens == 3 * max_tokens


def test_prompt_log_probs_are_told_as_vllm_tells_them(url, tokenizer, table):
    ids = _ids(tokenizer, TEXTS[0])
    body = {"prompt": ids, "max_tokens": 1, "prompt_logprobs": 2}
    (choice,) = httpx.post(f"{url}/v1/completions", json=body).json()["choices"]
    told, expected = choice["prompt_logprobs"], table(ids)
    assert told[0] is None
    for place in range(1, len(ids)):
        entry = told[place][str(ids[place])]
        assert entry["logprob"] == pytest.approx(expected[place - 1, ids[place]].item(), abs=1e-4)
        assert entry["decoded_token"] == tokenizer.decode([ids[place]])
        ranks = [e["rank"] for e in told[place].values() if e["rank"]]
        assert ranks[:2] == [1, 2]


@pytest.mark.parametrize(
    "more", [{}, {"echo": True}, {"stop": ["e"]}, {"echo": True, "logprobs": 2}]
)
def test_a_stream_of_completions_adds_up(client, more):
    options = {"model": "tiny", "prompt": TEXTS[:2], "max_tokens": 30, "seed": 4, "n": 2, **more}
    whole = client.completions.create(**options)
    parts = list(
        client.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    assert parts[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [p.choices[0] for p in parts if p.choices and p.choices[0].index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        assert all(part.finish_reason is None for part in mine[:-1])
        if "logprobs" in more:
            said = [p for part in mine for p in part.logprobs.token_logprobs]
            assert said == choice.logprobs.token_logprobs


def test_streamed_log_probs_and_ids_are_those_of_the_whole(client):
    extra = {"return_token_ids": True}
    options = {
        "model": "tiny", "prompt": "find", "max_tokens": 6, "seed": 4, "logprobs": 2,
        "extra_body": extra,
    }  # fmt: skip
    (whole,) = client.completions.create(**options).choices
    parts = [p.choices[0] for p in client.completions.create(**options, stream=True)]
    assert [i for part in parts for i in part.token_ids] == whole.token_ids
    assert [t for part in parts for t in part.logprobs.tokens] == whole.logprobs.tokens
    assert [o for part in parts for o in part.logprobs.text_offset] == whole.logprobs.text_offset


def test_what_is_asked_of_sampling_is_done(client, engine, tokenizer):
    options = {"model": "tiny", "prompt": "find", "max_tokens": 20, "temperature": 0}
    extra = {"return_token_ids": True, "skip_special_tokens": False}

    def ids(**more):
        more["extra_body"] = {**extra, **more.pop("extra_body", {})}
        return client.completions.create(**options, **more).choices[0].token_ids

    plain = ids()
    word = tokenizer.token_to_id("t")
    assert ids(logit_bias={str(word): 100}) == [word] * 20
    assert len(set(ids(extra_body={"repetition_penalty": 50}))) > len(set(plain))
    assert len(set(ids(frequency_penalty=2, logit_bias={str(word): 6}))) > 1
    assert ids(presence_penalty=2) != plain or len(set(plain)) == 20
    hot = {"temperature": 50.0, "seed": 3}
    assert client.completions.create(
        model="tiny", prompt="find", max_tokens=5, **hot, extra_body={**extra, "min_p": 1.0}
    ).choices[0].token_ids == plain[:5]  # fmt: skip
    eos = {str(engine.config.eos_token_id): 100}
    assert len(ids(logit_bias=eos)) == 1
    assert len(ids(logit_bias=eos, extra_body={"ignore_eos": True})) == 20
    stopped = client.completions.create(
        **options, extra_body={**extra, "stop_token_ids": [plain[3]]}
    )
    assert stopped.choices[0].token_ids == plain[: plain.index(plain[3]) + 1]
    assert stopped.choices[0].finish_reason == "stop"


def test_top_log_probs_of_a_chat_are_the_model_s(client, tokenizer, table):
    got = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=3, temperature=0, logprobs=True, top_logprobs=4
    ).choices[0]
    prompt = ChatFormat(tokenizer).start(ASK, [])
    best = table(prompt)[-1].topk(4)
    first = got.logprobs.content[0]
    assert [t.logprob for t in first.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert [t.token for t in first.top_logprobs] == [
        tokenizer.decode([i], skip_special_tokens=False) for i in best.indices.tolist()
    ]
    assert first.token == first.top_logprobs[0].token


def test_several_choices_of_a_chat_stream_together(client):
    options = {"model": "tiny", "messages": ASK, "max_tokens": 12, "seed": 9, "n": 3}
    whole = client.chat.completions.create(**options)
    parts = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert parts[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [p.choices[0] for p in parts if p.choices and p.choices[0].index == choice.index]
        said = "".join(getattr(p.delta, "reasoning_content", None) or "" for p in mine)
        assert said == choice.message.reasoning_content


# -- small routes ----------------------------------------------------------------------------


def test_tokens_there_and_back(url, tokenizer):
    got = httpx.post(f"{url}/tokenize", json={"prompt": TEXTS[0], "return_token_strs": True}).json()
    assert got["tokens"] == _ids(tokenizer, TEXTS[0])
    assert got["count"] == len(got["tokens"])
    assert "".join(got["token_strs"]) == TEXTS[0]
    assert (
        httpx.post(f"{url}/detokenize", json={"tokens": got["tokens"]}).json()["prompt"] == TEXTS[0]
    )
    chat = httpx.post(f"{url}/tokenize", json={"messages": ASK}).json()["tokens"]
    assert chat == ChatFormat(tokenizer).start(ASK, [])
    assert httpx.post(f"{url}/detokenize", json={"tokens": [-1]}).status_code == 400


def test_metrics_count_what_was_asked(url, client, engine):
    client.completions.create(model="tiny", prompt="find", max_tokens=2)
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["longcat_sampled_tokens_total"]) == engine.stats.num_sampled > 0
    assert float(values['longcat_http_answers_total{route="/v1/completions",status="200"}']) > 0
    assert values["longcat_up"] == "1"
    named = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in values} == named


# -- keys ------------------------------------------------------------------------------------


@pytest.fixture
def small(engine):
    mine = Engine(engine.config, num_slots=4, max_length=120, threaded=True)
    mine.add_model(0, engine._models[0])
    return mine


def _ask(app, *requests, client=("127.0.0.1", 5)):
    async def go():
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            return await asyncio.gather(*(web.request(**request) for request in requests))

    return asyncio.run(go())


def _post(route="/v1/completions", key=None, **body):
    headers = {} if key is None else {"Authorization": key}
    return {"method": "POST", "url": route, "headers": headers, "json": {"prompt": "find", **body}}


def test_without_a_key_nobody_is_answered_but_the_health_check(small, tokenizer):
    app = create_app(small, ChatFormat(tokenizer), model="tiny", api_keys=["secret", "other"])
    for key in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer secre",
        "Bearer secret2",
        "Basic secret",
        "secret",
    ):
        (got,) = _ask(app, _post(key=key))
        assert got.status_code == 401
        assert got.json()["error"]["code"] == "invalid_api_key"
        assert got.headers["www-authenticate"] == "Bearer"
    for key in ("Bearer secret", "bearer other"):
        assert _ask(app, _post(key=key, max_tokens=2))[0].status_code == 200
    for route in ("/v1/models", "/v1/models/tiny"):
        assert _ask(app, {"method": "GET", "url": route})[0].status_code == 401
    for route in ("/health", "/metrics"):
        assert _ask(app, {"method": "GET", "url": route})[0].status_code == 200


def test_a_key_has_its_share(small, tokenizer):
    app = create_app(small, ChatFormat(tokenizer), model="tiny", api_keys={"few": 1, "many": None})
    long = {"max_tokens": 100, "ignore_eos": True}
    got = _ask(
        app, *[_post(key="Bearer few", stream=n % 2 == 0, **long) for n in range(3)],
        *[_post(key="Bearer many", **long) for _ in range(3)],
    )  # fmt: skip
    codes = [answer.status_code for answer in got]
    assert sorted(codes[:3]) == [200, 429, 429]
    assert codes[3:] == [200] * 3
    refused = next(answer for answer in got if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    for stream in (True, False, True):  # it comes back when an answer ends, streamed or not
        assert _ask(app, _post(key="Bearer few", stream=stream, max_tokens=1))[0].status_code == 200
    again = _ask(app, *[_post(key="Bearer few", **long) for _ in range(3)])  # and no more than it
    assert sorted(answer.status_code for answer in again) == [200, 429, 429]


def test_weights_are_taken_with_a_key_or_from_this_machine(small, tokenizer):
    torch.manual_seed(5)
    data = save(LongcatForCausalLM(small.config).state_dict())
    put = {"method": "PUT", "url": "/v1/weights/1", "content": data}
    free = create_app(small, ChatFormat(tokenizer), model="tiny", takes_weights=True)
    assert _ask(free, put, client=("10.0.0.9", 5))[0].status_code == 403
    assert _ask(free, put)[0].status_code == 200
    keyed = create_app(
        small, ChatFormat(tokenizer), model="tiny", takes_weights=True, api_keys="secret", version=1
    )
    assert _ask(keyed, put)[0].status_code == 401
    put["headers"] = {"Authorization": "Bearer secret"}
    assert _ask(keyed, put, client=("10.0.0.9", 5))[0].status_code == 200
    large = {**put, "content": b"", "headers": {**put["headers"], "Content-Length": "99999999999"}}
    assert _ask(keyed, large)[0].status_code == 413


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: b"\xff" * 8 + data,
        lambda data: data[:8] + b"[" * 100_000,
        lambda data: save({"lm_head.weight": torch.zeros(3)}),
        lambda data: save({}),
        lambda data: b"",
    ],
)
def test_weights_that_do_not_fit_change_nothing(small, tokenizer, damage):
    app = create_app(small, ChatFormat(tokenizer), model="tiny", takes_weights=True)
    data = damage(save(small._models[0].state_dict()))
    (got,) = _ask(app, {"method": "PUT", "url": "/v1/weights/7", "content": data})
    assert got.status_code == 400
    assert "weights" in got.json()["error"]["message"]
    assert _ask(app, _post(max_tokens=1))[0].json()["system_fingerprint"] == "weights-0"
    assert small.versions == [0]


def test_who_opens_the_door_to_all_is_warned(small, tokenizer, monkeypatch):
    import uvicorn

    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: None)
    app = create_app(small, ChatFormat(tokenizer), model="tiny")
    with pytest.warns(UserWarning, match="no API key"):
        run_server(app, host="0.0.0.0", port=1)
    run_server(app, host="127.0.0.1", port=1)
    run_server(app, host="localhost", port=1)
    keyed = create_app(small, ChatFormat(tokenizer), model="tiny", api_keys=["x"])
    run_server(keyed, host="0.0.0.0", port=1)
    with pytest.raises(ValueError, match="API keys"):
        create_app(small, ChatFormat(tokenizer), model="tiny", api_keys=[""])


def test_requests_are_logged_without_what_they_hold(url, caplog):
    with caplog.at_level("INFO", "longcat_moe.server"):
        httpx.post(f"{url}/v1/completions", json={"prompt": "Ada Berg", "max_tokens": 1})
        httpx.post(f"{url}/v1/completions", json={"prompt": "Ada Berg", "max_tokens": -1})
    lines = [
        record.getMessage() for record in caplog.records if record.name == "longcat_moe.server"
    ]
    assert any("POST /v1/completions 200" in line for line in lines)
    assert any("POST /v1/completions 400" in line for line in lines)
    assert "Ada" not in json.dumps(lines)
