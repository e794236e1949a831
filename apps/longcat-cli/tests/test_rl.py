"""`longcat rl` and `longcat sft` with a tiny model, as a user runs them."""

import ast
import json
import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import longcat_cli.rl_report
import longcat_cli.sft
import pytest
import typer
from longcat_cli.errors import UsageError
from longcat_cli.evals.trials import Limits, Target, _theirs
from longcat_cli.local_talkers import TransformersTalker
from longcat_cli.machine import dtype_here
from longcat_cli.models import loaded
from longcat_cli.rl import _run_config, build_worker, rl
from longcat_cli.rl_options import RlOptions, read_jsonl, split_tasks
from longcat_cli.rl_report import Reporter, open_tracker
from longcat_cli.sft import read_chats, sft
from longcat_dora import Completion, LongcatDoraError, Progress, Session
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
from longcat_dora.transformers import Attempted, TransformersRenderer  # noqa: E402

app = typer.Typer()
app.command("rl")(rl)
app.command("sft")(sft)


@pytest.fixture
def place(tiny_model):
    """A folder with a model, tasks, chats and a reward, as a user has them."""
    tmp_path = tiny_model
    tasks = [{"prompt": text} for text in "abcdefgh"]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    (tmp_path / "reward.py").write_text(
        "def score(task, answer):\n    return sum(c.islower() for c in answer) / max(1, len(answer))\n"
    )
    (tmp_path / "world.py").write_text(
        "async def rollout(task, policy):\n"
        "    said = [{'role': 'user', 'content': task['prompt']}]\n"
        "    answer = await policy.chat(said, tools=[])\n"
        "    said += [answer, {'role': 'user', 'content': 'more'}]\n"
        "    answer = await policy.chat(said, tools=[])\n"
        "    return float(len(answer['content']) % 2), {'answer': answer['content']}\n"
    )
    chat = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "hi there"}]
    (tmp_path / "chat.jsonl").write_text("\n".join([json.dumps({"messages": chat})] * 50))
    return tmp_path


def _run(*words):
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


SMALL = ("--steps", 3, "--groups", 2, "--group-size", 3, "--max-tokens", 4, "--max-length", 64)


