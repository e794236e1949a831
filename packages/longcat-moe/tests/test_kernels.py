"""The Triton kernels on CPU, by Triton's interpreter, against the modules."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("config", "trials"), [("odd", 8), pytest.param("tiny", 30, marks=pytest.mark.long)]
)
def test_the_fused_step_is_the_modules_and_reads_nothing_that_nobody_wrote(config, trials):
    script = Path(__file__).with_name("kernels_interpreted.py")
    done = subprocess.run(
        [sys.executable, str(script), config, str(trials)], capture_output=True, text=True,
        timeout=500, env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    draws, *steps = (json.loads(line) for line in done.stdout.splitlines())
    assert draws["wrong"] == 0
    assert draws["gap"] < 1e-4
    assert len(steps) == 3
    for found in steps:
        assert found["logits"] < 1e-5, found
        assert found["cache"] < 1e-6, found
        assert found["again"] == 0, found
        assert found["longer"] < 1e-5, found
