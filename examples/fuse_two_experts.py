"""Fuse two experts that share a start, and see what each of the three steps does.

    pip install longcat-fusion        python fuse_two_experts.py

It prints what each step leaves of four numbers.
"""

import torch
from longcat_fusion import MergeConfig, merge

base = {"w": torch.zeros(4)}
experts = [{"w": torch.tensor([3.0, 4.0, 0.0, 0.0])}, {"w": torch.tensor([-6.0, 0.0, 8.0, 0.0])}]
plain = MergeConfig(normalise=False, drop=0.0, erase=False)
print("sum       ", merge(base, experts, config=plain)["w"].tolist())
erase = MergeConfig(normalise=False, drop=0.0)
print("erase     ", merge(base, experts, config=erase)["w"].tolist())
normalise = MergeConfig(drop=0.0)
print("normalise ", merge(base, experts, config=normalise)["w"].tolist())
