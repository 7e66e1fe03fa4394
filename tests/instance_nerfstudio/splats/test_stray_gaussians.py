"""Gaussians of an instance that lie apart from it."""

from typing import Any

import numpy as np
import pytest
import torch
from some_splats import flat_splats, joined

from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.stray_gaussians import StrayGaussiansConfig, stray_gaussians

RNG_SEED = 3


def _sphere(count: int, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    directions = np.random.default_rng(RNG_SEED).normal(size=(count, 3))
    return np.array(centre) + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _sheet(size: float, spacing: float, corner: tuple[float, float, float]) -> np.ndarray:
    along = np.arange(0, size, spacing)
    x, y = np.meshgrid(along, along)
    return np.array(corner) + np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)


def _stray(*parts: SplatParameters, config: StrayGaussiansConfig | None = None) -> list[float]:
    """Share of strays in each part, all of instance 7."""
    splats = joined(*parts)
    found = stray_gaussians(splats, torch.full((len(splats),), 7, dtype=torch.int32), config or StrayGaussiansConfig())
    assert found.dtype == torch.bool
    return [float(part.float().mean()) for part in found.split([len(part) for part in parts])]


def test_scattered_gaussians_and_small_clusters_are_strays() -> None:
    ball = flat_splats(_sphere(3000, (0, 0, 0), 0.5))
    scattered = flat_splats(np.random.default_rng(0).uniform(1.5, 9.0, (40, 3)))
    leak = flat_splats(_sphere(60, (0, 2, 0), 0.05))
    assert _stray(ball, scattered, leak) == [0, 1, 1]


def test_both_halves_of_an_object_stay() -> None:
    halves = [flat_splats(_sheet(1.0, 0.03, corner)) for corner in ((0, 0, 0), (2, 0, 0))]
    assert _stray(*halves) == [0, 0]
    smaller = flat_splats(_sheet(0.4, 0.03, (2, 0, 0)))  # 0.16 of the other's area
    assert _stray(halves[0], smaller) == [0, 0]
    assert _stray(halves[0], smaller, config=StrayGaussiansConfig(least_part=0.3)) == [0, 1]


def test_the_scene_frames_unit_does_not_matter() -> None:
    for unit in (1e-3, 1e3):
        ball = flat_splats(unit * _sphere(1000, (0, 0, 0), 0.5), 0.02 * unit)
        assert _stray(ball, flat_splats(unit * np.array([[0.0, 3, 0]]), 0.02 * unit)) == [0, 1]


@pytest.mark.parametrize(("gap", "strays"), [(0.098, 1), (0.352, 2)])
def test_the_reach_is_the_same_in_all_directions(gap: float, strays: int) -> None:
    # 500 instances: 30 Gaussians in a clump, another at some distance from it, one far away.
    rng = np.random.default_rng(RNG_SEED)
    centres = rng.uniform(-1, 1, (500, 1, 3))
    clumps = centres + 1e-3 * rng.uniform(-1, 1, (500, 30, 3))
    near = centres + gap * _sphere(500, (0, 0, 0), 1.0)[:, None]
    far = np.full((500, 1, 3), -9.0)
    splats = flat_splats(np.concatenate([clumps, near, far], axis=1).reshape(-1, 3), 0.05)
    # Centres alone are matter, and the reach is twice the size: 0.1.
    found = stray_gaussians(splats, torch.arange(1, 501).repeat_interleave(32), StrayGaussiansConfig(extent=0.0))
    assert (found.reshape(500, 32).sum(dim=1) == strays).all()
    assert found.reshape(500, 32)[:, 32 - strays :].all()


def test_bare_surfaces_of_few_large_gaussians_stay() -> None:
    # Half of a table top is textured: 2500 small Gaussians. The other half is bare: 25 large ones, ten times as far
    # apart, which hang together only by their size.
    textured = flat_splats(_sheet(1.0, 0.02, (0, 0, 0)), 0.015)
    bare = flat_splats(_sheet(1.0, 0.2, (1.1, 0, 0)), 0.15)
    assert _stray(textured, bare) == [0, 0]
    small = flat_splats(_sheet(1.0, 0.2, (1.1, 0, 0)), 0.002)
    assert _stray(textured, small) == [0, 1]


def test_large_gaussians_reach_along_their_own_axes_only() -> None:
    sheet = flat_splats(_sheet(1.0, 0.02, (0, 0, 0)), 0.015)
    above = flat_splats(np.array([[0.5, 0.5, 0.3]]), 0.3)
    assert _stray(sheet, above) == [0, 1]
    upright = SplatParameters(**{**vars(above), "quats": torch.tensor([[1.0, 0, 1, 0]])})  # about y: x becomes z
    assert _stray(sheet, upright, config=StrayGaussiansConfig(longest=10)) == [0, 0]
    assert _stray(sheet, upright, config=StrayGaussiansConfig(longest=0)) == [0, 1]


def test_faint_haze_weighs_little_and_a_giant_not_all() -> None:
    ball = flat_splats(_sphere(1000, (0, 0, 0), 0.5))
    haze = flat_splats(_sphere(900, (0, 3, 0), 0.5), opacity=0.01)
    giant = flat_splats(np.array([[20.0, 0, 0]]), 2.0)
    assert _stray(ball, haze, giant) == [0, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_instance_of_few_gaussians_stays(count: int) -> None:
    assert _stray(flat_splats(np.arange(3.0 * count).reshape(count, 3))) == [0]


def test_all_at_one_point() -> None:
    assert _stray(flat_splats(np.zeros((10, 3)))) == [0]
    assert _stray(flat_splats(np.zeros((10, 3)), size=1e-30)) == [0]


def test_a_point_at_the_end_of_the_world() -> None:
    assert _stray(flat_splats(_sphere(1000, (0, 0, 0), 0.5)), flat_splats(np.array([[1e12, -1e12, 1e12]]))) == [0, 1]


def test_instances_are_looked_at_one_by_one() -> None:
    # Each instance's strays lie within the other.
    balls = [_sphere(500, (0, 0, 0), 0.5), _sphere(500, (4, 0, 0), 0.5)]
    splats = joined(*(flat_splats(points) for points in (*balls, balls[1][:5], balls[0][:5])))
    ids = torch.tensor([1] * 500 + [70000] * 500 + [1] * 5 + [70000] * 5, dtype=torch.int32)
    order = torch.randperm(1010, generator=torch.Generator().manual_seed(0))
    found = stray_gaussians(splats.select(order), ids[order])
    assert torch.equal(found, order >= 1000)


def test_background_abstaining_and_broken_gaussians() -> None:
    splats = joined(flat_splats(_sphere(100, (0, 0, 0), 0.5)), flat_splats(np.array([[9.0, 0, 0], [9, 0, 0]])))
    ids = torch.full((102,), 1, dtype=torch.int32)
    ids[100:] = torch.tensor([0, -1])
    splats.means[3, 0] = float("nan")
    splats.scales[4, 0] = float("inf")
    found = stray_gaussians(splats, ids)
    assert found.nonzero()[:, 0].tolist() == [3, 4]
    assert not stray_gaussians(splats, torch.zeros_like(ids)).any()
    assert not stray_gaussians(splats.select(ids > 5), ids[:0]).any()
    assert stray_gaussians(splats.select(torch.tensor([3])), ids[:1]).tolist() == [True]


def test_bad_options() -> None:
    bad: list[dict[str, Any]]
    bad = [{"reach": 0.0}, {"reach": float("nan")}, {"extent": -1.0}, {"least_part": -0.1}, {"longest": -1}]
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            StrayGaussiansConfig(**options)
