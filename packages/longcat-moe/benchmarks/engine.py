"""What the engine holds, how exact it is, how far from the floor, and who waits for whom.

usage: python engine.py [--preset mini]

- log-probs: what the engine reports against the training forward pass on the same tokens
- cache: bytes per token at the released dimensions against the keys and values transformers keeps
- floor: decoding against reading every weight that a step needs once, at the measured bandwidth
- inter-token latency of those who decode while a long prompt comes: one process, chunks, two processes
- share of time in matrix products
"""

import argparse
import asyncio
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
    exactness(model)
    cache_bytes()
    floor(model)
    products(model)
    latency(model)


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
    """Also told apart: tokens before which some router chose other experts, a near tie that fell over."""
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
    print(f"log-probs, engine against forward, {len(same)} tokens with the same experts so far: largest "
          f"difference {max(same):.1e}, mean {statistics.mean(same):.1e}")  # fmt: skip
    if other:
        print(f"  {len(other)} tokens after a near tie between experts fell the other way: largest "
              f"{max(other):.1e}, mean {statistics.mean(other):.1e}")  # fmt: skip


def cache_bytes():
    c = get_preset("flash")
    ours = c.num_attentions * c.latent_dim
    theirs = c.num_attentions * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim)
    print(f"cache at the released dimensions, bfloat16: {2 * ours:,} bytes a token, keys and values "
          f"{2 * theirs:,}: {theirs / ours:.0f} times")  # fmt: skip


def bandwidth():
    x = torch.randn(100_000_000)
    x.sum()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - began)
    return x.nbytes / min(times)


def floor(model):
    speed, config = bandwidth(), model.config
    print(f"memory reads {speed / 1e9:.0f} GB/s")
    for batch in (1, 16, 64):
        engine = engine_of(model, num_slots=batch)
        prompts = some_prompts(config, [32] * batch)
        asyncio.run(answers(engine, prompts, 4))  # warm
        steps, began = engine.stats.num_steps, time.perf_counter()
        asyncio.run(answers(engine, prompts, 48))
        step_s = (time.perf_counter() - began) / (engine.stats.num_steps - steps)
        met = config.num_active_ffn_experts * batch
        ffn = config.n_routed_experts * (1 - (1 - 1 / config.n_routed_experts) ** met)
        least_s = 4 * count_active_parameters(config, num_ffn_experts=ffn) / speed
        print(f"decode at batch {batch}: {batch / step_s:,.0f} tokens/s, {1e3 * step_s:.1f} ms a step; "
              f"reading the weights once {1e3 * least_s:.1f} ms: {least_s / step_s:.0%} of the bound")  # fmt: skip


def products(model):
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


def latency(model):
    """Four conversations decode; after a while a prompt of 1,500 tokens comes."""
    short = some_prompts(model.config, [24] * 4)
    (long,) = some_prompts(model.config, [1500])
    torch.set_num_threads(1)
    prefill = PrefillProcess(model.config, max_length=2048, chunk_tokens=256, num_threads=1)
    rows = {
        "in one step": {"chunk_tokens": 2048},
        "in chunks of 128": {"chunk_tokens": 128},
        "in a process of its own": {"prefill": prefill},
    }
    for name, options in rows.items():
        engine = engine_of(model, num_slots=5, **options)
        # Load the weights over there, and warm both sides.
        asyncio.run(answers(engine, some_prompts(model.config, [200]), 2))
        gaps, first_s = asyncio.run(_gaps(engine, short, long))
        gaps.sort()
        print(f"long prompt {name}: tokens of the others every {1e3 * statistics.median(gaps):.0f} ms "
              f"(99%: {1e3 * gaps[int(0.99 * len(gaps))]:.0f}, most: {1e3 * gaps[-1]:.0f}), "
              f"its own first token after {first_s:.1f} s")  # fmt: skip
    prefill.close()


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
