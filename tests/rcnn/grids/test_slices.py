import numpy as np

from rcnn.grids import DensityGrid
from rcnn.grids.slices import slice_views


def test_views_look_past_the_cut_without_mirroring():
    rgbsigma = np.zeros((8, 8, 9, 4), np.float32)
    rgbsigma[1, 6, 4] = (1, 0, 0, 1)  # red: low x, high y
    rgbsigma[6, 1, 4] = (0, 0, 1, 1)  # blue: high x, low y
    rgbsigma[1, 1, 1] = (0, 1, 0, 1)  # green: low x, low y, below the cut from above
    grid = DensityGrid(rgbsigma, np.zeros(3), np.array([8.0, 8, 9]), "alpha")

    def seen(axis):
        """Place (0 to 1, to the right and up) of each colour that the view shows."""
        view = slice_views(grid, axis)[0].astype(int)
        places = {}
        for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
            others = view.sum(-1) - view[..., channel]
            rows, columns = np.nonzero((view[..., channel] > 200) & (others < 50))
            if len(rows):
                places[name] = (columns.mean() / view.shape[1] > 0.5, rows.mean() / view.shape[0] < 0.5)
        return places

    # Along +y, x to the right: what lies at high y is behind the cut.
    assert seen(1) == {"red": (False, False)} or seen(1) == {"red": (False, True)}
    # Against x, y to the right: what lies at low x is behind the cut.
    assert {name: right for name, (right, _) in seen(0).items()} == {"red": True, "green": False}
    assert seen(2) == {"green": (False, False)}
