"""What a stranger meets first: how much there is to write, to install, to wait for."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


def _code_lines(source: str, name: str) -> int:
    """Lines of a function or class, without blank ones and documentation."""
    tree = ast.parse(source)
    node = next(n for n in ast.walk(tree) if getattr(n, "name", None) == name)
    lines = ast.unparse(node).splitlines()
    return len([line for line in lines if line.strip() and not line.strip().startswith(('"', "'"))])


def test_a_world_is_at_most_12_lines_and_a_trainer_at_most_20():
    readme = importlib.metadata.metadata("longcat-dora").get_payload()
    if (PACKAGE / "README.md").is_file():  # newer than what was installed, perhaps
        readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    world = next(block for block in blocks if "async def world" in block)
    assert _code_lines(world, "world") + _code_lines(world, "worker") <= 12
    trainer = next(block for block in blocks if "class MyTrainer" in block)
    assert _code_lines(trainer, "MyTrainer") <= 20


def test_it_needs_one_small_library_and_is_imported_at_once():
    required = importlib.metadata.requires("longcat-dora") or []
    required = [r for r in required if "extra ==" not in r]
    if (PACKAGE / "pyproject.toml").is_file():  # newer than what was installed, perhaps
        text = (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
        required = tomllib.loads(text)["project"]["dependencies"]
    assert required == ["cloudpickle>=3"]
    # Not in seconds, since a machine may be slow: 0.2 s, or four to five times asyncio's.
    assert _import_s("longcat_dora") < 8 * _import_s("asyncio")
    heavy = "{'numpy', 'torch', 'ray', 'transformers', 'httpx'}"
    code = f"import longcat_dora, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _import_s(module):
    """Seconds of the processor, at best."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.check_output(command, text=True)) for _ in range(5))


def _cpu_s(pid):
    """Seconds that a process has computed: what a machine does besides does not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is Linux's")
def test_the_demo_shows_a_curve_within_three_seconds():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "longcat_dora", "demo"], stdout=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline() for _ in range(2)]
    passed = _cpu_s(process.pid)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert all("reward" in line for line in lines)
    assert "C1 C2 C3 hold" in out
    assert passed < 3
