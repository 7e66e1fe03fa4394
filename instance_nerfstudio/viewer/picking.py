"""What a ray through a clicked pixel meets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.rays import RayBundle

from instance_nerfstudio.export.instance_statistics import SURFACE_ACCUMULATION

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel


@dataclass(frozen=True)
class Picked:
    """The end of a ray."""

    instance: int | None
    """Id after the edits, 0 for background; None when the ray ends on nothing."""
    confidence: float
    point: tuple[float, float, float]
    """In the scene frame."""


@torch.no_grad()
def pick(model: "InstanceModel", origin: Sequence[float], direction: Sequence[float]) -> Picked:
    """Marches one ray, given in the scene frame, with the edits of the run."""
    origins = torch.tensor([list(origin)], dtype=torch.float32, device=model.device)
    directions = torch.nn.functional.normalize(
        torch.tensor([list(direction)], dtype=torch.float32, device=model.device), dim=-1
    )
    rays = RayBundle(
        origins,
        directions,
        pixel_area=torch.full_like(origins[:, :1], 1e-6),
        camera_indices=torch.zeros_like(origins[:, :1], dtype=torch.long),
    )
    with model.edited():
        outputs = model(rays)
    x, y, z = (origins + directions * outputs["depth"])[0].tolist()
    hit = float(outputs["accumulation"]) > SURFACE_ACCUMULATION
    return Picked(int(outputs["instance_ids"]) if hit else None, float(outputs["instance_confidence"]), (x, y, z))
