"""`longcat sft`: supervised learning of chats, of what the assistant says alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UsageError
from .machine import dtype_here
from .models import loaded, model_folder
from .rl import be_quiet
from .rl_options import numbered_jsonl, read_jsonl

if TYPE_CHECKING:
    from longcat_gspo import GspoTrainer


def read_chats(path: Path, tokenizer: Any, max_length: int) -> tuple[list[Any], int]:
    """Turn conversations into samples; return them, and how many are too long.

    Raises:
        UsageError: A line is no conversation, or none fits.
    """
    from longcat_dora import LongcatDoraError

    samples: list[Any] = []
    num_long = 0
    for number, (line, item) in enumerate(numbered_jsonl(path, "--data"), start=1):
        try:
            sample = _sample(tokenizer, item)
        except (ValueError, KeyError, LongcatDoraError) as error:
            where = f"{path}, line {line}, conversation {number}"
            raise UsageError(f"{where}: {error}") from error
        if len(sample.token_ids) > max_length:
            num_long += 1
        else:
            samples.append(sample)
    if not samples:
        raise UsageError(f"{path}: all {num_long} conversations have more than {max_length} tokens")
    return samples, num_long


def _sample(tokenizer: Any, item: dict[str, Any]) -> Any:
    """A conversation as a sample, tools in the words in which `longcat rl` reads and writes them.

    Raises:
        ValueError: It is none; so do `KeyError` and `LongcatDoraError`, of what is written.
    """
    from longcat_dora.transformers import TransformersRenderer
    from longcat_gspo.transformers import chat_sample, check_chat

    messages, tools = item.get("messages"), item.get("tools")
    if not isinstance(messages, list):
        raise ValueError(f"must have messages, a list, got {messages!r:.60}")
    tools = [] if tools is None else tools
    check_chat(messages, tools)
    if tools:
        messages, tools = TransformersRenderer(tokenizer).written(messages, tools)
    return chat_sample(tokenizer, messages, tools=tools)


def _learn(
    trainer: GspoTrainer, samples: list[Any], held: list[Any], batches: list[list[int]], out: Path
) -> None:
    """Take the steps, and tell of them.

    Raises:
        FloatingPointError: A loss is not finite, the one after the last step included.
    """
    num = len(batches)
    before = trainer.evaluate(held) if held else None
    with (out / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step, places in enumerate(batches, start=1):
            metrics = trainer.fit([samples[place] for place in places])
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            file.flush()
            if step % max(1, num // 20) == 0 or step == num:
                typer.echo(f"step {step:5d} of {num}  loss {metrics['loss']:.4f}")
    after = trainer.evaluate(held or samples[:1])  # no step saw what the last one did
    if not math.isfinite(after):
        raise FloatingPointError(f"the loss must be finite, got {after} after step {num}")
    if before is not None:
        typer.echo(f"held out: loss {before:.4f} before, {after:.4f} after")


def sft(
    model: Annotated[str, typer.Option(help="A fetched model, a folder, or a hub's name.")],
    data: Annotated[
        Path, typer.Option(help="JSONL: messages, and tools, one conversation a line.")
    ],
    lora: Annotated[int, typer.Option(help="Rank of the adapter; 0 trains all weights.")] = 16,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    batch_tokens: Annotated[int, typer.Option(help="Of a step.")] = 8192,
    max_length: Annotated[int, typer.Option(help="Longer conversations are left out.")] = 2048,
    learning_rate: Annotated[float, typer.Option(help="Of the optimiser.")] = 2e-4,
    packed: Annotated[bool, typer.Option(help="Conversations end to end, without padding.")] = True,
    adapter: Annotated[bool, typer.Option(help="Leave the adapter, not the merged model.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the weights, such as bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the model goes.")] = Path("sft-run"),
) -> None:
    """Teach a model what the assistant says in your chats.

    Its tool calls included.
    """
    are_rates = 0 < epochs < math.inf and 0 < learning_rate < math.inf
    if not are_rates or batch_tokens < 1 or max_length < 2 or lora < 0 or seed < 0:
        raise UsageError(
            "--epochs and --learning-rate must be positive and finite, --batch-tokens at least 1, "
            "--max-length at least 2, --lora and --seed not negative"
        )
    if adapter and not lora:
        raise UsageError("--adapter needs --lora")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, {out} is none")
    if (out / "model").exists():
        raise UsageError(f"{out} holds a model already; choose another --out")
    import torch
    from longcat_gspo import GspoTrainer, TrainerConfig, token_batches

    read_jsonl(data, "--data")  # before a model is loaded
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder, dtype = model_folder(model), dtype_here(dtype)
    be_quiet()
    network, tokenizer = loaded(folder, lora=lora, dtype=dtype, device=device)
    samples, num_long = read_chats(data, tokenizer, max_length)
    if num_long:
        typer.echo(f"{num_long} conversations of more than {max_length} tokens were left out")
    held = samples[::20] if len(samples) >= 40 else []
    learned = [sample for n, sample in enumerate(samples) if not held or n % 20]
    lengths = [len(sample.token_ids) for sample in learned]
    num = max(1, round(epochs * sum(lengths) / batch_tokens))
    trainer = GspoTrainer(network, TrainerConfig(
        learning_rate=learning_rate, warmup_steps=min(10, num // 10), decay="cosine",
        min_learning_rate=learning_rate / 10, total_steps=num, packed=packed,
        micro_batch_tokens=min(batch_tokens, 4096),
    ))  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    batches = token_batches(lengths, batch_tokens=batch_tokens, num_batches=num, seed=seed)
    try:
        _learn(trainer, learned, held, batches, out)
    except FloatingPointError as error:
        raise UsageError(
            f"{error}; no model is exported, try a lower --learning-rate than {learning_rate:g}"
        ) from error
    trainer.export(out / "model", tokenizer=tokenizer, only_adapter=adapter)
    typer.echo(f"model: {out / 'model'}")
