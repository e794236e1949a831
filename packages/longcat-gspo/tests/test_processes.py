"""Two processes on gloo take the steps of one, however unequally samples are spread."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig
from safetensors.torch import load as load_safetensors
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

_CONFIG = TrainerConfig(
    learning_rate=1e-2, epochs=2, micro_batch_tokens=16, clip=ClipRange(low=0.2, high=0.2),
    epsilon=1e-8, max_grad_norm=1e-1,
)  # fmt: skip


class _Output(NamedTuple):  # FSDP looks for tensors in what a model returns
    logits: torch.Tensor


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(16, 12)
        self.mix = torch.nn.GRU(12, 12, batch_first=True)
        self.head = torch.nn.Linear(12, 16)

    def forward(self, input_ids, attention_mask=None):
        hidden, _ = self.mix(self.embed(input_ids))
        return _Output(self.head(hidden))


def _samples():
    g = torch.Generator().manual_seed(1)
    samples = []
    for n in range(12):
        length = int(torch.randint(3, 9, (), generator=g))
        ids = torch.randint(1, 16, (length,), generator=g).tolist()
        log_probs = (-2 * torch.rand(length, generator=g)).tolist()
        # Groups 0 and 1 are mixed; group 2 has no signal.
        reward = 1.0 if n < 2 or 4 <= n < 7 or n >= 8 else 0.0
        samples.append(Sample(
            token_ids=ids, loss_mask=[False] + [True] * (length - 1), log_probs=log_probs,
            reward=reward, group=f"g{n // 4}",
        ))  # fmt: skip
    return samples


def _train(samples, accelerator, *, shard=False, folder=None):
    model = _Model()
    if shard:
        mesh = init_device_mesh("cpu", (2,))
        for part in (model.mix, model.head, model):
            fully_shard(part, mesh=mesh)
    trainer = GspoTrainer(model, _CONFIG, accelerator=accelerator)
    metrics = [trainer.train(samples), trainer.fit(samples)]
    if folder is not None:  # saved, thrown away, restored: the next step is as if nothing had been
        trainer.save(folder)
        trainer.train(samples)
        trainer.restore(folder)
    metrics.append(trainer.train(samples))
    return metrics, load_safetensors(trainer.weights())


def _process(rank, port, split, path, shard):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    folder = Path(path) / "checkpoint" if shard else None
    metrics, state = _train(_samples()[split[rank]], accelerator, shard=shard, folder=folder)
    torch.save((metrics, state), f"{path}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)


@pytest.fixture
def importable(request, monkeypatch):
    """Let spawned processes import this file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))


UNEQUAL, IDLE = (slice(0, 4), slice(4, 12)), (slice(0, 8), slice(8, 12))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(("split", "shard"), [
    pytest.param(UNEQUAL, False, id="copies, unequal"),
    pytest.param(IDLE, True, id="FSDP2, one has nothing to learn"),
    pytest.param(IDLE, False, id="copies, one has nothing to learn", marks=pytest.mark.long),
    pytest.param(UNEQUAL, True, id="FSDP2, unequal", marks=pytest.mark.long),
])  # fmt: skip
def test_two_processes_take_the_steps_of_one(split, shard, tmp_path):
    expected_metrics, expected = _train(_samples(), Accelerator(cpu=True))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, args=(port, split, str(tmp_path), shard), nprocs=2)
    for rank in (0, 1):
        metrics, state = torch.load(tmp_path / f"{rank}.pt")
        for key, value in expected.items():
            assert torch.allclose(state[key], value, atol=1e-6), key
        for got, want in zip(metrics, expected_metrics, strict=True):
            for key in ("loss", "grad_norm", "tokens"):
                assert got[key] == pytest.approx(want[key], rel=1e-5), key
        assert metrics[0]["signal_share"] == expected_metrics[0]["signal_share"]
    if shard:
        _continue_alone(tmp_path / "checkpoint", expected)


def _continue_alone(folder, expected):
    """What sharded weights wrote, one process reads."""
    trainer = GspoTrainer(_Model(), _CONFIG)
    trainer.restore(folder)
    trainer.train(_samples())
    for key, value in load_safetensors(trainer.weights()).items():
        assert torch.allclose(expected[key], value, atol=1e-6), key
