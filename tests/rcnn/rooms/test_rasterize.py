"""OpenGL sees what Embree sees."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.rooms import rasterize
from rcnn.rooms.assets import shipped_pack
from rcnn.rooms.cameras import focal_length, look_at
from rcnn.rooms.generate import GeneratedRoomConfig, generate_room
from rcnn.rooms.irradiance import IrradianceConfig
from rcnn.rooms.layouts.furnish import design_room
from rcnn.rooms.layouts.supply import FurnitureSupply
from rcnn.rooms.rasterize import Rasterizer
from rcnn.rooms.raycast import RayCaster
from rcnn.rooms.render import Pinhole
from rcnn.rooms.scene import Scene, build_scene
from rcnn.rooms.textures import paint_textures

CAMERA = Pinhole(320, 240, focal_length(320, 75.0))


@pytest.fixture(autouse=True, scope="module")
def _opengl() -> None:
    pytest.importorskip("moderngl", reason="moderngl is not installed")
    try:
        rasterize._context()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def scene() -> Scene:
    design = design_room(FurnitureSupply(shipped_pack(), "val"), np.random.default_rng(2), "study")
    return build_scene(design.room(), paint_textures(0).with_images(design.images))


def test_views_equal_embree(scene: Scene):
    middle, caster, rasterizer = scene.size / 2, RayCaster(scene), Rasterizer(scene)
    pixels, wrong, shown = 0, 0, set()
    for turn, offset in enumerate([(0.5, 0.5), (0.1, 0.8), (0.5, 0.5), (0.9, 0.3)]):
        angle = 0.4 + turn * np.pi / 2
        pose = look_at(middle, middle + np.array([np.cos(angle), np.sin(angle), -0.3]))
        expected, origins, directions = caster.first_hit_in_view(pose, CAMERA, offset)
        found, _, _ = RayCaster(scene, rasterizer).first_hit_in_view(pose, CAMERA, offset)
        assert found.keys() >= {"primID", "u", "v", "tfar", "Ng"}
        number, other = (np.where(hit["primID"] < 0, 0, scene.instance[hit["primID"]]) for hit in (expected, found))
        shown |= set(number.tolist())
        pixels, wrong = pixels + number.size, wrong + int((number != other).sum())
        same = expected["primID"] == found["primID"]
        assert same.mean() > 0.995
        np.testing.assert_allclose(found["tfar"][same], expected["tfar"][same], atol=2e-3)
        np.testing.assert_allclose(found["Ng"][same], expected["Ng"][same], atol=1e-6)
        corners = scene.vertices[scene.faces[found["primID"]]]
        u, v = found["u"][:, None], found["v"][:, None]
        points = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        np.testing.assert_allclose(points, origins + directions * found["tfar"][:, None], atol=5e-3)
    assert wrong <= 1e-4 * pixels
    assert len(shown) > 6, "the views show something"
    rasterizer.close()


def test_chosen_pixels_are_those_of_the_whole_view(scene: Scene):
    pose, chosen = look_at(scene.size / 2, np.array([0.0, 0.3, 0.2])), np.array([5, 4000, 70000])
    caster = RayCaster(scene, Rasterizer(scene))
    whole, _, directions = caster.first_hit_in_view(pose, CAMERA)
    some, _, toward = caster.first_hit_in_view(pose, CAMERA, chosen=chosen)
    np.testing.assert_array_equal(some["primID"], whole["primID"][chosen])
    np.testing.assert_array_equal(toward, directions[chosen])


def test_rooms_look_the_same(tmp_path: Path):
    supply = FurnitureSupply(shipped_pack(), "val")
    small = GeneratedRoomConfig(
        width=96, height=72, num_views=4, num_held_out=1, voxel_resolution=40, light=IrradianceConfig(1, 1, 1, 1),
        min_training_views=1,
    )  # fmt: skip
    for renderer in ("embree", "opengl"):
        generate_room(tmp_path / renderer, supply, 1, 0, replace(small, renderer=renderer))
    ray_cast, rasterised = tmp_path / "embree", tmp_path / "opengl"
    assert json.loads((ray_cast / "transforms.json").read_text()) == json.loads(
        (rasterised / "transforms.json").read_text()
    )
    for stem in ("0000", "0003"):
        for folder, tolerance in (("instance_masks", 0), ("depth", 2)):
            a, b = (
                cv2.imread(str(room / folder / f"{stem}.png"), cv2.IMREAD_UNCHANGED).astype(int)
                for room in (ray_cast, rasterised)
            )
            assert (abs(a - b) > tolerance).mean() < 2e-3
        a, b = (cv2.imread(str(room / "images" / f"{stem}.jpg")).astype(float) for room in (ray_cast, rasterised))
        assert abs(a - b).mean() < 0.5


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, scene: Scene):
    monkeypatch.setattr(rasterize, "_shared", [])
    moderngl = sys.modules["moderngl"]

    def refuse(**_: object) -> None:
        raise OSError("eglInitialize failed\n(0x3001)")

    monkeypatch.setattr(moderngl, "create_context", refuse)
    with pytest.raises(InputError, match=r"no OpenGL 3.3 by EGL \(eglInitialize failed \(0x3001\)\); use --renderer"):
        Rasterizer(scene)
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(InputError, match="pip install moderngl"):
        Rasterizer(scene)
