"""Every published figure: recorded by the command that gave it, rendered for readers, checked.

    python .ci/results.py record longcat-dora queue -- python packages/longcat-dora/benchmarks/x.py
    python .ci/results.py render     # each benchmarks/RESULTS.md, from benchmarks/results/*.json
    python .ci/results.py check      # exits 1 and names what is stale, incomplete or by hand

A benchmark prints its table for people and, as the last line of its output, one JSON object: what
`FROM_SCRIPT` names. `record` runs it from the root of the repository and adds what `ADDED` names.
A result holds both:

- nothing here is typed by hand: the command that stands beside a figure is the one that gave it;
- a picture lies beside the JSON and is named relative to `benchmarks/`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FROM_SCRIPT = {"title": str, "claim": str, "columns": list, "rows": list, "spread": str}
OPTIONAL = {"seeds": list, "notes": list, "pictures": list}
ADDED = {"command": str, "machine": str, "date": str, "versions": dict}
ALWAYS = ("torch", "numpy")
HEAD = "# Results of {name}\n\nMade from `results/*.json` by `python .ci/results.py render`.\n"


def members() -> list[Path]:
    """Folders of all packages and apps, in order."""
    return sorted([*(ROOT / "packages").iterdir(), *(ROOT / "apps").iterdir()])


def faults(result: Any) -> list[str]:
    """Say what is wrong with a result, a line for each fault."""
    if not isinstance(result, dict):
        return ["a result must be a JSON object"]
    needed = {**FROM_SCRIPT, **ADDED}
    lines = [
        f"{key} must be a {kind.__name__} that is not empty, got {result.get(key)!r}"
        for key, kind in needed.items()
        if not isinstance(result.get(key), kind) or not result[key]
    ]
    lines += [
        f"{key} must be a {kind.__name__}, got {result[key]!r}"
        for key, kind in OPTIONAL.items()
        if key in result and not isinstance(result[key], kind)
    ]
    lines += [f"unknown key {key!r}" for key in result if key not in {**needed, **OPTIONAL}]
    if not lines:
        width = len(result["columns"])
        lines = [f"row {row!r} must have {width} cells, as there are columns"
                 for row in result["rows"]
                 if not isinstance(row, list) or len(row) != width]  # fmt: skip
    return lines


def render(folder: Path) -> str:
    """Return the page of one package's results."""
    parts = [HEAD.format(name=folder.name)]
    for path in sorted((folder / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        parts.append(_section(path.stem, result))
    return "\n".join(parts)


def _section(name: str, result: dict[str, Any]) -> str:
    lines = [f"## {result['title']}", "", result["claim"], ""]
    lines.append("| " + " | ".join(_cell(column) for column in result["columns"]) + " |")
    lines.append("| " + " | ".join("---" for _ in result["columns"]) + " |")
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in result["rows"]]
    lines.append("")
    lines += [f"- {note}" for note in result.get("notes", [])]
    seeds = ", ".join(str(seed) for seed in result.get("seeds", []))
    versions = ", ".join(f"{key} {value}" for key, value in sorted(result["versions"].items()))
    lines.append(f"- Spread: {result['spread']}." + (f" Seeds: {seeds}." if seeds else ""))
    lines.append(f"- {result['machine']}; {result['date']}; {versions}.")
    lines.append(f"- `results/{name}.json`, by `{result['command']}`")
    lines += ["", *(f"![{result['title']}]({picture})" for picture in result.get("pictures", []))]
    return "\n".join(lines).rstrip() + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).replace("|", r"\|")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def check(folder: Path) -> list[str]:
    """Say what is stale, incomplete or written by hand in one package, a line for each."""
    lines = []
    for path in sorted((folder / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        named = path.relative_to(ROOT)
        lines += [f"{named}: {fault}" for fault in faults(result)]
        lines += [f"{named}: no picture {picture}" for picture in result.get("pictures", [])
                  if not (folder / "benchmarks" / picture).is_file()]  # fmt: skip
        lines += [f"{named}: its command must be there, {script} is not"
                  for script in re.findall(r"\S+\.py\b", result.get("command", ""))
                  if not (ROOT / script).is_file()]  # fmt: skip
    page = folder / "benchmarks" / "RESULTS.md"
    if lines:
        return lines
    if any((folder / "benchmarks" / "results").glob("*.json")):
        if not page.is_file() or page.read_text("utf-8") != render(folder):
            lines.append(f"{page.relative_to(ROOT)} is not what its JSON says: render it")
    elif page.exists():
        lines.append(f"{page.relative_to(ROOT)} has no JSON behind it")
    return lines


def record(package: str, name: str, command: list[str]) -> Path:
    """Run a benchmark from the root and keep what it says."""
    (folder,) = [path for path in members() if path.name == package]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise SystemExit(f"the command must end with 0, got {done.returncode}; nothing is recorded")
    said = done.stdout.strip().splitlines()
    try:
        result = json.loads(said[-1] if said else "")
    except ValueError:
        raise SystemExit("the last line of a benchmark's output must be a JSON object") from None
    ours = {"python": platform.python_version(), **_installed(package, *ALWAYS)}
    result = {
        **result,
        "command": _portable(command),
        "machine": result.get("machine") or machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {**ours, **result.get("versions", {})},
    }
    wrong = faults(result)
    if wrong:
        raise SystemExit("\n".join(wrong))
    path = folder / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _portable(command: list[str]) -> str:
    """The command as anybody types it: an interpreter is `python`, paths start at the root."""
    words = [word.replace(f"{ROOT}{os.sep}", "") for word in command]
    if Path(words[0]).name.startswith("python"):
        words[0] = "python"
    return shlex.join(words)


def _installed(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Cores this process may use, and the processor's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text("utf-8")
        named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
        processor = named.group(1) if named else processor
        flags = set(text.split())
        extra = [flag for flag in ("amx_bf16", "avx512f") if flag in flags]
        processor += f" ({', '.join(extra)})" if extra else ""
    return f"{cores} cores, {processor}"


def main(arguments: list[str]) -> int:
    """Run one of the three commands; return the exit code."""
    match arguments:
        case ["record", package, name, "--", *command] if command:
            print(record(package, name, command).relative_to(ROOT))
            return main(["render"])
        case ["render"]:
            for folder in members():
                if any((folder / "benchmarks" / "results").glob("*.json")):
                    (folder / "benchmarks" / "RESULTS.md").write_text(render(folder), "utf-8")
            return 0
        case ["check"]:
            lines = [line for folder in members() for line in check(folder)]
            print("\n".join(lines) or "every figure stands as recorded")
            return 1 if lines else 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
