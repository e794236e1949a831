"""A bigram model and samples for it, and what a batch is by a loop over tokens."""

import torch
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig
from torch import nn


class Out:
    def __init__(self, logits):
        self.logits = logits


class Bigram(nn.Module):
    """Looks at the present token only; enough to learn a bigram."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(12, 16), nn.Linear(16, 12)

    def forward(self, input_ids, attention_mask=None):
        return Out(self.head(torch.tanh(self.embed(input_ids))))


def samples_of(n=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(n):
        length = 3 + i % 5
        ids = torch.randint(1, 12, (length,), generator=g).tolist()
        mask = [j > 0 and (i + j) % 3 > 0 for j in range(length)]
        mask[1] = True
        out.append(Sample(token_ids=ids, loss_mask=mask, log_probs=[-2.4] * length,
                          reward=float(i % 2), group=str(i // 3)))  # fmt: skip
    return out


def trained(steps=3, **config):
    trainer = GspoTrainer(Bigram(), TrainerConfig(clip=ClipRange(low=0.5, high=0.5), **config))
    for step in range(steps):
        trainer.train(samples_of(seed=step))
    return trainer


def state_of(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def packed_of(model, samples):
    """Log-probs now and then, the sequence of each token, by a loop over tokens."""
    now, old, place = [], [], []
    for n, s in enumerate(samples):
        log_probs = model(torch.tensor([s.token_ids])).logits[0].log_softmax(-1)
        for j in range(1, len(s.token_ids)):
            if s.loss_mask[j]:
                now.append(log_probs[j - 1, s.token_ids[j]])
                old.append(s.log_probs[j])
                place.append(n)
    return torch.stack(now), torch.tensor(old), torch.tensor(place)
