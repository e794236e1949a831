"""What a trainer writes: weights for engines, checkpoints, folders that others load."""

from __future__ import annotations

import errno
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ._adapters import adapter_state, base_model, has_adapter, merged, refuse_beside
from ._packing import to_safetensors
from ._sharding import load_state, model_state, optimizer_state
from ._tensors import plain_state


def engine_bytes(model: nn.Module, dtypes: dict[str, torch.dtype], *, only_adapter: bool) -> bytes:
    """Return weights as safetensors: those of the plain model, or an adapter with its config."""
    if only_adapter:
        state, about = adapter_state(model)
        return to_safetensors(state, metadata=about)
    return to_safetensors(plain_state(merged(model)), dtypes)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: all, or of a model with an adapter what requires a gradient."""
    state = model_state(model)
    if not has_adapter(model):
        return state
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def write_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, counts: dict[str, int],
    *, is_main: bool,
) -> None:  # fmt: skip
    """Write `trainer.pt`, whole or not at all."""
    state = {
        "model": trained_state(model),
        "optimizer": optimizer_state(model, optimizer) if counts["num_steps"] else None,
        "optimizer_kind": type(optimizer).__name__,
        **counts,
    }
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".trainer.part"
        with part.open("wb") as file:  # Python's file says why a write failed; torch's does not
            torch.save(state, file)
        part.replace(folder / "trainer.pt")


def read_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return to what `write_checkpoint` wrote; return its counts.

    Raises:
        FileNotFoundError: There is nothing to return to.
        ValueError: It is cut short, of an earlier form, or of another model.
    """
    path = folder / "trainer.pt"
    if not path.is_file():
        raise FileNotFoundError(f"a trainer's folder must hold trainer.pt, none at {path}")
    state = _loaded(path)
    if not isinstance(state, dict) or not {"model", "optimizer", "num_steps"} <= state.keys():
        raise ValueError(f"{path} must be a trainer's checkpoint, it is something else")
    counts = {k: v for k, v in state.items() if str(k).startswith("num_")}
    _check_parts(path, state, counts)
    held = state["optimizer"]
    if held and not all(isinstance(name, str) for name in held["state"]):
        raise ValueError(f"{path} is of an earlier form, without the names of weights: begin anew")
    kind = type(optimizer).__name__
    if held and state.get("optimizer_kind", kind) != kind:
        raise ValueError(f"{path} must be of {kind}, it is of {state['optimizer_kind']}")
    _check_names(path, model, state["model"])
    if held:
        _check_trained(path, model, optimizer, held)
    load_state(model, optimizer, state["model"], held, is_partial=has_adapter(model))
    return {"num_batches": state["num_steps"], **counts}


def _loaded(path: Path) -> Any:
    """What a file holds, if all of it is as it was written."""
    broken = f"{path} is cut short or no checkpoint; use an earlier one"
    try:
        with zipfile.ZipFile(path) as parts:  # torch reads it without looking at the sums
            if (bad := parts.testzip()) is not None:
                raise ValueError(f"{path} is damaged, in {bad}; use an earlier one")
        return torch.load(path, weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile looked before the file's beginning
            raise
        raise ValueError(broken) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(broken) from error
    except (UnicodeDecodeError, NotImplementedError, KeyError, AttributeError) as error:
        raise ValueError(broken) from error


def _check_parts(path: Path, state: dict[str, Any], counts: dict[str, Any]) -> None:
    """Each is of the kind that `write_checkpoint` writes, or one clear error."""
    weights, held = state["model"], state["optimizer"]
    fits = {
        "model": isinstance(weights, dict)
        and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in weights.items()),
        "optimizer": held is None or _is_optimizers(held),
        **{name: type(count) is int and count >= 0 for name, count in counts.items()},
    }
    odd = [part for part, is_such in fits.items() if not is_such]
    if odd:
        raise ValueError(f"{path} must be a trainer's checkpoint, its {odd[0]} is something else")


def _is_optimizers(held: Any) -> bool:
    """Whether it has the form of an optimiser's state; names may be numbers, as once."""
    if not isinstance(held, dict) or not isinstance(held.get("state"), dict):
        return False
    groups = held.get("param_groups")
    return (
        all(isinstance(of, dict) for of in held["state"].values())
        and isinstance(groups, list)
        and all(isinstance(group, dict) for group in groups)
        and all(isinstance(group.get("params"), list) for group in groups)
        and all(isinstance(name, str | int) for group in groups for name in group["params"])
    )


def _check_trained(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Any]
) -> None:
    """Whatever is trained was so then: torch would load half a state, and crash in the next step.

    Less may be trained than then. A tied weight is saved under any of its names.
    """
    saved = {name for group in held["param_groups"] for name in group["params"]}
    named = list(model.named_parameters(remove_duplicate=False))
    known = {id(p) for name, p in named if name.replace("_orig_mod.", "") in saved}
    own = {id(p) for group in optimizer.param_groups for p in group["params"]} - known
    lacking = [name for name, p in named if id(p) in own]
    if lacking:
        raise ValueError(
            f"{path} must be of an optimizer of the same weights, it has nothing of {lacking[0]}"
        )


def _check_names(path: Path, model: nn.Module, saved: dict[str, Tensor]) -> None:
    """The same weights of the same shapes, or one clear error."""
    own = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if has_adapter(model):
        own = {name: own[name] for name, p in model.named_parameters() if p.requires_grad}
    other = {name: tuple(t.shape) for name, t in saved.items()}
    if own != other:
        odd = sorted(set(own.items()) ^ set(other.items()))[0]
        raise ValueError(f"{path} must be of this model; they differ at {odd[0]} {list(odd[1])}")


def export(
    folder: Path, model: nn.Module, dtypes: dict[str, torch.dtype], *, tokenizer: Any,
    only_adapter: bool,
) -> None:  # fmt: skip
    """Write a folder that `from_pretrained` and vLLM load.

    Raises:
        ValueError: The model has no `save_pretrained`, or no adapter where one is wanted, or one
            beside which other weights are trained.
    """
    if only_adapter and not has_adapter(model):
        raise ValueError("only_adapter needs a PEFT model; this is none")
    if not hasattr(base_model(model), "save_pretrained"):
        raise ValueError(f"export needs a model with save_pretrained, got {type(model).__name__}")
    if only_adapter:
        refuse_beside(model)
    folder.mkdir(parents=True, exist_ok=True)
    if only_adapter:
        cast("Any", model).save_pretrained(str(folder))
    else:
        plain = cast("Any", merged(model))
        names = {name: dtypes.get(name, t.dtype) for name, t in plain.state_dict().items()}
        state = {name: t.detach().to(names[name]) for name, t in plain.state_dict().items()}
        plain.save_pretrained(str(folder), state_dict=_tied_again(plain, state))
        if dtypes:  # transformers wrote what they are held in
            path = folder / "config.json"
            said = json.loads(path.read_text("utf-8"))
            said["dtype"] = str(next(iter(dtypes.values()))).removeprefix("torch.")
            path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _tied_again(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let names of one weight share one tensor, as before they changed precision."""
    first: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in state:
            state[name] = first.setdefault(id(parameter), state[name])
    return state


_STEP = re.compile(r"step-(\d+)")


def step_folders(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for old in step_folders(folder)[:-keep]:
        shutil.rmtree(old)
