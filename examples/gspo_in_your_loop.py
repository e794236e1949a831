"""GSPO in a training loop of your own: a bandit of eight arms, learned in forty steps.

    pip install longcat-gspo        python gspo_in_your_loop.py

It prints how probable the rewarded arm has become.
"""

import torch
from longcat_gspo import ClipRange, group_advantages, gspo_loss

torch.manual_seed(0)
logits = torch.zeros(8, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.2)
for _ in range(40):
    old = logits.detach().log_softmax(-1)
    arms = torch.multinomial(old.exp(), 16, replacement=True)
    advantages = torch.tensor(group_advantages((arms == 5).float().tolist(), ["g"] * 16))
    loss, _ = gspo_loss(
        logits.log_softmax(-1)[arms], old[arms], advantages, torch.arange(16),
        clip=ClipRange(low=0.2, high=0.2),
    )  # fmt: skip
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"probability of the rewarded arm: {logits.softmax(-1)[5]:.2f}")
