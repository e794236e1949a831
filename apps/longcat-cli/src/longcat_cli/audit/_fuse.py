"""fuse: the merge from its inputs, the samples from the logs, the weights from the samples."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from longcat_dora import check, read_events, read_trajectories
from longcat_moe import ChatFormat, LongcatForCausalLM, load_tokenizer

from longcat_cli.agent import DECLARE
from longcat_cli.folder import RunFolder
from longcat_cli.processes import tune_process
from longcat_cli.stages import distil, fuse
from longcat_cli.worlds import load_worlds, read_tasks

from ._again import attempt_of
from ._experts import attempts, steps_again


def complaints(folder: RunFolder, limit: int) -> list[str]:
    """Merge and learn once more; derive each sample that may be learned from."""
    tune_process()  # as the run was: another number of threads adds up in another order
    lines = _merge(folder)
    used = fuse.samples_of(folder)
    derived = list(_derived(folder))
    wrong = Counter((tuple(s.token_ids), tuple(s.loss_mask)) for s in used)
    wrong.subtract(derived)
    if any(wrong.values()):
        more, fewer = sum(n for n in wrong.values() if n > 0), sum(n < 0 for n in wrong.values())
        lines.append(
            f"of {len(derived)} samples that the logs give, {fewer} are missing, {more} wrong"
        )
    model = LongcatForCausalLM.from_pretrained(folder.merged).train()
    if folder.recipe.fuse.road == "distil" and folder.recipe.fuse.distil_steps:
        lines += _distilled(folder, model, limit)
    elif used and folder.recipe.fuse.steps:
        fuse.learn(model, used, folder.recipe)
    if not _is_same(model, folder.fused):
        lines.append("what it learned from gives other weights than the fused model has")
    elif used and folder.facts("fuse").get("head_steps"):  # a run of an older version has none
        head = fuse.train_head(model, used, folder.recipe)
        if not _is_same(head, folder.fused):
            lines.append("the samples give another prediction head than the fused model has")
    return lines


def _distilled(folder: RunFolder, model: LongcatForCausalLM, limit: int) -> list[str]:
    """Take the distillation's steps once more with `model`, from what its log holds."""
    log = folder.distil / "log"
    report = check(read_events(log))
    if report.breaches or not report.num_committed:
        return [f"the log of the distillation breaks its contract: {report.summary()}"]
    found = list(read_trajectories(log))
    trainer = distil.make_trainer(model, folder)
    return [
        *attempts(folder, folder.recipe.domains, found[:: max(1, len(found) // limit)]),
        *steps_again(log, trainer, model, found),
    ]


def _merge(folder: RunFolder) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        fuse.merge_experts(folder, Path(scratch) / "merged")
        model = LongcatForCausalLM.from_pretrained(Path(scratch) / "merged")
        if not _is_same(model, folder.merged):
            return ["the experts' merge is not what their weights give"]
    if _is_same(model, folder.cold_start):
        return ["the merged model is the cold start"]
    return []


def _is_same(model: Any, folder: Path) -> bool:
    kept = LongcatForCausalLM.from_pretrained(folder).state_dict()
    return all(
        name in kept and torch.equal(tensor, kept[name])
        for name, tensor in model.state_dict().items()
    )


def _derived(folder: RunFolder) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Token ids and mask of each sample, from what was sampled alone."""
    recipe = folder.recipe
    chat = ChatFormat(load_tokenizer(folder.cold_start), declare=DECLARE)
    for group, domains in recipe.groups.items():
        worlds = load_worlds(domains)
        tasks = {task.id: task for domain in domains
                 for task in read_tasks(folder.tasks(domain, "train"))}  # fmt: skip
        newest: dict[str, list[Any]] = {}
        for trajectory in read_trajectories(folder.expert(group) / "dora" / "log"):
            newest.setdefault(trajectory.task, []).append(trajectory)
        for name, trajectories in newest.items():
            left = recipe.fuse.per_task
            for trajectory in reversed(trajectories):
                if not left:
                    break
                attempt = attempt_of(trajectory, tasks[name], worlds, chat, recipe.rl.max_turns)
                if attempt.episode.reward.total == 1:
                    left -= 1
                    yield from _samples(trajectory, attempt.failed_turns)


def _samples(
    trajectory: Any, failed: list[int]
) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    turn = -1
    for segment in trajectory.segments:
        mask, was_sampled = [], False
        for is_sampled in segment.loss_mask:
            turn += is_sampled and not was_sampled
            was_sampled = is_sampled
            mask.append(is_sampled and turn not in failed)
        if any(mask):
            yield tuple(segment.token_ids), tuple(mask)
