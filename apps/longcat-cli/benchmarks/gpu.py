"""Everything that needs a GPU, in one run of at most 8 minutes: `just gpu`.

usage: python gpu.py [--device cuda] [--size full|tiny] [--out FOLDER] [--seconds 470] [--only PART ...]

Parts: logits, generate, train, log_probs, handover, learn, tests. Needs torch with CUDA, transformers, pytest and
hypothesis; our packages may lie on PYTHONPATH (packages/*/src). Each part has a time limit of its own; what fails
is a note. Tables of the profiler, errors and what was measured so far lie in the folder; the last line printed is
one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from _gpu_decode import WAYS, bandwidth, generation
from _gpu_report import COLUMNS, Report
from _gpu_rl import handover, learning
from _gpu_train import log_probs, logits, training

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("logits", "generate", "train", "log_probs", "handover", "learn", "tests")
SIZES = {
    "full": {"models": ["1B", "mini"], "batches": [1, 16, 128], "shape": (8, 2048),
             "words": (8192, 131_072, 2048), "steps": 60, "presets": ["tiny", "mini"]},
    "tiny": {"models": ["tiny"], "batches": [1, 4], "shape": (2, 64),
             "words": (64, 512, 32), "steps": 6, "presets": ["tiny"]},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "/tmp/longcat-gpu")))
    parser.add_argument("--seconds", type=float, default=470)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS][:2])
    parser.add_argument("--no-peer", action="store_true", help="do not generate with transformers")
    parser.add_argument("--models", nargs="+", help="of those that generate")
    parser.add_argument("--steps", type=int, help="of learning")
    parser.add_argument("--tests", default="", help="pytest's -k")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: torch.cuda.is_available() is false (try --device cpu --size tiny)")
    report = Report(options.out, options.device, options.seconds)
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    run(report, SIZES[options.size], options)
    print(json.dumps(result(report), ensure_ascii=False))


def run(report: Report, size: dict, options: argparse.Namespace) -> None:
    speed = 1e12
    with report.section("bandwidth", 20):
        speed = bandwidth(report)
    names = options.models or size["models"]
    parts = {
        "logits": (30, lambda: logits(report, size["presets"])),
        "train": (80, lambda: training(
            report, size["models"][0], size["shape"], compiled=not options.no_compile)),
        "log_probs": (20, lambda: log_probs(report, size["words"])),
        "generate": (110, lambda: generate(names[:1])),
        "tests": (120, lambda: tests(report, options.tests)),
        "learn": (90, lambda: learning(report, steps=options.steps or size["steps"], max_s=60)),
        "handover": (30, lambda: handover(report, size["models"][0])),
        "generate the others": (110, lambda: generate(names[1:])),
    }  # fmt: skip

    def generate(chosen: list[str]) -> None:
        for name in chosen:
            generation(
                report, name, size["batches"], options.ways, speed, has_peer=not options.no_peer
            )

    for name, (limit_s, part) in parts.items():
        if name.split()[0] in options.only:
            with report.section(name, limit_s):
                part()


def tests(report: Report, only: str) -> None:
    """Every package's tests that are marked `gpu`, by themselves: no plugin, no root configuration."""
    files = sorted(str(path) for path in ROOT.glob("packages/*/tests/test_gpu.py"))
    source = os.pathsep.join(str(path) for path in sorted(ROOT.glob("packages/*/src")))
    environment = {**os.environ, "PYTHONPATH": source}
    beside = ["-n", "12"] if importlib.util.find_spec("xdist") else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-q", "-m", "gpu",
         "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "markers=gpu: needs a GPU",
         "-k", only, "--durations=8", *beside, *files],
        env=environment, capture_output=True, text=True, timeout=118,
    )  # fmt: skip
    (report.folder / "tests.txt").write_text(done.stdout + done.stderr)
    print(done.stdout[-3000:], done.stderr[-1000:])
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    report.row("tests marked gpu", "pytest", done.returncode, lines[-1] if lines else "nothing")


def result(report: Report) -> dict[str, object]:
    place = torch.cuda.get_device_name() if report.device == "cuda" else "CPU"
    return {
        "title": "On one GPU",
        "claim": "asked: ahead of transformers in every row, decoding at 60% of the bandwidth bound at batch 1, "
        "training at 40% of the card's peak; what came out stands in the rows",
        "columns": COLUMNS,
        "rows": report.rows,
        "spread": "median of 3 to 10 runs, one run for transformers' generate",
        "seeds": [0],
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": place,
        },
        "notes": report.notes,
    }


if __name__ == "__main__":
    main()
