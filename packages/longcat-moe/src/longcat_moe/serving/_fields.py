"""Fields of a request, each of the right kind and in its range, or one reason why not.

What this server does not do is refused by name. A field that is null counts as absent, as with
OpenAI.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from longcat_moe._config import LongcatConfig

from ._errors import ApiError, shown

Body = Mapping[str, Any]

SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "stop", "stop_token_ids", "ignore_eos", "seed", "n",
}  # fmt: skip
STREAMING = {"stream", "stream_options"}
_NO_MATTER = {
    "model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "request_id", "priority",
}  # fmt: skip
"""Fields that change no answer."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "continue_final_message": (False,),
    "early_stopping": (False,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "spaces_between_special_tokens": (True, False),
    "use_beam_search": (False,),
}
"""Fields whose other values ask for what is not there."""
MAX_CHOICES = 128


def check_known(body: Body, known: Collection[str], only: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what would be ignored.

    Raises:
        ApiError: A field is not known, or has a value that this server does not do.
    """
    only = {**_ONLY, **only}
    for name, value in body.items():
        if value is None or name in known or name in _NO_MATTER:
            continue
        if name not in only:
            raise ApiError(f"{shown(name)} is not known here", name, code="unknown_parameter")
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool)
                   for a in only[name]):  # fmt: skip
            allowed = " or ".join(map(repr, only[name]))
            raise ApiError(
                f"{name} must be {allowed}, got {shown(value)}", name, code="unsupported_value"
            )


def number(
    body: Body,
    names: tuple[str, ...],
    default: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> Any:
    """Return the first of some fields that is there, checked; the default where none is."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        kinds = int if whole else (int, float)
        is_right = isinstance(value, kinds) and not isinstance(value, bool)
        if is_right and least <= value <= most and (whole or math.isfinite(value)):
            return value
        span = f" of at least {least}" if most == math.inf else f" in [{least}, {most}]"
        span = "" if least == -math.inf else span
        what = "whole number" if whole else "number"
        raise ApiError(f"{name} must be a {what}{span}, got {shown(value)}", name)
    return default


def boolean(body: Body, name: str, default: bool = False) -> bool:
    """Return a field that is true or false."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ApiError(f"{name} must be true or false, got {shown(value)}", name)
    return value


def mapping(body: Body, name: str) -> Mapping[str, Any]:
    """Return a field that is an object; an empty one where it is absent."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(f"{name} must be an object, got {shown(value)}", name)
    return value


def sampling(
    body: Body, config: LongcatConfig, *, max_tokens: int, timeout_s: float | None
) -> dict[str, Any]:
    """Return what a request says of sampling, as fields of `SamplingParams`."""
    return {
        "max_tokens": max_tokens,
        "temperature": _temperature(body),
        "top_p": number(body, ("top_p",), 1.0, least=1e-9, most=1),
        "top_k": max(0, number(body, ("top_k",), 0, least=-1, whole=True)),
        "min_p": number(body, ("min_p",), 0.0, least=0, most=1),
        "presence_penalty": number(body, ("presence_penalty",), 0.0, least=-2, most=2),
        "frequency_penalty": number(body, ("frequency_penalty",), 0.0, least=-2, most=2),
        "repetition_penalty": number(body, ("repetition_penalty",), 1.0, least=0.01, most=100),
        "logit_bias": _logit_bias(body, config.vocab_size),
        "stop": _stop(body),
        "stop_ids": _stop_ids(body, config),
        "timeout_s": timeout_s,
    }


def _temperature(body: Body) -> float:
    value = number(body, ("temperature",), 1.0, least=0, most=1e5)
    if 0 < value < 1e-5:
        raise ApiError(f"temperature must be 0 or in [1e-05, 100000], got {value!r}", "temperature")
    return value


def _stop(body: Body) -> list[str]:
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ApiError(f"stop must be a text or a list of texts, got {shown(stop)}", "stop")
    return stop


def _stop_ids(body: Body, config: LongcatConfig) -> list[int]:
    more = body.get("stop_token_ids")
    more = [] if more is None else more
    if not isinstance(more, list) or not all(type(i) is int and i >= 0 for i in more):
        raise ApiError(
            f"stop_token_ids must be a list of token ids, got {shown(more)}", "stop_token_ids"
        )
    return more if boolean(body, "ignore_eos") else [config.eos_token_id, *more]


def _logit_bias(body: Body, words: int) -> dict[int, float]:
    found: dict[int, float] = {}
    for key, bias in mapping(body, "logit_bias").items():
        is_id = key.isascii() and key.isdecimal() and len(key) < 12 and int(key) < words
        if not is_id:
            raise ApiError(
                f"logit_bias must have token ids in [0, {words}) as keys, got {shown(key)}",
                "logit_bias",
            )
        found[int(key)] = number({"logit_bias": bias}, ("logit_bias",), 0, least=-100, most=100)
    return found


def streaming(body: Body) -> tuple[bool, bool]:
    """Return whether to stream, and whether usage comes at the end."""
    is_stream, options = boolean(body, "stream"), mapping(body, "stream_options")
    if options and not is_stream:
        raise ApiError("stream_options must come with stream=true", "stream_options")
    unknown = set(options) - {"include_usage", "include_obfuscation", "continuous_usage_stats"}
    if unknown or options.get("continuous_usage_stats"):
        raise ApiError(
            f"stream_options may hold include_usage, got {shown(options)}", "stream_options"
        )
    return is_stream, boolean(options, "include_usage")


def usage(num_prompt: int, num_sampled: int) -> dict[str, int]:
    """Return tokens given and sampled, as OpenAI counts them."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_sampled,
        "total_tokens": num_prompt + num_sampled,
    }
