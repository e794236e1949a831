"""Replicas behind OpenAI's API: a server of a table, asked by the `openai` client."""

import asyncio
import functools
import json
import math
import multiprocessing
import random
import socket
import time

import pytest

pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

import httpx  # noqa: E402
from longcat_dora import (  # noqa: E402
    LocalRuntime,
    LongcatDoraError,
    ReplicaLostError,
    ReplicatedEngine,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora.openai import OpenAIReplica, put_weights  # noqa: E402
from longcat_dora.testing import NUM_TOKENS, TabularTrainer, _probs, guess  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402


def _serve(port, tells_ids):
    """What vLLM's server does of OpenAI's API, on a table; in a process of its own."""
    state = {"table": [[0.0] * NUM_TOKENS] * NUM_TOKENS}

    async def completions(request):
        body = await request.json()
        assert body["logprobs"] == 0
        if len(body["prompt"]) > 50:
            return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)
        probs = _probs(state["table"][body["prompt"][-1]])
        token = random.Random(body["seed"]).choices(range(NUM_TOKENS), probs)[0]
        choice = {"index": 0, "text": "x", "finish_reason": "stop",
                  "logprobs": {"token_logprobs": [math.log(probs[token])]}}  # fmt: skip
        if tells_ids:
            choice["token_ids"] = [token]
        return JSONResponse({"id": "1", "object": "text_completion", "created": 0, "model": "m",
                             "choices": [choice]})  # fmt: skip

    async def weights(request):
        state["table"] = json.loads(await request.body())
        return JSONResponse({})

    app = Starlette(routes=[
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/weights/{version:int}", weights, methods=["PUT"]),
    ])  # fmt: skip
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


@pytest.fixture
def serve(request, monkeypatch):
    monkeypatch.syspath_prepend(str(request.config.rootpath))
    context, processes = multiprocessing.get_context("spawn"), []

    def start(*, tells_ids=True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = context.Process(target=_serve, args=(port, tells_ids), daemon=True)
        process.start()
        processes.append(process)
        return f"http://127.0.0.1:{port}/v1", process

    yield start
    for process in processes:
        process.kill()
        process.join()


def _until_there(*urls):
    """Wait for servers, each of which has been started."""
    for url in urls:
        for _ in range(400):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.05)


def worker(urls):
    replicas = [OpenAIReplica(url, model="m", update=put_weights) for url in urls]
    return Worker(engine=ReplicatedEngine(replicas, retry_s=0.2), rollout=guess)


def test_a_run_over_servers_learns_and_survives_one_of_them(tmp_path, serve):
    (first, _), (second, process) = serve(), serve()
    _until_there(first, second)
    config = RunConfig(
        folder=tmp_path, max_steps=30, scheduler=SchedulerConfig(groups_per_batch=2, group_size=4),
    )  # fmt: skip
    rewards = []

    def on_step(progress):
        rewards.append(progress.metrics["sampled_reward"])
        if progress.step == 10:
            process.kill()

    tasks = (Task(f"n{n}", n % NUM_TOKENS) for n in range(4000))
    runtime = LocalRuntime(
        config, factory=functools.partial(worker, [first, second]), trainer=TabularTrainer(),
        tasks=tasks, on_step=on_step,
    )  # fmt: skip
    assert runtime.run() == 30
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.reasons.get("failed", 0) == 0  # what the killed one was asked was asked elsewhere
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 0.1


def _ask(url, num=1, *, weights=None):
    async def ask():
        replica = OpenAIReplica(url, model="m", update=put_weights)
        try:
            if weights is not None:
                await replica.load_weights(1, weights)
            return await replica.complete([1] * num, max_tokens=1, temperature=1.0, seed=0)
        finally:
            await replica.close()

    return asyncio.run(ask())


def test_a_server_that_tells_no_ids_cannot_be_trained_on(serve):
    url, _ = serve(tells_ids=False)
    _until_there(url)
    with pytest.raises(LongcatDoraError, match="must tell the ids and log-probs"):
        _ask(url)


def test_what_a_server_refuses_is_said_and_an_absent_one_is_lost(serve):
    url, process = serve()
    _until_there(url)
    assert len(_ask(url).token_ids) == 1
    with pytest.raises(LongcatDoraError, match=r"refuses.*the prompt is too long"):
        _ask(url, 51)
    process.kill()
    process.join()
    with pytest.raises(ReplicaLostError, match="cannot answer"):
        _ask(url)
    with pytest.raises(ReplicaLostError, match="cannot be reached"):
        _ask(url, weights=b"{}")
