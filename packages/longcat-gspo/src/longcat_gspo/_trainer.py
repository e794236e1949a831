"""A thin trainer over accelerate: sequences in, optimiser steps out.

- Micro-batches hold whole sequences, sorted by length, up to a number of tokens.
- Losses are sums over micro-batches divided by the number of sequences (or tokens) of the whole
  batch, so that gradient accumulation is exact.
- A sequence whose advantage is 0 counts in that number and is never computed: its gradient is 0.
- A step with a loss that is not finite changes nothing and raises.
- On several processes (accelerate's data parallel) each trains on samples of its own, whole groups of
  them; gradients are added up once a step, so that they are those of one process with all samples,
  however unequally they are spread.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ._advantage import Baseline, group_advantages
from ._objective import ClipRange, LossStats, gspo_loss
from ._predict import from_hidden_states, from_logits

_DATA_PARALLEL = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sequence to learn from."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    """Which tokens the model wrote and are to be learned."""
    log_probs: Sequence[float] = ()
    """Of every token under the weights that sampled it; 0 where it was not sampled."""
    reward: float = 0.0
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How steps are taken."""

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls to zero over `total_steps`."""
    total_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-16
    """The report's AdamW epsilon."""
    max_grad_norm: float = 1.0
    clip: ClipRange = field(default_factory=ClipRange)
    baseline: Baseline = "mean_std"
    epochs: int = 1
    """Optimiser steps that `train` takes on each batch; `clip` bounds how far they carry."""
    micro_batch_tokens: int = 4096
    chunked_log_probs: bool = False
    """Never hold all tokens by all words: see `linear_log_probs`. For large vocabularies."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.decay not in ("none", "linear", "cosine"):
            raise ValueError(f"decay must be 'none', 'linear' or 'cosine', got {self.decay!r}")
        if self.decay != "none" and self.total_steps < 1:
            raise ValueError(f"decay {self.decay!r} needs total_steps >= 1, got {self.total_steps}")
        for name in ("epochs", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...; past `total_steps` that of the last one."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decay == "none":
            return self.learning_rate * warm
        done = min(step, self.total_steps - 1) / self.total_steps
        left = 1 - done if self.decay == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
        return self.learning_rate * warm * left


class GspoTrainer:
    """Trains any causal language model whose call returns `.logits`.

    Args:
        model: Called as `model(input_ids, attention_mask=...)`. If it also takes `logits_mask`
            (true where a prediction is wanted), the others are never computed. For
            `chunked_log_probs` it has `base_model` and `get_output_embeddings()`, as those of
            transformers do.
        config: How steps are taken.
        accelerator: Places the model; a plain CPU one when absent.
        after_step: Called after each optimiser step, for what moves without gradients (a router's
            bias); what it returns joins the metrics.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        *,
        accelerator: Accelerator | None = None,
        after_step: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator or Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = cast(
            "tuple[nn.Module, Any]", self.accelerator.prepare(model, optimizer)
        )
        source = from_hidden_states if config.chunked_log_probs else from_logits
        # Past DDP's wrapper, which would add gradients up in every backward pass: see `_step`.
        called = self.model
        if self.accelerator.distributed_type in _DATA_PARALLEL:
            called = self.accelerator.unwrap_model(self.model)
        self._predict = source(called, self.accelerator)
        self.num_steps = 0
        self._after_step = after_step

    # -- steps -------------------------------------------------------------------------------

    def train(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take `epochs` GSPO steps; advantages are formed within each group of `samples`.

        Returns:
            Metrics of the last step, over the samples whose advantage is not 0. Where none has one,
            no step is taken, and `signal_share` is 0.

        Raises:
            ValueError: The batch is empty, or log-probabilities are missing.
            FloatingPointError: The loss is not finite; the weights are as before that step.
        """
        _check_samples(samples)
        advantages = group_advantages(
            [s.reward for s in samples], [s.group for s in samples], baseline=self.config.baseline
        )
        pairs = [(s, a) for s, a in zip(samples, advantages, strict=True) if a != 0]
        batches = self._micro_batches(pairs, lambda pair: pair[0]) if pairs else []
        num, num_pairs, reward, tokens = self._totals(
            len(samples),
            len(pairs),
            sum(s.reward for s in samples),
            sum(len(s.token_ids) for s in samples),
        )
        metrics: dict[str, float] = {}
        for _ in range(self.config.epochs if num_pairs else 0):
            metrics = self._gspo_step(batches, num)
        return metrics | {
            "signal_share": num_pairs / num, "reward": reward / num, "tokens": tokens,
        }  # fmt: skip

    def _gspo_step(self, batches: list[list[tuple[Sample, float]]], num: float) -> dict[str, float]:
        def work(batch: list[tuple[Sample, float]]) -> tuple[float, LossStats, Tensor]:
            log_probs_T, old_T, sequence_T = self._log_probs([sample for sample, _ in batch])
            advantage_S = torch.tensor([a for _, a in batch], device=log_probs_T.device)
            loss, stats = gspo_loss(
                log_probs_T, old_T, advantage_S, sequence_T, clip=self.config.clip
            )
            scaled = loss * (len(batch) / num)
            self.accelerator.backward(scaled)
            return scaled.item(), stats, (old_T - log_probs_T.detach()).mean()

        parts = [work(batch) for batch in batches]
        metrics = self._step(sum(loss for loss, _, _ in parts))
        if not parts:  # other processes have something to learn, this one has not
            return metrics
        ratio_S = torch.cat([stats.ratio_S for _, stats, _ in parts])
        clipped_S = torch.cat([stats.is_clipped_S for _, stats, _ in parts])
        return metrics | {
            "ratio_mean": ratio_S.mean().item(),
            "ratio_max": ratio_S.max().item(),
            "clip_share": clipped_S.mean().item(),
            "behaviour_gap": torch.stack([gap for _, _, gap in parts]).mean().item(),
        }

    def fit(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one supervised step: mean negative log-likelihood of the masked-in tokens.

        Raises:
            ValueError: Nothing to learn from.
            FloatingPointError: The loss is not finite; the weights are as before.
        """
        num_tokens, tokens = self._totals(
            sum(sum(s.loss_mask[1:]) for s in samples), sum(len(s.token_ids) for s in samples)
        )
        if num_tokens == 0:
            raise ValueError("a batch must hold at least one token to learn, got none")

        def work(batch: list[Sample]) -> float:
            log_probs_T, _, _ = self._log_probs(batch)
            loss = -log_probs_T.sum() / num_tokens
            self.accelerator.backward(loss)
            return loss.item()

        batches = self._micro_batches(list(samples), lambda sample: sample) if samples else []
        loss = sum(map(work, batches))
        return self._step(loss) | {"tokens": tokens}

    def _totals(self, *numbers: float) -> list[float]:
        """Add numbers up over all processes."""
        if self.accelerator.num_processes == 1:
            return list(map(float, numbers))
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return cast(Tensor, self.accelerator.reduce(mine, reduction="sum")).tolist()

    def _add_up_gradients(self) -> None:
        """Give every process the sum of all processes' gradients."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def _step(self, loss: float) -> dict[str, float]:
        if self.accelerator.distributed_type in _DATA_PARALLEL:
            self._add_up_gradients()
            (loss,) = self._totals(loss)
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise FloatingPointError(f"the loss must be finite, got {loss}; no step was taken")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.num_steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.num_steps += 1
        metrics = {"loss": loss, "grad_norm": float(norm or 0.0)}
        if self._after_step is not None:
            metrics |= self._after_step()
        return metrics

    def _micro_batches(self, items: list[Any], sample: Callable[[Any], Sample]) -> list[list[Any]]:
        """Sort by length; cut into as few equal parts as the token limit allows."""
        items = sorted(items, key=lambda item: len(sample(item).token_ids))
        lengths = [len(sample(item).token_ids) for item in items]
        num = 1
        while True:
            ends = _equal_parts(lengths, num)
            widest = max((e - s) * lengths[e - 1] for s, e in itertools.pairwise(ends))
            if widest <= self.config.micro_batch_tokens or num == len(items):
                return [items[s:e] for s, e in itertools.pairwise(ends)]
            num += 1

    def _log_probs(self, rows: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probs (T,) now and then, and the sequence of each token."""
        device = self.accelerator.device
        width = max(len(row.token_ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        learned = torch.zeros(len(rows), width, dtype=torch.bool)
        real, old = torch.zeros_like(ids), torch.zeros(len(rows), width)
        for place, row in enumerate(rows):
            length = len(row.token_ids)
            ids[place, :length] = torch.tensor(row.token_ids)
            learned[place, 1:length] = torch.tensor(row.loss_mask[1:], dtype=torch.bool)
            real[place, :length] = 1
            if row.log_probs:
                old[place, :length] = torch.tensor(row.log_probs)
        sequence_T = learned.nonzero()[:, 0]
        ids, learned = ids.to(device), learned.to(device)
        wanted = learned.roll(-1, dims=1)  # the first column is never learned
        log_probs_T = self._predict(ids, real.to(device), wanted, ids[learned])
        return log_probs_T, old.to(device)[learned], sequence_T.to(device)

    # -- state -------------------------------------------------------------------------------

    def weights(self) -> bytes:
        """Return the weights as safetensors bytes, for an engine."""
        state = self.accelerator.unwrap_model(self.model).state_dict()
        return save_safetensors({k: v.detach().cpu().contiguous() for k, v in state.items()})

    def save(self, folder: Path) -> None:
        """Write everything that a later `restore` needs for the same next step."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
        }
        part = folder / ".trainer.part"
        with part.open(
            "wb"
        ) as file:  # a file of Python's says why a write failed; torch's does not
            torch.save(state, file)
        part.replace(folder / "trainer.pt")

    def restore(self, folder: Path) -> None:
        """Return to what `save` wrote.

        Raises:
            FileNotFoundError: There is nothing to return to.
        """
        path = folder / "trainer.pt"
        if not path.is_file():
            raise FileNotFoundError(f"a trainer's folder must hold trainer.pt, none at {path}")
        state = torch.load(path, weights_only=True)
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]


def _equal_parts(lengths: list[int], num: int) -> list[int]:
    """Boundaries of `num` runs, none empty, whose sums are about equal."""
    sums = list(itertools.accumulate(lengths))
    ends = [0]
    for part in range(1, num):
        cut = bisect.bisect_left(sums, sums[-1] * part / num) + 1
        ends.append(min(max(cut, ends[-1] + 1), len(lengths) - num + part))
    return [*ends, len(lengths)]


def _check_samples(samples: Sequence[Sample]) -> None:
    if not samples:
        raise ValueError("a batch must hold at least one sample, got none")
    for number, sample in enumerate(samples):
        lengths = len(sample.token_ids), len(sample.loss_mask), len(sample.log_probs)
        if len(set(lengths)) != 1:
            raise ValueError(
                f"sample {number}: token_ids, loss_mask and log_probs must have one length, got "
                f"{', '.join(map(str, lengths))}"
            )
        if not any(sample.loss_mask[1:]):
            raise ValueError(f"sample {number} holds no token to learn")
