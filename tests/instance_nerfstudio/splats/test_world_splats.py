"""Splats moved from the scene frame to the world look the same from moved cameras."""

import pytest
import torch
from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci, _spherical_harmonics
from scipy.spatial.transform import Rotation
from some_splats import some_splats
from torch.nn.functional import normalize

from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.world_splats import rotation_of_harmonics, splats_to_world

TURN = torch.from_numpy(Rotation.from_euler("xyz", [0.4, -1.1, 2.3]).as_matrix())
MIRROR = torch.diag(torch.tensor([1.0, -1.0, 1.0]).double())
SHIFT = torch.tensor([0.3, -1.2, 0.7]).double()
SCALE = 0.37


def _double(splats: SplatParameters) -> SplatParameters:
    return SplatParameters(**{name: values.double() for name, values in vars(splats).items()})


def _covariances(splats: SplatParameters) -> torch.Tensor:
    covariances, _ = _quat_scale_to_covar_preci(normalize(splats.quats, dim=1), splats.scales.exp(), True, False)
    assert covariances is not None
    return covariances


def _colours(splats: SplatParameters, towards: torch.Tensor, degree: int) -> torch.Tensor:
    """As gsplat sees them from a camera that looks along `towards`."""
    coefficients = torch.cat([splats.features_dc[:, None], splats.features_rest], dim=1)
    return _spherical_harmonics(degree, normalize(towards, dim=1), coefficients)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("edge", [1.0, 2.5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_splats_look_the_same(degree: int, edge: float, mirrored: bool) -> None:
    turn = edge * (TURN @ MIRROR if mirrored else TURN)
    scene = _double(some_splats(50, degree))
    world = splats_to_world(scene, torch.cat([turn, SHIFT[:, None]], dim=1), SCALE)
    # scene = scale · (R · world + t), for the centres and for what surrounds them.
    torch.testing.assert_close(SCALE * (world.means @ turn.T + SHIFT), scene.means)
    linear = SCALE * turn
    torch.testing.assert_close(linear @ _covariances(world) @ linear.T, _covariances(scene))
    directions = torch.randn(50, 3, generator=torch.Generator().manual_seed(5)).double()
    torch.testing.assert_close(
        _colours(world, directions, degree), _colours(scene, directions @ turn.T, degree), rtol=1e-9, atol=1e-9
    )
    assert torch.equal(world.opacities, scene.opacities)
    torch.testing.assert_close(world.quats.norm(dim=1), scene.quats.norm(dim=1))


def test_colours_from_a_camera_in_single_precision() -> None:
    scene = some_splats(200, 3)
    transform = torch.cat([TURN, SHIFT[:, None]], dim=1).float()
    world = splats_to_world(scene, transform, SCALE)
    assert all(values.dtype == torch.float32 for values in vars(world).values())
    camera = torch.tensor([2.0, -1.0, 0.5])
    in_scene = SCALE * (transform[:, :3] @ camera + transform[:, 3])
    seen, expected = (
        _colours(splats, splats.means - place, 3) for splats, place in ((world, camera), (scene, in_scene))
    )
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert (expected - _colours(scene, world.means - camera, 3)).abs().max() > 1  # the turn matters


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_harmonics_turn_without_loss(degree: int) -> None:
    matrix = rotation_of_harmonics(TURN, degree)
    identity = torch.eye(2 * degree + 1).double()
    torch.testing.assert_close(matrix @ matrix.T, identity, rtol=0, atol=1e-9)
    torch.testing.assert_close(rotation_of_harmonics(torch.eye(3), degree), identity, rtol=0, atol=1e-6)
    other = torch.from_numpy(Rotation.from_euler("zx", [1.0, -0.2]).as_matrix())
    # The colour at both · d is that at other · d turned once more.
    torch.testing.assert_close(
        rotation_of_harmonics(TURN @ other, degree), rotation_of_harmonics(other, degree) @ matrix, rtol=0, atol=1e-9
    )


def test_no_splats_and_one() -> None:
    transform = torch.cat([TURN, SHIFT[:, None]], dim=1)
    for count in (0, 1):
        assert len(splats_to_world(some_splats(count, 3), transform, SCALE)) == count


def test_transforms_that_splats_cannot_follow() -> None:
    for matrix in (torch.diag(torch.tensor([1.0, 1.0, 2.0])), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match="no rotation"):
            splats_to_world(some_splats(2, 1), torch.cat([matrix, torch.zeros(3, 1)], dim=1), 1.0)
