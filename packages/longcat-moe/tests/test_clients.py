"""Other people's clients ask the server, each from an environment outside the lock."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "clients.py"


def test_what_the_clients_run_is_python():
    """It stands in texts, which nothing else looks at: two of them were torn once."""
    texts = [
        node.value.value
        for node in ast.parse(SCRIPT.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    ]
    assert len(texts) >= 4
    for text in texts:
        ast.parse(text)


def _environment(folder, packages):
    """Build an environment that holds a client and nothing of ours; return its interpreter."""
    python = folder / "client" / "bin" / "python"
    subprocess.run(["uv", "venv", "-q", folder / "client"], check=True)
    subprocess.run(["uv", "pip", "install", "-q", "--python", python, *packages], check=True)
    return str(python)


@pytest.mark.long
@pytest.mark.parametrize(
    ("variable", "packages", "num_clients"),
    [
        ("CLIENTS_LIGHT", ["litellm", "langchain-openai", "inspect-ai"], 3),
        ("CLIENTS_EVAL", ["torch", "transformers", "lm-eval[api,hf]"], 1),
    ],
)
def test_clients_are_answered_rightly(tmp_path, variable, packages, num_clients):
    """An interpreter that has them already may be named in a variable."""
    python = os.environ.get(variable) or _environment(tmp_path, packages)
    env = {key: value for key, value in os.environ.items() if not key.startswith("CLIENTS_")}
    done = subprocess.run(
        [sys.executable, SCRIPT], env={**env, variable: python}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row[2] for row in rows] == ["passed"] * num_clients, done.stdout[-3000:]
