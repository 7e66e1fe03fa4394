"""The demo's room on disk: pictures, instance masks, cameras, boxes and voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rcnn.rooms.cameras import CameraConfig, choose_cameras, focal_length
from rcnn.rooms.irradiance import IrradianceConfig, bake_irradiance, choose_exposure
from rcnn.rooms.layouts.demo import furnish_demo
from rcnn.rooms.new_folder import new_folder
from rcnn.rooms.raycast import ray_pool
from rcnn.rooms.render import Lighting, Pinhole, render_view, write_png
from rcnn.rooms.scene import build_scene
from rcnn.rooms.textures import paint_textures
from rcnn.rooms.truth import box_of_room, instance_rows, transforms
from rcnn.rooms.voxels import voxelise
from rcnn.safe_files import write_json
from rcnn.worker_pool import core_count


@dataclass(frozen=True)
class RoomConfig:
    """What `make_room` builds; the same values give the same bytes."""

    seed: int = 0
    """Chooses sizes, colours, details, cameras, and whether the plan is mirrored."""
    width: int = 320
    """Picture width in pixels."""
    height: int = 240
    """Picture height in pixels."""
    num_views: int = 60
    """Pictures in all."""
    num_held_out: int = 6
    """Pictures of these that are listed as validation and test views, not for training."""
    samples_per_pixel: int = 4
    """Rays averaged in one pixel of a picture. Masks are taken at pixel centres."""
    voxel_resolution: int = 160
    """Voxels along the longest side of the room."""
    num_workers: int | None = None
    """Ray casting processes; all cores this process may use when None. Does not change the result."""
    light: IrradianceConfig = field(default_factory=IrradianceConfig)
    """Quality of the baked light."""
    cameras: CameraConfig = field(default_factory=CameraConfig)
    """Rules for the views."""

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, got {self.seed}")
        for name in ("width", "height", "num_views", "samples_per_pixel", "voxel_resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.num_held_out < self.num_views:
            raise ValueError(f"num_held_out must lie between 1 and num_views - 1, got {self.num_held_out}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


def make_room(
    output_dir: Path, config: RoomConfig = RoomConfig(), advance: Callable[[float], object] = lambda share: None
) -> Path:
    """Builds a furnished room and returns its folder, which must not exist yet.

    The folder holds `transforms.json` (nerfstudio's format; OpenGL cameras, z up, metres), `images/*.png`,
    `instance_masks/*.png` (16 bit; 0 background, 1..K instances), `instances.json` (category, colour, boxes in metres)
    and `gt_voxels.npz`. It appears only when it is complete. `advance` is told each share of the work that is done;
    shares add up to 1.
    """
    with new_folder(Path(output_dir)) as unfinished:
        _build(unfinished, config, advance)
    return Path(output_dir)


def _build(folder: Path, config: RoomConfig, advance: Callable[[float], object]) -> None:
    workers = config.num_workers or core_count()
    room = furnish_demo(config.seed)
    scene = build_scene(room, paint_textures(config.seed))
    advance(0.04)
    camera = Pinhole(config.width, config.height, focal_length(config.width, config.cameras.horizontal_fov))
    (folder / "images").mkdir()
    (folder / "instance_masks").mkdir()
    pixels = np.zeros(len(room.pieces) + 1, np.int64)
    with ray_pool(scene, workers) as pool:
        plan = choose_cameras(
            pool, scene, room.pieces, config.num_views, config.num_held_out, config.cameras, config.seed
        )
        irradiance = bake_irradiance(pool, scene, config.light, config.seed, lambda share: advance(0.30 * share))
        lighting = Lighting(irradiance, choose_exposure(scene, irradiance))
        jobs = [(pose, camera, lighting, config.samples_per_pixel) for pose in plan.poses]
        for number, (picture, ids) in enumerate(pool.map(render_view, jobs)):
            write_png(folder / "images" / f"{number:04d}.png", picture[..., ::-1])
            write_png(folder / "instance_masks" / f"{number:04d}.png", ids.astype(np.uint16))
            pixels += np.bincount(ids.ravel(), minlength=len(pixels))
            advance(0.64 / len(jobs))
    grid = voxelise(room.pieces, scene.size, config.voxel_resolution)
    np.savez_compressed(
        folder / "gt_voxels.npz", instances=grid.instances, bbox_min=grid.bbox_min, bbox_max=grid.bbox_max
    )
    room_bbox = box_of_room(scene.size)
    write_json(
        folder / "instances.json",
        {"kind": "demo", "room_bbox": room_bbox, "instances": instance_rows(room.pieces, {"pixels": pixels})},
    )
    write_json(folder / "transforms.json", transforms(plan, camera, room_bbox, ".png", {}))
    advance(0.02)
