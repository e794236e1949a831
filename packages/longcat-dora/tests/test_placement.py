"""Where controllers go on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from longcat_dora._runtime.placement import choose_node, idle_cpus


def _place(idle, num, *, num_cpus=1.0):
    placed = []
    for _ in range(num):
        placed.append(choose_node(idle, placed, num_cpus=num_cpus))
    return placed


def test_the_idlest_first_and_what_was_placed_there_counts():
    assert _place({"a": 1.0, "b": 7.5, "c": 6.0}, 4) == ["b", "b", "c", "b"]


def test_equals_are_filled_in_turn():
    assert sorted(_place({"a": 2.0, "b": 2.0, "c": 2.0}, 3)) == ["a", "b", "c"]
    assert _place({"a": 0.0, "b": 0.0}, 4, num_cpus=0) == ["a", "b", "a", "b"]


def test_a_busy_node_is_used_when_the_others_would_be_busier():
    placed = _place({"busy": 0.2, "idle": 3.9}, 8)
    assert placed[:4] == ["idle"] * 4
    assert placed.count("busy") == 2


def test_no_node_is_no_answer():
    assert choose_node({}, [], num_cpus=1) is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="/proc/stat is Linux's")
def test_a_spinning_process_is_seen():
    quiet = max(idle_cpus(0.2) for _ in range(3))
    spin = [sys.executable, "-c", "while True: pass"]
    spinners = [subprocess.Popen(spin) for _ in range(os.cpu_count())]
    try:
        assert min(idle_cpus(0.3) for _ in range(5)) < max(0.2, quiet / 2)
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    assert 0 <= quiet <= os.cpu_count()


def test_a_container_that_may_use_little_has_little_to_give(tmp_path):
    def limits(text, used=0):
        (tmp_path / "cpu.max").write_text(text)
        (tmp_path / "cpu.stat").write_text(f"usage_usec {used}\nuser_usec 1\n")
        return idle_cpus(0.05, cgroup=tmp_path)

    assert limits("1000 100000") <= 0.01
    assert idle_cpus(0.05, cgroup=tmp_path / "absent") >= 0
    assert limits("max 100000") >= 0
    assert limits("0 100000") == 0
