"""The chat format as a Jinja template, so that other tools render the same bytes.

transformers, vLLM and others read it from `chat_template.jinja` beside the tokenizer. Its variables
are the released ones: `messages`, `tools`, `add_generation_prompt`, `enable_thinking` (true by
default) and `save_history_reasoning_content` (false by default). Arguments of tool calls must be
mappings there, not JSON text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from ._chat import NOTE, ChatFormat
from ._tokenizer import BOS, EOS, PAD, load_tokenizer

_FULL = """\
{{- '<longcat_tool_declare>\\n# Tools\\nYou have access to the following tools:\\n\\n\
## Tool namespace: function\\n\\n' -}}
{%- for tool in tools -%}
{{- '### Tool name: ' + tool.function.name + '\\nDescription: ' + (tool.function.description or '')\
 + '\\n\\nInputSchema: ' + (tool.function.parameters | tojson) + '\\n\\n' -}}
{%- endfor -%}
{{- NOTE + '</longcat_tool_declare>' -}}
"""
_BRIEF = """\
{{- '<longcat_tool_declare>\\n' -}}
{%- for tool in tools -%}{{- tool.function.name + '\\n' -}}{%- endfor -%}
{{- '</longcat_tool_declare>' -}}
"""
_TEMPLATE = """\
{%- set ns = namespace(last_user=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
DECLARATION\
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- '<longcat_system>' + (message.content or '') -}}
{%- elif message.role == 'user' -%}
{{- '<longcat_user>' + (message.content or '') -}}
{%- elif message.role == 'tool' -%}
{{- '<longcat_observation><longcat_tool_response>' + (message.name or '') + '\\n' \
+ (message.content or '') + '</longcat_tool_response>' -}}
{%- elif message.role == 'assistant' -%}
{{- ' /think_on <longcat_assistant>' -}}
{%- if save_history_reasoning_content or loop.index0 > ns.last_user -%}
{{- '<longcat_think>\\n' + (message.reasoning_content or '') + '\\n</longcat_think>\\n' -}}
{%- endif -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '<longcat_tool_call>' + call.function.name + '\\n' -}}
{%- for key, value in (call.function.arguments or {}).items() -%}
{{- '<longcat_arg_key>' + key + '</longcat_arg_key>\\n<longcat_arg_value>' -}}
{{- value if value is string else (value | tojson) -}}
{{- '</longcat_arg_value>\\n' -}}
{%- endfor -%}
{{- '</longcat_tool_call>\\n' -}}
{%- endfor -%}
{{- '</longcat_s>' -}}
{%- else -%}
{{- raise_exception('role must be system, user, assistant or tool, got ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- ' /think_off <longcat_assistant>' -}}
{%- else -%}
{{- ' /think_on <longcat_assistant><longcat_think>\\n' -}}
{%- endif -%}
{%- endif -%}
"""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What `save_tokenizer` writes."""


def chat_template(*, declare: Literal["full", "brief"] = "full") -> str:
    """Return the Jinja template that renders as `ChatFormat(tokenizer, declare=declare)` does."""
    declaration = {"full": _FULL, "brief": _BRIEF}[declare]
    # Jinja reads \\n in its own strings.
    note = json.dumps(NOTE)
    return _TEMPLATE.replace("DECLARATION", declaration).replace("NOTE", note)


def save_tokenizer(
    tokenizer: Tokenizer, folder: str | Path, *, declare: Literal["full", "brief"] = "full"
) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "declare": declare,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    template = chat_template(declare=declare)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def load_chat_format(folder: str | Path) -> ChatFormat:
    """Return the chat format of a checkpoint folder; tools are shown as it was saved with.

    Raises:
        FileNotFoundError: There is no `tokenizer.json`.
        ValueError: It does not know the LongCat markers.
    """
    tokenizer = load_tokenizer(folder)
    config = Path(folder) / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return ChatFormat(tokenizer, declare=values.get("declare", "full"))
