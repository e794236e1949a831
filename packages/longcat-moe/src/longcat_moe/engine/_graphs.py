"""Decoding in fixed shapes: many steps on the device before the host looks at one of them.

- One step reads tokens, positions and block tables from buffers that stay where they are, and
  leaves the next tokens and positions there. On CUDA it is captured once as a graph and replayed;
  elsewhere the same step runs as it is, which is how it is tested.
- Batches are filled up to a power of two by repeating their first row, which writes the same
  latents to the same place.
- A conversation that may sample fewer tokens than the others stays at the place after its last one,
  which nobody reads.
- What is drawn is what `sample` would draw from the same uniform numbers.

    host:    plan K steps ── copy in ──> ............................ ──> copy out ── commit
    device:                            step step step ... step (no host)

Dimension key: B conversations (filled up), N blocks of a conversation, S tokens in them, K steps,
W vocabulary, L latent width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longcat_moe._attention import Stretch
from longcat_moe._model import LongcatForCausalLM

from . import _fused
from ._cache import LatentCache
from ._sampling import SamplingParams, is_finite
from ._scheduler import Work
from ._step import NotFiniteError, Outcome, sample_rows
from ._triton import can_fuse, has_triton, kernels

_LEAST_BLOCKS = 4


def is_simple(p: SamplingParams) -> bool:
    """Whether the device can draw and see the end by itself: temperature and stop ids alone."""
    return (
        p.is_plain
        and p.top_p == 1
        and p.top_k == 0 == p.min_p
        and not p.stop
        and not p.num_top_log_probs
        and p.prompt_log_probs is None
    )


class StaticView:
    """A `CacheView` whose tensors stay where they are; one new token a conversation."""

    def __init__(self, cache: LatentCache, positions_B: Tensor, table_BN: Tensor) -> None:
        self.cache, self.positions_B, self.table_BN = cache, positions_B, table_BN
        num_rows, num_blocks = table_BN.shape
        self._rows_BT = torch.arange(num_rows, device=cache.device)[:, None]
        self._key_S = torch.arange(num_blocks * cache.block_size, device=cache.device)

    def begin(self) -> None:
        """Find where the new latents go and what may be seen, on the device."""
        size, at_B1 = self.cache.block_size, self.positions_B[:, None]
        block_B = self.table_BN.gather(1, at_B1 // size)[:, 0]
        self._write_B = block_B * size + self.positions_B % size
        is_hidden_BTS = (self._key_S > at_B1)[:, None]
        bias_BTS = torch.zeros(
            is_hidden_BTS.shape, dtype=self.cache.full.dtype, device=at_B1.device
        )
        self._bias_BTS = bias_BTS.masked_fill(is_hidden_BTS, float("-inf"))

    def extend(self, index: int, latent_PL: Tensor) -> Iterator[Stretch]:
        """Store new latents; return what each new token may see of all so far."""
        store = self.cache.store_of(index)
        store.flatten(0, 1).index_copy_(0, self._write_B, latent_PL.to(store.dtype))
        latents_BSL = store[self.table_BN].flatten(1, 2)
        yield Stretch(self._rows_BT, latents_BSL, self._bias_BTS)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a captured step is made for."""

    num_rows: int
    num_blocks: int


