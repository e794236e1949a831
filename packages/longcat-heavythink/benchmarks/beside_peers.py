"""Votes over HTTP beside its-hub and optillm: time, answers waited for, CPU of a call.

    python benchmarks/beside_peers.py [--rounds 3] [--k 64] [--medians 0.1 0.3 0.6]

Run it with an interpreter that has `its-hub`, `openai` and `optillm` (without its dependencies)
beside this package. Each side talks to a server of its own, in another process, that gives the
n-th request the same delay and the same answer: delays are long-tailed (by their median; at most 20
medians), six in ten answers are right. No side may have more than 64 requests under way. At the
largest median all sides are asked, at the others this package and its-hub's full vote.

What the machine itself takes is told by sockets in forty lines of asyncio that send the same bytes,
stop at the same decision, and take care of nothing else; and by this package over connections that
are already open, as in the second turn of a conversation.

The slowest needed is the delay of the answer with which the vote is decided, were all answers asked
for at once.
"""

import argparse
import asyncio
import importlib
import importlib.metadata
import json
import logging
import statistics
import subprocess
import sys
import time
import types
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random

from longcat_heavythink import HeavyConfig, openai_complete, think

SERVER = """
import asyncio, json, sys
from random import Random
seed, median = int(sys.argv[1]), float(sys.argv[2])
random = Random(seed)
plan = [(median * min(20.0, random.lognormvariate(0, 1.2)), "42" if random.random() < 0.6 else
         random.choice(["41", "43", "7"])) for _ in range(4096)]
asked = answered = 0

def whole(data):
    body = json.dumps(data).encode()
    head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
    return head + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body

async def serve(reader, writer):
    global asked, answered
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            sized = (head.lower() + b"content-length: 0\\r\\n").split(b"content-length: ")[1]
            size = int(sized.split(b"\\r\\n")[0])
            await reader.readexactly(size)
            if head.startswith(b"GET"):
                writer.write(whole({"asked": asked, "answered": answered}))
                continue
            delay, text = plan[asked]
            asked += 1
            gone = asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait([gone], timeout=delay)
            if done:
                return
            gone.cancel()
            try:
                await gone
            except asyncio.CancelledError:
                pass
            answered += 1
            writer.write(whole({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                             "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
QUESTION = "What is 6 x 7?"
OURS, OPEN, BARE = "longcat-heavythink", "longcat-heavythink, connections open", "sockets by hand"
SERIAL = "optillm self-consistency, 16 answers"


class Clock:
    """Seconds and CPU seconds since it was started."""

    def __init__(self):
        self.start()

    def start(self):
        self.began, self.cpu = time.monotonic(), time.process_time()

    def read(self):
        return time.monotonic() - self.began, time.process_time() - self.cpu


def ours(url, k, clock):
    return asyncio.run(_think(openai_complete(url, model="m"), k)).answer


async def _think(endpoint, k):
    ask = [{"role": "user", "content": QUESTION}]
    return await think(ask, endpoint, config=HeavyConfig(schedule=f"vote:{k}"))


def ours_open(url, k, clock):
    async def run():
        async with openai_complete(url, model="m") as endpoint:
            await asyncio.gather(*(endpoint.models() for _ in range(k)), return_exceptions=True)
            clock.start()
            return await _think(endpoint, k)

    return asyncio.run(run()).answer


def bare(url, k, clock):
    return asyncio.run(Bare(url, k).run())


class Bare:
    """K sockets, and the same exact decision."""

    def __init__(self, url, k):
        self.host, self.port = url.split("/")[2].split(":")
        self.counts, self.left, self.k = Counter(), k, k
        message = {"role": "user", "content": QUESTION}
        body = json.dumps({"model": "m", "messages": [message], "temperature": 1.0}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: "
        self.request = f"{head}{len(body)}\r\n\r\n".encode() + body

    async def run(self):
        self.decided = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(self.one()) for _ in range(self.k)]
        answer = await self.decided
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return answer

    async def one(self):
        reader, writer = await asyncio.open_connection(self.host, int(self.port))
        try:
            writer.write(self.request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            data = json.loads(await reader.readexactly(size))
        finally:
            writer.close()
        self.left -= 1
        self.counts[data["choices"][0]["message"]["content"]] += 1
        first, second = ([*sorted(self.counts.values(), reverse=True), 0])[:2]
        if first - second > self.left and not self.decided.done():
            self.decided.set_result(self.counts.most_common(1)[0][0])


def its_hub(kind):
    hub = importlib.import_module("its_hub")
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.orchestrator import LMOrchestrator

    def run(url, k, clock):
        model = OpenAICompatibleLanguageModel(url, "k", "m")
        algorithm = getattr(hub, kind)(orchestrator=LMOrchestrator(64))
        return asyncio.run(algorithm.ainfer(model, QUESTION, k))["content"]

    return run


def optillm():
    """Its self-consistency module as it is; the package's own `__init__` starts a server."""
    spec = importlib.util.find_spec("its_hub")
    folder = Path(spec.origin).parents[1] / "optillm"
    package = types.ModuleType("optillm")
    package.__path__ = [str(folder)]
    sys.modules["optillm"] = package
    module = importlib.import_module("optillm.self_consistency")
    openai = importlib.import_module("openai")

    def run(url, k, clock):
        with openai.OpenAI(base_url=url, api_key="k") as client:
            voter = module.AdvancedSelfConsistency(client, "m", num_samples=k)
            result = voter.evaluate("", QUESTION)["aggregated_result"]
        return result["clusters"][0]["answer"]

    return run


