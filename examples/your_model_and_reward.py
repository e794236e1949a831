"""Your model, your tasks, your reward: slow: it fetches a model (135M parameters) and takes minutes.

    pip install 'longcat-dora[transformers]' longcat-gspo        python your_model_and_reward.py

It prints a line a step, and leaves `my-run/model`, which transformers and vLLM load. Stopped, it goes on.
"""

import sys
from functools import partial

from longcat_dora import LocalRuntime, RunConfig, Task
from longcat_dora.transformers import chat_worker, evaluate
from longcat_gspo import GspoTrainer, TrainerConfig
from longcat_gspo.transformers import load_model

NAME = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 50


def score(task, answer):
    return float(answer.strip() == task["answer"]) + 0.2 / (1 + len(answer.split()))


if __name__ == "__main__":
    sums = [(a, b) for a in range(1, 13) for b in range(1, 13)]
    tasks = [Task(f"{a}+{b}", {"prompt": f"What is {a} + {b}? Reply with the number only.",
                               "answer": str(a + b)}) for a, b in sums]  # fmt: skip
    worker = partial(chat_worker, NAME, score, max_tokens=16, max_length=128)
    model, tokenizer = load_model(NAME, lora=16)
    trainer = GspoTrainer(model, TrainerConfig(learning_rate=3e-4), send="adapter")
    LocalRuntime(
        RunConfig(folder="my-run/log", max_steps=STEPS, evaluate_every=10), factory=worker,
        trainer=trainer, tasks=iter(tasks[::2] * 50),
        on_step=lambda now: print(now.step, round(now.metrics["reward"], 3), flush=True),
        evaluate=lambda version, weights: {"held_out": sum(
            tried.reward or 0 for tried in evaluate(worker(), tasks[1::2], weights=weights))},
    ).run()  # fmt: skip
    trainer.export("my-run/model", tokenizer=tokenizer)
