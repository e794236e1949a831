"""A merge that was stopped anywhere goes on: nothing is computed twice, the bytes are the same."""

import json
import signal
import subprocess
import sys
import time

import longcat_fusion._folders as folders
import longcat_fusion._shards as shards
import pytest
from longcat_fusion import MergeConfig, _manifest, merge_folders
from longcat_fusion._journal import JOURNAL

PLAIN = MergeConfig(normalise=False, drop=0.0, erase=False)


def test_manifest_holds_digests_that_sha256sum_gives(tmp_path, make):
    base, one, two = make.three(tmp_path, shards=2)
    manifest = merge_folders(base, [one, two], tmp_path / "out")
    assert manifest == json.loads((tmp_path / "out" / "merge.json").read_text())
    for name, facts in manifest["outputs"].items():
        file = tmp_path / "out" / name
        done = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == facts["sha256"]
        assert file.stat().st_size == facts["bytes"]
    # the digest of an input is of its content, not of its shards
    other = make.checkpoint(tmp_path / "other", make.read(one), shards=5)
    again = merge_folders(base, [other, two], tmp_path / "again")
    assert [e["sha256"] for e in again["experts"]] == [e["sha256"] for e in manifest["experts"]]
    assert again["experts"][0]["sha256"] != again["experts"][1]["sha256"]


