"""Statistics of a grid that is small enough to count by hand."""

import numpy as np
import pytest

from rcnn.grids import DensityGrid, GridTruth
from rcnn.grids.grid_statistics import REGIONS, grid_regions, grid_statistics, histogram_distance, pooled_statistics

SHAPE = (20, 18, 16)


def _scene() -> tuple[DensityGrid, GridTruth]:
    """A block of 6 x 6 x 6 voxels at (10, 8, 0); its shell is solid and its inside, 4 x 4 x 5 voxels, is unseen."""
    values = np.zeros((*SHAPE, 4), np.float32)
    values[10:16, 8:14, 0:6] = (0.8, 0.4, 0.2, 0.9)
    values[11:15, 9:13, 0:5, 3] = 0.0
    seen = np.ones(SHAPE, bool)
    seen[11:15, 9:13, 0:5] = False
    instances = np.zeros(SHAPE, np.int32)
    instances[10:16, 8:14, 0:6] = 7
    grid = DensityGrid(values, np.zeros(3), np.array(SHAPE) * 0.1, "alpha", seen=seen)
    box = np.array([[10, 8, 0, 16, 14, 6]], float)
    return grid, GridTruth(instances, np.array([7], np.int32), ("block",), box)


def test_regions():
    grid, truth = _scene()
    regions = grid_regions(grid, truth)
    counts = {name: int((regions == number).sum()) for number, name in enumerate(REGIONS)}
    assert counts["shown"] == 216 - 80
    assert counts["hidden"] == 80
    assert counts["unseen"] == 0
    free = regions == REGIONS.index("free")
    expected = np.zeros(SHAPE, bool)
    expected[3:17, 3:15, 3:13] = True
    expected[7:19, 5:17, :9] = False
    assert np.array_equal(free, expected)


def test_numbers():
    grid, truth = _scene()
    numbers = grid_statistics(grid, truth).numbers
    voxels = np.prod(SHAPE)
    assert numbers["occupancy_0.5"] == pytest.approx(136 / voxels)
    assert numbers["seen"] == pytest.approx(1 - 80 / voxels)
    assert numbers["shown_alpha_mean"] == pytest.approx(0.9)
    assert numbers["hidden_solid"] == 0
    assert numbers["free_alpha_mean"] == 0
    assert np.isnan(numbers["unseen_alpha_mean"])
    assert numbers["iou"] == pytest.approx(136 / 216)
    assert numbers["iou_shown"] == 1
    assert numbers["boxes_solid"] == 1
    assert numbers["thickness"] == pytest.approx(0.1)
    assert numbers["saturation"] == pytest.approx(0.6)
    assert numbers["colour_spread"] == pytest.approx(0, abs=1e-6)


def test_pooling_leaves_out_what_is_not_there():
    one = grid_statistics(*_scene())
    table = pooled_statistics([one, one])
    numbers = table["numbers"]
    assert isinstance(numbers, dict)
    assert numbers["unseen_alpha_mean"] == {"mean": None, "std": None, "grids": 0}
    assert numbers["iou"] == {"mean": pytest.approx(136 / 216), "std": 0, "grids": 2}
    histograms = table["alpha_histograms"]
    assert isinstance(histograms, dict)
    assert histograms["unseen"] is None
    assert histograms["shown"][18] == 1 or histograms["shown"][17] == 1
    assert histogram_distance([1.0, 0.0], [0.25, 0.75]) == 0.75
    assert histogram_distance(None, [1.0]) is None
