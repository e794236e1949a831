"""A thin trainer over accelerate: sequences in, optimiser steps out.

- Micro-batches hold whole sequences, sorted by length, up to a number of tokens.
- Losses are sums over micro-batches divided by the number of sequences (or tokens) of the whole
  batch, so that gradient accumulation is exact.
- A sequence whose advantage is 0 counts in that number and is never computed: its gradient is 0.
- A sequence without a token to learn counts in its group's mean alone.
- A step with a loss that is not finite changes nothing and raises.
- On several processes (accelerate's data parallel) each trains on samples of its own, whole groups of
  them; gradients are added up once a step, so that they are those of one process with all samples,
  however unequally they are spread. Weights may be sharded over them (FSDP2): the steps are the same.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ._advantage import group_advantages
from ._batch_loss import Whole, batch_loss, divergence, reference_loss
from ._config import TrainerConfig
from ._mismatch import Correction, mismatch_weights
from ._objective import LossStats
from ._predict import Predict, from_hidden_states, from_logits
from ._samples import Attempt, Rows, Sample, as_samples, check_samples, micro_batches
from ._sharding import clip_sharded_grads, is_sharded, load_state, model_state, optimizer_state

_DATA_PARALLEL = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass(slots=True)
class _Part:
    """A micro-batch of `train`, laid out once for all epochs."""

    rows: Rows
    advantage_S: Tensor
    old_T: Tensor
    """What ratios are taken against."""
    weight_T: Tensor | None = None
    reference_T: Tensor | None = None
    is_idle: bool = False


@dataclass(slots=True)
class _Seen:
    """What a micro-batch showed, detached."""

    loss: float
    stats: LossStats
    behaviour_kl: float
    """Sum over tokens, as the next two."""
    reference_kl: float
    entropy: float
    num_tokens: int


class GspoTrainer:
    """Trains any causal language model whose call returns `.logits`.

    Args:
        model: Called as `model(input_ids, attention_mask=...)`. If it also takes `logits_mask`
            (true where a prediction is wanted), the others are never computed. For
            `chunked_log_probs` it has `base_model` and `get_output_embeddings()`, as those of
            transformers do. Its weights may be sharded already (FSDP2's `fully_shard`), or by the
            accelerator.
        config: How steps are taken.
        accelerator: Places the model; a plain CPU one when absent.
        reference: A frozen model; the divergence from it is measured, and with `kl_coefficient`
            held down. Called as `model` is.
        after_step: Called after each optimiser step, for what moves without gradients (a router's
            bias); what it returns joins the metrics.

    Raises:
        ValueError: `kl_coefficient` without a reference.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: nn.Module | None = None,
        after_step: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        if config.kl_coefficient and reference is None:
            raise ValueError(f"kl_coefficient={config.kl_coefficient} needs a reference model")
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
        if is_sharded(model):  # by the caller: data parallelism is FSDP's then
            self.model, self.optimizer = model, cast(Any, self.accelerator.prepare(optimizer))
        else:
            self.model, self.optimizer = cast(
                "tuple[nn.Module, Any]", self.accelerator.prepare(model, optimizer)
            )
        self._is_sharded = is_sharded(self.model)
        # Past DDP's wrapper, which would add gradients up in every backward pass: see `_step`.
        self._predict = self._predictor(
            self.model if self._is_sharded else self.accelerator.unwrap_model(self.model)
        )
        self._refer = None
        if reference is not None:
            self._refer = self._predictor(reference.to(self.accelerator.device).eval())
        self.num_steps = 0
        self._after_step = after_step

    def _predictor(self, model: nn.Module) -> Predict:
        source = from_hidden_states if self.config.chunked_log_probs else from_logits
        return source(model, self.accelerator)

    # -- steps -------------------------------------------------------------------------------

    def train(self, batch: Sequence[Sample] | Sequence[Attempt]) -> dict[str, float]:
        """Take `epochs` steps; advantages are formed within each group of samples.

        Attempts of several segments, such as trajectories of `longcat_dora`, are a sample for each. A sample without a token to learn counts in its group's mean, and in no other way.

        Returns:
            Metrics of the last step, over the samples that were computed: those whose advantage is
            not 0, or all if there is a `kl_coefficient`. Where there is none, no step is taken, and
            `signal_share` is 0. With several processes, ratios, divergences and entropy are those of
            this one's samples. `behaviour_kl` is the divergence of the weights in training from those
            that sampled, `reference_kl` that from the reference, `entropy` in nats; each the mean over
            learned tokens. With a `correction`, `correction` is the mean of its weights.

        Raises:
            ValueError: The batch is empty, or log-probabilities are missing.
            FloatingPointError: The loss is not finite; the weights are as before that step.
        """
        began = time.perf_counter()
        samples = as_samples(batch)
        check_samples(samples)
        advantages = group_advantages(
            [s.reward for s in samples], [s.group for s in samples], baseline=self.config.baseline
        )
        pairs = [(s, a) for s, a in zip(samples, advantages, strict=True) if s.num_learned]
        num_learned, num_signals = len(pairs), sum(a != 0 for _, a in pairs)
        sizes = Counter(s.group for s, _ in pairs)
        num, num_groups, learned, learned_tokens, signals, reward, tokens = self._totals(
            len(samples), len(sizes), num_learned, sum(s.num_learned for s, _ in pairs), num_signals,
            sum(s.reward for s in samples), sum(len(s.token_ids) for s in samples),
        )  # fmt: skip
        if self.config.weigh == "groups":
            pairs = [(s, a * learned / num_groups / sizes[s.group]) for s, a in pairs]
        metrics: dict[str, float] = {}
        if signals or (learned and self.config.kl_coefficient):
            parts = self._parts(pairs)
            whole = Whole(learned, learned_tokens)
            for _ in range(self.config.epochs):
                metrics = self._train_step(parts, whole)
        return metrics | {
            "signal_share": signals / num, "masked_share": 1 - learned / num, "reward": reward / num,
            "tokens": tokens, "tokens_per_s": tokens / (time.perf_counter() - began),
        }  # fmt: skip

    def _parts(self, pairs: Sequence[tuple[Sample, float]]) -> list[_Part]:
        """Lay out what has a gradient, in micro-batches."""
        device = self.accelerator.device
        if not self.config.kl_coefficient:
            pairs = [(sample, advantage) for sample, advantage in pairs if advantage != 0]
        parts: list[_Part] = []
        for batch in micro_batches(pairs, lambda pair: pair[0], self.config.micro_batch_tokens):
            rows = Rows.of([sample for sample, _ in batch], device)
            advantage_S = torch.tensor([a for _, a in batch], device=device)
            parts.append(_Part(rows, advantage_S, rows.old_T))
        for _ in range(self._num_missing(len(parts))):
            rows = Rows.nothing(device)
            parts.append(_Part(rows, torch.zeros(1, device=device), rows.old_T, is_idle=True))
        if self.config.correction is not None:
            for part in parts:
                self._correct(part, self.config.correction)
        if self._refer is not None:
            with torch.no_grad():
                for part in parts:
                    part.reference_T, _ = self._refer(part.rows)
        return parts

    def _correct(self, part: _Part, correction: Correction) -> None:
        """Take ratios against the weights as they are, and weigh by how the engine differs from them."""
        rows = part.rows
        with torch.no_grad():
            part.old_T, _ = self._predict(rows)
        part.weight_T = mismatch_weights(
            part.old_T, rows.old_T, rows.sequence_T, num_sequences=len(part.advantage_S),
            level=correction.level, mode=correction.mode, cap=correction.cap,
        )  # fmt: skip

    def _num_missing(self, num: int) -> int:
        """Passes that this process runs for company: sharded weights are gathered by all together."""
        if not self._is_sharded:
            return 0
        most = torch.tensor(num, device=self.accelerator.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most) - num

    def _train_step(self, parts: list[_Part], whole: Whole) -> dict[str, float]:
        seen = [self._work(part, whole) for part in parts]
        metrics = self._step(sum(s.loss for s in seen))
        seen = [s for s, part in zip(seen, parts, strict=True) if not part.is_idle]
        if not seen:  # other processes have something to learn, this one has not
            return metrics
        ratio_S = torch.cat([s.stats.ratio_S for s in seen])
        clipped_S = torch.cat([s.stats.is_clipped_S for s in seen])
        num = sum(s.num_tokens for s in seen)
        metrics |= {
            "ratio_mean": ratio_S.mean().item(),
            "ratio_max": ratio_S.max().item(),
            "clip_share": clipped_S.mean().item(),
            "behaviour_kl": sum(s.behaviour_kl for s in seen) / num,
            "entropy": sum(s.entropy for s in seen) / num,
        }
        weights = [p.weight_T for p in parts if p.weight_T is not None and not p.is_idle]
        if weights:
            metrics["correction"] = torch.cat(weights).mean().item()
        if self._refer is not None:
            metrics["reference_kl"] = sum(s.reference_kl for s in seen) / num
        return metrics

    def _work(self, part: _Part, whole: Whole) -> _Seen:
        """Add a micro-batch's gradients to what is there."""
        rows, advantage_S = part.rows, part.advantage_S
        log_probs_T, entropy_T = self._predict(rows)
        loss, stats = batch_loss(
            self.config, log_probs_T, part.old_T, advantage_S, rows.sequence_T, whole, part.weight_T
        )
        detached_T, reference_kl = log_probs_T.detach(), 0.0
        if part.reference_T is not None:
            reference_kl = divergence(detached_T, part.reference_T).sum().item()
            if self.config.kl_coefficient:
                drift = reference_loss(
                    log_probs_T, part.reference_T, rows.sequence_T, len(advantage_S), whole
                )
                loss = loss + self.config.kl_coefficient * drift
        if part.is_idle:
            loss = loss * 0
        self._backward(loss)
        behaviour_kl = divergence(rows.old_T, detached_T).sum().item()
        return _Seen(
            loss.item(), stats, behaviour_kl, reference_kl, entropy_T.sum().item(), len(detached_T)
        )

    def fit(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one supervised step: mean negative log-likelihood of the masked-in tokens.

        Raises:
            ValueError: Nothing to learn from.
            FloatingPointError: The loss is not finite; the weights are as before.
        """
        num_tokens, tokens = self._totals(
            sum(s.num_learned for s in samples), sum(len(s.token_ids) for s in samples)
        )
        if num_tokens == 0:
            raise ValueError("a batch must hold at least one token to learn, got none")
        device, total = self.accelerator.device, 0.0
        held = [sample for sample in samples if sample.num_learned]
        batches = micro_batches(held, lambda sample: sample, self.config.micro_batch_tokens)
        num_missing = self._num_missing(len(batches))  # before the first pass: processes meet here
        for batch in batches:
            log_probs_T, _ = self._predict(Rows.of(batch, device))
            loss = -log_probs_T.sum() / num_tokens
            self._backward(loss)
            total += loss.item()
        for _ in range(num_missing):
            log_probs_T, _ = self._predict(Rows.nothing(device))
            self._backward(log_probs_T.sum() * 0)
        return self._step(total) | {"tokens": tokens}

    def _backward(self, loss: Tensor) -> None:
        # FSDP takes the mean of all processes' gradients, where the loss is their sum.
        self.accelerator.backward(
            loss * self.accelerator.num_processes if self._is_sharded else loss
        )

    def _totals(self, *numbers: float) -> list[float]:
        """Add numbers up over all processes."""
        if self.accelerator.num_processes == 1:
            return list(map(float, numbers))
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(mine)
        return mine.tolist()

    def _add_up_gradients(self) -> None:
        """Give every process the sum of all processes' gradients."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def _step(self, loss: float) -> dict[str, float]:
        if self.accelerator.distributed_type in _DATA_PARALLEL and not self._is_sharded:
            self._add_up_gradients()
        (loss,) = self._totals(loss)
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise FloatingPointError(f"the loss must be finite, got {loss}; no step was taken")
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.num_steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.num_steps += 1
        metrics = {"loss": loss, "grad_norm": norm}
        if self._after_step is not None:
            metrics |= self._after_step()
        return metrics

    def _clip(self) -> float:
        parameters, most = self.model.parameters(), self.config.max_grad_norm
        if self._is_sharded:
            return clip_sharded_grads(parameters, most)
        return float(self.accelerator.clip_grad_norm_(parameters, most) or 0.0)

    # -- state -------------------------------------------------------------------------------

    def weights(self) -> bytes:
        """Return the weights as safetensors bytes, for an engine. Of sharded ones, all processes call."""
        state = model_state(self.accelerator.unwrap_model(self.model))
        return save_safetensors({k: v.contiguous() for k, v in state.items()})

    def save(self, folder: Path) -> None:
        """Write everything that a later `restore` needs for the same next step; all processes call.

        What sharded weights wrote, whole ones read, and the reverse.
        """
        model = self.accelerator.unwrap_model(self.model)
        state = {
            "model": model_state(model),
            "optimizer": optimizer_state(model, self._adamw) if self.num_steps else None,
            "num_steps": self.num_steps,
        }
        if self.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / ".trainer.part"
            with part.open(
                "wb"
            ) as file:  # a file of Python's says why a write failed; torch's does not
                torch.save(state, file)
            part.replace(folder / "trainer.pt")
        self.accelerator.wait_for_everyone()

    def restore(self, folder: Path) -> None:
        """Return to what `save` wrote; all processes call.

        Raises:
            FileNotFoundError: There is nothing to return to.
            ValueError: It is of an earlier form.
        """
        path = folder / "trainer.pt"
        if not path.is_file():
            raise FileNotFoundError(f"a trainer's folder must hold trainer.pt, none at {path}")
        state = torch.load(path, weights_only=True)
        optimizer = state["optimizer"]
        if optimizer and not all(isinstance(name, str) for name in optimizer["state"]):
            raise ValueError(
                f"{path} is of an earlier form, without the names of weights: begin anew"
            )
        model = self.accelerator.unwrap_model(self.model)
        load_state(model, self._adamw, state["model"], optimizer)
        self.num_steps = state["num_steps"]

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        """Without accelerate's wrapper."""
        return self.optimizer.optimizer
