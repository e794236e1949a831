"""What a decoding step on CPU spends its time on: its calls are kept, and made again in parts.

usage: python anatomy.py [--preset mini]
"""

import argparse
import asyncio
import json
import time
from unittest import mock

import torch
from engine import answers, bandwidth, engine_of, some_prompts, step_bytes
from longcat_moe import LongcatForCausalLM, get_preset
from longcat_moe.engine import _models
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("_linear_pointwise", "_grouped_mm", "linear", "matmul", "einsum", "mm", "bmm", "addmm")


class _Calls(TorchDispatchMode):
    """Keeps each call of an operation, with what it was given."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def calls_of_a_step(decode, batch):
    """Operations of one decoding step of `batch` conversations; `decode()` takes some steps."""
    real, found = _models.compute, []

    def watched(model, cache, works, **options):
        if found or len(works) < batch or any(len(work.token_ids) > 1 for work in works):
            return real(model, cache, works, **options)
        with _Calls() as calls:
            outcomes = real(model, cache, works, **options)
        found.extend(calls.made)
        return outcomes

    with mock.patch.object(_models, "compute", watched):
        decode()
    return found


def parts_of(calls):
    """Seconds: of the products one after the other, of the same from the cache, of all the rest."""
    products = [call for call in calls if _name(call) in PRODUCTS]
    rest = [call for call in calls if _name(call) not in PRODUCTS]
    with torch.inference_mode():
        cached = sum(_best_s([call] * 20, 3) / 20 for call in products)
        parts = {"products": _best_s(products), "cached": cached, "rest": _best_s(rest)}
    return {**parts, "num_products": len(products), "num_rest": len(rest)}


def _name(call):
    return str(call[0]).split(".")[1]


def _best_s(calls, times=9):
    """Seconds to make them all again, at best."""
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        for func, args, kwargs in calls:
            func(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def anatomy(model, batch, speed):
    """Of a step: its weights read once, its matrix products, its other operations, Python."""
    engine = engine_of(model, num_slots=batch)
    prompts = some_prompts(model.config, [32] * batch)

    def decode(num_new):
        began = time.perf_counter()
        asyncio.run(answers(engine, prompts, num_new))
        return time.perf_counter() - began

    calls = calls_of_a_step(lambda: decode(8), batch)
    step_s = (min(decode(44) for _ in range(3)) - min(decode(4) for _ in range(3))) / 40
    parts = parts_of(calls)
    read_s = step_bytes(model.config, batch) / speed
    around_s = step_s - parts["products"] - parts["rest"]
    named = [
        ("a step", step_s),
        ("reading its weights once", read_s),
        (f"its {parts['num_products']} matrix products", parts["products"]),
        ("the same with weights in the cache", parts["cached"]),
        (f"its {parts['num_rest']} other operations", parts["rest"]),
        ("modules and engine in Python", around_s),
    ]
    return [[batch, name, round(1e3 * s, 2), round(s / step_s, 2)] for name, s in named]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, speed = LongcatForCausalLM(get_preset(options.preset)).eval(), bandwidth()
    rows = [row for batch in (1, 16) for row in anatomy(model, batch, speed)]
    shares = {(batch, name.split()[-1]): share for batch, name, _, share in rows}
    for row in rows:
        print(*row, sep="  ")
    claim = "; ".join(
        f"at batch {batch} matrix products take {shares[batch, 'products']:.0%} of a step, reading "
        f"their weights once would take {shares[batch, 'once']:.0%}, other operations "
        f"{shares[batch, 'operations']:.0%}, Python {shares[batch, 'Python']:.0%}"
        for batch in (1, 16)
    )
    print(json.dumps({
        "title": f"A decoding step on CPU in parts, preset {options.preset}, float32",
        "claim": f"Why a step takes several times its bandwidth bound: {claim}.",
        "columns": ["batch", "part", "ms", "share of the step"], "rows": rows,
        "spread": "the best of 3 steps' means and of 9 passes over the calls of one step",
        "notes": [f"{torch.get_num_threads()} threads; memory reads {speed / 1e9:.0f} GB/s.",
                  "Experts are products of one to four tokens each at batch 16."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
