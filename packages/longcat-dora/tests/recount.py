"""A second reader of the log, for tests: short, and of nothing that the package has.

It reads bytes, not events.

It counts with sets and a loop over versions; what the checker keeps as it goes, this works out at
the end.
"""

import json
import re
import zlib
from collections import Counter
from pathlib import Path

LINE = re.compile(rb'\{"crc":(\d+),"event":(.*)\}\n', re.DOTALL)


def summary_of(folder):
    """What archived files have left, if the first ones are gone.

    The head of the least that will do.
    """
    files = sorted(Path(folder).glob("events-*.jsonl"))
    first = int(files[0].stem[7:]) if files else 0
    if not files:
        head = (Path(folder) / "events.jsonl").read_bytes().partition(b"\n")[0]
        first = json.loads(head)["event"]["number"]
    for path in sorted(Path(folder).glob("archived-*.jsonl")) if first else ():
        if int(path.name[9:15]) >= first:
            return json.loads(path.read_bytes().partition(b"\n")[0])
    return None


def events_of(folder):
    """Every event up to a torn end; raises where a line does not follow the one before."""
    events, crc = [], 0
    files = [*sorted(Path(folder).glob("events-*.jsonl")), Path(folder) / "events.jsonl"]
    if (summary := summary_of(folder)) is not None:
        crc = summary["chain"]
        files = [f for f in files if len(f.stem) < 7 or int(f.stem[7:]) >= summary["before"]]
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
    steps, payloads = [], {}
    reasons = Counter()
    past = summary_of(folder)
    first = 0 if past is None else past["version"]
    opened = [] if past is None else [e for g in past["open"] for e in g["events"]]
    for event in [*opened, *events_of(folder)]:
        match event["kind"]:
            case "started":
                started.append(event["trajectory"])
            case "produced":
                version_of[event["trajectory"]] = event["version"]
                payloads[event["trajectory"]] = event["payload"]
            case "ended":
                ends[event["trajectory"]] += 1
                reasons[event["reason"]] += 1
                if event["reason"] == "damaged":
                    payloads.pop(event["trajectory"], None)
            case "evicted":
                ends.update(event["trajectories"])
                reasons[event["reason"]] += len(event["trajectories"])
            case "committed":
                steps.append((event["version"], event["trajectories"], event.get("masked", [])))
            case "restored":
                steps = [step for step in steps if step[0] < event["version"]]
    for file, offset, length, crc in payloads.values():
        with (Path(folder) / file).open("rb") as stream:
            stream.seek(offset)
            assert zlib.crc32(stream.read(length)) == crc
    trained = Counter()
    for version, names, masked in steps:
        trained.update(names)
        staleness.update(version - version_of[name] for name in names if name not in masked)
    assert len(set(started)) == len(started), "an id is used twice"
    assert [v for v, _, _ in steps] == [*range(first, first + len(steps))], "a step is missing"
    over = trained + ends
    assert max(over.values(), default=0) <= 1, f"ended twice: {over.most_common(3)}"
    found = {
        "started": len(started), "committed": trained.total(), "ended": ends.total(),
        "open": len(set(started) - set(over)), "staleness": staleness, "reasons": reasons,
    }  # fmt: skip
    if past is not None:
        counts = past["counts"]
        found["started"] += counts["started"] - sum(e["kind"] == "started" for e in opened)
        found["committed"] += counts["committed"]
        found["ended"] += counts["ended"]
        staleness.update({int(k): num for k, num in counts["staleness"].items()})
        reasons.update(counts["reasons"])
    return found


def agree(folder, report):
    """Assert that the checker and the recount say the same of a log."""
    found = recount(folder)
    assert report.breaches == []
    assert found == {
        "started": report.num_started, "committed": report.num_committed, "ended": report.num_ended,
        "open": report.num_open, "staleness": report.staleness, "reasons": report.reasons,
    }  # fmt: skip
