"""Published figures: recorded by a command and rendered; what is not so is noticed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [path for part in ("packages", "apps") for path in sorted((ROOT / part).iterdir())]
GOOD = {
    "title": "Speed", "claim": "Ours is 2 times theirs.", "columns": ["system", "calls/s"],
    "rows": [["ours", 20000.0], ["theirs", 10000.0]], "spread": "1.9 to 2.1 in five runs",
}  # fmt: skip


@pytest.fixture
def results(monkeypatch, tmp_path):
    """The script, in a repository of its own with one package."""
    spec = importlib.util.spec_from_file_location("results", ROOT / ".ci" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "packages" / "longcat-x").mkdir(parents=True)
    (tmp_path / "apps").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def _script(root, said):
    path = root / "packages" / "longcat-x" / "bench.py"
    path.write_text(f"print('a table')\nprint({json.dumps(said)!r})\n")
    return ["record", "longcat-x", "speed", "--", sys.executable, str(path)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_published_figure_is_as_it_was_recorded(folder):
    spec = importlib.util.spec_from_file_location("results", ROOT / ".ci" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.check(folder) == []


def test_a_result_says_what_gave_it(results, tmp_path):
    assert results.main(_script(tmp_path, GOOD)) == 0
    folder = tmp_path / "packages" / "longcat-x"
    kept = json.loads((folder / "benchmarks" / "results" / "speed.json").read_text())
    assert kept["command"] == "python packages/longcat-x/bench.py"
    assert kept["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "cores" in kept["machine"]
    assert {key: kept[key] for key in GOOD} == GOOD
    page = (folder / "benchmarks" / "RESULTS.md").read_text()
    assert "| ours | 20000 |" in page
    assert "`python packages/longcat-x/bench.py`" in page
    assert results.main(["check"]) == 0


@pytest.mark.parametrize("damage", ["figure", "page", "picture", "script", "spread", "by hand"])
def test_what_is_not_as_recorded_is_noticed(results, tmp_path, damage, capsys):
    results.main(_script(tmp_path, GOOD))
    folder = tmp_path / "packages" / "longcat-x"
    path = folder / "benchmarks" / "results" / "speed.json"
    page = folder / "benchmarks" / "RESULTS.md"
    kept = json.loads(path.read_text())
    match damage:
        case "figure":
            kept["rows"][0][1] = 30000.0
        case "page":
            page.write_text(page.read_text().replace("20000", "30000"))
        case "picture":
            kept["pictures"] = ["results/none.svg"]
        case "script":
            (folder / "bench.py").unlink()
        case "spread":
            del kept["spread"]
    if damage == "by hand":
        path.unlink()
    else:
        path.write_text(json.dumps(kept))
    assert results.main(["check"]) == 1
    assert "longcat-x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [["ours"]]}, "must have 2 cells"),
        ({"claim": ""}, "claim must be a str that is not empty"),
        ({"score": 1}, "unknown key 'score'"),
    ],
)
def test_a_script_that_says_too_little_is_refused(results, tmp_path, change, words):
    with pytest.raises(SystemExit, match=words):
        results.main(_script(tmp_path, {**GOOD, **change}))
    assert not (tmp_path / "packages" / "longcat-x" / "benchmarks").exists()
