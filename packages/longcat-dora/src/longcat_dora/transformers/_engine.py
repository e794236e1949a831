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
import functools
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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

from ._adapters import Adapters
from ._batch import (
    Conversation,
    Request,
    Version,
    are_alike,
    asked,
    begin_as_others,
    check_sampling,
    checked_ids,
)
from ._cache import RowCache
from ._draw import picked
from ._static import StaticDecoder
from ._supported import added, adds_masks, check_lengths, num_words
from ._weights import fitted, read_tensors

_PASSES = 8
"""Tokens that a batch is given before the loop looks for what else there is to do."""


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
        static: Compute in fixed shapes; on CUDA as graphs, captured once for all versions.

    Raises:
        LongcatDoraError: The cache cannot hold the model's attention (it slides, is linear, or
            takes no mask), or `max_length` is beyond its positions, or beyond where they are turned
            otherwise.
    """

    def __init__(
        self, model: str | nn.Module, *, dtype: str = "auto", device: str = "auto",
        num_rows: int = 32, max_length: int = 2048, stop_token_ids: Sequence[int] = (),
        static: bool = False,
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
        self._is_static = static
        self._spare: list[Version] = []
        """Retired ones, whose graphs read their tensors and cache: the next one takes them over."""
        self._adds_masks = False
        if self.device.type != "meta":  # there it has no weights, and is asked for its words alone
            check_lengths(self.model, max_length)
            self._adds_masks = adds_masks(self.model, self.device)
        self._stops = set(stop_token_ids) or _stop_ids(self.model)
        self._tokenizer: Any = None
        self._adapters = Adapters(self.model)
        self._num_words = num_words(self.model)
        self._waiting_weights: dict[int, bytes | memoryview | Mapping[str, Tensor]] = {}
        self._versions: dict[int, Version] = {}
        self._conversations: dict[int, Conversation] = {}
        self._waiting: list[Request] = []
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

        Safetensors bytes, or tensors by name, which are then all weights. All adapters of an engine
        are of one configuration.
        """
        self._waiting_weights[version] = weights

    def retire(self, version: int) -> None:
        """Free a version; its last conversation has closed."""
        self._waiting_weights.pop(version, None)
        gone = self._versions.pop(version, None)
        if self._is_static and gone is not None and gone.tensors:
            self._spare = [*self._spare[-1:], gone]

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation.

        Raises:
            KeyError: The version is not live.
        """
        if version not in self._versions and version not in self._waiting_weights:
            live = sorted({*self._versions, *self._waiting_weights})
            raise KeyError(f"version {version} must be live, live are {live}")
        self._next += 1
        self._conversations[self._next] = Conversation(version, random.Random(seed))
        return self._next

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> Completion:
        """Append tokens to a conversation and sample its continuation.

        Empty where no room is left.

        Raises:
            ValueError: Tokens, their number or the temperature cannot be.
        """
        c = self._conversations[identifier]
        new = checked_ids(token_ids, self._num_words)
        check_sampling(max_tokens, temperature)
        room = self.max_length - len(c.tokens) - len(new)
        if room < 1 or max_tokens < 1:
            return Completion([], [], "length")
        c.tokens += new
        if not c.tokens:
            raise ValueError("a conversation must begin with at least one token, got none")
        done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        request = c.running = Request(c, min(max_tokens, room), temperature, done)
        self._waiting.append(request)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            return await done
        finally:
            if c.running is request:
                c.running = None

    def interrupt(self, identifier: int) -> None:
        """Let a running `generate` return what is sampled, with the reason `interrupted`."""
        if (request := self._conversations[identifier].running) is not None:
            request.is_interrupted = True

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
    def _passes(self, joining: list[Request]) -> list[Request]:
        """Let requests join where there is room, then give every batch some tokens.

        Return who is done.
        """
        ended: list[Request] = []
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

    def _live(self, number: int) -> Version:
        if (weights := self._waiting_weights.get(number)) is not None:
            self._versions[number] = self._version(self._take(weights))
            del weights
            # Last: whoever opens a conversation meanwhile must find it in one of the two.
            if self._waiting_weights.pop(number, None) is None:  # retired meanwhile
                return self._versions.pop(number)
        return self._versions[number]

    def _version(self, tensors: dict[str, Tensor]) -> Version:
        """Return a version of these weights: a spare one that takes them over, or a new one."""
        if spare := next((v for v in self._spare if are_alike(v.tensors, tensors)), None):
            self._spare = [v for v in self._spare if v is not spare]
            for name, tensor in tensors.items():
                spare.tensors[name].copy_(tensor)
            return spare
        layers = self.model.config.get_text_config().num_hidden_layers
        cache = RowCache(layers, self.num_rows, self.max_length)
        if not self._is_static:
            return Version(tensors, cache)
        # Its own, since it will be written to.
        made = Version({name: tensor.clone() for name, tensor in tensors.items()}, cache)
        forward = functools.partial(self._forward, made)
        made.decoder = StaticDecoder(forward, cache, self.device)
        return made

    def _take(self, weights: bytes | memoryview | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not len(weights):
            return {}
        if isinstance(weights, Mapping):
            return fitted(self.model, dict(weights))
        tensors, about = read_tensors(weights)
        if "peft_config" not in about:
            return fitted(self.model, tensors)
        return self._adapters.take(tensors, about["peft_config"])

    def _forward(
        self, version: Version, ids: Tensor, positions: Tensor, mask: Tensor,
        keep: int | Tensor = 1,
    ) -> Tensor:  # fmt: skip
        """Logits of the last position of each row, or of the one that `keep` is, in float32."""
        mask = added(mask, self.model.dtype) if self._adds_masks else mask
        options = {
            "input_ids": ids, "position_ids": positions, "attention_mask": mask,
            "past_key_values": version.cache, "use_cache": True, "logits_to_keep": keep,
        }  # fmt: skip
        ours = version.has_adapter  # whose tensors are tied to nothing
        model = cast("nn.Module", self._adapters.model if ours else self.model)
        out: Any = functional_call(model, version.tensors, (), options, tie_weights=not ours)
        return out.logits[:, -1].float()

    def _prefill(self, version: Version, joining: list[Request]) -> None:
        alike: dict[tuple[int, ...], tuple[int, Tensor]] = {}
        after = list[Tensor]()
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
                    c.num_cached = begin_as_others(version, row, c)
                logits = self._fill(version, row, c)
                alike[key] = row, logits
            c.num_cached = len(c.tokens)
            version.active.append(request)
            after.append(logits)
        if after:
            self._sample(torch.cat(after), joining)

    def _fill(self, version: Version, row: int, c: Conversation) -> Tensor:
        """Compute what a row does not hold yet; return the logits after it, (1, V)."""
        given, begin = c.tokens[c.num_cached :], c.num_cached
        if version.decoder is not None:
            logits = version.decoder.fill(row, given, begin)
            if logits is not None:
                return logits
        new = torch.tensor([given], device=self.device)
        mask = version.cache.one(row, begin, len(given), self.device)
        places = torch.arange(begin, len(c.tokens), device=self.device)[None]
        return self._forward(version, new, places, mask)

    def _decode(self, version: Version) -> None:
        conversations = [request.conversation for request in version.active]
        places = [c.num_cached for c in conversations]
        for c in conversations:
            c.num_cached += 1
        if version.decoder is not None:
            heat, draws = asked(version.active)
            last = [c.tokens[-1] for c in conversations]
            self._note(version.active, *version.decoder.run(last, places, heat, draws))
            return
        ids = torch.tensor([[c.tokens[-1]] for c in conversations], device=self.device)
        positions = torch.tensor(places, device=self.device)
        mask = version.cache.at(positions, max(places) + 1)
        logits = self._forward(version, ids, positions[:, None], mask)
        self._sample(logits, version.active)

    def _sample(self, logits_BV: Tensor, requests: list[Request]) -> None:
        """Give each request its next token, by the inverse of the distribution function."""
        numbers = torch.tensor(asked(requests), dtype=torch.float64, device=self.device)
        has_cold = any(request.temperature == 0 for request in requests)
        word_B1, log_B1 = picked(logits_BV, *numbers[:, :, None], has_cold=has_cold)
        self._note(requests, word_B1[:, 0].tolist(), log_B1[:, 0].tolist())

    def _note(self, requests: list[Request], tokens: list[int], logs: list[float]) -> None:
        for request, token, log in zip(requests, tokens, logs, strict=True):
            request.conversation.tokens.append(token)
            request.token_ids.append(token)
            request.log_probs.append(log)
            if token in self._stops:
                request.reason = "stop"
            elif len(request.token_ids) >= request.max_tokens:
                request.reason = "length"
            elif request.is_interrupted:
                request.reason = "interrupted"

    def _leave(self, version: Version, ended: list[Request]) -> None:
        """Take out who is done, or gone; the last row takes a freed one's place."""
        for row in reversed(range(len(version.active))):
            request = version.active[row]
            if not request.reason and not request.done.cancelled():
                continue
            c, last = request.conversation, len(version.active) - 1
            c.kept = version.cache.keep(row, c.num_cached)
            if row != last:
                version.cache.copy(last, row, version.active[last].conversation.num_cached)
                version.active[row] = version.active[last]
            version.active.pop()
            ended.append(request)


def _stop_ids(model: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = model.config.get_text_config().eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
