"""One model, several versions of its weights, and a batch of conversations on each.

    generate ──> waiting ──> prefill ──> a row of its version's batch ──> one token a pass ──> done
                                │                                             │
                                └──── rows are free, the cache is kept ◄──────┘  until `close`

- All passes are made by one thread; between two, conversations join, leave and are interrupted.
- A conversation is of one version. Its past is computed once: what is appended continues its cache.
- Conversations of a version that begin alike (attempts at one task) share the pass over their
  prompt.
"""

# transformers and PEFT are only partly typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

try:
    import torch
    import transformers
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "longcat_dora.transformers needs: pip install 'longcat-dora[transformers]'"
    ) from error
from torch import Tensor, nn
from torch.func import functional_call

from longcat_dora import Completion, LongcatDoraError

from ._cache import Kept, RowCache
from ._draw import drawn
from ._supported import added, adds_masks, check_lengths
from ._weights import adapter_names, fitted, read_tensors

_PASSES = 8
"""Tokens that a batch is given before the loop looks for what else there is to do."""


@dataclass(slots=True, eq=False)
class _Conversation:
    version: int
    rng: random.Random
    tokens: list[int] = field(default_factory=list[int])
    num_cached: int = 0
    kept: Kept | None = None


@dataclass(slots=True, eq=False)
class _Request:
    conversation: _Conversation
    max_tokens: int
    temperature: float
    done: asyncio.Future[Completion]
    token_ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    reason: str = ""


@dataclass(slots=True, eq=False)
class _Version:
    """Weights, and the batch that is sampled with them; row n is `active[n]`'s."""

    tensors: dict[str, Tensor]
    cache: RowCache
    active: list[_Request] = field(default_factory=list[_Request])
    has_adapter: bool = False

    def __post_init__(self) -> None:
        self.has_adapter = any("lora_" in name or ".default" in name for name in self.tensors)


