"""Compile all kernels of a decoding step for an H100 without having one: what fails, or does not fit, shows here.

usage: python gpu_compile.py [--rows 1 16 32 128] [--length 2048] [--pdl]

Prints each launch with its registers, bytes spilled and shared memory, and exits 1 where something does not fit. Needs
Triton, whose `cuobjdump` reads the registers.
"""

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from _gpu_models import ONE_BILLION
from longcat_moe import LongcatForCausalLM, get_preset
from longcat_moe._experts import Router
from longcat_moe.engine import _fused
from longcat_moe.engine._cache import LatentCache
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_LIMIT = 232_448
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}
OPTIONS = ("num_warps", "num_stages", "launch_pdl")


class Compiled:
    """Stands in for a module of kernels: a launch compiles."""

    def __init__(self, module, seen: set[str], faults: list[str]) -> None:
        self.module, self.seen, self.faults = module, seen, faults

    def __getattr__(self, name: str):
        kernel = getattr(self.module, name)
        return _Launcher(
            lambda grid, *args, **options: self._launch(name, kernel, grid, args, options)
        )

    def _launch(self, name, kernel, grid, args, options) -> None:
        chosen = {key: options.pop(key) for key in OPTIONS if key in options}
        values = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
        constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        signature, constants, attributes = {}, {}, {}
        for place, key in enumerate(kernel.arg_names):
            value = values[key]
            if key in constant or (type(value) is int and value == 1):
                signature[key], constants[(place,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[key] = TYPES[value.dtype]
            else:
                signature[key] = "fp32" if isinstance(value, float) else "i32"
            is_round = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)
            if is_round and signature[key] != "constexpr":
                attributes[(place,)] = [["tt.divisibility", 16]]
        mark = f"{name} {sorted(signature.items())} {constants} {chosen}"
        if mark in self.seen:
            return
        self.seen.add(mark)
        source = ASTSource(kernel, signature, constants, attributes)
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=chosen)
        registers, spilled = resources(done.asm["cubin"])
        shared = done.metadata.shared
        line = f"{name:16} grid {grid!s:16} registers {registers} spilled {spilled} shared {shared}"
        print(line, flush=True)
        if shared > SHARED_LIMIT:
            self.faults.append(line)


class _Launcher:
    def __init__(self, launch) -> None:
        self.launch = launch

    def __getitem__(self, grid):
        return lambda *args, **options: self.launch(grid, *args, **options)


def resources(cubin: bytes) -> tuple[str, str]:
    """Return registers a thread and bytes of stack, if `cubin` can be read."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file():
        return "?", "?"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=False
        ).stdout
    found = re.search(r"REG:(\d+).*?STACK:(\d+)", said)
    return (found[1], found[2]) if found else ("?", "?")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 32, 128])
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--pdl", action="store_true")
    options = parser.parse_args()
    seen, faults = set(), []
    cases = ((ONE_BILLION, torch.bfloat16), (get_preset("mini"), torch.bfloat16),
             (get_preset("tiny"), torch.float32))  # fmt: skip
    for config, dtype in cases:
        config = dataclasses.replace(config, num_layers=1)
        with torch.device("meta"):
            model = LongcatForCausalLM(config).to(dtype)
        model.to_empty(device="cpu")
        for module in model.modules():
            if isinstance(module, Router):
                module.float()
        for rows in options.rows:
            print(f"-- width {config.hidden_size}, {dtype}, {rows} rows", flush=True)
            cache = LatentCache(config, num_blocks=rows, block_size=16, dtype=dtype, device="cpu")
            step = _fused.FusedStep(model, cache, num_rows=rows, max_length=options.length)
            for part in ("dense", "one", "attention", "experts"):
                setattr(step, part, Compiled(getattr(step, part), seen, faults))
            if options.pdl and rows == 1:
                step.early = {"PDL": True, "launch_pdl": True}
            zeros = torch.zeros(rows, dtype=torch.long)
            step.step(zeros, zeros, torch.zeros(rows, 8, dtype=torch.long))
    if faults:
        sys.exit("more shared memory than there is:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
