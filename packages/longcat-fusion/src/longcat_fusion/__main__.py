"""The commands: `longcat-fusion plan|merge|report PLAN.toml`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longcat_fusion._folders import Progress, run_plan
from longcat_fusion._interference import Interference, interference
from longcat_fusion._page import page
from longcat_fusion._plan import Plan, plan_merge
from longcat_fusion._planfile import MergeFile, read_merge_file, read_size

_EVERY_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 2 a mistake in the input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on where it stopped")
        return 130
    except (ValueError, OSError, ImportError) as error:
        _say(str(error))
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longcat-fusion", description="Merge expert checkpoints into one model."
    )
    commands = parser.add_subparsers(required=True, metavar="plan|merge|report")
    for name, run, text in (
        ("plan", _plan, "check everything and say what a merge takes; writes nothing"),
        ("merge", _merge, "merge; the same command resumes what was interrupted"),
        ("report", _report, "measure how the experts interfere: will merging work?"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file", help="the plan, as TOML or mergekit's YAML")
        command.add_argument("--out", help="output folder, in place of the file's")
        command.add_argument("--budget", help="memory, such as 512MB")
        command.add_argument("--threads", type=int, help="tensors at a time")
        if name == "merge":
            command.add_argument(
                "--replace", action="store_true",
                help="delete a merge of other inputs or settings that the output holds",
            )  # fmt: skip
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)
    return parser


def _read(options: argparse.Namespace, *, needs_out: bool) -> tuple[MergeFile, Path]:
    found = read_merge_file(options.file)
    changes: dict[str, Any] = {}
    if options.budget:
        changes["budget_bytes"] = read_size(options.budget)
    if options.threads:
        changes["threads"] = options.threads
    if changes:
        found = replace(found, config=replace(found.config, **changes))
    out = Path(options.out) if options.out else found.out
    if out is None and needs_out:
        raise ValueError(f"{options.file} has no out: give --out FOLDER")
    return found, out or Path()


def _planned(options: argparse.Namespace) -> tuple[Plan, MergeFile]:
    found, out = _read(options, needs_out=True)
    return plan_merge(found.base, found.experts, out, config=found.config), found


def _plan(options: argparse.Namespace) -> None:
    plan, found = _planned(options)
    facts = {
        "base": str(plan.base),
        "experts": [str(path) for path in plan.experts],
        "out": str(plan.out),
        "method": plan.config.chosen.name,
        "tensors": plan.num_tensors,
        "shards": len(plan.shards),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "memory_bytes": plan.memory_bytes,
        "threads": plan.threads,
        "expected_s": round(plan.expected_s, 1),
        "copied": [path.name for path in plan.copied],
        "left_out": list(plan.left_out),
        "notes": [*plan.notes, *found.notes],
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    size = f"reads {_size(plan.bytes_read)}, writes {_size(plan.bytes_written)}"
    print(f"{facts['method']}: {len(plan.experts)} experts over {plan.base}, into {plan.out}")
    print(f"{plan.num_tensors} tensors in {len(plan.shards)} shards; {size}")
    print(
        f"{_size(plan.memory_bytes)} of memory, {plan.threads} threads, about "
        f"{_time(plan.expected_s)} if the disk gives 1 GB/s"
    )
    for title in ("copied", "left_out", "notes"):
        if facts[title]:
            print(f"{title.replace('_', ' ')}: {', '.join(facts[title])}")


def _merge(options: argparse.Namespace) -> None:
    plan, found = _planned(options)
    for note in (*plan.notes, *found.notes):
        _say(note)
    with _Display() as display:
        manifest = run_plan(plan, progress=display.show, replace=options.replace)
    if options.json:
        print(json.dumps(manifest, indent=2))
        return
    updates = manifest["updates"]
    print(f"merged into {plan.out}")
    if updates["lost"]:
        print(
            f"rounding put back {updates['lost']:,} of {updates['moved']:,} changed elements "
            f'({updates["lost_share"]:.1%}); rounding = "stochastic" keeps them on average'
        )


def _report(options: argparse.Namespace) -> None:
    found, out = _read(options, needs_out=False)
    with _Display() as display:
        report = interference(
            found.base, found.experts, config=found.config, progress=display.count
        )
    if options.out:
        write_report(report, out)
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
        return
    word, reasons = report.verdict()
    print(f"merging is {word} to work" if word != "uncertain" else "merging may or may not work")
    for reason in reasons:
        print(f"- {reason}")
    print(f"written: {out / 'interference.html'}" if options.out else "--out FOLDER writes a page")


def write_report(report: Interference, folder: Path) -> None:
    """Write `interference.json` and `interference.html` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "interference.json").write_text(json.dumps(report.as_json()) + "\n", "utf-8")
    (folder / "interference.html").write_text(page(report), "utf-8")


class _Display:
    """Progress on standard error: one line that changes in a terminal, now and then a line else."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = time.monotonic()
        self._dirty = False

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        if self._dirty:
            sys.stderr.write("\n")

    def show(self, progress: Progress) -> None:
        done = f"{_size(progress.done_bytes)} of {_size(progress.total_bytes)}"
        rate = f"{_size(int(progress.rate_bytes_s))}/s"
        self._line(f"{done}, {rate}, {_time(progress.left_s)} left  {progress.shard}")

    def count(self, done: int, total: int) -> None:
        self._line(f"{done} of {total} tensors")

    def _line(self, text: str) -> None:
        now = time.monotonic()
        if self._live and now - self._last > 0.1:
            sys.stderr.write(f"\r\x1b[K{text}")
            self._last, self._dirty = now, True
        elif not self._live and now - self._last > _EVERY_S:
            _say(text)
            self._last = now


def _say(text: str) -> None:
    sys.stderr.write(f"longcat-fusion: {text}\n")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _time(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
