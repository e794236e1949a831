"""Trainer and engine in two processes on one card, and passes of other models as graphs.

`apps/longcat-cli/benchmarks/gpu.py` runs this without plugins.
"""

import asyncio
import json
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("longcat_moe")
pytest.importorskip("longcat_gspo")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available()"),
]

RUN = """
    import functools, sys
    from pathlib import Path
    import torch
    from accelerate import Accelerator
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task, Worker, check, read_events
    from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
    from longcat_moe import Engine, LongcatForCausalLM, get_preset

    async def world(prompt, policy):
        answer = await policy.generate(prompt)
        return sum(token % 2 == 0 for token in answer) / 8

    def worker():
        engine = Engine(get_preset("tiny"), num_slots=64, max_length=64, device="cuda")
        return Worker(engine=engine, rollout=world, max_tokens=8)

    if __name__ == "__main__":
        torch.manual_seed(0)
        config = TrainerConfig(learning_rate=2e-3, clip=ClipRange(low=0.2, high=0.2))
        trainer = GspoTrainer(LongcatForCausalLM(get_preset("tiny")).train(), config, accelerator=Accelerator())
        LocalRuntime(
            RunConfig(folder=Path(sys.argv[1]), max_steps=4,
                      scheduler=SchedulerConfig(groups_per_batch=2, group_size=8, hard_staleness=2)),
            factory=worker, trainer=trainer, tasks=(Task(f"n{n}", [3 + n % 4]) for n in range(10_000)),
        ).run()
        report = check(read_events(Path(sys.argv[1]) / "log"))
        assert not report.breaches, report.breaches
        assert next(trainer.model.parameters()).is_cuda
        print("done", trainer.num_steps)
"""


def test_a_run_trains_and_samples_on_the_same_card(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done 4" in done.stdout


def _adapter(seed):
    """A model of transformers with an adapter, and the adapter as a trainer sends it."""
    import peft
    import transformers
    from safetensors.torch import save

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=999, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, eos_token_id=2,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).eval()
    if seed is None:
        return base, b""
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in peft.get_peft_model_state_dict(model).items()
    }
    about = json.dumps(model.peft_config["default"].to_dict(), default=sorted)
    return model, save(state, {"peft_config": about})


async def _sampled(engine, version):
    async def one(number):
        c = await engine.open(version, seed=number)
        said = [
            await engine.generate(c, [5 + number % 3, 7], max_tokens=40, temperature=number % 2)
            for _ in range(2)
        ]
        await engine.close(c)
        return said

    return [part for said in await asyncio.gather(*map(one, range(12))) for part in said]


def test_captured_passes_sample_what_ordinary_ones_sample():
    from longcat_dora.transformers import TransformersEngine

    async def go(static):
        engine = TransformersEngine(_adapter(None)[0], num_rows=8, max_length=128, static=static)
        found = []
        for version in (1, 2, 3):  # the third takes over what the first leaves
            engine.load_weights(version, _adapter(version)[1])
            found += await _sampled(engine, version)
            if version > 1:
                engine.retire(version - 1)
        graphs = [
            p.graph
            for v in engine._versions.values()
            if v.decoder
            for p in v.decoder.passes.values()
        ]
        await engine.stop()
        return found, graphs

    (plain, none), (found, graphs) = (asyncio.run(go(static)) for static in (False, True))
    assert not none
    assert any(graph is not None for graph in graphs)
    same = [a.token_ids == b.token_ids for a, b in zip(found, plain, strict=True)]
    assert sum(same) > 0.9 * len(same)  # sums of other shapes may round a tie away
    for a, b in zip(found, plain, strict=True):
        if a.token_ids == b.token_ids:
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)
