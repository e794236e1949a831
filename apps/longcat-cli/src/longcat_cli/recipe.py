"""A recipe: every number of a training run, in one frozen object.

TOML files and `--set section.key=value` build the same object. An unknown key is an error that
names its neighbours; a value outside of its range is one that names the key and the rule. What
several keys must keep together is in `checks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

EXPERTS_AT_ONCE = 3
"""Where nobody says: on two cores a pair leaves little idle, and a third shortens the end."""


def _number(
    default: Any, *, least: float = 0, most: float | None = None, above: bool = False
) -> Any:
    """A field with a range: at least (or above) `least`, at most `most`."""
    return field(default=default, metadata={"range": Range(least, most, above)})


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be."""

    least: float
    most: float | None
    above: bool

    def holds(self, value: float) -> bool:
        """Whether a value is inside; NaN and infinity never are."""
        enough = value > self.least if self.above else value >= self.least
        return enough and value < float("inf") and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        rule = f"{'above' if self.above else 'at least'} {self.least:g}"
        return rule if self.most is None else f"{rule} and at most {self.most:g}"


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Environments and tasks."""

    train_tasks: int = _number(900, least=1)
    """Per domain, for cold start and RL."""
    eval_tasks: int = _number(180, least=1)
    """Per domain, held out."""
    id_digits: int = _number(2, least=1, most=6)
    """Digits of a record's number: fewer are easier to copy, and give fewer records."""
    share_compound: float = _number(0.1, most=1)
    """Tasks with two goals."""
    share_clarify: float = _number(0.05, most=1)
    """Tasks whose request leaves something out that the agent must ask for."""
    difficulty: Literal["shallow", "deep"] = "shallow"
    """Of tasks in worlds with a past (domains that end with `.world`; the three keys above are of
    the others): one wish, or several that depend on each other."""
    pasts: int = _number(8, least=1)
    """Pasts of a world that tasks to train on start from; a quarter as many are held out."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A LongCat-Flash architecture; names as in `config.json`."""

    vocab_size: int = _number(1152, least=300)
    """At most so many tokens; what the texts need decides."""
    hidden_size: int = _number(128, least=8)
    """Model width."""
    num_layers: int = _number(2, least=1)
    """Blocks, each of two attentions and one mixture of experts."""
    num_attention_heads: int = _number(4, least=1)
    """Heads."""
    q_lora_rank: int = _number(64, least=1)
    """Width of the compressed queries."""
    kv_lora_rank: int = _number(64, least=1)
    """Width of the compressed keys and values: what the cache holds."""
    qk_nope_head_dim: int = _number(32, least=1)
    """Width of a head's part without positions."""
    qk_rope_head_dim: int = _number(16, least=2)
    """Width of a head's part with positions; even."""
    v_head_dim: int = _number(32, least=1)
    """Width of a head's values."""
    ffn_hidden_size: int = _number(128, least=1)
    """Width of the dense part."""
    expert_ffn_hidden_size: int = _number(64, least=1)
    """Width of one expert."""
    n_routed_experts: int = _number(48, least=1)
    """Experts that compute."""
    zero_expert_num: int = _number(24)
    """Experts that pass their input on, at no cost."""
    moe_topk: int = _number(4, least=1)
    """Experts a token goes to."""
    routed_scaling_factor: float = _number(2.0, above=True)
    """What the experts' sum is multiplied by."""
    rope_theta: float = _number(500.0, least=1)
    """Base of the rotary positions."""
    max_position_embeddings: int = _number(1024, least=16)
    """Longest conversation, in tokens."""
    initializer_range: float = _number(0.03, above=True)
    """Standard deviation of fresh weights."""
    induction: bool = True
    """Start with an induction circuit: see `longcat_moe.init_induction`."""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Supervised steps on verified trajectories."""

    steps: int = _number(1000, least=1)
    """Optimiser steps."""
    batch_tokens: int = _number(640, least=1)
    """Tokens of a step."""
    learning_rate: float = _number(1.8e-3, above=True)
    """Peak rate; it decays by a cosine."""
    warmup_steps: int = _number(20)
    """Steps in which the rate rises."""
    share_alternative: float = _number(0.1, most=1)
    """Trajectories with a detour or a mistake that is recovered from (and masked)."""
    balance_rate: float = _number(0.01)
    """Step of the routers' selection bias."""


