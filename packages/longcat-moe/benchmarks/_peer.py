"""The same weights in transformers, and a paired comparison."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from longcat_moe import LongcatForCausalLM, get_preset


def both(preset: str, *, dtype: torch.dtype, device: str):
    """Our model and transformers', from one folder."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LongcatForCausalLM(get_preset(preset)).save_pretrained(folder, for_transformers=True)
        ours = LongcatForCausalLM.from_pretrained(folder, dtype=dtype, device=device)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
    return ours, theirs.to(device)


def compare(ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int):
    """Median seconds of each, and the median, least and greatest ratio of neighbouring runs."""
    ours(), theirs()
    times = [(_time(ours), _time(theirs)) for _ in range(repeats)]
    ratios = sorted(t / o for o, t in times)
    return (
        statistics.median(o for o, _ in times),
        statistics.median(t for _, t in times),
        (statistics.median(ratios), ratios[0], ratios[-1]),
    )


def _time(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def header() -> str:
    """What ran where."""
    place = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {place}"
