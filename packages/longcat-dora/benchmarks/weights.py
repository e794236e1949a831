"""Weights from the trainer's process to another one, against a copy within one process.

usage: python weights.py [--mb 256]

Three ways: memory that the reader maps (what runs use), and what the reader does with it: nothing,
or a copy of its own; and the pipe, which is the way where there is no such memory. Each reader adds
the bytes up to see that they are one version's.
"""

import argparse
import multiprocessing
import os
import time
from statistics import median

from longcat_dora._runtime.weights import WeightsPool, receive_weights


def _reader(connection):
    while (order := connection.recv()) is not None:
        way, size = order
        began = time.perf_counter()
        if way == "pipe":
            view = connection.recv_bytes()
        else:
            view = receive_weights(connection, size, None, lambda: None)
        switch = time.perf_counter() - began
        kept = bytes(view) if way == "copied" else view
        connection.send(switch)
        assert kept[0] == kept[size // 2] == kept[size - 1]
        del view, kept
        connection.recv()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=256)
    size = parser.parse_args().mb * 2**20
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_reader, args=(there,), daemon=True)
    process.start()
    rates = {way: [] for way in ("memcpy", "mapped", "copied", "pipe")}
    switches, pool = [], WeightsPool()
    target = bytearray(size)
    for n in range(9):
        weights = bytes([n]) * size
        began = time.perf_counter()
        memoryview(target)[:] = weights
        rates["memcpy"].append(size / (time.perf_counter() - began))
        for way in ("mapped", "copied", "pipe"):
            began = time.perf_counter()
            if way == "pipe":
                here.send((way, size))
                here.send_bytes(weights)
            else:
                shared = pool.publish(weights)
                here.send((way, size))
                shared.send(here, process.pid)
            switch = here.recv()
            rates[way].append(size / (time.perf_counter() - began))
            if way == "mapped":
                switches.append(switch)
            here.send("go on")
    here.send(None)
    process.join()
    print(f"{size / 2**20:.0f} MiB, load {os.getloadavg()[0]:.1f}, median of {len(switches)}")
    for way, values in rates.items():
        del values[:2]  # memory that was never written to is cleared by the system first
        share = median(a / b for a, b in zip(values, rates["memcpy"], strict=True))
        print(f"{way:8} {median(values) / 1e9:6.2f} GB/s, {share:.2f} of memcpy")
    print(f"from the order to weights that can be read: {median(switches) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
