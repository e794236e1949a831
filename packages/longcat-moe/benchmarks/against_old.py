"""This code and an older checkout of it, side by side: generation, and forward with backward.

usage: python against_old.py --old PATH/packages/longcat-moe/src [--preset mini] [--repeats 5]

Each side is a process of its own; they take turns, one piece of work at a time. Compared are seconds of CPU,
which a busy machine changes least; seconds on the clock are printed beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

NEW = 32
WORK = ("generate 1", "generate 16", "forward and backward 1024")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", type=Path)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker is not None:
        sys.path.insert(0, str(options.worker))
        work(options.preset, options.threads)
        return
    here = Path(__file__).parents[1] / "src"
    sides = [_start(path, options) for path in (here, options.old)]
    times: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in options.work}
    for name in options.work:
        for side in sides:
            _ask(side, name)
    for turn in range(options.repeats):
        for name in options.work:
            order = sides if turn % 2 == 0 else sides[::-1]
            told = {id(side): _ask(side, name) for side in order}
            times[name].append([told[id(side)] for side in sides])
    for side in sides:
        side.stdin.close()
        side.wait()
    rows = []
    print("| work | CPU s, this | CPU s, old | this / old (least, greatest) | clock, this / old |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.work:
        cpu = [[pair[side][0] for pair in times[name]] for side in (0, 1)]
        ratios = sorted(a / b for a, b in zip(*cpu, strict=True))
        clock = statistics.median(pair[0][1] / pair[1][1] for pair in times[name])
        row = [
            name, *(round(statistics.median(side), 2) for side in cpu),
            round(statistics.median(ratios), 3), round(ratios[0], 3), round(ratios[-1], 3), round(clock, 3),
        ]  # fmt: skip
        rows.append(row)
        print(f"| {name} | {row[1]} | {row[2]} | {row[3]} ({row[4]}, {row[5]}) | {row[6]} |")
    slowest = max(row[3] for row in rows)
    print(
        json.dumps(
            {
                "title": f"This code against an older one, preset {options.preset}",
                "claim": "Asked: checks and error handling must not cost speed. The greatest median ratio of "
                f"CPU time, this over old, is {slowest}.",
                "columns": [
                    "work",
                    "CPU s, this",
                    "CPU s, old",
                    "ratio",
                    "least",
                    "greatest",
                    "clock ratio",
                ],
                "rows": rows,
                "spread": f"least to greatest of {options.repeats} interleaved pairs",
                "notes": [
                    f"{options.threads} thread(s) a side, one side at a time, {NEW} new tokens"
                ],
            }
        )
    )


def _start(path: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [
        sys.executable, __file__, "--worker", str(path), "--preset", options.preset,
        "--threads", str(options.threads),
    ]  # fmt: skip
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(side: subprocess.Popen[str], name: str) -> tuple[float, float]:
    side.stdin.write(name + "\n")
    side.stdin.flush()
    return tuple(json.loads(side.stdout.readline()))


def work(preset: str, threads: int) -> None:
    """Do what stdin names, and tell seconds of CPU and on the clock."""
    import torch
    from longcat_moe import Engine, LongcatForCausalLM, get_preset

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = get_preset(preset)
    model = LongcatForCausalLM(config)
    engine = Engine(config, num_slots=16, max_length=256)
    versions = iter(range(10**6))
    ids = torch.randint(3, config.vocab_size, (1, 1024))
    engine.add_model(next(versions), model)
    packed = engine._models[0]

    async def generate(batch: int) -> None:
        version = next(versions)  # a new one each time, so that no prefix is reused
        engine._models[version] = packed

        async def one(n: int) -> None:
            c = await engine.open(version)
            prompt = [3 + (17 * n + 5 * i) % 1000 for i in range(32 + 8 * n)]
            await engine.generate(c, prompt, max_tokens=NEW, temperature=0.7, stop_ids=())
            await engine.close(c)

        await asyncio.gather(*(one(n) for n in range(batch)))
        engine.retire(version)

    def both_ways() -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        logits = model(ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
        model.zero_grad()

    for line in sys.stdin:
        name = line.strip()
        cpu, clock = time.process_time(), time.perf_counter()
        if name.startswith("generate"):
            asyncio.run(generate(int(name.split()[1])))
        else:
            both_ways()
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - clock]), flush=True)


if __name__ == "__main__":
    main()
