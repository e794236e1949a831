"""What one sees while a run goes on: something new at least every five seconds, in every stage."""

import io
import os
import threading
from itertools import pairwise

from longcat_cli.display import PLAIN_EVERY_S, Display
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.recipe_file import load_recipe
from longcat_cli.train import _waits_for
from rich.console import Console


class _Clock:
    """Time that goes on as it is told, and lines with the time at which they came."""

    def __init__(self):
        self.now, self.lines, self.changed = 0.0, [], threading.Condition()
        self.console = Console(file=self, force_terminal=False, width=200)

    def write(self, text):
        with self.changed:
            self.lines += [(self.now, line) for line in text.splitlines() if line.strip()]
            self.changed.notify_all()
        return len(text)

    def flush(self):
        pass

    def __call__(self):
        return self.now


def test_a_stage_that_says_nothing_is_shown_with_how_long_it_has_been_at_it(monkeypatch):
    monkeypatch.setattr("longcat_cli.display.BEAT_S", 0.005)
    clock = _Clock()
    with Display(["cold_start"], console=clock.console, clock=clock) as display:
        display.begin("cold_start", lambda: {"now": "reading"})
        for second in range(1, 31):
            clock.now = float(second)
            with clock.changed:
                assert clock.changed.wait_for(
                    lambda: clock.now - clock.lines[-1][0] < PLAIN_EVERY_S, timeout=30
                )
    times = [at for at, _ in clock.lines]
    assert max(b - a for a, b in pairwise(times)) <= 4
    assert times[-1] >= 27
    assert "now reading  after" in clock.lines[-1][1]


def test_lines_are_not_printed_more_often_than_needed():
    clock = _Clock()
    display = Display(["grow"], console=clock.console, clock=clock)
    display.begin("grow")
    for tenth in range(100):
        clock.now = tenth / 10
        display.update(done=tenth / 1000, tasks=tenth)
    figures = [at for at, line in clock.lines if "tasks" in line]
    assert len(figures) == int(9.9 / PLAIN_EVERY_S)
    display.update(done=1.0, tasks=100)
    assert "done 100%" in clock.lines[-1][1]


def test_the_time_left_leaves_out_what_came_before_the_first_figures():
    clock = _Clock()
    display = Display(["cold_start"], console=clock.console, clock=clock)
    display.begin("cold_start")
    for number in range(60):  # a minute of preparation
        clock.now = float(number)
        display.note(demonstrations=number)
    display.update(done=0.0, loss=7.0)
    clock.now = 70.0
    display.update(done=0.1, loss=6.0)  # a tenth in 11 seconds
    assert "left 99 s" in clock.lines[-1][1]


def test_in_a_terminal_the_panel_is_drawn_from_the_same_figures():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with Display(["grow", "report"], console=console) as display:
        display.end("grow", "4 s")
        display.begin("report", lambda: {"now": "drawing"})
        display.update(done=0.5, curves=2)
        panel = Console(file=(seen := io.StringIO()), width=100)
        panel.print(display._panel())
    assert "curves 2" in seen.getvalue()
    assert "now drawing" in seen.getvalue()
    assert "done" in seen.getvalue()


def test_of_two_stages_beside_each_other_each_has_lines_and_time_of_its_own():
    clock = _Clock()
    display = Display(["expert-a", "expert-b"], console=clock.console, clock=clock)
    first = display.begin("expert-a")
    clock.now = 3.0
    second = display.begin("expert-b", lambda: {"now": "waiting"})
    first.update(done=0.0, step=0)
    second.update(done=0.0, step=0)
    clock.now = 13.0
    first.update(done=0.5, step=5)
    second.update(done=0.1, step=1)
    assert [line for at, line in clock.lines if at == 13.0] == [
        "  expert-a: done 50%  step 5  left 10 s  after 13 s",
        "  expert-b: done 10%  step 1  left 90 s  now waiting  after 10 s",
    ]
    display.end("expert-a", "14 s")
    panel = Console(file=(seen := io.StringIO()), width=100)
    panel.print(display._panel())
    assert "step 1" in seen.getvalue()
    assert "step 5" not in seen.getvalue()


def test_both_of_two_silent_stages_are_shown(monkeypatch):
    monkeypatch.setattr("longcat_cli.display.BEAT_S", 0.005)
    clock = _Clock()
    with Display(["expert-a", "expert-b"], console=clock.console, clock=clock) as display:
        display.begin("expert-a")
        display.begin("expert-b")
        clock.now = PLAIN_EVERY_S
        with clock.changed:
            assert clock.changed.wait_for(lambda: len(clock.lines) == 4, timeout=30)
    assert {line for at, line in clock.lines if at} == {
        "  expert-a: after 4 s", "  expert-b: after 4 s",
    }  # fmt: skip


def test_while_an_expert_trains_one_sees_what_dora_waits_for(tmp_path):
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke"))
    assert _waits_for(folder, "expert-shop", os.getpid) == {}
    status = {"pid": os.getpid(), "why": "the trainer waits for 3 rollouts"}
    write_json(folder.expert("shop") / "dora" / "status.json", status)
    assert _waits_for(folder, "expert-shop", os.getpid) == {
        "now": "the trainer waits for 3 rollouts"
    }
    assert _waits_for(folder, "grow", os.getpid) == {}
    write_json(folder.expert("shop") / "dora" / "status.json", {**status, "pid": -1})
    assert _waits_for(folder, "expert-shop", os.getpid) == {}  # of a process that was killed
