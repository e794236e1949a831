"""A client of `longcat serve`, by OpenAI's library: chat, a stream, a forced call, JSON by schema.

    pip install longcat-cli openai        python client_of_a_server.py [http://127.0.0.1:8000]

Without a URL it serves a small model that was never trained, and ends the server afterwards. It
prints what came back: words that mean nothing, and yet a call with the right arguments and JSON
that fits the schema, since the server lets nothing else be sampled.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace

from openai import OpenAI

BOOK = {
    "type": "object",
    "properties": {"day": {"enum": ["Monday", "Friday"]}, "guests": {"enum": [1, 2, 3]}},
    "required": ["day", "guests"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "book_table", "parameters": BOOK}}
ASK = [{"role": "user", "content": "A table for two on Friday, please."}]


def untrained(folder):
    """Leave a checkpoint that `longcat serve` takes."""
    from longcat_moe import LongcatForCausalLM, get_preset, save_tokenizer, train_tokenizer

    tokenizer = train_tokenizer([json.dumps([TOOL, ASK])], vocab_size=320)
    config = replace(get_preset("tiny"), vocab_size=tokenizer.get_vocab_size())
    LongcatForCausalLM(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


@contextlib.contextmanager
def served():
    """The URL of a server that ends with this block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        untrained(folder)
        command = [sys.executable, "-m", "longcat_cli.main", "serve", folder]
        server = subprocess.Popen([*command, "--port", url.rpartition(":")[2], "--name", "mine"])
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/health", timeout=1)
                    break
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait()


def talk(url):
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    ask = {"model": model, "messages": ASK, "max_tokens": 48}
    print("model:", model)
    said = client.chat.completions.create(**ask)
    print("chat:", said.usage.completion_tokens, "tokens,", said.choices[0].finish_reason)
    parts = [
        part.choices[0].delta.content or ""
        for part in client.chat.completions.create(**ask, stream=True)
        if part.choices
    ]
    print("stream:", len(parts), "parts,", len("".join(parts)), "characters")
    forced = {"type": "function", "function": {"name": "book_table"}}
    called = client.chat.completions.create(**ask, tools=[TOOL], tool_choice=forced)
    print("call:", called.choices[0].message.tool_calls[0].function.arguments)
    form = {"type": "json_schema", "json_schema": {"name": "booking", "schema": BOOK}}
    fits = client.chat.completions.create(**ask, response_format=form)
    print("json:", json.loads(fits.choices[0].message.content))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        talk(sys.argv[1])
    else:
        with served() as url:
            talk(url)
