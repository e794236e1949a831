"""Many expert checkpoints into one, tensor by tensor."""

from ._folders import merge_folders
from ._merge import MergeConfig, merge, merge_tensor

__all__ = ["MergeConfig", "merge", "merge_folders", "merge_tensor"]
