"""Adam in one kernel per parameter."""

from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """nerfstudio's Adam; on a GPU its update is one kernel instead of a dozen."""

    def setup(self, params: Any) -> torch.optim.Optimizer:
        params = list(params)
        options = {name: value for name, value in vars(self).items() if name not in ("_target", "max_norm")}
        return self._target(params, **options, fused=True if all(p.is_cuda for p in params) else None)
