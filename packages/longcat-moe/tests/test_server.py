"""The server, asked by the `openai` client and by hand."""

import asyncio
import json
import time

import httpx
import pytest
import torch
from longcat_moe import ChatFormat, Engine, LongcatForCausalLM
from longcat_moe.server import create_app
from longcat_moe.serving._shown import Shown, TextStream
from safetensors.torch import save

openai = pytest.importorskip("openai")

TOOLS = [{"type": "function", "function": {
    "name": "find", "description": "Find.",
    "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}}]  # fmt: skip
ASK = [{"role": "user", "content": "find the book of Ada"}]
CALL = (
    "I look\n</longcat_think>\nWell. <longcat_tool_call>find\n<longcat_arg_key>name"
    "</longcat_arg_key>\n"
    "<longcat_arg_value>Ada é</longcat_arg_value>\n</longcat_tool_call>\n</longcat_s>"
)


def test_an_answer_is_what_the_engine_says(client, engine, tokenizer):
    got = client.chat.completions.create(
        model="tiny", messages=ASK, tools=TOOLS, max_tokens=12, temperature=0, logprobs=True
    )
    prompt = ChatFormat(tokenizer).start(ASK, TOOLS)

    async def direct():
        mine = Engine(engine.config, num_slots=1, max_length=600)
        mine.add_model(0, engine._models[0])
        c = await mine.open(0)
        return await mine.generate(c, prompt, max_tokens=12, temperature=0)

    expected = asyncio.run(direct())
    assert got.usage.prompt_tokens == len(prompt)
    assert got.usage.completion_tokens == len(expected.token_ids)
    shown = [entry.logprob for entry in got.choices[0].logprobs.content]
    assert shown == pytest.approx(expected.log_probs, abs=1e-4)
    assert got.choices[0].finish_reason == "length"


def test_a_stream_adds_up_to_the_whole(client):
    options = {"model": "tiny", "messages": ASK, "max_tokens": 40, "temperature": 1.0, "seed": 3}
    whole = client.chat.completions.create(**options)
    parts = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert parts[-1].usage == whole.usage
    deltas = [part.choices[0].delta for part in parts if part.choices]
    message = whole.choices[0].message
    assert "".join(d.content or "" for d in deltas) == message.content
    thoughts = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert thoughts == message.reasoning_content
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_what_is_shown_while_it_grows_adds_up_and_never_takes_back(width):
    from longcat_moe import parse_turn

    for text in (CALL, "a <b>\n</longcat_think>\n<c> 1 < 2 é", CALL[:70]):
        shown, sent = Shown(is_thinking=True), {"reasoning_content": "", "content": ""}
        for end in [*range(1, len(text), width), len(text)]:
            for key, piece in shown.advance(text[:end], []).items():
                assert piece  # nothing is sent in vain
                sent[key] += piece
        message = parse_turn(text, TOOLS)
        for key, piece in shown.rest(message).items():
            sent[key] += piece
        assert sent == {key: message[key] for key in sent}


def test_text_is_there_as_soon_as_its_characters_are_whole(tokenizer):
    text = "find é the 😀 book"
    stream = TextStream(lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False))
    ids = tokenizer.encode(text).ids
    for num, token in enumerate(ids, start=1):
        assert stream.add(token) == tokenizer.decode(ids[:num]).rstrip("\ufffd")
    assert stream.end() == text


def test_a_tool_call_comes_out_as_one(engine, tokenizer, monkeypatch):
    """The model is random; its words are put into the engine's mouth."""
    app = create_app(engine, ChatFormat(tokenizer), model="tiny")
    ids = tokenizer.encode(CALL, add_special_tokens=False).ids
    from longcat_moe.engine import Generation, Token

    async def generate(self, c, prompt, **options):
        return Generation(ids, [0.0] * len(ids), "stop")

    async def stream(self, c, prompt, **options):
        for i in ids:
            yield Token(i, 0.0, "stop" if i == ids[-1] else None)

    monkeypatch.setattr(Engine, "generate", generate)
    monkeypatch.setattr(Engine, "stream", stream)

    async def ask(**more):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            body = {"messages": ASK, "tools": TOOLS, **more}
            return await web.post("/v1/chat/completions", json=body)

    choice = asyncio.run(ask()).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"name": "Ada é"}
    assert choice["message"]["reasoning_content"] == "I look"
    assert choice["finish_reason"] == "tool_calls"
    events = [
        json.loads(line[6:]) for line in asyncio.run(ask(stream=True)).text.splitlines()
        if line.startswith("data: {")
    ]  # fmt: skip
    deltas = [event["choices"][0]["delta"] for event in events]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"name": "Ada é"}]
    assert "".join(d.get("content", "") for d in deltas) == "Well. "
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_next_turn_computes_only_what_is_new(client, engine):
    first = client.chat.completions.create(
        model="tiny", messages=ASK, tools=TOOLS, max_tokens=4, temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )  # fmt: skip
    before = engine.stats.num_prefilled
    talk = [*ASK, first.choices[0].message.to_dict(), {"role": "user", "content": "and Berg"}]
    second = client.chat.completions.create(
        model="tiny", messages=talk, tools=TOOLS, max_tokens=4, temperature=0
    )
    assert engine.stats.num_prefilled - before < second.usage.prompt_tokens / 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": []}, "one message at least"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "poet"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'text'"),
        ({"temperature": -1}, "temperature must be a number in"),
        ({"temperature": "hot"}, "got 'hot'"),
        ({"max_tokens": 0}, "max_tokens must be a whole number"),
        ({"n": 0}, "n must be a whole number"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "function with a name"),
        (
            {"messages": [{"role": "user", "content": "Ada " * 900}]},
            "maximum context length is 600",
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_clear_400(url, change, reason):
    got = httpx.post(
        f"{url}/v1/chat/completions", json={"messages": ASK, "model": "tiny", **change}
    )
    assert got.status_code == 400
    assert reason in got.json()["error"]["message"]


def test_no_json_is_400_and_an_unknown_model_404(url, client):
    assert httpx.post(f"{url}/v1/chat/completions", content=b"{").status_code == 400
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_several_choices_and_a_stop_string(client):
    options = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 30}
    free = client.chat.completions.create(**options)
    text = free.choices[0].message.reasoning_content  # a random model never stops thinking
    assert len(text) > 8
    stop = text[4:6]
    cut = client.chat.completions.create(**options, stop=stop, n=2)
    assert [choice.message.reasoning_content for choice in cut.choices] == [text.split(stop)[0]] * 2
    assert {choice.finish_reason for choice in cut.choices} == {"stop"}


