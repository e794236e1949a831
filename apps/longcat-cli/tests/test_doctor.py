"""`longcat doctor` on machines that are described, not had; `longcat models`."""

import json

import pytest
from longcat_cli import doctor, machine, models
from longcat_cli.errors import UsageError

GOOD = {
    "versions": {"torch": "2.13.0", "python": "3.11.7"}, "extras": {"ray": None},
    "processor": "P", "processor_can": ["avx2"], "cores": 2.0, "load": 0.1,
    "memory_bytes": 16e9, "free_memory_bytes": 8e9, "free_disk_bytes": 50e9, "is_writable": True,
    "shared_memory_bytes": 1e9, "gpus": [{"name": "H", "memory_bytes": 8e10}], "models": {},
}  # fmt: skip


def _root(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys__fs__cgroup__cpu_dot_max": "150000 100000\n"}, 1.5),
        ({"sys__fs__cgroup__cpu_dot_max": "max 100000\n"}, 64),
        ({"sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "300000",
          "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us": "100000"}, 3),
        ({"sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "-1",
          "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us": "100000"}, 64),
        ({"sys__fs__cgroup__cpu_dot_max": "9900000 100000"}, 64),
        ({}, 64),
    ],
)  # fmt: skip
def test_cores_are_those_of_the_control_group(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.usable_cores(_root(tmp_path, **files)) == cores


def test_memory_is_the_smaller_of_machine_and_group_and_caches_are_free(tmp_path):
    root = _root(
        tmp_path,
        proc__meminfo="MemTotal: 16000 kB\nMemAvailable: 9000 kB\n",
        sys__fs__cgroup__memory_dot_max="8192000",
        sys__fs__cgroup__memory_dot_current="6000000",
        sys__fs__cgroup__memory_dot_stat="anon 1\ninactive_file 1000000\n",
    )
    assert machine.memory_bytes(root) == 8_192_000
    assert machine.free_memory_bytes(root) == 3_192_000
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.memory_bytes(root) == 16_000 * 1024
    assert machine.memory_bytes(tmp_path / "nowhere") == 0


def test_a_good_machine_is_well():
    assert list(doctor.judge(GOOD)) == []


@pytest.mark.parametrize(
    ("change", "weight", "words"),
    [
        ({"versions": {"torch": None}}, "fails", "torch is not installed: pip install torch"),
        ({"gpus": "OSError: libcudnn"}, "fails", "torch cannot be used: OSError"),
        ({"is_writable": False}, "fails", "cannot be written"),
        ({"free_disk_bytes": 1e9}, "fails", "needs 2.0 GB of disk, 1.0 GB are free"),
        ({"free_memory_bytes": 1e9}, "fails", "needs 4.0 GB of memory, 1.0 GB are free"),
        ({"shared_memory_bytes": 64e6}, "fails", "--shm-size=1g"),
        ({"cores": 1.0}, "slow", "twice as long"),
        ({"load": 3.0}, "slow", "3.0 processes are busy"),
        ({"processor_can": []}, "slow", "neither AVX2"),
        ({"gpus": []}, "slow", "no GPU"),
        ({"cores": 0.5}, "slow", "OMP_NUM_THREADS=1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_weight(monkeypatch, change, weight, words):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
    found = [(kind, line) for kind, line in doctor.judge({**GOOD, **change}) if words in line]
    assert [kind for kind, _ in found] == [weight]


def test_the_command_tells_the_same_to_people_and_to_scripts(longcat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = longcat("doctor", "--json")
    facts = json.loads(done.stdout)
    fails = [problem for problem in facts["problems"] if problem["weight"] == "fails"]
    assert done.returncode == bool(fails), done.stderr
    assert facts["cores"] > 0
    assert facts["versions"]["longcat-cli"]
    assert all(line.split()[0] for line in doctor._lines(facts))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of models with one in it."""
    monkeypatch.setenv("LONGCAT_MODELS", str(tmp_path / "models"))
    mine = tmp_path / "models" / "mine"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("{}")
    (mine / "weights").write_bytes(b"x" * 998)
    return mine


def test_a_model_is_listed_with_its_size_and_removed(shelf):
    found = {model["name"]: model for model in models.known_models()}
    assert found["mine"]["bytes"] == 1000
    assert found["smollm2-135m"]["folder"] is None
    assert models.remove_model("mine") == 1000
    assert not shelf.exists()


@pytest.mark.parametrize("name", ["smollm2-135m", "..", "", "mine/../../models"])
def test_what_is_no_model_here_is_not_removed(shelf, name):
    with pytest.raises(UsageError, match="must be one that is here"):
        models.remove_model(name)
    assert (shelf / "weights").is_file()
