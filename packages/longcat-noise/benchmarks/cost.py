"""What noise costs a call that it leaves alone: a bare function beside the same in noise."""

import json
import statistics
import time

from longcat_noise import NoiseConfig, NoisyTools

CALLS, RUNS = 20_000, 7


def find(patient_id, day):
    return "found"


def one_run(function, first):
    start = time.process_time()  # the machine may be shared
    for n in range(first, first + CALLS):
        function(patient_id=f"P{n}", day="2026-05-04")
    return (time.process_time() - start) / CALLS * 1e6


def main():
    forms = {"bare": find}
    for name, level in (("level 0", 0.0), ("level 0.001", 0.001)):
        config = NoiseConfig(level=level, tool_kinds=("latency",))
        forms[name] = NoisyTools({"find": find}, config, episode="e").find
    times = {name: [] for name in forms}
    for run in range(RUNS):
        for name, function in forms.items():
            times[name].append(one_run(function, run * CALLS))
    bare = statistics.median(times["bare"])
    rows = []
    for name in list(forms)[1:]:
        extra = [t - b for t, b in zip(times[name], times["bare"], strict=True)]
        rows.append([name, round(statistics.median(extra), 2), round(min(extra), 2),
                     round(max(extra), 2)])  # fmt: skip
        print(
            f"{name:12} {rows[-1][1]:6.2f} us more than {bare:.2f} us, {min(extra):.2f} to {max(extra):.2f}"
        )
    print(json.dumps({
        "title": "Cost of a call without a fault",
        "claim": "Asked: at most 5 microseconds more than the bare call. The median, in CPU time, at a level above "
                 f"0, with arguments never seen before, is {rows[1][1]}.",
        "columns": ["noise", "extra microseconds of CPU, median", "least", "most"], "rows": rows,
        "spread": f"least and most of {RUNS} interleaved runs of {CALLS} calls",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
