"""CPU of scheduling one call: a model that answers at once, K calls and a summary.

    python benchmarks/scheduling.py

`asyncio.gather` of the same calls is the floor. Both with a model and with a plain function, which
gets its own copy of the messages and whose text is taken apart.
"""

import asyncio
import gc
import json
import statistics
import time

from longcat_heavythink import HeavyConfig, Reply, Usage, think

ASK = [{"role": "user", "content": "What is 6 x 7? " * 40}]
REPLY = Reply(text="42", usage=Usage(1, 1))
ROUNDS = 9


class Model:
    name = "at once"

    async def reply(self, call):
        return REPLY


async def function(messages, temperature):
    return "42"


async def gather(k):
    await asyncio.gather(*(function(ASK, 1.0) for _ in range(k)))


def think_over(model):
    async def run(k):
        await think(ASK, model, config=HeavyConfig(width=k))

    return run


def main():
    sides = {
        "asyncio.gather": gather,
        "a model": think_over(Model()),
        "a function": think_over(function),
    }
    spent = {}
    for _ in range(ROUNDS):
        for k in (64, 512, 4096):
            for name, run in sides.items():
                gc.collect()
                began = time.process_time()
                asyncio.run(run(k))
                spent.setdefault((name, k), []).append((time.process_time() - began) / k * 1e6)
    rows = []
    for name in sides:
        above = [a - b for a, b in zip(spent[name, 512], spent["asyncio.gather", 512], strict=True)]
        rows.append([
            name, *(round(statistics.median(spent[name, k]), 1) for k in (64, 512, 4096)),
            f"{min(spent[name, 512]):.1f} to {max(spent[name, 512]):.1f}",
            round(statistics.median(above), 1), f"{min(above):.1f} to {max(above):.1f}",
        ])  # fmt: skip
    columns = ["side", "µs a call, K = 64", "K = 512", "K = 4096", "spread at 512",
               "above asyncio.gather at 512", "its spread"]  # fmt: skip
    for row in [columns, *rows]:
        print("  ".join(f"{cell!s:>18}" for cell in row))
    claim = (
        f"At K = 512, start of the event loop and summary included, a call takes {rows[1][2]} µs of "
        f"CPU with a model and {rows[2][2]} with a function, {rows[1][5]} and {rows[2][5]} above "
        f"asyncio.gather."
    )
    print(json.dumps({"title": "CPU of scheduling a call", "claim": claim, "columns": columns,
                      "rows": rows, "spread": f"min to max of {ROUNDS} interleaved runs"}))  # fmt: skip


if __name__ == "__main__":
    main()
