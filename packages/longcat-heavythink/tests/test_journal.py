"""Every call is written down; a run can be resumed, replayed and read."""

import asyncio
import json

import pytest
from longcat_heavythink import (
    HeavyConfig,
    Journal,
    Price,
    ReplayError,
    Reply,
    ToolCall,
    Usage,
    journal_page,
    openai_complete,
    read_journal,
    think,
)
from longcat_heavythink._replies import Failure, FailureKind, Timing, reply_from_json, reply_to_json
from longcat_heavythink.testing import scripted

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]

CONFIG = HeavyConfig(width=3)


async def _never(messages, temperature):
    raise AssertionError("nothing must be asked")


def test_a_reply_survives_the_journal():
    reply = Reply(
        text="a", thoughts="b", tool_calls=(ToolCall("f", "{}", "c"),), finish_reason="stop",
        failure=Failure(FailureKind.SERVER, "m", 503, "body", 1.5, True), usage=Usage(1, 2, True),
        timing=Timing(1.0, 0.5, 0.25, 3), confidence=(1.5, 2.0), model="m",
    )  # fmt: skip
    assert reply_from_json(json.loads(json.dumps(reply_to_json(reply)))) == reply
    assert reply_from_json(reply_to_json(Reply(text="x"))) == Reply(text="x")


async def test_a_finished_run_is_replayed_without_a_model(tmp_path):
    path = tmp_path / "j.jsonl"
    script = ["41", "", "42", "42!"]
    with Journal(path) as journal:
        first = await think(ASK, scripted(script), config=CONFIG, journal=journal)
    size = path.stat().st_size
    again = await think(ASK, scripted([]), config=CONFIG, journal=Journal(path, is_replay=True))
    assert path.stat().st_size == size
    assert (again.answer, again.attempts, again.decided_by, again.rounds) == (
        first.answer, first.attempts, first.decided_by, first.rounds,
    )  # fmt: skip
    assert [r.reply for r in again.records] == [r.reply for r in first.records]
    with pytest.raises(ReplayError, match="no run"):
        await think(ASK, _never, config=HeavyConfig(width=2),
                    journal=Journal(path, is_replay=True))  # fmt: skip


async def test_a_decided_vote_replays_with_its_cancelled_calls(tmp_path):
    async def complete(messages, temperature):
        started.append(1)
        await asyncio.sleep(0 if len(started) < 4 else 60)
        return "1"

    started = []
    config = HeavyConfig(schedule="vote:5")
    with Journal(tmp_path / "j") as journal:
        first = await think(ASK, complete, config=config, journal=journal)
    again = await think(
        ASK, complete, config=config, journal=Journal(tmp_path / "j", is_replay=True)
    )
    assert len(started) == 5
    assert [r.reply.failure for r in again.records] == [r.reply.failure for r in first.records]


async def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path):
    async def dies(messages, temperature):
        started.append(1)
        if len(started) == 3:
            await asyncio.sleep(0.01)
            raise KeyboardInterrupt
        return f"a{len(started)}"

    started, asked = [], []

    async def rest(messages, temperature):
        asked.append(messages)
        return "end" if "Thinker" in messages[-1]["content"] else "new"

    loop_error = None
    with Journal(tmp_path / "j") as journal:
        try:
            await asyncio.shield(_guarded(think(ASK, dies, config=CONFIG, journal=journal)))
        except _StoppedError as error:
            loop_error = error
    assert loop_error is not None
    with Journal(tmp_path / "j") as journal:
        got = await think(ASK, _named(rest, dies), config=CONFIG, journal=journal)
    assert got.attempts == ["a1", "a2", "new"]
    assert len(asked) == 2


class _StoppedError(Exception):
    pass


def _named(function, like):
    """A journal's run is of the same model: functions are known by their names."""
    function.__qualname__ = like.__qualname__
    return function


async def _guarded(run):
    """Cut a run off as a crash would: its calls are cancelled, nothing more is written."""
    task = asyncio.ensure_future(run)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        raise _StoppedError from None


async def test_failed_calls_of_a_run_that_did_not_end_are_made_again(tmp_path):
    with Journal(tmp_path / "j") as journal:
        await think(ASK, scripted(["41", "", "42", "", ""]), config=CONFIG, journal=journal)
    lines = (tmp_path / "j").read_text().splitlines()
    kept = [line for line in lines if '"kind": "stage"' not in line and '"kind": "end"' not in line]
    (tmp_path / "j").write_text("\n".join(kept) + '\n{"kind": "call", "ru')  # torn by a crash
    with Journal(tmp_path / "j") as journal:
        got = await think(ASK, scripted(["43", "end"]), config=CONFIG, journal=journal)
    assert (got.attempts, got.answer) == (["41", "43", "42"], "end")
    entries = read_journal(tmp_path / "j")
    assert entries[-1]["kind"] == "end"
    assert entries[-1]["reply"]["text"] == "end"


@pytest.mark.parametrize("is_replay", [False, True])
async def test_runs_of_a_model_that_was_found_by_asking_are_found_again(
    fault_server, tmp_path, is_replay
):
    server = fault_server(models=["only"])

    async def ask_all(journal):
        endpoint = openai_complete(server.url)
        for word in ("one", "two"):
            ask = [{"role": "user", "content": word}]
            await think(ask, endpoint, config=HeavyConfig(width=1), journal=journal)

    with Journal(tmp_path / "j") as journal:
        await ask_all(journal)
    asked = server.stats().num_requests
    with Journal(tmp_path / "j", is_replay=is_replay) as journal:
        await ask_all(journal)
    assert server.stats().num_requests == asked == 4


async def test_prompts_are_written_once_and_keys_never(tmp_path):
    with Journal(tmp_path / "j") as journal:
        await think(ASK, scripted(["a", "b", "c", "d"]), config=CONFIG, journal=journal)
    entries = read_journal(tmp_path / "j")
    kinds = [entry["kind"] for entry in entries]
    assert kinds.count("prompt") == 2
    assert kinds.count("call") == 4
    assert kinds[0] == "head"


@pytest.mark.parametrize(
    "text", ["hello\n", '{"kind": "call"}\n', '{"kind": "head", "format": 99}\n']
)
def test_what_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / "j").write_text(text)
    with pytest.raises(ValueError, match=r"must be a journal|format"):
        Journal(tmp_path / "j")


def test_a_replay_needs_a_journal(tmp_path):
    with pytest.raises(FileNotFoundError, match="no journal"):
        Journal(tmp_path / "j", is_replay=True)


async def test_the_page_says_who_said_what_who_was_right_and_what_it_cost(tmp_path):
    used = Usage(100, 50)
    script = [Reply(text="<b>41</b>", usage=used), Reply(text="42", thoughts="hm", usage=used), "",
              Reply(text="it is 42\n\\boxed{42}", usage=used)]  # fmt: skip
    with Journal(tmp_path / "j") as journal:
        await think(ASK, scripted(script), config=CONFIG, journal=journal)
        run = read_journal(tmp_path / "j")[1]["run"]
        journal.mark(run, "42.0")
    page = journal_page(tmp_path / "j", price=Price(prompt=1, completion=2))
    assert "&lt;b&gt;41&lt;/b&gt;" in page
    assert "<b>41" not in page
    assert page.count("meta wrong") == 1
    assert page.count("meta right") == 2
    assert "<h3 class='right'>answer (summary)" in page
    assert "the answer is empty" in page
    assert "<summary>thoughts" in page
    assert "cost 0.0006" in page
    assert "saw #" in page
