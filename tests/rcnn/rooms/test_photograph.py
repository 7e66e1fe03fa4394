"""The camera: mirrored lights move with the viewpoint, noise repeats, sparse sampling looks like dense sampling."""

import numpy as np
import pytest

from rcnn.rooms import photograph
from rcnn.rooms.cameras import focal_length, look_at
from rcnn.rooms.mesh import Material
from rcnn.rooms.photograph import CameraLook, take_photo
from rcnn.rooms.piece import FurnishedRoom, place
from rcnn.rooms.raycast import RayCaster
from rcnn.rooms.render import Lighting, Pinhole
from rcnn.rooms.scene import Scene, build_scene
from rcnn.rooms.shapes import box, sheet
from rcnn.rooms.shell import AreaLight, Shell
from rcnn.rooms.textures import paint_textures

CAMERA = Pinhole(120, 90, focal_length(120, 75.0))
LIGHT = AreaLight(np.array([1.5, 2.5, 2.4]), np.array([[1.0, 0, 0], [0, -1.0, 0]]), np.full(3, 10.0))


def _scene(gloss: float) -> Scene:
    floor = sheet((0, 0, 0), (4, 0, 0), (0, 4, 0), Material("paper", (0.2, 0.2, 0.2), gloss=gloss))
    crate = place("box", box((0.5, 0.5, 0.5), Material("plaid", (0.5, 0.3, 0.2)), (0, 0, 0.25)), 1.2, 1.0, 0.0, 0.3)
    return build_scene(FurnishedRoom(Shell(floor, (LIGHT,), (4.0, 4.0, 2.5)), (crate,)), paint_textures(0))


def _take(scene: Scene, eye: tuple[float, float, float], look: CameraLook, seed: int = 0) -> photograph.Photo:
    lighting = Lighting(np.ones_like(scene.vertices), 1.0)
    pose = look_at(np.array(eye), np.array([2.0, 2.0, 0.0]))
    return take_photo(RayCaster(scene), scene, pose, CAMERA, lighting, look, (seed,))


PLAIN = CameraLook(np.ones(3), 0.0, 0.1)


def test_glossy_floors_mirror_the_light_where_the_law_of_reflection_says():
    # eye and light are 1.5 m and 2.4 m above the floor: the mirrored middle lies at 1.5 / 3.9 of the way
    eye = (2.0, 0.4, 1.5)
    matt, glossy = _take(_scene(0.0), eye, PLAIN), _take(_scene(1.0), eye, PLAIN)
    gain = glossy.picture.astype(int).sum(2) - matt.picture.astype(int).sum(2)
    assert gain.min() >= -3
    row, column = np.argwhere(gain > 0.5 * gain.max()).mean(0)
    pose = look_at(np.array(eye), np.array([2.0, 2.0, 0.0]))
    spot = np.array([2.0, 0.4 + (2.0 - 0.4) * 1.5 / 3.9, 0.0])
    local = (spot - pose[:3, 3]) @ pose[:3, :3]
    assert column == pytest.approx(60 + CAMERA.focal * local[0] / -local[2], abs=4)
    assert row == pytest.approx(45 - CAMERA.focal * local[1] / -local[2], abs=6)


def test_things_hide_mirrored_lights():
    scene = _scene(1.0)
    beside, behind = (2.0, 0.4, 1.5), (0.9, 0.2, 0.8)  # from there the crate stands before the reflection
    assert _take(scene, beside, PLAIN).instances.max() == 1
    pixels = _take(scene, behind, PLAIN)
    bare = _take(_scene(0.0), behind, PLAIN)
    on_crate = pixels.instances == 1
    np.testing.assert_array_equal(
        pixels.picture[on_crate & _inner(on_crate)], bare.picture[on_crate & _inner(on_crate)]
    )


def _inner(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis)
    return inner


def test_noise_has_the_wanted_strength_and_repeats():
    scene = _scene(0.0)
    look = CameraLook(np.ones(3), 0.02, 0.1)
    clean = _take(scene, (2.0, 0.4, 1.5), PLAIN).picture.astype(float)
    noisy = _take(scene, (2.0, 0.4, 1.5), look, 7).picture.astype(float)
    np.testing.assert_array_equal(noisy, _take(scene, (2.0, 0.4, 1.5), look, 7).picture)
    assert (noisy != _take(scene, (2.0, 0.4, 1.5), look, 8).picture).mean() > 0.5
    bright = clean > 60
    assert bright.sum() > 1000
    assert 2 < (noisy - clean)[bright].std() < 10
    assert abs((noisy - clean)[bright].mean()) < 1


def test_sampling_only_at_edges_looks_like_sampling_everywhere(monkeypatch: pytest.MonkeyPatch):
    scene = _scene(0.3)
    sparse = _take(scene, (3.4, 0.4, 1.5), PLAIN)
    monkeypatch.setattr(photograph, "CONTRAST", -1.0)
    dense = _take(scene, (3.4, 0.4, 1.5), PLAIN)
    np.testing.assert_array_equal(sparse.instances, dense.instances)
    np.testing.assert_array_equal(sparse.depth, dense.depth)
    error = ((sparse.picture.astype(float) - dense.picture) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_depth_is_measured_along_the_viewing_direction():
    photo = _take(_scene(0.0), (2.0, 0.4, 1.5), PLAIN)
    pose = look_at(np.array([2.0, 0.4, 1.5]), np.array([2.0, 2.0, 0.0]))
    origins, directions = CAMERA.rays(pose)
    floor = (photo.instances.ravel() == 0) & (photo.depth.ravel() > 0)
    distance = -origins[floor, 2] / directions[floor, 2]
    np.testing.assert_allclose(photo.depth.ravel()[floor], distance * (directions[floor] @ -pose[:3, 2]), rtol=1e-4)
