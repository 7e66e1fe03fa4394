"""Pictures through a lens from pinhole pictures: splats are rendered without distortion, photos are taken with it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

# Tangent of the widest angle from the optical axis that is rendered: a pinhole picture of a half-space is infinite.
_WIDEST = 4.0


def has_lens(camera: Cameras) -> bool:
    """Whether the rays of a camera are not those of a pinhole."""
    distortion = camera.distortion_params
    pinhole = int(camera.camera_type.flatten()[0]) == CameraType.PERSPECTIVE.value
    return not pinhole or (distortion is not None and bool(distortion.any()))


def pinhole_view(camera: Cameras) -> tuple[Cameras, Float[Tensor, "height width 2"]]:
    """A pinhole camera at the same place that sees what a camera with a lens sees.

    Args:
        camera: one, of shape (1,).

    Returns:
        The pinhole camera, with the same focal lengths, and the place (x, y) in its picture, in pixels, of each pixel;
        not a number where that is behind the camera or too far from its axis.
    """
    directions = camera.generate_rays(camera_indices=0).directions @ camera.camera_to_worlds[0, :, :3]
    forward = -directions[..., 2:]
    fx, fy, cx, cy = (float(each.flatten()[0]) for each in (camera.fx, camera.fy, camera.cx, camera.cy))
    slopes = directions[..., :2] / forward * directions.new_tensor([1.0, -1.0])
    seen = (forward > 0) & (slopes.abs() < _WIDEST).all(dim=-1, keepdim=True)
    places = slopes * directions.new_tensor([fx, fy]) + directions.new_tensor([cx, cy])
    places = torch.where(seen, places, torch.nan)
    low = places.masked_fill(~seen, torch.inf).amin(dim=(0, 1)).floor()
    high = places.masked_fill(~seen, -torch.inf).amax(dim=(0, 1)).ceil()
    left, top = low.tolist()
    width, height = (high - low).clamp(min=1).int().tolist()
    pinhole = Cameras(
        camera.camera_to_worlds, fx, fy, cx - left, cy - top, width, height, camera_type=CameraType.PERSPECTIVE
    ).to(camera.device)
    pinhole.metadata = camera.metadata
    return pinhole, places - low


def through_lens(outputs: dict[str, Tensor], places: Float[Tensor, "height width 2"]) -> dict[str, Tensor]:
    """The outputs of `pinhole_view`'s camera as the camera with the lens sees them.

    Colours are interpolated; ids, depths and the like are those of the nearest pixel, and 0 where nothing was rendered.
    """
    height, width = outputs["rgb"].shape[:2]
    seen = places.isfinite().all(dim=-1, keepdim=True)
    column = places[..., 0].nan_to_num(0).floor().clamp(0, width - 1).long()
    row = places[..., 1].nan_to_num(0).floor().clamp(0, height - 1).long()
    size = places.new_tensor([width, height])
    grid = (places.nan_to_num(0) / size * 2 - 1)[None]
    seen_through = {}
    for name, output in outputs.items():
        if name == "rgb":
            picture = output.permute(2, 0, 1)[None]
            found = F.grid_sample(picture, grid.to(output), padding_mode="border", align_corners=False)[0]
            found = found.permute(1, 2, 0)
        else:
            found = output[row.to(output.device), column.to(output.device)]
        seen_through[name] = torch.where(seen.to(output.device), found, torch.zeros_like(found))
    return seen_through
