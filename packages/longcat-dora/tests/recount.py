"""A second reader of the log, for tests: short, and of nothing that the package has. It reads bytes, not events.

It counts with sets and a loop over versions; what the checker keeps as it goes, this works out at the end.
"""

import json
import re
import zlib
from collections import Counter
from pathlib import Path

LINE = re.compile(rb'\{"crc":(\d+),"event":(.*)\}\n', re.DOTALL)


def events_of(folder):
    """Every event up to a torn end; raises where a line does not follow the one before."""
    events, crc = [], 0
    files = [*sorted(Path(folder).glob("events-*.jsonl")), Path(folder) / "events.jsonl"]
    for file in files:
        for line in file.read_bytes().splitlines(keepends=True):
            found = LINE.fullmatch(line)
            if found is None or zlib.crc32(found[2], crc) != int(found[1]):
                if line.endswith(b"\n") or file != files[-1]:
                    raise ValueError(f"{file}: {line[:60]!r}")
                return events
            crc, event = int(found[1]), json.loads(found[2])
            if event["kind"] != "log":
                events.append(event)
    return events


def recount(folder):
    """Return what `check` reports of a log without a breach, counted another way."""
    ends, started, version_of, staleness = Counter(), [], {}, Counter()
    steps = []
    reasons = Counter()
    for event in events_of(folder):
        match event["kind"]:
            case "started":
                started.append(event["trajectory"])
            case "produced":
                version_of[event["trajectory"]] = event["version"]
                file, offset, length, crc = event["payload"]
                with (Path(folder) / file).open("rb") as stream:
                    stream.seek(offset)
                    assert zlib.crc32(stream.read(length)) == crc
            case "ended":
                ends[event["trajectory"]] += 1
                reasons[event["reason"]] += 1
            case "evicted":
                ends.update(event["trajectories"])
                reasons[event["reason"]] += len(event["trajectories"])
            case "committed":
                steps.append((event["version"], event["trajectories"], event.get("masked", [])))
            case "restored":
                steps = [step for step in steps if step[0] < event["version"]]
    trained = Counter()
    for version, names, masked in steps:
        trained.update(names)
        staleness.update(version - version_of[name] for name in names if name not in masked)
    assert len(set(started)) == len(started), "an id is used twice"
    assert [version for version, _, _ in steps] == [*range(len(steps))], "a step is missing"
    over = trained + ends
    assert max(over.values(), default=0) <= 1, f"ended twice: {over.most_common(3)}"
    return {
        "started": len(started), "committed": trained.total(), "ended": ends.total(),
        "open": len(set(started) - set(over)), "staleness": staleness, "reasons": reasons,
    }  # fmt: skip


def agree(folder, report):
    """Assert that the checker and the recount say the same of a log."""
    found = recount(folder)
    assert report.breaches == []
    assert found == {
        "started": report.num_started, "committed": report.num_committed, "ended": report.num_ended,
        "open": report.num_open, "staleness": report.staleness, "reasons": report.reasons,
    }  # fmt: skip
