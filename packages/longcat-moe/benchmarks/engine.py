"""What the engine holds, how exact it is, how far from the floor, and who waits for whom.

usage: python engine.py [--preset mini]

- log-probs: what the engine reports against the training forward pass on the same tokens
- cache: bytes per token at the released dimensions against the keys and values transformers keeps
- floor: decoding against reading every weight that a step needs once, at the measured bandwidth
- inter-token latency of those who decode while a long prompt comes: one process, chunks, two
  processes
- share of time in matrix products
"""

import argparse
import asyncio
import json
import statistics
import time

import torch
from longcat_moe import (
    Engine,
    LongcatForCausalLM,
    PrefillProcess,
    count_active_parameters,
    get_preset,
    pack,
    record_routing,
)
from torch.profiler import ProfilerActivity, profile


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="mini")
    options = parser.parse_args()
    config = get_preset(options.preset)
    torch.manual_seed(0)
    model = LongcatForCausalLM(config).eval()
    print(f"preset {options.preset}, float32, torch {torch.__version__}, "
          f"{torch.get_num_threads()} CPU threads")  # fmt: skip
    rows = [*exactness(model), *cache_bytes(), *floor(model), *products(model), *latency(model)]
    bound = {row[0]: row[1] for row in rows if row[0].endswith("of the bandwidth bound")}
    told = ", ".join(f"{what.split(':')[0]} {share:.0%}" for what, share in bound.items())
    print(json.dumps({
        "title": f"The engine on CPU, preset {options.preset}, float32",
        "claim": f"Asked: half of the bandwidth bound at batch 1. Of the bound: {told}.",
        "columns": ["what", "value", "unit"], "rows": rows,
        "spread": "one run; medians within it where the row says so",
        "notes": [f"{torch.get_num_threads()} threads; rows of a long prompt: 1 thread a process"],
    }))  # fmt: skip


def engine_of(model, **options):
    engine = Engine(model.config, **{"num_slots": 16, "max_length": 2048, **options})
    engine.add_model(0, model)
    return engine


async def answers(engine, prompts, num_new, *, temperature=0.0):
    async def one(prompt):
        c = await engine.open(0)
        got = await engine.generate(
            c, prompt, max_tokens=num_new, temperature=temperature, stop_ids=()
        )
        await engine.close(c)
        return got

    return await asyncio.gather(*map(one, prompts))


def some_prompts(config, lengths):
    g = torch.Generator().manual_seed(0)
    return [torch.randint(3, config.vocab_size, (n,), generator=g).tolist() for n in lengths]


def exactness(model):
    """Also told apart: tokens before which a router chose otherwise, a near tie that fell over."""
    packed, num_layers = pack(model), model.config.num_layers
    same, other = [], []
    for prompt in some_prompts(model.config, [20, 64, 130, 333, 700, 9]):
        with record_routing(packed) as routed:
            (answer,) = asyncio.run(
                answers(engine_of(packed, chunk_tokens=256), [prompt], 48, temperature=1.0)
            )
        with torch.no_grad(), record_routing(model) as expected:
            ids = torch.tensor([prompt + answer.token_ids])
            logits = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        flips = torch.zeros(ids.shape[1] - 1, dtype=torch.bool)
        for layer in range(num_layers):
            mine = torch.cat([r.index_TK for r in routed[layer::num_layers]]).sort(-1).values
            theirs = expected[layer].index_TK[:-1].sort(-1).values
            flips |= (mine != theirs).any(-1)
        has_flipped = flips.cumsum(0)[len(prompt) - 1 :] > 0
        chosen = logits.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        gaps = (chosen - torch.tensor(answer.log_probs)).abs()
        same += gaps[~has_flipped].tolist()
        other += gaps[has_flipped].tolist()
    print(f"log-probs, engine against forward, {len(same)} tokens with the same experts so far: "
          "largest "
          f"difference {max(same):.1e}, mean {statistics.mean(same):.1e}")  # fmt: skip
    if other:
        print(f"  {len(other)} tokens after a near tie between experts fell the other way: largest "
              f"{max(other):.1e}, mean {statistics.mean(other):.1e}")  # fmt: skip
    return [["log-probs against the forward pass, largest difference", max(same), "nats"],
            ["the same, mean", statistics.mean(same), "nats"],
            ["tokens after a near tie of experts that fell otherwise", len(other), "tokens"],
            ]  # fmt: skip


def cache_bytes():
    c = get_preset("flash")
    ours = c.num_attentions * c.latent_dim
    theirs = c.num_attentions * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim)
    print(f"cache at the released dimensions, bfloat16: {2 * ours:,} bytes a token, "
          "keys and values "
          f"{2 * theirs:,}: {theirs / ours:.0f} times")  # fmt: skip
    return [["cache at the released dimensions, bfloat16", 2 * ours, "bytes a token"],
            ["keys and values in its place", 2 * theirs, "bytes a token"]]  # fmt: skip


