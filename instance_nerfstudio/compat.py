"""The workarounds that nerfstudio 1.1.5 needs on current torch and on closed networks, all in one place."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def allow_numpy_scalars_in_checkpoints() -> None:
    """Lets `torch.load(weights_only=True)` read nerfstudio's checkpoints, also plain nerfacto's.

    nerfstudio's schedulers return `np.float64` learning rates, which end up in the checkpoint and which torch >= 2.6
    refuses. The three names below construct numbers only, so loading stays safe. The scalar's constructor has two
    names because numpy 2 moved it.
    """
    scalar = np.float64(0).__reduce__()[0]
    names: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    torch.serialization.add_safe_globals([*names, np.dtype, type(np.dtype(np.float64))])


class UnavailableLPIPS(nn.Module):
    """Stands in for LPIPS where its AlexNet weights can't be had: answers NaN, has no parameters."""

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        return torch.full((), torch.nan)
