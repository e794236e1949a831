"""Models of Hugging Face by name, chats as samples, and a run without a runtime (`[transformers]`).

    model, tokenizer = load_model("HuggingFaceTB/SmolLM2-135M-Instruct", lora=16)
    for metrics in rl_steps(model, tokenizer, tasks, {score: 1.0}, TrainerConfig(), steps=50): ...

`rl_steps` generates, scores and trains in turn; `longcat_dora` does these side by side, keeps a log
and resumes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from random import Random
from typing import Any

import torch
from torch import nn

from ._config import TrainerConfig
from ._limits import longest
from ._numbers import as_number, whole
from ._predict import no_cache
from ._samples import Sample
from ._shared import check_sharing
from ._trainer import GspoTrainer

try:
    import transformers
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "longcat_gspo.transformers needs: pip install 'longcat-gspo[transformers]'"
    ) from error

Messages = Sequence[Mapping[str, Any]]
Reward = Callable[[Mapping[str, Any], str], float]
"""Takes a task and the answer's text."""


def load_model(
    name: str,
    *,
    lora: int = 0,
    dtype: str = "auto",
    device: str = "cpu",
    checkpointing: bool = False,
) -> tuple[nn.Module, Any]:
    """Return a causal LM, ready to be trained, and its tokenizer.

    Args:
        name: A folder or a hub's name.
        lora: Rank of an adapter on all linear layers; 0 trains every weight.
        dtype: `auto`: as it was saved. Weights that are trained are held in float32 by the trainer.
            On a CPU without instructions for bfloat16, `float32` takes a fraction of its time.
        device: Where.
        checkpointing: Compute layers again in the backward pass rather than keep them.

    Raises:
        ValueError: `lora` is negative or more than any matrix has, or what lies there is damaged.
        OSError: There is no such model, here or on a hub that can be reached.
    """
    lora = whole("lora", lora)
    if lora < 0:
        raise ValueError(f"lora must be a rank, or 0 for none, got {lora}")
    tokenizer: Any = _read(name, "tokenizer", transformers.AutoTokenizer.from_pretrained)
    # Attention by sdpa where the model has it, or else as transformers chooses.
    loaded: Any = _read(
        name, "model", transformers.AutoModelForCausalLM.from_pretrained, dtype=dtype
    )
    most = max(
        (min(m.weight.shape) for m in loaded.modules() if isinstance(m, nn.Linear)), default=0
    )
    if lora > most:
        raise ValueError(f"lora must be at most {most}, the rank of the largest matrix, got {lora}")
    model: Any = loaded.to(device)
    if checkpointing:
        model.gradient_checkpointing_enable()
    if lora:
        import peft  # noqa: PLC0415 - only where one is wanted

        config = peft.LoraConfig(
            r=lora, lora_alpha=2 * lora, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, config)
    return model, tokenizer


def _read(name: str, what: str, read: Callable[..., Any], **options: Any) -> Any:
    """Let transformers read a part; what it says of damage, and how long, differs by the part."""
    try:
        return read(name, **options)
    except OSError:
        raise
    except Exception as error:
        why = str(error).strip()
        first = why.partition("\n")[0].rstrip()
        why = textwrap.shorten(why if first.endswith(":") else first, 200, placeholder=" ...")
        raise ValueError(f"the {what} of {name} cannot be read: {why}") from error


def shares_prefixes(model: nn.Module) -> bool:
    """Whether `TrainerConfig(shared_prefixes=True)` takes a model; two short passes."""
    try:
        check_sharing(model, no_cache(model))
    except ValueError:
        return False
    return True


def chat_sample(tokenizer: Any, messages: Messages, *, tools: Sequence[Any] = ()) -> Sample:
    """Return a conversation as a sample that learns what the assistant says, calls included.

    Raises:
        ValueError: Nobody speaks as the assistant, a message is none, the template cannot write
            them, leaves out their tools, or writes turns otherwise once others follow.
    """
    _check_messages(messages)
    if not messages or messages[0]["role"] == "assistant":
        raise ValueError("a conversation must not be empty or begin with the assistant")
    spans: list[tuple[int, int]] = []
    text = _text(tokenizer, messages, tools)
    _check_written(text, messages, tools)
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _text(tokenizer, messages[:place], tools, speaks=True)
        after = _text(tokenizer, messages[: place + 1], tools)
        if not after.startswith(before) or not text.startswith(after.rstrip()):
            raise ValueError(
                f"the chat template must write message {place} alike alone and in the "
                "conversation, it does not: cut the conversation there, or use a template that "
                "keeps what was said"
            )
        end = len(after.rstrip()) if after.endswith("\n") else len(after)
        spans.append((len(before), end))
    if not spans:
        raise ValueError("a conversation must have a message of the assistant, it has none")
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [
        any(begin <= a and b <= end and a < b for begin, end in spans)
        for a, b in coded["offset_mapping"]
    ]
    return Sample(token_ids=coded["input_ids"], loss_mask=mask)


