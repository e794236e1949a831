"""Exactness, forward and backward, `linear_log_probs`."""

from __future__ import annotations

import torch
from _gpu_models import config_of, ours_of, theirs_of
from _gpu_report import Report, free, seconds
from longcat_moe import LongcatConfig, LongcatForCausalLM, count_active_parameters
from longcat_moe._experts import Router
from torch.nn import functional as F

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Of the difference's norm over the reference's, logits of 96 tokens."""
PEAK_FLOPS = 989e12
"""Dense bf16 of an H100 SXM, by its datasheet."""


def logits(report: Report, presets: list[str]) -> None:
    """GPU against CPU in float32, and against transformers in the same type."""
    device = report.device
    for preset in presets:
        plain = ours_of(config_of(preset), "cpu", torch.float32).eval()
        ids = torch.randint(3, plain.config.vocab_size, (2, 48))
        with torch.no_grad():
            expected = plain(ids).logits
            for dtype in (torch.float32, torch.bfloat16):
                model = ours_of(plain.config, device, dtype).eval()
                model.load_state_dict(plain.state_dict())
                twin = theirs_of(model, device, dtype)
                mine = model(ids.to(device)).logits.float().cpu()
                their = twin(ids.to(device)).logits.float().cpu()
                name, limit = f"logits, {preset}, {str(dtype)[6:]}", TOLERANCE[dtype]
                for against, other in (("CPU, float32", expected), ("transformers", their)):
                    gap = float((mine - other).norm() / other.norm())
                    text = f"{against}; tolerance {limit:g}"
                    report.row(name, "relative difference", gap, text, None, str(gap <= limit))
                gap = float((their - expected).norm() / expected.norm())
                report.row(f"{name}: transformers", "relative difference", gap, "CPU, float32")


def flops_per_token(config: LongcatConfig, length: int, num_ffn: float) -> float:
    """Of forward and backward: 6 a weight that a token meets, and causal attention.

    A token looks at (T + 1) / 2 others on average; for each, a head multiplies a query with a key and a
    weight with a value, forward once and backward twice.
    """
    weights = count_active_parameters(config, num_ffn_experts=num_ffn)
    wide = config.num_attentions * config.num_attention_heads
    wide *= config.qk_head_dim + config.v_head_dim
    return 6 * weights + 6 * wide * (length + 1) / 2


def both_ways(model, ids: torch.Tensor) -> None:
    """One forward and backward pass, the same loss for everyone."""
    logits_TW = model(ids).logits[:, :-1].flatten(0, 1)
    F.cross_entropy(logits_TW.float(), ids[:, 1:].flatten()).backward()
    model.zero_grad(set_to_none=True)


class Compiled:
    """Our model with each layer compiled, and the loss with the output matrix."""

    def __init__(self, model: LongcatForCausalLM) -> None:
        self.model = model
        for layer in model.model.layers:
            layer.compile()
        self._loss = torch.compile(_head_loss)

    def both_ways(self, ids: torch.Tensor) -> None:
        hidden = self.model.model(ids)[:, :-1].flatten(0, 1)
        self._loss(hidden, self.model.lm_head.weight, ids[:, 1:].flatten()).backward()
        self.model.zero_grad(set_to_none=True)


def _head_loss(hidden, weight, target):
    return F.cross_entropy((hidden @ weight.T).float(), target)


def training(report: Report, name: str, shape: tuple[int, int], *, compiled: bool) -> None:
    """Tokens a second, share of the peak, memory."""
    device, config = report.device, config_of(name)
    model = ours_of(config, device, torch.bfloat16).train()
    ids = torch.randint(3, config.vocab_size, shape, device=device)
    num = ids.numel()
    both_ways(model, ids)
    routers = [m for m in model.modules() if isinstance(m, Router)]
    chosen = torch.stack([r.counts for r in routers])[:, : config.n_routed_experts].sum(1)
    num_ffn = float(chosen.mean()) / num
    per_token = flops_per_token(config, shape[1], num_ffn)
    what = f"forward and backward, {name}, bf16, {shape[0]} x {shape[1]}"
    report.note(
        f"{what}: {per_token / 1e9:.2f} GFLOP a token ({num_ffn:.2f} FFN experts a layer were chosen)"
    )

    def measure(label: str, call, repeats: int) -> float:
        free(device)
        spent = seconds(call, device, repeats=repeats)
        rate = num / spent
        report.row(f"{what}, {label}", "tokens/s", rate)
        report.row(
            f"{what}, {label}", "share of 989 TFLOP/s", rate * per_token / PEAK_FLOPS, "goal", 0.4
        )
        if device == "cuda":
            report.row(f"{what}, {label}", "peak GB", torch.cuda.max_memory_allocated() / 1e9)
        return rate

    ours = measure("ours", lambda: both_ways(model, ids), 5)
    with report.section(f"profile of {what}", 30):
        profile(report, "train-eager", lambda: both_ways(model, ids))
    twin = theirs_of(model, device, torch.bfloat16).train()
    with report.section(f"transformers, {what}", 60):
        theirs = measure("transformers", lambda twin=twin: both_ways(twin, ids), 2)
        report.row(what, "tokens/s", ours, "transformers", theirs, ours / theirs)
    del twin
    if compiled:
        with report.section(f"compiled, {what}", 150):
            fast = Compiled(model)
            mine = measure("ours, compiled", lambda: fast.both_ways(ids), 5)
            report.row(f"{what}, compiled", "tokens/s", mine, "transformers", theirs, mine / theirs)
            profile(report, "train-compiled", lambda: fast.both_ways(ids))


def profile(report: Report, name: str, call) -> None:
    """Write where the time goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    kinds = [ProfilerActivity.CPU]
    if report.device == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with watch(activities=kinds) as seen:
        call()
        if report.device == "cuda":
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if report.device == "cuda" else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=order, row_limit=70, max_name_column_width=70)
    report.append("profiles.txt", f"== {name}\n{table}")