class TransformersEngine:
    """Implements `InterruptibleEngine` with any causal LM of transformers whose attention sees all.

    Args:
        model: A folder or a hub's name, or a model.
        dtype: Of the weights here, such as `bfloat16`; `auto`: as they were saved.
        device: Where it computes; `auto`: a GPU if there is one.
        num_rows: Conversations sampled at once, for each version.
        max_length: Tokens of a conversation, prompt included.
        stop_token_ids: After which an answer ends; those of the model's generation config when
            absent.

    Raises:
        LongcatDoraError: The cache cannot hold the model's attention (it slides, is linear, or
            takes no mask), or `max_length` is beyond its positions.
    """

    def __init__(
        self, model: str | nn.Module, *, dtype: str = "auto", device: str = "auto",
        num_rows: int = 32, max_length: int = 2048, stop_token_ids: Sequence[int] = (),
    ) -> None:  # fmt: skip
        if num_rows < 1 or max_length < 2:
            raise ValueError(
                f"need num_rows >= 1 and max_length >= 2, got {num_rows}, {max_length}"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded: Any = model
        self.name = model if isinstance(model, str) else None
        if isinstance(model, str):
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                model, dtype=dtype, attn_implementation="sdpa"
            )
        self.model: Any = loaded.to(device).eval().requires_grad_(False)
        self.device, self.num_rows, self.max_length = torch.device(device), num_rows, max_length
        self._adds_masks = False
        if self.device.type != "meta":  # there it has no weights, and is asked for its words alone
            check_lengths(self.model, max_length)
            self._adds_masks = adds_masks(self.model, self.device)
        self._stops = set(stop_token_ids) or _stop_ids(self.model)
        self._tokenizer: Any = None
        self._peft: Any = None
        self._waiting_weights: dict[int, bytes | memoryview | Mapping[str, Tensor]] = {}
        self._versions: dict[int, _Version] = {}
        self._conversations: dict[int, _Conversation] = {}
        self._waiting: list[_Request] = []
        self._interrupted: set[_Conversation] = set()
        self._next = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self._loop: asyncio.Task[None] | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model's folder; its stop token ends answers too."""
        if self._tokenizer is None:
            if self.name is None:
                raise LongcatDoraError(
                    "a model that was given as an object has no tokenizer's folder"
                )
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.name)
            if self._tokenizer.eos_token_id is not None:
                self._stops.add(self._tokenizer.eos_token_id)
        return self._tokenizer

    @property
    def stop_token_ids(self) -> list[int]:
        """After which an answer ends."""
        return sorted(self._stops)

    # -- Engine ------------------------------------------------------------------------------

    def load_weights(
        self, version: int, weights: bytes | memoryview | Mapping[str, Tensor]
    ) -> None:
        """Make a version available: all weights, or an adapter with its config. None: those it has.

        Safetensors bytes, or tensors by name, which are then all weights.
        """
        self._waiting_weights[version] = weights

    def retire(self, version: int) -> None:
        """Free a version; its last conversation has closed."""
        self._waiting_weights.pop(version, None)
        self._versions.pop(version, None)

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation.

        Raises:
            KeyError: The version is not live.
        """
        if version not in self._versions and version not in self._waiting_weights:
            live = sorted({*self._versions, *self._waiting_weights})
            raise KeyError(f"version {version} must be live, live are {live}")
        self._next += 1
        self._conversations[self._next] = _Conversation(version, random.Random(seed))
        return self._next

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> Completion:
        """Append tokens to a conversation and sample its continuation.

        Empty where no room is left.
        """
        c = self._conversations[identifier]
        room = self.max_length - len(c.tokens) - len(token_ids)
        if room < 1 or max_tokens < 1:
            return Completion([], [], "length")
        c.tokens += token_ids
        if not c.tokens:
            raise ValueError("a conversation must begin with at least one token, got none")
        done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        request = _Request(c, min(max_tokens, room), temperature, done)
        self._waiting.append(request)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        return await done

    def interrupt(self, identifier: int) -> None:
        """Let a running `generate` return what is sampled, with the reason `interrupted`."""
        self._interrupted.add(self._conversations[identifier])

    async def close(self, identifier: int) -> None:
        """End a conversation."""
        self._conversations.pop(identifier).kept = None

    async def stop(self) -> None:
        """Make no further pass."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._thread.shutdown()

    # -- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        """Takes: requests. Gives: completions. Stops: when nobody waits for one."""
        loop = asyncio.get_running_loop()
        while self._waiting or any(v.active for v in self._versions.values()):
            joining, self._waiting = self._waiting, []
            try:
                ended = await loop.run_in_executor(self._thread, self._passes, joining)
            except Exception as error:
                running = [r for v in self._versions.values() for r in v.active]
                for request in {*joining, *running, *self._waiting}:
                    if not request.done.done():
                        request.done.set_exception(error)
                self._waiting.clear()
                for version in self._versions.values():
                    version.active.clear()
                return
            for request in ended:
                if not request.done.done():
                    request.done.set_result(
                        Completion(request.token_ids, request.log_probs, request.reason)
                    )

    @torch.no_grad()
    def _passes(self, joining: list[_Request]) -> list[_Request]:
        """Let requests join where there is room, then give every batch some tokens.

        Return who is done.
        """
        ended: list[_Request] = []
        for number in {request.conversation.version for request in joining}:
            version = self._live(number)
            room = self.num_rows - len(version.active)
            mine = [r for r in joining if r.conversation.version == number]
            self._waiting += mine[room:]
            self._prefill(version, mine[:room])
            self._leave(version, ended)
        for version in list(self._versions.values()):
            for _ in range(_PASSES):
                if not version.active:
                    break
                self._decode(version)
                self._leave(version, ended)
        return ended

    def _live(self, number: int) -> _Version:
        if (weights := self._waiting_weights.get(number)) is not None:
            layers = self.model.config.get_text_config().num_hidden_layers
            cache = RowCache(layers, self.num_rows, self.max_length)
            self._versions[number] = _Version(self._take(weights), cache)
            del weights
            # Last: whoever opens a conversation meanwhile must find it in one of the two.
            if self._waiting_weights.pop(number, None) is None:  # retired meanwhile
                return self._versions.pop(number)
        return self._versions[number]

    def _take(self, weights: bytes | memoryview | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not len(weights):
            return {}
        if isinstance(weights, Mapping):
            return fitted(self.model, dict(weights))
        tensors, about = read_tensors(weights)
        if "peft_config" not in about:
            return fitted(self.model, tensors)
        if self._peft is None:
            import peft  # noqa: PLC0415 - only where adapters are sent

            options: dict[str, Any] = json.loads(about["peft_config"])
            config = peft.PeftConfig.from_peft_type(**{**options, "inference_mode": True})
            self._peft = peft.get_peft_model(self.model, config).eval().requires_grad_(False)
        return adapter_names(self._peft, tensors)

    def _forward(self, version: _Version, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of the last position of each row, in float32."""
        mask = added(mask, self.model.dtype) if self._adds_masks else mask
        options = {
            "input_ids": ids, "position_ids": positions, "attention_mask": mask,
            "past_key_values": version.cache, "use_cache": True, "logits_to_keep": 1,
        }  # fmt: skip
        ours = version.has_adapter  # whose tensors are tied to nothing
        model = cast("nn.Module", self._peft if ours else self.model)
        out: Any = functional_call(model, version.tensors, (), options, tie_weights=not ours)
        return out.logits[:, -1].float()

    def _prefill(self, version: _Version, joining: list[_Request]) -> None:
        alike: dict[tuple[int, ...], tuple[int, Tensor]] = {}
        for request in joining:
            c, row = request.conversation, len(version.active)
            key = tuple(c.tokens)
            if key in alike and c.kept is None:
                source, logits = alike[key]
                version.cache.copy(source, row, len(key))
            else:
                if c.kept is not None:
                    version.cache.put(row, c.kept)
                    c.kept = None
                else:
                    c.num_cached = _begin_as_others(version, row, c)
                new = torch.tensor([c.tokens[c.num_cached :]], device=self.device)
                mask = version.cache.one(row, c.num_cached, new.shape[1], self.device)
                places = torch.arange(c.num_cached, len(c.tokens), device=self.device)[None]
                logits = self._forward(version, new, places, mask)
                alike[key] = row, logits
            c.num_cached = len(c.tokens)
            version.active.append(request)
            self._sample(logits, [request])

    def _decode(self, version: _Version) -> None:
        conversations = [request.conversation for request in version.active]
        last = [[c.tokens[-1]] for c in conversations]
        places = [c.num_cached for c in conversations]
        mask = version.cache.at(places, self.device)
        ids = torch.tensor(last, device=self.device)
        positions = torch.tensor(places, device=self.device)[:, None]
        logits = self._forward(version, ids, positions, mask)
        for c in conversations:
            c.num_cached += 1
        self._sample(logits, version.active)

    def _sample(self, logits_BV: Tensor, requests: list[_Request]) -> None:
        """Give each request its next token, by the inverse of the distribution function."""
        heat = [request.temperature or 1.0 for request in requests]
        logs_BV = (logits_BV / torch.tensor(heat, device=self.device)[:, None]).log_softmax(-1)
        draws = [[request.conversation.rng.random()] for request in requests]
        drawn_B1 = drawn(logs_BV, torch.tensor(draws, dtype=torch.float64, device=self.device))
        if any(request.temperature == 0 for request in requests):
            cold = torch.tensor([[r.temperature == 0] for r in requests], device=self.device)
            drawn_B1 = torch.where(cold, logs_BV.argmax(-1, keepdim=True), drawn_B1)
        picked = logs_BV.gather(1, drawn_B1)[:, 0].tolist()
        for request, token, log in zip(requests, drawn_B1[:, 0].tolist(), picked, strict=True):
            request.conversation.tokens.append(token)
            request.token_ids.append(token)
            request.log_probs.append(log)
            if token in self._stops:
                request.reason = "stop"
            elif len(request.token_ids) >= request.max_tokens:
                request.reason = "length"
            elif request.conversation in self._interrupted:
                request.reason = "interrupted"

    def _leave(self, version: _Version, ended: list[_Request]) -> None:
        """Take out who is done, or gone; the last row takes a freed one's place."""
        for row in reversed(range(len(version.active))):
            request = version.active[row]
            if not request.reason and not request.done.cancelled():
                continue
            c, last = request.conversation, len(version.active) - 1
            self._interrupted.discard(c)
            c.kept = version.cache.keep(row, c.num_cached)
            if row != last:
                version.cache.copy(last, row, version.active[last].conversation.num_cached)
                version.active[row] = version.active[last]
            version.active.pop()
            ended.append(request)


def _begin_as_others(version: _Version, row: int, conversation: _Conversation) -> int:
    """Copy what a row has in common with the one that begins most alike; return how much."""
    most, source = 0, -1
    for place, request in enumerate(version.active):
        other = request.conversation
        num = min(other.num_cached, len(conversation.tokens) - 1)
        if num <= most or other.tokens[:most] != conversation.tokens[:most]:
            continue
        pairs = enumerate(zip(other.tokens[:num], conversation.tokens, strict=False))
        num = next((n for n, (a, b) in pairs if a != b), num)
        if num > most:
            most, source = num, place
    if most:
        version.cache.copy(source, row, most)
    return most


def _stop_ids(model: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = model.config.get_text_config().eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
