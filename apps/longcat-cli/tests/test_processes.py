"""Processes beside this one, and Ctrl-C while they begin."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from longcat_cli.audit import _fuse as audit_of_fuse
from longcat_cli.processes import _ctrl_c_waits, threads_alone, tune_process


@pytest.mark.parametrize(("given", "alone"), [(1, 1), (3, 3), (16, 4)])
def test_who_computes_alone_takes_what_torch_was_given(monkeypatch, given, alone):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1] if taken else given)
    threads_alone.cache_clear()
    try:
        tune_process()
        tune_process(threads_alone())  # also after it had but one
    finally:
        threads_alone.cache_clear()
    assert taken == [1, alone]


def test_ctrl_c_that_another_thread_takes_waits_as_well():
    """A child that begins in that moment would be left with half of what it is to do."""
    done = []

    def begin_a_child():
        with _ctrl_c_waits():
            other.join()
            time.sleep(0.05)  # where the main thread would hear of it
            done.append("whole")

    def take():  # the signal goes to this thread, and the main one is told
        time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=take)
    try:
        other.start()
        with pytest.raises(KeyboardInterrupt):
            begin_a_child()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done == ["whole"]


@pytest.mark.parametrize(("facts", "threads"), [({"threads": 3}, 3), ({}, 1)])
def test_what_was_fused_is_derived_again_on_as_many_threads(monkeypatch, facts, threads):
    class Tuned(Exception):
        pass

    def tune(number):
        raise Tuned(number)

    monkeypatch.setattr(audit_of_fuse, "tune_process", tune)
    with pytest.raises(Tuned, match=str(threads)):
        audit_of_fuse.complaints(SimpleNamespace(facts=lambda stage: facts), 1)
