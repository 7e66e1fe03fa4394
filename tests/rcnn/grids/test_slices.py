import numpy as np
import pytest

from rcnn.grids import DensityGrid
from rcnn.grids.slices import slice_views


@pytest.mark.parametrize(
    ("axis", "shown"),
    [
        (2, {"green": (0.1875, 0.1875)}),  # below a third of the height; x to the right, y up
        (1, {"red": (0.1875, 0.75)}),  # along +y what lies at high y is behind the cut; x to the right, z up
        (0, {"red": (0.8125, 0.75), "green": (0.1875, 0.1875)}),  # against x, low x; y to the right, z up
    ],
)
def test_views_look_past_the_cut_without_mirroring(axis, shown):
    rgbsigma = np.zeros((8, 8, 8, 4), np.float32)
    rgbsigma[1, 6, 5:7] = (1, 0, 0, 1)
    rgbsigma[6, 1, 5:7] = (0, 0, 1, 1)
    rgbsigma[1, 1, 1] = (0, 1, 0, 1)
    grid = DensityGrid(rgbsigma, np.zeros(3), np.full(3, 8.0), "alpha")
    view = slice_views(grid, grid.rgb_alpha(), axis)[0]
    found = {}
    for channel, name in enumerate(("red", "green", "blue")):
        rows, columns = np.nonzero((view[..., channel] > 200) & (view.sum(-1, dtype=int) < 300))
        if len(rows):
            found[name] = ((columns.mean() + 0.5) / view.shape[1], 1 - (rows.mean() + 0.5) / view.shape[0])
    assert found == {name: pytest.approx(place) for name, place in shown.items()}
