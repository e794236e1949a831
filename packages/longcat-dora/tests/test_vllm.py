"""vLLM as a replica.

Against a stand-in with its calls, and against itself where it is installed (vllm, vllm-cpu).
"""

import asyncio
import builtins
import math
import sys
import types
from pathlib import Path

import pytest
from longcat_dora import LongcatDoraError, ReplicaLostError
from longcat_dora.vllm import VllmReplica, WeightReader


class _DeadError(Exception):
    pass


class _Stand:
    """Has the calls of `vllm.v1.engine.async_llm.AsyncLLM` that are used, with its parameters' names."""

    @classmethod
    def from_engine_args(cls, engine_args):
        if engine_args["model"] == "absent":
            raise ValueError("no such model")
        stand = cls()
        stand.args, stand.calls, stand.dies = engine_args, [], False
        stand.errored, stand.dead_error = False, _DeadError("the core is gone")
        return stand

    async def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        if (
            self.dies
        ):  # as it does: the answer never comes, and later it is seen that the process is gone
            asyncio.get_running_loop().call_later(0.05, setattr, self, "errored", True)
            await asyncio.Event().wait()
        self.calls.append((method, Path(args[0]).read_bytes()))
        self.path = args[0]

    async def reset_prefix_cache(self, reset_running_requests=False, reset_connector=False):
        self.calls.append(("reset_prefix_cache",))
        return True

    async def generate(self, prompt, sampling_params, request_id):
        if self.dies:
            raise _DeadError("the core is gone")
        self.calls.append((prompt, sampling_params, request_id))
        for ids, reason in (([4], None), ([5, 6], "stop")):  # pieces: DELTA
            log_probs = [{i: types.SimpleNamespace(logprob=-i / 10), 9: None} for i in ids]
            part = types.SimpleNamespace(token_ids=ids, logprobs=log_probs, finish_reason=reason)
            yield types.SimpleNamespace(outputs=[part])

    def shutdown(self, timeout=None):
        self.calls.append(("shutdown",))


@pytest.fixture
def stand(monkeypatch):
    kinds = types.SimpleNamespace(DELTA="delta")
    for name, held in {
        "vllm": {"AsyncEngineArgs": dict, "SamplingParams": dict},
        "vllm.config": {"KVTransferConfig": lambda **options: ("transfer", options)},
        "vllm.sampling_params": {"RequestOutputKind": kinds},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": _Stand},
        "vllm.v1.engine.exceptions": {"EngineDeadError": _DeadError},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("stand")
async def test_what_is_asked_of_vllm_and_what_is_made_of_its_answer():
    replica = VllmReplica(
        "m",
        stop_token_ids=[7],
        gpu_memory_utilization=0.5,
        kv_transfer_config={"kv_role": "kv_both"},
    )
    engine = replica._engine
    assert engine.args["worker_extension_cls"] == "longcat_dora.vllm.WeightReader"
    assert engine.args["gpu_memory_utilization"] == 0.5
    assert engine.args["kv_transfer_config"] == ("transfer", {"kv_role": "kv_both"})
    await replica.load_weights(3, memoryview(b"weights"))
    assert engine.calls == [("read_longcat_weights", b"weights"), ("reset_prefix_cache",)]
    assert not Path(engine.path).exists()  # shared memory is given back
    got = await replica.complete([1, 2], max_tokens=5, temperature=0.5, seed=8)
    assert (got.token_ids, got.finish_reason) == ([4, 5, 6], "stop")
    assert got.log_probs == [-0.4, -0.5, -0.6]
    prompt, params, _ = engine.calls[-1]
    assert prompt == {"type": "token", "prompt_token_ids": [1, 2]}
    assert (params["max_tokens"], params["seed"], params["logprobs"]) == (5, 8, 0)
    assert params["stop_token_ids"] == [7]
    engine.dies = True
    for expected in ("vLLM ended: _DeadError", "has not been started again"):
        with pytest.raises(ReplicaLostError, match=expected):
            await replica.complete([1], max_tokens=5, temperature=1.0, seed=8)
    assert engine.calls[-1] == ("shutdown",)
    await replica.load_weights(4, b"newer")  # starts another
    other = replica._engine
    assert other is not engine
    assert other.calls[0] == ("read_longcat_weights", b"newer")
    await replica.complete([1], max_tokens=5, temperature=1.0, seed=8)
    other.dies = True
    with pytest.raises(ReplicaLostError, match="the core is gone"):
        await replica.load_weights(5, b"newest")
    assert other.calls[-1] == ("shutdown",)
    await replica.close()


@pytest.mark.usefixtures("stand")
def test_what_vllm_refuses_is_said():
    with pytest.raises(LongcatDoraError, match="cannot start with 'absent': no such model"):
        VllmReplica("absent")


def test_without_vllm_it_is_said_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "vllm":
            raise ImportError("No module named 'vllm'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LongcatDoraError, match=r"pip install 'longcat-dora\[vllm\]'"):
        VllmReplica("m")


def test_a_worker_reads_its_tensors(tmp_path):
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    safetensors.save_file(tensors, tmp_path / "w")
    got = {}

    class Worker(WeightReader):
        def reload_weights(self, weights_iterator):
            got.update(weights_iterator)

    Worker().read_longcat_weights(str(tmp_path / "w"))
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())


async def test_vllm_itself_takes_weights_in_place(tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    import torch
    import transformers
    from safetensors.torch import save

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(transformers.LlamaForCausalLM(config).eval())
    models[0].save_pretrained(tmp_path)
    replica = VllmReplica(
        str(tmp_path), dtype="float32", gpu_memory_utilization=0.2, max_model_len=256,
    )  # fmt: skip
    prompt = list(range(5, 25))
    try:
        for version, model in enumerate(models):
            if version:
                await replica.load_weights(version, save(model.state_dict()))
            got = await replica.complete(prompt, max_tokens=8, temperature=1.0, seed=3)
            ids = torch.tensor([[*prompt, *got.token_ids]])
            with torch.inference_mode():
                rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            expected = [float(row[i]) for row, i in zip(rows, got.token_ids, strict=True)]
            assert all(map(math.isfinite, got.log_probs))
            assert got.log_probs == pytest.approx(
                expected, abs=1e-4 if torch.cuda.is_available() else 1e-5
            )
    finally:
        await replica.close()
