"""Sampling from SmolLM2-135M-Instruct with log-probs: four ways of filling a batch.

usage: longcat models get smollm2-135m
       OMP_NUM_THREADS=1 python smollm2_decoding.py [--rounds 2] [--no-compile] [--device cuda]

Attempts at tasks as in RL: prompts of 16 to 96 tokens, four attempts at each, answers of ragged
lengths (most short, few long), the same for every way. At most 16 at once. Ways take turns, and one
pass of each is not counted. Ours and transformers' continuous batching fill places that become
free; the plain loop, left-padded on a `StaticCache`, ends when its longest answer does. Every way
draws from the whole distribution and keeps the log-prob of what it drew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from longcat_dora.transformers import TransformersEngine

MODEL = str(Path.home() / ".cache" / "longcat" / "models" / "smollm2-135m")
ROWS, TASKS, ATTEMPTS, LONGEST = 16, 6, 4, 96
Request = tuple[list[int], int]
"""A prompt, and how many tokens are sampled."""
Answers = list[tuple[list[int], list[float]]]
"""Tokens and their log-probs, of each request."""


def requests(seed: int, words: int) -> list[Request]:
    """Prompts and lengths, attempts at one task side by side."""
    rng = random.Random(seed)
    prompts = [
        [rng.randrange(100, words) for _ in range(rng.randint(16, 96))] for _ in range(TASKS)
    ]
    return [
        (prompt, min(LONGEST, max(4, round(rng.lognormvariate(3.2, 0.8)))))
        for prompt in prompts
        for _ in range(ATTEMPTS)
    ]


class Ours:
    """`longcat_dora.transformers`."""

    def __init__(self, model: Any, *, static: bool = False) -> None:
        self.engine = TransformersEngine(
            model,
            device=str(model.device),
            num_rows=ROWS,
            max_length=96 + LONGEST,
            stop_token_ids=[-1],
            static=static,
        )
        self.engine.load_weights(0, b"")
        self.loop = asyncio.new_event_loop()

    def __call__(self, asked: list[Request]) -> Answers:
        return self.loop.run_until_complete(self._all(asked))

    async def _all(self, asked: list[Request]) -> Answers:
        opened = [await self.engine.open(0, seed=n) for n in range(len(asked))]
        found = await asyncio.gather(*(
            self.engine.generate(one, prompt, max_tokens=num, temperature=1.0)
            for one, (prompt, num) in zip(opened, asked, strict=True)
        ))  # fmt: skip
        for one in opened:
            await self.engine.close(one)
        return [(list(one.token_ids), list(one.log_probs)) for one in found]

    def stop(self) -> None:
        self.loop.run_until_complete(self.engine.stop())
        self.loop.close()


class Theirs:
    """transformers' `ContinuousBatchingManager`, its pages as small as lets prompts be shared."""

    def __init__(self, model: Any) -> None:
        config: Any = transformers.ContinuousBatchingConfig
        # Its name before transformers 5.20 or so.
        page = "page_size" if "page_size" in config.__dataclass_fields__ else "block_size"
        self.manager = model.init_continuous_batching(
            generation_config=plain_sampling(),
            continuous_batching_config=config(
                **{page: 16}, max_requests_per_batch=ROWS,
                num_blocks=2 * ROWS * (96 + LONGEST) // 16, max_batch_tokens=512,
                return_logprobs=True, seed=0,
            ),
        )  # fmt: skip
        self.manager.warmup()
        self.manager.start()

    @torch.no_grad()
    def __call__(self, asked: list[Request]) -> Answers:
        names = [self.manager.add_request(p, max_new_tokens=num) for p, num in asked]
        found: dict[str, Any] = {}
        while len(found) < len(asked):
            one = self.manager.get_result(timeout=1)
            if one is not None and one.is_finished():
                found[one.request_id] = one
            elif one is None and not self.manager.is_running():
                raise SystemExit("the manager of transformers has stopped")
        return [(found[name].generated_tokens, found[name].logprobs) for name in names]

    def stop(self) -> None:
        self.manager.stop(block=True)


class Plain:
    """A batch at a time, each until its longest answer is there."""

    def __init__(self, model: Any, *, compiled: bool) -> None:
        self.model = model
        call = torch.compile(model.forward, dynamic=False) if compiled else model.forward
        self.step, self.capacity = call, 96 + LONGEST

    def __call__(self, asked: list[Request]) -> Answers:
        found: Answers = []
        for begin in range(0, len(asked), ROWS):
            found += self._batch(asked[begin : begin + ROWS])
        return found

    @torch.no_grad()
    def _batch(self, asked: list[Request]) -> Answers:
        width, most = max(len(p) for p, _ in asked), max(num for _, num in asked)
        mask = torch.zeros(len(asked), self.capacity, dtype=torch.long)
        ids = torch.zeros(len(asked), width, dtype=torch.long)
        for row, (prompt, _) in enumerate(asked):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        mask, ids = mask.to(self.model.device), ids.to(self.model.device)
        cache = transformers.StaticCache(config=self.model.config, max_cache_len=self.capacity)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        call, drawn, logs = self.model.forward, list[torch.Tensor](), list[torch.Tensor]()
        for step in range(most):
            begin = width + step - ids.shape[1]
            out = call(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True,
                position_ids=places[:, begin : width + step].contiguous(), logits_to_keep=1,
            )  # fmt: skip
            log_probs = out.logits[:, -1].float().log_softmax(-1)
            ids = torch.multinomial(log_probs.exp(), 1)
            drawn.append(ids)
            logs.append(log_probs.gather(1, ids))
            call = self.step
        said, of = torch.cat(drawn, 1).tolist(), torch.cat(logs, 1).tolist()
        return [(s[:num], o[:num]) for s, o, (_, num) in zip(said, of, asked, strict=True)]

    def stop(self) -> None:
        """Nothing to stop."""


