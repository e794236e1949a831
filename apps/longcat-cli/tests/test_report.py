"""`report.html`: what it tells, that it needs nothing from outside, and how it looks at three widths."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.page import talks
from longcat_cli.page.facts import changes, duration, head, short
from longcat_cli.page.tables import interval, matrix
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import report

VOID = {"meta", "br", "img", "link", "input", "hr"}
LEVELS = (0.0, 0.3)


def _outcome(task, reward, text):
    lines = [("user", "Block <b>Ada</b> & go."), ("call", 'find {"name": "' + "x" * 90 + '"}'),
             ("assistant", text)]  # fmt: skip
    return {"task": task, "reward": reward, "rubrics": {"it is blocked": reward},
            "transcript": [{"who": who, "text": said} for who, said in lines]}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run's folder, its artefacts written by hand."""
    path = tmp_path_factory.mktemp("made") / "20260101-<run>"
    folder = RunFolder.create(path, load_recipe("smoke", ["rl.steps=7"]))
    models = {"cold_start": 3, "expert:library": 9, "expert:shop": 9, "merged": 7, "fused": 11}
    cells = [(model, domain, level) for model in models for domain in ("library", "shop")
             for level in LEVELS if not model.startswith("expert:") or model.endswith(domain)]  # fmt: skip
    rows = [{"model": m, "domain": d, "noise": n, "passed": models[m] - 2 * (n > 0), "total": 16,
             "invalid": 0, "refused": 0, "tokens": 900} for m, d, n in cells]  # fmt: skip
    examples = [{**row, "examples": [_outcome("t0", 0.0, "No."),
                                     _outcome("t1", float(row["model"] == "fused"), "Done.")]}
                for row in rows]  # fmt: skip
    write_json(path / "evaluation.json", rows)
    write_json(path / "examples.json", examples)
    _logs(folder)
    stages = folder.recipe.stages
    write_json(path / "sessions.json", [{"at": 0.0, "versions": ["longcat-cli 0.1.0"], "machine": {
        "processor": "A processor", "cores": 2.0, "memory_bytes": 25e9, "gpus": [],
        "system": "Linux x86_64"}}])  # fmt: skip
    for stage in stages[:-1]:
        folder.mark_done(stage, _facts(stage))
    report.run(folder, Display(["report"]))
    return folder


def _facts(stage):
    if stage == "grow":
        return {"seconds": 10.0, "shop.eval": {"tasks": 16, "tools": 26}}
    if stage == "cold_start":
        return {"seconds": 30.0, "steps": 600, "trajectories": 800, "mean_tokens": 120.4,
                "vocabulary": 700, "parameters": 1_234_567}  # fmt: skip
    if stage.startswith("expert-"):
        return {"seconds": 20.0, "steps": 7, "trajectories": 112, "staleness": {"0": 56, "1": 56},
                "ended": {"no_signal": 30}, "noise_level": 0.2, "contract": "C1 C2 C3 hold"}  # fmt: skip
    if stage == "fuse":
        return {"seconds": 5.0, "experts": ["a", "b"], "steps": 20, "trajectories": 99}
    return {"seconds": 40.0, "fused@0.0": 0.5}


def _logs(folder):
    cold = [{"step": n, "loss": 7 / n} for n in range(1, 2000)]
    (folder.path / "cold_start.jsonl").write_text("\n".join(map(json.dumps, cold)))
    for group in folder.recipe.groups:
        rows = [{"step": n, "reward": 0.5, "sampled_reward": n / 10, "staleness": {"0": 3, "2": 1}}
                for n in range(1, 8)]  # fmt: skip
        (folder.expert(group) / "dora").mkdir(parents=True)
        metrics = folder.expert(group) / "dora" / "metrics.jsonl"
        metrics.write_text("\n".join(map(json.dumps, rows)))
        write_json(folder.expert(group) / "samples.json", {
            "first": [{"reward": 0.0, "transcript": [{"who": "user", "text": f"early {group}"}]}],
            "last": [{"reward": 1.0, "transcript": [{"who": "user", "text": f"late {group}"}]}],
        })  # fmt: skip


