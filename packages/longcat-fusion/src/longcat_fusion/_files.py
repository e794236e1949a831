"""The files beside the weights: which come along, and which folder is never written to."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tekken.json",
    "chat_template.jinja", "chat_template.json", "sentencepiece.bpe.model", "tokenization_*.py",
)  # fmt: skip
_MODEL_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "configuration_*.py", "modeling_*.py", "modular_*.py",
    "LICENSE*", "NOTICE*",
)  # fmt: skip
_WRITTEN_ANEW = ("*.safetensors", "*.safetensors.index.json", "merge.json", "README.md")


def refuse_same_folder(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output that is an input, by whatever way it is reached.

    Raises:
        ValueError: The output is one of the inputs, or one of them lies inside it.
    """
    target = out.resolve()
    for path in inputs:
        same = path.exists() and out.exists() and path.samefile(out)
        if same or path.resolve() == target or target in path.resolve().parents:
            raise ValueError(f"the output must differ from every input, {out} holds {path}")
    if not out.is_dir() and (out.exists() or out.is_symlink()):
        kind = "a file" if out.exists() else "a link to nothing"
        raise ValueError(f"the output must be a folder, {out} is {kind}")


def choose_files(base: Path, tokenizer: Path) -> tuple[list[Path], list[str]]:
    """Files to copy, the tokenizer's from its own folder, and names of those left behind.

    Weights of other kinds are never copied: beside the merged ones they would be the unmerged.
    """
    copied, left_out = [], []
    for path in sorted(base.iterdir()):
        if path.name.startswith(".") or _is(path.name, _WRITTEN_ANEW):
            continue
        is_tokenizer = _is(path.name, TOKENIZER_FILES)
        if path.is_file() and (_is(path.name, _MODEL_FILES) or is_tokenizer):
            if not is_tokenizer or tokenizer == base:
                copied.append(path)
        else:
            left_out.append(path.name + ("/" if path.is_dir() else ""))
    if tokenizer != base:
        copied += sorted(
            path
            for path in tokenizer.iterdir()
            if path.is_file() and _is(path.name, TOKENIZER_FILES)
        )
    return copied, left_out


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
