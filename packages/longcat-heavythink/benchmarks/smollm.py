"""A real small model on questions that can be checked: SmolLM2-135M-Instruct.

    python benchmarks/smollm.py [--model FOLDER] [--problems 20]

FOLDER holds the model in Hugging Face's layout (`~/.cache/longcat/models/smollm2-135m`); torch and
transformers must be installed. There are as many sums of two digits, capitals and opposites. Each
problem gets 16 attempts; two runs of heavy thinking are made of the first K of them. Whatever comes
out is published.

An answer is the last number, capital or opposite that a text names; a text without one is an answer
of its own.
"""

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path
from random import Random

import torch
from longcat_heavythink import HeavyConfig, Reply, Usage, think
from longcat_heavythink.evaluate import Problem, evaluate
from transformers import AutoModelForCausalLM, AutoTokenizer

WIDTHS = (1, 2, 4, 8, 16)
RUNS = 2
THINKERS, SUMMARY, MOST_NEW = 0.7, 0.6, 24
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "Egypt": "Cairo", "Russia": "Moscow", "Peru": "Lima", "Greece": "Athens", "Cuba": "Havana",
    "Portugal": "Lisbon", "Austria": "Vienna", "Norway": "Oslo", "Poland": "Warsaw",
    "Ireland": "Dublin", "Kenya": "Nairobi", "Iran": "Tehran", "Iraq": "Baghdad",
    "Hungary": "Budapest", "Thailand": "Bangkok",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "old": "young", "fast": "slow", "open": "closed",
    "left": "right", "day": "night", "happy": "sad", "rich": "poor", "strong": "weak",
    "wet": "dry", "hard": "soft", "early": "late", "full": "empty", "loud": "quiet",
    "light": "dark", "high": "low", "near": "far", "win": "lose",
}  # fmt: skip
KNOWN = re.compile("|".join([r"-?\d+", *(rf"\b{word.lower()}\b" for word in
                             (*CAPITALS.values(), *OPPOSITES.values()))]))  # fmt: skip


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


def last_known(text):
    found = KNOWN.findall(text.replace(",", "").lower())
    return found[-1] if found else text.strip().casefold()


def questions(kind, most):
    """Pairs of a question and its true answer."""
    random = Random(0)
    if kind == "sums":
        pairs = random.sample([(a, b) for a in range(2, 10) for b in range(2, 10)], most)
        return [(f"What is {a} + {b}? Answer with the number alone.", str(a + b)) for a, b in pairs]
    if kind == "capitals":
        return [(f"What is the capital of {country}? Answer with the city alone.", city.lower())
                for country, city in list(CAPITALS.items())[:most]]  # fmt: skip
    return [(f"What is the opposite of {word}? Answer with one word.", opposite)
            for word, opposite in list(OPPOSITES.items())[:most]]  # fmt: skip


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
            ask, complete, config=HeavyConfig(width=k, normaliser=last_known, summary_tries=1)
        )

    tasks = [asyncio.create_task(run(a, r)) for a, r in zip(asks, attempts, strict=True)]
    while any(not task.done() for task in tasks):
        await asyncio.sleep(0.01)
        batch, waiting[:] = waiting[:16], waiting[16:]
        if batch:
            replies = batches.answer([messages for messages, _ in batch], SUMMARY)
            for (_, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)
    return [task.result() for task in tasks]


def recorded(batches, kind, most):
    """The problems of a kind with their attempts, and with answers of heavy thinking."""
    asked = questions(kind, most)
    asks = [[{"role": "user", "content": text}] for text, _ in asked]
    attempts = [batches.answer([ask] * max(WIDTHS), THINKERS) for ask in asks]
    problems = [
        Problem(truth, [last_known(r.text) for r in replies],
                [r.usage.total_tokens for r in replies])
        for (_, truth), replies in zip(asked, attempts, strict=True)
    ]  # fmt: skip
    for k in WIDTHS:
        for _ in range(RUNS):
            answers = asyncio.run(summaries(batches, asks, attempts, k))
            for problem, got in zip(problems, answers, strict=True):
                problem.heavy.setdefault(k, []).append(last_known(got.answer))
                problem.heavy_tokens.setdefault(k, []).append(got.usage.total_tokens)
        print(kind, "with summaries of", k, file=sys.stderr, flush=True)
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=Path.home() / ".cache/longcat/models/smollm2-135m")
    parser.add_argument("--problems", type=int, default=20, help="of each kind, 20 at most")
    options = parser.parse_args()
    torch.manual_seed(0)
    batches = Batches(options.model)
    kinds = {k: recorded(batches, k, options.problems) for k in ("sums", "capitals", "opposites")}
    everything = [problem for problems in kinds.values() for problem in problems]
    kinds["all"] = everything
    rows, at_16 = [], {}
    for kind, problems in kinds.items():
        for row in evaluate(problems, WIDTHS):
            rows.append([kind, row.k, str(row.mean), str(row.vote), str(row.passed),
                         str(row.heavy_mean), str(row.heavy_pass), round(row.tokens),
                         round(row.heavy_tokens)])  # fmt: skip
            at_16[kind] = row
    columns = ["questions", "K", "mean@1", "vote@K", "pass@K", "heavy-mean@K",
               f"heavy-pass@K of {RUNS}", "tokens of K", "tokens with summary"]  # fmt: skip
    for row in [columns, *rows]:
        print("  ".join(f"{cell!s:>22}" for cell in row))
    end = at_16["all"]
    claim = (
        f"SmolLM2-135M on {len(everything)} questions that can be checked: {end.mean.value:.2f} of "
        f"attempts are right, {end.vote.value:.2f} of votes of 16, {end.passed.value:.2f} have a "
        f"right one among 16; heavy thinking over 16 is right in {end.heavy_mean.value:.2f}."
    )
    print(json.dumps({
        "title": "SmolLM2-135M on questions that can be checked", "claim": claim,
        "columns": columns, "rows": rows,
        "spread": f"95% interval over {options.problems} problems of each kind", "seeds": [0],
        "notes": [(f"Thinkers at temperature {THINKERS}, summaries at {SUMMARY}, of this model; "
                  f"at most {MOST_NEW} tokens an answer."),
                  "The weights are a 4-bit file's, in bfloat16.",
                  "Tokens are prompts and answers."],
        "versions": {"model": "SmolLM2-135M-Instruct"},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
