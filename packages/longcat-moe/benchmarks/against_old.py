"""This code and an older checkout of it, side by side: generation, and forward with backward.

usage: python against_old.py --commit HASH [--preset mini] [--repeats 5]
       python against_old.py --old PATH/packages/longcat-moe/src

Each side is a process of its own; they take turns, one piece of work at a time. Compared are
seconds of CPU, which a busy machine changes least; seconds on the clock are printed beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

NEW = 32
Pair = tuple[tuple[float, float], tuple[float, float]]
"""Seconds of CPU and on the clock, this side and the old one."""
WORK = ("generate 1", "generate 16", "forward and backward 1024")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", type=Path)
    parser.add_argument("--commit")
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
    if (options.old is None) == (options.commit is None):
        parser.error("give either --old or --commit")
    with tempfile.TemporaryDirectory() as folder:
        old = options.old or _source_of(options.commit, Path(folder))
        times = _compare(Path(__file__).parents[1] / "src", old, options)
    _tell(times, options)


def _source_of(commit: str, folder: Path) -> Path:
    """Write this package's source as of a commit."""
    source = "packages/longcat-moe/src"
    root = Path(__file__).parents[3]
    tar = subprocess.run(
        ["git", "archive", commit, source], cwd=root, check=True, stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / source


def _compare(new: Path, old: Path, options: argparse.Namespace) -> dict[str, list[Pair]]:
    """Let both sides do each piece of work by turns; return their times."""
    sides = [_start(path, options) for path in (new, old)]
    times: dict[str, list[Pair]] = {name: [] for name in options.work}
    for name in options.work:
        for side in sides:
            _ask(side, name)
    for turn in range(options.repeats):
        for name in options.work:
            order = sides if turn % 2 == 0 else sides[::-1]
            told = {id(side): _ask(side, name) for side in order}
            times[name].append((told[id(sides[0])], told[id(sides[1])]))
    for side in sides:
        side.stdin.close()
        side.wait()
    return times


def _tell(times: dict[str, list[Pair]], options: argparse.Namespace) -> None:
    rows = []
    print("| work | CPU s, this | CPU s, old | this / old (least, greatest) | clock, this / old |")
    print("| --- | --- | --- | --- | --- |")
    for name, pairs in times.items():
        new, old = ([pair[side][0] for pair in pairs] for side in (0, 1))
        ratios = sorted(a / b for a, b in zip(new, old, strict=True))
        clock = statistics.median(pair[0][1] / pair[1][1] for pair in pairs)
        row = [statistics.median(new), statistics.median(old), statistics.median(ratios), ratios[0],
               ratios[-1], clock]  # fmt: skip
        row = [name, *(round(value, 3) for value in row)]
        rows.append(row)
        print(f"| {name} | {row[1]} | {row[2]} | {row[3]} ({row[4]}, {row[5]}) | {row[6]} |")
    slowest = max(row[3] for row in rows)
    print(json.dumps({
        "title": f"This code against an older one, preset {options.preset}",
        "claim": "Asked: checks and error handling must not cost speed. The greatest median ratio "
        f"of CPU time, this over {options.commit or 'old'}, is {slowest}.",
        "columns": ["work", "CPU s, this", "CPU s, old", "ratio", "least", "greatest",
        "clock ratio"],
        "rows": rows,
        "spread": f"least to greatest of {options.repeats} interleaved pairs",
        "notes": [f"{options.threads} thread(s) a side, one side at a time, {NEW} new tokens"],
    }))  # fmt: skip


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
        model.train().requires_grad_(True)
        logits = model(ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
        model.zero_grad()
        model.eval()

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
