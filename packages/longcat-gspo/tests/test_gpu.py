"""What only a GPU can show; `apps/longcat-cli/benchmarks/gpu.py` runs these without plugins."""

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, Sample, TrainerConfig, linear_log_probs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available()"),
]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_log_probs_in_chunks_are_those_of_the_plain_way(dtype, limit):
    g = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(300, 64, generator=g, device="cuda", dtype=dtype, requires_grad=True)
    weight = (
        torch.randn(1000, 64, generator=g, device="cuda", dtype=dtype).mul_(0.1).requires_grad_()
    )
    target = torch.randint(0, 1000, (300,), generator=g, device="cuda")
    plain = (hidden @ weight.T).float().log_softmax(-1).gather(1, target[:, None])[:, 0]
    chunks = linear_log_probs(hidden, weight, target, chunk_tokens=64)
    for a, b in zip(
        (plain.detach(), *torch.autograd.grad(plain.mean(), (hidden, weight))),
        (chunks.detach(), *torch.autograd.grad(chunks.mean(), (hidden, weight))),
        strict=True,
    ):
        assert float((a - b).float().norm() / a.float().norm()) < limit


def test_large_vocabularies_never_lie_in_memory_whole():
    words, tokens = 65_536, 32_768
    hidden = torch.randn(tokens, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(words, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(0, words, (tokens,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_log_probs(hidden, weight, target).mean().backward()
    assert torch.cuda.max_memory_allocated() - before < 4 * tokens * words / 4


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(8, 8)

    def forward(self, input_ids, attention_mask=None):
        return type("Output", (), {"logits": self.table(input_ids)})


def test_a_trainer_learns_on_the_device():
    from accelerate import Accelerator

    torch.manual_seed(0)
    config = TrainerConfig(learning_rate=0.1, clip=ClipRange(low=0.2, high=0.2))
    trainer = GspoTrainer(_Model(), config, accelerator=Accelerator())
    assert next(trainer.model.parameters()).is_cuda
    for _ in range(30):
        logits = trainer.model.table.weight[3].detach()
        tokens = torch.multinomial(logits.softmax(-1), 16, replacement=True).tolist()
        log_probs = logits.log_softmax(-1).tolist()
        trainer.train(
            [
                Sample(
                    token_ids=[3, t],
                    loss_mask=[False, True],
                    log_probs=[0.0, log_probs[t]],
                    reward=float(t % 2 == 0),
                    group="g",
                )
                for t in tokens
            ]
        )
    share = trainer.model.table.weight[3].softmax(-1)[::2].sum()
    assert float(share.detach()) > 0.8