def test_more_than_may_wait_are_sent_away_and_the_health_check_answers_meanwhile(url, engine):
    async def ask(web):
        body = {"messages": ASK, "max_tokens": 300, "stop": ["never said"]}
        got = await web.post(f"{url}/v1/chat/completions", json=body)
        assert (got.headers.get("retry-after") == "1") == (got.status_code == 429)
        return got.status_code

    async def many():
        async with httpx.AsyncClient(timeout=60) as web:
            tasks = [asyncio.create_task(ask(web)) for _ in range(7)]
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            await web.get(f"{url}/health")
            waited = time.perf_counter() - began
            return [await task for task in tasks], waited

    codes, waited = asyncio.run(many())
    assert codes.count(429) == 3
    assert codes.count(200) == 4
    assert waited < 1
    assert engine.num_open == 0


def test_a_client_that_leaves_frees_its_slot(url, engine):
    async def leave(**more):
        async with httpx.AsyncClient(timeout=0.2) as web:
            body = {
                "messages": ASK, "max_tokens": 550, "stop": ["never said"], "ignore_eos": True,
                **more,
            }  # fmt: skip
            with pytest.raises(httpx.ReadTimeout):
                async with web.stream("POST", f"{url}/v1/chat/completions", json=body) as got:
                    await got.aread()

    asyncio.run(leave())
    for _ in range(100):
        if not engine.num_open:
            return
        time.sleep(0.02)
    raise AssertionError(f"{engine.num_open} conversations are still open")


