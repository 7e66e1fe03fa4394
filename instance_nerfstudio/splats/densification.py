"""gsplat's densification, with statistics that are gathered without waiting for the GPU."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor


class Densification(DefaultStrategy):
    """`DefaultStrategy` (Kerbl et al. 2023, section 5) over all Gaussians, seen or not, instead of those seen.

    gsplat picks the seen ones, whose number the host must wait for, four times in an iteration.
    """

    @classmethod
    def of(cls, strategy: DefaultStrategy) -> "Densification":
        """With the same options; silent, since its lines tear progress bars apart."""
        options = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
        return cls(**{**options, "verbose": False})

    @torch.no_grad()
    def _update_state(
        self, params: Mapping[str, Tensor], state: dict[str, Any], info: Mapping[str, Any], packed: bool = False
    ) -> None:
        assert not packed, "the rasterizers here don't pack"
        means2d = info[self.key_for_gradient]
        grads = means2d.absgrad if self.absgrad else means2d.grad  # (cameras, Gaussians, 2), per pixel
        seen = info["radii"] > 0
        cameras = info["n_cameras"]
        across = grads[..., 0] * (info["width"] / 2.0 * cameras)
        down = grads[..., 1] * (info["height"] / 2.0 * cameras)
        for name in ("grad2d", "count", "radii"):
            if state.get(name) is None and (name != "radii" or self.refine_scale2d_stop_iter > 0):
                state[name] = torch.zeros(grads.shape[1], device=grads.device)
        state["grad2d"] += torch.hypot(across, down).where(seen, 0.0).sum(0)
        state["count"] += seen.sum(0)
        if self.refine_scale2d_stop_iter > 0:
            share = info["radii"].amax(0) / float(max(info["width"], info["height"]))
            torch.maximum(state["radii"], share, out=state["radii"])
