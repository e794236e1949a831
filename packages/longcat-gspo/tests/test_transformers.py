"""Models by name, chats as samples, and the synchronous run."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from longcat_gspo import TrainerConfig

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
from longcat_gspo.transformers import (  # noqa: E402
    _generate,
    _prompt,
    chat_sample,
    load_model,
    rl_steps,
)

_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)

TEMPLATE = (
    "{% if tools %}{{ '<s>tools ' + (tools | tojson) + '</s>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ '[' + c['function']['name'] + ']' }}{% endfor %}"
    "{{ '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def _tokenizer(template=TEMPLATE):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *[chr(n) for n in range(32, 127)], "\n"]
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


@pytest.fixture
def folder(tmp_path):
    model = models.llama(vocab=99, eos_token_id=2)
    # What a model's own generation config says must not change what is sampled from.
    model.generation_config.top_k, model.generation_config.temperature = 2, 0.3
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path / "model")
    _tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _learned(sample, tokenizer):
    """The learned stretches, as text."""
    parts, now = [], []
    for token, is_learned in [*zip(sample.token_ids, sample.loss_mask, strict=True), (0, False)]:
        if is_learned:
            now.append(token)
        elif now:
            parts.append(tokenizer.decode(now))
            now = []
    return parts


def test_what_the_assistant_says_is_learned_calls_and_ends_included():
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    chat = [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "so", "tool_calls": [call]},
        {"role": "tool", "content": "a sea"},
        {"role": "assistant", "content": "a sea."},
    ]
    tokenizer = _tokenizer()
    sample = chat_sample(tokenizer, chat, tools=[{"name": "look"}])
    assert _learned(sample, tokenizer) == ["hello</s>", "so[look]</s>", "a sea.</s>"]
    # As it is prompted when it is sampled: what comes before is what the template writes.
    place = sample.loss_mask.index(True)
    before = tokenizer.apply_chat_template(
        chat[:2], tools=[{"name": "look"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(sample.token_ids[:place]) == before


def test_a_chat_that_cannot_be_masked_is_refused():
    with pytest.raises(ValueError, match="message of the assistant"):
        chat_sample(_tokenizer(), [{"role": "user", "content": "hi"}])
    forgets = TEMPLATE.replace("(m['content'] or '')", "(m['content'] if loop.last else '-')")
    ask, tell = {"role": "user", "content": "two"}, {"role": "assistant", "content": "one"}
    with pytest.raises(ValueError, match="write message 1 alike"):
        chat_sample(_tokenizer(forgets), [ask, tell, ask])
    with pytest.raises(ValueError, match="begin with the assistant"):
        chat_sample(_tokenizer(), [tell, ask])


def test_tools_that_the_template_leaves_out_are_named():
    """They would be learned as answers that say nothing."""
    knows_none = (
        "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] or '' }}</s>{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]
    with pytest.raises(ValueError, match="it leaves 'look' out"):
        chat_sample(_tokenizer(knows_none), chat, tools=[{"name": "look"}])
    chat[1]["tool_calls"] = [call]
    with pytest.raises(ValueError, match="it leaves 'look' out"):
        chat_sample(_tokenizer(knows_none), chat)


@pytest.mark.parametrize("parts", [["hi"], ["h", "i"], ["", "hi"]])
def test_content_in_parts_is_taught_and_asked_as_text(parts):
    """It was learned as Python shows a list."""
    tokenizer = _tokenizer()
    inparts = [{"type": "text", "text": text} for text in parts]
    ask, tell = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}
    whole = chat_sample(tokenizer, [ask, tell])
    for chat in ([{**ask, "content": inparts}, tell], [ask, {**tell, "content": inparts}]):
        sample = chat_sample(tokenizer, chat)
        assert (sample.token_ids, sample.loss_mask) == (whole.token_ids, whole.loss_mask)
    asked = _prompt(tokenizer, {"messages": [{**ask, "content": inparts}]})
    assert asked == _prompt(tokenizer, {"prompt": "hi"})
    assert asked == _prompt(tokenizer, {"prompt": inparts})
    for task in ({"prompt": [{"type": "image"}]}, {"messages": [{**ask, "content": [{}]}]}):
        with pytest.raises(ValueError, match="message 0: parts of its content must be objects"):
            _prompt(tokenizer, task)


def test_tools_of_a_task_that_the_template_leaves_out_are_named():
    knows_none = "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    task = {"prompt": "hi", "tools": [{"name": "look"}]}
    assert _prompt(_tokenizer(), task)
    with pytest.raises(ValueError, match="it leaves 'look' out"):
        _prompt(_tokenizer(knows_none), task)


def test_a_model_without_sdpa_is_loaded_with_what_it_has(tmp_path):
    made = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=2,
    ))  # fmt: skip
    made.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path))
    assert model.config._attn_implementation == "eager"
    steps = rl_steps(
        model, tokenizer, [{"prompt": "a"}], {few_capitals: 1.0}, TrainerConfig(), steps=1,
        groups=1, group_size=2, max_tokens=3,
    )  # fmt: skip
    assert len(list(steps)) == 1


def test_a_prompt_that_is_longer_than_the_model_is_one_line():
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=1, n_head=4, n_positions=32, eos_token_id=2,
    ))  # fmt: skip

    def steps(prompt):
        return list(rl_steps(
            model, _tokenizer(), [{"prompt": prompt}], {few_capitals: 1.0}, TrainerConfig(),
            steps=1, groups=1, group_size=2, max_tokens=4,
        ))  # fmt: skip

    before = [p.clone() for p in model.parameters()]
    for prompt in ("a" * 12, "a" * 40):
        said = "and max_tokens=4 must be of at most 32 tokens, got .*no more positions"
        with pytest.raises(ValueError, match=said) as error:
            steps(prompt)
        assert "\n" not in str(error.value)
    assert all(map(torch.equal, before, model.parameters()))
    assert len(steps("a")) == 1


def test_a_model_by_name_with_and_without_an_adapter(folder):
    model, tokenizer = load_model(folder, lora=4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert tokenizer.chat_template == TEMPLATE
    plain, _ = load_model(folder, checkpointing=True)
    assert all(p.requires_grad for p in plain.parameters())
    assert plain.is_gradient_checkpointing
    assert plain.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="lora must be"):
        load_model(folder, lora=-1)


def few_capitals(task, answer):
    return sum(c.islower() for c in answer) / max(1, len(answer))


def short(task, answer):
    return 1 - len(answer) / task["most"]


def test_a_run_without_a_runtime_learns(folder):
    torch.manual_seed(0)
    model, tokenizer = load_model(folder)
    tasks = [{"prompt": text, "most": 8} for text in ("a", "b", "c")]
    seen = []
    config = TrainerConfig(learning_rate=1e-2)
    steps = rl_steps(
        model, tokenizer, tasks, {few_capitals: 1.0, short: 0.1}, config, steps=20, groups=2,
        group_size=16, max_tokens=8, on_samples=lambda samples, answers: seen.append((samples,
        answers)),
    )  # fmt: skip
    metrics = list(steps)
    assert metrics[-1]["reward"] > metrics[0]["reward"] + 0.25
    assert all(m["ratio_max"] == pytest.approx(1) for m in metrics)
    samples, answers = seen[0]
    assert len(samples) == len(answers) == 32
    assert len({tuple(s.token_ids) for s in samples}) > 25  # not the two words of its own config
    for sample, answer in zip(samples, answers, strict=True):
        learned = [t for t, m in zip(sample.token_ids, sample.loss_mask, strict=True) if m]
        assert tokenizer.decode(learned, skip_special_tokens=True) == answer
        assert 2 not in learned[:-1]  # up to its end, and no further
        wanted = few_capitals({}, answer) + 0.1 * short({"most": 8}, answer)
        assert sample.reward == pytest.approx(wanted)


def test_a_bf16_model_of_which_only_norms_are_trained_runs(folder):
    """Their float32 masters meet the bf16 weights, in sampling as in training."""
    model, tokenizer = load_model(folder, dtype="bfloat16")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "norm" in name
    before = model.model.norm.weight.detach().clone()
    steps = rl_steps(
        model, tokenizer, [{"prompt": "a"}], {few_capitals: 1.0}, TrainerConfig(learning_rate=1e-2),
        steps=2, groups=1, group_size=8, max_tokens=8,
    )  # fmt: skip
    assert any(metrics["signal_share"] for metrics in steps)
    assert not torch.equal(before.float(), model.model.norm.weight.detach().float())


def test_a_run_needs_tasks_and_rewards(folder):
    model, tokenizer = load_model(folder)
    for tasks, rewards in (([], {short: 1.0}), ([{"prompt": "a"}], {})):
        with pytest.raises(ValueError, match="need tasks and rewards"):
            next(rl_steps(model, tokenizer, tasks, rewards, TrainerConfig(), steps=1))


@pytest.mark.parametrize(("options", "said"), [
    ({"steps": -1}, "steps must be at least 0, got -1"), ({"groups": 0}, "groups must be at least 1"),
    ({"group_size": 1}, "group_size must be at least 2"), ({"max_tokens": 0}, "max_tokens must be"),
    ({"max_tokens": 1.5}, "max_tokens must be a whole number"), ({"seed": None}, "seed must be"),
    ({"rewards": short}, "rewards must be functions with what each weighs"),
    ({"rewards": {short: float("nan")}}, "what each weighs, got <function short.*: nan"),
    ({"rewards": {"short": 1.0}}, "what each weighs, got 'short': 1.0"),
])  # fmt: skip
def test_a_run_that_cannot_be_meant_is_refused_before_anything_is_loaded(options, said):
    """A group of one was trained on for ever, without a signal."""
    given = {"steps": 1, "rewards": {short: 1.0}, **options}
    with pytest.raises(ValueError, match=said):
        next(
            rl_steps(None, None, [{"prompt": "a"}], given.pop("rewards"), TrainerConfig(), **given)
        )


@pytest.mark.parametrize(("ends", "last"), [(None, set()), (5, {5}), ([5, 7], {5, 7})])
def test_answers_end_where_the_model_ends_them_or_where_they_are_full(ends, last):
    """Also those of a base model, which knows no end."""
    config = transformers.LlamaConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = ends
    tokenizer = SimpleNamespace(eos_token_id=None, pad_token_id=None)
    answers = _generate(model, tokenizer, [1, 2], TrainerConfig(), 64, 12)
    assert len(answers) == 64
    for answer in answers:
        assert not last & set(answer[:-1])
        assert len(answer) == 12 or answer[-1] in last
    assert {answer[-1] for answer in answers if len(answer) < 12} == last


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(("messages", "said"), [
    (["hi"], "message 0 must be an object with a role"), ([{"content": "x"}], "with a role"),
    ([{"role": "user", "content": 5}], "message 0: its content must be text, got 5"),
    ([USER, {"role": "assistant"}], "message 1 must have content or tool_calls"),
    ([USER, {"role": "assistant", "content": None}], "content or tool_calls"), ("hi", "a list"),
    (None, "a list"), ([USER, {"role": "assistant", "tool_calls": [1]}], "template cannot write"),
])  # fmt: skip
def test_a_conversation_that_is_none_is_named(messages, said):
    with pytest.raises(ValueError, match=said):
        chat_sample(_tokenizer(), messages)
    with pytest.raises(ValueError, match="must have a chat template, it has none"):
        chat_sample(_tokenizer(None), [USER])


def test_a_model_that_cannot_be_read_is_one_line(folder):
    with pytest.raises(ValueError, match="lora must be at most 32, the rank of the largest matrix"):
        load_model(folder, lora=33)
    weights = Path(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match=f"the model of {folder} cannot be read: .*header[^\n]*$"):
        load_model(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (Path(folder) / name).unlink()
    with pytest.raises(ValueError, match=f"the tokenizer of {folder} cannot be read"):
        load_model(folder)
