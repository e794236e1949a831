"""A causal model whose pass rates are known exactly: logits by task and place."""

import math
from typing import NamedTuple

import torch
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig

WORDS = 8


class Output(NamedTuple):
    logits: torch.Tensor


class Exact(torch.nn.Module):
    """Token 0 of a sequence names the task; the answer's tokens are drawn place by place."""

    def forward(self, input_ids, attention_mask=None):
        return Output(self.logits()[input_ids[:, 0], : input_ids.shape[1]])

    @torch.no_grad()
    def pass_rates(self):
        """Exact."""
        log_probs = self.logits().log_softmax(-1)
        return [
            math.exp(sum(float(log_probs[task, n, word]) for n, word in enumerate(answer)))
            for task, answer in enumerate(self.answers)
        ]

    @torch.no_grad()
    def attempts(self, task, num, generator):
        """Draw answers to a task, as samples; the reward is 1 for the right one."""
        answer = self.answers[task]
        log_probs = self.logits()[task, : len(answer)].log_softmax(-1)
        drawn = torch.multinomial(log_probs.exp(), num, replacement=True, generator=generator).T
        samples = []
        for words in drawn.tolist():
            of = [float(log_probs[n, word]) for n, word in enumerate(words)]
            samples.append(Sample(
                token_ids=[task, *words], loss_mask=[False] + [True] * len(words),
                log_probs=[0.0, *of], reward=float(words == list(answer)), group=str(task),
            ))  # fmt: skip
        return samples


class Shared(Exact):
    """All tasks through one network: what one learns moves the others."""

    def __init__(self, answers, *, width=48, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.answers = answers
        places = max(map(len, answers)) + 1
        self.register_buffer("tasks", torch.randn(len(answers), 1, width).expand(-1, places, -1))
        self.register_buffer("places", torch.randn(1, places, width).expand(len(answers), -1, -1))
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2 * width, 256), torch.nn.Tanh(), torch.nn.Linear(256, WORDS)
        )
        torch.nn.init.normal_(self.net[-1].weight, std=1e-3)

    def logits(self):
        return self.net(torch.cat([self.tasks, self.places], dim=-1))


def trainer_of(model, rate, **options):
    config = TrainerConfig(
        learning_rate=rate, clip=ClipRange(low=0.2, high=0.28), epsilon=1e-8, max_grad_norm=1e9,
        micro_batch_tokens=1 << 16, **options,
    )  # fmt: skip
    return GspoTrainer(model, config)


def random_answers(num_tasks, lengths, generator):
    return [
        tuple(torch.randint(WORDS, (lengths[n % len(lengths)],), generator=generator).tolist())
        for n in range(num_tasks)
    ]
