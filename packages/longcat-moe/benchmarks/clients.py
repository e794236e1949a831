"""Ask the server with the clients that people use: litellm, langchain-openai, inspect-ai, lm-eval.

usage: CLIENTS_LIGHT=ENV/bin/python CLIENTS_EVAL=ENV/bin/python python clients.py

A tiny random model is served here; each client runs in an environment of its own, which holds the
client and nothing of ours (`uv venv ENV && uv pip install --python ENV/bin/python litellm
langchain-openai inspect-ai`, and for lm-eval `torch transformers 'lm-eval[api,hf]'`). What is
asked: that answers have the right form, that errors are each client's own class, and that lm-eval's
scores over HTTP are those of its own Hugging Face backend on the same folder. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import torch
import uvicorn
from longcat_moe import (
    ChatFormat,
    Engine,
    LongcatConfig,
    LongcatForCausalLM,
    save_tokenizer,
    train_tokenizer,
)
from longcat_moe.server import create_app

TEXTS = [
    "find the book of Ada Berg, quickly. I look. Question: which? Answer: yes no true false"
] * 10

LITELLM = """
import litellm, json, sys
litellm.suppress_debug_info = True
o = dict(model="openai/tiny", api_base=sys.argv[1], api_key="x", max_retries=0)
m = [{"role": "user", "content": "find"}]
r = litellm.completion(messages=m, max_tokens=5, **o); assert r.usage.completion_tokens == 5
parts = list(litellm.completion(messages=m, max_tokens=5, stream=True, **o)); assert parts
t = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
    "n": {"enum": [1, 2]}}, "required": ["n"]}}}]
r = litellm.completion(messages=m, tools=t, tool_choice="required", parallel_tool_calls=False, **o)
assert json.loads(r.choices[0].message.tool_calls[0].function.arguments)["n"] in (1, 2)
r = litellm.text_completion(prompt=["find", "look"], max_tokens=3,
model="text-completion-openai/tiny",
    api_base=sys.argv[1], api_key="x"); assert len(r.choices) == 2
try: litellm.completion(messages=[{"role": "user", "content": "Ada " * 9000}], **o)
except litellm.ContextWindowExceededError: pass
else: raise AssertionError("no ContextWindowExceededError")
try: litellm.completion(**{**o, "model": "openai/other"}, messages=m)
except litellm.NotFoundError: pass
else: raise AssertionError("no NotFoundError")
try: litellm.completion(messages=m, temperature=1e-40, **o)
except litellm.BadRequestError: pass
else: raise AssertionError("no BadRequestError")
"""

LANGCHAIN = """
import sys, json
from langchain_openai import ChatOpenAI, OpenAI
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from typing import Literal
class Found(BaseModel):
    kind: Literal["book", "page"]
    is_new: bool
@tool
def find(count: Literal[1, 2]) -> str:
    "Find."
    return ""
o = dict(base_url=sys.argv[1], api_key="x", model="tiny", max_retries=0, max_tokens=80)
chat = ChatOpenAI(**o)
assert isinstance(chat.invoke("find").content, str)
assert list(chat.stream("find"))
assert len(chat.batch(["find", "look"])) == 2
for method in ("json_schema", "function_calling"):
    found = chat.with_structured_output(Found, method=method).invoke("find")
    assert isinstance(found, Found), method
raw = chat.bind(response_format={"type": "json_object"}).invoke("find")
assert raw.content.startswith("{")
call, = chat.bind_tools([find], tool_choice="find").invoke("find").tool_calls
assert call["args"]["count"] in (1, 2)
assert chat.bind_tools([find], tool_choice="any").invoke("find").tool_calls
chat.bind_tools([find]).invoke("find")
ChatOpenAI(logprobs=True, top_logprobs=3, n=2, **o).generate([[HumanMessage("find")]])
assert isinstance(OpenAI(**{**o, "max_tokens": 4}).invoke("find"), str)
assert len(OpenAI(**{**o, "max_tokens": 4}).generate(["find", "look"]).generations) == 2
"""

INSPECT = """
import sys, os
os.environ["INSPECT_LOG_DIR"] = sys.argv[2]
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.model import get_model, GenerateConfig
model = get_model("openai-api/longcat/tiny", base_url=sys.argv[1], api_key="x",
    config=GenerateConfig(max_tokens=8, temperature=0, max_retries=0))
task = Task(dataset=[Sample(input="find", target="x"), Sample(input="look", target="y")],
    solver=[generate()], scorer=includes())
