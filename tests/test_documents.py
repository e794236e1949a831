"""Every example and every Python block of every README runs, found by listing."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")),
           *sorted(ROOT.glob("apps/*/README.md"))]  # fmt: skip
MODULES = [path.name.replace("-", "_") for path in sorted((ROOT / "packages").iterdir())]


# Ray would start every worker by `uv run` where the tests were: seconds each, for the same
# environment. And its workers give way to whatever else runs, until a test times out.
ENVIRONMENT = {
    **os.environ,
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",
}


@pytest.fixture(scope="module", autouse=True)
def _bytecode(tmp_path_factory):
    """Where Python is told to keep none, each example would compile all that it imports."""
    if sys.dont_write_bytecode:
        ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] = ""
        ENVIRONMENT["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.mktemp("bytecode"))


def _run(path: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder, capture_output=True, text=True, timeout=600, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), f"{path} printed nothing"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    if "slow: " in path.read_text("utf-8")[:1000]:
        pytest.skip("marked slow in its docstring: run it by hand")
    copied = tmp_path / path.name  # it must run wherever it is copied to
    copied.write_text(path.read_text("utf-8"), encoding="utf-8")
    _run(copied, tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_to_install_and_what_it_prints(path):
    said = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert "pip install " in said
    assert re.search(r"\b[Pp]rint(s|ed)\b", said)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_readme_blocks(path, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    if path.parent.parent.name == "packages":
        assert blocks, f"{path} must show some code"
    for number, block in enumerate(blocks):
        script = tmp_path / f"block_{number}.py"
        script.write_text(block, encoding="utf-8")
        _run(script, tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    package = importlib.import_module(name)
    modules = [package]
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not found.name.endswith("__main__"):
            modules.append(importlib.import_module(found.name))
    for module in modules:
        scope = {**vars(package), **vars(module)}
        assert doctest.testmod(module, globs=scope).failed == 0
