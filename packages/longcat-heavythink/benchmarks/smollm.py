"""A real small model on questions that can be checked: SmolLM2-135M-Instruct adding two numbers.

    python benchmarks/smollm.py [--model FOLDER] [--problems 40]

FOLDER holds the model in Hugging Face's layout (`~/.cache/longcat/models/smollm2-135m`); torch and transformers must be installed. Each
problem gets 16 attempts at temperature 1.0; each summary is made of the first K of them. Whatever
comes out is published.
"""

import argparse
import asyncio
import json
import re
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from longcat_heavythink import HeavyConfig, Reply, Usage, think
from longcat_heavythink.evaluate import Problem, evaluate
from transformers import AutoModelForCausalLM, AutoTokenizer

WIDTHS = (1, 2, 4, 8, 16)
MOST_NEW = 24


class Batches:
    """Answers calls in batches on one CPU model."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.tokenizer.pad_token_id = self.model.config.eos_token_id

    @torch.inference_mode()
    def answer(self, conversations, temperature):
        """Return a reply for each conversation."""
        texts = [
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in conversations
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        out = self.model.generate(
            **inputs, max_new_tokens=MOST_NEW, do_sample=True, temperature=temperature, top_p=1.0,
            top_k=0, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        new = out[:, inputs["input_ids"].shape[1] :]
        replies = []
        for row, mask in zip(new, inputs["attention_mask"], strict=True):
            text = self.tokenizer.decode(row, skip_special_tokens=True)
            count = int((row != self.tokenizer.pad_token_id).sum())
            replies.append(
                Reply(text=text.strip() or "(nothing)", usage=Usage(int(mask.sum()), count))
            )
        return replies


def last_number(text):
    found = re.findall(r"-?\d+", text.replace(",", ""))
    return found[-1] if found else text.strip().casefold()


def question(a, b):
    return [{"role": "user", "content": f"What is {a} + {b}? Answer with the number alone."}]


async def summaries(batches, asks, attempts, k):
    """Return the summary of each problem's first k attempts, all summaries in batches of 16."""
    waiting = []

    async def run(ask, recorded):
        left = iter(recorded[:k])

        async def complete(messages, temperature):
            if "Thinkers Process" not in messages[-1]["content"]:
                return next(left)
            future = asyncio.get_running_loop().create_future()
            waiting.append((messages, future))
            return await future

        return await think(
            ask, complete, config=HeavyConfig(width=k, normaliser=last_number, summary_tries=1)
        )

    tasks = [asyncio.create_task(run(a, r)) for a, r in zip(asks, attempts, strict=True)]
    while any(not task.done() for task in tasks):
        await asyncio.sleep(0.01)
        batch, waiting[:] = waiting[:16], waiting[16:]
        if batch:
            replies = batches.answer([messages for messages, _ in batch], 0.6)
            for (_, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)
    return [task.result() for task in tasks]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=Path.home() / ".cache/longcat/models/smollm2-135m")
    parser.add_argument("--problems", type=int, default=40)
    options = parser.parse_args()
    torch.manual_seed(0)
    random = Random(0)
    batches = Batches(options.model)
    pairs = [(random.randint(10, 99), random.randint(10, 99)) for _ in range(options.problems)]
    asks = [question(a, b) for a, b in pairs]
    attempts = [batches.answer([ask] * max(WIDTHS), 1.0) for ask in asks]
    problems = [
        Problem(str(a + b), [last_number(r.text) for r in replies],
                [r.usage.total_tokens for r in replies])
        for (a, b), replies in zip(pairs, attempts, strict=True)
    ]  # fmt: skip
    for k in WIDTHS:
        for problem, got in zip(
            problems, asyncio.run(summaries(batches, asks, attempts, k)), strict=True
        ):
            problem.heavy[k] = [last_number(got.answer)]
            problem.heavy_tokens[k] = [got.usage.total_tokens]
        print("summaries of", k, flush=True)
    rows = [
        [row.k, str(row.mean), str(row.vote), str(row.passed), str(row.heavy_mean),
         round(row.tokens), round(row.heavy_tokens)]
        for row in evaluate(problems, WIDTHS)
    ]  # fmt: skip
    columns = ["K", "mean@1", "vote@K", "pass@K", "heavy@K", "tokens of K", "tokens with summary"]
    for row in [columns, *rows]:
        print("  ".join(f"{cell!s:>22}" for cell in row))
    at = {row.k: row for row in evaluate(problems, WIDTHS)}
    claim = (
        f"SmolLM2-135M adds two numbers rightly in {at[1].mean.value:.2f} of attempts; a vote of 16 in "
        f"{at[16].vote.value:.2f}, heavy thinking over 16 in {at[16].heavy_mean.value:.2f}."
    )
    mean_prompt = fmean(p.heavy_tokens[16][0] for p in problems)
    print(json.dumps({
        "title": "SmolLM2-135M on sums", "claim": claim, "columns": columns, "rows": rows,
        "spread": f"95% interval over {options.problems} problems", "seeds": [0],
        "notes": [f"A whole run at K = 16 costs {mean_prompt:.0f} tokens on average."],
        "versions": {"model": "SmolLM2-135M-Instruct"},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