log, = eval(task, model=model, display="none")
assert log.status == "success", log.error
assert log.results.completed_samples == 2
"""

LM_EVAL = """
import sys, json, os
os.environ["HF_DATASETS_OFFLINE"] = "1"
import lm_eval
from lm_eval.tasks import TaskManager
url, folder, tasks = sys.argv[1:4]
found = {}
for name, model, args in (
    ("http", "local-completions", f"model=tiny,base_url={url}/completions,tokenizer={folder},"
     "num_concurrent=4,max_retries=1,tokenized_requests=True,max_length=1024"),
    ("hf", "hf", f"pretrained={folder},dtype=float32,max_length=1024"),
):
    got = lm_eval.simple_evaluate(model=model, model_args=args, tasks=["lc_choice", "lc_words"],
    batch_size=4,
        device="cpu", log_samples=True, task_manager=TaskManager(include_path=tasks),
        bootstrap_iters=0)
    samples = [(s["doc_id"], task, s["filtered_resps"]) for task in sorted(got["samples"])
        for s in sorted(got["samples"][task], key=lambda s: s["doc_id"])]
    found[name] = samples
gap = 0.0
for (i, task, a), (j, other, b) in zip(found["http"], found["hf"], strict=True):
    assert (i, task) == (j, other)
    if task == "lc_choice":
        for (p, greedy), (q, also) in zip(a, b):
            gap = max(gap, abs(float(p) - float(q))); assert bool(greedy) == bool(also), (a, b)
    else:
        assert a == b, (a, b)
assert gap < 1e-3, gap
print(json.dumps({"samples": len(found["hf"]), "gap": gap}))
"""


def write_tasks(folder: Path) -> None:
    """Write a task of choices and one of texts, with their documents beside them."""
    words = ["book", "look", "Ada", "Berg", "quickly", "find", "yes", "no"]
    choice = [
        {"q": f"find {a} the", "choices": [b, a, "of"], "gold": 1}
        for a, b in itertools.pairwise(words)
    ]
    (folder / "choice.jsonl").write_text("\n".join(map(json.dumps, choice)))
    (folder / "words.jsonl").write_text(
        "\n".join(json.dumps({"q": f"find {w}", "a": w}) for w in words)
    )
    common = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {}\ntest_split: test\n"
    (folder / "choice.yaml").write_text(
        "task: lc_choice\n" + common.format(folder / "choice.jsonl")
        + 'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{gold}}"\nmetric_list:\n  - metric: acc\n'
    )  # fmt: skip
    (folder / "words.yaml").write_text(
        "task: lc_words\n" + common.format(folder / "words.jsonl")
        + 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        "generation_kwargs:\n  until: [\".\"]\n  max_gen_toks: 12\n  do_sample: false\n"
        "  temperature: 0\n"
        "metric_list:\n  - metric: exact_match\n"
    )  # fmt: skip


def serve(folder: Path) -> str:
    """Serve a random model whose folder any tool can read; return the address."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=420)
    config = LongcatConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=48, num_layers=1, num_attention_heads=2,
        q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        ffn_hidden_size=64, expert_ffn_hidden_size=16, n_routed_experts=4, zero_expert_num=2,
        moe_topk=2,
        rope_theta=10_000.0, initializer_range=0.1, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    engine = Engine(
        config, num_slots=16, max_length=2048, threaded=True,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    )  # fmt: skip
    engine.add_model(0, model)
    app = create_app(engine, ChatFormat(tokenizer), model="tiny", max_tokens=64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}/v1"


CLIENTS = (
    ("litellm", "litellm", "light", LITELLM),
    ("langchain-openai", "langchain-openai", "light", LANGCHAIN),
    ("inspect-ai", "inspect-ai", "light", INSPECT),
    ("lm-eval, equal to its HF backend", "lm_eval", "eval", LM_EVAL),
)
"""Shown name, package, environment, and what it does."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    names = {"light": "CLIENTS_LIGHT", "eval": "CLIENTS_EVAL"}
    python = {where: os.environ[name] for where, name in names.items() if name in os.environ}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, tasks, logs = (Path(name) / part for part in ("model", "tasks", "logs"))
        tasks.mkdir()
        write_tasks(tasks)
        url = serve(folder)
        extra = {INSPECT: [str(logs)], LM_EVAL: [str(folder), str(tasks)]}
        for client, package, where, code in CLIENTS:
            if where in python and (not options.only or client in options.only):
                words = [code, url, *extra.get(code, [])]
                rows.append([client, *_ask(python[where], package, words)])
                print("|", " | ".join(map(str, rows[-1])), "|", flush=True)
    passed = sum(row[2] == "passed" for row in rows)
    print(json.dumps({
        "title": "The server asked by other people's clients",
        "claim": "Asked: right answers and each client's own error classes. "
        f"{passed} of {len(rows)} clients passed.",
        "columns": ["client", "version", "outcome", "told", "s"], "rows": rows,
        "spread": "one run; a client that fails in any step has failed",
    }))  # fmt: skip


def _ask(python: str, package: str, words: list[str]) -> list[object]:
    """Run a client's script; return its version, outcome, last words and seconds."""
    began = time.perf_counter()
    done = subprocess.run([python, "-c", *words], capture_output=True, text=True, timeout=900)
    took = round(time.perf_counter() - began)
    version = subprocess.run(
        [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    if done.returncode:
        print(done.stderr[-3000:])
        return [version, "failed", "", took]
    return [version, "passed", " ".join(done.stdout.strip().splitlines()[-1:])[:80], took]


if __name__ == "__main__":
    main()
