"""`longcat eval`: what is wrong is said at once and plainly, and no figure is lost or made up."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from longcat_cli import eval_command
from longcat_cli.errors import UsageError
from longcat_cli.evals.domains import domain_of, domains_of
from longcat_cli.evals.measures import Attempt, Cell, gaps, over_domains, row, tokens_per_success
from longcat_cli.evals.names import tell_apart
from longcat_cli.evals.table import table
from longcat_cli.evals.targets import Wish, named, subjects
from longcat_cli.evals.trials import Limits, Question, Target, ask
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages.grow import grow_tasks

FULL = {"error": {"code": "context_length_exceeded"}}
DONE = {"choices": [{"message": {"role": "assistant", "content": "Done."}}],
        "usage": {"completion_tokens": 4}}  # fmt: skip


@contextmanager
def _server(answer=DONE, status=200):
    """A server that gives one answer; its URL, and the paths that were asked for."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self._say(200, {"data": [{"id": "seed1/fused"}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(status, answer)

        def _say(self, code, said):
            asked.append(self.path)
            body = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _run(path, recipe="smoke"):
    """A run folder with a model and held-out tasks, none of which can be loaded."""
    run = RunFolder.create(path, load_recipe(recipe))
    run.fused.mkdir()
    (run.fused / "config.json").write_text('{"model_type": "longcat_flash"}')
    for domain in run.recipe.domains:
        file = run.tasks(domain, "eval")
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}\n" * 4)
    return run


def _cell(attempts, **known):
    """A cell by reward, turns and status of one attempt at each task."""
    tried = (Attempt(f"t{n}", 0, known.get("level", 0.0), reward, 9 * turns, turns, status)
             for n, (reward, turns, status) in enumerate(attempts))  # fmt: skip
    return Cell("m", known.get("domain", "d"), known.get("level", 0.0), tuple(tried), 0,
                known.get("note", ""))  # fmt: skip


def _text(cells):
    rows = [row(cell, [1]) for cell in cells]
    return list(table({"attempts": 1, "rows": rows, "over_domains": [], "gaps": []}))


# -- attempts that no model was asked in ---------------------------------------------------------


def _ask_ours(trained, max_length):
    lines = (trained / "environments" / "shop.eval.jsonl").read_text().splitlines()[:3]
    limits = Limits(max_length=max_length, max_tokens=8, max_turns=2, temperature=1.0,
                    num_running=4, seed=0)  # fmt: skip
    target = Target("fused", "longcat", str(trained / "fused"))
    return ask(Question(target, "shop", 0.0, tuple(lines), 1, limits))[0]


def test_a_prompt_without_room_for_an_answer_is_said_with_its_length(trained):
    cell = _ask_ours(trained, 16)
    told, _, number = cell.note.removesuffix(" tokens").rpartition(" ")
    assert told == ("3 of 3 attempts had no room for an answer: --max-length 16, the shortest "
                    "prompt has")  # fmt: skip
    # The length that is told is the right one: an answer takes a token, and its end another.
    assert _ask_ours(trained, int(number) + 1).had_no_room
    roomy = _ask_ours(trained, int(number) + 2)
    assert any(attempt.was_begun for attempt in roomy.attempts)


def test_a_server_that_takes_no_prompt_is_said():
    tasks = tuple(t.to_json() for t in grow_tasks("shop", "eval", 2, 1, load_recipe("smoke")))
    limits = Limits(max_length=16, max_tokens=8, max_turns=2, temperature=1.0, num_running=4,
                    seed=0)  # fmt: skip
    with _server(FULL, 400) as (url, _):
        cell, _ = ask(Question(Target("m", "server", url, "m"), "shop", 0.0, tasks, 1, limits))
    assert cell.note == ("2 of 2 attempts had no room for an answer: the server says that their "
                         "prompts are too long")  # fmt: skip


