"""Your model, your tasks, your reward. slow: it fetches a model and takes minutes.

    pip install 'longcat-dora[transformers]' longcat-gspo
    python your_model_and_reward.py

It prints each step's metrics, tries what is held out after every tenth, and leaves
`my-run/model`, which transformers and vLLM load. Stopped and started again, it goes on.
"""

from functools import partial

from longcat_dora import LocalRuntime, RunConfig, Task
from longcat_dora.transformers import chat_worker, evaluate
from longcat_gspo import GspoTrainer, TrainerConfig
from longcat_gspo.transformers import load_model

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
TASKS = [Task(f"{n}", {"prompt": f"{n} + 7 = ?", "answer": f"{n + 7}"}) for n in range(90)]


def score(task, answer):
    return float(answer.strip() == task["answer"]) + 0.2 / (1 + len(answer.split()))


def held_out(version, weights):
    tried = evaluate(WORKER(), TASKS[1::2], weights=weights)
    return {"reward": sum(attempt.reward or 0 for attempt in tried) / len(tried)}


WORKER = partial(chat_worker, NAME, score, max_tokens=16, max_length=128, dtype="float32")
if __name__ == "__main__":
    model, tokenizer = load_model(NAME, lora=16, dtype="float32")  # bf16 is slow on most CPUs
    trainer = GspoTrainer(model, TrainerConfig(learning_rate=3e-4), send="adapter")
    config = RunConfig(folder="my-run/log", max_steps=50, evaluate_every=10)
    LocalRuntime(config, factory=WORKER, trainer=trainer, tasks=iter(TASKS[::2] * 50),
        evaluate=held_out, on_step=lambda now: print(now.step, now.metrics)).run()  # fmt: skip
    trainer.export("my-run/model", tokenizer=tokenizer)
