"""Checkpoints that are damaged or of something else are one line, and change nothing."""

import importlib.util
from pathlib import Path

import pytest
import torch
from longcat_gspo import GspoTrainer, TrainerConfig

_spec = importlib.util.spec_from_file_location("gspo_bigram", Path(__file__).with_name("bigram.py"))
bigram = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bigram)


def _trainer(**options):
    optimizer = options.pop("make", None)
    return GspoTrainer(bigram.Bigram(), TrainerConfig(**options), optimizer=optimizer)


def _saved(folder, trainer):
    trainer.train(bigram.samples_of())
    trainer.save(folder)
    return folder / "trainer.pt"


def test_a_bit_that_fell_over_is_found_wherever_it_lies(tmp_path):
    path = _saved(tmp_path, _trainer())
    whole = path.read_bytes()
    other = _trainer()
    before = bigram.state_of(other).clone()
    found = []
    for place in range(0, len(whole), len(whole) // 24):
        broken = bytearray(whole)
        broken[place : place + 20] = bytes(b ^ 255 for b in broken[place : place + 20])
        path.write_bytes(broken)
        try:
            other.restore(tmp_path)
        except ValueError as error:
            found.append(str(error).startswith(str(path)))
            assert torch.equal(bigram.state_of(other), before)
        else:  # padding between parts, which nobody reads
            other = _trainer()
    assert len(found) > 8
    assert all(found)


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    for held in ({"a": 1}, [1], {"model": {}, "optimizer": None}):
        torch.save(held, tmp_path / "trainer.pt")
        with pytest.raises(ValueError, match="must be a trainer's checkpoint"):
            _trainer().restore(tmp_path)


def test_another_optimizers_state_is_refused_before_anything_changes(tmp_path):
    _saved(tmp_path, _trainer())
    other = _trainer(optimizer="muon")
    before = bigram.state_of(other).clone()
    with pytest.raises(ValueError, match="must be of MuonAndAdamW, it is of AdamW"):
        other.restore(tmp_path)
    assert torch.equal(bigram.state_of(other), before)
    assert other.num_steps == 0


def test_an_optimizer_that_remembers_nothing_is_restored(tmp_path):
    def make(groups):
        return torch.optim.SGD(list(groups))

    one = _trainer(make=make)
    _saved(tmp_path, one)
    other = _trainer(make=make)
    other.restore(tmp_path)
    for trainer in (one, other):
        trainer.train(bigram.samples_of(seed=1))
    assert torch.equal(bigram.state_of(one), bigram.state_of(other))
    assert other.num_steps == 2