def plain_sampling() -> Any:
    """The whole distribution, and no end but the number of tokens."""
    return transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0
    )


@torch.no_grad()
def gap(model: Any, asked: list[Request], answers: Answers) -> float:
    """Root mean square difference of log-probs from a pass over the whole, of some requests."""
    squares: list[float] = []
    for (prompt, _), (said, logs) in list(zip(asked, answers, strict=True))[::8]:
        ids = torch.tensor([[*prompt, *said]], device=model.device)
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float().cpu()
        own = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        squares += (own - torch.tensor(logs)).square().tolist()
    return statistics.fmean(squares) ** 0.5


def measure(
    ways: dict[str, Callable[[list[Request]], Answers]], rounds: int, words: int, model: Any
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Tokens a second of each way and round, and how far log-probs are from a pass over all."""
    speeds, gaps = {name: list[float]() for name in ways}, dict[str, float]()
    for turn in range(rounds + 1):
        asked = requests(turn, words)
        for name in sorted(ways, key=lambda name: hash((turn, len(name)))):
            began = time.perf_counter()
            answers = ways[name](asked)
            spent = time.perf_counter() - began
            wrong = [
                n
                for n, (a, (_, num)) in enumerate(zip(answers, asked, strict=True))
                if len(a[0]) != num
            ]
            if wrong:
                raise SystemExit(f"{name}: request {wrong[0]} has not the length that was asked")
            if turn:
                speeds[name].append(sum(num for _, num in asked) / spent)
            else:
                gaps[name] = gap(model, asked, answers)
    return speeds, gaps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="Without the compiled loop.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # the engine's and the manager's threads follow OMP_NUM_THREADS
    torch.manual_seed(0)
    model: Any = (
        transformers.AutoModelForCausalLM.from_pretrained(
            MODEL, dtype=options.dtype, attn_implementation="sdpa"
        )
        .eval()
        .to(options.device)
    )
    ways: dict[str, Any] = {
        "longcat_dora.transformers": Ours(model),
        "transformers' continuous batching": Theirs(model),
        "plain loop, static cache": Plain(model, compiled=False),
    }
    if options.device != "cpu":
        ways["longcat_dora.transformers, graphs"] = Ours(model, static=True)
    if not options.no_compile:
        ways["plain loop, static cache, compiled"] = Plain(model, compiled=True)
    try:
        speeds, gaps = measure(ways, options.rounds, model.config.vocab_size, model)
    finally:
        for way in ways.values():
            way.stop()
    report(speeds, gaps, options)


def report(
    speeds: dict[str, list[float]], gaps: dict[str, float], options: argparse.Namespace
) -> None:
    """Print the table and the record."""
    where = "CPU" if options.device == "cpu" else "a GPU"
    ours = next(iter(speeds.values()))
    rows: list[list[Any]] = []
    for name, mine in speeds.items():
        ratios = [a / b for a, b in zip(ours, mine, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, round(statistics.median(mine)), spread, f"{gaps[name]:.1g}"])
    rows[0][2] = "1"
    columns = ["way", "tokens/s", "ours over it", "log-probs off by"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    asked = [num for turn in range(1, options.rounds + 1) for _, num in requests(turn, 1000)]
    print(json.dumps({
        "title": f"Sampling from SmolLM2-135M-Instruct on {where}: who fills the batch",
        "claim": f"Asked: is transformers' own continuous batching good enough on {where}. Ours gives "
        + ", ".join(f"{row[2]} times the tokens of {row[0]}" for row in rows[1:]) + ".",
        "columns": columns, "rows": rows,
        "spread": f"median, min to max of {options.rounds} rounds, all ways in each",
        "seeds": list(range(1, options.rounds + 1)),
        "versions": {"transformers": version("transformers")},
        "notes": [
            (f"{options.dtype}, {TASKS} prompts of 16 to 96 tokens, {ATTEMPTS} attempts at each, "
            f"answers of {min(asked)} to {max(asked)} tokens (median {statistics.median(asked):.0f}), "
            f"at most {ROWS} at once; attempts share their prompt where a way can."),
            "One thread, beside other work on the machine: ratios are worth more than tokens/s.",
            "Log-probs: root mean square from those of one pass over prompt and answer.",
            ("Continuous batching of transformers with sdpa (flash attention is for GPUs), pages of "
            "16 tokens, and a cache of the size that is needed: its own choice is most of what "
            "memory is free."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
