"""Small models and samples that several test files use."""

import torch
from longcat_gspo import Sample
from torch import nn


def llama(seed=0, dtype=torch.float32, vocab=24, **changes):
    """A tiny Llama with tied embeddings, as most small models have them."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, **changes,
    })  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype)


def with_lora(model, **options):
    import peft

    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules="all-linear", lora_alpha=8, **options)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # from 0 an adapter would not show
                nn.init.normal_(parameter, std=0.05)
    return adapted


@torch.no_grad()
def sampled(model, *, groups=4, size=8, length=12, seed=0, temperature=1.0, top_k=0, dtype=None,
            reward=None):  # fmt: skip
    """On-policy samples of a Hugging Face model, token by token without a cache."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    out = []
    vocab = model.config.vocab_size
    for group in range(groups):
        prompt = torch.randint(1, vocab, (3,), generator=generator)
        ids = prompt.repeat(size, 1)
        logs = torch.zeros(size, 3)
        for _ in range(length):
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits = model(ids, attention_mask=torch.ones_like(ids)).logits[:, -1].float()
            logits = logits / temperature
            if top_k:
                least = logits.topk(top_k).values[:, -1:]
                logits = logits.masked_fill(logits < least, -torch.inf)
            log_probs = logits.log_softmax(-1)
            new = torch.multinomial(log_probs.exp(), 1, generator=generator)
            ids = torch.cat([ids, new], 1)
            logs = torch.cat([logs, log_probs.gather(1, new)], 1)
        for row, log in zip(ids.tolist(), logs.tolist(), strict=True):
            value = sum(t % 2 == 0 for t in row[3:]) / length if reward is None else reward(row)
            out.append(Sample(token_ids=row, loss_mask=[False] * 3 + [True] * length,
                              log_probs=log, reward=value, group=str(group)))  # fmt: skip
    return out
