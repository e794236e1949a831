"""Your world, its tools, several turns. slow: it fetches a model and takes some fifteen minutes.

    pip install 'longcat-dora[transformers]' 'longcat-gspo[transformers]'
    python your_world_with_tools.py

A small model calls no tool that it was never shown: a minute of supervised learning on four
conversations comes first. Then its reward alone says what to call, and what to make of the result.
It prints the reward of each of 12 steps (from about 0.2 to 0.75), and of things that it was never
asked for in training, before (about 0.5) and after (about 1). It leaves `world-run/model`, which
transformers and vLLM load.
"""

import os
import random
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core samples, the other one trains
from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
from longcat_dora.transformers import TransformersRenderer, evaluate, world_worker
from longcat_gspo import GspoTrainer, TrainerConfig
from longcat_gspo.transformers import chat_sample, load_model

NAME, SEED, HEAT = "HuggingFaceTB/SmolLM2-135M-Instruct", 0, 0.6
THINGS = [f"{colour} {thing}s" for colour in ("red", "blue", "green", "old", "small", "heavy")
          for thing in ("lamp", "chair", "cup", "box", "rope", "coat", "book", "bell")]  # fmt: skip
STOCK = {thing: random.Random(thing).randrange(10, 99) for thing in THINGS}
KNOWN, TRAINED, HELD = THINGS[:4], THINGS[4:32], THINGS[32:]
TOOLS = [{"type": "function", "function": {
    "name": "stock", "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}},
}}]  # fmt: skip


def asked(thing):
    return [{"role": "user", "content": f"How many {thing} do we have?"}]


async def rollout(task, policy):
    """A call is worth 0.1, one with the right thing 0.3, the right number at the end the rest."""
    said, reward, answer = asked(task["thing"]), 0.0, None
    for _ in range(3):
        answer = await policy.chat(said, tools=TOOLS)
        if answer is None or not answer.get("tool_calls"):
            break
        said.append(answer)
        for call in answer["tool_calls"]:
            thing = str(call["function"]["arguments"].get("thing"))
            reward = max(reward, 0.3 if thing == task["thing"] else 0.1)
            found = str(STOCK.get(thing, "no such thing"))
            said.append({"role": "tool", "content": found, "tool_call_id": call.get("id")})
    right = answer is not None and str(STOCK[task["thing"]]) in answer["content"]
    return reward + 0.7 * (reward == 0.3 and right)


def shown(thing, tokenizer):
    """One conversation as it should go, as a sample."""
    call = {"type": "function", "function": {"name": "stock", "arguments": {"thing": thing}}}
    chat = [*asked(thing), {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": str(STOCK[thing])},
            {"role": "assistant", "content": f"We have {STOCK[thing]} {thing}."}]  # fmt: skip
    messages, tools = TransformersRenderer(tokenizer).written(chat, TOOLS)
    return chat_sample(tokenizer, messages, tools=tools)


# A small model's JSON survives no temperature of 1; and bfloat16 is slow on most CPUs.
WORKER = partial(world_worker, NAME, rollout, temperature=HEAT, dtype="float32",
    max_tokens=32, max_length=320, num_rows=24)  # fmt: skip


def held_out(version, weights):
    tried = evaluate(WORKER(), [Task(thing, {"thing": thing}) for thing in HELD], weights=weights)
    reward = sum(attempt.reward or 0 for attempt in tried) / len(tried)
    print(f"held out, step {version}: reward {reward:.2f}", flush=True)
    return {"reward": reward}


def main():
    model, tokenizer = load_model(NAME, lora=16, dtype="float32")
    learning = TrainerConfig(
        learning_rate=3e-4, temperature=HEAT, shared_prefixes=True, micro_batch_tokens=1024
    )
    trainer = GspoTrainer(model, learning, send="adapter")
    for step in range(4):
        metrics = trainer.fit([shown(thing, tokenizer) for thing in KNOWN])
        print(f"shown {step}  loss {metrics['loss']:.3f}", flush=True)
    held_out(0, trainer.weights())
    config = RunConfig(folder="world-run/log", max_steps=12, seed=SEED,
        scheduler=SchedulerConfig(groups_per_batch=4, group_size=6, max_running=24))  # fmt: skip
    tasks = (Task(f"{n}", {"thing": TRAINED[n % len(TRAINED)]}) for n in range(10_000))
    LocalRuntime(config, factory=WORKER, trainer=trainer, tasks=tasks, evaluate=held_out,
        on_step=lambda now: print(f"step {now.step}  {now.metrics['reward']:.2f}", flush=True),
    ).run()  # fmt: skip
    trainer.export("world-run/model", tokenizer=tokenizer)


if __name__ == "__main__":
    main()
