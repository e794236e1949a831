"""The trainer that distils several teachers: against loops, and that it comes to each of them."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from longcat_gspo import Correction, MopdTrainer, Sample, TrainerConfig
from torch import nn

_spec = importlib.util.spec_from_file_location("gspo_bigram", Path(__file__).with_name("bigram.py"))
_bigram = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_bigram)
Bigram, Out, state_of = _bigram.Bigram, _bigram.Out, _bigram.state_of

CONFIG = TrainerConfig(learning_rate=1e-2, max_grad_norm=1e9)


@dataclass
class Tried:
    """An attempt, as trajectories of DORA are."""

    domain: str
    segments: list
    reward: float = 0.0
    group: str = "g"


def _teacher(seed):
    teacher = Bigram()
    torch.manual_seed(seed)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.8)
    return teacher


def _segment(seed, length):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 12, (length,), generator=g).tolist()
    logs = (-2.4 + 0.5 * torch.randn(length, generator=g)).clamp_max(-0.01).tolist()
    mask = [place % 4 != 0 for place in range(length)]
    return SimpleNamespace(token_ids=ids, loss_mask=mask, log_probs=logs)


def _batch():
    return [
        Tried("a", [_segment(1, 5)], 1.0, "x"),
        Tried("b", [_segment(2, 7), _segment(3, 4), _segment(4, 9)], 0.0, "x"),
        Tried("a", [_segment(5, 6)], 0.0, "y"),
        Tried("b", [_segment(6, 3)], 1.0, "y"),
    ]


def _by_loops(model, teachers, batch, *, low=0.5, high=2.0, max_gap=20.0):
    """The loss by a loop over attempts, segments and tokens, in float64."""
    total = 0.0
    for attempt in batch:
        of_segments = []
        for segment in attempt.segments:
            ids = torch.tensor([segment.token_ids])
            now = model(ids).logits[0].double().log_softmax(-1)
            judged = teachers[attempt.domain](ids).logits[0].detach().double().log_softmax(-1)
            lessons = []
            for place in range(1, len(segment.token_ids)):
                if segment.loss_mask[place]:
                    token = segment.token_ids[place]
                    here = now[place - 1, token]
                    ratio = math.exp(here.item() - segment.log_probs[place])
                    gap = judged[place - 1, token].item() - here.item()
                    gap = max(-max_gap, min(max_gap, gap))
                    lessons.append((ratio if low <= ratio <= high else 0.0) * gap * here)
            of_segments.append(sum(lessons) / len(lessons))
        total = total + sum(of_segments) / len(of_segments)
    return -total / len(batch)


@pytest.mark.parametrize("micro", [10_000, 8])
@pytest.mark.parametrize("bounds", [{}, {"low": 0.9, "high": 1.2, "max_gap": 0.7}])
def test_loss_and_gradient_are_those_of_loops(micro, bounds):
    teachers = {"a": _teacher(1), "b": _teacher(2)}
    student = Bigram()
    expected = _by_loops(student, teachers, _batch(), **bounds)
    gradients = torch.autograd.grad(expected, list(student.parameters()))
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    config = TrainerConfig(learning_rate=1e-2, max_grad_norm=1e9, micro_batch_tokens=micro)
    metrics = MopdTrainer(student, config, teachers=teachers, **bounds).train(_batch())
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert metrics["reward"] == 0.5
    assert metrics["tokens"] == 34
    assert metrics["attempt_tokens"] == 8.5


def test_metrics_say_how_far_the_teachers_are():
    teachers = {"a": _teacher(1), "b": _teacher(2)}
    student = Bigram()
    sums = {"a": [], "b": []}
    for attempt in _batch():
        for segment in attempt.segments:
            ids = torch.tensor([segment.token_ids])
            now, judged = (
                m(ids).logits[0].log_softmax(-1).detach()
                for m in (student, teachers[attempt.domain])
            )
            for place in range(1, len(segment.token_ids)):
                if segment.loss_mask[place]:
                    token = segment.token_ids[place]
                    gap = float(judged[place - 1, token] - now[place - 1, token])
                    sums[attempt.domain].append(math.exp(gap) - 1 - gap)
    metrics = MopdTrainer(student, CONFIG, teachers=teachers, low=1.0, high=1.0).train(_batch())
    for name, values in sums.items():
        assert metrics[f"teacher_kl/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    both = sums["a"] + sums["b"]
    assert metrics["teacher_kl"] == pytest.approx(sum(both) / len(both), rel=1e-4)
    assert metrics["cut_share"] == 1.0
    assert metrics["loss"] == 0.0  # nothing within the bounds


class Told(nn.Module):
    """Begins with a domain; what follows depends on it."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Parameter(torch.randn(12, 12, 12))

    def forward(self, input_ids, attention_mask=None):
        return Out(self.table[input_ids[:, :1], input_ids])