def _start(*words):
    """The command as a terminal runs it: a group of its own, which gets Ctrl-C as a whole."""
    command = [sys.executable, "-c", "from longcat_cli.main import run; run()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["local", pytest.param("ray", marks=pytest.mark.long)])
def test_a_run_that_was_stopped_goes_on_from_elsewhere_and_leaves_what_others_load(
    place, monkeypatch, runtime
):
    if runtime == "ray":
        pytest.importorskip("ray")
    many = ("--steps", 100_000, *SMALL[2:], "--lora", 4, "--evaluate-every", 2)
    run = _start("rl", "--model", "model", "--tasks", "tasks.jsonl", "--world", "world.py:rollout",
                 *many, "--runtime", runtime, "--tracker", "tensorboard", "--out", "run")  # fmt: skip
    last = next((line for line in run.stdout if line.startswith("step    2")), None)
    os.killpg(run.pid, signal.SIGINT)
    rest, errors = run.communicate()
    assert last, errors
    assert run.returncode == 130, errors
    told = "stopping; the step under way is finished first\n"
    assert errors.removeprefix("\n").removeprefix(told).strip() == (
        "stopped; continue with: longcat rl --resume --out run"
    )
    steps = [int(line.split()[1]) for line in (last + rest).splitlines() if line[:5] == "step "]
    monkeypatch.chdir("/")
    again = _run("rl", "--resume", "--steps", steps[-1] + 2, "--out", place / "run")
    assert again.exit_code == 0, again.output
    more = [int(line.split()[1]) for line in again.output.splitlines() if line[:5] == "step "]
    assert more[0] > 1
    assert more == [*range(more[0], steps[-1] + 3)]
    _check_what_is_left(place, steps[-1] + 2)


def _check_what_is_left(place, num_steps):
    """A model that others load, and what a person looks at."""
    models = [transformers.AutoModelForCausalLM.from_pretrained(place / name)
              for name in ("run/model", "model")]  # fmt: skip
    assert models[0].num_parameters() == models[1].num_parameters()
    lines = (place / "run" / "evaluations.jsonl").read_text().splitlines()
    tried = [json.loads(line)["step"] for line in lines]
    assert (tried[0], tried[-1]) == (0, num_steps)
    samples = [json.loads(x) for x in (place / "run" / "samples.jsonl").read_text().splitlines()]
    assert {"step", "task", "reward", "answer"} <= samples[0].keys()
    assert (place / "run" / "curve.svg").stat().st_size > 1000
    assert list((place / "run" / "tensorboard").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--lora", 0, "--no-packed")])
def test_supervised_learning_learns_the_chats(place, how):
    done = _run("sft", "--model", "model", "--data", "chat.jsonl", "--epochs", 30, "--batch-tokens", 300,
                "--learning-rate", 1e-2, "--out", "out", *how)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "it/s" not in done.output  # no bars of a library
    before, after = (
        float(x.split()[0]) for x in done.output.split("held out: loss ")[1].split(" before, ")
    )
    if not how:  # an adapter on random weights cannot do much, but something
        assert after < 0.95 * before
        return
    assert after < before / 4
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "out" / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "out" / "model")
    prompt = "<s>user\nsay</s>\n<s>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "hi there"


def test_calls_are_learned_in_the_words_in_which_a_rollout_prompts_and_reads_them(place):
    """Of a template that knows no tools; it would leave them out."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sea"}}}
    asked = [{"role": "user", "content": "look"}]
    chat = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "blue"}, {"role": "assistant", "content": "blue"}]  # fmt: skip
    (place / "tools.jsonl").write_text(json.dumps({"messages": chat, "tools": [tool]}))
    ((sample,), _) = read_chats(place / "tools.jsonl", tokenizer, 10_000)
    renderer = TransformersRenderer(tokenizer)
    prompt = renderer.start(asked, [tool])
    assert sample.token_ids[: len(prompt)] == prompt
    said = [t for t, mine in zip(sample.token_ids, sample.loss_mask, strict=True) if mine]
    learned = renderer.parse(said[: said.index(tokenizer.eos_token_id)], [tool])
    assert learned["tool_calls"][0]["function"] == call["function"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"reward": ""}, "either --reward"), ({"world": "w.py:f"}, "either --reward"),
    ({"tasks": ""}, "--tasks must be"), ({"engine": "jax"}, "--engine must be one of"),
    ({"runtime": "slurm"}, "--runtime must be"), ({"tracker": "paper"}, "--tracker must be"),
    ({"steps": 0}, "--steps must be"), ({"group_size": 1}, "at least 2"),
    ({"temperature": 0.0}, "--temperature"), ({"lora": -1}, "--lora"),
    ({"lora": 0, "adapter": True}, "--adapter needs one"), ({"dtype": "int4"}, "--dtype must be"),
    ({"staleness": -1}, "--staleness must be at least 0"), ({"seed": -1}, "--seed must be"),
    ({"evaluate_every": -1}, "--evaluate-every must be"), ({"max_length": 1}, "--max-length must"),
    ({"max_tokens": 64, "max_length": 64}, "--max-tokens must be below"),
    ({"temperature": math.inf}, "--temperature"), ({"learning_rate": 0.0}, "--learning-rate must"),
    ({"learning_rate": math.nan}, "--learning-rate must be positive and finite"),
])  # fmt: skip
def test_mistakes_are_found_before_anything_runs(changes, said):
    good = {"model": "m", "tasks": "t.jsonl", "reward": "r.py:score"}
    with pytest.raises(UsageError, match=said):
        RlOptions(**{**good, **changes})


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def cannot(*_, **__):
        raise OSError("We could not connect to the hub\nand so on")

    monkeypatch.setattr("longcat_gspo.transformers.load_model", cannot)
    with pytest.raises(UsageError, match=r"be reached, got 'my/model': We could not [a-z ]* hub$"):
        loaded("my/model", lora=0, dtype="auto", device="cpu")


def test_what_is_asked_for_is_how_the_run_is_made(tmp_path):
    options = RlOptions(model="m", tasks="t", reward="r.py:score", steps=7, groups=3, group_size=5,
                        staleness=2, evaluate_every=4, seed=9)  # fmt: skip
    for evaluates, every in ((True, 4), (False, 0)):
        made = _run_config(tmp_path, options, evaluates=evaluates)
        assert (made.max_steps, made.seed, made.evaluate_every) == (7, 9, every)
    scheduler = made.scheduler
    assert (scheduler.groups_per_batch, scheduler.group_size) == (3, 5)
    assert (scheduler.hard_staleness, scheduler.soft_staleness) == (2, 1)
    assert scheduler.max_running == 30  # the batch that is trained on, and the next one


def test_files_are_read_before_a_model_is(place):
    for text, said in (("", "is empty"), ("[1]", "line 1: must be an object"), ("{", "line 1"),
                       ('{"question": 1}', "task 1: must have prompt, a text, or messages"),
                       ('{"prompt": 5}', "must have prompt, a text"), ('{"messages": []}', "messages, each"),
                       ('{"messages": [{"content": "x"}]}', "each with a role")):  # fmt: skip
        (place / "bad.jsonl").write_text(text)
        with pytest.raises(UsageError, match=said):
            split_tasks(RlOptions(model="m", tasks="bad.jsonl", reward="r.py:score"))
    train, held = split_tasks(RlOptions(model="m", tasks="tasks.jsonl", reward="r.py:score"))
    assert (len(train), len(held)) == (6, 2)
    (place / "run" / "run" / "log").mkdir(parents=True)
    (place / "run" / "rl.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a run already"):
        _run(
            "rl", "--model", "model", "--tasks", "tasks.jsonl", "--reward", "r.py:s", "--out", "run"
        )
    (place / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}')
    with pytest.raises(UsageError, match=r"conversation 1: .*assistant"):
        _run("sft", "--model", "model", "--data", "chat.jsonl")


@pytest.mark.parametrize(("text", "how", "said"), [
    (None, (), "needs a run in --out"), ("{", (), "must hold a run's options"),
    ("[]", (), "must hold a run's options"), ('{"modle": "m"}', (), "unexpected keyword"),
    ("{}", ("--lora", 16, "--group-size", 4, "--steps", 9), "got --lora, --group-size$"),
    ('{"model": "m", "tasks": "t", "reward": "r"}', ("--steps", 0), "--steps must be at least 1"),
])  # fmt: skip
def test_what_cannot_be_gone_on_with_is_one_line(place, text, how, said):
    """What is given beside `--resume` was ignored without a word, a damaged file a traceback."""
    if text is not None:
        (place / "run").mkdir()
        (place / "run" / "rl.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        _run("rl", "--resume", "--out", "run", *how)


@pytest.mark.parametrize(("how", "said"), [
    ({"epochs": "nan"}, "must be positive and finite"), ({"epochs": "inf"}, "positive and finite"),
    ({"learning-rate": "nan"}, "positive and finite"), ({"seed": -1}, "--seed not negative"),
    ({"out": "chat.jsonl"}, "--out must be a folder"), ({"data": "nope"}, "--data must be a file"),
    ({"data": "bytes.jsonl"}, "bytes.jsonl must be text in UTF-8"),
    ({"adapter": None, "lora": 0}, "--adapter needs --lora"),
])  # fmt: skip
def test_what_cannot_be_learned_from_is_one_line(place, how, said):
    (place / "bytes.jsonl").write_bytes(b"\xff\xfe")
    given = {"model": "nowhere", "data": "chat.jsonl", **how}
    words = [w for k, v in given.items() for w in (f"--{k}", v) if w is not None]
    with pytest.raises(UsageError, match=said):
        _run("sft", *words)


def test_a_line_may_hold_what_other_systems_end_lines_with(tmp_path):
    """U+2028 within a text is no end of a line of JSON."""
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", "utf-8")
    assert read_jsonl(path, "x") == [{"prompt": "a\u2028b\x85c"}]


def test_tasks_that_are_alike_are_never_held_out_from_themselves(tmp_path):
    """Eight times one task left none to train on."""
    path = tmp_path / "t.jsonl"
    options = RlOptions(model="m", tasks=str(path), reward="r.py:score")
    path.write_text('{"prompt": "a"}\n' * 8)
    assert split_tasks(options) == ([{"prompt": "a"}] * 8, [])
    path.write_text("".join(json.dumps({"prompt": c}) + "\n" for c in "abcdef" * 2))
    train, held = split_tasks(options)
    assert [task["prompt"] for task in held] == ["a", "f"]
    assert [task["prompt"] for task in train] == [*"bcde"] * 2


def _reporter(tmp_path, monkeypatch, tried, *, held=()):
    monkeypatch.setattr("longcat_dora.transformers.evaluate", lambda *a, **k: tried)
    options = RlOptions(model="m", tasks="t", reward="r.py:s")
    return Reporter(tmp_path, options, [*held], lambda: None)


def test_a_reward_that_always_fails_is_found_before_anything_is_trained(
    tmp_path, monkeypatch, capsys
):
    failed = Attempted("held-0", None, {"error": "the reward s raised KeyError('x')"}, [])
    reporter = _reporter(tmp_path, monkeypatch, [failed, failed])
    with pytest.raises(
        UsageError, match="all 2 held-out tasks failed, the first: the reward s rai"
    ):
        reporter.evaluate(0, b"")
    reporter.evaluate(5, b"")  # in training: noted
    assert "2 failed, the first: the reward s raised" in capsys.readouterr().out


def test_a_model_is_evaluated_once_as_it_is_and_what_was_cut_off_tells_nothing(
    tmp_path, monkeypatch
):
    """Beside the start of the engine: what was stopped meanwhile is done when the run goes on."""
    tried = [Attempted("held-0", 1.0, {"answer": "5"}, [])]
    path = tmp_path / "evaluations.jsonl"
    cut = _reporter(tmp_path, monkeypatch, tried, held=["task"])
    cut.close()
    cut.evaluate(0, b"")
    assert not path.exists()
    for _ in range(2):  # the second finds it done
        reporter = _reporter(tmp_path, monkeypatch, tried, held=["task"])
        reporter.begin()
        reporter.end()
        reporter.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0]


@pytest.mark.parametrize("call", ["group", "step"])
def test_a_run_whose_held_out_tasks_all_fail_ends_at_the_next_figure(tmp_path, monkeypatch, call):
    failed = Attempted("held-0", None, {"error": "no such tool"}, [])
    reporter = _reporter(tmp_path, monkeypatch, [failed], held=["task"])
    reporter.begin()
    with pytest.raises(UsageError, match="all 1 held-out tasks failed, the first: no such tool"):
        reporter.end()
    given = [] if call == "group" else Progress(1, {"reward": 0.5}, [])
    with pytest.raises(UsageError, match="all 1 held-out tasks failed"):
        getattr(reporter, call)(given)
    reporter.close()


def test_answers_are_told_while_a_step_is_waited_for(tmp_path, monkeypatch, capsys):
    """Each group before the first step, and after it whoever comes when nothing was said lately."""
    reporter = _reporter(tmp_path, monkeypatch, [])
    now = [100.0]
    monkeypatch.setattr(longcat_cli.rl_report.time, "monotonic", lambda: now[0])
    for rewards in ((0.0, 1.0), (1.0, 1.0)):
        reporter.group([types.SimpleNamespace(reward=reward) for reward in rewards])
    reporter.step(Progress(1, {"reward": 0.5}, []))
    for seconds, reward in ((1, 0.0), (4, 0.5), (1, 0.0), (5, 1.0)):
        now[0] += seconds
        reporter.group([types.SimpleNamespace(reward=reward)])
    assert capsys.readouterr().out.splitlines() == [
        f"answers   2  reward 0.500 {20 * '#'}", f"answers   4  reward 0.750 {30 * '#'}",
        f"step    1    reward 0.500 {20 * '#'}",
        f"answers   2  reward 0.250 {10 * '#'}", f"answers   4  reward 0.375 {15 * '#'}",
    ]  # fmt: skip


@pytest.mark.parametrize(("can", "asked", "given"), [
    ({"avx512_bf16": False, "amx_bf16": False}, "auto", "float32"), ({}, "auto", "float32"),
    ({"avx512_bf16": True}, "auto", "auto"), ({"avx512_bf16": False}, "bfloat16", "bfloat16"),
])  # fmt: skip
def test_a_cpu_without_bfloat16_trains_in_float32_unless_asked(monkeypatch, can, asked, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert dtype_here(asked) == given


def test_a_curve_can_be_looked_at_while_it_runs(tmp_path, monkeypatch):
    reporter = _reporter(tmp_path, monkeypatch, [])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n' * 2)
    for step, is_there in ((9, False), (10, True)):
        reporter.step(Progress(step, {"reward": 0.5}, []))
        assert (tmp_path / "curve.svg").is_file() == is_there


@pytest.mark.parametrize(("error", "said"), [
    (LongcatDoraError("a line"), "a line"),
    (LongcatDoraError('3 in a row; the last one:\nTraceback (most recent call last):\n  File "/a/r.py"'
                      ', line 7, in f\n    x()\nKeyError: 1\n'),
     r"3 in a row; the last one: KeyError: 1 \(r.py, line 7\)$"),
    (LongcatDoraError('3 in a row:\nTraceback:\n  File "a.py", line 7, in f\n'
                      "longcat_dora.LongcatDoraError: the reward f raised"),
     "3 in a row: the reward f raised$"),
    (None, "1 of 50 steps were taken: nothing is learned from"),
])  # fmt: skip
def test_what_ends_a_run_is_one_line_and_it_can_begin_anew(place, monkeypatch, error, said):
    """A run that never began asked for `--resume`, which goes on with what was wrong."""

    def ends(out, options):
        if error is not None:
            raise error
        return types.SimpleNamespace(num_batches=1)

    monkeypatch.setattr("longcat_cli.rl.train_rl", ends)
    words = ("rl", "--model", "m", "--tasks", "tasks.jsonl", "--reward", "r.py:s", "--out", "run")
    for _ in range(2):
        with pytest.raises(UsageError, match=said):
            _run(*words)
    (place / "file").write_text("")
    with pytest.raises(UsageError, match="--out must be a folder"):
        _run(*words[:-1], "file")


def test_what_is_not_installed_is_said_before_a_model_is_loaded(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "longcat_dora.ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for how, said in (
        (("--runtime", "ray"), r"--runtime ray needs: pip install 'longcat-dora\[ray\]'"),
        (("--engine", "vllm"), r"--engine vllm needs: pip install 'longcat-dora\[vllm\]'"),
    ):
        with pytest.raises(UsageError, match=said):
            _run("rl", "--model", "nowhere", "--tasks", "tasks.jsonl", "--reward", "reward.py:score",
                 "--out", how[1], *how)  # fmt: skip


def test_a_reward_is_no_world(place):
    with pytest.raises(UsageError, match=r"--world must be async def, .*reward.py:score is not"):
        _run("rl", "--model", "nowhere", "--tasks", "tasks.jsonl", "--world", "reward.py:score",
             "--out", "run")  # fmt: skip


class _Replica:
    """In place of vLLM: says what it was told, at the rate of a token a call."""

    made: ClassVar = []

    def __init__(self, model, **options):
        self.model, self.options, self.versions = model, options, []
        self.made.append(self)

    async def load_weights(self, version, weights):
        self.versions.append(version)

    async def complete(self, token_ids, *, max_tokens, temperature, seed):
        self.asked = max_tokens, temperature
        ids = [list(range(32, 127)).index(ord(letter)) + 3 for letter in "ab"]
        return Completion([*ids, 2], [-0.5, -0.25, -0.125], "stop")

    async def close(self):
        pass


@pytest.mark.parametrize("how", [{"reward": "reward.py:score"}, {"world": "world.py:rollout"}])
async def test_vllm_answers_tasks_as_the_transformers_engine_does(place, monkeypatch, how):
    """vLLM stood in for: the worker has its engine, and the model's template, ends and reward."""
    monkeypatch.setattr("longcat_dora.vllm.VllmReplica", _Replica)
    options = RlOptions(model="model", tasks="tasks.jsonl", engine="vllm", max_tokens=7,
                        max_length=96, temperature=0.7, dtype="float32", **how)  # fmt: skip
    worker = build_worker(options, "model")
    (replica,) = _Replica.made[-1:]
    told = {"stop_token_ids": [2], "max_model_len": 96, "dtype": "float32"}
    assert replica.options == {**told, "enforce_eager": not torch.cuda.is_available()}
    worker.engine.load_weights(3, b"weights")
    session = Session(worker, 3, seed=0)
    value, info = await worker.rollout({"prompt": "x"}, session)
    assert replica.versions == [3]
    assert replica.asked == (7, 0.7)
    assert info == {"answer": "ab"}
    assert value == (1.0 if "reward" in how else 0.0)
    (segment,) = session.segments
    assert sum(segment.loss_mask) == 3 * (1 if "reward" in how else 2)
    await session.close()


EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples are not part of this package alone")
@pytest.mark.parametrize(
    ("name", "most"), [("your_model_and_reward", 20), ("your_world_with_tools", 85)]
)
def test_your_own_runs_are_short_and_import_two_packages(name, most):
    """Lines of code, imports included; the docstring, comments and empty lines are none."""
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    tree = ast.parse(text)
    code = text.splitlines()[tree.body[0].end_lineno :]
    assert len([line for line in code if line.strip() and not line.startswith("#")]) <= most
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - {*sys.stdlib_module_names} == {"longcat_dora", "longcat_gspo"}


def _example(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    found = {}
    exec(compile((EXAMPLES / f"{name}.py").read_text("utf-8"), name, "exec"), found)
    return found


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples are not part of this package alone")
@pytest.mark.parametrize(("called", "answer", "worth"), [
    ("right", "right", 1.0), ("right", "other", 0.3), ("other", "right", 0.1), ("none", "right", 0.0),
    ("right", "goes on", 0.3),
])  # fmt: skip
async def test_the_world_with_tools_pays_for_calls_and_what_is_made_of_them(
    monkeypatch, called, answer, worth
):
    """The example takes too long to be run here: its world is played by hand."""
    example = _example("your_world_with_tools", monkeypatch)
    thing, other = example["HELD"][:2]
    said = {"right": thing, "other": other}
    seen = []

    def call(name):
        function = {"name": "stock", "arguments": {"thing": name}}
        return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}

    async def chat(messages, tools):
        seen.append([dict(message) for message in messages])
        if answer == "goes on" or (len(seen) == 1 and called != "none"):
            return call(said[called])
        return {"role": "assistant", "content": f"There are {example['STOCK'][said[answer]]}."}

    policy = types.SimpleNamespace(chat=chat)
    reward = await example["rollout"]({"thing": thing}, policy)
    assert reward == pytest.approx(worth)
    if called != "none":
        result = str(example["STOCK"][said[called]])
        assert (seen[1][-1]["role"], seen[1][-1]["content"]) == ("tool", result)
    assert len(seen) == (3 if answer == "goes on" else 2 if called != "none" else 1)


def test_trackers_are_told_steps_and_evaluations_in_order(tmp_path, monkeypatch):
    """Trackers drop what comes for an earlier step than the last."""
    told = []
    run = types.SimpleNamespace(log=lambda metrics, step: told.append((step, metrics)))
    fake = types.SimpleNamespace(init=lambda **options: told.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tried = [Attempted("held-0", 1.0, {"answer": "5"}, []), Attempted("held-1", None, {}, [])]
    monkeypatch.setattr("longcat_dora.transformers.evaluate", lambda *a, **k: tried)
    options = RlOptions(model="m", tasks="t.jsonl", reward="r.py:score", tracker="wandb")
    reporter = Reporter(tmp_path, options, [], lambda: None)
    reporter.step(Progress(3, {"reward": 0.5, "domains": {"a": 2}}, []))
    reporter.evaluate(2, b"")
    assert told[0]["name"] == tmp_path.name
    assert told[0]["config"]["model"] == "m"
    assert told[1] == (3, {"reward": 0.5, "domains/a": 2.0})
    step, metrics = told[2]
    assert step == 3
    assert metrics["held_out/step"] == 2
    assert (metrics["held_out/solved"], metrics["held_out/failed"]) == (0.5, 1)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 2, "task": "held-0", "reward": 1.0, "answer": "5"}


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(kind, tmp_path, monkeypatch):
    module = {"tensorboard": "tensorboardX"}.get(kind, kind)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"--tracker {kind} needs: pip install"):
        open_tracker(kind, tmp_path, {})