def slowest_needed(seed, k, median):
    """Return the delay after which the vote of the first k answers is decided."""
    random = Random(seed)
    plan = [
        (median * min(20.0, random.lognormvariate(0, 1.2)),
         "42" if random.random() < 0.6 else random.choice(["41", "43", "7"]))
        for _ in range(k)
    ]  # fmt: skip
    counts = Counter()
    for number, (delay, text) in enumerate(sorted(plan), start=1):
        counts[text] += 1
        first, second = ([*sorted(counts.values(), reverse=True), 0])[:2]
        if first - second > k - number:
            return delay, number
    return max(plan)[0], k


def measure(run, seed, k, median):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(seed), str(median)], stdout=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    try:
        clock = Clock()
        answer = run(url, k, clock)
        took, cpu = clock.read()
        with urllib.request.urlopen(f"{url}/stats") as response:
            counts = json.load(response)
        assert answer.strip() == "42", answer
        return took, counts["answered"], counts["asked"], cpu / max(1, counts["asked"]) * 1000
    finally:
        server.kill()
        server.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--medians", type=float, nargs="+", default=[0.1, 0.3, 0.6])
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sides = {OURS: ours, OPEN: ours_open, BARE: bare}
    versions = {}
    for kind in ("SelfConsistency", "AdaptiveSelfConsistency", "BetaSelfConsistency"):
        sides[f"its-hub {kind}"] = its_hub(kind)
    sides[SERIAL] = optillm()
    for name in ("its-hub", "optillm", "openai", "aiohttp"):
        versions[name] = importlib.metadata.version(name)
    for run in sides.values():  # imports and first connections
        measure(run, 7, 4, 0.1)
    rows = []
    for median in options.medians:
        rows += compare(sides, options, median, is_whole=median == max(options.medians))
    columns = ["median s of an answer", "side", "wall s", "over slowest needed", "spread",
               "ms beyond it", "answers waited for", "requests sent", "CPU ms a call"]  # fmt: skip
    for row in [columns, *rows]:
        print("  ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in row))
    own = [f"{row[3]} at {row[0]} s" for row in rows if row[1] == OURS]

    def all_of(side):
        return ", ".join(str(row[3]) for row in rows if row[1] == side)

    claim = (
        f"Asked: a vote is decided within 1.1 of the slowest answer needed. A vote of {options.k} "
        f"over a long-tailed server: {', '.join(own)}; with connections open {all_of(OPEN)}; "
        f"sockets by hand, which is what this machine and the server take, {all_of(BARE)}; its-hub's "
        f"full vote {all_of('its-hub SelfConsistency')}."
    )
    print(json.dumps({
        "title": "Votes beside its-hub and optillm", "claim": claim, "columns": columns,
        "rows": rows, "spread": f"min to max of {options.rounds} interleaved runs",
        "seeds": list(range(options.rounds)), "versions": versions,
        "notes": [f"The first {options.k} requests of each side get the same delays and answers.",
                  (f"Opening {options.k} connections and ending the calls under way take the same "
                  "time whatever the server does: the shorter its answers, the more of the ratio "
                  "they are. A quarter of the CPU of our calls is the system's `connect`."),
                  "Adaptive and beta variants may answer otherwise than the full vote; ours cannot.",
                  "optillm asks one after the other; it was run once, with 16 answers."],
    }))  # fmt: skip


def compare(sides, options, median, *, is_whole):
    """Measure in turns at one median; return the rows."""
    always = (OURS, OPEN, BARE, "its-hub SelfConsistency")
    chosen = [name for name in sides if is_whole or name in always]
    seen = {name: [] for name in chosen}
    needed = []
    for seed in range(options.rounds):
        needed.append(slowest_needed(seed, options.k, median))
        for name in chosen:
            if name != SERIAL:
                seen[name].append(measure(sides[name], seed, options.k, median))
    if is_whole:
        seen[SERIAL].append(measure(sides[SERIAL], 0, 16, median))
    rows = []
    for name, results in seen.items():
        both = [(took, delay) for (took, *_), (delay, _) in zip(results, needed, strict=False)]
        over = [took / delay for took, delay in both]
        beyond = statistics.median((took - delay) * 1000 for took, delay in both)
        is_alike = name != SERIAL
        rows.append([
            median, name, round(statistics.median(r[0] for r in results), 3),
            round(statistics.median(over), 2) if is_alike else "-",
            f"{min(over):.2f} to {max(over):.2f}" if is_alike else "-",
            round(beyond) if is_alike else "-",
            statistics.median(r[1] for r in results), statistics.median(r[2] for r in results),
            round(statistics.median(r[3] for r in results), 2),
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
