"""Density grids: the 3D pictures that the detector sees, with their truth, on disk and in memory."""

from rcnn.grids.density_grid import DensityGrid
from rcnn.grids.grid_file import read_density_grid, write_density_grid
from rcnn.grids.grid_truth import GridTruth, read_grid_truth, write_grid_truth

__all__ = [
    "DensityGrid",
    "GridTruth",
    "read_density_grid",
    "read_grid_truth",
    "write_density_grid",
    "write_grid_truth",
]