class _Buffers:
    """Tensors that lie side by side, here and on the device, so that one copy moves them all."""

    def __init__(
        self, device: torch.device, parts: dict[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> None:
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in parts.values()]
        begins = [*itertools.accumulate((-(-size // 16) * 16 for size in sizes), initial=0)]
        self._there = torch.zeros(begins[-1], dtype=torch.uint8, device=device)
        self._here = torch.zeros(begins[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.there, self.here = (
            {
                name: whole[begin : begin + size].view(dtype).view(shape)
                for (name, (shape, dtype)), begin, size in zip(
                    parts.items(), begins[:-1], sizes, strict=True
                )
            }
            for whole in (self._there, self._here)
        )

    def put(self, name: str, values: object) -> None:
        """Write what `send` will copy."""
        self.here[name].numpy()[...] = values

    def send(self) -> None:
        """Copy to the device; what is here must stay until the device was waited for."""
        self._there.copy_(self._here, non_blocking=True)

    def fetch(self) -> None:
        """Copy from the device, and wait for it."""
        self._here.copy_(self._there)


class _Step:
    """One step and its buffers."""

    def __init__(
        self,
        model: LongcatForCausalLM,
        cache: LatentCache,
        shape: _Shape,
        max_steps: int,
        like: _Step | None,
    ) -> None:
        device, num = cache.device, shape.num_rows
        self.model, self.shape = model, shape
        whole, real = torch.long, torch.float32
        self.given = _Buffers(
            device,
            {
                "ids": ((num,), whole), "positions": ((num,), whole), "limits": ((num,), whole),
                "steps": ((num,), whole), "table": ((num, shape.num_blocks), whole),
                "temperature": ((num,), real), "uniforms": ((max_steps, num), real),
            },
        )  # fmt: skip
        self.said = _Buffers(
            device,
            {"tokens": ((max_steps, num), whole), "log_probs": ((max_steps, num), real)},
        )
        there = self.given.there
        self.view = StaticView(cache, there["positions"], there["table"])
        self.fused: _fused.FusedStep | None = None
        is_cuda = device.type == "cuda"
        self._kernels = kernels() if is_cuda and has_triton() else None
        if is_cuda and num <= _fused.MAX_ROWS and can_fuse(model.config):
            length = shape.num_blocks * cache.block_size
            self.fused = _fused.FusedStep(
                model,
                cache,
                num_rows=num,
                max_length=length,
                like=None if like is None else like.fused,
            )
        # Ordinary grouped products look at counts on the host, but for bf16.
        self._can_capture = is_cuda and (
            self.fused is not None or model.lm_head.weight.dtype == torch.bfloat16
        )
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self._has_run: set[str] = set()
        self._logits_BW: Tensor | None = None

    def run(self, num_steps: int) -> None:
        """Take so many steps."""
        for _ in range(num_steps):
            self._replay("step", self._step)

    def logits(self) -> Tensor:
        """Return the logits (B, W) of one step, in a buffer; nothing is drawn."""
        self._replay("logits", self._keep_logits)
        assert self._logits_BW is not None
        return self._logits_BW

    def _replay(self, name: str, call: Callable[[], None]) -> None:
        """Run; the second time captures, and the first one warms up by being a real one."""
        if name not in self.graphs:
            if name not in self._has_run or not self._can_capture:
                self._has_run.add(name)
                call()
                return
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                call()
            self.graphs[name] = graph
        self.graphs[name].replay()

    def _keep_logits(self) -> None:
        self._logits_BW = self._logits()

    def _step(self) -> None:
        logits_BW, given, said = self._logits(), self.given.there, self.said.there
        if self._kernels is not None:
            num, words = logits_BW.shape
            self._kernels.sample[(num,)](
                logits_BW, given["temperature"], given["uniforms"], said["tokens"],
                said["log_probs"], given["ids"], given["positions"], given["limits"],
                given["steps"], num, words, BLOCK=min(16384, _power_of_two(words)), num_warps=16,
            )  # fmt: skip
            return
        step_B, heat_B = given["steps"], given["temperature"]
        uniform_B1 = given["uniforms"].gather(0, step_B[None]).T
        token_B = torch.where(
            heat_B > 0, _draw(logits_BW, heat_B, uniform_B1), logits_BW.argmax(-1)
        )
        chosen_B = logits_BW.log_softmax(-1).gather(1, token_B[:, None])[:, 0]
        said["tokens"].scatter_(0, step_B[None], token_B[None])
        said["log_probs"].scatter_(0, step_B[None], chosen_B[None])
        given["ids"].copy_(token_B)
        at_B = given["positions"]
        at_B.copy_(torch.minimum(at_B + 1, given["limits"]))
        step_B += 1

    def _logits(self) -> Tensor:
        view, ids_B = self.view, self.given.there["ids"]
        if self.fused is not None:
            return self.fused.step(ids_B, view.positions_B, view.table_BN)
        view.begin()
        hidden_BD = self.model.model(ids_B[None], None, view.positions_B[None], view)[0]
        return self.model.lm_head(hidden_BD).float().contiguous()


def _draw(logits_BW: Tensor, heat_B: Tensor, uniform_B1: Tensor) -> Tensor:
    """As `_sampling.draw`, from uniform numbers that lie on the device."""
    by_B1 = torch.where(heat_B > 0, heat_B, 1.0)[:, None]
    ends_BW = (logits_BW / by_B1).softmax(-1).cumsum(-1)
    drawn_B = torch.searchsorted(ends_BW, uniform_B1 * ends_BW[:, -1:], right=True)[:, 0]
    last_B = ends_BW.shape[1] - (ends_BW == ends_BW[:, -1:]).sum(-1)
    return drawn_B.minimum(last_B.clamp(max=ends_BW.shape[1] - 1))


class StaticDecoder:
    """Decodes for one model; prompts, guesses and other wirings are the ordinary step's.

    Args:
        model: On the cache's device; not changed while this lives.
        cache: The engine's.
        max_steps: Taken before the host looks, at most.
    """

    def __init__(self, model: LongcatForCausalLM, cache: LatentCache, *, max_steps: int) -> None:
        self.model, self.cache, self.max_steps = model, cache, max_steps
        self._steps: dict[_Shape, _Step] = {}

    def can_run(self, batch: Sequence[Work]) -> bool:
        """Whether each brings one token, of a model that has a step in fixed shapes."""
        config = self.model.config
        if config.has_ngrams or config.sparse_attention is not None:
            return False
        return all(
            w.is_last
            and len(w.token_ids) == 1
            and w.params.max_tokens
            and not w.conversation.is_scoring
            for w in batch
        )

    @torch.inference_mode()
    def run(self, batch: Sequence[Work]) -> list[Outcome]:
        """Sample up to `num_steps` tokens a conversation, fewer where a stop id comes first.

        One each where a request asks for what the host must see: constraints, penalties, top-p.

        Raises:
            NotFiniteError: A token that is kept has a log-probability that is no number.
        """
        if all(is_simple(w.params) for w in batch):
            outcomes = self._run_ahead(batch)
        else:
            step = self._step_of(batch)
            self._fill(step, batch, 0)
            outcomes = sample_rows(step.logits()[: len(batch)], batch)
        if not all(is_finite(outcome.log_probs) for outcome in outcomes):
            raise NotFiniteError("logits must be finite")
        return outcomes

    def _run_ahead(self, batch: Sequence[Work]) -> list[Outcome]:
        num_steps, step = max(w.num_steps for w in batch), self._step_of(batch)
        self._fill(step, batch, num_steps)
        step.run(num_steps)
        step.said.fetch()
        tokens: list[list[int]] = step.said.here["tokens"][:num_steps].T.tolist()
        log_probs: list[list[float]] = step.said.here["log_probs"][:num_steps].T.tolist()
        return [_outcome(*x) for x in zip(batch, tokens, log_probs, strict=False)]

    def _step_of(self, batch: Sequence[Work]) -> _Step:
        size = self.cache.block_size
        longest = max(w.span.start + w.num_steps for w in batch) // size + 1
        shape = _Shape(
            num_rows=_power_of_two(len(batch)),
            num_blocks=max(_LEAST_BLOCKS, _power_of_two(longest)),
        )
        if shape not in self._steps:
            same = (step for s, step in self._steps.items() if s.num_rows == shape.num_rows)
            self._steps[shape] = _Step(
                self.model, self.cache, shape, self.max_steps, next(same, None)
            )
        return self._steps[shape]

    def _fill(self, step: _Step, batch: Sequence[Work], num_steps: int) -> None:
        num_blocks = step.shape.num_blocks
        rows = [*range(len(batch)), *[0] * (step.shape.num_rows - len(batch))]
        works, given = [batch[row] for row in rows], step.given
        given.put("ids", [w.token_ids[0] for w in works])
        given.put("positions", [w.span.start for w in works])
        given.put("limits", [w.span.start + w.num_steps for w in works])
        given.put("steps", 0)
        given.put(
            "table",
            [[*w.span.blocks, *[w.span.blocks[0]] * num_blocks][:num_blocks] for w in works],
        )
        given.put("temperature", [w.params.temperature for w in works])
        if num_steps:
            uniforms = [_uniforms(w, num_steps) for w in batch]
            given.here["uniforms"][:num_steps].T.numpy()[...] = [uniforms[row] for row in rows]
        given.send()


def _uniforms(work: Work, num_steps: int) -> list[float]:
    """Draw what a conversation needs, and fill up."""
    drawn = work.conversation.rng.many(work.num_steps)
    return drawn + [0.5] * (num_steps - work.num_steps)


def _outcome(work: Work, tokens: list[int], log_probs: list[float]) -> Outcome:
    """Cut off what comes after the end, and give the uniform numbers of it back."""
    request = work.conversation.request
    stop_ids = frozenset[int]() if request is None else request.stop_ids
    num = work.num_steps
    if not stop_ids.isdisjoint(tokens[:num]):
        num = next(k + 1 for k, token in enumerate(tokens) if token in stop_ids)
    work.conversation.rng.unread(work.num_steps - num)
    return Outcome(work, tokens[:num], log_probs[:num], num)


def _power_of_two(num: int) -> int:
    return 1 << (num - 1).bit_length()