def test_many_rows_are_computed_in_what_the_cpu_can(place, monkeypatch):
    """A model that was saved in bfloat16, as most are, on a CPU without instructions for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "model")
    model.to(torch.bfloat16).save_pretrained(place / "model")
    assert (
        TransformersTalker(place / "model").model.dtype == torch.bfloat16
    )  # one row: memory decides
    limits = Limits(
        max_length=32, max_tokens=4, max_turns=1, temperature=1.0, num_running=1, seed=0
    )
    tried = _theirs(Target("m", "transformers", str(place / "model")), limits)
    assert tried.engine.model.dtype == torch.float32
    asked = []

    def note(*_, dtype, **__):
        asked.append(dtype)
        raise UsageError("seen")

    monkeypatch.setattr(longcat_cli.sft, "loaded", note)
    with pytest.raises(UsageError, match="seen"):
        _run("sft", "--model", "model", "--data", "chat.jsonl")
    assert asked == ["float32"]


class _RuntimeInALongStep:
    def __init__(self, config, **options):
        self.options = options

    def run(self):
        self.options["on_stop"]()
        raise KeyboardInterrupt


def test_ctrl_c_in_a_long_step_says_what_is_waited_for(place, monkeypatch):
    monkeypatch.setattr("longcat_dora.LocalRuntime", _RuntimeInALongStep)
    stopped = _run(
        "rl", "--model", "model", "--tasks", "tasks.jsonl", "--reward", "reward.py:score", *SMALL
    )
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines() == [
        "", "stopping; the step under way is finished first",
        "", "stopped; continue with: longcat rl --resume --out rl-run",
    ]  # fmt: skip
