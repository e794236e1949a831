"""Sliding-window confidence of a long answer, beside deepconf's own functions.

    python benchmarks/confidence.py

Run it with an interpreter that has `deepconf` (its `utils` alone is loaded: the package's own
`__init__` imports vLLM) and numpy.
"""

import importlib.metadata
import importlib.util
import json
import statistics
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace

from longcat_heavythink._confidence import group_confidence, token_confidence

TOKENS, WINDOW, ROUNDS = 32_768, 2048, 5


def deepconf():
    folder = Path(importlib.util.find_spec("its_hub").origin).parents[1] / "deepconf" / "utils.py"
    spec = importlib.util.spec_from_file_location("deepconf_utils", folder)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(function, *args):
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def main():
    theirs = deepconf()
    random = Random(0)
    logprobs = [[-random.expovariate(0.2) for _ in range(5)] for _ in range(TOKENS)]
    as_vllm = [{n: SimpleNamespace(logprob=v) for n, v in enumerate(row)} for row in logprobs]
    seen = {"token": [], "window": [], "both, as a vote needs them": []}
    for _ in range(ROUNDS):
        a, ours = timed(token_confidence, logprobs)
        b, other = timed(theirs.compute_confidence, as_vllm)
        assert max(abs(x - y) for x, y in zip(ours, other, strict=True)) < 1e-3
        seen["token"].append((a, b))
        a, ours = timed(group_confidence, list(other), WINDOW)
        b, loop = timed(theirs.compute_least_grouped, other, WINDOW)
        assert max(abs(x - y) for x, y in zip(ours, loop, strict=True)) < 1e-3
        seen["window"].append((a, b))
        seen["both, as a vote needs them"].append(
            tuple(map(sum, zip(seen["token"][-1], seen["window"][-1], strict=True)))
        )
    rows = []
    for name, pairs in seen.items():
        ratios = [b / a for a, b in pairs]
        rows.append([name, statistics.median(a for a, _ in pairs) * 1000,
                     statistics.median(b for _, b in pairs) * 1000, round(statistics.median(ratios)),
                     f"{min(ratios):.0f} to {max(ratios):.0f}"])  # fmt: skip
    columns = ["confidence", "ours ms", "deepconf ms", "times faster", "spread"]
    for row in [columns, *rows]:
        print("  ".join(str(cell) for cell in row))
    claim = (f"Asked: 100 times faster than deepconf. The confidence of an answer of {TOKENS} tokens "
             f"with windows of {WINDOW}: {rows[2][3]} times, same values to its rounding; its part "
             f"by token, one sum of five alternatives for each, {rows[0][3]} times.")  # fmt: skip
    print(json.dumps({"title": "Confidence beside deepconf", "claim": claim, "columns": columns,
                      "rows": rows, "spread": f"min to max of {ROUNDS} interleaved runs",
                      "versions": {"deepconf": importlib.metadata.version("deepconf")}}))  # fmt: skip


if __name__ == "__main__":
    main()
