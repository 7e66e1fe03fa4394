"""`ns-export density`: the density grid of a trained field, as detectors take it."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density_box import scene_bbox
from instance_nerfstudio.export.density_field import (
    DensitySamplingConfig,
    sample_density_grid,
    scene_from_world,
)
from instance_nerfstudio.export.density_visibility import render_depth_maps
from instance_nerfstudio.export.views import corrected_cameras
from instance_nerfstudio.load_run import load_run
from rcnn.grids import DensityGrid, write_density_grid
from rcnn.grids.published import write_published_grid
from rcnn.grids.slices import write_slices

MAX_RESOLUTION = 256
# What a voxel must absorb to count as something.
SOLID_ALPHA = 0.1
# Cosine between the world's z axis and the upright direction that nerfstudio found.
_UPRIGHT = 0.9


@dataclass
class ExportDensity:
    """Sample the density grid of a trained nerfacto or instance-nerfacto.

    The grid covers the room that the data name (`room_bbox` in transforms.json, else the point cloud), or where the
    cameras see surfaces. A picture of its slices is written beside it.
    """

    load_config: Path
    """Path to the config YAML file of the trained run."""
    output: Path
    """File to write (.npz)."""
    resolution: int = 256
    """Voxels along the longest side, 256 at most."""
    bbox: tuple[float, float, float, float, float, float] | None = None
    """Box to cover, x1 y1 z1 x2 y2 z2 in world units."""
    margin: float = 0.0
    """World units by which the box is widened on every side."""
    format: Literal["grid", "nerf-rpn"] = "grid"
    """`grid`: density per world unit, with what no camera saw; `nerf-rpn`: the published layout, with alpha."""
    samples_per_axis: int = 2
    """Samples along each edge of a voxel; 1 is faster and coarser."""
    overwrite: bool = False
    """Replace an earlier file, once the new one is complete."""

    def main(self) -> None:
        """Loads the run and exports its grid.

        Raises:
            InputError: the run, the options or the output file are unusable.
        """
        self._check()
        pipeline = load_run(self.load_config)
        config = DensitySamplingConfig(resolution=self.resolution, samples_per_axis=self.samples_per_axis)
        columns = (TextColumn("{task.description:>20}"), BarColumn(bar_width=50), TimeElapsedColumn())
        bbox = None if self.bbox is None else np.array(self.bbox, np.float64).reshape(2, 3)
        with Progress(*columns, console=CONSOLE) as progress:
            try:
                grid, source = density_grid(pipeline, config, progress, bbox, self.margin)
            except InputError as error:
                raise InputError(f"{self.load_config}: {error}") from error
        picture = self.output.with_suffix(".png")
        try:
            write_slices(picture, grid)
            (write_published_grid if self.format == "nerf-rpn" else write_density_grid)(self.output, grid)
        except OSError as error:
            raise InputError(f"{self.output}: cannot be written ({error.strerror}); choose another --output") from error
        if abs(grid.world_from_scene[2, 2]) / np.linalg.norm(grid.world_from_scene[:3, 2]) < _UPRIGHT:
            CONSOLE.print("[yellow]The world's z axis seems not to point up; detectors expect that it does.")
        size, edge = "x".join(map(str, grid.resolution)), grid.voxel_size[0]
        seen, solid = 0.0 if grid.seen is None else grid.seen.mean(), (grid.alpha() > SOLID_ALPHA).mean()
        CONSOLE.print(
            f"[bold green]:white_check_mark: {size} voxels of {edge:.4g}, {seen:.0%} seen, {solid:.1%} solid, box from "
            f"{source}: {self.output}, {picture}",
            soft_wrap=True,
        )

    def _check(self) -> None:
        if self.output.suffix != ".npz":
            raise InputError(f"{self.output}: must end in .npz; choose another --output")
        if self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output}: exists; choose another --output, or replace it with --overwrite True")
        if not 2 <= self.resolution <= MAX_RESOLUTION:
            raise InputError(f"--resolution {self.resolution}: must lie between 2 and {MAX_RESOLUTION}")
        if not 1 <= self.samples_per_axis <= 8:
            raise InputError(f"--samples-per-axis {self.samples_per_axis}: must lie between 1 and 8")
        if self.bbox is not None and not all(a < b for a, b in zip(self.bbox[:3], self.bbox[3:], strict=True)):
            raise InputError(f"--bbox {' '.join(map(str, self.bbox))}: x1 y1 z1 must lie below x2 y2 z2")


def density_grid(
    pipeline: Any,
    config: DensitySamplingConfig,
    progress: Progress,
    bbox: Float[np.ndarray, "2 3"] | None = None,
    margin: float = 0.0,
) -> tuple[DensityGrid, str]:
    """The density grid of a loaded pipeline in evaluation mode, and what its box is from.

    Args:
        pipeline: of nerfacto or a method derived from it.
        config: resolution and chunks.
        progress: gets one task.
        bbox: corners in world units; found from the data or the field when None.
        margin: world units added on every side.

    Raises:
        InputError: another method's pipeline, or a box without anything that the cameras see.
    """
    model, datamanager = pipeline.model, pipeline.datamanager
    if not isinstance(model, NerfactoModel):
        raise InputError("not a nerfacto or instance-nerfacto run; train one of these methods")
    outputs = datamanager.train_dataparser_outputs
    to_scene = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
    to_world = np.linalg.inv(to_scene)
    cameras = corrected_cameras(datamanager.train_dataset.cameras, model.camera_optimizer)
    if len(cameras) > config.max_views:
        cameras = cameras[np.linspace(0, len(cameras) - 1, config.max_views).round().astype(int)]
    task = progress.add_task("Density grid", total=1.0)
    views = render_depth_maps(
        model,
        deepcopy(cameras),
        config.depth_size,
        config.rays_per_chunk,
        lambda share: progress.update(task, advance=0.3 * share),
    )
    source = "--bbox"
    if bbox is None:
        data = datamanager.config.data or getattr(datamanager.config.dataparser, "data", None)
        # Views that look at one surface agree on its depth to a few percent; more would count what lies behind walls.
        tolerance = 0.05 * float(views.depth[views.accumulation > 0.5].median()) if views.accumulation.any() else 0.0
        bbox, source = scene_bbox(None if data is None else Path(data), views, to_world, tolerance)
    box = np.asarray(bbox) + margin * np.array([[-1.0], [1.0]])
    if not (box[1] > box[0]).all():
        raise InputError(f"the box from {source} has no extent; give one with --bbox")
    grid = sample_density_grid(
        model, views, to_scene, box, config, lambda share: progress.update(task, advance=0.7 * share)
    )
    assert grid.seen is not None
    if not (grid.seen & (grid.alpha() > SOLID_ALPHA)).any():
        raise InputError(
            f"the box from {source} contains nothing that a camera sees; train the field longer, or give another box"
        )
    return grid, source
