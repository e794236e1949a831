"""Greedy generation with prompts of mixed length, against `transformers.generate`, same weights.

usage: python generate.py [--preset mini] [--batches 1 16 64] [--new 64]

Both sides answer the same prompts with the same number of tokens; the share of tokens that are
equal is printed.
"""

import argparse
import asyncio
import itertools
import json

import torch
import transformers
from _peer import both, compare, header
from longcat_moe import Engine, pack


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = both(options.preset, dtype=torch.float32, device="cpu")
    packed = pack(ours)
    theirs.eval()
    print(f"preset {options.preset}, float32, {header()}, {options.new} new tokens")
    print("| batch | ours, tokens/s | transformers | ratio (least, greatest) | equal tokens |")
    print("| --- | --- | --- | --- | --- |")
    rows = [_measure(batch, options, ours, packed, theirs) for batch in options.batches]
    told = ", ".join(f"{row[3]} at batch {row[0]}" for row in rows)
    print(json.dumps({
        "title": f"Generation against transformers, preset {options.preset}, float32, CPU",
        "claim": f"Asked: five times transformers at batch 16. Ours over transformers: {told}.",
        "columns": ["batch", "ours, tokens/s", "transformers, tokens/s", "ratio", "least",
                    "greatest", "equal tokens"],
        "rows": rows, "spread": f"least to greatest of {options.repeats} interleaved pairs",
        "versions": {"transformers": transformers.__version__},
        "notes": [f"Greedy, {options.new} new tokens after prompts of 32 to 255.",
                  f"{torch.get_num_threads()} threads a side, one side at a time."],
    }))  # fmt: skip


def _measure(batch, options, ours, packed, theirs):
    """Let both sides answer the same prompts; return a row."""
    g = torch.Generator().manual_seed(batch)
    lengths = torch.randint(32, 256, (batch,), generator=g).tolist()
    prompts = [
        torch.randint(3, ours.config.vocab_size, (n,), generator=g).tolist() for n in lengths
    ]
    answers: dict[str, list[list[int]]] = {}

    engine = Engine(ours.config, num_slots=batch, max_length=256 + options.new + 2)
    versions = itertools.count()  # a new one each time, so that no prefix is reused

    def mine():
        answers["ours"] = asyncio.run(
            _generate(engine, packed, next(versions), prompts, options.new)
        )

    def peer():
        answers["theirs"] = _transformers(theirs, prompts, options.new)

    ours_s, theirs_s, (ratio, least, most) = compare(mine, peer, repeats=options.repeats)
    pairs = [
        a == b
        for left, right in zip(answers["ours"], answers["theirs"], strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    total, equal = batch * options.new, sum(pairs) / len(pairs)
    print(
        f"| {batch} | {total / ours_s:,.0f} | {total / theirs_s:,.0f} | "
        f"{ratio:.1f} ({least:.1f}, {most:.1f}) | {equal:.1%} |",
        flush=True,
    )
    speeds = [round(total / ours_s, 1), round(total / theirs_s, 1)]
    return [batch, *speeds, *(round(x, 2) for x in (ratio, least, most)), round(equal, 4)]


async def _generate(engine, model, version, prompts, num_new):
    engine.add_model(version, model)

    async def one(prompt):
        conversation = await engine.open(version)
        result = await engine.generate(
            conversation, prompt, max_tokens=num_new, temperature=0, stop_ids=()
        )
        await engine.close(conversation)
        return result.token_ids

    answers = await asyncio.gather(*map(one, prompts))
    engine.retire(version)
    return answers


def _transformers(model, prompts, num_new):
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=num_new, min_new_tokens=num_new,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    return out[:, width:].tolist()


if __name__ == "__main__":
    main()
