"""`longcat eval`: its figures against brute force, and end to end on folders, runs and servers."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations, cycle
from random import Random
from statistics import fmean, stdev

import httpx
import pytest
from longcat_cli import eval_command
from longcat_cli.errors import UsageError
from longcat_cli.evals.measures import (
    Attempt,
    Cell,
    gaps,
    over_domains,
    pass_all,
    row,
    tokens_per_success,
)
from longcat_cli.evals.server import TRIES, ServerPolicy
from longcat_cli.evals.table import table
from longcat_cli.evals.targets import Wish, limits_for, models_of, subjects, tasks_of
from longcat_cli.evals.trials import Limits, Question, Target, ask, seed_of
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import grow
from longcat_cli.stages.grow import EVAL_SEED, grow_tasks
from longcat_envs import Task

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]


def _cell(passes, *, level=0.0, tokens=10, model="m", domain="d", invalid=0):
    """A cell by the outcomes of each task's attempts."""
    attempts = tuple(
        Attempt(f"t{task}", number, level, float(reward), tokens, 2, "done")
        for task, rewards in enumerate(passes)
        for number, reward in enumerate(rewards)
    )
    return Cell(model, domain, level, attempts, invalid)


def _random_passes(seed, num_tasks=12, attempts=5):
    rng = Random(seed)
    return [[int(rng.random() < rate) for _ in range(attempts)]
            for rate in (rng.random() for _ in range(num_tasks))]  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_and_pass_all_k_are_the_means_over_all_subsets(k):
    passes = _random_passes(k)
    figures = row(_cell(passes), [k])
    subsets = [list(combinations(rewards, k)) for rewards in passes]
    some = fmean(fmean(any(chosen) for chosen in found) for found in subsets)
    every = fmean(fmean(all(chosen) for chosen in found) for found in subsets)
    assert figures[f"pass@{k}"]["value"] == pytest.approx(some)
    assert figures[f"pass^{k}"]["value"] == pytest.approx(every)
    assert figures["avg"]["value"] == pytest.approx(fmean(fmean(r) for r in passes))
    if k == 1:
        assert some == pytest.approx(every) == pytest.approx(figures["avg"]["value"])


