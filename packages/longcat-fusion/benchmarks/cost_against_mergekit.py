"""CPU seconds, wall time and anonymous memory of the same merges, here and in mergekit.

    PEER_PYTHON=/path/to/venv/bin/python python cost_against_mergekit.py --layers 4 --rounds 2

`PEER_PYTHON` has mergekit installed. `BENCH_FOLDER` keeps the checkpoints between runs (absent: a
temporary folder). `BENCH_LOCK` names a file that is locked around each pair of merges, so that no
other measurement runs beside it. Both sides read the same YAML.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from longcat_fusion._headers import header_bytes

HERE = Path(__file__).parent
METHODS = {
    "linear": ("linear", "{weight: 1}", "{}"),
    "task_arithmetic": ("task_arithmetic", "{weight: 0.5}", "{}"),
    "karcher": ("karcher", "{}", "{}"),
    "dare_ties": ("dare_ties", "{weight: 0.5, density: 0.5}", "{}"),
    "breadcrumbs": ("breadcrumbs", "{weight: 0.5, density: 0.5, gamma: 0.01}", "{}"),
    "ties": ("ties", "{weight: 0.5, density: 0.5}", "{}"),
    "sce": ("sce", "{}", "{select_topk: 0.5}"),
    "della": ("della", "{weight: 0.5, density: 0.5, epsilon: 0.15}", "{}"),
}


def shapes(width: int, layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama."""
    inner = width * 8 // 3 // 64 * 64
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for part in "qkvo":
            found[f"{at}.self_attn.{part}_proj.weight"] = (width, width)
        found[f"{at}.mlp.gate_proj.weight"] = (inner, width)
        found[f"{at}.mlp.up_proj.weight"] = (inner, width)
        found[f"{at}.mlp.down_proj.weight"] = (width, inner)
        found[f"{at}.input_layernorm.weight"] = (width,)
        found[f"{at}.post_attention_layernorm.weight"] = (width,)
    return {**found, "model.norm.weight": (width,), "lm_head.weight": (vocab, width)}


def make_models(folder: Path, width: int, layers: int, vocab: int, *, alike: bool = False) -> int:
    """Write a base and three bf16 experts that moved 30% of the elements; return the elements.

    With `alike` tensors of one shape have the same values, which is quicker to make.
    """
    tensors = shapes(width, layers, vocab)
    size = sum(int(np.prod(shape)) for shape in tensors.values())
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": width * 8 // 3 // 64 * 64, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "num_key_value_heads": width // 64,
        "vocab_size": vocab, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    for number, name in enumerate(("base", "a", "b", "c")):
        target = folder / name
        if (target / "model.safetensors").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(config))
        head, _ = header_bytes([(n, "BF16", s) for n, s in tensors.items()], {"format": "pt"})
        with (target / "model.safetensors").open("wb") as opened:
            opened.write(head)
            made: dict[tuple[int, ...], bytes] = {}
            for place, shape in enumerate(tensors.values()):
                values = made.get(shape) or _values(place, number, int(np.prod(shape)))
                if alike:
                    made[shape] = values
                opened.write(values)
    return size


def _values(tensor: int, expert: int, size: int) -> bytes:
    values = np.random.default_rng(tensor).standard_normal(size, np.float32)
    values *= 0.02
    if expert:
        rng = np.random.default_rng((tensor, expert))
        change = rng.standard_normal(size, np.float32)
        change *= 1e-3
        change *= rng.random(size, np.float32) < 0.3
        values += change
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def write_yaml(folder: Path, name: str) -> Path:
    """Write the merge as mergekit's YAML."""
    method, expert, shared = METHODS[name]
    lines = [f"merge_method: {method}", f"parameters: {shared}", "dtype: bfloat16", "models:"]
    if method not in ("linear", "karcher"):
        lines.insert(1, f"base_model: {folder / 'base'}")
    lines += [f"  - {{model: {folder / m}, parameters: {expert}}}" for m in "abc"]
    path = folder / f"{name}.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(command: list[str], out: Path) -> None:
    """Run a merge in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-3000:])


class Server:
    """A process that merges when asked, on one thread."""

    def __init__(self, python: str, tool: str) -> None:
        self._process = subprocess.Popen(
            [python, str(HERE / "merge_server.py"), tool],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def merge(self, path: Path, out: Path) -> dict[str, float]:
        """CPU seconds, wall seconds, and peak of anonymous memory above the idle process, in MB."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"yaml": str(path), "out": str(out)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a merge ended without an answer: {path}")
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextlib.contextmanager
def quiet():
    """Hold the lock that keeps other measurements away, if there is one."""
    name = os.environ.get("BENCH_LOCK")
    if not name:
        yield
        return
    with Path(name).open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=16000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    peer = os.environ["PEER_PYTHON"]
    with contextlib.ExitStack() as stack:
        kept = os.environ.get("BENCH_FOLDER")
        folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory()))
        size = make_models(folder, options.width, options.layers, options.vocab)
        servers = Server(sys.executable, "here"), Server(peer, "mergekit")
        for server in servers:
            stack.callback(server.close)
        rows = [measure(folder, name, servers, options.rounds) for name in options.methods]
    version = subprocess.run(
        [peer, "-c", "from importlib.metadata import version as v; print(v('mergekit'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    columns = [
        "method", "CPU s, here", "CPU s, mergekit", "ratio (lowest to highest)", "wall s, here",
        "wall s, mergekit", "peak MB, here", "peak MB, mergekit",
    ]  # fmt: skip
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    least = min(float(str(row[3]).split()[0]) for row in rows)
    print(json.dumps({
        "title": "Cost of the same merges, here and in mergekit",
        "claim": f"Three bf16 experts over a base of {size / 1e6:.0f}M parameters: mergekit takes "
        f"at least {least:.1f} times the CPU of longcat-fusion.",
        "columns": columns,
        "rows": rows,
        "spread": f"lowest and highest ratio of {options.rounds} interleaved rounds; medians else",
        "versions": {"mergekit": version},
        "notes": [
            f"{size:,} parameters on a shared machine.",
            ("Merges alone, no imports: each side is one process that merges in turns, one thread, "
            "page cache warm."),
            "Peak: the largest RssAnon above the idle process, looked at every 10 ms.",
            "Here digests of all inputs and outputs are taken and every value is checked.",
        ],
    }))  # fmt: skip


def measure(folder: Path, name: str, servers: tuple[Server, Server], rounds: int) -> list[object]:
    """Merge in turns, here and there."""
    path, mine, theirs = write_yaml(folder, name), [], []
    for _ in range(rounds):
        with quiet():
            mine.append(servers[0].merge(path, folder / "out"))
            theirs.append(servers[1].merge(path, folder / "out"))
        print(name, mine[-1], theirs[-1], file=sys.stderr, flush=True)
    ratios = sorted(t["cpu"] / m["cpu"] for m, t in zip(mine, theirs, strict=True))

    def middle(found: list[dict[str, float]], key: str) -> float:
        return round(float(np.median([one[key] for one in found])), 1)

    spread = f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
    return [
        name, middle(mine, "cpu"), middle(theirs, "cpu"), spread, middle(mine, "wall"),
        middle(theirs, "wall"), middle(mine, "peak"), middle(theirs, "peak"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
