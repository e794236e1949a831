"""What says whether a stage learned anything."""

import pytest
import torch
from longcat_cli.lessons import relative_change
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
