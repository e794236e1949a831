"""What is larger than the house allows: files, functions, lines.

    python .ci/sizes.py             show it
    python .ci/sizes.py --write     let the list of exceptions shrink to what is still needed

A file has 400 lines at most, a line 100 characters, a function 45 lines from its first statement
to its last (its signature and docstring are not counted). `tests/oversized.txt` lists what is still
larger, with its size; the list can only shrink.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "oversized.txt"
WHERE = ("packages/*/src", "apps/*/src", "examples", ".ci", "tests")
MOST_LINES, MOST_OF_A_FUNCTION, MOST_OF_A_LINE = 400, 45, 100


def oversized(root: Path = ROOT) -> dict[str, int]:
    """Name of each thing that is too large to its size: lines, or the number of long lines."""
    found: dict[str, int] = {}
    for pattern in WHERE:
        for folder in sorted(root.glob(pattern)):
            for path in sorted(folder.rglob("*.py")):
                found.update(_of_file(path, path.relative_to(root).as_posix()))
    return found


def _of_file(path: Path, name: str) -> Iterator[tuple[str, int]]:
    text = path.read_text("utf-8")
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        yield f"{name} file", len(lines)
    long = sum(len(line) > MOST_OF_A_LINE for line in lines)
    if long:
        yield f"{name} lines", long
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            size = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if size > MOST_OF_A_FUNCTION:
                yield f"{name} {node.name}()", size


def allowed(text: str) -> dict[str, int]:
    """The list of exceptions."""
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: int(size) for name, size in rows}


def main(arguments: list[str]) -> int:
    """Show what is too large, or shrink the list."""
    found = oversized()
    if "--write" in arguments:
        known = allowed(LIST.read_text("utf-8")) if LIST.is_file() else found
        kept = {name: min(size, known[name]) for name, size in found.items() if name in known}
        head = (
            "# Larger than the house allows, with today's size; it can only shrink: .ci/sizes.py\n"
        )
        rows = "".join(f"{name} {size}\n" for name, size in sorted(kept.items()))
        LIST.write_text(head + rows, encoding="utf-8")
        return 0
    for name, size in sorted(found.items()):
        print(name, size)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
