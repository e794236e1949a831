"""Trajectories from one process to another, against what others use, in one run.

usage: python sample_queue.py [--tokens 8192] [--num 4000] [--repeats 3]

A trajectory of 8,192 tokens, half of them sampled, in turns of 512. Others keep 13 bytes a token
(id, log-prob, mask,
version: 104 KB); ours keeps ids, the log-probs of sampled tokens, and the lengths of the turns: 49
KB. A row with as many bytes as theirs is there as well. Nobody's encoding is timed: all send what
is encoded already.

Ours writes each trajectory to the log's file, with its checksum, says where it lies over a pipe,
writes the event, and reads it back; once with the log on disk, once in memory (`/dev/shm`). Peers
hold it in memory alone. Peers that are not installed are left out: `pip install pyzmq msgpack ray
verl`.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median

from longcat_dora import EventLog, Payload, PayloadFile, PayloadReader, Segment, Trajectory

WINDOW = 64
"""Sent at most before one is taken, on all sides."""


PEERS = ("pyzmq", "msgpack", "ray", "verl")


def _is_there(name):
    return importlib.util.find_spec({"pyzmq": "zmq"}.get(name, name)) is not None


def _payload(size):
    return os.urandom(size)


def _size(num_tokens):
    """Bytes of the trajectory in our log."""
    mask = [place // 512 % 2 == 1 for place in range(num_tokens)]
    log_probs = [-random.random() * sampled for sampled in mask]
    ids = [random.randrange(131_072) for _ in mask]
    segments = [Segment(ids, mask, log_probs)]
    return len(Trajectory("t000000", "g00000", "task", "", 0, segments, 1.0).to_bytes())


def _ours_producer(connection, folder, size, num):
    file, data = PayloadFile(Path(folder), "payloads-000.bin"), _payload(size)
    credit = WINDOW
    for _ in range(num):
        if not credit:
            credit += connection.recv()
        credit -= 1
        payload = file.append([data[:100], data[100:]])
        connection.send((payload.file, payload.offset, payload.length, payload.crc))


def ours_in_memory(size, num):
    return ours(size, num, "/dev/shm")


def ours_synced(size, num):
    """With what `sync_commits` waits for, every 32 trajectories."""
    return ours(size, num, sync_every=32)


def ours(size, num, place=None, sync_every=None):
    with tempfile.TemporaryDirectory(dir=place) as folder:
        reader, log = PayloadReader(Path(folder), verify=False), EventLog(Path(folder))
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_ours_producer, args=(there, folder, size, num))
        process.start()
        started = None
        for n in range(num):
            payload = Payload(*here.recv())
            if started is None:
                started = time.perf_counter()
            event = {"kind": "produced", "trajectory": f"t{n}", "group": "g", "version": 0}
            log.append(
                {**event, "payload": (payload.file, payload.offset, payload.length, payload.crc)}
            )
            assert len(reader.read(payload)) == size
            if sync_every and n % sync_every == sync_every - 1:
                reader.sync([payload.file])
                log.sync()
            if n % (WINDOW // 2) == 0:
                here.send(WINDOW // 2)
        seconds = time.perf_counter() - started
        process.kill()
        process.join()
        return (num - 1) / seconds


def _zmq_producer(address, size, num):
    import msgpack
    import zmq

    socket = zmq.Context().socket(zmq.PUSH)
    socket.set_hwm(WINDOW)
    socket.connect(address)
    data = _payload(size)
    for n in range(num):
        socket.send(msgpack.packb({"id": n, "data": data}), copy=False)
    time.sleep(60)


def zmq_msgpack(size, num):
    import msgpack
    import zmq

    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        socket = zmq.Context().socket(zmq.PULL)
        socket.set_hwm(WINDOW)
        socket.bind(address)
        process = multiprocessing.Process(target=_zmq_producer, args=(address, size, num))
        process.start()
        started = None
        for _ in range(num):
            item = msgpack.unpackb(socket.recv())
            started = started or time.perf_counter()
            assert len(item["data"]) == size
        seconds = time.perf_counter() - started
        process.kill()
        process.join()
        return (num - 1) / seconds


def _mp_producer(queue, size, num):
    data = _payload(size)
    for n in range(num):
        queue.put({"id": n, "data": data})
    time.sleep(60)


def mp_queue(size, num):
    queue = multiprocessing.Queue(WINDOW)
    process = multiprocessing.Process(target=_mp_producer, args=(queue, size, num))
    process.start()
    started = None
    for _ in range(num):
        item = queue.get()
        started = started or time.perf_counter()
        assert len(item["data"]) == size
    seconds = time.perf_counter() - started
    process.kill()
    process.join()
    return (num - 1) / seconds


def verl_queue(size, num):
    """verl's own class, put by one actor and taken by the driver, as its recipe does."""
    import ray
    from omegaconf import OmegaConf
    from verl.experimental.fully_async_policy.message_queue import MessageQueue, MessageQueueClient

    num = min(num, 500)
    if not ray.is_initialized():
        ray.init(num_cpus=4, logging_level="ERROR", include_dashboard=False)
    queue = MessageQueue.remote(OmegaConf.create({}), max_queue_size=num)

    @ray.remote
    def produce(queue, size, num):
        import asyncio

        from verl.experimental.fully_async_policy.message_queue import MessageQueueClient

        async def main():
            client, data = MessageQueueClient(queue), _payload(size)
            for _ in range(num):
                await client.put_sample(data)

        asyncio.run(main())

    import asyncio

    async def take():
        client, started = MessageQueueClient(queue), None
        for _ in range(num):
            await client.get_sample()
            started = started or time.perf_counter()
        return (num - 1) / (time.perf_counter() - started)

    done = produce.remote(queue, size, num)
    rate = asyncio.run(take())
    ray.get(done)
    ray.shutdown()  # its processes would slow down whoever is measured next
    return rate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--num", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    theirs, small = 13 * options.tokens, _size(options.tokens)
    sides = {
        "ours, log on disk, no sync": (ours, small),
        "ours, log on disk, synced every 32": (ours_synced, small),
        "ours, log in memory": (ours_in_memory, small),
        "ours, log on disk, as many bytes as theirs": (ours, theirs),
        "multiprocessing.Queue": (mp_queue, theirs),
    }
    if all(map(_is_there, ("pyzmq", "msgpack"))):
        sides["ZMQ push/pull + msgpack, ipc"] = (zmq_msgpack, theirs)
    if all(map(_is_there, ("ray", "verl"))):
        sides["verl MessageQueue"] = (verl_queue, theirs)
    rates = {name: [] for name in sides}
    for _ in range(options.repeats):  # one after another, so that all see the same machine
        for name, (side, size) in sides.items():
            rates[name].append(side(size, options.num))
    rows = []
    base = "ours, log on disk, no sync"
    for name, values in rates.items():
        times = median(a / b for a, b in zip(rates[base], values, strict=True))
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        rows.append([name, sides[name][1], round(median(values)), spread, round(times, 2)])
        print(*rows[-1], sep=" | ")
    synced = next(row for row in rows if "synced" in row[0])
    print(json.dumps({
        "title": "Trajectories from one process to another",
        "claim": f"Of {options.tokens:,} tokens, half of them sampled: waiting for the disk every 32"
        f" trajectories costs {synced[4]} times what not waiting does",
        "columns": ["way", "bytes", "trajectories/s", "least to greatest", "ours, no sync, is ... times"],
        "rows": rows,
        "spread": f"medians of {options.repeats} turns",
        "versions": {name: importlib.metadata.version(name) for name in PEERS if _is_there(name)},
        "notes": [
            "ours is written to the log's files with its checksum, and read; others stay in memory",
            f"load of the machine at the end: {os.getloadavg()[0]:.1f}",
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
