"""Tasks.

Any iterable, by domain, passed over by id when a run goes on, and sent to another process as they
are.
"""

import collections
import dataclasses
import subprocess
import sys
import textwrap

import pytest
from longcat_dora import (
    LocalRuntime,
    LongcatDoraError,
    RolloutManager,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora._books.tasks import TaskFeed, decode_task, encode_task
from longcat_dora.testing import TabularEngine, TabularTrainer, guess, tabular_worker

CONFIG = SchedulerConfig(groups_per_batch=2, group_size=2, soft_staleness=1)


def _feed(names, before=(), **more):
    feed = TaskFeed([Task(name, name.upper()) for name in names], **more)
    passed = [feed.pass_over("", name) for name in before]
    taken = []
    while "" in feed.domains:
        taken.append(feed.take(""))
    assert taken.pop() is None
    assert all(task is None or task.payload == task.id.upper() for task in passed)
    return "".join(task.id for task in taken), feed.notes


def test_what_was_admitted_is_passed_over_in_its_order_and_nothing_is_said():
    assert _feed("abcdefgh", "abcd") == ("efgh", [])
    assert _feed("abab", "ab") == ("ab", [])


@pytest.mark.parametrize("names", ["dcbaefgh", "hgfedcba", "efghabcd", "abdcefgh", "aecgbfdh"])
def test_in_another_order_they_are_passed_over_by_id_and_that_is_said(names):
    rest, notes = _feed(names, "abcd")
    assert sorted(rest) == list("efgh")
    (note,) = notes
    assert "do not come in the order of before" in note


def test_tasks_that_go_on_are_all_taken():
    assert _feed("dcbaab", "abcd", go_on=True) == ("dcbaab", [])


def test_what_does_not_come_again_is_said():
    rest, notes = _feed("efgh", "abcd")
    assert rest == "efgh"
    assert "4 tasks that were admitted before have not come again, 'a' for one" in notes


def _manager(folder, tasks, **more):
    return RolloutManager(folder, CONFIG, tasks=tasks, **more)


def _admitted(folder):
    return [(e["task"], e["domain"]) for e in read_events(folder) if e["kind"] == "admitted"]


@pytest.mark.parametrize("go_on", [False, True])
def test_a_continued_run_may_be_given_other_tasks(tmp_path, caplog, go_on):
    """A curriculum draws them: one that it drew before is due again."""
    first = _manager(tmp_path, [Task(name, name) for name in "abcd" * 20])
    first.feed()
    first.close()
    again = _manager(tmp_path, [Task(name, name) for name in "dcba" * 20], tasks_go_on=go_on)
    again.feed()
    again.close()
    assert ("do not come in the order of before" in caplog.text) is not go_on


def test_the_key_is_the_domain(tmp_path, caplog):
    def tasks():
        return {key: [Task(f"{key}{n}", n) for n in range(10)] for key in ("math", "code")}

    first = _manager(tmp_path, tasks())
    first.feed()
    first.close()
    assert {domain for _, domain in _admitted(tmp_path)} == {"math", "code"}
    assert all(task.startswith(domain) for task, domain in _admitted(tmp_path))
    again = _manager(tmp_path, tasks())
    assert {d: again._tasks.take(d).id for d in ("math", "code")} == {
        "math": "math2",
        "code": "code2",
    }
    again.close()
    assert caplog.text == ""
    wrong = _manager(tmp_path / "wrong", {"math": [Task("x", 0, "code")]})
    with pytest.raises(LongcatDoraError, match="'x' has 'code'"):
        wrong.feed()
    wrong.close()


@dataclasses.dataclass
class Question:
    """No plain data."""

    number: int


@pytest.mark.parametrize(
    "payload", [None, 1, 1.5, "ä", [1, [2, {"a": None}]], {"a": True}, float("inf")]
)
def test_plain_data_survives_the_log_as_it_was(payload):
    task = Task("t", payload, "d")
    again = decode_task(encode_task(task))
    assert again == task
    assert type(again.payload) is type(payload)


@pytest.mark.parametrize("payload", [(1, 2), {1: 2}, {"a": (1,)}, Question(3), b"x", {1, 2}])
def test_what_json_would_change_is_not_kept(payload):
    assert encode_task(Task("t", payload)) is None


def test_a_task_that_is_no_plain_data_comes_again_when_the_run_goes_on(tmp_path):
    tasks = [Task(f"n{n}", Question(n)) for n in range(20)]
    first = _manager(tmp_path, tasks)
    first.feed()
    first.close()
    assert all("payload" not in e for e in read_events(tmp_path))
    again = _manager(tmp_path, tasks)
    again.feed()
    assert {t.id: t.payload.number for t in again._task_of.values()} == {
        f"n{n}": n for n in range(4)
    }
    again.close()


def _sizes(folder):
    """Of the groups that were trained on: task to members."""
    events = list(read_events(folder))
    group_of = {e["trajectory"]: e["group"] for e in events if e["kind"] == "started"}
    task_of = {e["group"]: e["task"] for e in events if e["kind"] == "admitted"}
    learned = [name for e in events if e["kind"] == "committed" for name in e["trajectories"]]
    return collections.Counter(task_of[group_of[name]] for name in learned)


def test_each_task_is_tried_as_often_as_it_says(tmp_path):
    tasks = [Task(f"n{n}", n % 8, attempts=(None, 3, 5, 4)[n % 4]) for n in range(400)]
    for steps in (3, 6):  # the second goes on, with what was admitted before
        config = RunConfig(folder=tmp_path / "run", max_steps=steps, scheduler=CONFIG, save_every=1)
        LocalRuntime(config, factory=tabular_worker, trainer=TabularTrainer(), tasks=tasks).run()
    sizes = _sizes(tmp_path / "run" / "log")
    assert len(sizes) == 6 * 2
    assert sizes == {task: (2, 3, 5, 4)[int(task[1:]) % 4] for task in sizes}
    assert len(set(sizes.values())) > 1
    assert check(tmp_path / "run" / "log").is_clean
    assert decode_task(encode_task(tasks[1])) == tasks[1]


@pytest.mark.parametrize("attempts", [0, -1, 2.0, True, "3"])
def test_attempts_that_are_no_number_are_one_error(tmp_path, attempts):
    with pytest.raises(LongcatDoraError, match="attempts must be a whole number from 1, or None"):
        _manager(tmp_path, [Task("a", 1, attempts=attempts)]).feed()


def test_one_attempt_is_refused_where_equal_rewards_are_dropped(tmp_path):
    tasks = [Task("a", 1, attempts=1)]
    with pytest.raises(LongcatDoraError, match="attempts must be 2 or more, or keep_equal_rewards"):
        _manager(tmp_path / "a", tasks).feed()
    config = dataclasses.replace(CONFIG, keep_equal_rewards=True)
    manager = RolloutManager(tmp_path / "b", config, tasks=tasks)
    manager.feed()
    manager.close()
    assert [e["size"] for e in read_events(tmp_path / "b") if e["kind"] == "admitted"] == [1]


@pytest.mark.parametrize("tasks", ["abc", None, 7, Task("a", 1)])
def test_what_are_no_tasks_is_one_error(tmp_path, tasks):
    with pytest.raises(TypeError, match=r"tasks must be an iterable of longcat_dora\.Task"):
        _manager(tmp_path, tasks)
    with pytest.raises(LongcatDoraError, match=r"tasks must be longcat_dora\.Task, got int"):
        _manager(tmp_path / "x", [1, 2]).feed()


def test_a_list_of_tasks_and_a_string_for_a_folder_will_do(tmp_path):
    config = RunConfig(folder=str(tmp_path / "run"), max_steps=2, scheduler=CONFIG)
    tasks = [Task(f"n{n}", n % 8) for n in range(100)]
    trainer = TabularTrainer(learning_rate=0.1)
    assert LocalRuntime(config, factory=tabular_worker, trainer=trainer, tasks=tasks).run() == 2


def _local(folder, **more):
    options = {"factory": tabular_worker, "trainer": TabularTrainer(), "tasks": [Task("a", 1)] * 50}
    return LocalRuntime(
        RunConfig(folder=folder, max_steps=1, scheduler=CONFIG), **{**options, **more}
    )


def test_a_strangers_mistake_is_one_line(tmp_path):
    def plain():
        return Worker(engine=TabularEngine(), rollout=lambda task, policy: 1.0)

    with pytest.raises(
        LongcatDoraError, match=r"`async def .*`: .* is no async function, it returned float"
    ):
        _local(tmp_path / "a", factory=plain).run()
    with pytest.raises(
        LongcatDoraError, match="factory must return a Worker, it returned NoneType"
    ):
        _local(tmp_path / "b", factory=lambda: None).run()
    with pytest.raises(TypeError, match="factory must build a Worker when called, got Worker"):
        _local(tmp_path, factory=tabular_worker())
    with pytest.raises(TypeError, match="object lacks train, weights, save, restore"):
        _local(tmp_path, trainer=object())
    with pytest.raises(LongcatDoraError, match="the payload of task 'a' cannot be sent"):
        _local(tmp_path / "c", tasks=[Task("a", (n for n in "x"))]).run()
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        RunConfig(folder=tmp_path, max_steps=0)
    with pytest.raises(TypeError, match="rollout must be an async function, got NoneType"):
        Worker(engine=TabularEngine(), rollout=None)


def test_a_lambda_and_a_closure_travel(tmp_path):
    latency = 0.001
    runtime = _local(
        tmp_path, factory=lambda: Worker(engine=TabularEngine(latency_s=latency), rollout=guess)
    )
    runtime.tasks = [Task(f"n{n}", n % 8) for n in range(200)]
    assert runtime.run() == 1


TEN_LINES = """
    import tempfile
    from pathlib import Path
    from longcat_dora import LocalRuntime, RunConfig, Task, Worker, check
    from longcat_dora.testing import TabularEngine, TabularTrainer

    class Question:
        def __init__(self, number):
            self.number = number

    async def world(question, policy):
        (answer,) = await policy.generate([question.number])
        return float(answer == question.number)

    def worker():
        return Worker(engine=TabularEngine(), rollout=world)

    folder = tempfile.mkdtemp()
    tasks = [Task(f"n{n}", Question(n % 8)) for n in range(200)]
    print("begins")
    LocalRuntime(RunConfig(folder=folder, max_steps=3), factory=worker, trainer=TabularTrainer(), tasks=tasks).run()
    print(check(Path(folder) / "log").summary())
"""


@pytest.mark.parametrize("how", ["script without a guard", "-c", "REPL", "a running loop", "-m"])
def test_ten_lines_run_wherever_they_are_typed(tmp_path, how):
    code = textwrap.dedent(TEN_LINES)
    if how == "a running loop":  # as in Jupyter
        code = (
            "import asyncio\ncode = compile(" + repr(code) + ", '<cell>', 'exec')\n"
            "async def cell():\n    exec(code, globals())\nasyncio.run(cell())\n"
        )
    (tmp_path / "script.py").write_text(code)
    command, given = {
        "script without a guard": ([str(tmp_path / "script.py")], None),
        "-c": (["-c", code], None),
        "REPL": (["-i"], "exec(" + repr(code) + ")\n"),
        "a running loop": (["-c", code], None),
        "-m": (["-m", "script"], None),
    }[how]
    done = subprocess.run([sys.executable, *command], input=given, capture_output=True, text=True,
                          timeout=180, cwd=tmp_path)  # fmt: skip
    assert "C1 C2 C3 hold" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert (
        done.stdout.count("begins") <= 2
    )  # a controller executes a script up to where the run begins


def test_too_few_file_descriptors_is_one_line(tmp_path):
    code = textwrap.dedent(f"""
        import resource
        from longcat_dora import *
        from longcat_dora.testing import *
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        try:
            LocalRuntime(RunConfig(folder={str(tmp_path)!r}, max_steps=3, num_controllers=40), factory=tabular_worker,
                         trainer=TabularTrainer(), tasks=[Task("a", 1)]).run()
        except LongcatDoraError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert "too few file descriptors for 40 controllers: raise the limit" in done.stdout, (
        done.stderr
    )
    assert not (tmp_path / "log").exists()  # it had not begun


def test_a_run_with_fewer_tasks_than_may_be_open_tries_them_all(tmp_path):
    _local(tmp_path, tasks=[Task("a", 1)]).run()
    report = check(tmp_path / "log")
    assert report.num_started == CONFIG.group_size
    assert report.num_open == 0