def check_chat(messages: Any, tools: Any = ()) -> None:
    """Check that messages, their calls and the tools are what a chat template can write.

    Raises:
        ValueError: One is not; the message says which.
    """
    _check_messages(messages)
    _check_calls(messages)
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ValueError(f"tools must be a list of objects, got {tools!r:.60}")
    for place, tool in enumerate(tools):
        if not callable(tool) and not isinstance(_function(tool), Mapping):
            raise ValueError(f"tool {place} must be an object with a function, got {tool!r:.60}")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError(f"messages must be a list, got {messages!r:.60}")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {place} must be an object with a role, got {message!r:.60}")
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise ValueError(f"message {place} must have content or tool_calls, it has neither")
        if content is not None and not isinstance(content, str | list):
            raise ValueError(f"message {place}: its content must be text, got {content!r:.60}")
        if isinstance(content, list) and not all(map(_is_part, content)):
            odd = next(part for part in content if not _is_part(part))
            raise ValueError(
                f"message {place}: parts of its content must be objects with text, got {odd!r:.60}"
            )


def _is_part(part: Any) -> bool:
    is_text = isinstance(part, Mapping) and part.get("type", "text") == "text"
    return is_text and isinstance(part.get("text"), str)


def _in_one_piece(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """As templates like text, and as `longcat_dora` asks: they write parts as Python shows them."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _check_calls(messages: Messages) -> None:
    for place, message in enumerate(messages):
        calls: Any = message.get("tool_calls")
        if calls is None:
            continue
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise ValueError(f"message {place}: tool_calls must be a list, got {calls!r:.60}")
        for call in calls:
            function = _function(call)
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise ValueError(
                    f"message {place}: a tool call must be an object with a function and its "
                    f"name, got {call!r:.60}"
                )


def _function(one: Any) -> Any:
    """What a tool or a call says of its function: within it, or the object itself."""
    return one.get("function", one) if isinstance(one, Mapping) else None


def _check_written(text: str, messages: Messages, tools: Sequence[Any]) -> None:
    """Check that all are what they must be, and that the template has not left them out."""
    check_chat(messages, tools)  # after the template, which says best what it cannot write
    called = [call for message in messages for call in message.get("tool_calls") or ()]
    for one in [*tools, *called]:
        function = _function(one) or {}
        name = function.get("name")
        if isinstance(name, str) and name not in text:
            raise ValueError(
                f"the chat template must write tools and calls, it leaves {name!r} out: describe "
                "them in a message's content"
            )


def _text(tokenizer: Any, messages: Messages, tools: Sequence[Any], *, speaks: bool = False) -> str:
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer must have a chat template, it has none")
    try:
        return tokenizer.apply_chat_template(
            list(map(_in_one_piece, messages)), tools=list(tools) or None, tokenize=False,
            add_generation_prompt=speaks,
        )  # fmt: skip
    except Exception as error:  # a template is a program of its own, and refuses in its own way
        raise ValueError(f"the chat template cannot write these messages: {error}") from error


def rl_steps(
    model: nn.Module, tokenizer: Any, tasks: Sequence[Mapping[str, Any]],
    rewards: Mapping[Reward, float], config: TrainerConfig, *, steps: int, groups: int = 4,
    group_size: int = 8, max_tokens: int = 256, seed: int = 0,
    on_samples: Callable[[list[Sample], list[str]], None] | None = None,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Generate, score, train, step by step; yields the metrics of each.

    Sampling is at the configuration's `temperature`, `top_k` and `top_p`, whatever the model's own
    generation config says, so that the trainer knows what was sampled from.

    Args:
        model: Of transformers, with an adapter or without.
        tokenizer: With a chat template.
        tasks: Each with `messages`, or a `prompt` as the user's; rewards get the whole.
        rewards: Functions, and what each weighs.
        config: How steps are taken; its temperature is the sampling's.
        steps: How many.
        groups: Tasks a step.
        group_size: Attempts at each.
        max_tokens: Of an answer.
        seed: Of the order of the tasks and of the sampling.
        on_samples: Called with each step's samples and answers.

    Raises:
        ValueError: There is no task, or no reward; or one is none. A number is out of its range, a
            prompt and `max_tokens` are longer than the model can be, or the chat template leaves
            tools out.
    """
    if not tasks or not rewards:
        raise ValueError(f"need tasks and rewards, got {len(tasks)} and {len(rewards)}")
    _check_rewards(rewards)
    steps, groups, group_size, max_tokens, seed = _wholes(
        config, steps=steps, groups=groups, group_size=group_size, max_tokens=max_tokens, seed=seed
    )
    trainer = GspoTrainer(model, config)
    order = list(tasks)
    Random(seed).shuffle(order)
    torch.manual_seed(seed)
    queue = cycle(order)
    for step in range(steps):
        chosen = list(islice(queue, groups))
        samples: list[Sample] = []
        answers: list[str] = []
        for place, task in enumerate(chosen):
            ids = _prompt(tokenizer, task)
            with trainer.autocast():
                found = _generate(model, tokenizer, ids, config, group_size, max_tokens)
            for answer in found:
                text = tokenizer.decode(answer, skip_special_tokens=True)
                reward = sum(
                    weight * _reward(score, task, text) for score, weight in rewards.items()
                )
                samples.append(_sample(ids, answer, reward, f"{step}-{place}"))
                answers.append(text)
        if on_samples is not None:
            on_samples(samples, answers)
        yield trainer.train(samples)


def _wholes(config: TrainerConfig, **given: int) -> list[int]:
    """A run's numbers, each at least what makes sense."""
    # Attempts are compared with each other, unless there is no baseline.
    least = {"steps": 0, "groups": 1, "group_size": 1 if config.baseline == "none" else 2,
             "max_tokens": 1, "seed": 0}  # fmt: skip
    found = {name: whole(name, value) for name, value in given.items()}
    for name, value in found.items():
        if value < least[name]:
            raise ValueError(f"{name} must be at least {least[name]}, got {value}")
    return list(found.values())


def _check_rewards(rewards: Any) -> None:
    if not isinstance(rewards, Mapping):
        raise ValueError(f"rewards must be functions with what each weighs, got {rewards!r:.60}")
    for score, weight in rewards.items():
        value = as_number(weight)
        if not callable(score) or value is None or not math.isfinite(value):
            raise ValueError(
                f"rewards must be functions with what each weighs, got {score!r:.60}: {weight!r}"
            )


def _reward(score: Reward, task: Mapping[str, Any], text: str) -> float:
    value = score(task, text)
    try:  # text is no number, also where it looks like one: as for `longcat rl`
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        name = getattr(score, "__name__", repr(score))
        raise ValueError(
            f"the reward {name} must return a finite number, got {value!s:.60} for the answer "
            f"{text!r:.60}"
        )
    return number


def _sample(prompt: list[int], answer: list[int], reward: float, group: str) -> Sample:
    mask = [False] * len(prompt) + [True] * len(answer)
    return Sample(token_ids=[*prompt, *answer], loss_mask=mask, log_probs=None, reward=reward,
                  group=group)  # fmt: skip


def _prompt(tokenizer: Any, task: Mapping[str, Any]) -> list[int]:
    given: Any = task
    if not (isinstance(given, Mapping) and ("prompt" in given or given.get("messages"))):
        raise ValueError(f"a task must be a mapping with messages or a prompt, got {task!r:.80}")
    messages = task.get("messages") or [{"role": "user", "content": task["prompt"]}]
    tools = task.get("tools") or ()
    _check_messages(messages)
    text = _text(tokenizer, messages, tools, speaks=True)
    _check_written(text, messages, tools)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def _generate(
    model: Any, tokenizer: Any, ids: list[int], config: TrainerConfig, num: int, max_tokens: int
) -> list[list[int]]:
    """Sampled answers, each up to and with its end."""
    model.eval()
    most = longest(model)
    if most is not None:
        most.refuse(len(ids) + max_tokens, f"a prompt of {len(ids)} and max_tokens={max_tokens}")
    device = next(model.parameters()).device
    prompt = torch.tensor([ids], device=device)
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])} - {None}
    asked = transformers.GenerationConfig(
        do_sample=True, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p,
        min_p=None, repetition_penalty=1.0, max_new_tokens=max_tokens, num_return_sequences=num,
        eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0),
    )  # fmt: skip
    was, model.generation_config = model.generation_config, asked  # else its own values fill in
    try:
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt))
    finally:
        model.generation_config = was
    answers: list[list[int]] = []
    for row in out[:, len(ids) :].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        answers.append(row[: end + 1])
    return answers