def bandwidth():
    x = torch.randn(100_000_000)
    x.sum()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - began)
    return x.nbytes / min(times)


def step_bytes(config, batch):
    """Of the weights that a step needs, as many experts as `batch` tokens meet on average."""
    met = config.num_active_ffn_experts * batch
    ffn = config.n_routed_experts * (1 - (1 - 1 / config.n_routed_experts) ** met)
    return 4 * count_active_parameters(config, num_ffn_experts=ffn)


def floor(model):
    speed, config = bandwidth(), model.config
    print(f"memory reads {speed / 1e9:.0f} GB/s")
    rows = [["memory reads", round(speed / 1e9, 1), "GB/s"]]
    for batch in (1, 16, 64):
        engine = engine_of(model, num_slots=batch)
        prompts = some_prompts(config, [32] * batch)
        asyncio.run(answers(engine, prompts, 4))  # warm
        steps, began = engine.stats.num_steps, time.perf_counter()
        asyncio.run(answers(engine, prompts, 48))
        step_s = (time.perf_counter() - began) / (engine.stats.num_steps - steps)
        least_s = step_bytes(config, batch) / speed
        print(f"decode at batch {batch}: {batch / step_s:,.0f} tokens/s, {1e3 * step_s:.1f} ms "
              "a step; "
              f"reading the weights once {1e3 * least_s:.1f} ms: "
              f"{least_s / step_s:.0%} of the bound")  # fmt: skip
        rows += [[f"decoding at batch {batch}", round(batch / step_s), "tokens/s"],
                 [f"batch {batch}: of the bandwidth bound", round(least_s / step_s, 3), "share"],
                 ]  # fmt: skip
    return rows


def products(model):
    found = []
    for batch in (1, 16):
        engine = engine_of(model, num_slots=batch)
        prompts = some_prompts(model.config, [32] * batch)
        asyncio.run(answers(engine, prompts, 4))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            asyncio.run(answers(engine, prompts, 24))
        rows = seen.key_averages()
        total = sum(row.self_cpu_time_total for row in rows)
        kinds = {"_linear_pointwise": "linear and experts", "_grouped_mm": "experts",
                 "aten::mm": "other products", "aten::bmm": "attention"}  # fmt: skip
        parts = {
            name: sum(r.self_cpu_time_total for r in rows if r.key.endswith(key)) / total
            for key, name in kinds.items()
        }
        shown = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if part > 0.005)
        print(f"matrix products at batch {batch}: {sum(parts.values()):.0%} of the time ({shown})")
        share = round(sum(parts.values()), 3)
        found.append([f"matrix products at batch {batch} ({shown})", share, "share of time"])
    return found


def latency(model):
    """Four conversations decode; after a while a prompt of 1,500 tokens comes."""
    short = some_prompts(model.config, [24] * 4)
    (long,) = some_prompts(model.config, [1500])
    torch.set_num_threads(1)
    prefill = PrefillProcess(model.config, max_length=2048, chunk_tokens=256, num_threads=1)
    found = []
    ways = {
        "in one step": {"chunk_tokens": 2048},
        "in chunks of 128": {"chunk_tokens": 128},
        "in a process of its own": {"prefill": prefill},
    }
    for name, options in ways.items():
        engine = engine_of(model, num_slots=5, **options)
        # Load the weights over there, and warm both sides.
        asyncio.run(answers(engine, some_prompts(model.config, [200]), 2))
        gaps, first_s = asyncio.run(_gaps(engine, short, long))
        gaps.sort()
        print(f"long prompt {name}: tokens of the others every "
              f"{1e3 * statistics.median(gaps):.0f} ms "
              f"(99%: {1e3 * gaps[int(0.99 * len(gaps))]:.0f}, most: {1e3 * gaps[-1]:.0f}), "
              f"its own first token after {first_s:.1f} s")  # fmt: skip
        last = gaps[int(0.99 * len(gaps))]
        found += [[f"long prompt {name}: between others' tokens, 99%", round(1e3 * last), "ms"],
                  [f"long prompt {name}: its first token", round(first_s, 2), "s"]]  # fmt: skip
    prefill.close()
    return found


async def _gaps(engine, short, long):
    gaps: list[float] = []

    async def talk(prompt):
        c = await engine.open(0)
        last = None
        async for _ in engine.stream(c, prompt, max_tokens=150, temperature=0, stop_ids=()):
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now
        await engine.close(c)

    async def come():
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        c = await engine.open(0)
        await engine.generate(c, long, max_tokens=1, temperature=0, stop_ids=())
        await engine.close(c)
        return time.perf_counter() - began

    *_, first_s = await asyncio.gather(*map(talk, short), come())
    return gaps, first_s


if __name__ == "__main__":
    main()
