"""A journal of every call: resume a run, replay it, read it.

One JSON document a line, appended as things happen:

    {"kind": "head", "format": 1}
    {"kind": "run", "run": id, "messages": [...], "schedule": "...", "settings": {...}}
    {"kind": "prompt", "prompt": digest, "messages": [...]}        once for each prompt
    {"kind": "call", "run": id, "stage": 0, "index": 3, "prompt": digest, "reply": {...}}
    {"kind": "stage", "run": id, "stage": 0}                        the stage is over
    {"kind": "end", "run": id, "reply": {...}, "decided_by": "..."}

- A run's id comes from what decides it: messages, schedule, settings, models. The same run begun
  again takes its good calls from the journal, and all calls of stages that were over.
- A line that a crash left half-written is ignored. Each line is flushed; power loss may take the
  last.
- API keys are never part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ._replies import FORMAT, FailureKind, Message, Reply, Usage, reply_from_json, reply_to_json
from .schedule._records import Plan, Record, RunSettings


class ReplayError(LookupError):
    """A replay asked for a call that the journal does not hold."""


class Journal:
    """A file of runs.

    Args:
        path: Of the file; it need not exist.
        is_replay: Answer from it alone and write nothing.
        can_resume: Take a run that is begun again from where it was. A server says no: the same
            question asked twice is two runs.

    Raises:
        ValueError: The file is no journal, or of a later format.
    """

    def __init__(
        self, path: str | Path, *, is_replay: bool = False, can_resume: bool = True
    ) -> None:
        self.path = Path(path)
        self.is_replay, self._can_resume = is_replay, can_resume
        self._calls: dict[tuple[str, int, int], tuple[str, Reply]] = {}
        self._over: set[tuple[str, int]] = set()
        self._prompts: set[str] = set()
        self._runs: set[str] = set()
        self._file: IO[str] | None = None
        self._ends_whole = True
        if self.path.exists():
            self._load()
        elif is_replay:
            raise FileNotFoundError(f"no journal at {self.path}")

    def begin(
        self, messages: Sequence[Message], schedule: str, settings: RunSettings, model: str,
        summariser: str,
    ) -> RunBook:  # fmt: skip
        """Return the book of one run, begun or resumed."""
        told: dict[str, Any] = {
            name: getattr(settings, name)
            for name in ("temperature", "summary_temperature", "max_tokens", "summary_max_tokens",
                         "max_answer_chars", "max_prompt_chars", "packing", "seed")
        }  # fmt: skip
        told |= {"tools": list(settings.tools), "extra": dict(settings.extra)}
        told |= {"model": model, "summariser": summariser}
        run = _digest([list(messages), schedule, told, settings.prompts.summary])[:16]
        if self.is_replay and run not in self._runs:
            raise ReplayError(f"{self.path} holds no run of these messages, schedule and settings")
        if not (self._can_resume or self.is_replay):
            first, number = run, 1
            while run in self._runs:
                number += 1
                run = f"{first}-{number}"
        if run not in self._runs:
            self._runs.add(run)
            self.write({"kind": "run", "run": run, "messages": list(messages),
                        "schedule": schedule, "settings": told})  # fmt: skip
        return RunBook(self, run)

    def mark(self, run: str, answer: str) -> None:
        """Record the true answer to a run's question; the page then says who was right."""
        self.write({"kind": "truth", "run": run, "answer": answer})

    def find(self, run: str, stage: int, plan: Plan) -> Reply | None:
        """Return the reply that a plan's call has got before."""
        found = self._calls.get((run, stage, plan.index))
        if found is None:
            if self.is_replay:
                raise ReplayError(f"{self.path} holds no call {stage}.{plan.index} of run {run}")
            return None
        prompt, reply = found
        if prompt != self.prompt_digest(plan):
            if self.is_replay:
                raise ReplayError(f"call {stage}.{plan.index} of run {run} had another prompt")
            return None
        is_over = (run, stage) in self._over or self.is_replay
        return reply if reply.good or is_over else None

    def call(self, run: str, stage: int, plan: Plan, record: Record) -> None:
        """Write one call, and its prompt where it is new."""
        digest = self.prompt_digest(plan)
        if digest not in self._prompts:
            self._prompts.add(digest)
            self.write({"kind": "prompt", "prompt": digest, "messages": list(plan.call.messages)})
        self._calls[run, stage, record.index] = (digest, record.reply)
        self.write(
            {"kind": "call", "run": run, "stage": stage, "index": record.index, "prompt": digest,
             "members": list(record.members), "total_s": round(record.total_s, 4),
             "usage": [record.usage.prompt_tokens, record.usage.completion_tokens,
                       record.usage.estimated],
             "reply": reply_to_json(record.reply)}
        )  # fmt: skip

    def prompt_digest(self, plan: Plan) -> str:
        """Return the name of a plan's prompt."""
        if not plan.digest:
            call = plan.call
            plan.digest = _digest([list(call.messages), call.temperature, call.max_tokens])[:16]
        return plan.digest

    def end_stage(self, run: str, stage: int) -> None:
        """Write that a stage is over."""
        if (run, stage) not in self._over:
            self._over.add((run, stage))
            self.write({"kind": "stage", "run": run, "stage": stage})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line."""
        if self.is_replay:
            return
        if self._file is None:
            is_new = not self.path.exists() or self.path.stat().st_size == 0
            self._file = self.path.open("a", encoding="utf-8", errors="surrogatepass")
            if is_new:
                self._file.write(json.dumps({"kind": "head", "format": FORMAT}) + "\n")
            elif not self._ends_whole:
                self._file.write("\n")
        self._file.write(json.dumps(entry, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> None:
        for entry in read_journal(self.path):
            kind = entry.get("kind")
            if kind == "run":
                self._runs.add(entry["run"])
            elif kind == "prompt":
                self._prompts.add(entry["prompt"])
            elif kind == "stage":
                self._over.add((entry["run"], entry["stage"]))
            elif kind == "call":
                place = (entry["run"], entry["stage"], entry["index"])
                self._calls[place] = (entry["prompt"], reply_from_json(entry["reply"]))
        with self.path.open("rb") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                self._ends_whole = file.read(1) == b"\n"


class RunBook:
    """The pages of one run: what `Runner` looks up and writes."""

    def __init__(self, journal: Journal, run: str) -> None:
        self.journal, self.run = journal, run

    def find(self, stage: int, plan: Plan) -> Reply | None:
        """Return the recorded reply to a call."""
        return self.journal.find(self.run, stage, plan)

    def write(self, stage: int, plan: Plan, record: Record) -> None:
        """Record a call."""
        self.journal.call(self.run, stage, plan, record)

    def end_stage(self, stage: int) -> None:
        """Record that a stage is over."""
        self.journal.end_stage(self.run, stage)

    def end(self, reply: Reply, decided_by: str, fell_back: str) -> None:
        """Record how the run ended."""
        self.journal.write({"kind": "end", "run": self.run, "reply": reply_to_json(reply),
                            "decided_by": decided_by, "fell_back": fell_back})  # fmt: skip

    def fail(self, message: str) -> None:
        """Record that the run found no answer."""
        self.journal.write({"kind": "end", "run": self.run, "error": message})


def read_journal(path: str | Path) -> list[dict[str, Any]]:
    """Return the entries of a journal; half-written lines are left out.

    Raises:
        ValueError: The file is no journal, or of a later format.
    """
    entries: list[dict[str, Any]] = []
    text = Path(path).read_text("utf-8", errors="replace")
    for line in text.splitlines():
        try:
            entry: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "kind" in entry:
            entries.append(cast("dict[str, Any]", entry))
    if text.strip() and not (entries and entries[0]["kind"] == "head"):
        raise ValueError(f"{path} must be a journal of heavy thinking: its first line is no head")
    if entries and entries[0].get("format", 0) > FORMAT:
        found = entries[0]["format"]
        raise ValueError(f"{path} must have format {FORMAT} or lower, got {found}")
    return entries


def recorded_usage(entry: Mapping[str, Any]) -> Usage:
    """Return the tokens of a call's entry."""
    return Usage(*entry.get("usage", (0, 0)))


def is_cancelled(reply: Reply) -> bool:
    """Return whether a reply was not waited for."""
    return reply.failure is not None and reply.failure.kind is FailureKind.CANCELLED


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
