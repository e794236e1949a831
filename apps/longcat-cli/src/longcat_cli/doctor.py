"""`longcat doctor`: what is installed, what this machine has, and what will be slow or not work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

EXTRAS = {
    "ray": "longcat train --runtime ray",
    "vllm": "vLLM as the engine of longcat rl",
    "peft": "LoRA in longcat rl and sft",
    "accelerate": "training on several processes",
    "tensorboardX": "longcat rl --tracker tensorboard",
    "wandb": "longcat rl --tracker wandb",
    "mcp": "noise around MCP sessions",
}
"""What can be installed beside, and what it is for."""

MINI = {"cores": 2.0, "memory": 4_000_000_000, "disk": 2_000_000_000}
"""What recipe `mini` is content with; with `rl.experts_at_once=1`, half of the memory."""
SHARED_MEMORY = 256_000_000
"""Weights go to the processes that sample through it: several versions of a small model."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what is installed, what is here, and what will be slow.

    Exit code 1: something will fail.
    """
    facts = examine()
    problems = list(judge(facts))
    if as_json:
        found = [{"weight": weight, "what": what} for weight, what in problems]
        typer.echo(json.dumps({**facts, "problems": found}, indent=2))
    else:
        for line in _lines(facts):
            typer.echo(line)
        for weight, what in problems:
            typer.echo(f"{weight:5} {what}")
        if not problems:
            typer.echo("all is well: longcat train")
    raise SystemExit(int(any(weight == "fails" for weight, _ in problems)))


def examine() -> dict[str, Any]:
    """Look at everything."""
    from . import machine
    from .models import SOURCES, is_here, models_root
    from .version import versions

    name, flags = machine.processor()
    shared = Path("/dev/shm")
    return {
        "versions": dict(_version(line) for line in versions()),
        "extras": {extra: _installed(extra) for extra in EXTRAS},
        "processor": name,
        "processor_can": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd"}),
        "cores": machine.usable_cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "memory_bytes": machine.memory_bytes(),
        "free_memory_bytes": machine.free_memory_bytes(),
        "free_disk_bytes": machine.free_disk_bytes(Path.cwd()),
        "is_writable": os.access(Path.cwd(), os.W_OK),
        "shared_memory_bytes": machine.free_disk_bytes(shared) if shared.is_dir() else 0,
        "gpus": _gpus(),
        "models": {model: is_here(model) for model in SOURCES},
        "models_folder": str(models_root()),
    }


def judge(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What fails (`fails`), and what is slow (`slow`), a sentence each."""
    for package, version in facts["versions"].items():
        if version is None:
            yield "fails", f"{package} is not installed: pip install {package}"
    if isinstance(facts["gpus"], str):
        yield "fails", f"torch cannot be used: {facts['gpus']}"
    if not facts["is_writable"]:
        yield "fails", "this folder cannot be written: runs need --out elsewhere"
    yield from _judge_space(facts)
    yield from _judge_pace(facts)


def _judge_space(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from .checks import size

    if facts["free_disk_bytes"] < MINI["disk"]:
        yield (
            "fails",
            (
                f"recipe mini needs {size(MINI['disk'])} of disk, "
                f"{size(facts['free_disk_bytes'])} are free here"
            ),
        )
    free = facts["free_memory_bytes"]
    if free and free < MINI["memory"]:
        yield "fails", f"recipe mini needs {size(MINI['memory'])} of memory, {size(free)} are free"
    if 0 < facts["shared_memory_bytes"] < SHARED_MEMORY:
        yield (
            "fails",
            (
                f"/dev/shm has {size(facts['shared_memory_bytes'])}, weights of some versions need "
                f"{size(SHARED_MEMORY)}; in a container: --shm-size=1g"
            ),
        )


def _judge_pace(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cores, load = facts["cores"], facts["load"]
    if cores < MINI["cores"]:
        yield (
            "slow",
            f"{cores:g} core for trainer and sampler: recipe mini takes twice as long as on two",
        )
    if load > 0.5 * cores:
        yield "slow", f"{load:.1f} processes are busy already on {cores:g} cores"
    if (os.cpu_count() or 1) > cores:
        yield (
            "slow",
            (
                f"{os.cpu_count()} cores are seen and {cores:g} may be used: libraries that count "
                f"them start too many threads; OMP_NUM_THREADS={max(1, int(cores))} helps"
            ),
        )
    if not facts["processor_can"]:
        yield "slow", "the processor has neither AVX2 nor better: matrices are slow"
    if not facts["gpus"]:
        yield (
            "slow",
            (
                "no GPU: recipes mini and smoke need none, longcat rl takes about a minute a step "
                "for a 135M model, and sixty times as long for one of 8B, if it fits"
            ),
        )


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    from .checks import size

    for package, version in facts["versions"].items():
        yield f"{package:20} {version or 'not installed'}"
    for extra, version in facts["extras"].items():
        yield f"{extra:20} {version or '-':14} {EXTRAS[extra]}"
    can = ", ".join(facts["processor_can"]) or "no vector instructions that are known here"
    yield f"{'processor':20} {facts['processor']} ({can})"
    yield f"{'cores':20} {facts['cores']:g}, load {facts['load']:.1f}"
    yield (
        f"{'memory':20} {size(facts['memory_bytes'])}, free {size(facts['free_memory_bytes'])}; "
        f"shared {size(facts['shared_memory_bytes'])}"
    )
    yield f"{'disk':20} {size(facts['free_disk_bytes'])} free here"
    found = facts["gpus"] if isinstance(facts["gpus"], list) else []
    shown = ", ".join(f"{gpu['name']} ({size(gpu['memory_bytes'])})" for gpu in found)
    yield f"{'gpu':20} {shown or 'none'}"
    for model, is_here in facts["models"].items():
        yield f"{'model ' + model:20} {'here' if is_here else 'not fetched'}"


def _version(line: str) -> tuple[str, str | None]:
    name, _, version = line.partition(" ")
    return name.rstrip(":"), None if version == "not installed" else version


def _installed(package: str) -> str | None:
    import importlib.metadata  # takes as long as all else that --help imports of this package

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]] | str:
    """The GPUs, or why torch does not work."""
    from .machine import gpus

    try:
        return gpus()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
