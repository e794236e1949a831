"""Our objectives against TRL's and verl's own functions, on random inputs: loss and gradient.

usage: pip install trl verl; python peers.py      Without one of them, its rows are absent.

TRL's loss is a method of its trainer: it is called on a trainer that was never set up, whose model
is replaced by random log-probabilities. verl's are functions. Ratios reach well beyond the clip
range.
"""

import collections
import importlib.metadata
import importlib.util
import json
import types

import torch
from accelerate import Accelerator
from longcat_gspo import (
    ClipRange,
    TripletClip,
    dapo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    triplet_clip_loss,
)

CLIP = ClipRange(low=3e-3, high=4e-3)
TRIPLET = TripletClip(negative_low=CLIP.low, positive_high=CLIP.high, negative_high=1.01)
B, T, NUM = 6, 17, 200


def random_batch(seed):
    g = torch.Generator().manual_seed(seed)
    old = -2 * torch.rand(B, T, generator=g, dtype=torch.float64)
    new = (old + 0.02 * torch.randn(B, T, generator=g, dtype=torch.float64)).requires_grad_()
    mask = (torch.rand(B, T, generator=g) < 0.7).double()
    mask[:, 0] = 1
    advantages = torch.randn(B, generator=g, dtype=torch.float64)
    return old, new, mask, advantages


def ours(loss, old, new, mask, advantages):
    keep = mask.bool()
    sequence = keep.nonzero()[:, 0]
    if loss is gspo_token_loss:
        value, _ = loss(
            new[keep], old[keep], advantages[sequence], sequence, num_sequences=B, clip=CLIP
        )
    elif loss is triplet_clip_loss:
        value, _ = loss(new[keep], old[keep], advantages, sequence, clip=TRIPLET, max_tokens=T)
    else:
        value, _ = loss(new[keep], old[keep], advantages, sequence, clip=CLIP)
    return value


def trl_loss(level, loss_type):
    from trl import GRPOTrainer

    trainer = object.__new__(GRPOTrainer)
    trainer.__dict__ |= {
        "importance_sampling_level": level, "loss_type": loss_type, "beta": 0.0,
        "epsilon_low": CLIP.low, "epsilon_high": CLIP.high, "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None, "use_vllm": False,
        "_entropy_bonus_enabled": False, "aux_loss_enabled": False,
        "args": types.SimpleNamespace(delta=None, use_bias_correction_kl=False,
        steps_per_generation=1),
        "current_gradient_accumulation_steps": 1, "_metrics": collections.defaultdict(
            lambda: collections.defaultdict(list)),
        "model": types.SimpleNamespace(training=True),
        "accelerator": Accelerator(cpu=True),
    }  # fmt: skip

    def call(old, new, mask, advantages):
        trainer._get_per_token_logps_and_entropies = lambda *a, **k: (new, torch.zeros(B, T), None)
        ids = torch.zeros(B, T, dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids,
            "completion_mask": mask, "advantages": advantages, "old_per_token_logps": old,
            "num_items_in_batch": mask.sum(),
        }  # fmt: skip
        return GRPOTrainer._compute_loss(trainer, trainer.model, inputs)

    return call


def verl_loss(name, aggregate, *, most=1e9):
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp", rollout_n=1, clip_ratio_low=CLIP.low, clip_ratio_high=CLIP.high,
        clip_ratio_c=most, ppo_micro_batch_size_per_gpu=1, ppo_mini_batch_size=B,
    )  # fmt: skip
    function = core_algos.get_policy_loss_fn(name)

    def call(old, new, mask, advantages):
        loss, _ = function(
            old, new, advantages[:, None].expand(B, T), mask, loss_agg_mode=aggregate, config=config
        )
        return loss

    return call


def pairs():
    """Our functions and theirs, of the libraries that are installed."""
    found, versions = [], {}
    notes = [f"float64, {B} sequences of up to {T} tokens, ratios well beyond the clip."]
    if importlib.util.find_spec("trl") is not None:
        versions["trl"] = importlib.metadata.version("trl")
        found += [
            (gspo_loss, "TRL, level sequence", trl_loss("sequence", "grpo")),
            (grpo_loss, "TRL, level token", trl_loss("token", "grpo")),
            (dapo_loss, "TRL, loss_type dapo", trl_loss("token", "dapo")),
        ]
    if importlib.util.find_spec("verl") is not None:
        versions["verl"] = importlib.metadata.version("verl")
        found += [
            (gspo_loss, "verl, gspo", verl_loss("gspo", "seq-mean-token-mean")),
            (gspo_token_loss, "verl, gspo", verl_loss("gspo", "seq-mean-token-mean")),
            (grpo_loss, "verl, vanilla, seq-mean", verl_loss("vanilla", "seq-mean-token-mean")),
            (dapo_loss, "verl, vanilla, token-mean", verl_loss("vanilla", "token-mean")),
            (triplet_clip_loss, "verl, vanilla with dual clip, seq-mean-token-sum-norm",
             verl_loss("vanilla", "seq-mean-token-sum-norm", most=TRIPLET.negative_high)),
        ]  # fmt: skip
        notes.append("verl adds 1e-8 to the number of tokens where it takes a sequence's mean.")
    return found, versions, notes


def main() -> None:
    found, versions, notes = pairs()
    rows = []
    print("| ours | peer | largest difference of loss | of gradient, over its norm |")
    print("| --- | --- | --- | --- |")
    for mine, peer_name, peer in found:
        losses, grads = [], []
        for seed in range(NUM):
            old, new, mask, advantages = random_batch(seed)
            a, b = ours(mine, old, new, mask, advantages), peer(old, new, mask, advantages)
            ga, gb = (torch.autograd.grad(x, new)[0] for x in (a, b))
            losses.append(abs(float(a.detach() - b.detach())))
            grads.append(float((ga - gb).norm() / ga.norm().clamp_min(1e-12)))
        rows.append([mine.__name__, peer_name, f"{max(losses):.0e}", f"{max(grads):.0e}"])
        print("| " + " | ".join(rows[-1]) + " |", flush=True)
    most = max(float(cell) for row in rows for cell in row[2:])
    print(json.dumps({
        "title": "Our objectives and other libraries' own functions",
        "claim": f"Asked: the same numbers. The largest difference of {len(rows)} pairs is {most}.",
        "columns": ["ours", "peer", "of loss", "of gradient over its norm"], "rows": rows,
        "spread": f"largest of {NUM} random batches", "versions": versions,
        "notes": notes,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
