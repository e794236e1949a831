"""A model may write a user's turn; what loses a literal or displeases a judge is not said."""

import pytest
from longcat_noise import Book, NoiseConfig, NoiseTask, Written, certify_async, write_turns
from longcat_noise import testing as clinic

BOOK = Book.of(clinic.CONTRACTS)
TASKS = [NoiseTask.read(raw) for raw in clinic.tasks(12)]
VAGUE = "Well, you will know what this is about."


def config(kind, **more):
    return NoiseConfig(level=1.0, tool_kinds=(), user_kinds=(kind,), **more)


async def certified(task, kind, written):
    found = await certify_async(task, config(kind), episode="e", book=BOOK, written=written,
                                world=lambda task: clinic.clinic(task.raw))  # fmt: skip
    assert found.is_certified, found
    return found


async def test_what_a_model_wrote_is_said_and_certified():
    asked = []

    async def write(kind, text):
        asked.append((kind, text))
        return VAGUE

    written, rejected = await write_turns(TASKS, write)
    assert not rejected
    assert asked == [("ambiguity", task.opening) for task in TASKS]
    for task in TASKS:
        proof = await certified(task, "ambiguity", written)
        assert [d["seen"] for d in proof.disturbed] == [VAGUE]
        world = proof.wrap(clinic.clinic(task.raw), task, BOOK, written=written)
        assert (await world.reset()).messages[-1]["content"] == VAGUE
        later = await world.reply({"role": "assistant", "content": "What do you need?"})
        assert later["content"] == task.opening


async def test_words_that_lose_a_literal_are_not_said():
    task = next(t for t in TASKS if "P" in "".join(t.protected))
    literal = next(one for one in task.protected if one in task.opening)

    def write(kind, text):
        return text.replace(literal, "somebody") if kind == "redundancy" else f"Um. {text}"

    written, rejected = await write_turns([task], write, kinds=("redundancy", "memory"))
    (reason,) = rejected
    assert reason.startswith(f"{task.id}, redundancy: {literal!r} is lost in ")
    assert list(written.turns) == [("memory", task.opening)]
    seen = (await certified(task, "redundancy", written)).disturbed[0]["seen"]
    assert literal in seen  # by the kind's own sentences
    proof = await certified(task, "memory", written)
    assert proof.disturbed[0]["seen"] == f"Um. {task.opening}"


async def test_a_judge_hears_all_that_the_user_will_have_said():
    heard = []

    def judge(task, words):
        heard.append(words)
        return ["it names a day that nothing needs"] if "Monday" in words else []

    def write(kind, text):
        return "It is about Monday." if text == TASKS[0].opening else VAGUE

    written, rejected = await write_turns(TASKS[:2], write, judge=judge)
    assert rejected == [f"{TASKS[0].id}, ambiguity: it names a day that nothing needs"]
    assert list(written.turns) == [("ambiguity", TASKS[1].opening)]
    assert heard == [f"It is about Monday. {TASKS[0].opening}", f"{VAGUE} {TASKS[1].opening}"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [("", "must be text, got ''"), (" \n", "must be text"), (None, "must be text, got None"),
     (TASKS[0].opening, "nothing is changed")],
)  # fmt: skip
async def test_no_words_are_no_turn(words, reason):
    written, (told,) = await write_turns(TASKS[:1], lambda kind, text: words)
    assert reason in told
    assert written == Written()


async def test_kinds_are_known_and_lines_are_of_the_form():
    with pytest.raises(ValueError, match=r"a kind must be among redundancy, .*, got 'lies'"):
        await write_turns(TASKS, lambda kind, text: text, kinds=("lies",))
    line = '{"kind":"typo","text":"a","written":"b"}'
    assert Written.read([line]).find("typo", "a") == "b"
    assert Written.read([line]).find("casing", "a") is None
    for wrong in ("[]", "no JSON", line.replace("typo", "lies"), line.replace('"b"', "1")):
        with pytest.raises(ValueError, match="a written turn must have a kind"):
            Written.read([wrong])
