"""What a ray through a clicked pixel meets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras

from instance_nerfstudio.export.instance_statistics import SURFACE_ACCUMULATION

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel

# In pixels, as in the viewer's pictures: what is clicked is as sharp as what is seen.
_FOCAL_LENGTH = 400.0


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
    """Renders a picture of one pixel along a ray, given in the scene frame, with the edits of the run."""
    camera = camera_along(origin, direction).to(model.device)
    outputs = model.render(camera)
    pose = camera.camera_to_worlds[0]
    x, y, z = (pose[:, 3] - pose[:, 2] * outputs["depth"].flatten()).tolist()
    hit = float(outputs["accumulation"]) > SURFACE_ACCUMULATION
    return Picked(int(outputs["instance_ids"]) if hit else None, float(outputs["instance_confidence"]), (x, y, z))


def camera_along(origin: Sequence[float], direction: Sequence[float]) -> Cameras:
    """A camera of one pixel, through whose middle the ray goes; upright is any direction."""
    place = torch.tensor(list(origin), dtype=torch.float32)
    ahead = torch.nn.functional.normalize(torch.tensor(list(direction), dtype=torch.float32), dim=0)
    across = torch.nn.functional.one_hot(ahead.abs().argmin(), 3).to(ahead)
    right = torch.nn.functional.normalize(torch.linalg.cross(ahead, across), dim=0)
    pose = torch.stack([right, torch.linalg.cross(right, ahead), -ahead, place], dim=1)
    return Cameras(pose[None], _FOCAL_LENGTH, _FOCAL_LENGTH, 0.5, 0.5, width=1, height=1)
