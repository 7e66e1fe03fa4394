"""Pinhole cameras as rasterizers take them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

VIEW = "splat_view"
"""Key of a training camera's metadata: a number of its own."""


@dataclass(frozen=True)
class PinholeView:
    """Where a picture is taken from, and how large it is."""

    viewmat: Float[Tensor, "4 4"]
    """World to camera, in OpenCV's convention."""
    intrinsics: Float[Tensor, "3 3"]
    """Focal lengths and centre, in pixels."""
    width: int
    height: int

    @classmethod
    def of(cls, camera: Cameras, factor: int, device: torch.device) -> "PinholeView":
        """A camera of shape (1,) at a resolution that is `factor` times smaller, on a device."""
        intrinsics = camera.get_intrinsics_matrices()[0]
        intrinsics[:2] /= factor
        width, height = (int(side.item()) // factor for side in (camera.width, camera.height))
        return cls(view_matrix(camera.camera_to_worlds[0]).to(device), intrinsics.to(device), width, height)


def view_matrix(camera_to_world: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    """World to camera in OpenCV's convention (x right, y down, z forward), of a pose in OpenGL's."""
    rotation = camera_to_world[:, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
    top = torch.cat([rotation.T, -rotation.T @ camera_to_world[:, 3:]], dim=-1)
    return torch.cat([top, top.new_tensor([[0.0, 0.0, 0.0, 1.0]])])


def ray_lengths(camera: Cameras) -> Float[Tensor, "height width 1"]:
    """Length of each pixel's ray from the camera to the plane at distance 1 before it."""
    width, height = int(camera.width.item()), int(camera.height.item())
    device = camera.fx.device
    x = (torch.arange(width, device=device) + 0.5 - camera.cx.flatten()) / camera.fx.flatten()
    y = (torch.arange(height, device=device) + 0.5 - camera.cy.flatten()) / camera.fy.flatten()
    return (1 + x[None].square() + y[:, None].square()).sqrt()[..., None]
