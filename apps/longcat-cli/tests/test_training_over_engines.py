"""Train over servers, and over vLLM where it is installed (vllm, or vllm-cpu): what they sampled is what is trained
on, under the version that is recorded."""

import functools
import socket
import threading
import time

import pytest
import torch
import uvicorn
from longcat_dora import (
    LocalRuntime,
    ReplicatedEngine,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
    read_trajectories,
)
from longcat_dora.openai import OpenAIReplica, put_weights
from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
from longcat_moe import (
    ChatFormat,
    Engine,
    LongcatForCausalLM,
    get_preset,
    train_tokenizer,
)
from longcat_moe.server import create_app
from safetensors.torch import load


async def even(question, policy):
    first = await policy.generate(question, max_tokens=4)
    second = await policy.generate([7], max_tokens=4)  # a second turn of the same conversation
    return sum(token % 2 == 0 for token in first + second) / 8


def worker_on_servers(urls):
    replicas = [OpenAIReplica(url, model="tiny", update=put_weights) for url in urls]
    return Worker(engine=ReplicatedEngine(replicas, max_length=64), rollout=even)


def worker_on_vllm(model):
    from longcat_dora.vllm import VllmReplica

    replica = VllmReplica(model, dtype="float32", gpu_memory_utilization=0.2, max_model_len=64)
    return Worker(engine=ReplicatedEngine([replica], max_length=64), rollout=even)


@pytest.fixture
def urls():
    tokenizer, config = train_tokenizer(["a few words"], vocab_size=300), get_preset("tiny")
    servers, found = [], []
    for _ in range(2):
        engine = Engine(config, num_slots=32, max_length=64, threaded=True)
        engine.add_model(0, LongcatForCausalLM(config))
        app = create_app(engine, ChatFormat(tokenizer), model="tiny", takes_weights=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        servers.append((server, thread))
        found.append(f"http://127.0.0.1:{port}/v1")
    yield found
    for server, thread in servers:
        server.should_exit = True
        thread.join(5)


class _Remembers(GspoTrainer):
    """Keeps each version's weights."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.versions = []

    def weights(self):
        data = super().weights()
        self.versions.append(data)
        return data


@pytest.fixture
def importable(request, monkeypatch):
    monkeypatch.syspath_prepend(str(request.config.rootpath))


def _train(folder, model, factory):
    """Take six steps; return what was trained with."""
    clip = ClipRange(low=0.2, high=0.2)
    trainer = _Remembers(model.train(), TrainerConfig(learning_rate=2e-3, clip=clip))
    scheduler = SchedulerConfig(
        groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2
    )
    config = RunConfig(folder=folder, max_steps=6, scheduler=scheduler, save_every=1000)
    tasks = (Task(f"n{n}", [3 + n % 4]) for n in range(1000))
    assert LocalRuntime(config, factory=factory, trainer=trainer, tasks=tasks).run() == 6
    report = check(read_events(folder / "log"))
    assert report.breaches == []
    assert report.reasons.get("failed", 0) == 0
    return trainer


def _assert_each_token_is_of_its_version(folder, trainer, plain, tolerance):
    seen = set()
    for trajectory in read_trajectories(folder / "log"):
        plain.load_state_dict(load(trainer.versions[trajectory.version]))
        (segment,) = trajectory.segments
        assert sum(segment.loss_mask) <= 8
        ids = torch.tensor([segment.token_ids])
        with torch.inference_mode():
            log_probs = plain(ids).logits[0].log_softmax(-1)
        for place, is_sampled in enumerate(segment.loss_mask):
            if is_sampled:
                expected = float(log_probs[place - 1, segment.token_ids[place]])
                assert segment.log_probs[place] == pytest.approx(expected, abs=tolerance)
        seen.add(trajectory.version)
    assert len(seen) > 3


@pytest.mark.usefixtures("importable")
def test_what_servers_sampled_is_what_is_trained_on(tmp_path, urls):
    torch.manual_seed(0)
    model, plain = (LongcatForCausalLM(get_preset("tiny")) for _ in range(2))
    trainer = _train(tmp_path, model, functools.partial(worker_on_servers, urls))
    _assert_each_token_is_of_its_version(tmp_path, trainer, plain.eval(), 1e-3)


@pytest.mark.usefixtures("importable")
def test_what_vllm_sampled_is_what_is_trained_on(tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    import transformers

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model, plain = (transformers.LlamaForCausalLM(config) for _ in range(2))
    model.save_pretrained(tmp_path / "model")
    factory = functools.partial(worker_on_vllm, str(tmp_path / "model"))
    trainer = _train(tmp_path / "run", model, factory)
    _assert_each_token_is_of_its_version(tmp_path / "run", trainer, plain.eval(), 1e-4)
