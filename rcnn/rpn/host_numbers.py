"""Numbers that the host knows, on the device."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def numbers_on_device(numbers: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Float[Tensor, "*sizes"]:
    """In the dtype and on the device of a tensor, in a copy that the host does not wait for."""
    return torch.tensor(numbers, dtype=like.dtype, pin_memory=like.is_cuda).to(like.device, non_blocking=True)