def test_a_finished_merge_is_left_alone_and_other_settings_are_refused(tmp_path, make):
    base, one, two = make.three(tmp_path)
    first = merge_folders(base, [one, two], tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert merge_folders(base, [one, two], tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    with pytest.raises(ValueError, match="finished merge of other inputs or settings"):
        merge_folders(base, [one, two], tmp_path / "out", config=MergeConfig(drop=0.2))


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(1, 11))
def test_killed_between_journal_and_rename_nothing_is_computed_again(
    tmp_path, make, monkeypatch, at
):
    base, one, two = make.three(tmp_path, shards=10, layers=3)
    whole = tmp_path / "whole"
    merge_folders(base, [one, two], whole)
    computed = []
    real = shards.merge_task

    def counted(task, config, tile_size, put):
        computed.append(task.name)
        return real(task, config, tile_size, put)

    monkeypatch.setattr(shards, "merge_task", counted)
    names = []

    def stop(folder):
        names.append(folder)
        if len(names) == at:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(folders, "sync_folder", stop)
        with pytest.raises(_Killed):
            merge_folders(base, [one, two], tmp_path / "out")
    assert (tmp_path / "out" / JOURNAL).exists()
    merge_folders(base, [one, two], tmp_path / "out")
    assert len(computed) == len(set(computed)) == len(make.read(base))
    assert make.bytes_of(tmp_path / "out") == make.bytes_of(whole)


_RUN = """
import sys, pathlib
import longcat_fusion._folders as folders
import longcat_fusion._shards as shards
real = shards.merge_task
log = open(sys.argv[4], "a")
def counted(task, config, tile_size, put):
    print(task.name, file=log, flush=True)
    return real(task, config, tile_size, put)
shards.merge_task = counted
def slow(progress):
    if progress.done_bytes and sys.argv[5] == "wait":
        import time
        written = len(list(pathlib.Path(sys.argv[3]).glob("model-*.safetensors")))
        if written == int(sys.argv[6]):
            print("ready", flush=True)
            time.sleep(60)
folders.merge_folders(sys.argv[1], [sys.argv[2]], sys.argv[3], progress=slow)
"""


@pytest.mark.parametrize("shards_done", [4, *(pytest.param(n, marks=pytest.mark.long)
                                              for n in range(10) if n != 4)])  # fmt: skip
def test_kill_9_computes_no_shard_twice_and_gives_the_same_bytes(tmp_path, make, shards_done):
    base, one, _ = make.three(tmp_path, shards=10, layers=3)
    merge_folders(base, [one], tmp_path / "whole")
    out, log = tmp_path / "out", tmp_path / "log"
    command = [sys.executable, "-c", _RUN, base, one, out, log]
    process = subprocess.Popen([*command, "wait", str(shards_done)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    finished = {path.name for path in out.glob("model-*.safetensors")}
    assert len(finished) == shards_done
    before = log.read_text().split()
    subprocess.run([*command, "go", "0"], check=True)
    again = log.read_text().split()[len(before) :]
    homes = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert not {homes[name] for name in again} & finished
    assert make.bytes_of(out) == make.bytes_of(tmp_path / "whole")


def test_a_line_of_the_journal_that_was_cut_off_costs_its_shard_alone(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=3)
    with pytest.raises(_Killed):
        merge_folders(base, [one], tmp_path / "out", progress=_stop_after(tmp_path / "out", 2))
    journal = tmp_path / "out" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20])
    merge_folders(base, [one], tmp_path / "out")
    merge_folders(base, [one], tmp_path / "whole")
    assert make.bytes_of(tmp_path / "out") == make.bytes_of(tmp_path / "whole")


def _stop_after(out, shards):
    def report(progress):
        if len(list(out.glob("model-*.safetensors"))) == shards:
            raise _Killed

    return report


def test_a_shard_that_changed_after_it_was_finished_is_written_again(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=3)
    with pytest.raises(_Killed):
        merge_folders(base, [one], tmp_path / "out", progress=_stop_after(tmp_path / "out", 2))
    shard = next(iter((tmp_path / "out").glob("model-*.safetensors")))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    merge_folders(base, [one], tmp_path / "out")
    merge_folders(base, [one], tmp_path / "whole")
    assert make.bytes_of(tmp_path / "out") == make.bytes_of(tmp_path / "whole")


def test_an_unfinished_merge_of_other_inputs_is_refused(tmp_path, make):
    base, one, two = make.three(tmp_path, shards=3)
    with pytest.raises(_Killed):
        merge_folders(base, [one], tmp_path / "out", progress=_stop_after(tmp_path / "out", 1))
    with pytest.raises(ValueError, match="other inputs or settings that was not finished"):
        merge_folders(base, [two], tmp_path / "out")
    time.sleep(0.01)
    (one / "model-00001-of-00003.safetensors").touch()
    with pytest.raises(ValueError, match="other inputs or settings that was not finished"):
        merge_folders(base, [one], tmp_path / "out")


def test_replace_deletes_a_merge_and_nothing_else(tmp_path, make):
    base, one, two = make.three(tmp_path, shards=3)
    out = tmp_path / "out"
    merge_folders(base, [one], out)
    merge_folders(base, [two], out, replace=True)
    merge_folders(base, [two], tmp_path / "whole")
    assert make.bytes_of(out) == make.bytes_of(tmp_path / "whole")
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    merge_folders(base, [two], out, replace=True)  # the same merge is left alone
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    (out / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"must be empty.*mine\.txt"):
        merge_folders(base, [one], out, replace=True)
    assert (out / "mine.txt").read_text() == "kept"
    with pytest.raises(_Killed):
        merge_folders(base, [one], tmp_path / "b", progress=_stop_after(tmp_path / "b", 2))
    merge_folders(base, [two], tmp_path / "b", replace=True)
    assert make.bytes_of(tmp_path / "b") == make.bytes_of(tmp_path / "whole")


def test_two_processes_do_not_merge_into_one_folder(tmp_path, make):
    base, one, _ = make.three(tmp_path)

    def second(progress):
        with pytest.raises(ValueError, match="another process merges"):
            merge_folders(base, [one], tmp_path / "out")

    merge_folders(base, [one], tmp_path / "out", progress=second)


def test_a_shard_goes_onto_the_disk_while_more_is_merged(tmp_path, make, monkeypatch):
    base, one, _ = make.three(tmp_path, shards=1, layers=3)
    synced, real = [], shards.os.fsync

    def fsync(file):
        synced.append(file)
        real(file)

    def syncs(out, waiting):
        monkeypatch.setattr(shards, "_SYNC_BYTES", waiting)
        with monkeypatch.context() as patch:
            patch.setattr(shards.os, "fsync", fsync)
            synced.clear()
            merge_folders(base, [one], out)
        return len(synced)

    at_the_end = syncs(tmp_path / "a", 1 << 30)
    tensors = len(make.read(base))
    assert syncs(tmp_path / "b", 1) == at_the_end + tensors
    assert make.bytes_of(tmp_path / "a") == make.bytes_of(tmp_path / "b")


def test_a_merge_run_from_its_source_is_not_lost(tmp_path, make, monkeypatch):
    def nowhere(name):
        raise _manifest.PackageNotFoundError(name)

    base, one, _ = make.three(tmp_path, shards=1)
    monkeypatch.setattr(_manifest, "version", nowhere)
    manifest = merge_folders(base, [one], tmp_path / "out")
    assert manifest["made_with"] == "longcat-fusion from source"
