"""Domains of long-tailed latencies under an `Oversampler`, by simulation."""

import heapq
from collections import Counter
from random import Random

from longcat_gspo import Oversampler


def simulate(domains, *, places=64, num=1600, seed=0, shares=None):
    """Return the domains of groups with a signal, in order; starts by domain; the sampler."""
    sampler = Oversampler(shares or dict.fromkeys(domains, 1.0))
    rng, running, arrived, starts = Random(seed), [], [], Counter()

    def begin(now):
        key = sampler.start()
        starts[key] += 1
        length = rng.paretovariate(2.2) * domains[key][0] * 0.55
        heapq.heappush(running, (now + length, rng.random(), key))

    for _ in range(places):
        begin(0.0)
    while len(arrived) < num:
        now, _, key = heapq.heappop(running)
        has_signal = rng.random() < domains[key][1]
        sampler.finish(key, has_signal=has_signal)
        if has_signal:
            arrived.append(key)
        begin(now)
    return arrived, starts, sampler


def worst_error(arrived, domains, *, batch=192):
    """Over the batches after the first few, how far a domain is from its share at most."""
    worst = 0.0
    for begin in range(3 * batch, len(arrived) - batch + 1, batch):
        counts = Counter(arrived[begin : begin + batch])
        worst = max(worst, *(abs(counts[key] / batch - 1 / len(domains)) for key in domains))
    return worst
