"""The command as a stranger types it: every stage, kills, resumes, talks, mistakes."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from longcat_cli.folder import RunFolder
from longcat_cli.train import stages_of

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]


def test_every_stage_leaves_its_artefact(trained):
    rows = json.loads((trained / "evaluation.json").read_text())
    names = {row["model"] for row in rows}
    assert names == {"cold_start", "expert:library", "expert:shop", "merged", "fused"}
    keys = {"model", "domain", "noise", "passed", "total", "invalid", "refused", "tokens"}
    assert all(set(row) == keys for row in rows)
    assert len(rows) == 2 * (2 + 1 + 1 + 2 + 2)
    page = (trained / "report.html").read_text()
    assert page.count("<svg") == 3
    for picture in ("reward.png", "staleness.png", "cold_start.png"):
        assert (trained / picture).stat().st_size > 1000


def test_figures_come_while_a_stage_goes_on_also_before_its_first_step(printed):
    """Every 4.4 seconds on a quiet machine; here it is enough if half of them come."""
    begun, figures, share = {}, {}, {}  # by process and stage: experts go on beside each other
    for process, at, line in printed:
        words = line.split()
        if line.endswith(" ..."):
            stage = process, line.removesuffix(" ...")
            begun[stage], figures[stage], share[stage] = at, 0, 0
        elif line.startswith("  "):
            stage = process, words[0].removesuffix(":")
            assert stage in begun, line
            assert " after " in line
            figures[stage] += 1
            if words[1] == "done":
                assert int(words[2].removesuffix("%")) >= share[stage], f"{stage} fell back: {line}"
                share[stage] = int(words[2].removesuffix("%"))
        elif words and (ended := (process, words[0].removesuffix(":"))) in begun:
            del begun[ended]
        for stage, since in begun.items():
            if stage[0] == process:
                assert figures[stage] >= (at - since) // 10, f"{stage} was silent before {line}"
    assert sum(figures.values()) > 0  # how many there are is a matter of how fast the machine is


def test_the_event_logs_pass_the_checker(trained):
    for log in trained.glob("experts/*/dora/log"):
        done = subprocess.run([sys.executable, "-m", "longcat_dora", "check", str(log)],
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "C1 C2 C3 hold" in done.stdout
        assert "+ 0 open" in done.stdout


def test_held_out_tasks_are_not_among_the_trained(trained):
    for path in trained.glob("environments/*.eval.jsonl"):
        held_out = {json.loads(line)["opening"] + str(json.loads(line)["golden"])
                    for line in path.read_text().splitlines()}  # fmt: skip
        other = path.with_name(path.name.replace(".eval.", ".train."))
        seen = {json.loads(line)["opening"] + str(json.loads(line)["golden"])
                for line in other.read_text().splitlines()}  # fmt: skip
        assert held_out
        assert not held_out & seen


def test_the_audit_says_that_what_the_run_left_stands(longcat, trained):
    """Every stage, derived again, and of what was sampled a part."""
    done = longcat("audit", trained, "--limit", "6", "--json")
    found = json.loads(done.stdout)
    assert list(found) == list(stages_of(RunFolder.open(trained).recipe))
    assert {stage: lines for stage, lines in found.items() if lines} == {}
    assert done.returncode == 0


def test_the_audit_says_what_does_not_stand(longcat, trained, tmp_path):
    """It looks at the stages that are marked as done: here at the two that read the table."""
    shutil.copytree(trained, tmp_path / "run")
    for mark in (tmp_path / "run" / "stages").iterdir():
        if mark.stem not in ("evaluate", "report"):
            mark.unlink()
    table = tmp_path / "run" / "evaluation.json"
    table.write_text(table.read_text().replace('"passed": 0', '"passed": 1'))
    done = longcat("audit", tmp_path / "run", "--limit", "4", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert list(found) == ["evaluate", "report"]
    assert "the table says otherwise" in found["evaluate"][0]
    assert found["report"] == ["the page's table is not the evaluation's"]


def test_chat_in_a_world_through_a_pipe(longcat, trained):
    done = longcat("chat", "--run", trained, "--domain", "shop", "--noise", "0.3",
                   text="Block Ada Berg.\n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "reward " in done.stdout
    assert "nothing else changed" in done.stdout


def test_chat_opens_any_world_with_a_past(longcat, trained):
    for name in ("museum", "bank.world"):
        done = longcat("chat", "--run", trained, "--domain", name, text="\n")
        assert done.returncode == 0, done.stderr
        assert "reward " in done.stdout
    done = longcat("chat", "--run", trained, "--domain", "musem")
    assert done.returncode == 2
    assert "--domain must be one of library, shop, or a world with a past" in done.stderr
    assert "museum" in done.stderr


def test_chat_in_a_terminal_starts_again_after_reset(trained):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*LONGCAT, "chat", "--run", str(trained), "--domain", "library"],
                               stdin=theirs, stdout=theirs, stderr=theirs)  # fmt: skip
    os.close(theirs)
    os.write(ours, b"/help\n/reset\n/save /nowhere/x\n\n\n/quit\n")
    seen = b""
    try:
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while chunk := os.read(ours, 4096):
                seen += chunk
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        os.close(ours)
    text = seen.decode()
    assert text.count("Enter sends the task's own request") == 2
    assert "forgotten" in text
    assert "/nowhere/x cannot be written" in text
    assert "Traceback" not in text


def test_chat_with_a_folder_gives_an_answer_on_stdout(longcat, trained):
    done = longcat("chat", "--model", trained / "fused", "--max-tokens", "8", text="hello\n")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    done = longcat("chat", "--model", trained / "fused", "--heavy", "2", "--max-tokens", "8",
                    text="hello\n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "thinker 2" in done.stderr


class _Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.headers.get("Authorization") == "Bearer secret"
        self.send_response(200 if good else 401)
        self.end_headers()
        for word in ("It ", "is ", body["messages"][-1]["content"]):
            delta = json.dumps({"choices": [{"delta": {"content": word}}]})
            self.wfile.write(f"data: {delta}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


def test_serving_the_trained_model(trained, serving, monkeypatch):
    """A trained model answers over HTTP, and Ctrl-C ends the server cleanly."""
    monkeypatch.setenv("KEYS_OF_CLIENTS", "secret,other")
    options = ["--api-key-env", "KEYS_OF_CLIENTS", "--max-per-key", "1", "--speculate"]
    with serving(trained / "fused", *options) as (server, url):
        answer = _ask(url)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert "Traceback" not in server.stdout.read()
    assert answer["usage"]["completion_tokens"] <= 8
    assert answer["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")


def _ask(url):
    with httpx.Client(trust_env=False, base_url=url) as web:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        refused = web.post("/v1/chat/completions", json=body, timeout=60)
        assert refused.status_code == 401
        key, other = ({"Authorization": f"Bearer {key}"} for key in ("secret", "other"))
        long = {**body, "max_tokens": 200, "ignore_eos": True, "stream": True}
        with web.stream("POST", "/v1/chat/completions", json=long, headers=key, timeout=60) as told:
            parts = told.iter_raw()  # let go of, it would close the stream
            next(parts)
            codes = [web.post("/v1/chat/completions", json=body, headers=h, timeout=60).status_code
                     for h in (key, other)]  # fmt: skip
        assert codes == [429, 200]
        answer = web.post("/v1/chat/completions", json=body, headers=other, timeout=60).json()
        assert "longcat_drafted_tokens_total" in web.get("/metrics").text
        return answer


def test_chat_with_a_server(longcat, monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MY_KEY", "secret")
    try:
        done = longcat("chat", "--model", url, "--api-key-env", "MY_KEY", text="noon")
        assert (done.returncode, done.stdout) == (0, "It is noon\n")
        done = longcat("chat", "--model", url, "--api-key-env", "NO_KEY", text="noon")
        assert done.returncode == 2
        assert "--api-key-env NO_KEY: the variable must hold a key" in done.stderr
        monkeypatch.setenv("MY_KEY", "another")
        done = longcat("chat", "--model", url, "--api-key-env", "MY_KEY", text="noon")
        assert done.returncode == 2
        assert "answered 401" in done.stderr
    finally:
        server.shutdown()
        server.server_close()
    done = longcat("chat", "--model", url, text="noon")
    assert done.returncode == 2
    assert "must answer, but" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "--recipe", "smoke", "--set", "rl.stepz=1"],
            "near it: rl.steps, rl.warmup_steps",
        ),
        (["train", "--recipe", "nowhere.toml"], "a recipe must be one of mini, smoke"),
        (["train", "--resume", "nowhere"], "a run folder must hold run.json"),
        (["train", "--set", "groups={'x': ['bank']}", "--out", "OUT"], "a domain must be one of"),
        (["train", "--out", "/dev/null/x"], "--out must be a folder that can be made"),
        (["train", "--recipe", "smoke", "--out", "."], "--out must be a new or an empty folder"),
        (["train", "--recipe", "smoke", "--out", ""], "--out must be a new or an empty folder"),
        (["train", "--set", "groups={'a': ['shop', 'shop']}"], "each domain once"),
        (["sft", "--model", "m", "--data", "nowhere"], "--data must be a file"),
        (["chat", "--model", "nowhere"], "--model must be a checkpoint folder, a URL, or one of"),
        (["chat", "--noise", "2"], "--noise must be in [0, 1], got 2"),
        (["chat", "--model", "http://127.0.0.1:9"], "must answer, but"),
        (
            ["chat", "--model", "nowhere", "--tools", "nowhere.json"],
            "--tools must be none or a JSON",
        ),
        (["serve", "nowhere"], "a checkpoint folder must hold tokenizer.json"),
        (["serve", "--port", "0"], "--port must be in 1 to 65535"),
        (["serve", "--max-per-key", "0"], "--max-per-key must be at least 1, got 0"),
        (["serve", "--max-per-key", "2"], "--max-per-key goes with --api-key-env"),
        (
            ["serve", "--api-key-env", "NOT_SET"],
            "--api-key-env NOT_SET: the variable must hold a key",
        ),
        (["models", "get", "gpt-9"], "the model must be one of smollm2-135m"),
        (["models", "rm", "gpt-9"], "the model must be one that is here"),
    ],
)
def test_a_mistake_is_one_clear_message(longcat, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("of something else")
    done = longcat(*["out" if a == "OUT" else a for a in arguments], text="hi")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["runs", "list", "-h"]])
def test_help_loads_nothing_heavy(words):
    heavy = (
        "torch", "transformers", "numpy", "matplotlib", "httpx", "longcat_envs", "longcat_dora",
        "rich",
    )  # fmt: skip
    code = f"""if True:
        import sys, longcat_cli.main
        try:
            longcat_cli.main.app({words!r})
        except SystemExit:
            print([m for m in {heavy!r} if m in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_summaries_are_shown_whole_and_a_mistake_in_three_lines(longcat):
    for command in ([], ["models"], ["config"], ["runs"]):
        lines = longcat(*command, "--help").stdout.splitlines()[1:]
        assert lines
        assert not [line for line in lines if "..." in line]
    said = longcat("train", "--recip", "smoke").stderr.split("\n\n")
    usage, way = said[0].splitlines()
    assert usage.endswith("longcat train [OPTIONS]")
    assert way.endswith("longcat train -h' for help.")
    assert said[1].startswith("Error: No such option: --recip")


def test_a_gpu_recipe_without_a_gpu_says_so(longcat, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = longcat("train", "--set", "device=cuda", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "no GPU was found" in done.stderr


def test_a_run_of_another_format_and_a_second_run_in_one_folder(longcat, trained, tmp_path):
    done = longcat("train", "--recipe", "smoke", "--out", trained)
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
    (tmp_path / "run.json").write_text('{"format": 0}')
    done = longcat("train", "--resume", tmp_path)
    assert done.returncode == 2
    assert "written by another version" in done.stderr


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_said_and_loses_nothing(longcat, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)],
                             capture_output=True)  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = longcat("train", "--recipe", "smoke", "--out", disk / "run",
                       "--set", "groups={'shop': ['shop']}", "--set", "grow.train_tasks=40",
                       "--set", "cold_start.steps=10", "--set", "cold_start.batch_tokens=160",
                       "--set", "rl.steps=1", "--set", "rl.max_groups_per_step=1",
                       "--set", "evaluate.tasks=1", "--set", "evaluate.processes=1",
                       "--set", "evaluate.noise=[0.0]")  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=300m", str(disk)], check=True)
        done = longcat("train", "--resume", disk / "run")
        assert done.returncode in (0, 3), done.stderr  # so few steps may teach nothing
        assert (disk / "run" / "report.html").is_file()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["audit"], ["eval"], ["doctor"], ["chat"], ["serve"], ["models", "rm"]],
)
def test_help_shows_an_example(longcat, command):
    done = longcat(*command, "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout or not command