def test_a_model_that_was_never_asked_has_no_rate():
    cell = _cell([(0.0, 0, "cut")] * 3, note="3 of 3 attempts had no room")
    figures = row(cell, [1])
    assert figures["avg"] is figures["pass@1"] is figures["pass^1"] is None
    assert (figures["tasks"], figures["attempts"], figures["cut"]) == (3, 3, 3)
    lines = _text([cell])
    assert "0.0%" not in "".join(lines)
    assert lines[-1] == "m on d at noise 0: 3 of 3 attempts had no room"
    asked = _cell([(1.0, 2, "done")] * 3, domain="e")
    noisy = _cell([(1.0, 2, "done")] * 3, level=0.3)
    assert over_domains([cell, asked], [1]) == []
    assert gaps([cell, noisy]) == []


def test_attempts_that_were_cut_or_out_of_turns_are_counted():
    figures = row(
        _cell([(0.0, 0, "cut"), (0.0, 3, "cut"), (0.0, 9, "turns"), (1.0, 2, "done")]), [1]
    )
    assert (figures["cut"], figures["out_of_turns"]) == (2, 1)
    assert figures["avg"]["value"] == 0.25
    head, body = _text([_cell([(0.0, 3, "cut"), (0.0, 3, "cut"), (0.0, 9, "turns")])])
    assert head.endswith("invalid  cut  out of turns")
    assert body.split()[-3:] == ["0", "2", "1"]


def test_where_no_model_was_asked_the_command_fails_after_its_table(longcat, monkeypatch):
    cell = _cell([(0.0, 0, "cut")], note="1 of 1 attempts had no room")
    monkeypatch.setattr(eval_command, "_questions", lambda *_: [])
    monkeypatch.setattr(eval_command, "_ask", lambda *_: [(cell, [[]])])
    done = longcat("eval", "x")
    assert done.returncode == 2
    assert "m on d at noise 0: 1 of 1 attempts had no room" in done.stdout
    assert done.stderr == (
        "longcat: a model must be asked to have figures: 1 of 1 attempts had no room\n"
    )


# -- figures that must not be lost ---------------------------------------------------------------


def test_figures_are_there_though_the_attempts_cannot_be_saved(longcat, monkeypatch):
    cell = _cell([(1.0, 2, "done")])
    monkeypatch.setattr(eval_command, "_questions", lambda *_: [])
    monkeypatch.setattr(eval_command, "_ask", lambda *_: [(cell, [[]])])
    done = longcat("eval", "x", "--save", "/dev/full")
    assert "100.0%" in done.stdout
    assert done.returncode == 2
    assert done.stderr.startswith("longcat: the attempts are not all in --save /dev/full: ")
    assert done.stderr.count("\n") == 1


def test_a_bound_that_is_infinite_is_null_in_json():
    cell = _cell([(1.0, 2, "done")] + [(0.0, 2, "done")] * 5)
    found = tokens_per_success(cell)
    assert (found["value"], found["high"]) == (108, None)
    assert found["low"] > 0
    assert "to any)" in _text([cell])[1]


