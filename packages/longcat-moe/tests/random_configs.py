"""Random configs against transformers: the same logits from one folder, or refused by both.

usage: python random_configs.py [--number 500] [--first 0]

Sizes are small and odd; a few cannot be (more experts chosen than there are, a rotary width without
pairs, nothing where something must be). YaRN comes with any of its keys or without. At least two
experts are chosen: with one, transformers 5 fails.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID253 - a peer, in tests alone
from longcat_moe import LongcatConfig, LongcatForCausalLM

TOLERANCE = 1e-4
"""Of the logits' standard deviation."""


def draw(seed: int) -> dict[str, Any]:
    """Return what a `config.json` says."""
    rng = random.Random(seed)
    routed, zero = rng.randint(2, 9), rng.choice([0, 0, 1, 2, 5])
    sizes = {
        "vocab_size": rng.randint(20, 90), "hidden_size": rng.randint(8, 72),
        "num_layers": rng.randint(1, 3), "num_attention_heads": rng.randint(1, 4),
        "q_lora_rank": rng.randint(3, 40), "kv_lora_rank": rng.randint(3, 33),
        "qk_nope_head_dim": rng.randint(1, 17), "qk_rope_head_dim": 2 * rng.randint(1, 8),
        "v_head_dim": rng.randint(1, 17), "ffn_hidden_size": rng.randint(3, 70),
        "expert_ffn_hidden_size": rng.randint(1, 40), "n_routed_experts": routed,
        "zero_expert_num": zero, "moe_topk": rng.randint(2, routed + zero),
    }  # fmt: skip
    if rng.random() < 0.1:
        sizes["moe_topk"] = routed + zero + 1
    elif rng.random() < 0.1:
        sizes["qk_rope_head_dim"] += 1
    rope = {"rope_theta": rng.choice([100.0, 1e4, 1e7]), "rope_type": "default"}
    if rng.random() < 0.6:
        rope |= {"rope_type": "yarn", **_yarn(rng)}
    return {
        "architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", **sizes,
        "num_hidden_layers": 2 * sizes["num_layers"], "head_dim": sizes["qk_rope_head_dim"],
        "routed_scaling_factor": rng.choice([0.5, 1.0, 2.5, 6.0]), "rope_parameters": rope,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]), "initializer_range": 0.2,
        "max_position_embeddings": 64, "tie_word_embeddings": False, "attention_bias": False,
        "dtype": "float32", "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def _yarn(rng: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {"factor": rng.choice([1.0, 2.0, 4.0, 40.0])}
    may = {
        "original_max_position_embeddings": [8, 16, 64], "beta_fast": [32.0, 4.0],
        "beta_slow": [1.0, 0.5], "mscale": [0.707, 1.0, 2.0], "mscale_all_dim": [0.707, 1.0, 2.0],
        "attention_factor": [0.8, 1.3], "truncate": [True, False],
    }  # fmt: skip
    return values | {key: rng.choice(of) for key, of in may.items() if rng.random() < 0.5}


def compare(seed: int, folder: Path) -> str:
    """Return `equal` or `refused`.

    Raises:
        AssertionError: One refuses what the other runs, or logits differ.
    """
    said = draw(seed)
    ids = torch.randint(0, said["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(7))
    try:
        config = LongcatConfig.from_dict(said)
    except ValueError as ours:
        try:
            _their_logits(transformers.LongcatFlashForCausalLM, said, ids)
        except Exception:  # whatever it says
            return "refused"
        raise AssertionError(f"seed {seed}: refused here alone, {ours}: {said}") from ours
    torch.manual_seed(seed)
    model = LongcatForCausalLM(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(std=0.05)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    with torch.no_grad():
        got = LongcatForCausalLM.from_pretrained(folder).eval()(ids).logits
        peer = transformers.LongcatFlashForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected = peer.eval()(ids, use_cache=False).logits
    gap = ((got - expected).abs().max() / expected.std()).item()
    assert gap <= TOLERANCE, f"seed {seed}: logits differ by {gap:.2g}: {said}"
    return "equal"


def _their_logits(kind: Any, said: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    config = transformers.LongcatFlashConfig(**said)
    with torch.no_grad():
        return kind(config).eval()(ids, use_cache=False).logits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    told: dict[str, int] = {"equal": 0, "refused": 0, "different": 0}
    yarn, notes = 0, list[str]()
    for seed in range(options.first, options.first + options.number):
        yarn += draw(seed)["rope_parameters"]["rope_type"] == "yarn"
        with tempfile.TemporaryDirectory() as folder:
            try:
                told[compare(seed, Path(folder))] += 1
            except AssertionError as error:
                told["different"] += 1
                notes.append(str(error)[:300])
    print("| outcome | configs |\n| --- | --- |")
    print("\n".join(f"| {key} | {num} |" for key, num in told.items()))
    print(json.dumps({
        "title": "Random configs against transformers",
        "claim": f"Asked: the same logits, or refused by both. Of {options.number} configs "
        f"{told['equal']} gave the same logits, {told['refused']} were refused by both, "
        f"{told['different']} were different.",
        "columns": ["outcome", "configs"], "rows": [[key, num] for key, num in told.items()],
        "spread": f"one pass; logits are the same within {TOLERANCE:g} of their standard deviation",
        "seeds": [options.first, options.first + options.number - 1],
        "notes": [f"{yarn} of them with YaRN.", "Seeds: the first and the last config's.", *notes],
        "versions": {"transformers": transformers.__version__},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
