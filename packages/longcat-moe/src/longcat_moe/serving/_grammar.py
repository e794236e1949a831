"""Answers of a given form: JSON of a schema, or calls of given tools, token by token.

llguidance says which tokens may follow; nothing else can be sampled. Its grammars are written in
its dialect of Lark, in which `<name>` is a special token and `%json` a schema.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longcat_moe._arguments import Known, kinds_of

from ._errors import ApiError, FormError
from ._served import Served
from ._shown import THINK_END

_COMPACT = {"x-guidance": {"whitespace_flexible": False}}
_TEXT = "TEXT: /[^<]*(<[^\\/<][^<]*)*/\n"
"""Text in which no marker is spelled out."""
_FORCED = 16
"""Tokens at the beginning of an answer that are tried when a grammar is compiled, at most."""
_MAX_CHARS = 4 << 20
"""Of a grammar; llguidance takes no larger ones in any useful time."""
_NAME = re.compile(r"[^\s<>]{1,128}")


def json_grammar(schema: Mapping[str, Any], *, is_thinking: bool) -> str:
    """Return a grammar of one JSON value, after a thought where the model thinks first."""
    return _start("answer", is_thinking) + f"answer: {_json(schema)}\n"


def calls_grammar(tools: Sequence[Mapping[str, Any]], *, is_thinking: bool, is_one: bool) -> str:
    """Return a grammar of calls of some tools: one, or one at least."""
    names = " | ".join(f"call{i}" for i in range(len(tools)))
    lines = [_start("call" if is_one else "call+", is_thinking, text=True), f"call: {names}\n"]
    num = 0
    for i, tool in enumerate(tools):
        for line in _call(f"call{i}", tool["function"]):
            lines.append(line)
            num += len(line)
            if num > _MAX_CHARS:  # definitions are written anew for each parameter
                raise ApiError(
                    f"schemas of tools must make a grammar of at most {_MAX_CHARS} characters",
                    "tools",
                )
    return "".join(lines)


def _start(what: str, is_thinking: bool, *, text: bool = False) -> str:
    if not is_thinking:
        return f"start: {what}\n" + _TEXT * text
    return f'start: TEXT {THINK_END} "\\n" {what}\n{_TEXT}'


def _call(rule: str, function: Mapping[str, Any]) -> Iterator[str]:
    parameters = function.get("parameters") or {}
    properties, required = _properties(parameters), parameters.get("required") or []
    name = json.dumps(function["name"] + "\n")
    body = " ".join(
        f"{rule}_{i}{'' if key in required else '?'}" for i, key in enumerate(properties)
    )
    yield f'{rule}: <longcat_tool_call> {name} {body} </longcat_tool_call> "\\n"\n'
    known: Known = {}
    for i, (key, schema) in enumerate(properties.items()):
        yield (
            f"{rule}_{i}: <longcat_arg_key> {json.dumps(key)} </longcat_arg_key> "
            f'"\\n" <longcat_arg_value> {_value(schema, parameters, known)} </longcat_arg_value> '
            '"\\n"\n'
        )


def _properties(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of each parameter; what is required and not described may be anything."""
    required = [name for name in parameters.get("required") or () if isinstance(name, str)]
    properties = parameters.get("properties") or {}
    return {**properties, **{name: {} for name in required if name not in properties}}


def _value(schema: Any, root: Mapping[str, Any], known: Known) -> str:
    """Return what an argument may be: strings stand as they are, everything else is JSON."""
    if isinstance(schema, dict) and isinstance(schema.get("enum"), list) and schema["enum"]:
        values = [
            value if isinstance(value, str) else json.dumps(value) for value in schema["enum"]
        ]
        return "(" + " | ".join(json.dumps(value, ensure_ascii=False) for value in values) + ")"
    kinds = kinds_of(schema, root, known=known)
    is_empty = isinstance(schema, dict) and schema.get("enum") == []  # nobody can answer it
    if "string" in kinds or not (kinds or is_empty):
        return "TEXT"
    shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return _json({**schema, **shared})


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**_COMPACT, **schema})}"


def check_names(tools: Sequence[Mapping[str, Any]]) -> None:
    """Check that tools can be named in the chat format.

    Raises:
        ApiError: A name would be read as something else.
    """
    for tool in tools:
        function = tool["function"]
        keys = _properties(function.get("parameters") or {})
        for name in (function["name"], *keys):
            if not _NAME.fullmatch(name):
                raise ApiError(
                    f"names of tools and parameters must have 1 to 128 characters without spaces "
                    f"and brackets, got {name!r}",
                    "tools",
                )


class Grammars:
    """Compiles grammars for one tokenizer, which is read when it is first needed."""

    def __init__(self, served: Served) -> None:
        self._served, self._lock = served, threading.Lock()
        self._tokenizer: Any = None

    def compile(self, grammar: str, param: str) -> GrammarConstraint:
        """Return a constraint; slow for complicated grammars, and with the lock of Python let go.

        Raises:
            ApiError: The schema cannot be followed, or llguidance is not installed.
        """
        try:
            import llguidance  # noqa: PLC0415 - only who constrains needs it
        except ImportError as error:
            raise ApiError(
                f"{param} needs: pip install 'longcat-moe[serve]'", param, code="unsupported_value"
            ) from error
        with self._lock:
            if self._tokenizer is None:
                config = self._served.engine.config
                self._tokenizer = llguidance.LLTokenizer(
                    self._served.chat.tokenizer.to_str(), eos_token=config.eos_token_id
                )
        text = llguidance.LLMatcher.grammar_from_lark(grammar)
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0)
        constraint = GrammarConstraint(matcher, self._served.engine.config.vocab_size)
        try:
            constraint.copy().follow()
        except FormError as error:
            raise ApiError(f"{param}: {error}", param, code="unsupported_value") from error
        return constraint


class GrammarConstraint:
    """A `Constraint` of the engine, for one answer."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size, self._num_read = matcher, vocab_size, 0

    def copy(self) -> GrammarConstraint:
        """Return one for another answer, as at the beginning."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocab_size)

    def follow(self) -> None:
        """Go as far as there is one way; what has none is found here, before anything is sampled.

        Raises:
            FormError: There is none.
        """
        tokens: list[int] = []
        for _ in range(_FORCED):
            found = self.allowed(tokens).nonzero()[:, 0].tolist()
            if len(found) != 1:
                return
            tokens += found

    def allowed(self, token_ids: Sequence[int]) -> Tensor:
        """Return which tokens may follow those sampled so far.

        Raises:
            FormError: Nothing may follow, since the schema asks for what has no end.
        """
        for token in token_ids[self._num_read :]:
            if not self._matcher.consume_token(token):
                break
        self._num_read = len(token_ids)
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        if self._matcher.is_error() or (
            self._matcher.is_stopped() and not self._matcher.is_accepting()
        ):
            reason = self._matcher.get_error().partition("\n")[0]
            raise FormError(f"the form cannot be followed, or no answer has an end: {reason}")
        allowed = torch.zeros(self._vocab_size, dtype=torch.bool)
        allowed[: len(mask)] = mask[: self._vocab_size] > 0
        return allowed
