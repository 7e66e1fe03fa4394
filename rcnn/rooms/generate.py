"""One generated room on disk: drawn, lit, photographed, and written with its truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rcnn.errors import InputError
from rcnn.rooms.assets.classes import furniture_classes
from rcnn.rooms.assets.split import SPLITS
from rcnn.rooms.cameras import CameraConfig, CameraPlan, NoViewError, choose_cameras, focal_length
from rcnn.rooms.irradiance import IrradianceConfig, bake_irradiance, choose_exposure
from rcnn.rooms.layouts.arrangement import LayoutError
from rcnn.rooms.layouts.furnish import MIN_PIECES, RoomDesign, design_room, kind_of_room
from rcnn.rooms.layouts.supply import FurnitureSupply, MissingModelError
from rcnn.rooms.new_folder import new_folder
from rcnn.rooms.photograph import CameraLook, take_photo
from rcnn.rooms.piece import FurnishedRoom
from rcnn.rooms.raycast import InlinePool, RayCaster
from rcnn.rooms.render import Lighting, Pinhole, write_jpeg, write_png
from rcnn.rooms.scene import Scene, build_scene
from rcnn.rooms.textures import paint_textures
from rcnn.rooms.truth import box_of_room, instance_rows, transforms
from rcnn.rooms.voxels import voxelise
from rcnn.safe_files import write_json

# Folders of maps and the key of a frame that names a map.
MAPS = {
    "instance_masks": "instance_mask_path",
    "semantic": "semantic_file_path",
    "depth": "depth_file_path",
}
MILLIMETRES = 1000.0


@dataclass(frozen=True)
class GeneratedRoomConfig:
    """How rooms are photographed and measured; the same values and seeds give the same bytes."""

    width: int = 320
    """Picture width in pixels."""
    height: int = 240
    """Picture height in pixels."""
    num_views: int = 70
    """Pictures in all."""
    num_held_out: int = 12
    """Pictures of these that are listed as validation and test views, not for training."""
    samples_per_pixel: int = 4
    """Rays averaged in a pixel beside an edge."""
    renderer: Literal["embree", "opengl"] = "embree"
    """What finds the surfaces that a view sees; OpenGL needs a GPU with EGL and differs in a few pixels in 100 000."""
    voxel_resolution: int = 160
    """Voxels along the longest side of the room."""
    light: IrradianceConfig = field(default_factory=lambda: IrradianceConfig(5, 3, 3, 3))
    """Quality of the baked light."""
    cameras: CameraConfig = field(default_factory=CameraConfig)
    """Rules for the views."""
    min_pixels: int = 25
    """Pixels of a picture of 320 x 240 from which on a piece counts as visible in it."""
    min_training_views: int = 3
    """Pieces visible in fewer training views are taken out of the room."""
    attempts: int = 25
    """Seeds tried for a room before it is given up."""

    def __post_init__(self):
        for name in ("width", "height", "num_views", "samples_per_pixel", "voxel_resolution", "attempts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.num_held_out < self.num_views:
            raise InputError(f"num_held_out must lie between 1 and num_views - 1, got {self.num_held_out}")


@dataclass(frozen=True)
class _Staged:
    """A room whose cameras stand."""

    design: RoomDesign
    room: FurnishedRoom
    scene: Scene
    pool: InlinePool
    plan: CameraPlan
    standing: tuple[int, ...]


def generate_room(
    folder: Path,
    supply: FurnitureSupply,
    seed: int,
    index: int,
    config: GeneratedRoomConfig = GeneratedRoomConfig(),
    kind: str | None = None,
) -> None:
    """Builds room `index` of the supply's split in a folder that must not exist yet and appears when it is complete.

    Raises InputError when no attempt leads to a room.
    """
    key = (SPLITS.index(supply.split), seed, index)
    # kinds that are hard to furnish must not become rare, so all attempts are of one kind
    kind = kind or kind_of_room(index, float(np.random.default_rng(key[:2]).random()))
    problem = ""
    for attempt in range(config.attempts):
        try:
            staged = _stage(supply, (*key, attempt), config, kind)
            break
        except (LayoutError, MissingModelError, NoViewError) as error:
            problem = str(error)
    else:
        raise InputError(
            f"{folder}: no room in {config.attempts} attempts, the last one failed because {problem}; "
            "use another --seed or a pack with more models"
        )
    with new_folder(folder) as unfinished:
        _write(unfinished, staged, (*key, attempt), config, supply)


def _stage(supply: FurnitureSupply, key: tuple[int, ...], config: GeneratedRoomConfig, kind: str) -> _Staged:
    """Furniture and cameras; pieces that the cameras hardly see are taken out."""
    design = design_room(supply, np.random.default_rng(key), kind)
    atlas = paint_textures(int(np.random.default_rng((*key, 1)).integers(1 << 31))).with_images(design.images)
    room = design.room()
    scene = build_scene(room, atlas)
    pool = InlinePool(scene)
    plan = choose_cameras(
        pool,
        scene,
        room.pieces,
        config.num_views,
        config.num_held_out,
        config.cameras,
        key,
        lambda eye: bool(design.plan.contains(eye[None, :2], 0.28)[0]),
    )
    probe = Pinhole(160, 120, focal_length(160, config.cameras.horizontal_fov))
    training = np.delete(plan.poses, plan.held_out, axis=0)
    seen = np.stack(list(pool.map(_count_pixels, [(pose, probe) for pose in training])))[:, 1:]
    needed = min(config.min_training_views, len(training))
    keep = (4 * seen >= config.min_pixels).sum(0) >= needed
    if (~keep & design.bearing).any():
        raise LayoutError("a piece that carries others is hardly seen")
    if keep.sum() < MIN_PIECES:
        raise LayoutError(f"only {int(keep.sum())} pieces are seen")
    if not keep.all():
        room = design.room(keep)
        scene = build_scene(room, atlas)
        pool = InlinePool(scene)
    kept = np.array(design.standing_on)[keep]
    return _Staged(design, room, scene, pool, plan, tuple(np.nonzero(kept >= 0)[0].tolist()))


def _count_pixels(caster: RayCaster, scene: Scene, pose: np.ndarray, camera: Pinhole) -> np.ndarray:
    triangle = caster.nearest_triangle(*camera.rays(pose))
    return np.bincount(np.where(triangle >= 0, scene.instance[triangle], 0), minlength=scene.num_instances + 1)


def _write(
    folder: Path, staged: _Staged, key: tuple[int, ...], config: GeneratedRoomConfig, supply: FurnitureSupply
) -> None:
    design, room, scene, plan = staged.design, staged.room, staged.scene, staged.plan
    for name in ("images", *MAPS):
        (folder / name).mkdir()
    camera = Pinhole(config.width, config.height, focal_length(config.width, config.cameras.horizontal_fov))
    pool, rasterizer = staged.pool, None
    if config.renderer == "opengl":
        from rcnn.rooms.rasterize import Rasterizer  # needs a package and a driver that few machines have

        rasterizer = Rasterizer(scene)
        pool = InlinePool(scene, RayCaster(scene, rasterizer))
    irradiance = bake_irradiance(pool, scene, config.light, key, lambda share: None)
    lighting = Lighting(irradiance, choose_exposure(scene, irradiance) * design.mood.exposure)
    look = CameraLook(
        _white_balance(irradiance, design.mood.adaptation), design.mood.noise, design.mood.roughness,
        config.samples_per_pixel,
    )  # fmt: skip
    classes = furniture_classes()
    semantic_of = np.array([0, *(classes[piece.category].semantic_id for piece in room.pieces)], np.uint16)
    grid = voxelise(room.pieces, scene.size, config.voxel_resolution, staged.standing)
    edge = (grid.bbox_max - grid.bbox_min) / grid.instances.shape
    pixels, views, training_views = (np.zeros(len(room.pieces) + 1, np.int64) for _ in range(3))
    voxel_views = np.zeros(grid.instances.shape, np.uint16)
    jobs = [(pose, camera, lighting, look, (*key, 400, number)) for number, pose in enumerate(plan.poses)]
    for number, photo in enumerate(pool.map(take_photo, jobs)):
        stem = f"{number:04d}"
        write_jpeg(folder / "images" / f"{stem}.jpg", photo.picture[..., ::-1])
        maps = (photo.instances, semantic_of[photo.instances], np.rint(photo.depth * MILLIMETRES))
        for name, values in zip(MAPS, maps, strict=True):
            write_png(folder / name / f"{stem}.png", values.astype(np.uint16))
        counts = np.bincount(photo.instances.ravel(), minlength=len(pixels))
        pixels += counts
        views += counts > 0
        if number not in plan.held_out:
            training_views += counts > 0
            points = back_project(photo.depth, camera, plan.poses[number])
            cell = np.clip(np.floor((points - grid.bbox_min) / edge), 0, np.array(voxel_views.shape) - 1).astype(int)
            flat = np.unique(np.ravel_multi_index(tuple(cell.T), voxel_views.shape))
            voxel_views.ravel()[flat] += 1
    if rasterizer is not None:
        rasterizer.close()
    np.savez_compressed(
        folder / "gt_voxels.npz",
        instances=grid.instances,
        surface=grid.surface,
        views=voxel_views,
        bbox_min=grid.bbox_min,
        bbox_max=grid.bbox_max,
    )
    box = box_of_room(scene.size)
    rows = instance_rows(
        room.pieces,
        {
            "semantic_id": semantic_of,
            "pixels": pixels,
            "views": views,
            "training_views": training_views,
            "voxels": np.bincount(grid.instances.ravel(), minlength=len(pixels)),
            "surface_voxels": np.bincount(grid.surface.ravel(), minlength=len(pixels)),
            "seen_voxels": np.bincount(grid.surface[voxel_views > 0], minlength=len(pixels)),
        },
    )
    write_json(
        folder / "instances.json",
        {
            "kind": design.kind,
            "split": supply.split,
            "seed": list(key),
            "plan": design.plan.kind,
            "floor": [asdict(rectangle) for rectangle in design.plan.floor],
            "light": design.mood.name,
            "room_bbox": box,
            "instances": rows,
        },
    )
    content: dict[str, Any] = transforms(plan, camera, box, ".jpg", MAPS)
    write_json(folder / "transforms.json", content)


def back_project(depth: np.ndarray, camera: Pinhole, pose: np.ndarray) -> np.ndarray:
    """(N, 3) world points of all pixels of a z-depth map (H, W) in metres; pixels without depth are left out."""
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns].astype(float)
    x = (columns + 0.5 - camera.width / 2) / camera.focal
    y = -(rows + 0.5 - camera.height / 2) / camera.focal
    return np.stack([x * z, y * z, -z], 1) @ pose[:3, :3].T + pose[:3, 3]


def _white_balance(irradiance: np.ndarray, adaptation: float) -> np.ndarray:
    """(3,) factors that remove a share of the mean colour of the light, with a mean of 1."""
    mean = irradiance.mean(0)
    factors = (mean.mean() / np.maximum(mean, 1e-6)) ** adaptation
    return factors / factors.mean()
