"""Generation against `transformers.generate` and against the bandwidth of the card."""

from __future__ import annotations

import asyncio
import itertools

import torch
from _gpu_models import config_of, ours_of, theirs_of
from _gpu_report import Report, seconds
from _gpu_train import profile
from longcat_moe import Engine, LongcatConfig, count_active_parameters
from longcat_moe.engine import _fused
from longcat_moe.engine._cache import LatentCache
from longcat_moe.engine._graphs import StaticView

PROMPT, NEW, MORE = 128, 64, 192


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
            return got.token_ids

        return await asyncio.gather(*map(one, prompts))


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
    report: Report, name: str, batches: list[int], ways: dict[str, tuple[dict, int]], speed: float
) -> None:
    """Tokens a second with and without graphs; a step against reading the weights once."""
    device, config = report.device, config_of(name)
    model = ours_of(config, device, torch.bfloat16).eval()
    twin = theirs_of(model, device, torch.bfloat16)
    _transformers(twin, some_prompts(config.vocab_size, 1, 0), 4)
    for batch in batches:
        prompts = some_prompts(config.vocab_size, batch, 99)
        what = f"generate {NEW} after {PROMPT}, {name}, bf16, batch {batch}"
        theirs, said = 0.0, []
        if device == "cuda" and batch <= _fused.MAX_ROWS:
            with report.section(f"kernels, batch {batch}", 40):
                exactness(report, model, batch)
        with report.section(f"transformers, {what}", 40):
            theirs = seconds(
                lambda prompts=prompts: said.append(_transformers(twin, prompts, NEW)),
                device, repeats=1, warm=0,
            )  # fmt: skip
        for way, (options, max_rows) in ways.items():
            with report.section(f"{way}, {what}", 40):
                kept, _fused.MAX_ROWS = _fused.MAX_ROWS, max_rows
                try:
                    one = Ours(model, batch, device, **options)
                    _measure(report, f"{what}, {way}", one, theirs, said, speed)
                finally:
                    _fused.MAX_ROWS = kept


def exactness(report: Report, model, batch: int) -> None:
    """The fused step against the modules, over a cache of random numbers."""
    with torch.inference_mode():
        caches = [
            LatentCache(model.config, num_blocks=batch * 16, block_size=16, dtype=torch.bfloat16,
                        device=report.device)
            for _ in range(2)
        ]  # fmt: skip
        caches[0].full.normal_()
        caches[1].full.copy_(caches[0].full)
        view = StaticView(caches[1], batch, 16)
        view.table_BN.copy_(torch.randperm(batch * 16).view(batch, 16))
        view.positions_B.random_(0, 255)
        ids = torch.randint(3, model.config.vocab_size, (batch,), device=report.device)
        fused = _fused.FusedStep(model, caches[0], num_rows=batch, max_length=256)
        got = fused.logits(ids, view.positions_B, view.table_BN)
        view.begin()
        hidden = model.model(ids[None], None, view.positions_B[None], view)[0]
        expected = model.lm_head(hidden).float()
    gap = float((got - expected).norm() / expected.norm())
    what = f"decoding kernels, {batch} rows, bf16"
    report.row(what, "relative difference", gap, "modules; tolerance 0.03", None, str(gap < 0.03))


def _measure(report: Report, what: str, one: Ours, theirs: float, said, speed: float) -> None:
    device, batch, repeats = report.device, one.batch, 1 if "without" in what else 3
    mine = seconds(lambda: one.generate(NEW), device, repeats=repeats, warm=2)
    more = seconds(lambda: one.generate(MORE), device, repeats=repeats, warm=2)
    rate, other = batch * NEW / mine, batch * NEW / theirs if theirs else None
    report.row(what, "tokens/s", rate, "transformers", other, rate / other if other else None)
    step = (more - mine) / (MORE - NEW)
    least = weight_bytes(one.engine.config, batch, 2) / speed
    report.row(
        f"{what}: a step", "ms", 1e3 * step, "reading the weights once", 1e3 * least, least / step
    )
    if said:
        pairs = [
            x == y
            for left, right in zip(one.generate(NEW, one.known), said[0], strict=True)
            for x, y in zip(left, right, strict=True)
        ]
        report.row(what, "share of equal tokens", sum(pairs) / len(pairs), "transformers")
    profile(report, what, lambda: one.generate(24))