class _Reader(HTMLParser):
    """Every element closed where it should be; texts by what they stand in."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not (name in ("src", "href") and not str(value).startswith("#")), value
            assert not name.startswith("on")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if "style" not in self.open and "svg" not in self.open:
            self.text += data + " "


@pytest.fixture(scope="module")
def page(run):
    return (run.path / "report.html").read_text("utf-8")


def test_the_page_tells_all_in_order_and_fetches_nothing(page):
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.headings == ["smoke: 20260101-<run>", "Held-out tasks", "The same task, before and after",
                               "Curves", "RL: the first attempt and the last", "Stages", "Recipe"]  # fmt: skip
    for words in ("1,234,567 parameters", "A processor, 2 cores, 25.0 GB of memory, no GPU",
                  "longcat-cli 0.1.0", "smoke, seed 0", "2 min 05 s", "19% \u2192 69%", "+50.0 points",
                  "early shop", "late shop", "Block <b>Ada</b> & go.", "rl.steps",
                  "--set rl.steps='7'"):  # fmt: skip
        assert words in reader.text, words
    assert "@import" not in page
    assert "<script" not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme:dark" in page


def test_no_heading_is_empty(page):
    assert "<h2></h2>" not in page
    assert page.count("<h2>") > 3


def test_stages_stand_in_their_order_with_their_share(page):
    found = re.findall(r"<tr><td>([\w-]+)</td><td>([\w ]+)</td><td>(\d+)%</td>", page)
    assert [stage for stage, *_ in found] == ["grow", "cold_start", "expert-library", "expert-shop",
                                              "fuse", "evaluate"]  # fmt: skip
    assert sum(int(share) for *_, share in found) == 100
    assert "0.50 versions behind" in page


def test_the_matrix_shows_rates_with_wilson_s_interval_and_the_best_of_a_column(run):
    rows = json.loads((run.path / "evaluation.json").read_text())
    table = matrix(rows)
    low, high = interval(11, 16)
    assert f"<b>69%</b><small>{low:.0%} to {high:.0%}</small>" in table
    assert table.count('class="best"') == 4  # fused, in each column
    assert table.count("<td></td>") == 4  # an expert was not asked about the other's domain
    assert (round(low, 3), round(high, 3)) == (0.444, 0.858)  # Wilson, worked out by hand


def test_before_and_after_are_the_same_task_and_one_that_shows_something(run):
    shown = talks.before_and_after(json.loads((run.path / "examples.json").read_text()))
    titles = re.findall(r"<summary>([^<]*)</summary>", shown)
    assert titles == ["library, clean: t1", "library, noise 0.3: t1", "shop, clean: t1",
                      "shop, noise 0.3: t1"]  # fmt: skip
    assert shown.count('class="failed"') == shown.count('class="passed"') == 4


def test_curves_take_the_page_s_colours_and_are_thinned(page):
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        assert "currentColor" in picture
        assert "var(--series-1)" in picture
        assert "#010203" not in picture
        assert len(picture) < 60_000
    assert len(page) < 300_000


def test_a_run_of_an_older_version_has_a_page_too(run, tmp_path):
    """Without sessions, tokens, samples of RL or metrics."""
    shutil.copytree(run.path, tmp_path / "old")
    folder = RunFolder.open(tmp_path / "old")
    (folder.path / "sessions.json").unlink()
    rows = json.loads((folder.path / "evaluation.json").read_text())
    write_json(folder.path / "evaluation.json",
               [{k: v for k, v in row.items() if k not in ("tokens", "refused")} for row in rows])  # fmt: skip
    shutil.rmtree(folder.path / "experts")
    report.run(folder, Display(["report"]))
    assert "Held-out tasks" in (folder.path / "report.html").read_text()
    assert "machine" not in dict(head(folder, ["grow"]))


def test_numbers_are_short():
    assert [short(v) for v in (0.5, 1e-4, 12345.6, "x", True, [0.1])] == [
        "0.5", "0.0001", "12,346", "x", "True", "[0.1]"]  # fmt: skip
    assert duration(3599.6) == "1 h 00 min"


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
PROBE = """<body style="margin:0"><iframe id="page" src="{url}" style="border:0;width:{width}px;height:2000px">
</iframe><script>onload=()=>{{const d=document.getElementById("page").contentDocument;
for(const e of d.querySelectorAll("details"))e.open=true;
const wide=[...d.querySelectorAll("body *")].filter(e=>!e.closest(".wide")&&
e.getBoundingClientRect().right>{width}+1).map(e=>e.tagName+"."+e.getAttribute("class"));
const columns=getComputedStyle(d.querySelector(".sides")).gridTemplateColumns.split(" ").length;
document.body.textContent="FOUND"+JSON.stringify({{scroll:d.documentElement.scrollWidth,wide,columns,
ink:getComputedStyle(d.body).color}})+"END"}}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize(
    ("width", "columns", "is_dark"), [(360, 1, False), (768, 2, True), (1280, 2, False)]
)
def test_in_a_real_browser_nothing_is_wider_than_the_window(run, tmp_path, width, columns, is_dark):
    found = _look(run.path / "report.html", tmp_path, width, is_dark)
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["columns"] == columns
    light = int(found["ink"].removeprefix("rgb(").partition(",")[0]) > 128
    assert light == is_dark


def _look(page, tmp_path, width, is_dark):
    """Lay the page out in a frame of some width, every fold open; return what is too wide."""
    shutil.copy(page, tmp_path / "page.html")
    (tmp_path / "probe.html").write_text(PROBE.format(url="page.html", width=width))
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
        "--window-size=1400,2000", *(["--blink-settings=preferredColorScheme=0"] * is_dark),
        f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the browser does not come up here")
    if "<body" not in done.stdout:
        pytest.skip(f"the browser does not run here: {done.stderr[-300:]}")
    said = re.search(r"FOUND(.*)END", done.stdout)
    assert said, done.stdout[-2000:]
    return json.loads(said[1].replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.parametrize(("began", "is_told"), [((0.0, 10.0), False), ((0.0, 0.0), True)])
def test_shares_of_stages_beside_each_other_are_explained(tmp_path, began, is_told):
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke"))
    for stage, at in zip(("expert-library", "expert-shop"), began, strict=True):
        folder.mark_done(stage, {**_facts(stage), "began": at, "seconds": 10.0})
    assert ("ran beside each other" in report._stages(folder)) is is_told


def test_what_differs_is_said_as_a_recipe_says_it():
    other = ["groups={'a': ['shop']}", "model.induction=false", "rl.max_turns=3"]
    told = {key: (was, now, why) for key, was, now, why in changes(load_recipe("smoke", other))}
    assert told["groups"][:2] == (
        '{ "library" = ["library"], "shop" = ["shop"] }',
        '{ "a" = ["shop"] }',
    )
    assert told["model.induction"][:2] == ("true", "false")
    assert [why for *_, why in told.values() if not why.endswith((".", ")"))] == []