@dataclass(frozen=True, kw_only=True)
class Rl:
    """GSPO through DORA, per expert.

    What the defaults rest on is in `benchmarks/RESULTS.md`: on tasks that did not choose them
    they add 1.9 ± 1.8 points over three seeds, no more than other gentle settings (one epoch;
    `mean_std` with one, as the report states it); five times the rate, or `mean_std` with four
    epochs, lose points.
    """

    steps: int = _number(30)
    """Batches that are trained on."""
    groups_per_batch: int = _number(8, least=1)
    """Groups of a batch."""
    max_groups_per_step: int = _number(48, least=1)
    """Groups tried per step on average, at most: ends a run that finds nothing to learn."""
    group_size: int = _number(8, least=2)
    """Attempts at one task; at the tasks of a batch on average, if `budget` is not `even`."""
    budget: Literal["even", "knapsack", "coba"] = "even"
    """How attempts are shared out among tasks: alike, or by what they are worth at the pass rates
    seen so far (see `longcat_gspo.allocate_budget`). Measured, it did not pay: so alike."""
    budget_low: int = _number(4, least=2)
    """Fewest attempts at a task, if `budget` is not `even`."""
    budget_high: int = _number(24, least=2)
    """Most attempts at a task, if `budget` is not `even`."""
    soft_staleness: int = _number(2)
    """Mean staleness that is aimed at, in versions."""
    hard_staleness: int = _number(4)
    """Staleness that nothing trained on exceeds, in versions."""
    learning_rate: float = _number(2e-4, above=True)
    """Rate after the warm-up."""
    warmup_steps: int = _number(8)
    """Optimiser steps, of which each batch takes `epochs`."""
    epochs: int = _number(4, least=1)
    """Passes over a batch."""
    objective: Literal["gspo", "gspo_token", "grpo", "dapo", "triplet"] = "gspo"
    """What is maximised: see `longcat_gspo.TrainerConfig`."""
    baseline: Literal["none", "mean", "mean_std", "leave_one_out"] = "none"
    """What rewards are compared with: see `longcat_gspo.group_advantages`."""
    clip_low: float = _number(0.05, above=True, most=1)
    """How far below 1 a sequence's ratio still counts."""
    clip_high: float = _number(0.08, above=True)
    """How far above 1."""
    at_bound: Literal["wait", "discard", "continue", "mask"] = "wait"
    """What happens at the hard bound: see `longcat_dora.AtBound`."""
    runtime: Literal["local", "ray"] = "local"
    """Where controllers run: processes of this machine, or actors of a Ray cluster."""
    ray_address: str = ""
    """Of the cluster; Ray is started on this machine when empty."""
    num_controllers: int = _number(1, least=1)
    """Processes that sample."""
    experts_at_once: int = _number(0)
    """Experts that are trained beside each other; 0: three, but one by one on a GPU or with Ray,
    where each has all of it."""
    max_running: int = _number(128, least=1)
    """Attempts under way at once."""
    max_tokens: int = _number(48, least=1)
    """Per assistant turn."""
    max_length: int = _number(704, least=16)
    """Of a trajectory, in tokens."""
    max_turns: int = _number(8, least=1)
    """Assistant turns of an attempt."""
    temperature: float = _number(1.0, above=True)
    """Of sampling, in training and evaluation."""
    save_every: int = _number(10, least=1)
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Imperfect users and tools during RL."""

    levels: list[float] = field(
        default_factory=lambda: [0.0, 0.15, 0.3], metadata={"range": Range(0, 1, False)}
    )
    """What the curriculum climbs, rising."""
    max_gap: float = _number(0.15, above=True, most=0.7)
    """Climb once clean minus noisy pass rate is surely below a third more than this."""
    min_pass_rate: float = _number(0.4, most=1)
    """Do not climb while the clean pass rate is below this."""
    share_clean: float = _number(0.6, most=1)
    """Episodes without noise, by which the gap is measured."""


@dataclass(frozen=True, kw_only=True)
class Fuse:
    """Experts into one."""

    normalise: bool = True
    """Bring the experts' changes to one size."""
    drop: float = _number(0.05, most=1)
    """Share of each change that is dropped at random, the rest scaled up."""
    erase: bool = True
    """Erase what contradicts the majority's sign."""
    scale: float = _number(1.0)
    """Times the average of the experts' task vectors."""
    road: Literal["imitate", "distil"] = "imitate"
    """What the merged model learns from: the experts' successful trajectories, or the experts'
    judgement of each token that it samples itself (MOPD). In recipe `mini` at equal compute the
    first is better: `benchmarks/RESULTS.md`."""
    steps: int = _number(200)
    """Supervised steps after the merge, to imitate; 0 for none."""
    batch_tokens: int = _number(640, least=1)
    """Tokens of a step."""
    learning_rate: float = _number(4e-4, above=True)
    """Peak rate; it decays linearly."""
    per_task: int = _number(2, least=1)
    """Trajectories of a task at most, the newest."""
    distil_steps: int = _number(24)
    """Batches of attempts that the experts judge, to distil; 0 for none."""
    distil_attempts: int = _number(32, least=1)
    """Attempts of a batch."""
    distil_learning_rate: float = _number(4e-4, above=True)
    """Peak rate; it decays linearly."""
    head_steps: int = _number(100)
    """Steps that train a head for `serve --speculate`, which changes no answer; 0 for none."""
    head_learning_rate: float = _number(3e-3, above=True)
    """Of the head alone."""

    @property
    def steps_of_road(self) -> int:
        """Before the head's."""
        return self.distil_steps if self.road == "distil" else self.steps


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Held-out tasks."""

    tasks: int = _number(180, least=1)
    """Per domain."""
    noise: list[float] = field(
        default_factory=lambda: [0.0, 0.3], metadata={"range": Range(0, 1, False)}
    )
    """Levels to be asked at."""
    processes: int = _number(2, least=1)
    """Cells evaluated at once."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of `longcat train`."""

    name: str = "mini"
    """What the report calls the run."""
    seed: int = _number(0)
    """Of tasks, weights, sampling and noise."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run."""
    groups: dict[str, list[str]] = field(
        default_factory=lambda: {"clinic": ["clinic"], "library": ["library"], "shop": ["shop"]}
    )
    """Expert to the domains it is trained on; a domain is a shipped name, a TOML file, or a world
    with a past (`bank.world`, or a file)."""
    grow: Grow = field(default_factory=Grow)
    model: Model = field(default_factory=Model)
    cold_start: ColdStart = field(default_factory=ColdStart)
    rl: Rl = field(default_factory=Rl)
    noise: Noise = field(default_factory=Noise)
    fuse: Fuse = field(default_factory=Fuse)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def experts_at_once(self) -> int:
        """Experts that are trained beside each other, at most."""
        is_shared = self.device == "cpu" and self.rl.runtime == "local"
        return self.rl.experts_at_once or (EXPERTS_AT_ONCE if is_shared else 1)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        experts = [f"expert-{group}" for group in self.groups]
        return ["grow", "cold_start", *experts, "fuse", "evaluate", "report"]

    @property
    def domains(self) -> list[str]:
        """All domains, once each, in order."""
        return list(dict.fromkeys(domain for group in self.groups.values() for domain in group))