def _complete(client, prompt, **more):
    extra = {"return_token_ids": True, "skip_special_tokens": False}
    return client.completions.create(
        model="tiny", prompt=prompt, logprobs=0, max_tokens=6, extra_body=extra, **more
    )


def test_a_completion_tells_the_very_tokens_that_were_sampled(client, engine, tokenizer):
    text = "find the book"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    got = _complete(client, ids, seed=5, n=2)
    first, second = got.choices

    async def direct(seed):
        mine = Engine(engine.config, num_slots=1, max_length=600)
        mine.add_model(0, engine._models[0])
        c = await mine.open(0, seed=seed)
        return await mine.generate(c, ids, max_tokens=6)

    for choice, seed in ((first, 5), (second, 6)):
        expected = asyncio.run(direct(seed))
        assert choice.token_ids == expected.token_ids
        assert choice.logprobs.token_logprobs == pytest.approx(expected.log_probs, abs=1e-4)
        assert choice.text == tokenizer.decode(expected.token_ids, skip_special_tokens=False)
        assert choice.prompt_token_ids == ids
    assert got.usage.completion_tokens == sum(len(c.token_ids) for c in got.choices)
    assert _complete(client, text, seed=5).choices[0].token_ids == first.token_ids
    assert got.system_fingerprint == "weights-0"


@pytest.mark.parametrize(
    ("prompt", "more", "what"),
    [
        ([], {}, "token ids, or a list of 1 to"),
        ([10**6], {}, "token ids in"),
        ([1], {"suffix": "x"}, "suffix must be"),
        ([1], {"n": 0}, "n must be"),
        ([1], {"temperature": -1}, "temperature must be"),
    ],
)
def test_a_wrong_completion_is_one_reason(client, prompt, more, what):
    with pytest.raises(openai.BadRequestError, match=what):
        client.completions.create(model="tiny", prompt=prompt, max_tokens=2, **more)


def test_weights_come_by_http_where_that_is_allowed(client, url, engine, tokenizer):
    ids = tokenizer.encode("find", add_special_tokens=False).ids
    assert httpx.put(f"{url}/v1/weights/1", content=b"x").status_code == 404
    mine = Engine(engine.config, num_slots=2, max_length=64, threaded=True)
    mine.add_model(0, engine._models[0])
    app = create_app(mine, ChatFormat(tokenizer), model="tiny", takes_weights=True)
    torch.manual_seed(9)
    other = LongcatForCausalLM(engine.config)
    data = save({name: tensor.contiguous() for name, tensor in other.state_dict().items()})

    async def ask(http):
        body = {"prompt": ids, "max_tokens": 4, "temperature": 0, "return_token_ids": True}
        answer = (await http.post("/v1/completions", json=body)).json()
        return answer["choices"][0]["token_ids"], answer["system_fingerprint"]

    async def go():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            before = await ask(http)
            broken = await http.put("/v1/weights/4", content=data[:1000])
            assert (broken.status_code, await ask(http)) == (400, before)
            assert (await http.put("/v1/weights/4", content=data)).status_code == 200
            after = await ask(http)
            for _ in range(2):  # a run that is begun anew counts from 0 again
                assert (await http.put("/v1/weights/0", content=data)).status_code == 200
            assert await ask(http) == (after[0], "weights-0")
        assert after[1] == "weights-4"
        assert after[0] != before[0]
        assert len(mine._models) == 1  # what nobody speaks on is freed
        direct = Engine(engine.config, num_slots=1, max_length=64)
        direct.add_model(0, other)
        c = await direct.open(0)
        expected = await direct.generate(c, ids, max_tokens=4, temperature=0)
        assert after[0] == expected.token_ids

    asyncio.run(go())
