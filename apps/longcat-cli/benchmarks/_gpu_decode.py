"""Generation against `transformers.generate` and against the bandwidth of the card."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from _gpu_models import config_of, ours_of, theirs_of
from _gpu_report import Report, seconds
from _gpu_train import profile
from longcat_moe import Engine, LongcatConfig, count_active_parameters
from longcat_moe.engine import _fused
from longcat_moe.engine._cache import LatentCache
from longcat_moe.engine._graphs import StaticView

PROMPT, NEW, MORE = 128, 64, 192


@dataclass(frozen=True, slots=True)
class Way:
    """Of decoding."""

    options: dict[str, Any]
    """Of the engine."""
    max_rows: int = _fused.MAX_ROWS
    """That the fused kernels take."""
    use_pdl: bool = _fused.USE_PDL


WAYS = {
    "graphs": Way({}),
    "without graphs": Way({"decode_steps": 0}),
    "graphs of the modules": Way({}, max_rows=0),
    "other launch": Way({}, use_pdl=not _fused.USE_PDL),
}


def bandwidth(report: Report) -> float:
    """Bytes a second that a copy within the device reads and writes."""
    num = 1 << (31 if report.device == "cuda" else 26)
    source = torch.empty(num, dtype=torch.uint8, device=report.device).random_()
    target = torch.empty_like(source)
    speed = 2 * num / seconds(lambda: target.copy_(source), report.device, repeats=10, warm=3)
    report.row("copy within the device, read and written", "GB/s", speed / 1e9)
    if report.device == "cuda":
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        rate = 2 * 8192**3 / seconds(lambda: a @ a, "cuda", repeats=10, warm=3)
        report.row("matrix product of 8192, bf16", "TFLOP/s", rate / 1e12)
    return speed


def weight_bytes(config: LongcatConfig, batch: int, item: int) -> float:
    """Bytes of the weights that a step reads once: all but embeddings and experts nobody chose.

    Expected number of distinct experts when each token chooses K_e of N independently.
    """
    met = config.num_active_ffn_experts * batch
    num_ffn = config.n_routed_experts * (1 - (1 - 1 / config.n_routed_experts) ** met)
    return item * count_active_parameters(config, num_ffn_experts=num_ffn)


class Ours:
    """The engine on prompts that it has not seen before."""

    def __init__(self, model, batch: int, device: str, **options) -> None:
        self.engine = Engine(
            model.config, num_slots=batch, max_length=512, dtype=torch.bfloat16, device=device,
            chunk_tokens=16384, **options,
        )  # fmt: skip
        self.engine.add_model(0, model)
        self.seeds = itertools.count()
        self.batch, self.words = batch, model.config.vocab_size
        self.log_probs: list[list[float]] = []
        self.known = some_prompts(self.words, batch, 99)

    def generate(self, num_new: int, prompts=None) -> list[list[int]]:
        if prompts is None:
            prompts = some_prompts(self.words, self.batch, next(self.seeds))
        return asyncio.run(self._all(prompts, num_new))

    async def _all(self, prompts, num_new):
        async def one(prompt):
            c = await self.engine.open(0)
            got = await self.engine.generate(
                c, prompt, max_tokens=num_new, temperature=0, stop_ids=()
            )
            await self.engine.close(c)
            return got

        answers = await asyncio.gather(*map(one, prompts))
        self.log_probs = [answer.log_probs for answer in answers]
        return [answer.token_ids for answer in answers]


def some_prompts(words: int, batch: int, seed: int) -> list[list[int]]:
    """Random prompts of one length, so that nobody pads."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(3, words, (batch, PROMPT), generator=g).tolist()


def _transformers(twin, prompts, num_new: int):
    ids = torch.tensor(prompts, device=twin.device)
    with torch.inference_mode():
        out = twin.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False,
            eos_token_id=None, pad_token_id=0, min_new_tokens=num_new,
        )  # fmt: skip
    return out[:, len(prompts[0]) :].tolist()


def generation(
    report: Report, name: str, batches: list[int], ways: list[str], speed: float, *, has_peer: bool
) -> None:
    """Tokens a second with and without graphs; a step against reading the weights once."""
    device, config = report.device, config_of(name)
    model = ours_of(config, device, torch.bfloat16).eval()
    twin = theirs_of(model, device, torch.bfloat16) if has_peer else None
    if twin is not None:
        _transformers(twin, some_prompts(config.vocab_size, 1, 0), 4)
    for batch in batches:
        prompts = some_prompts(config.vocab_size, batch, 99)
        what = f"generate {NEW} after {PROMPT}, {name}, bf16, batch {batch}"
        theirs, said = 0.0, []
        if device == "cuda" and batch <= _fused.MAX_ROWS:
            with report.section(f"kernels, batch {batch}", 40):
                exactness(report, model, batch)
                step_alone(report, model, batch, speed)
        if twin is not None:
            with report.section(f"transformers, {what}", 40):
                theirs = seconds(
                    lambda p=prompts, t=twin, s=said: s.append(_transformers(t, p, NEW)),
                    device, repeats=1, warm=0,
                )  # fmt: skip
        for name_of, way in ((name, WAYS[name]) for name in ways):
            with report.section(f"{name_of}, {what}", 40):
                kept = _fused.MAX_ROWS, _fused.USE_PDL
                _fused.MAX_ROWS, _fused.USE_PDL = way.max_rows, way.use_pdl
                try:
                    one = Ours(model, batch, device, **way.options)
                    _measure(report, f"{what}, {name_of}", one, theirs, said, speed)
                finally:
                    _fused.MAX_ROWS, _fused.USE_PDL = kept


