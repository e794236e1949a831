"""Two and four processes on gloo against one process: losses, weights after steps, checkpoints."""

import dataclasses
import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
from longcat_moe import BiasController, LongcatConfig, LongcatForCausalLM

CONFIG = LongcatConfig(
    vocab_size=96, hidden_size=48, num_layers=2, num_attention_heads=3, q_lora_rank=24,
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
    ffn_hidden_size=64, expert_ffn_hidden_size=16, n_routed_experts=8, zero_expert_num=4,
    moe_topk=4, rope_theta=10_000.0, max_position_embeddings=256, initializer_range=0.2,
)  # fmt: skip
STEPS, ROWS = 3, 4
PRELOAD = ["torch.distributed.checkpoint", "torch._dynamo", "longcat_moe.parallel"]
"""Optimizers load dynamo at their first step: seconds in each process."""


def _batch(step):
    return torch.randint(3, 96, (ROWS, 17), generator=torch.Generator().manual_seed(step))


def _model():
    torch.manual_seed(0)
    return LongcatForCausalLM(CONFIG)


def _train(model, rows):
    """Train on some rows of each batch; return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    controller = BiasController(model, CONFIG, rate=0.01)  # counts tokens of all processes
    losses = []
    for step in range(STEPS):
        ids = _batch(step)[rows]
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def _alone():
    model = _model()
    losses = _train(model, slice(None))
    return losses, model.state_dict()


def _process(rank, port, shape, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = shape[0] * shape[1]
    dist.init_process_group("gloo", rank=rank, world_size=world)
    import torch.distributed.checkpoint as dcp
    from longcat_moe.parallel import parallelize
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "ep"))
    model = parallelize(_model(), mesh)
    width = ROWS // world
    losses = _train(model, slice(rank * width, (rank + 1) * width))
    dist.all_reduce(losses)
    # It is really spread: no process holds more than its share, but for what does not divide.
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    total = sum(p.numel() for p in _model().parameters())
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    dcp.save({"model": model.state_dict()}, checkpoint_id=f"{folder}/sharded")
    again = parallelize(LongcatForCausalLM(CONFIG), mesh)
    state = {"model": again.state_dict()}
    dcp.load(state, checkpoint_id=f"{folder}/whole")
    again.load_state_dict(state["model"])
    loaded = get_model_state_dict(again, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        result = {"losses": losses / world, "state": full, "held": held / total, "loaded": loaded}
        torch.save(result, f"{folder}/result.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # the interpreter's own way out now and then aborts in gloo's threads


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def importable(request, monkeypatch):
    """Let spawned processes import this file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (2, 2)], ids=["fsdp", "experts", "both"])
def test_several_processes_train_as_one_and_their_checkpoints_are_one_s(shape, tmp_path):
    import torch.distributed.checkpoint as dcp

    losses, state = _alone()
    dcp.save({"model": state}, checkpoint_id=f"{tmp_path}/whole", no_dist=True)
    multiprocessing.set_forkserver_preload(PRELOAD)
    torch.multiprocessing.start_processes(
        _process, args=(_free_port(), shape, str(tmp_path)), nprocs=shape[0] * shape[1],
        start_method="forkserver",  # imports torch once, not in each
    )  # fmt: skip
    got = torch.load(tmp_path / "result.pt")
    assert torch.allclose(got["losses"], losses, atol=1e-5)
    assert got["state"].keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(got["state"][key], value, atol=1e-5), key
        assert torch.equal(got["loaded"][key], value), key  # whole, loaded in shards
    assert got["held"] < 1.2 / (shape[0] * shape[1])
    # In shards, loaded whole.
    alone = LongcatForCausalLM(CONFIG)
    loaded = {"model": alone.state_dict()}
    dcp.load(loaded, checkpoint_id=f"{tmp_path}/sharded", no_dist=True)
    for key, value in got["state"].items():
        assert torch.equal(loaded["model"][key], value), key


def test_experts_that_cannot_be_divided_are_refused(tmp_path):
    from longcat_moe.parallel import ParallelExperts

    class Mesh:
        def size(self):
            return 3

    model = LongcatForCausalLM(dataclasses.replace(CONFIG))
    with pytest.raises(ValueError, match=r"n_routed_experts=8 must be divisible by the ep axis, 3"):
        ParallelExperts(model.model.layers[0].mlp.experts, Mesh())