def test_a_partly_met_task_has_not_passed_and_an_invalid_attempt_leaves_a_task_fewer():
    figures = row(_cell([[1, 0.5, 1], [0.9, 1]], invalid=1), [3])
    assert figures["passed"] == 3
    assert figures["avg"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["pass@3"]["value"] == 1.0  # of the one task that has three
    assert figures["invalid"] == 1
    assert row(_cell([[1], [0]]), [2])["pass@2"] is None


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 5), (4, 2, 0)])
def test_k_must_be_within_the_attempts(n, c, k):
    with pytest.raises(ValueError, match="k must be from 1 to 4"):
        pass_all(n, c, k)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 100 evaluations of the same model, 95% must hold the rate that its tasks were drawn from."""
    held = 0
    for seed in range(100):
        rng = Random(f"cover {seed}")
        rates = [rng.betavariate(2, 2) for _ in range(60)]  # mean 0.5
        passes = [[int(rng.random() < rate) for _ in range(3)] for rate in rates]
        found = row(_cell(passes), [])["avg"]
        held += found["low"] <= 0.5 <= found["high"]
    assert 87 <= held < 100  # 95 expected; seeded, so that it is the same number every time


def test_the_interval_is_over_tasks_and_not_over_attempts():
    """A hundred attempts at each of ten tasks that always end alike say no more than one at each."""
    passes = [[place % 2] * 100 for place in range(10)]
    found, single = (row(_cell(p), [])["avg"] for p in (passes, [p[:1] for p in passes]))
    assert found == single
    spread = stdev([place % 2 for place in range(10)]) / math.sqrt(10)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_tokens_per_success_counts_what_failed_attempts_cost():
    cell = _cell([[1, 0], [0, 0], [1, 1]], tokens=30)
    found = tokens_per_success(cell)
    assert found["value"] == 6 * 30 / 3
    assert found["low"] <= found["value"]
    assert found["high"] is None  # a third of the tasks has no success: so have some drawings
    assert tokens_per_success(_cell([[0, 0]])) is None
    assert tokens_per_success(_cell([[1]], tokens=None)) is None


def test_the_gap_is_between_the_same_tasks():
    """A task that was tried in noise alone, an easy one here, must not close the gap."""
    clean = _cell([[1, 1], [1, 0]])
    noisy = _cell([[0, 1], [0, 0], [1, 1], [1, 1]], level=0.3)
    (found,) = gaps([clean, noisy])
    assert found["tasks"] == 2
    assert found["gap"]["value"] == pytest.approx(((1 - 0.5) + (0.5 - 0)) / 2)
    assert gaps([noisy]) == []


def test_where_noise_changes_nothing_the_gap_is_zero_and_not_certain():
    (found,) = gaps([_cell([[1]] * 10), _cell([[1]] * 10, level=0.2)])
    gap = found["gap"]
    assert gap["value"] == 0
    assert -0.35 < gap["low"] == -gap["high"] < -0.2  # Wilson's bound at 0 of 10 is 0.28


def test_domains_are_pooled_for_models_that_have_several():
    cells = [_cell([[1], [1]], domain="a"), _cell([[0], [0]], domain="b"),
             _cell([[1]], model="other")]  # fmt: skip
    (pooled,) = over_domains(cells, [1])
    assert (pooled["model"], pooled["domain"], pooled["avg"]["value"]) == ("m", "all", 0.5)


def test_the_table_says_each_figure_once():
    rows = [row(_cell([[1, 0], [1, 1]]), [1, 2])]
    text = "\n".join(table({"attempts": 2, "rows": rows, "over_domains": [], "gaps": []}))
    assert text.count("75.0%") == 1  # avg@2; pass@1 and pass^1 are the same
    assert "avg@2" in text
    assert "pass^2" in text
    assert "50.0% (" in text  # pass^2
    assert "13 (" in text  # 40 tokens, 3 passed


# -- servers -----------------------------------------------------------------------------------


def _policy(answers):
    """A policy whose server gives these answers, and how long it waited in between."""
    waits, asked = [], []

    def handle(request):
        asked.append(json.loads(request.content))
        status, body, *headers = answers[min(len(asked), len(answers)) - 1]
        return httpx.Response(status, json=body, headers=headers[0] if headers else {})

    async def wait(seconds):
        waits.append(seconds)

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    policy = ServerPolicy(client, "http://here/v1", "m", max_tokens=5, temperature=1.0, seed=3,
                          wait=wait)  # fmt: skip
    return policy, waits, asked


def _said(**message):
    return {"choices": [{"message": {"role": "assistant", **message}}],
            "usage": {"completion_tokens": 4}}  # fmt: skip


async def test_a_server_is_asked_as_a_policy_and_its_tokens_are_counted():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    policy, _, asked = _policy([(200, _said(content=None, tool_calls=[call], reasoning="hm")),
                                (200, _said(content="Done."))])  # fmt: skip
    message = await policy.chat([{"role": "user", "content": "x"}], tools=[{"type": "function"}])
    assert message == {"role": "assistant", "content": "", "tool_calls": [call], "reasoning": "hm"}
    assert (await policy.chat([], tools=[]))["content"] == "Done."
    assert policy.tokens == 8
    assert asked[0]["seed"] == 3
    assert "tools" not in asked[1]


async def test_a_busy_server_is_asked_again_and_a_full_conversation_is_cut():
    policy, waits, _ = _policy([(429, {}, {"Retry-After": "7"}), (503, {}), (200, _said())])
    assert (await policy.chat([], tools=[]))["content"] == ""
    assert waits == [7.0, 14.0]
    policy, _, _ = _policy([(400, {"error": {"code": "context_length_exceeded"}})])
    assert await policy.chat([], tools=[]) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"error": {"message": "no key"}}), "answered 401: no key"),
        ((200, {"nothing": 1}), "must answer with choices"),
        ((503, {"error": "gone"}), "answered 503: gone"),
    ],
)
async def test_a_server_that_refuses_ends_the_evaluation(answer, words):
    policy, waits, _ = _policy([answer])
    with pytest.raises(UsageError, match=words):
        await policy.chat([], tools=[])
    assert len(waits) == (TRIES - 1 if answer[0] == 503 else 0)


async def test_tokens_that_a_server_does_not_tell_are_not_known():
    policy, _, _ = _policy([(200, {"choices": [{"message": {"content": "x"}}]})])
    await policy.chat([], tools=[])
    assert policy.tokens is None


# -- what is asked -----------------------------------------------------------------------------


def test_tasks_are_the_run_s_own_or_grown_the_same_for_everybody(tmp_path):
    recipe = load_recipe("smoke")
    run = RunFolder.create(tmp_path / "run", recipe)
    held_out = grow_tasks("shop", "eval", 4, recipe.seed + EVAL_SEED, recipe)
    file = run.tasks("shop", "eval")
    file.parent.mkdir(parents=True)
    file.write_text("".join(task.to_json() + "\n" for task in held_out))
    assert tasks_of("shop", run, Wish(num_tasks=3)) == tuple(t.to_json() for t in held_out[:3])
    with pytest.raises(UsageError, match="--tasks must be at most 4"):
        tasks_of("shop", run, Wish(num_tasks=5))
    grown = tasks_of("clinic", run, Wish(num_tasks=2))
    assert grown == tasks_of("clinic", run, Wish(num_tasks=2))
    assert [Task.from_json(line).domain for line in grown] == ["clinic"] * 2


def test_a_domain_that_has_no_more_tasks_says_so(monkeypatch):
    recipe = load_recipe("smoke")
    few = grow_tasks("shop", "eval", 3, 1, recipe)
    monkeypatch.setattr(grow, "Grower", lambda *_, **__: cycle(few))
    with pytest.raises(UsageError, match="shop gives 3 different tasks, and 4 are wanted"):
        grow_tasks("shop", "eval", 4, 1, recipe)


def test_seeds_differ_by_task_and_attempt_and_fit_into_a_server_s_integer():
    seeds = {seed_of(0, f"t{task}", number) for task in range(50) for number in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_server_that_refuses_in_the_middle_is_one_line_and_no_group_of_errors():
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self):
            with contextlib.suppress(OSError):  # the others are cancelled at the first refusal
                self.send_response(401)
                self.end_headers()
                self.wfile.write(b'{"error": {"message": "no such key"}}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    tasks = grow_tasks("shop", "eval", 3, 1, load_recipe("smoke"))
    limits = Limits(
        max_length=512, max_tokens=8, max_turns=2, temperature=1.0, num_running=4, seed=0
    )
    target = Target("m", "server", f"http://127.0.0.1:{server.server_port}", "m")
    lines = tuple(task.to_json() for task in tasks)
    try:
        with pytest.raises(UsageError, match="answered 401: no such key"):
            ask(Question(target, "shop", 0.0, lines, 2, limits))
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_of_the_hugging_face_kind_is_asked_as_well(tmp_path):
    """A tiny untrained one: it fails, in tokens and turns that are counted."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *[chr(n) for n in range(32, 127)], "\n"]
    plain = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", pad_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<s>' + m['role'] + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant' }}{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, eos_token_id=2, pad_token_id=0,
        bos_token_id=1, max_position_embeddings=20_000,
    )).save_pretrained(tmp_path)  # fmt: skip
    (subject,), _ = subjects([str(tmp_path)], Wish(domains=("shop",)))
    assert subject.target.kind == "transformers"
    tasks = tuple(t.to_json() for t in grow_tasks("shop", "eval", 1, 1, load_recipe("smoke")))
    limits = replace(limits_for(None, Wish(), subject.target), max_length=20_000, max_tokens=6,
                     max_turns=2)  # fmt: skip
    cell, said = ask(Question(subject.target, "shop", 0.0, tasks, 1, limits))
    assert [(a.reward, a.tokens <= 12, a.turns in (1, 2)) for a in cell.attempts] == [
        (0.0, True, True)]  # fmt: skip
    assert said[0][-1]["role"] in ("assistant", "user")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "2"], "--noise must be in [0, 1]"),
        (["-k", "0"], "-k must be at least 1"),
        (["-k", "4", "--attempts", "2"], "-k must be at most --attempts=2"),
        (["--tasks", "0"], "--tasks must be at least 1"),
        (["--temperature", "0", "--attempts", "2"], "the same attempt each time"),
        (["nowhere"], "a model must be a run folder"),
        (["http://127.0.0.1:9"], "must answer, but"),
        (["--save", "/nowhere/x", "."], "a model must be"),
    ],
)
def test_a_mistake_is_one_line(longcat, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = longcat("eval", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_models_of_a_run_are_known_by_name(trained):
    from longcat_cli.stages.evaluate import models

    known = {name: (place, tuple(domains)) for name, (place, domains)
             in models(RunFolder.open(trained)).items()}  # fmt: skip
    assert models_of(RunFolder.open(trained)) == known
    found, home = subjects([str(trained)], Wish(models=("all",)))
    assert home.path == trained
    assert [s.target.name for s in found] == ["cold_start", "expert:library", "expert:shop",
                                              "merged", "fused"]  # fmt: skip
    assert found[1].domains == ("library",)
    (inside,), home = subjects([str(trained / "fused")], Wish())
    assert home.path == trained
    assert inside.domains == ("library", "shop")
    with pytest.raises(UsageError, match="and not 'expert:bank'"):
        subjects([str(trained)], Wish(models=("expert:bank",)))
    with pytest.raises(UsageError, match="none of these is a run folder"):
        subjects([str(trained / "fused")], Wish(models=("fused",)))
    with pytest.raises(UsageError, match="asked once"):
        subjects([str(trained / "fused")] * 2, Wish())


def test_a_run_a_folder_and_a_server_are_asked_the_same(longcat, trained, tmp_path, serving):
    """One command, three ways to the same model; what is saved can be counted again."""
    with serving(trained / "fused") as (_, url):
        done = longcat("eval", trained, trained / "fused", url, "--domain", "shop", "--tasks", 3,
                       "-k", 1, "-k", 2, "--noise", 0, "--noise", 0.2, "--json",
                       "--save", tmp_path / "attempts.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = report["rows"]
    assert len(rows) == 6
    assert all(one["tasks"] == 3 and one["attempts"] == 6 for one in rows)
    of_run, of_folder = rows[:2], rows[2:4]
    for ours, theirs in zip(of_run, of_folder, strict=True):  # the same weights, tasks and seeds
        assert {**ours, "model": ""} == {**theirs, "model": ""}
    saved = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert len(saved) == 6 * 6
    for one in rows:
        mine = [a for a in saved if (a["model"], a["level"]) == (one["model"], one["noise"])]
        assert one["passed"] == sum(a["reward"] == 1 for a in mine)
    assert all(a["tokens"] > 0 and a["turns"] > 0 for a in saved)
    by_server = [a for a in saved if a["model"] == rows[4]["model"]]
    assert any(m.get("tool_calls") for a in by_server for m in a["messages"])
    assert {g["model"] for g in report["gaps"]} == {one["model"] for one in rows}


def test_ctrl_c_is_one_line(tmp_path):
    """While worlds are grown, models loaded or tasks tried."""
    command = [*LONGCAT, "eval", "http://127.0.0.1:9", "--server-model", "m", "--domain", "shop",
               "--tasks", "2"]  # fmt: skip
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else children inherit a deaf one
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          cwd=tmp_path) as process:  # fmt: skip
        try:
            assert process.stderr.readline() == "eval ...\n"
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "stopped; nothing was measured"
    assert "Traceback" not in errors


def test_a_report_is_a_table_for_people_and_json_for_scripts(capsys, monkeypatch):
    monkeypatch.setattr("longcat_cli.evals.table.table", lambda report: ["a table"])
    for as_json in (True, False):
        eval_command._print({"rows": [1]}, as_json=as_json)
    assert capsys.readouterr().out == '{\n  "rows": [\n    1\n  ]\n}\na table\n'
