"""CPU of one call over loopback: HTTP libraries bare, and this package on top of the chosen one.

    python benchmarks/transport.py [--rounds 5]

The server runs in a process of its own and answers at once. Each side keeps one client with at
most 64 connections, sends K requests side by side, and reads every answer's JSON. CPU is the
client process's own. Rounds are interleaved; the ratio is to bare aiohttp in the same round.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time

import aiohttp
from longcat_heavythink import HeavyConfig, openai_complete, think

SERVER = """
import asyncio, json
body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content":
    "The answer is 42. " * 20}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 100}}).encode()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body

async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
            await reader.readexactly(size)
            writer.write(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
ASK = [{"role": "user", "content": "What is 6 x 7? " * 40}]
BODY = json.dumps({"model": "m", "messages": ASK, "temperature": 1.0, "max_tokens": 1024}).encode()
LIMIT = 64


async def use_aiohttp(url, k):
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=LIMIT), headers=headers
    ) as session:

        async def one():
            async with session.post(f"{url}/chat/completions", data=BODY) as response:
                return json.loads(await response.read())["choices"][0]["message"]["content"]

        return await _timed(one, k)


def use_httpx(name):
    library = __import__(name)

    async def use(url, k):
        limits = library.Limits(max_connections=LIMIT)
        async with library.AsyncClient(limits=limits, timeout=60) as client:

            async def one():
                response = await client.post(
                    f"{url}/chat/completions", content=BODY,
                    headers={"Content-Type": "application/json"},
                )  # fmt: skip
                return response.json()["choices"][0]["message"]["content"]

            return await _timed(one, k)

    return use


async def use_streams(url, k):
    """Sockets by hand: what is left when nothing is taken care of."""
    host, port = url.split("/")[2].split(":")
    free, gate = [], asyncio.Semaphore(LIMIT)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    )
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY

    async def one():
        async with gate:
            reader, writer = free.pop() if free else await asyncio.open_connection(host, int(port))
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            data = json.loads(await reader.readexactly(size))
            free.append((reader, writer))
            return data["choices"][0]["message"]["content"]

    result = await _timed(one, k)
    for _, writer in free:
        writer.close()
    return result


async def _timed(one, k):
    began = time.process_time()
    answers = await asyncio.gather(*(one() for _ in range(k)))
    spent = time.process_time() - began
    assert len(answers) == k
    return spent / k


async def use_ours(url, k):
    """A vote of K whose answers all differ, so that every call is made and none comes on top."""
    endpoint = openai_complete(url, model="m", max_connections=LIMIT)
    config = HeavyConfig(schedule=f"sample:{k}>vote", normaliser=_all_differ())
    async with endpoint:
        began = time.process_time()
        got = await think(ASK, endpoint, config=config)
        spent = time.process_time() - began
    assert len(got.attempts) == k
    return spent / k


def _all_differ():
    count = iter(range(10**9))
    return lambda text: str(next(count))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sides = {"aiohttp": use_aiohttp, "longcat-heavythink": use_ours, "asyncio streams": use_streams}
    versions = {"aiohttp": importlib.metadata.version("aiohttp")}
    for name in ("httpx", "httpx2"):
        try:
            sides[name] = use_httpx(name)
            versions[name] = importlib.metadata.version(name)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    spent = {}
    try:
        for use in sides.values():  # warm up
            asyncio.run(use(url, 8))
        for _ in range(rounds):
            for k in (64, 512):
                for name, use in sides.items():
                    gc.collect()  # nobody pays for another's garbage
                    spent.setdefault((name, k), []).append(asyncio.run(use(url, k)) * 1000)
    finally:
        server.kill()
        server.wait()
    rows = []
    for name in sides:
        row = [name]
        for k in (64, 512):
            ratios = [a / b for a, b in zip(spent[name, k], spent["aiohttp", k], strict=True)]
            row += [round(statistics.median(spent[name, k]), 3), round(statistics.median(ratios), 2),
                    f"{min(ratios):.2f} to {max(ratios):.2f}"]  # fmt: skip
        rows.append(row)
    columns = [
        "side",
        "ms a call, K = 64",
        "ratio",
        "spread",
        "ms a call, K = 512",
        "ratio",
        "spread",
    ]
    for row in [columns, *rows]:
        print("  ".join(f"{cell!s:>20}" for cell in row))
    ours = {row[0]: row for row in rows}["longcat-heavythink"]
    claim = (f"CPU of a call at K = 64 and 512, libraries bare and ours over aiohttp: "
             f"{ours[2]} and {ours[5]} times bare aiohttp.")  # fmt: skip
    print(json.dumps({"title": "CPU of one call", "claim": claim, "columns": columns, "rows": rows,
                      "spread": f"min to max of {rounds} interleaved rounds",
                      "versions": versions}))  # fmt: skip


if __name__ == "__main__":
    main()