def _sampled(student, domain, seed):
    g = torch.Generator().manual_seed(seed)
    ids, logs = [domain, 3], [0.0, 0.0]
    for _ in range(10):
        log_probs = student(torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()
        token = int(torch.multinomial(log_probs.exp(), 1, generator=g))
        ids.append(token)
        logs.append(float(log_probs[token]))
    mask = [False, False] + [True] * 10
    return SimpleNamespace(token_ids=ids, loss_mask=mask, log_probs=logs)


def test_the_student_comes_to_the_teacher_of_each_domain():
    teachers = {"one": Told(1), "two": Told(2)}
    student = Told(3)
    trainer = MopdTrainer(student, TrainerConfig(learning_rate=0.1), teachers=teachers)

    def distance(domain, name):
        rows = torch.full((1, 12), domain), torch.arange(12)[None]
        ids = torch.stack([torch.cat([rows[0][0, :1], rows[1][0]])])
        p, q = (m(ids).logits[0, 1:].log_softmax(-1).detach() for m in (student, teachers[name]))
        return float((p.exp() * (p - q)).sum(-1).mean())

    before = distance(1, "one"), distance(2, "two")
    for step in range(60):
        batch = [
            Tried(name, [_sampled(student, domain, 100 * step + n)])
            for domain, name in ((1, "one"), (2, "two"))
            for n in range(8)
        ]
        trainer.train(batch)
    assert distance(1, "one") < before[0] / 3
    assert distance(2, "two") < before[1] / 3
    assert distance(1, "two") > before[0] / 3  # not to the other's
    assert trainer.num_batches == 60


def test_a_reward_is_mixed_in_where_it_is_asked_for():
    teachers = {"a": _teacher(1), "b": _teacher(2)}
    states = [
        state_of(_stepped(teachers, reward_weight=weight, baseline=baseline))
        for weight, baseline in ((0.0, "mean"), (0.0, "none"), (0.5, "mean"), (0.5, "none"))
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[2], states[3])


def _stepped(teachers, *, reward_weight, baseline):
    config = TrainerConfig(learning_rate=1e-2, baseline=baseline)
    trainer = MopdTrainer(Bigram(), config, teachers=teachers, reward_weight=reward_weight)
    trainer.train(_batch())
    return trainer


def test_epochs_keep_the_weights_that_sampled_and_teachers_stay():
    teachers = {"a": _teacher(1), "b": _teacher(2)}
    kept = [p.clone() for t in teachers.values() for p in t.parameters()]
    config = TrainerConfig(learning_rate=1e-2, epochs=3)
    trainer = MopdTrainer(Bigram(), config, teachers=teachers, teacher_of=lambda t: t.domain)
    batch = [Tried("a", [_without_log_probs(_segment(1, 8))])]
    trainer.train(batch)
    assert trainer.num_steps == 3
    assert trainer.num_batches == 1
    now = [p for t in teachers.values() for p in t.parameters()]
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(kept, now, strict=True))


def _without_log_probs(segment):
    segment.log_probs = None
    return segment


def test_without_log_probs_ratios_begin_at_one():
    teachers = {"a": _teacher(1)}
    batch = [Tried("a", [_without_log_probs(_segment(1, 8))])]
    metrics = MopdTrainer(Bigram(), CONFIG, teachers=teachers, low=1, high=1).train(batch)
    assert metrics["cut_share"] == 0
    assert metrics["loss"] != 0
    twice = TrainerConfig(learning_rate=1e-2, epochs=2)
    metrics = MopdTrainer(Bigram(), twice, teachers=teachers, low=1, high=1).train(batch)
    assert metrics["cut_share"] > 0.5  # the second step is taken against the weights of before


def test_a_batch_without_a_token_to_learn_takes_no_step():
    segment = _segment(1, 4)
    segment.loss_mask = [False] * 4
    trainer = MopdTrainer(Bigram(), CONFIG, teachers={"a": _teacher(1)})
    before = state_of(trainer)
    metrics = trainer.train([Tried("a", [segment], 1.0)])
    assert torch.equal(before, state_of(trainer))
    assert metrics["reward"] == 1.0
    assert "loss" not in metrics
    assert (trainer.num_batches, trainer.num_steps) == (1, 0)


class Small(Bigram):
    def get_input_embeddings(self):
        return nn.Embedding(11, 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teachers": {}}, "at least one teacher"),
        ({"low": 1.1}, "low <= 1 <= high"),
        ({"max_gap": 0.0}, "max_gap > 0"),
        ({"reward_weight": -1.0}, "reward_weight >= 0"),
        ({"reward_weight": math.nan}, "reward_weight >= 0"),
        ({"teachers": {"a": Small()}}, "student's vocabulary of None tokens, has 11"),
        ({"config": TrainerConfig(kl_coefficient=0.1)}, "no kl_coefficient"),
        ({"config": TrainerConfig(correction=Correction(level="sequence"))}, "and no correction"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, match):
    given = {"teachers": {"a": _teacher(1)}, "config": CONFIG, **change}
    with pytest.raises(ValueError, match=match):
        MopdTrainer(Bigram(), given.pop("config"), **given)


def test_a_student_is_no_teacher_of_its_own():
    student = Bigram()
    with pytest.raises(ValueError, match="'b' must not be trained itself"):
        MopdTrainer(student, CONFIG, teachers={"a": _teacher(1), "b": student})


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ([Tried("c", [_segment(1, 4)])], r"one of the teachers \['a'\], got 'c'"),
        ([Sample(token_ids=[1, 2], loss_mask=[0, 1], log_probs=[0, -1.0])], "got Sample at 0"),
        ([], "at least one sample"),
        ("abc", "attempts with segments, got str"),
    ],
)
def test_a_batch_that_no_teacher_can_judge_is_refused(batch, match):
    trainer = MopdTrainer(Bigram(), CONFIG, teachers={"a": _teacher(1)})
    before = state_of(trainer)
    with pytest.raises(ValueError, match=match):
        trainer.train(batch)
    assert torch.equal(before, state_of(trainer))
    assert trainer.num_batches == 0
