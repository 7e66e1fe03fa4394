"""Density grids in memory: kinds of density, frames, and checks."""

from dataclasses import replace

import numpy as np
import pytest

from rcnn.grids import DensityGrid

LOW, HIGH = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 1.0, 3.5])


def _grid(**changes) -> DensityGrid:
    values = np.random.default_rng(0).random((8, 4, 6, 4), dtype=np.float32)
    return replace(DensityGrid(values, LOW, HIGH, "sigma"), **changes)


def test_alpha_of_every_kind():
    sigma = np.array([0.0, 0.5, 3.0, 1e4], np.float32)
    edge = 0.25
    expected = 1 - np.exp(-sigma.astype(np.float64) * edge)
    values = np.zeros((4, 1, 1, 4), np.float32)

    def alpha(density: np.ndarray, kind: str, **more) -> np.ndarray:
        values[:, 0, 0, 3] = density
        return DensityGrid(values, np.zeros(3), np.array([1.0, 0.25, 0.25]), kind, **more).alpha()[:, 0, 0]  # type: ignore[arg-type]

    np.testing.assert_allclose(alpha(sigma, "sigma"), expected, atol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(alpha(np.log(sigma), "log"), expected, atol=1e-6)
    np.testing.assert_allclose(alpha(expected, "alpha"), expected, atol=1e-6)
    np.testing.assert_allclose(alpha(-sigma, "sigma"), 0)  # a ReLU's density before it
    assert (alpha(np.array([-1e4, 100, 1000, 6e4]), "log") == [0, 1, 1, 1]).all()
    np.testing.assert_allclose(alpha(sigma, "sigma", alpha_distance=0.01), 1 - np.exp(-sigma * 0.01), atol=1e-6)


def test_bytes_are_alpha_and_colours_of_255():
    grid = DensityGrid(np.full((2, 3, 4, 4), 51, np.uint8), LOW, HIGH, "alpha")
    np.testing.assert_allclose(grid.rgb_alpha(), 0.2)
    with pytest.raises(ValueError, match="8-bit"):
        replace(grid, density_kind="log")


def test_rgb_alpha_is_channels_first_in_range_and_float32():
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 4)).astype(np.float16)
    channels = DensityGrid(values, LOW, HIGH, "log").rgb_alpha()
    assert channels.shape == (4, 3, 4, 5)
    assert channels.dtype == np.float32
    assert channels.min() >= 0
    assert channels.max() <= 1
    np.testing.assert_allclose(channels[1], values[..., 1].clip(0, 1).astype(np.float32))


@pytest.mark.parametrize("origin", ["cells", "nodes"])
def test_sample_i_lies_at_i_and_a_half(origin):
    grid = _grid(origin=origin)
    index = np.array([[0, 0, 0], [7, 3, 5], [2, 1, 4]])
    if origin == "cells":
        world = LOW + (index + 0.5) / grid.resolution * (HIGH - LOW)
    else:
        world = LOW + index / (np.array(grid.resolution) - 1) * (HIGH - LOW)
    np.testing.assert_allclose(grid.world_to_voxels(world), index + 0.5)
    np.testing.assert_allclose(grid.voxels_to_world(index + 0.5), world)
    cells = grid.as_cells()
    assert cells.origin == "cells"
    np.testing.assert_allclose(cells.world_to_voxels(world), index + 0.5)
    np.testing.assert_allclose(cells.alpha(), grid.alpha(), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgbsigma": np.zeros((2, 2, 4), np.float32)}, "W, L, H, 4"),
        ({"rgbsigma": np.zeros((2, 0, 2, 4), np.float32)}, "W, L, H, 4"),
        ({"rgbsigma": np.zeros((2, 2, 2, 4), np.int32)}, "floats or bytes"),
        ({"bbox_max": LOW}, "below"),
        ({"bbox_min": LOW * np.nan}, "below"),
        ({"bbox_min": LOW[:2]}, "3 numbers"),
        ({"density_kind": "opacity"}, "density_kind"),
        ({"origin": "corners"}, "origin"),
        ({"seen": np.ones((8, 4, 6), np.uint8)}, "seen"),
        ({"seen": np.ones((8, 4, 5), bool)}, "seen"),
        ({"alpha_distance": 0.0}, "alpha_distance"),
        ({"origin": "nodes", "rgbsigma": np.zeros((2, 1, 2, 4), np.float32)}, "nodes"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        _grid(**changes)
