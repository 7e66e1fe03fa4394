"""`density`: the field as a grid of densities and colours, as the detector takes it."""

from __future__ import annotations

from functools import partial
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.radiance import radiance_config

GRID_FILE = "density.npz"


def density_stage(options: SceneOptions) -> Stage:
    """Samples the radiance field."""
    return Stage(
        name="density",
        run=partial(_sample, options),
        after=("radiance",),
        options={"resolution": options.density.resolution},
        products=(GRID_FILE,),
    )


def _sample(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    import torch

    from instance_nerfstudio.export.density import MAX_RESOLUTION, SOLID_ALPHA, density_grid
    from instance_nerfstudio.export.density_field import DensitySamplingConfig
    from instance_nerfstudio.pipeline.open_field import open_field
    from rcnn.grids import write_density_grid
    from rcnn.grids.slices import write_slices

    resolution = options.density.resolution
    if not 2 <= resolution <= MAX_RESOLUTION:
        raise InputError(f"--resolution {resolution}: must lie between 2 and {MAX_RESOLUTION}")
    depth_size = DensitySamplingConfig.depth_size if torch.cuda.is_available() else 80
    config = DensitySamplingConfig(resolution=resolution, depth_size=depth_size)
    path = radiance_config(context)
    try:
        grid, source = density_grid(open_field(path, options.data), config, context.progress)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_density_grid(context.work / GRID_FILE, grid)
    write_slices(context.work / "slices.png", grid)
    size = "x".join(map(str, grid.resolution))
    solid = float((grid.alpha() > SOLID_ALPHA).mean())
    return {
        "resolution": list(grid.resolution),
        "voxel_size": float(grid.voxel_size[0]),
        "solid": round(solid, 5),
        "box": source,
        "summary": f"{size} voxels of {grid.voxel_size[0]:.3g}, {solid:.1%} solid",
    }
