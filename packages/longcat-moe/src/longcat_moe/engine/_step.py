"""One forward pass over a batch, what is sampled from it, and the guess for the next one.

With a guess, a conversation brings two new tokens: its last one and the guess. The model's
distribution after the last one decides: the guess d, drawn from q, is kept with probability
min(1, p(d) / q(d)), and a token is then drawn after it too; else one is drawn from what p has more
of than q. Either way each token is distributed as the model alone would have it.

Source: speculative sampling, arXiv 2211.17192, theorem 1; the head: LongCat-Flash report 2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from longcat_moe._model import LongcatForCausalLM
from longcat_moe._ngram import neighbours

from ._cache import LatentCache, PackedView, Span
from ._request import Draft, Scored, TopLogProbs
from ._sampling import (
    SamplingParams,
    distributions,
    draw,
    is_finite,
    log_probs_of,
    sample,
    steer,
    top_log_probs,
)
from ._scheduler import Work

_SCORED_AT_ONCE = 1 << 22
"""Logits of prompt tokens computed in one product, at most."""


class NotFiniteError(ArithmeticError):
    """A step gave numbers that are none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave one conversation."""

    work: Work
    token_ids: list[int]
    """Empty while a prompt is still being computed."""
    log_probs: list[float]
    num_confirmed: int
    """New tokens whose latents are right: all of them, or all but a guess that was wrong."""
    draft: Draft | None = None
    top: list[TopLogProbs] = field(default_factory=list[TopLogProbs])
    """For each sampled token, where that is wanted."""
    scored: list[Scored] = field(default_factory=list[Scored])
    """Of the prompt tokens after each that was computed."""


@torch.inference_mode()
def compute(
    model: LongcatForCausalLM, cache: LatentCache, batch: list[Work], *, speculate: bool
) -> list[Outcome]:
    """Run the model on the new tokens of a batch.

    Raises:
        NotFiniteError: What a conversation was given, or the weights, led to numbers that are none.
    """
    view = cache.view([work.span for work in batch])
    device = cache.device
    ids = torch.tensor([[t for work in batch for t in work.token_ids]], device=device)
    before = _before(model, batch, device)
    hidden_PD = model.model(ids, None, view.positions_P[None], view, before)[0]
    outcomes = _sample(model, hidden_PD, view, batch)
    _check_finite(hidden_PD, outcomes)
    if any(work.conversation.is_scoring for work in batch):
        outcomes = [
            _score(model, hidden_PD, first, outcome)
            for first, outcome in zip(view.first, outcomes, strict=True)
        ]
    if speculate and any(outcome.token_ids for outcome in outcomes):
        return _guess(model, cache, hidden_PD, view, outcomes)
    return outcomes


def _check_finite(hidden_PD: Tensor, outcomes: list[Outcome]) -> None:
    """Look at what is on the host already, and at states where nothing was sampled from them."""
    is_right = all(is_finite(outcome.log_probs) for outcome in outcomes)
    if is_right and any(len(outcome.work.token_ids) > 1 for outcome in outcomes):
        is_right = bool(hidden_PD.isfinite().all())
    if not is_right:
        raise NotFiniteError("logits must be finite")


def _score(model: LongcatForCausalLM, hidden_PD: Tensor, first: int, outcome: Outcome) -> Outcome:
    """Add what the model says of the prompt tokens that follow those just computed."""
    work, request = outcome.work, outcome.work.conversation.request
    if request is None or request.params.prompt_log_probs is None:
        return outcome
    c, start = work.conversation, work.span.start
    # A token is predicted at the place before it.
    begin = max(start, request.begin - 1)
    end = min(work.span.end, request.begin + request.num_given - 1)
    step = max(1, _SCORED_AT_ONCE // model.config.vocab_size)
    scored: list[Scored] = []
    for place in range(begin, end, step):
        stop = min(place + step, end)
        logits = model.lm_head(hidden_PD[first + place - start : first + stop - start])
        following = torch.tensor(c.tokens[place + 1 : stop + 1], device=logits.device)
        num = request.params.prompt_log_probs
        tops = top_log_probs(logits, num) if num else [[] for _ in range(place, stop)]
        log_probs = log_probs_of(logits, following)
        scored += [Scored(p, top) for p, top in zip(log_probs, tops, strict=True)]
    return replace(outcome, scored=scored)


def _sample(
    model: LongcatForCausalLM, hidden_PD: Tensor, view: PackedView, batch: list[Work]
) -> list[Outcome]:
    ready = [(i, work) for i, work in enumerate(batch) if work.is_last]
    outcomes = [Outcome(work, [], [], len(work.token_ids)) for work in batch]
    if not ready:
        return outcomes
    rows = [
        view.first[i] + len(work.token_ids) - 1 - back
        for i, work in ready
        for back in ((1, 0) if work.has_draft else (0,))
    ]
    logits_RW = model.lm_head(hidden_PD[rows])
    if not any(work.has_draft for _, work in ready):
        sampled = sample_rows(logits_RW, [work for _, work in ready])
        for (i, _), outcome in zip(ready, sampled, strict=True):
            outcomes[i] = outcome
        return outcomes
    return _verify(logits_RW, ready, outcomes)


def sample_rows(logits_RW: Tensor, works: Sequence[Work]) -> list[Outcome]:
    """Sample one token a conversation, from the logits (R, W) after its last new token."""
    params = [work.params for work in works]
    uniforms = [work.conversation.rng.random() for work in works]
    said = None if all(p.is_plain for p in params) else [w.conversation.said() for w in works]
    tokens, log_probs = sample(logits_RW, params, uniforms, said)
    tops = _tops(logits_RW, params)
    return [
        Outcome(work, [token], [log_prob], len(work.token_ids), top=top)
        for work, token, log_prob, top in zip(works, tokens, log_probs, tops, strict=True)
    ]


def _tops(logits_RW: Tensor, params: Sequence[SamplingParams]) -> list[list[TopLogProbs]]:
    """Return for each row, as the only token's, what is wanted beside it."""
    num = max(p.num_top_log_probs for p in params)
    if not num:
        return [[] for _ in params]
    found = top_log_probs(logits_RW, num)
    return [
        [top[: p.num_top_log_probs]] if p.num_top_log_probs else []
        for top, p in zip(found, params, strict=True)
    ]


