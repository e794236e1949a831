"""What an interrupted run still has, from lists of events that a person can read."""

import pytest
from longcat_dora import LongcatDoraError
from longcat_dora._books.recover import RecoveryState, recover


def _admitted(group, size=2):
    return {
        "kind": "admitted",
        "group": group,
        "task": f"task of {group}",
        "domain": "",
        "size": size,
    }


def _started(name, group, version, member, attempt=0):
    return {"kind": "started", "trajectory": name, "group": group, "version": version, "member": member,
            "attempt": attempt}  # fmt: skip


def _produced(name, group, version):
    return {"kind": "produced", "trajectory": name, "group": group, "version": version}


def _step(version, *names):
    return [{"kind": "committed", "version": version, "trajectories": list(names)},
            {"kind": "published", "version": version + 1}]  # fmt: skip


FIRST = [
    {"kind": "writer", "file": "payloads-000.bin"}, {"kind": "published", "version": 0},
    _admitted("g0"), _started("t0", "g0", 0, 0), _started("t1", "g0", 0, 1),
    _produced("t0", "g0", 0), _produced("t1", "g0", 0), *_step(0, "t0", "t1"),
]  # fmt: skip
SECOND = [
    _admitted("g1", 3), _started("t2", "g1", 0, 0), _started("t3", "g1", 1, 1), _produced("t2", "g1", 0),
    _started("t4", "g1", 1, 2), _produced("t4", "g1", 1),
]  # fmt: skip


def _ends(recovered):
    return {e["trajectory"]: e["reason"] for e in recovered.events if e["kind"] == "ended"}


def test_what_was_finished_is_kept_and_what_was_sampled_is_sampled_anew():
    recovered = recover([*FIRST, *SECOND], 1, hard_staleness=2)
    (group,) = recovered.groups
    assert group.finished == {"t2": (0, 0, 0), "t4": (1, 2, 0)}
    assert group.wanted == [(1, 0)]
    assert _ends(recovered) == {"t3": "interrupted"}
    assert recovered.events[0] == {"kind": "restored", "version": 1}
    assert (recovered.num_trajectories, recovered.num_groups) == (5, 2)
    assert [e["trajectory"] for e in recovered.produced] == ["t2", "t4"]


def test_steps_since_the_checkpoint_are_undone_and_what_came_of_them_is_rolled_back():
    recovered = recover([*FIRST, *SECOND], 0, hard_staleness=2)
    first, second = recovered.groups
    assert first.finished == {"t0": (0, 0, 0), "t1": (0, 1, 0)}
    assert first.wanted == []
    assert second.finished == {"t2": (0, 0, 0)}
    assert sorted(second.wanted) == [(1, 0), (2, 0)]
    assert _ends(recovered) == {"t3": "interrupted", "t4": "rolled_back"}


@pytest.mark.parametrize(("hard", "expired"), [(0, {"t2"}), (1, set())])
def test_what_a_lower_bound_makes_too_old_is_another_attempt(hard, expired):
    recovered = recover([*FIRST, *SECOND], 1, hard_staleness=hard)
    assert {name for name, reason in _ends(recovered).items() if reason == "expired"} == expired
    assert ((0, 1) in recovered.groups[0].wanted) == bool(expired)


@pytest.mark.parametrize(("end", "wanted"), [
    ({"reason": "failed", "again": True}, [(0, 1)]), ({"reason": "failed", "again": False}, []),
    ({"reason": "masked"}, []), ({"reason": "interrupted"}, [(0, 0)]), ({"reason": "damaged"}, [(0, 0)]),
    ({"reason": "rolled_back"}, [(0, 0)]), ({"reason": "expired", "again": True}, [(0, 1)]),
])  # fmt: skip
@pytest.mark.parametrize("is_finished", [False, True])
def test_each_end_leaves_its_seat_as_it_should(end, wanted, is_finished):
    events = [*FIRST, _admitted("g1", 1), _started("t2", "g1", 1, 0)]
    events += [_produced("t2", "g1", 1)] * is_finished
    recovered = recover(
        [*events, {"kind": "ended", "trajectory": "t2", **end}], 1, hard_staleness=2
    )
    (group,) = recovered.groups
    assert (group.finished, group.wanted) == ({}, wanted)


def test_an_evicted_group_is_gone_and_an_earlier_restore_is_heeded():
    evicted = {"kind": "evicted", "group": "g1", "reason": "no_signal", "trajectories": []}
    assert recover([*FIRST, *SECOND, evicted], 1, hard_staleness=2).groups == []
    again = [{"kind": "restored", "version": 0}, *_step(0, "t0", "t1")]
    assert recover([*FIRST, *again], 1, hard_staleness=2).groups == []
    (group,) = recover([*FIRST, *again[:1]], 0, hard_staleness=2).groups
    assert set(group.finished) == {"t0", "t1"}


def test_steps_that_no_checkpoint_can_undo_are_forgotten():
    admitted = []
    state = RecoveryState(1, on_admitted=lambda event: admitted.append(event["group"]))
    for event in FIRST:
        state.read(event)
    assert len(state._steps) == 1
    state.read({"kind": "saved", "version": 1, "kept": [1]})
    assert not state._steps
    assert not state._group_of
    assert admitted == ["g0"]
    assert (state.num_writers, state.newest) == (1, 1)


def test_a_log_that_contradicts_itself_or_has_lost_its_end_is_one_error():
    with pytest.raises(LongcatDoraError, match="event 1, 'produced', names 'g'"):
        recover([_produced("t", "g", 0)], 0, hard_staleness=2)
    with pytest.raises(
        LongcatDoraError, match="ends at version 1, and the checkpoint is of version 2"
    ):
        recover(FIRST, 2, hard_staleness=2)
