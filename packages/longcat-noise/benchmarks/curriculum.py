"""How often the curriculum climbs, falls and stays, by simulation of pairs with a known gap.

usage: python curriculum.py [RUNS]
"""

import json
import random
import sys
from concurrent.futures import ProcessPoolExecutor

from longcat_noise import CurriculumConfig, NoiseCurriculum

CONFIG = CurriculumConfig(levels=(0.0, 0.2, 0.4), max_gap=0.15)


def run(case):
    gap, pairs, clean, alike, _seed = case
    rng = random.Random(f"{case}")
    curriculum = NoiseCurriculum(CONFIG)
    for _ in range(CONFIG.min_episodes):
        curriculum.record(0.0, passed=True)
    for _ in range(pairs):
        first = rng.random()
        second = first if rng.random() < alike else rng.random()
        curriculum.record(0.0, passed=first < clean)
        curriculum.record(0.2, passed=second < clean - gap)
        if curriculum.level != 0.2:
            break
    return curriculum.level


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for clean, alike in ((0.95, 0.0), (0.8, 0.0), (0.8, 0.5), (0.6, 0.0)):
            for gap, pairs in ((0.05, 250), (0.15, 250), (0.2, 250), (0.2, 1000), (0.3, 1000)):
                cases = [(gap, pairs, clean, alike, seed) for seed in range(runs)]
                ends = list(pool.map(run, cases, chunksize=25))
                up, down = ends.count(0.4) / runs, ends.count(0.0) / runs
                rows.append([clean, alike, gap, pairs, round(up, 3), round(down, 3)])
                print(*rows[-1], sep="\t", flush=True)
    good = [row[4] for row in rows if row[2] == 0.05]
    bad = [row[4] for row in rows if row[2] == 0.2]
    worst = min(row[4] for row in rows if row[2] == 0.05 and (row[1] or row[0] >= 0.8))
    print(json.dumps({
        "title": "The curriculum's moves at a limit of 0.15, simulated",
        "claim": "Asked: a gap of 0.20 climbs in under 5% of runs, a gap of 0.05 within 250 pairs in "
                 f"over 90%. A gap of 0.20 climbs in at most {max(bad):.1%} of runs; a gap of 0.05 in "
                 f"at least {worst:.1%} of runs where outcomes are paired or the clean pass rate is "
                 f"0.8 or more, and in {min(good):.1%} at the worst, unpaired outcomes near 0.6.",
        "columns": ["clean pass rate", "share of pairs that share their luck", "gap", "pairs at most",
                    "climbs", "falls"],
        "rows": rows, "spread": f"{runs} runs each; a share of 0.05 has a standard error of "
                                f"{(0.0475 / runs) ** 0.5:.3f}", "seeds": [0],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
