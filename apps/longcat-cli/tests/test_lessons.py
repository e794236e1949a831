"""What says whether a stage learned anything, and what is learned from."""

from types import SimpleNamespace

import pytest
import torch
from longcat_cli.agent import _failed_turns
from longcat_cli.errors import UsageError
from longcat_cli.lessons import relative_change
from longcat_cli.sft import sft
from longcat_cli.stages._successes import successes
from longcat_cli.stages.experts import TaskSource
from longcat_dora import Segment, Trajectory
from safetensors.torch import save_file


def checkpoint(folder, **tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_the_change_is_that_of_all_weights_in_one_vector(tmp_path):
    before = checkpoint(tmp_path / "a", x=torch.tensor([3.0, 0.0]), y=torch.tensor([[4.0]]))
    after = checkpoint(tmp_path / "b", x=torch.tensor([3.0, 0.3]), y=torch.tensor([[4.4]]))
    assert relative_change(before, after) == pytest.approx(0.1)
    assert relative_change(before, before) == 0.0


def test_weights_that_only_one_checkpoint_writes_count_from_zero(tmp_path):
    before = checkpoint(tmp_path / "a", x=torch.tensor([2.0]))
    zeros = checkpoint(tmp_path / "b", x=torch.tensor([2.0]), identity=torch.zeros(3))
    more = checkpoint(tmp_path / "c", x=torch.tensor([2.0]), head=torch.tensor([1.0]))
    assert relative_change(before, zeros) == 0.0
    assert relative_change(before, more) == pytest.approx(0.5)


def test_the_turns_of_failed_calls_are_those_that_are_masked():
    """Two calls in a turn, one of which fails, are one failed turn."""
    roles = [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    messages = [{"role": role} for role in roles]
    assert _failed_turns(messages, [False, True, False, True]) == [0, 2]
    assert _failed_turns(messages, [True, True, True, False]) == [0, 1]
    assert _failed_turns(messages, [False] * 4) == []


def test_what_failed_in_a_success_is_not_imitated():
    """Turns are counted through all segments of an attempt; what nothing is left of is left out."""
    segments = [Segment(token_ids=[1, 2, 3, 4, 5], log_probs=[0.0] * 5, loss_mask=mask) for mask in (
        [False, True, True, False, True], [False, True, False, False, False])]  # fmt: skip
    attempts = [
        Trajectory(id=str(n), group="g", task=task, domain="shop", version=0, segments=segments,
                   reward=reward, info={"failed_turns": failed})
        for n, (task, reward, failed) in enumerate([
            ("a", 1.0, [0]), ("b", 0.5, []), ("a", 1.0, [1, 2]), ("a", 1.0, [0, 2]), ("c", 1.0, []),
        ])
    ]  # fmt: skip
    whole, first = [False, True, True, False, True], [False, True, True, False, False]
    last, other = [False] * 4 + [True], [False, True, False, False, False]
    masks = [sample.loss_mask for sample in successes(attempts, per_task=2)]
    assert masks == [first, last, whole, other]


def test_a_group_counts_once_for_the_noise_with_the_share_that_passed(tmp_path):
    seen = []
    source = TaskSource.__new__(TaskSource)
    source.noise = SimpleNamespace(record=lambda *a, **k: seen.append((a, k)), state=dict)
    source._keys = SimpleNamespace(record=lambda *a: seen.append(a))
    source._budget = SimpleNamespace(record=lambda *a: seen.append(a))
    source.pass_rate, source.num_without = 0.0, 0
    source._state, source.samples = tmp_path / "curriculum.json", {"first": [], "last": []}
    info = {"key": "shop/loan", "level": 0.3, "refused": 0, "transcript": []}
    source.record([SimpleNamespace(reward=r, info=info) for r in (1.0, 0.5, 0.0, 1.0)])
    assert seen == [
        ("shop/loan", 0.625), (0.625,), ((0.3,), {"passed": 0.5, "key": "shop/loan"})
    ]  # fmt: skip
    assert source.pass_rate == 0.625
    assert source.num_without == 0


def test_an_adapter_alone_needs_one(tmp_path):
    with pytest.raises(UsageError, match="--adapter needs --lora"):
        sft(model="none", data=tmp_path / "none", lora=0, adapter=True)
