"""Splats from nerfstudio's scene frame to the world: places, sizes, rotations, and colours that depend on the view."""

from math import isqrt, log

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from instance_nerfstudio.export.views import scene_to_world
from instance_nerfstudio.splats.splat_parameters import SplatParameters

_SAMPLES = 256


def splats_to_world(
    splats: SplatParameters, dataparser_transform: Float[Tensor, "3 4"], dataparser_scale: float
) -> SplatParameters:
    """Undoes nerfstudio's scene = scale · (R · world + t) for splats; the pictures from moved cameras stay the same.

    Args:
        splats: in the scene frame, on any device.
        dataparser_transform: (R | t); R turns and may mirror or scale, equally along all axes.
        dataparser_scale: positive.

    Raises:
        ValueError: the transform stretches the axes differently, which no spherical harmonics can follow.
    """
    matrix = dataparser_transform[:, :3].double().cpu()
    edge = float(matrix.det().abs()) ** (1 / 3)
    if not edge > 0 or not torch.allclose(matrix @ matrix.T, edge**2 * torch.eye(3).double(), atol=1e-4 * edge**2):
        raise ValueError("the dataparser's transform is no rotation with a scale")
    scene_from_world = matrix / edge
    world_from_scene = scene_from_world.T
    means = splats.means
    return SplatParameters(
        means=scene_to_world(means, dataparser_transform, dataparser_scale).to(means),
        scales=splats.scales - log(edge * dataparser_scale),
        quats=_turned(splats.quats, world_from_scene),
        features_dc=splats.features_dc,
        features_rest=_turned_harmonics(splats.features_rest, scene_from_world),
        opacities=splats.opacities,
    )


def rotation_of_harmonics(rotation: Float[Tensor, "3 3"], degree: int) -> Float[Tensor, "bases bases"]:
    """Matrix M such that B(rotation · d) · c = B(d) · M · c for each direction d and coefficients c of a degree.

    B are gsplat's basis functions. Least squares over sample directions, float64; exact, since the harmonics of a
    degree turn into one another.

    Args:
        rotation: orthogonal; may mirror.
        degree: 1 to 4.
    """
    # nerfstudio's pinned version; the public function takes CUDA tensors only.
    from gsplat.cuda._torch_impl import _eval_sh_bases_fast

    directions = torch.randn(_SAMPLES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(directions, dim=1)
    first, last = degree**2, (degree + 1) ** 2
    here = _eval_sh_bases_fast(last, directions)[:, first:]
    there = _eval_sh_bases_fast(last, directions @ rotation.double().cpu().T)[:, first:]
    return torch.linalg.lstsq(here, there).solution


def _turned_harmonics(
    coefficients: Float[Tensor, "gaussians bases 3"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "gaussians bases 3"]:
    turned = coefficients.clone()
    for degree in range(1, isqrt(coefficients.shape[1] + 1)):
        bases = slice(degree**2 - 1, (degree + 1) ** 2 - 1)  # degree 0 is kept elsewhere
        matrix = rotation_of_harmonics(rotation, degree).to(coefficients)
        turned[:, bases] = torch.einsum("ij,njc->nic", matrix, coefficients[:, bases])
    return turned


def _turned(quats: Float[Tensor, "gaussians 4"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "gaussians 4"]:
    """Quaternions w x y z after a rotation. A Gaussian is its own mirror image, so -rotation does for a reflection."""
    proper = (rotation * rotation.det().sign()).numpy()
    x, y, z, w = Rotation.from_matrix(proper).as_quat().tolist()
    product = [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]
    return quats @ torch.tensor(product, dtype=quats.dtype, device=quats.device).T
