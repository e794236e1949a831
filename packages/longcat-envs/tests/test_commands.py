"""The command: what it prints, what it refuses."""

import json
import subprocess
import sys

import pytest
from longcat_envs.__main__ import main
from longcat_envs.figures import held_out
from longcat_envs.history import load_setting
from longcat_envs.playing import play_in_terminal
from longcat_envs.tasks import TaskMaker, WorldTask
from longcat_envs.world import builtin_worlds


def test_list_prints_a_row_for_each_domain(capsys):
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["domain"] for row in rows} == set(builtin_worlds())
    assert {row["domain"] for row in rows if row["split"] == "held_out"} == (
        held_out() & set(builtin_worlds())
    )
    for row in rows:
        assert row["tools"] == row["readers"] + row["writes"]
        assert {"split", "parts", "events"} <= set(row)


def test_grow_audit_and_agents_print_their_figures(capsys, tmp_path):
    path = tmp_path / "tasks.jsonl"
    assert main(["grow", "bank", "--tasks", "2", "--json", "--out", str(path)]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["toolsets"] == 2
    assert len([WorldTask.from_json(line) for line in path.read_text().splitlines()]) == 2
    assert main(["audit", "bank", "--tasks", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["admitted"] + found["summary"]["rejected"] == 2
    assert len(found["rows"]) == 2
    assert main(["agents", "bank", "--tasks", "1", "--json", "--difficulty", "shallow"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["careless"]["passed"] == 0
    assert summary["careful"]["passed"] == summary["careful"]["tried"] > 0


def test_a_domain_of_ones_own_is_begun_checked_drawn_and_grown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new-domain", "inn"]) == 0
    assert main(["new-domain", "inn"]) == 2
    assert main(["check", "inn.world", "--json"]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])["summary"]
    assert summary["lines"] <= 100
    assert summary["tools"] >= 60
    assert summary["violations"] == summary["violations_by_sql"] == 0
    assert main(["graph", "inn.world"]) == 0
    assert (tmp_path / "inn.svg").read_text().count("<text") > 60
    assert main(["contracts", "inn.world", "--tasks", "1"]) == 0
    assert '"chain"' in capsys.readouterr().out
    assert main(["audit", "inn.world", "--tasks", "1", "--json"]) == 0


def test_mistakes_are_one_line(capsys, tmp_path):
    assert main(["check", "banc"]) == 2
    assert (
        f"must be one of {', '.join(builtin_worlds())} or a file, got 'banc'"
        in capsys.readouterr().err
    )
    path = tmp_path / "bad.world"
    path.write_text("class a(person):\n    name: unique(txt)\n")
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert "bad.world:2:18: a type or class must be among" in error
    assert "did you mean 'text'?" in error
    assert main(["new-domain", "My Inn"]) == 2
    with pytest.raises(SystemExit):
        main(["audit", "bank", "--tasks", "-1"])


def test_a_reader_who_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "longcat_envs", "contracts", "bank"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_a_person_can_be_the_agent():
    setting = load_setting("bank")
    task = next(TaskMaker(setting, seed=0, difficulty="shallow"))
    lines = ["tools search", "nonsense", "say Hello there?"]
    for step in task.golden:
        words = " ".join(f'{k}="{v}"' for k, v in step.arguments.items())
        lines.append(f"{step.tool} {words}")
    lines.append(f"say {task.answer}")
    shown = []
    given = iter(lines)
    assert play_in_terminal(setting, task, ask=lambda _: next(given), show=shown.append) == 0
    assert any(text.startswith("met ") for text in shown)
    assert not any(text.startswith("unmet") for text in shown)

    def leave():
        raise EOFError

    for ask in (leave, iter(["give up"]).__next__, iter(["/quit"]).__next__):
        shown.clear()
        played = play_in_terminal(setting, task, ask=lambda _, a=ask: a(), show=shown.append)
        assert played == 1
        assert any(text.startswith("unmet") for text in shown)


def test_results_that_are_not_there_are_no_results(capsys, tmp_path):
    missing = str(tmp_path / "none.jsonl")
    assert main(["difficulty", "bank", "--tasks", "1", "--results", missing]) == 2
    assert "--results must be a file" in capsys.readouterr().err
