"""Greedy generation with prompts of mixed length, against `transformers.generate`, same weights.

usage: python generate.py [--preset mini] [--batches 1 16 64] [--new 64]

Both sides answer the same prompts with the same number of tokens; the share of tokens that are equal
is printed.
"""

import argparse
import asyncio

import torch
from _peer import both, compare, header
from longcat_moe import Engine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = both(options.preset, dtype=torch.float32, device="cpu")
    theirs.eval()
    print(f"preset {options.preset}, float32, {header()}, {options.new} new tokens")
    print("| batch | ours, tokens/s | transformers | ratio (least, greatest) | equal tokens |")
    print("| --- | --- | --- | --- | --- |")
    for batch in options.batches:
        g = torch.Generator().manual_seed(batch)
        lengths = torch.randint(32, 256, (batch,), generator=g).tolist()
        prompts = [
            torch.randint(3, ours.config.vocab_size, (n,), generator=g).tolist() for n in lengths
        ]
        answers: dict[str, list[list[int]]] = {}

        def engine(prompts=prompts, answers=answers):
            answers["ours"] = asyncio.run(_engine(ours, prompts, options.new))

        def peer(prompts=prompts, answers=answers):
            answers["theirs"] = _transformers(theirs, prompts, options.new)

        mine, other, (ratio, least, most) = compare(engine, peer, repeats=options.repeats)
        pairs = [
            a == b
            for left, right in zip(answers["ours"], answers["theirs"], strict=True)
            for a, b in zip(left, right, strict=True)
        ]
        total = batch * options.new
        print(
            f"| {batch} | {total / mine:,.0f} | {total / other:,.0f} | "
            f"{ratio:.1f} ({least:.1f}, {most:.1f}) | {sum(pairs) / len(pairs):.1%} |",
            flush=True,
        )


async def _engine(model, prompts, num_new):
    engine = Engine(model.config, num_slots=len(prompts), max_length=256 + num_new + 2)
    engine.add_model(0, model)

    async def one(prompt):
        conversation = await engine.open(0)
        result = await engine.generate(
            conversation, prompt, max_tokens=num_new, temperature=0, stop_ids=()
        )
        await engine.close(conversation)
        return result.token_ids

    return await asyncio.gather(*map(one, prompts))


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
