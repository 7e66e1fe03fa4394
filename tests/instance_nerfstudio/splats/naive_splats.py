"""Gaussians blended by loops over pixels and Gaussians, from the formulas of the paper in float64; scenes for it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians

INTRINSICS = [[22.0, 0.0, 10.5], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]


def random_scene(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Gaussians, Tensor]:
    """Gaussians around (0, 0, 3), some behind the camera, beside the picture or nearly opaque; and a turned camera."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=draw, dtype=torch.float64) * torch.tensor([0.8, 0.6, 0.8])
    means += torch.tensor([0.0, 0.0, 3.0])
    means[::7, 2] -= 4.5
    gaussians = Gaussians(
        means.to(dtype),
        torch.randn(count, 4, generator=draw, dtype=torch.float64).to(dtype),
        (0.02 + 0.3 * torch.rand(count, 3, generator=draw, dtype=torch.float64) ** 2).to(dtype),
        torch.rand(count, generator=draw, dtype=torch.float64).to(dtype),
    )
    turn = torch.tensor([0.1, -0.15, 0.2], dtype=torch.float64)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.matrix_exp(torch.linalg.cross(torch.eye(3, dtype=torch.float64), turn.expand(3, 3)))
    viewmat[:3, 3] = torch.tensor([0.05, -0.1, 0.2])
    return gaussians, viewmat.to(dtype)


@dataclass
class NaivePicture:
    weights: Tensor
    """[H W N]"""
    depths: Tensor
    """[N]"""

    def blend(self, values: Tensor) -> Tensor:
        return self.weights @ values.double()


def naive_picture(
    gaussians: Gaussians, viewmat: Tensor, intrinsics: Tensor, width: int, height: int, antialiased: bool = False
) -> NaivePicture:
    weights = torch.zeros(height, width, len(gaussians), dtype=torch.float64)
    flat = [_project(gaussians, index, viewmat.double(), intrinsics.double(), width, height, antialiased)
            for index in range(len(gaussians))]  # fmt: skip
    depths = torch.tensor([depth for depth, _ in flat], dtype=torch.float64)
    order = [int(index) for index in depths.argsort(stable=True) if flat[index][1] is not None]
    for row in range(height):
        for column in range(width):
            transmittance = 1.0
            for index in order:
                centre, inverse, opacity, tiles = flat[index][1]  # type: ignore[misc]
                if not (tiles[0] <= column // 16 < tiles[1] and tiles[2] <= row // 16 < tiles[3]):
                    continue
                dx, dy = column + 0.5 - centre[0], row + 0.5 - centre[1]
                power = inverse[0][0] * dx * dx + 2 * inverse[0][1] * dx * dy + inverse[1][1] * dy * dy
                alpha = min(0.999, opacity * math.exp(-power / 2))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                weights[row, column, index] = alpha * transmittance
                transmittance *= 1 - alpha
    return NaivePicture(weights, depths)


def _project(
    gaussians: Gaussians, index: int, viewmat: Tensor, intrinsics: Tensor, width: int, height: int, antialiased: bool
) -> tuple[float, tuple[list[float], list[list[float]], float, tuple[int, int, int, int]] | None]:
    """Depth; centre, inverse covariance, opacity and tiles in the picture where the Gaussian is seen."""
    w, x, y, z = (gaussians.quats[index].double() / gaussians.quats[index].double().norm()).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    to_camera = viewmat[:3, :3]
    centre = to_camera @ gaussians.means[index].double() + viewmat[:3, 3]
    depth = float(centre[2])
    if depth <= 0.01:
        return depth, None
    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    # The projection is made linear where the centre is, or at most 0.15 pictures beside the picture.
    tx = depth * min(max(float(centre[0]) / depth, -(cx + 0.15 * width) / fx), (width - cx + 0.15 * width) / fx)
    ty = depth * min(max(float(centre[1]) / depth, -(cy + 0.15 * height) / fy), (height - cy + 0.15 * height) / fy)
    jacobian = torch.tensor(
        [[fx / depth, 0, -fx * tx / depth**2], [0, fy / depth, -fy * ty / depth**2]], dtype=torch.float64
    )
    root = jacobian @ to_camera @ rotation @ gaussians.scales[index].double().diag()
    sharp = root @ root.T
    blurred = sharp + 0.3 * torch.eye(2, dtype=torch.float64)
    opacity = float(gaussians.opacities[index])
    if antialiased:
        opacity *= math.sqrt(max(0.0, float(sharp.det() / blurred.det())))
    u, v = fx * float(centre[0]) / depth + cx, fy * float(centre[1]) / depth + cy
    half_trace = float(blurred.trace()) / 2
    radius = math.ceil(3 * math.sqrt(half_trace + math.sqrt(max(0.01, half_trace**2 - float(blurred.det())))))
    if u + radius <= 0 or u - radius >= width or v + radius <= 0 or v - radius >= height:
        return depth, None
    tiles = tuple(op((at + sign * radius) / 16) for at in (u, v) for sign, op in ((-1, math.floor), (1, math.ceil)))
    return depth, ([u, v], blurred.inverse().tolist(), opacity, tiles)  # type: ignore[return-value]
