"""A thin trainer over accelerate: sequences in, optimiser steps out.

- Micro-batches hold whole sequences, sorted by length, up to a number of tokens.
- Losses are sums over micro-batches divided by the number of sequences (or tokens) of the whole
  batch, so that gradient accumulation is exact.
- A sequence whose advantage is 0 counts in that number and is never computed: its gradient is 0.
- Sequences of the same tokens are computed once; each has its own loss.
- A sequence without a token to learn counts in its group's mean alone.
- A step with a loss or a gradient that is not finite changes nothing and raises.
- Ratios of the first step on a batch cost no pass of their own: the trainer's old log-probs are
  those of its first pass.
- On several processes (accelerate's data parallel) each trains on samples of its own, whole groups
  of them; gradients are added up once a step, so that they are those of one process with all
  samples, however unequally they are spread. Weights may be sharded over them (FSDP2): the steps
  are the same.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ._adapters import (
    adapter_off,
    enable_checkpointing_through,
    frozen_copy,
    has_adapter,
    is_undone_when_off,
    refuse_unsendable,
    share_memory,
)
from ._agreement import Agreement
from ._attempts import Counts, attempt_advantages, weighed
from ._batch_loss import Whole, batch_loss, divergence, reference_loss
from ._config import TrainerConfig
from ._limits import check_batch, check_texts
from ._modes import without_chance
from ._numbers import whole
from ._old import look_at_engine, set_old
from ._optimizer import (
    MakeOptimizer,
    chosen,
    clip_finite,
    no_gradient_left,
    parameter_groups,
    set_rate,
)
from ._parts import Part, Seen, cut, idle_part, lay_out, summary
from ._predict import Predict, from_hidden_states, from_logits
from ._samples import Attempt, Rows, Sample, as_samples
from ._sharding import is_sharded
from ._state import engine_bytes, export, read_checkpoint, rotate, write_checkpoint
from ._tensors import hold_in_float32, is_low_precision
from ._together import Together


class GspoTrainer:
    """Trains any causal language model whose call returns `.logits`.

    Args:
        model: Called as `model(input_ids, attention_mask=...)`. If it also takes `logits_mask`
            (true where a prediction is wanted), the others are never computed. For
            `chunked_log_probs` it has `base_model` and `get_output_embeddings()`, as those of
            transformers do. With an adapter (PEFT), the adapter is trained. Its weights may be
            sharded already (FSDP2's `fully_shard`), or by the accelerator.
        config: How steps are taken.
        accelerator: Places the model; when absent, it is trained where it is.
        reference: A frozen model, or `frozen` for the model as it is now (with an adapter: without
            it). The divergence from it is measured, and with `kl_coefficient` held down.
        optimizer: Makes the optimiser from parameter groups; that of `config` when absent.
        send: What `weights` gives engines of a model with an adapter: `merged`, or the `adapter`
            alone.
        after_step: Called after each optimiser step, for what moves without gradients (a router's
            bias); what it returns joins the metrics.

    Raises:
        ValueError: `kl_coefficient` without a reference, a reference that is trained itself,
            nothing to train, `send="adapter"` without one, or an optimiser that is not installed
            or cannot take sharded weights.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: nn.Module | Literal["frozen"] | None = None,
        optimizer: MakeOptimizer | None = None,
        send: Literal["merged", "adapter"] = "merged",
        after_step: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        if not isinstance(cast(object, config), TrainerConfig):
            raise TypeError(f"config must be a TrainerConfig, got {type(config).__name__}")
        if config.kl_coefficient and reference is None:
            raise ValueError(f"kl_coefficient={config.kl_coefficient} needs a reference model")
        if send not in ("merged", "adapter") or (send == "adapter" and not has_adapter(model)):
            raise ValueError(f"send must be 'merged', or 'adapter' of a PEFT model, got {send!r}")
        refuse_unsendable(model, only_adapter=send == "adapter")
        self.config, self._send = config, send
        self._is_low = is_low_precision(model)
        self._dtypes = hold_in_float32(model) if config.master_weights else {}
        made = (optimizer or chosen(config))(parameter_groups(model, config))
        self._place(model, made, accelerator)
        is_spread = is_sharded(self.model)
        if is_spread and optimizer is None and config.optimizer != "adamw":
            raise ValueError(
                f"optimizer {config.optimizer!r} is for whole weights, these are sharded: take "
                "'adamw'"
            )
        self._together = Together(self.accelerator, self.device, is_sharded=is_spread)
        # Past DDP's wrapper, which would add gradients up in every backward pass: see `_step`.
        self._plain = self.model if is_spread else self.accelerator.unwrap_model(self.model)
        enable_checkpointing_through(self._plain)
        self._agreement = Agreement(
            is_shaped=config.temperature != 1 or config.is_truncated,
            is_low_precision=self._is_low,
        )
        self._predict = self._predictor(self._plain)
        self._refer = self._reference(reference)
        self.num_steps = 0
        self.num_batches = 0
        """Calls of `train`: the version that its weights are, as `longcat_dora` counts."""
        self._after_step = after_step

    def _place(
        self, model: nn.Module, made: torch.optim.Optimizer, accelerator: Accelerator | None
    ) -> None:
        device = next(model.parameters()).device
        self.accelerator = accelerator or Accelerator(cpu=device.type == "cpu")
        self.device = device if accelerator is None else self.accelerator.device
        if is_sharded(model):  # by the caller: data parallelism is FSDP's then
            self.model, self.optimizer = model, cast(Any, self.accelerator.prepare(made))
            return
        placed = None if accelerator is not None else [False, False]
        self.model, self.optimizer = cast(
            "tuple[nn.Module, Any]",
            self.accelerator.prepare(model, made, device_placement=placed),
        )

    def _predictor(self, model: nn.Module) -> Predict:
        if self.config.chunked_log_probs:
            num = self._together.num
            return from_hidden_states(model, self.config, self.autocast, num_processes=num)
        return from_logits(model, self.config, self.autocast)

    @contextlib.contextmanager
    def autocast(self) -> Any:
        """Compute as the steps do: in the accelerator's precision, or bf16 held in float32.

        What samples from the model that is trained needs it too: weights of two precisions meet.
        """
        low = torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self._dtypes))
        with self.accelerator.autocast(), low if self._dtypes else contextlib.nullcontext():
            yield

    def _reference(self, reference: nn.Module | Literal["frozen"] | None) -> Predict | None:
        if reference is None:
            return None
        if reference != "frozen" and not isinstance(cast(object, reference), nn.Module):
            raise ValueError(f"reference must be a model or 'frozen', got {reference!r}")
        if isinstance(reference, str):
            if is_undone_when_off(self._plain):
                return self._without_adapter
            reference = frozen_copy(self._plain)
        elif share_memory(
            (p for p in self._plain.parameters() if p.requires_grad), reference.parameters()
        ):
            raise ValueError(
                "a reference must not be trained itself, but shares weights with the model; "
                "reference='frozen' makes a copy"
            )
        reference.requires_grad_(False)
        return self._predictor(reference.to(self.device).eval())

    def _without_adapter(self, rows: Rows, *, with_entropy: bool = True) -> tuple[Tensor, Tensor]:
        with adapter_off(self._plain):
            return self._predict(rows, with_entropy=with_entropy)

    # -- steps -------------------------------------------------------------------------------

    def train(self, batch: Sequence[Sample] | Sequence[Attempt]) -> dict[str, float]:
        """Take `epochs` steps; advantages are formed over the attempts of each group.

        Attempts of several segments, such as trajectories of `longcat_dora`, are a sample for each,
        and count once. A sample without a token to learn counts in its group's mean, and in no
        other way.

        Returns:
            Metrics of the last step, over the samples that were computed: those whose advantage is
            not 0, or all if there is a `kl_coefficient`. Where there is none, no step is taken, and
            `signal_share` is 0. With several processes, ratios, divergences and entropy are those
            of this one's samples. `behaviour_kl` is the divergence of the weights in training from
            those that sampled, `mismatch_kl` that of the trainer from the engine on the same
            weights (and `mismatch_ratio` how far a sequence's ratio is from 1 there),
            `reference_kl` that from the reference, `entropy` in nats; each the mean over learned
            tokens. With a `correction`, `correction` is the mean of its weights.

        Raises:
            ValueError: The batch cannot be meant: see `check_samples` and `attempt_advantages`.
            FloatingPointError: A log-prob, the loss or a gradient is not finite; the weights are as
                before that step.
        """
        began = time.perf_counter()
        samples = as_samples(batch)
        check_batch(samples, self.config, self._plain)
        advantages = attempt_advantages(samples, baseline=self.config.baseline)
        counts = Counts(*self._together.totals(*astuple(Counts.of(samples, advantages))))
        metrics: dict[str, float] = {}
        if counts.signals or (counts.learned and self.config.kl_coefficient):
            whole = Whole(counts.learned, counts.learned_tokens)
            with no_gradient_left(self.optimizer), without_chance(self._plain):
                parts = self._parts(weighed(samples, advantages, counts, self.config))
                for _ in range(self.config.epochs):
                    metrics = self._train_step(parts, whole)
            metrics["tokens_per_s"] = counts.tokens / (time.perf_counter() - began)
        self.num_batches += 1
        return metrics | counts.metrics()

    def _parts(self, pairs: Sequence[tuple[Sample, float]]) -> list[Part]:
        """Lay out what has a gradient, in micro-batches."""
        if not self.config.kl_coefficient:
            pairs = [(sample, advantage) for sample, advantage in pairs if advantage != 0]
        parts = lay_out(pairs, self.num_batches, self.config, self.device)
        missing = range(self._together.num_missing(len(parts)))
        parts += [idle_part(self.device) for _ in missing]
        is_open = self.config.old_log_probs == "auto" and self.config.correction is None
        if is_open and self._together.num == 1:
            look_at_engine(parts, self._agreement, self._predict)
        if self._refer is not None:
            with torch.no_grad():
                for part in parts:
                    part.reference_T, _ = self._refer(part.rows)
        return parts

    def _train_step(self, parts: list[Part], whole: Whole) -> dict[str, float]:
        seen = [self._work(part, whole) for part in parts]
        metrics = self._step(sum(s.loss for s in seen))
        seen = [s for s, part in zip(seen, parts, strict=True) if not part.is_idle]
        return metrics | summary(seen, parts) if seen else metrics

    def _work(self, part: Part, whole: Whole) -> Seen:
        """Add a micro-batch's gradients to what is there."""
        rows, advantage_S = part.rows, part.advantage_S
        log_probs_T, entropy_T = self._predict(rows)
        if part.old_T is None:
            set_old(part, log_probs_T, self.config, takes_own=self._agreement.takes_own)
        assert part.old_T is not None
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
        self._together.backward(loss)
        has_old_T = rows.has_old_S[rows.sequence_T]
        behaviour_kl = divergence(rows.old_T[has_old_T], detached_T[has_old_T]).sum().item()
        return Seen(
            loss.item(), stats, behaviour_kl, reference_kl, entropy_T.sum().item(),
            len(detached_T), int(has_old_T.sum()),
        )  # fmt: skip

    def fit(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one supervised step: mean negative log-likelihood of the masked-in tokens.

        Raises:
            ValueError: Nothing to learn from.
            FloatingPointError: The loss or a gradient is not finite; the weights are as before.
        """
        check_texts(samples, self._plain)
        num_tokens, tokens = self._together.totals(
            sum(s.num_learned for s in samples), sum(len(s.token_ids) for s in samples)
        )
        if num_tokens == 0:
            raise ValueError("a batch must hold at least one token to learn, got none")
        self.model.train()
        total = 0.0
        held = [sample for sample in samples if sample.num_learned]
        batches = cut(self.config)(held, lambda s: s, self.config.micro_batch_tokens)
        num_missing = self._together.num_missing(len(batches))  # first: processes meet here
        with no_gradient_left(self.optimizer):
            for batch in batches:
                log_probs_T, _ = self._predict(Rows.of(batch, self.device), with_entropy=False)
                loss = -log_probs_T.sum() / num_tokens
                self._together.backward(loss)
                total += loss.item()
            for _ in range(num_missing):
                log_probs_T, _ = self._predict(Rows.nothing(self.device))
                self._together.backward(log_probs_T.sum() * 0)
            return self._step(total) | {"tokens": tokens}

    def evaluate(self, samples: Sequence[Sample]) -> float:
        """Mean negative log-likelihood of the masked-in tokens of this process, without a step."""
        check_texts(samples, self._plain)
        num_tokens = sum(s.num_learned for s in samples)
        if num_tokens == 0:
            raise ValueError("a batch must hold at least one token to predict, got none")
        self.model.eval()
        held = [sample for sample in samples if sample.num_learned]
        total = 0.0
        with torch.no_grad():
            for batch in cut(self.config)(held, lambda s: s, self.config.micro_batch_tokens):
                log_probs_T, _ = self._predict(Rows.of(batch, self.device), with_entropy=False)
                total -= log_probs_T.sum().item()
        return total / num_tokens

    def _step(self, loss: float) -> dict[str, float]:
        self._together.add_up_gradients(self.model)
        (loss,) = self._together.totals(loss)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss must be finite, got {loss}; no step was taken")
        self.accelerator.unscale_gradients()
        norm = clip_finite(self._plain.named_parameters(), self.config.max_grad_norm)
        rate = self.config.learning_rate_at(self.num_steps)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.num_steps += 1
        metrics = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
        if self._after_step is not None:
            metrics |= self._after_step()
        return metrics

    # -- state -------------------------------------------------------------------------------

    def weights(self) -> bytes:
        """Return the weights as safetensors bytes, for an engine; all processes call where sharded.

        Each under one name, in the precision that the model came with; an adapter merged, or alone
        with `send="adapter"`.
        """
        return engine_bytes(self._plain, self._dtypes, only_adapter=self._send == "adapter")

    def export(
        self, folder: Path | str, *, tokenizer: Any = None, only_adapter: bool = False
    ) -> None:
        """Write a folder that transformers and vLLM load: the merged model, or the adapter."""
        export(
            Path(folder), self._plain, self._dtypes, tokenizer=tokenizer, only_adapter=only_adapter
        )

    def save(self, folder: Path | str) -> None:
        """Write everything that a later `restore` needs for the same next step; all processes call.

        What sharded weights wrote, whole ones read, and the reverse. Of a model with an adapter,
        what is trained alone.
        """
        counts = {"num_steps": self.num_steps, "num_batches": self.num_batches}
        write_checkpoint(
            Path(folder), self._plain, self._adamw, counts,
            is_main=self.accelerator.is_main_process,
        )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def checkpoint(self, folder: Path | str, *, keep: int = 2) -> Path:
        """Save into `folder/step-N`, and keep that many of the newest; return where.

        Raises:
            ValueError: `keep` is below 1.
        """
        keep = whole("keep", keep)
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        path = Path(folder) / f"step-{self.num_steps:06d}"
        self.save(path)
        if self.accelerator.is_main_process:
            rotate(Path(folder), keep)
        return path

    def restore(self, folder: Path | str) -> None:
        """Return to what `save` wrote; all processes call.

        Raises:
            FileNotFoundError: There is nothing to return to.
            ValueError: It is cut short, of an earlier form, or of another model.
        """
        counts = read_checkpoint(Path(folder), self._plain, self._adamw)
        self.num_steps, self.num_batches = counts["num_steps"], counts["num_batches"]

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        """Without accelerate's wrapper."""
        return self.optimizer.optimizer
