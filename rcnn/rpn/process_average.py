"""Sums of a batch that is spread over processes."""

import torch.distributed as dist
from torch import Tensor


def average_over_processes(total: Tensor) -> Tensor:
    """The mean over all processes of a sum over each one's part of the batch; the sum itself without processes.

    A loss divided by it has the gradients of the whole batch after DDP has averaged them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return total
    total = total.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
