"""Engines behind an OpenAI-compatible API (`pip install 'longcat-dora[openai]'`).

    replicas = [OpenAIReplica(url, model="policy", update=put_weights) for url in urls]
    engine = ReplicatedEngine(replicas)

- Prompts and answers are token ids: what was sampled is what is trained on. A server that tells no
  ids of what it sampled (`return_token_ids`, as vLLM and `longcat_moe.server` have it) cannot be
  trained on.
- OpenAI's API knows no new weights; `update` says how a server takes them. `put_weights` does it
  for `longcat_moe.server`; for vLLM it is a few lines around its own update calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

try:
    import httpx
    import openai
except ImportError as error:  # pragma: no cover
    raise ImportError("longcat_dora.openai needs: pip install 'longcat-dora[openai]'") from error

from ._log.tensors import as_bytes
from ._runtime.replicas import Completion, ReplicaLostError
from ._types import LongcatDoraError

Update = Callable[["OpenAIReplica", int, "bytes | memoryview"], Awaitable[None]]
"""Gives a server other weights; returns when it samples from them alone."""


class OpenAIReplica:
    """A server of one model. Implements `Replica`.

    Args:
        base_url: Up to and with `/v1`.
        model: As the server calls it.
        update: How it takes weights. Without, it keeps those it has, whatever the version: for runs
            that only evaluate.
        api_key: If it wants one.
        timeout_s: Of one request.
        options: More fields of a request, such as `top_p`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        update: Update | None = None,
        api_key: str = "none",
        timeout_s: float = 600.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.base_url, self.model, self.update = base_url.rstrip("/"), model, update
        self.timeout_s, self.options = timeout_s, dict(options or {})
        self.api_key = api_key
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url, api_key=api_key, timeout=timeout_s, max_retries=0
        )

    async def load_weights(self, version: int, weights: Any) -> None:
        """See `Replica`."""
        if self.update is None:
            return
        try:
            await self.update(self, version, weights)
        except httpx.TransportError as error:
            raise ReplicaLostError(f"{self.base_url} cannot be reached: {error!r}") from error

    async def complete(
        self, token_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        """See `Replica`.

        Raises:
            LongcatDoraError: The server refuses, or tells no token ids.
        """
        extra = {"return_token_ids": True, "skip_special_tokens": False, **self.options}
        try:
            answer = await self._client.completions.create(
                model=self.model, prompt=list(token_ids), max_tokens=max_tokens,
                temperature=temperature, logprobs=0, seed=seed, extra_body=extra,
            )  # fmt: skip
        except (
            openai.APIConnectionError,
            openai.InternalServerError,
            openai.RateLimitError,
        ) as error:
            raise ReplicaLostError(f"{self.base_url} cannot answer: {error!r}") from error
        except openai.APIStatusError as error:
            raise LongcatDoraError(f"{self.base_url} refuses: {error.message}") from error
        return _completion(answer.choices[0].model_dump(), self.base_url)

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()


def _completion(choice: dict[str, Any], where: str) -> Completion:
    ids: list[int] | None = choice.get("token_ids")
    told: dict[str, list[float]] = choice.get("logprobs") or {}
    log_probs = told.get("token_logprobs")
    if ids is None or log_probs is None or len(ids) != len(log_probs):
        raise LongcatDoraError(
            f"{where} must tell the ids and log-probs of what it samples (return_token_ids,"
            " logprobs); "
            f"it told {sorted(key for key, value in choice.items() if value is not None)}"
        )
    reason = "stop" if choice.get("finish_reason") == "stop" else "length"
    return Completion(list(ids), list(map(float, log_probs)), reason)


async def put_weights(replica: OpenAIReplica, version: int, weights: Any) -> None:
    """Give weights to `longcat_moe.server` (`create_app(..., takes_weights=True)`).

    Raises:
        LongcatDoraError: The server refuses, or they are no bytes.
    """
    content = bytes(as_bytes(weights, "put_weights"))
    headers = {"Authorization": f"Bearer {replica.api_key}"}
    async with httpx.AsyncClient(timeout=replica.timeout_s, headers=headers) as client:
        answer = await client.put(f"{replica.base_url}/weights/{version}", content=content)
    if answer.status_code != 200:
        raise LongcatDoraError(
            f"{replica.base_url} takes no weights: {answer.status_code} {answer.text[:200]}"
        )