def test_progress_goes_to_stderr_beside_json(longcat):
    with _server() as (url, asked):
        done = longcat(
            "eval", f"{url}/v1", "--domain", "shop", "--tasks", 1, "--noise", 0, "--json"
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["attempts"] == 1
    assert done.stderr.startswith("eval ...\n")
    assert set(asked) == {"/v1/models", "/v1/chat/completions"}


# -- models of one name --------------------------------------------------------------------------


def test_runs_of_one_name_are_told_apart_by_as_much_of_their_paths_as_is_needed(tmp_path):
    mine, other = (str(_run(tmp_path / name / "seed1").path) for name in ("runs", "other"))
    third = str(_run(tmp_path / "runs" / "seed2").path)

    def names(*whats):
        return [subject.target.name for subject in named(subjects(whats, Wish())[0], Wish())]

    assert names(mine, third) == ["seed1/fused", "seed2/fused"]
    assert names(mine, other, third) == ["runs/seed1/fused", "other/seed1/fused", "seed2/fused"]
    assert names(mine) == ["fused"]
    for again in (mine, f"{tmp_path}/other/../runs/seed1/"):
        with pytest.raises(UsageError, match="each model can be asked once, got seed1/fused twice"):
            subjects([mine, again], Wish())


def test_servers_of_one_model_are_told_apart_by_their_url():
    with _server() as (url, _):
        there = url.replace("127.0.0.1", "localhost")
        found, _ = subjects([url, f"{there}/v1"], Wish())
        host, elsewhere = url.removeprefix("http://"), there.removeprefix("http://")
        assert [subject.target.name for subject in named(found, Wish())] == [
            f"{host}/seed1/fused", f"{elsewhere}/seed1/fused"]  # fmt: skip
        (alone,) = named(subjects([url], Wish())[0], Wish())
        assert alone.target.name == "seed1/fused"
    with pytest.raises(UsageError, match="each model can be asked once"):
        subjects([url, f"{url}/v1/"], Wish())


def test_names_grow_until_they_differ():
    assert tell_apart([["a", "x/a", "1/x/a"], ["a", "x/a", "2/x/a"], ["a", "y/a"], ["b"]]) == [
        "1/x/a", "2/x/a", "y/a", "b"]  # fmt: skip
    with pytest.raises(UsageError, match="got a twice"):
        tell_apart([["a"], ["a"]])


# -- mistakes that are found at once -------------------------------------------------------------

WITHOUT_TORCH = """
import sys, time
class Refuses:
    def find_spec(self, name, *_):
        if name in ("torch", "transformers"):
            raise AssertionError(f"{name} is imported before the mistake is said")
sys.meta_path.insert(0, Refuses())
from longcat_cli.main import run
run()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/a", "--domain", "nope"], "got 'nope'"),
        (["runs/a", "--model", "expert:nope"], "and not 'expert:nope'"),
        (["--tasks", "1000"], "--tasks must be at most 4"),
        (["runs/a", "--save", "runs"], "--save runs cannot be written: Is a directory"),
        (["runs/a", "./runs/a"], "each model can be asked once"),
        (["http://127.0.0.1:9", "--domain", "nope"], "got 'nope'"),
    ],
)
def test_a_mistake_is_said_before_torch_is_imported(tmp_path, arguments, words):
    _run(tmp_path / "runs" / "a")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, "eval", *arguments], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("newest run: ")]
    assert len(said) == 1


def test_a_mistake_leaves_no_empty_file(longcat, tmp_path):
    run = _run(tmp_path / "a").path
    file = tmp_path / "saved.jsonl"
    with _server() as (url, _):
        pass  # nobody answers there any more
    done = longcat("eval", run, url, "--save", file)
    assert "must answer, but" in done.stderr
    assert not file.exists()


# -- domains -------------------------------------------------------------------------------------


def test_a_domain_goes_by_its_short_name_as_in_chat(tmp_path):
    home = _run(tmp_path / "run")
    worlds = RunFolder.create(tmp_path / "worlds", load_recipe("worlds"))
    assert domain_of("museum", home) == domain_of("museum.world", home) == "museum.world"
    assert domain_of("shop", home) == "shop"
    assert domain_of("clinic", None) == "clinic"  # of tables, as ever
    own = worlds.recipe.domains[0]
    assert domain_of(own.removesuffix(".world"), worlds) == own
    assert domains_of(["museum", "museum.world", "shop"], home) == ("museum.world", "shop")
    (subject,), _ = subjects([str(home.path)], Wish(domains=("museum",)))
    assert subject.domains == ("museum.world",)


def test_a_domain_that_is_none_is_answered_by_those_that_are(tmp_path):
    with pytest.raises(UsageError) as told:
        domain_of("nope", _run(tmp_path / "run"))
    assert str(told.value) == (
        "--domain must be library, shop (of the run), one of the 25 shipped worlds (longcat envs "
        "list) or a file (NAME.toml, NAME.world), got 'nope'"
    )
    broken = tmp_path / "broken.toml"
    broken.write_text("=")
    with pytest.raises(UsageError, match=r"broken\.toml: must be TOML"):
        domain_of(str(broken), None)


def test_two_domains_of_one_name_would_be_one_in_the_table():
    with pytest.raises(UsageError, match=r"shop and shop\.world are both called shop"):
        domains_of(["shop", "shop.world"], None)
