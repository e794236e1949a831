"""GSPO on a Hugging Face model in a plain loop: a tiny Llama learns to answer with even tokens.

    pip install 'longcat-gspo[transformers]'        python gspo_hugging_face.py

It prints the reward every ten steps: it rises from 0.5 to 1.
"""

import torch
from longcat_gspo import ClipRange, group_advantages, gspo_loss
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    pad_token_id=0, bos_token_id=1, eos_token_id=None,
))  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
prompts = torch.randint(3, 32, (4, 3)).repeat_interleave(8, dim=0)  # 4 tasks, 8 attempts each
for step in range(31):
    with torch.no_grad():
        ids = model.generate(prompts, max_new_tokens=6, do_sample=True, top_k=0)
    answers = ids[:, 3:]
    rewards = (answers % 2 == 0).float().mean(1)
    advantages = torch.tensor(group_advantages(rewards.tolist(), [n // 8 for n in range(32)]))
    sequence = torch.arange(32).repeat_interleave(6)
    old = None
    for _ in range(2):
        log_probs = (
            model(ids).logits[:, 2:-1].log_softmax(-1).gather(2, answers[..., None]).flatten()
        )
        old = log_probs.detach() if old is None else old
        loss, stats = gspo_loss(
            log_probs, old, advantages, sequence, clip=ClipRange(low=0.2, high=0.3)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if step % 10 == 0:
        print(f"step {step:2d}  reward {rewards.mean():.2f}  ratio {stats.ratio_S.mean():.3f}")