def _verify(
    logits_RW: Tensor, ready: list[tuple[int, Work]], outcomes: list[Outcome]
) -> list[Outcome]:
    """Keep or replace guesses."""
    params = [work.params for _, work in ready for _ in range(1 + work.has_draft)]
    # Whoever steers has no draft, and so one row.
    said = [work.conversation.said() for _, work in ready for _ in range(1 + work.has_draft)]
    probs_RW = distributions(steer(logits_RW, params, said), params)
    tops = _tops(logits_RW, params)
    place = 0
    for i, work in ready:
        c, draft, width = work.conversation, work.conversation.draft, 1 + work.has_draft
        probs, logits = probs_RW[place : place + width], logits_RW[place : place + width]
        top = [t for row in tops[place : place + width] for t in row]
        place += width
        tokens: list[int] = []
        first = probs[0]
        if work.has_draft:
            assert draft is not None
            guessed = draft.token_id
            if c.rng.random() * float(draft.probs_W[guessed]) < float(first[guessed]):
                tokens.append(guessed)
                first = probs[1]
            else:
                rest = (first - draft.probs_W).clamp_min(0)
                first = rest if float(rest.sum()) > 0 else first  # rounding may leave nothing
        tokens.append(int(draw(first[None], [c.rng.random()])[0]))
        chosen = torch.tensor(tokens, device=logits.device)
        log_probs = log_probs_of(logits[: len(tokens)], chosen)
        num_wrong = int(work.has_draft and len(tokens) == 1)
        num = len(work.token_ids) - num_wrong
        outcomes[i] = Outcome(work, tokens, log_probs, num, top=top[: len(tokens)])
    return outcomes


def _guess(
    model: LongcatForCausalLM,
    cache: LatentCache,
    hidden_PD: Tensor,
    view: PackedView,
    outcomes: list[Outcome],
) -> list[Outcome]:
    """Let the head read what was confirmed, and guess one token further where one was sampled."""
    rows: list[int] = []
    ids: list[int] = []
    spans: list[Span] = []
    for first, outcome in zip(view.first, outcomes, strict=True):
        c, span = outcome.work.conversation, outcome.work.span
        num = outcome.num_confirmed
        rows += range(first, first + num)
        following = [*c.tokens, *outcome.token_ids][span.start + 1 : span.start + 1 + num]
        ids += following
        spans.append(replace(span, num=num))
    head_view = cache.view(spans)
    hidden = model.predict_next(
        hidden_PD[rows][None],
        torch.tensor([ids], device=cache.device),
        head_view.positions_P[None],
        head_view,
    )[0]
    ready = [i for i, o in enumerate(outcomes) if o.token_ids and o.work.params.is_plain]
    if not ready:
        return outcomes
    ends = [head_view.first[i] + spans[i].num - 1 for i in ready]
    logits_RW = model.lm_head(hidden[ends])
    params = [outcomes[i].work.params for i in ready]
    probs_RW = distributions(logits_RW, params)
    uniforms = [outcomes[i].work.conversation.rng.random() for i in ready]
    drawn = draw(probs_RW, uniforms).tolist()
    for i, token, probs in zip(ready, drawn, probs_RW, strict=True):
        outcomes[i] = replace(outcomes[i], draft=Draft(token, probs))
    return outcomes


def _before(model: LongcatForCausalLM, batch: list[Work], device: torch.device) -> Tensor | None:
    """What stands before each new token, for n-gram embeddings: (1, P, N - 1)."""
    config = model.config
    if not config.has_ngrams:
        return None
    num, eos = config.emb_neighbor_num - 1, config.eos_token_id
    found: list[Tensor] = []
    for work in batch:
        start, c = work.span.start, work.conversation
        seen = torch.tensor([[*c.tokens[max(0, start - num) : start], *work.token_ids]])
        found.append(neighbours(seen, num=num, eos=eos)[:, -len(work.token_ids) :])
    return torch.cat(found, dim=1).to(device)
