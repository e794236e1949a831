"""One engine, two weight versions: a conversation stays on the version it was opened with.

    pip install longcat-moe        python two_versions_at_once.py

It prints what each version says, and which is still live.
"""

import asyncio

import torch
from longcat_moe import Engine, LongcatConfig, LongcatForCausalLM

config = LongcatConfig(
    vocab_size=64, hidden_size=32, num_layers=1, num_attention_heads=2, q_lora_rank=16,
    kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, ffn_hidden_size=32,
    expert_ffn_hidden_size=16, n_routed_experts=4, zero_expert_num=2, moe_topk=2,
    initializer_range=0.2,
)  # fmt: skip


async def main() -> None:
    engine = Engine(config, num_slots=4, max_length=64)
    for version in (0, 1):
        torch.manual_seed(version)
        engine.add_model(version, LongcatForCausalLM(config))
    talks = [await engine.open(version) for version in (0, 1)]
    engine.retire(0)  # freed when its conversation closes
    answers = await asyncio.gather(
        *(engine.generate(talk, [5, 6, 7], max_tokens=8, temperature=0) for talk in talks)
    )
    for version, answer in enumerate(answers):
        print(f"version {version} says {answer.token_ids}")
    for talk in talks:
        await engine.close(talk)
    print("live versions:", engine.versions)


asyncio.run(main())
