"""Run merges in one process, so that a measurement holds no imports.

    python merge_server.py here|mergekit

Takes lines of JSON {"yaml": path, "out": folder}; answers each with CPU and wall seconds and the
peak of anonymous memory above what the process had before, in MB.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path


def merge_here() -> Callable[[str, str], None]:
    """Merge by longcat-fusion."""
    import longcat_fusion._mergekit
    from longcat_fusion import run_plan
    from longcat_fusion._plan import plan_merge
    from longcat_fusion._planfile import read_merge_file

    assert longcat_fusion._mergekit

    def merge(path: str, out: str) -> None:
        found = read_merge_file(path)
        config = replace(found.config, threads=1)
        run_plan(plan_merge(found.base, found.experts, out, config=config))

    return merge


def merge_by_mergekit() -> Callable[[str, str], None]:
    """Merge by mergekit."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def merge(path: str, out: str) -> None:
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(path).read_text()))
        run_merge(config, out, options=MergeOptions(copy_tokenizer=False, quiet=True))

    return merge


def anonymous_mb() -> float:
    """Anonymous memory of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1000


def watch(stop: threading.Event, peak: list[float]) -> None:
    """Keep the largest figure seen, every 10 ms."""
    while not stop.wait(0.01):
        peak[0] = max(peak[0], anonymous_mb())


def main() -> None:
    """Answer until the input ends."""
    merge = merge_here() if sys.argv[1] == "here" else merge_by_mergekit()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a tool prints is no answer
    for line in sys.stdin:
        task = json.loads(line)
        shutil.rmtree(task["out"], ignore_errors=True)
        before, stop, peak = anonymous_mb(), threading.Event(), [0.0]
        watcher = threading.Thread(target=watch, args=(stop, peak))
        watcher.start()
        cpu, wall = time.process_time(), time.monotonic()
        try:
            merge(task["yaml"], task["out"])
        finally:
            stop.set()
        found = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
        watcher.join()
        answers.write(json.dumps({**found, "peak": max(0.0, peak[0] - before)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