def log_probs(report: Report, sizes: tuple[int, int, int]) -> None:
    """`linear_log_probs` against all tokens by all words."""
    from longcat_gspo import linear_log_probs

    device, (tokens, words, width) = report.device, sizes
    hidden = torch.randn(tokens, width, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(words, width, device=device, dtype=torch.bfloat16).mul_(width**-0.5)
    weight.requires_grad_()
    target = torch.randint(0, words, (tokens,), device=device)

    def plain():
        found = (hidden @ weight.T).float().log_softmax(-1).gather(1, target[:, None])[:, 0]
        return _grads(found, hidden, weight)

    def chunked():
        return _grads(linear_log_probs(hidden, weight, target), hidden, weight)

    def larger():
        return _grads(linear_log_probs(hidden, weight, target, chunk_tokens=1024), hidden, weight)

    found = {}
    for name, call in (("plain", plain), ("chunks", chunked), ("chunks of 1,024", larger)):
        free(device)
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        spent = seconds(call, device, repeats=5)
        peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
        found[name] = spent, peak, call()
    what = f"linear_log_probs, {tokens} tokens x {words} words x {width}, bf16, both ways"
    (mine_s, mine, a), (their_s, their, b) = found["chunks"], found["plain"]
    report.row(what, "ms", 1e3 * mine_s, "plain", 1e3 * their_s, their_s / mine_s)
    if device == "cuda":
        report.row(what, "GB above the inputs", mine / 1e9, "plain", their / 1e9, their / mine)
    spent, peak, _ = found["chunks of 1,024"]
    report.row(
        f"{what}, chunks of 1,024", "ms", 1e3 * spent, "plain", 1e3 * their_s, their_s / spent
    )
    if device == "cuda":
        report.row(
            f"{what}, chunks of 1,024",
            "GB above the inputs",
            peak / 1e9,
            "plain",
            their / 1e9,
            their / peak,
        )
    for label, x, y in zip(("values", "to hidden", "to weight"), a, b, strict=True):
        gap = float((x.float() - y.float()).norm() / y.float().norm())
        report.row(
            f"{what}: {label}",
            "relative difference",
            gap,
            "plain; tolerance 0.02",
            None,
            str(gap < 0.02),
        )


def _grads(found, hidden, weight):
    return found.detach(), *torch.autograd.grad(found.mean(), (hidden, weight))
