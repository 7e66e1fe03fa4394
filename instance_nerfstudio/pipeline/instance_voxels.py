"""The detector's instances as the matchers take them."""

from __future__ import annotations

from pathlib import Path

from instance_nerfstudio.lift.instance_grid import InstanceGrid


def instance_grid(instances: Path | None, density: Path) -> InstanceGrid:
    """Instances of a file, all of them; the density grid's voxels without any where there is none."""
    from rcnn.grids import read_density_grid
    from rcnn.instances import read_instances

    if instances is not None:
        found, frame = read_instances(instances)
        return InstanceGrid.of(found, frame, min_score=-1.0)  # chosen when they were detected
    grid = read_density_grid(density).as_cells()
    return InstanceGrid.empty(grid.bbox_min, grid.bbox_max, grid.resolution)
