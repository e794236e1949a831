"""Processes beside this one, and Ctrl-C while they begin."""

import signal
import threading
import time

import pytest
from longcat_cli.processes import ctrl_c_waits


def test_ctrl_c_that_another_thread_takes_waits_as_well():
    """A child that begins in that moment would be left with half of what it is to do."""
    done = []

    def begin_a_child():
        with ctrl_c_waits():
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