@torch.inference_mode()
def exactness(report: Report, model, batch: int) -> None:
    """The fused step against the modules, over caches of random numbers; by rows.

    A near tie between experts that falls the other way changes a whole row: the median is told.
    """
    rows: list[float] = []
    while len(rows) < 9:
        caches = [
            LatentCache(model.config, num_blocks=batch * 16, block_size=16, dtype=torch.bfloat16,
                        device=report.device)
            for _ in range(2)
        ]  # fmt: skip
        caches[0].full.normal_()
        caches[1].full.copy_(caches[0].full)
        table = torch.randperm(batch * 16).view(batch, 16).to(report.device)
        positions = torch.randint(0, 255, (batch,), device=report.device)
        ids = torch.randint(3, model.config.vocab_size, (batch,), device=report.device)
        fused = _fused.FusedStep(model, caches[0], num_rows=batch, max_length=256)
        got = fused.step(ids, positions, table)
        view = StaticView(caches[1], positions, table)
        view.begin()
        hidden = model.model(ids[None], None, positions[None], view)[0]
        expected = model.lm_head(hidden).float()
        rows += ((got - expected).norm(dim=-1) / expected.norm(dim=-1)).tolist()
    gap = statistics.median(rows)
    what = f"decoding kernels, {batch} rows, bf16"
    report.row(
        what,
        "relative difference, median row",
        gap,
        "modules; tolerance 0.03",
        None,
        str(gap < 0.03),
    )


@torch.inference_mode()
def step_alone(report: Report, model, batch: int, speed: float) -> None:
    """The captured step without engine and sampling, replayed over 240 tokens of each row."""
    num_blocks = 32
    cache = LatentCache(model.config, num_blocks=batch * num_blocks, block_size=16,
                        dtype=torch.bfloat16, device="cuda")  # fmt: skip
    cache.full.normal_(std=0.3)
    table = torch.randperm(batch * num_blocks, device="cuda").view(batch, num_blocks)
    positions = torch.randint(180, 240, (batch,), device="cuda")
    ids = torch.randint(3, model.config.vocab_size, (batch,), device="cuda")
    fused = _fused.FusedStep(model, cache, num_rows=batch, max_length=16 * num_blocks)
    expected = fused.step(ids, positions, table).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused.step(ids, positions, table)
    fused.logits.x.zero_()
    spent = seconds(lambda: [graph.replay() for _ in range(20)], "cuda", repeats=5) / 20
    least = weight_bytes(model.config, batch, 2) / speed
    what = f"captured step alone, bf16, batch {batch}"
    report.row(what, "ms", 1e3 * spent, "reading the weights once", 1e3 * least, least / spent)
    same = bool((fused.logits.x == expected).all())
    report.row(what, "bits of the step that was not captured", str(same))


def _measure(report: Report, what: str, one: Ours, theirs: float, said, speed: float) -> None:
    device, batch = report.device, one.batch
    is_plain = "without" in what
    repeats, warm = (1, 1) if is_plain else (3, 2)
    mine = seconds(lambda: one.generate(NEW), device, repeats=repeats, warm=warm)
    rate, other = batch * NEW / mine, batch * NEW / theirs if theirs else None
    report.row(what, "tokens/s", rate, "transformers", other, rate / other if other else None)
    if is_plain:
        return
    more = seconds(lambda: one.generate(MORE), device, repeats=repeats, warm=1)
    step = (more - mine) / (MORE - NEW)
    least = weight_bytes(one.engine.config, batch, 2) / speed
    report.row(
        f"{what}: a step", "ms", 1e3 * step, "reading the weights once", 1e3 * least, least / step
    )
    got = one.generate(NEW, one.known)
    if said:
        pairs = [
            x == y for left, right in zip(got, said[0], strict=True)
            for x, y in zip(left, right, strict=True)
        ]  # fmt: skip
        report.row(what, "share of equal tokens", sum(pairs) / len(pairs), "transformers")
    _against_forward(report, what, one, got)
    profile(report, what, lambda: one.generate(33))


@torch.no_grad()
def _against_forward(report: Report, what: str, one: Ours, got: list[list[int]]) -> None:
    """What the engine says of its tokens against one forward pass over them, at most 16 answers."""
    model, num = one.engine._models[0], min(16, one.batch)
    ids = torch.tensor([[*p, *g] for p, g in zip(one.known[:num], got[:num], strict=True)])
    ids = ids.to(report.device)
    logits = model(ids).logits[:, PROMPT - 1 : -1].float().log_softmax(-1)
    expected = logits.gather(-1, ids[:, PROMPT:, None])[..., 0].cpu()
    gaps = (expected - torch.tensor(one.log_probs[:num])).abs().flatten()
    report.row(f"{what}: log-probs", "median difference", float(gaps.median()),
               "forward pass; the largest", float(gaps.max()))  # fmt: skip
