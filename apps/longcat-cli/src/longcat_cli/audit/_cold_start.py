"""cold start: what was held out is likelier than before, and only mistakes are masked."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import torch
from longcat_moe import ChatFormat, LongcatForCausalLM, init_induction, load_tokenizer, space_twins

from longcat_cli.agent import DECLARE
from longcat_cli.folder import RunFolder
from longcat_cli.worlds import demonstrate, environment_of, load_worlds, read_tasks

from ._again import said_again

LEARNED = 0.5
"""Loss on held-out demonstrations, at most this share of fresh weights' loss."""


def complaints(folder: RunFolder, limit: int) -> list[str]:
    """Compare with fresh weights on up to `limit` held-out demonstrations a domain."""
    recipe = folder.recipe
    worlds = load_worlds(recipe.domains)
    chat = ChatFormat(load_tokenizer(folder.cold_start), declare=DECLARE)
    lines: list[str] = []
    demos: list[Any] = []
    for domain in recipe.domains:
        for number, task in enumerate(read_tasks(folder.tasks(domain, "eval"))[:limit]):
            for share in (0.0, 1.0):
                environment = environment_of(worlds[task.domain], task)
                demo = asyncio.run(
                    demonstrate(environment, rng=Random(number), share_alternative=share)
                )
                if demo is None:
                    lines.append(f"{task.id}: its demonstration does not pass")
                    continue
                demos.append(demo)
                lines += _mask(demo, task, worlds)
    model = LongcatForCausalLM.from_pretrained(folder.cold_start).eval()
    torch.manual_seed(recipe.seed)
    fresh = LongcatForCausalLM(model.config).eval()
    if recipe.model.induction:
        init_induction(fresh, twins=space_twins(chat.tokenizer))
    after, before = (sum(_loss(m, chat, demo) for demo in demos) for m in (model, fresh))
    if not after <= LEARNED * before:
        lines.append(
            f"loss on held-out demonstrations must be at most {LEARNED:g} of fresh weights', "
            f"is {after / before:.2f}"
        )
    return lines


def _mask(demo: Any, task: Any, worlds: Any) -> list[str]:
    said = [(m, ok) for m, ok in zip(demo.messages, demo.imitate, strict=True)
            if m["role"] == "assistant"]  # fmt: skip
    attempt = said_again(worlds, task, [message for message, _ in said])
    masked = [turn for turn, (_, ok) in enumerate(said) if not ok]
    if masked != attempt.failed_turns:
        return [f"{task.id}: turns {masked} are masked, {attempt.failed_turns} fail"]
    return []


@torch.inference_mode()
def _loss(model: LongcatForCausalLM, chat: ChatFormat, demo: Any) -> float:
    """Nats a token of what the assistant says, by the definition."""
    pieces = chat.pieces(demo.messages, demo.tools)
    ids, is_learned = [], []
    for piece in pieces:
        tokens = chat.encode(piece.text)
        ids += tokens
        is_learned += [piece.is_sampled and demo.imitate[piece.message]] * len(tokens)
    log_probs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    taken = [-float(log_probs[place - 1, ids[place]])
             for place in range(1, len(ids)) if is_learned[place]]  # fmt: skip
    return sum(taken) / len(taken)
