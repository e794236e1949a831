"""Train an agent that was written against the `openai` client, unchanged.

    pip install 'longcat-dora[endpoint]' openai        python black_box_agent.py

It prints the mean reward of each step as a bar that grows from a quarter of full length to nearly
all of it, then what the checker found in the run's log.
Each rollout has a base URL of its own; what the agent hears there is sampled, recorded as tokens,
and trained on. Engine and renderer are toys here; with a language model they are
`Worker(engine=longcat_moe.Engine(...), renderer=longcat_moe.ChatFormat(...),
rollout=black_box(agent))`.
"""

import tempfile
from pathlib import Path

import openai
from longcat_dora import LocalRuntime, RunConfig, Task, Worker, check, read_events
from longcat_dora.endpoint import black_box
from longcat_dora.testing import TabularEngine, TabularTrainer

CLIENT = openai.AsyncOpenAI(base_url="http://unused", api_key="none")  # 30 ms each: make one


async def agent(question: int, base_url: str) -> float:
    """Nothing here knows of training."""
    client = CLIENT.with_options(base_url=base_url)
    messages = [{"role": "user", "content": str(question)}]
    answer = await client.chat.completions.create(model="policy", messages=messages)
    return float(answer.choices[0].message.content == str((question + 1) % 8))


class Numbers:
    """A renderer: a message is one token."""

    def start(self, messages, tools):
        return [int(message["content"]) for message in messages]

    def extend(self, messages):
        return self.start(messages, [])

    def parse(self, token_ids, tools):
        return {"role": "assistant", "content": str(token_ids[-1])}


def worker() -> Worker:
    return Worker(engine=TabularEngine(), renderer=Numbers(), rollout=black_box(agent))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        LocalRuntime(
            RunConfig(folder=Path(folder), max_steps=12),
            factory=worker,
            trainer=TabularTrainer(),
            tasks=(Task(f"n{n}", n % 8) for n in range(400)),
            on_step=lambda p: print(f"{p.step:3d} {'#' * round(40 * p.metrics['reward'])}"),
        ).run()
        print(check(read_events(Path(folder) / "log")).summary())
