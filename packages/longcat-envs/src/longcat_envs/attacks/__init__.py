"""Attacks on tasks: wrong chains, verifier mutants, words, and agents careless and careful."""

from ._agents import CAREFUL, CARELESS, Agent, run_agents
from ._audit import Finding, admitted, agents_domain, audit_domain, audit_task
from ._chains import wrong_chains
from ._mutants import goal_mutants, unnoticed
from ._script import Act, Played, Say, golden_acts, play
from ._words import word_faults

__all__ = [
    "CAREFUL", "CARELESS", "Act", "Agent", "Finding", "Played", "Say", "admitted", "agents_domain",
    "audit_domain", "audit_task", "goal_mutants", "golden_acts", "play", "run_agents",
    "unnoticed", "word_faults", "wrong_chains",
]  # fmt: skip
