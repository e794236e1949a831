"""The schedule of heavy thinking, against scripted thinkers and a real HTTP server."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from longcat_heavythink import HeavyConfig, openai_complete, strip_thoughts, summary_prompt, think

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]


def _scripted(answers, log):
    answers = iter(answers)

    async def complete(messages, temperature):
        log.append((messages, temperature))
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return complete


async def test_the_summary_sees_question_and_answers_and_nothing_else():
    log = []
    got = await think(ASK, _scripted(["41", "42", "43", "42!"], log), config=HeavyConfig(width=3))
    assert got.answer == "42!"
    assert sorted(got.attempts) == ["41", "42", "43"]
    assert [t for _, t in log] == [1.0, 1.0, 1.0, 0.6]
    prompt = log[-1][0]
    assert prompt[0] == ASK[0]
    text = prompt[1]["content"]
    assert "What is 6 x 7?" in text
    assert all(f"Thinker #{n} -----" in text for n in (1, 2, 3))
    assert "Thinker #4" not in text


async def test_attempts_run_side_by_side():
    started, gate = [], asyncio.Event()

    async def complete(messages, temperature):
        started.append(1)
        if len(started) == 4:
            gate.set()
        await asyncio.wait_for(gate.wait(), 5)
        return "x"

    assert (await think(ASK, complete, config=HeavyConfig(width=4))).answer == "x"


async def test_some_may_fail_but_not_all():
    got = await think(ASK, _scripted([OSError("a"), "42", "end"], []), config=HeavyConfig(width=2))
    assert (got.answer, got.num_failed) == ("end", 1)
    with pytest.raises(RuntimeError, match="all 2 attempts failed: b"):
        await think(ASK, _scripted([OSError("b"), OSError("c")], []), config=HeavyConfig(width=2))


async def test_depth_feeds_summaries_back():
    log = []
    script = ["a", "b", "c", "d", "final"]
    got = await think(ASK, _scripted(script, log), config=HeavyConfig(width=2, depth=2))
    assert got.answer == "final"
    assert [sorted(r) for r in got.rounds] == [["a", "b"], ["c", "d"]]


def test_the_order_is_shuffled_and_reproducible():
    answers = [f"answer {n}" for n in range(8)]
    texts = [
        summary_prompt(ASK, answers, config=HeavyConfig(seed=s))[-1]["content"] for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    positions = [texts[0].index(answer) for answer in answers]
    assert positions != sorted(positions)


def test_thoughts_are_stripped():
    assert strip_thoughts("a b\n</longcat_think>\nyes") == "yes"
    assert strip_thoughts("<think>no</think> yes") == "yes"
    assert strip_thoughts("plain") == "plain"


class _Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"<think>hm</think>{body['model']} {self.headers['Authorization']}"
        payload = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200 if body["model"] == "good" else 404)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


async def test_over_http_and_its_errors():
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        complete = openai_complete(url, model="good", api_key="k")
        assert (await think(ASK, complete)).answer == "good Bearer k"
        with pytest.raises(RuntimeError, match="answered 404"):
            await openai_complete(url, model="bad")(list(ASK), 1.0)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RuntimeError, match="must answer, but"):
        await openai_complete(url, model="good")(list(ASK), 1.0)
