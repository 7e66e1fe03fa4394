"""Pictures of furniture models in a small lit booth, to be looked at by people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from rcnn.rooms.assets.conversion import model_images, model_mesh
from rcnn.rooms.assets.model import Model
from rcnn.rooms.assets.pack import FurniturePack
from rcnn.rooms.cameras import look_at
from rcnn.rooms.irradiance import IrradianceConfig, bake_irradiance, choose_exposure
from rcnn.rooms.mesh import Material, hex_colour, join
from rcnn.rooms.piece import FurnishedRoom, place
from rcnn.rooms.raycast import RayPool, ray_pool
from rcnn.rooms.render import Lighting, Pinhole, render_view, write_png
from rcnn.rooms.scene import build_scene
from rcnn.rooms.shapes import sheet
from rcnn.rooms.shell import AreaLight, Shell
from rcnn.rooms.textures import paint_textures

LIGHT = IrradianceConfig(sky_strata=5, light_strata=4, bounces=2, smoothing=3)
LABEL_HEIGHT = 34


def picture_of(model: Model, size: int = 240) -> np.ndarray:
    """(size, 2 * size, 3) uint8 sRGB: the model seen from the front left and from the back right.

    The red stripe on the floor of the booth lies on the side that the model's front looks to.
    """
    mesh = model_mesh(model)
    low, high = mesh.bounds()
    reach = float(np.linalg.norm(high - low)) / 2
    # the booth grows with the model, so that small things are lit like large ones
    half, height = 3.2 * reach, 5.0 * reach
    middle = np.array([half, half, 0.0])
    shell = _booth(half, height, -low[1] + 0.25 * reach)
    piece = place(model.info.category or "model", mesh, half, half, max(0.0, -float(low[2])), 0.0)
    scene = build_scene(FurnishedRoom(shell, (piece,)), paint_textures(0).with_images(model_images(model)))
    camera = Pinhole(size, size, 1.55 * size)
    target = middle + np.array([0, 0, (low[2] + high[2]) / 2])
    poses = [look_at(target + reach * np.array(offset), target) for offset in ((-1.9, -2.6, 1.7), (1.9, 2.6, 1.7))]
    with ray_pool(scene, 1) as pool:
        irradiance = bake_irradiance(pool, scene, LIGHT, 0, lambda share: None)
        lighting = Lighting(irradiance, choose_exposure(scene, irradiance))
        return _views(pool, poses, camera, lighting)


def _views(pool: RayPool, poses: Sequence[np.ndarray], camera: Pinhole, lighting: Lighting) -> np.ndarray:
    jobs = [(pose, camera, lighting, 4) for pose in poses]
    return np.concatenate([picture for picture, _ in pool.map(render_view, jobs)], axis=1)


def _booth(half: float, height: float, front: float) -> Shell:
    """A room of 2 half x 2 half x height (metres) lit from its ceiling, with a stripe `front` before its middle."""
    wide = 2 * half
    grey = Material("plaster", hex_colour("#b9bcc0"))
    red = Material("paper", hex_colour("#c03020"))
    glow = Material("paper", emission=1.0)
    light = ((0.4 * half, 0.2 * half, height - 0.01), (0.0, wide - 0.8 * half, 0.0), (wide - 0.8 * half, 0.0, 0.0))
    parts = [
        sheet((0, 0, 0), (wide, 0, 0), (0, wide, 0), grey),
        sheet((0, wide, height), (wide, 0, 0), (0, -wide, 0), grey),
        sheet((0, 0, height), (wide, 0, 0), (0, 0, -height), grey),
        sheet((wide, wide, height), (-wide, 0, 0), (0, 0, -height), grey),
        sheet((0, wide, height), (0, -wide, 0), (0, 0, -height), grey),
        sheet((wide, 0, height), (0, wide, 0), (0, 0, -height), grey),
        sheet(light[0], light[1], light[2], glow),
    ]
    stripe = 0.06 * half
    parts.append(sheet((0.7 * half, half - front - stripe, 0.002), (0.6 * half, 0, 0), (0, stripe, 0), red))
    corner, edges = np.array(light[0]), np.array(light[1:])
    lamp = AreaLight(corner, edges, np.full(3, 6.0))
    return Shell(join(parts), (lamp,), (wide, wide, height))


def contact_sheets(
    pack: FurniturePack,
    folder: Path,
    columns: int = 4,
    rows: int = 6,
    size: int = 200,
    advance: Callable[[float], object] = lambda share: None,
) -> list[Path]:
    """Writes PNG files that show every model of a pack, by class; returns their paths.

    Labels give class, split, model id, size in centimetres, triangles and the share of open columns.
    """
    infos = sorted(pack.models, key=lambda info: (info.category, info.model_id))
    tiles = []
    for info in infos:
        model = pack.load(info.model_id)
        label = np.full((LABEL_HEIGHT, 2 * size, 3), 255, np.uint8)
        edges = "x".join(f"{100 * edge:.0f}" for edge in info.size)
        lines = (
            f"{info.category} ({info.split}) {edges} cm",
            f"{info.model_id} {len(model.faces)} open {info.open_columns:.2f}",
        )
        for number, line in enumerate(lines):
            cv2.putText(label, line, (4, 13 + 15 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.concatenate([label, picture_of(model, size)]))
        advance(1 / len(infos))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for page, start in enumerate(range(0, len(tiles), columns * rows)):
        chosen = tiles[start : start + columns * rows]
        blank = np.full_like(chosen[0], 255)
        chosen += [blank] * (-len(chosen) % columns)
        grid = [np.concatenate(chosen[k : k + columns], axis=1) for k in range(0, len(chosen), columns)]
        path = folder / f"{pack.path.stem}_{page:02d}.png"
        write_png(path, np.concatenate(grid)[..., ::-1])
        paths.append(path)
    return paths
