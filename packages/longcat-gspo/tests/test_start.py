"""How quickly a process is there: what is not asked for is not loaded."""

import subprocess
import sys

COSTLY = ("torch._dynamo", "sympy", "torch.distributed.tensor", "transformers", "matplotlib")


def test_the_package_loads_what_shards_models_for_those_alone_who_shard():
    code = f"import sys, longcat_gspo; print([m for m in {COSTLY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
