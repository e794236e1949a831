"""Any Hugging Face model as an engine.

Log-probs of the version that sampled, tools, evaluation, a run.
"""

import asyncio
import dataclasses
import functools
import json
import math
import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from longcat_dora import (  # noqa: E402
    LocalRuntime,
    LongcatDoraError,
    Mask,
    RunConfig,
    SchedulerConfig,
    Session,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora.transformers import (  # noqa: E402
    TransformersEngine,
    TransformersRenderer,
    chat_worker,
    evaluate,
    world_worker,
)
from longcat_dora.transformers._worker import messages_of, scored  # noqa: E402
from safetensors.torch import save  # noqa: E402

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}{% for t in tools %}{{ '<s>tools\n' + (t | tojson) + '</s>' }}{% endfor %}{% endif %}"
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ '<tool_call>' + (c['function'] | tojson) + '</tool_call>' }}"
    "{% endfor %}{{ '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def _tokenizer(template=CHATML):
    """Characters, and the ends of turns."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = [chr(n) for n in range(32, 127)] + ["\n"]
    words = ["<unk>", "<s>", "</s>", *characters]
    plain = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=["<s>"],
    )
    made.chat_template = template
    return made


def _llama(seed=0, **changes):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes,
    })  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _bytes(model):
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    return save(state)


@pytest.fixture
def folder(tmp_path):
    """A model with its tokenizer, as they lie on a hub."""
    path = tmp_path / "model"
    _llama().save_pretrained(path)
    _tokenizer().save_pretrained(path)
    return str(path)


# -- log-probs ---------------------------------------------------------------------------------


def _worst_gap(engine, models, temperature, *, turns=3):
    """Conversations of several turns on every version at once, against passes without a cache."""

    async def talk(version, number):
        identifier = await engine.open(version, seed=number)
        said = []
        for turn in range(turns):
            prompt = [5 + number % 2, 7, 9][: 2 + turn % 2]
            part = await engine.generate(
                identifier, prompt, max_tokens=3 + 2 * number, temperature=temperature
            )
            said.append((prompt, part))
        await engine.close(identifier)
        return version, said

    async def go():
        talks = [talk(version, number) for version in models for number in range(5)]
        found = await asyncio.gather(*talks)
        await engine.stop()
        return found

    worst, num = 0.0, 0
    for version, said in asyncio.run(go()):
        ids = [t for prompt, part in said for t in [*prompt, *part.token_ids]]
        logs = [x for prompt, part in said for x in [None] * len(prompt) + part.log_probs]
        with torch.no_grad():
            logits = models[version](torch.tensor([ids])).logits[0]
        exact = (logits / (temperature or 1)).log_softmax(-1)
        for place, log in enumerate(logs):
            if log is not None:
                worst = max(worst, abs(exact[place - 1, ids[place]].item() - log))
                num += 1
    assert num > 50
    return worst


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_each_log_prob_is_that_of_its_version(temperature):
    """More conversations than rows, versions side by side, turns that continue a cache."""
    models = {1: _llama(1), 2: _llama(2)}
    engine = TransformersEngine(_llama(0), num_rows=4, max_length=96)
    engine.load_weights(1, memoryview(_bytes(models[1])))
    engine.load_weights(2, dict(models[2].state_dict()))  # tensors by name, too
    assert _worst_gap(engine, models, temperature) < 5e-5


def test_adapters_are_versions_beside_one_base():
    peft = pytest.importorskip("peft")

    def adapted(seed):
        torch.manual_seed(seed)
        model = peft.get_peft_model(_llama(0), peft.LoraConfig(r=4, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        config = json.dumps(model.peft_config["default"].to_dict(), default=sorted)
        state = {
            k: v.detach().contiguous() for k, v in peft.get_peft_model_state_dict(model).items()
        }
        return model.eval(), save(state, {"peft_config": config})

    engine, models = TransformersEngine(_llama(0), num_rows=4, max_length=96), {}
    for version in (1, 2):
        models[version], sent = adapted(version)
        engine.load_weights(version, sent)
    assert _worst_gap(engine, models, 1.0) < 5e-5


def test_sampling_follows_the_distribution_and_the_seed():
    model = _llama(3, eos_token_id=None)

    async def first_words(seed):
        engine = TransformersEngine(model, num_rows=64, max_length=8)
        engine.load_weights(0, b"")
        ids = [await engine.open(0, seed=seed + n) for n in range(1500)]
        parts = await asyncio.gather(
            *(engine.generate(i, [5], max_tokens=1, temperature=1.0) for i in ids)
        )
        await engine.stop()
        return [part.token_ids[0] for part in parts]

    drawn = asyncio.run(first_words(0))
    with torch.no_grad():
        exact = model(torch.tensor([[5]])).logits[0, -1].softmax(-1)
    seen = torch.bincount(torch.tensor(drawn), minlength=99) / len(drawn)
    assert (seen - exact).abs().sum() / 2 < 0.12  # about 0.09 by chance, for 99 words
    assert asyncio.run(first_words(0)) == drawn
    assert asyncio.run(first_words(5000)) != drawn


def test_interrupted_cancelled_and_full_conversations_end():
    async def go():
        engine = TransformersEngine(_llama(0, eos_token_id=None), num_rows=2, max_length=40)
        engine.load_weights(0, b"")
        one, two, three = [await engine.open(0) for _ in range(3)]
        running = asyncio.create_task(engine.generate(one, [5], max_tokens=30, temperature=1))
        gone = asyncio.create_task(engine.generate(two, [5], max_tokens=30, temperature=1))
        await asyncio.sleep(0)
        engine.interrupt(one)
        gone.cancel()
        stopped = await running
        await asyncio.gather(gone, return_exceptions=True)
        full = await engine.generate(three, [5] * 30, max_tokens=30, temperature=1)
        none = await engine.generate(three, [5], max_tokens=30, temperature=1)
        with pytest.raises(KeyError, match="must be live"):
            await engine.open(7)
        await engine.stop()
        return stopped, full, none

    stopped, full, none = asyncio.run(go())
    assert stopped.finish_reason == "interrupted"
    assert 1 <= len(stopped.token_ids) < 30
    assert (len(full.token_ids), full.finish_reason) == (10, "length")
    assert none.token_ids == []


def test_a_version_is_live_while_its_weights_are_taken(monkeypatch):
    engine = TransformersEngine(_llama(0), num_rows=2, max_length=40)
    take, taking, go_on = engine._take, threading.Event(), threading.Event()

    def slowly(weights):
        taking.set()
        go_on.wait(60)
        return take(weights)

    monkeypatch.setattr(engine, "_take", slowly)

    async def go():
        engine.load_weights(0, b"")
        first = asyncio.create_task(
            engine.generate(await engine.open(0), [5], max_tokens=2, temperature=1)
        )
        await asyncio.to_thread(taking.wait, 60)
        other = await engine.open(0)
        go_on.set()
        parts = await first, await engine.generate(other, [5], max_tokens=2, temperature=1)
        await engine.stop()
        return parts

    assert all(part.token_ids for part in asyncio.run(go()))


def test_what_does_not_fit_is_one_clear_error():
    sliding = _llama()
    sliding.config.layer_types = ["sliding_attention"] * 2
    sliding.config.sliding_window = 16
    with pytest.raises(LongcatDoraError, match="of 16 tokens"):
        TransformersEngine(sliding, max_length=64)
    nowhere = TransformersEngine(sliding, max_length=64, device="meta", stop_token_ids=[2])
    assert nowhere.stop_token_ids == [2]  # without weights its words alone are asked for

    async def with_weights(weights):
        engine = TransformersEngine(_llama(), max_length=32)
        engine.load_weights(0, weights)
        identifier = await engine.open(0)
        try:
            await engine.generate(identifier, [5], max_tokens=1, temperature=1)
        finally:
            await engine.stop()

    with pytest.raises(LongcatDoraError, match="unknown"):
        asyncio.run(with_weights(save({"elsewhere": torch.zeros(2)})))
    with pytest.raises(LongcatDoraError, match="must be safetensors"):
        asyncio.run(with_weights(b"not at all, these are no weights"))
    with pytest.raises(LongcatDoraError, match="must be"):
        asyncio.run(with_weights(_bytes(_llama(hidden_size=16))))


def _model(kind, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64, "eos_token_id": 2,
        "bos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.3, **changes,
    })  # fmt: skip
    heads = {"GPT2": "LMHeadModel"}
    return getattr(transformers, kind + heads.get(kind, "ForCausalLM"))(config).eval()


LONG_ROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
    "rope_theta": 1e4,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


def _furthest(model, *, static=False):
    """How far log-probs of two turns of three conversations are from one pass over each."""
    engine = TransformersEngine(
        model, num_rows=4, max_length=32, stop_token_ids=[-1], static=static
    )
    engine.load_weights(0, b"")

    async def go():
        opened = [await engine.open(0, seed=n) for n in range(3)]
        said = [[5, 6, 7], [5, 6, 7, 8, 9], [11, 12]]
        logs = [[0.0] * len(ids) for ids in said]
        for new in (None, [3, 4]):
            given = said if new is None else [new] * 3
            parts = await asyncio.gather(*(
                engine.generate(one, ids, max_tokens=4 + n, temperature=1)
                for n, (one, ids) in enumerate(zip(opened, given, strict=True))
            ))  # fmt: skip
            for ids, log, part in zip(said, logs, parts, strict=True):
                ids += (new or []) + list(part.token_ids)
                log += [0.0] * len(new or []) + list(part.log_probs)
        await engine.stop()
        return said, logs

    worst = 0.0
    for ids, log in zip(*asyncio.run(go()), strict=True):
        with torch.no_grad():
            whole = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        worst = max([worst, *(abs(whole[n - 1, ids[n]].item() - log[n])
                              for n in range(len(ids)) if log[n])])  # fmt: skip
    return worst


@pytest.mark.parametrize(("kind", "options"), [
    ("Llama", {"num_key_value_heads": 2}),
    ("Llama", {"num_key_value_heads": 2, "attn_implementation": "eager"}),
    ("Gemma2", {"num_key_value_heads": 2, "head_dim": 8, "attn_implementation": "eager"}),
    ("GPT2", {"n_inner": 48}),
    ("GPTJ", {"rotary_dim": 8, "n_inner": 48}),
    ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    ("Mistral", {"num_key_value_heads": 2, "sliding_window": 32}),
    ("Phi3", {"num_key_value_heads": 4, "original_max_position_embeddings": 32,
              "rope_parameters": LONG_ROPE}),
    ("Llama", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC}),
])  # fmt: skip
@pytest.mark.parametrize("static", [False, True])
def test_other_models_sample_from_what_they_tell(kind, options, static):
    """Attention that adds its mask, positions from a table, lengths that nothing reaches."""
    assert _furthest(_model(kind, **options), static=static) < 1e-4


@pytest.mark.parametrize(("kind", "options", "said"), [
    ("Bloom", {}, "needs a model that takes positions"),
    ("Mistral", {"num_key_value_heads": 2, "sliding_window": 8}, "of 8 tokens: give max_length=8"),
    ("GPT2", {"max_position_embeddings": 16}, "knows 16 positions: give max_length=16, got 32"),
    ("Phi3", {"num_key_value_heads": 4, "original_max_position_embeddings": 16,
              "rope_parameters": LONG_ROPE}, "longrope rope .* beyond 16 .*: give max_length=16, got 32"),
    ("Llama", {"rope_parameters": {**LONG_ROPE, "original_max_position_embeddings": 16}},
     "longrope rope .* beyond 16 tokens: give max_length=16"),
    ("Llama", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC},
     "dynamic rope .* beyond 16 tokens: give max_length=16, got 32"),
])  # fmt: skip
def test_models_that_would_sample_from_another_distribution_are_refused(kind, options, said):
    with pytest.raises(LongcatDoraError, match=said):
        TransformersEngine(_model(kind, **options), max_length=32)


# -- templates ---------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}}}}]  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS])
def test_extending_writes_what_rendering_all_at_once_writes(template):
    tokenizer = _tokenizer(template)
    renderer = TransformersRenderer(tokenizer)
    start = [{"role": "user", "content": "hello"}]
    more = [{"role": "user", "content": "and now?"}]
    said = "well</s>"
    ids = renderer.start(start, []) + renderer._ids(said) + renderer.extend(more)
    whole = [*start, {"role": "assistant", "content": "well"}, *more]
    text = tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS])
def test_tools_go_by_the_template_or_by_the_usual_words(template):
    renderer = TransformersRenderer(_tokenizer(template))
    assert renderer.knows_tools == (template == WITH_TOOLS)
    start = renderer.start([{"role": "user", "content": "add"}], TOOLS)
    text = renderer.tokenizer.decode(start)
    assert '"name": "add"' in text
    assert text.endswith("<s>assistant\n")
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
    message = renderer.parse(renderer._ids(call + "</s>"), TOOLS)
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 3}}
    assert message["content"] == ""
    after = renderer.tokenizer.decode(renderer.extend([{"role": "tool", "content": "7"}]))
    assert "7" in after
    assert ("<tool_response>" in after) == (template == CHATML)
    assert "call-0" not in after.replace("tool_call", "")
    # What is learned from and what is prompted with are written alike.
    messages = [{"role": "user", "content": "add"}, message, {"role": "tool", "content": "7"}]
    whole = renderer._text(*renderer.written(messages, TOOLS))
    assert whole.startswith(text)
    assert whole.count("<tool_call>") > text.count("<tool_call>")
    assert after.split("<s>assistant")[0].rstrip() in whole


@pytest.mark.parametrize(("text", "calls"), [
    ('{"name": "add", "parameters": {"a": 1}}', 1),
    ('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {}}]', 2),
    (2 * '<tool_call>{"name": "add", "arguments": {}}</tool_call> ', 2),
    ('<tool_call>{"name": "add", "arguments": </tool_call>', 0),
    ('{"answer": 3}', 0), ("3 + 4", 0), ("[1]", 0),
])  # fmt: skip
def test_calls_are_found_in_what_models_write(text, calls):
    renderer = TransformersRenderer(_tokenizer())
    message = renderer.parse(renderer._ids(text + "</s>"), TOOLS)
    assert len(message.get("tool_calls", [])) == calls
    if not calls:
        assert message["content"] == text
    assert "tool_calls" not in renderer.parse(renderer._ids(text), [])


def test_thoughts_are_told_apart():
    renderer = TransformersRenderer(_tokenizer())
    for text in ("<think>\nhm\n</think>\n\nyes</s>", "hm\n</think>\n\nyes</s>"):
        message = renderer.parse(renderer._ids(text), [])
        assert (message["reasoning_content"], message["content"]) == ("hm", "yes")


def test_a_template_without_an_end_of_turn_is_refused():
    with pytest.raises(LongcatDoraError, match="end an assistant's turn"):
        TransformersRenderer(_tokenizer("{% for m in messages %}{{ m['content'] }}\n{% endfor %}"))
    with pytest.raises(LongcatDoraError, match="has none"):
        TransformersRenderer(_tokenizer(None))


# -- workers, evaluation, a run ----------------------------------------------------------------


def length_of(task, answer):
    return len(answer) / task["most"]


async def two_turns(task, policy):
    messages = [{"role": "user", "content": task["prompt"]}]
    answer = await policy.chat(messages, tools=[])
    await policy.chat([*messages, answer, {"role": "user", "content": "more"}], tools=[])
    return 1.0


TASKS = [Task(f"t{n}", {"prompt": "abc"[: 1 + n % 3], "most": 12}) for n in range(6)]


def test_an_evaluation_tries_every_task_and_repeats(folder):
    worker = chat_worker(folder, length_of, max_tokens=12, max_length=64)
    one = evaluate(worker, TASKS, temperature=1.0, seed=3)
    assert [a.task for a in one] == [task.id for task in TASKS]
    assert all(a.reward == len(a.info["answer"]) / 12 for a in one)
    again = evaluate(worker, TASKS, temperature=1.0, seed=3)
    assert [a.info for a in again] == [a.info for a in one]
    other = evaluate(worker, TASKS, weights=_bytes(_llama(4)), version=1)
    assert [a.info for a in other] != [a.info for a in evaluate(worker, TASKS)]
    failed = evaluate(worker, [Task("bad", {"question": "x"}), Task("long", {"prompt": "x" * 80})])
    assert "must have messages or a prompt" in failed[0].info["error"]
    assert failed[1].info == {"masked": "the prompt fills the context"}

    async def odd(task, policy):
        return task["prompt"]

    found = evaluate(dataclasses.replace(worker, rollout=odd), [Task("a", {"prompt": "x"})])
    assert found[0].reward is None
    assert found[0].info == {"error": "a reward must be a finite number, got 'x'"}


def test_a_conversation_of_two_turns_is_one_segment(folder):
    worker = world_worker(folder, two_turns, max_tokens=6, max_length=96)

    async def go():
        worker.engine.load_weights(0, b"")
        session = Session(worker, 0, seed=1)
        await worker.rollout(TASKS[0].payload, session)
        await session.close()
        await worker.engine.stop()
        return session.segments

    segments = asyncio.run(go())
    assert len(segments) == 1


def test_functions_are_found_in_files_or_named_as_missing(folder, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def score(task, answer):\n    return 0.5\n")
    worker = chat_worker(folder, f"{file}:score", max_tokens=2, max_length=64)
    assert [a.reward for a in evaluate(worker, TASKS[:1])] == [0.5]
    for where, said in ((f"{file}:other", "must define"), ("score", "FILE.py:NAME"),
                        (f"{tmp_path}/none.py:score", "FILE.py:NAME")):  # fmt: skip
        with pytest.raises(LongcatDoraError, match=said):
            chat_worker(folder, where)
    file.write_text("raise SystemExit(3)\n")
    with pytest.raises(LongcatDoraError, match="cannot be run: SystemExit"):
        chat_worker(folder, f"{file}:score")
    file.write_text("1 / 0\n")
    with pytest.raises(LongcatDoraError, match="cannot be run: ZeroDivisionError"):
        chat_worker(folder, f"{file}:score")


def _raises(task, answer):
    raise KeyError("answer")


def _masks(task, answer):
    raise Mask("nobody knows")


@pytest.mark.parametrize(("value", "said"), [
    ("good", "got 'good' for the answer 'yes'"), ("0.5", "got '0.5'"),
    (None, "got None"), ([1.0, 0.0], r"got \[1.0, 0.0\]"), (math.nan, "got nan"), (10**400, "got 1000"),
])  # fmt: skip
async def test_a_reward_that_is_none_is_named(value, said):
    """Ended as a hundred rollouts that raised, with a traceback through our own files."""

    def mine(task, answer):
        return value

    with pytest.raises(LongcatDoraError, match=f"reward mine must return a .*{said}"):
        await scored(mine, {}, "yes")


async def test_rewards_may_be_of_any_library_awaited_or_left_out():
    async def later(task, answer):
        return torch.tensor([0.25])

    assert [await scored(later, {}, ""), await scored(lambda *_: True, {}, "")] == [0.25, 1.0]
    with pytest.raises(
        LongcatDoraError, match=r"_raises raised KeyError\('answer'\) at test_transf"
    ):
        await scored(_raises, {}, "")
    with pytest.raises(Mask, match="nobody knows"):
        await scored(_masks, {}, "")


@pytest.mark.parametrize(("task", "said"), [
    ({"prompt": 5}, "prompt must be text, got 5"), ({"prompt": None}, "prompt must be text"),
    ({"messages": []}, "must be a list, each with a role"), ({"messages": "hi"}, "each with a role"),
    ({"messages": [{"content": "x"}]}, "each with a role"), ({}, "must have messages or a prompt"),
])  # fmt: skip
def test_a_task_that_is_none_is_named(task, said):
    with pytest.raises(LongcatDoraError, match=said):
        messages_of(task)


class _Still:
    """A trainer whose weights stay."""

    def __init__(self, weights):
        self._weights = weights

    def train(self, batch):
        return {"reward": sum(t.reward for t in batch) / len(batch)}

    def weights(self):
        return self._weights

    def save(self, folder):
        (folder / "nothing").write_bytes(b"")

    def restore(self, folder):
        pass


def _worker(folder) -> Worker:
    torch.set_num_threads(1)
    return chat_worker(folder, length_of, max_tokens=8, max_length=64, num_rows=8)


@pytest.mark.usefixtures("importable")
def test_a_run_goes_through_and_its_log_holds(folder, tmp_path):
    config = RunConfig(
        folder=tmp_path / "run", max_steps=3,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, hard_staleness=2),
    )  # fmt: skip
    tasks = (TASKS[n % 6] for n in range(1000))
    tasks = (Task(f"{n}", task.payload) for n, task in enumerate(tasks))
    runtime = LocalRuntime(
        config, factory=functools.partial(_worker, folder), trainer=_Still(_bytes(_llama(0))),
        tasks=tasks,
    )  # fmt: skip
    assert runtime.run() == 3
    assert check(read_events(tmp_path / "run" / "log")).breaches == []
