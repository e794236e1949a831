"""What several processes that train one model do together; alone, each of these is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

_DATA_PARALLEL = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Together:
    """Sums over the processes of an accelerator.

    Args:
        accelerator: Knows the processes.
        device: Where numbers are added up.
        is_sharded: Whether weights are spread over the processes (FSDP2).
    """

    def __init__(self, accelerator: Accelerator, device: torch.device, *, is_sharded: bool) -> None:
        self._accelerator, self._device, self._is_sharded = accelerator, device, is_sharded

    @property
    def num(self) -> int:
        """Processes."""
        return self._accelerator.num_processes

    def totals(self, *numbers: float) -> list[float]:
        """Add numbers up over all processes."""
        if self.num == 1:
            return list(map(float, numbers))
        mine = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(mine)
        return mine.tolist()

    def num_missing(self, num: int) -> int:
        """Dummy passes that this process runs: sharded weights are gathered by all together."""
        if not self._is_sharded:
            return 0
        most = torch.tensor(num, device=self._device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most) - num

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to what is there."""
        # FSDP takes the mean of all processes' gradients, where the loss is their sum.
        self._accelerator.backward(loss * self.num if self._is_sharded else loss)

    def add_up_gradients(self, model: nn.Module) -> None:
        """Give every process the sum of all processes' gradients; FSDP has done so."""
        if self._accelerator.distributed_type not in _DATA_PARALLEL or self._is_sharded:
            return
        for parameter in (p for p in model.parameters() if p.requires_grad):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
