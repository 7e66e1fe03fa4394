"""`ns-export instances` on a field of two balls whose places, sizes and colours in the world are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from ball_scene import BALL_COLOURS, CENTRES, IDS, RADII
from nerfstudio.cameras.cameras import Cameras
from PIL import Image
from rich.progress import Progress

from instance_nerfstudio.edits.instance_edits import Edit
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density_field import scene_from_world
from instance_nerfstudio.export.export_instances import INSTANCES_ENTRIES, ExportInstances
from instance_nerfstudio.export.instance_survey import main_part
from instance_nerfstudio.masks.instances_json import read_instances_json

RESOLUTION = 32
NAMES = [f"{i:05d}" for i in IDS]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Any], put_balls: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Any:
    pipeline = make_pipeline(
        test_mode="inference", num_proposal_samples_per_ray=(128,), num_nerf_samples_per_ray=48
    ).eval()
    outputs = pipeline.datamanager.train_dataparser_outputs
    to_scene = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
    centres = CENTRES @ to_scene[:3, :3].T + to_scene[:3, 3]
    put_balls(pipeline.model, centres, RADII * outputs.dataparser_scale)
    monkeypatch.setattr(pipeline.datamanager.train_dataset, "cameras", _cameras_around(to_scene))
    return pipeline


def _cameras_around(to_scene: np.ndarray) -> Cameras:
    """Looking at the balls from all sides, from above and below; what no camera sees has no surface."""
    poses = []
    for number in range(12):
        angle, height = number * np.pi / 6, 2.0 * np.cos(number * 2 * np.pi / 3)
        centre = np.array([2.2 * np.sin(angle), -2.2 * np.cos(angle), height])
        back = centre / np.linalg.norm(centre)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        turn = to_scene[:3, :3] / np.linalg.det(to_scene[:3, :3]) ** (1 / 3)
        place = to_scene[:3, :3] @ centre + to_scene[:3, 3]
        poses.append(np.column_stack([turn @ np.stack([right, np.cross(back, right), back], axis=1), place]))
    return Cameras(torch.tensor(np.stack(poses)).float(), 45.0, 45.0, 24.0, 18.0, width=48, height=36)


@pytest.fixture
def export(pipeline: Any, tmp_path: Path) -> Callable[..., Path]:
    def run(**options: Any) -> Path:
        folder = tmp_path / "out"
        folder.mkdir()
        exporter = ExportInstances(
            Path("config.yml"), folder, resolution=RESOLUTION, num_points=500, thumbnail_size=64, **options
        )
        with Progress(disable=True) as progress:
            exporter.export(pipeline, folder, progress)
        return folder

    return run


def _load(path: Path) -> Any:
    return trimesh.load(path, process=False)


def test_meshes_lie_on_the_balls_in_the_world(export: Callable[..., Path]) -> None:
    folder = export()
    for name, centre, radius, colour in zip(NAMES, CENTRES, RADII, BALL_COLOURS[1:], strict=True):
        ply = _load(folder / "meshes" / f"{name}.ply")
        edge = 2.4 * radius / RESOLUTION  # the margin is on both sides
        distance = np.linalg.norm(ply.vertices - centre, axis=1)
        assert abs(np.median(distance) - radius) < edge
        assert np.quantile(abs(distance - radius), 0.95) < 2 * edge
        assert ply.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.15)  # wound outwards, and closed
        assert ply.is_watertight
        np.testing.assert_allclose(ply.bounds, [centre - radius, centre + radius], atol=2 * edge)
        assert (abs(ply.visual.vertex_colors[:, :3] / 255 - colour) < 0.01).all(-1).mean() > 0.95
        scene = _load(folder / "meshes" / f"{name}.glb")
        (glb,) = scene.geometry.values()  # of which the node turns z up into y up
        np.testing.assert_allclose(glb.bounds, ply.bounds, atol=1e-5)
        x, y, z = centre
        np.testing.assert_allclose(scene.bounds.mean(axis=0), [x, z, -y], atol=2 * edge)


def test_points_lie_on_the_mesh_in_its_colours(export: Callable[..., Path]) -> None:
    folder = export()
    cloud = _load(folder / "points" / f"{NAMES[1]}.ply")
    assert cloud.vertices.shape == (500, 3)
    distance = np.linalg.norm(cloud.vertices - CENTRES[1], axis=1)
    assert abs(np.median(distance) - RADII[1]) < 2.4 * RADII[1] / RESOLUTION
    assert (abs(np.asarray(cloud.colors)[:, :3] / 255 - BALL_COLOURS[2]) < 0.02).all(-1).mean() > 0.85


def test_thumbnails_show_the_instance_alone(export: Callable[..., Path]) -> None:
    folder = export()
    for name, colour in zip(NAMES, BALL_COLOURS[1:], strict=True):
        picture = np.asarray(Image.open(folder / "thumbnails" / f"{name}.png")) / 255
        assert min(picture.shape[:2]) >= 8
        near, black = (abs(picture - colour) < 0.1).all(-1), (picture < 0.1).all(-1)
        assert near.mean() > 0.6  # a disc fills its box to 0.79
        assert (near | black).mean() > 0.75  # the rim is a mixture


def test_description(export: Callable[..., Path]) -> None:
    folder = export()
    assert {path.name for path in folder.iterdir()} == set(INSTANCES_ENTRIES) - {"splats", "splats.ply"}
    infos = read_instances_json(folder / "instances.json")
    assert [(info.id, info.category) for info in infos] == [(1, "ball"), (300, "globe")]
    for info, centre, radius in zip(infos, CENTRES, RADII, strict=True):
        assert info.box_world is not None
        np.testing.assert_allclose(info.box_world, [*(centre - radius), *(centre + radius)], atol=0.3 * radius)
    files = json.loads((folder / "instances.json").read_text())["files"]
    assert set(files) == {"1", "300"}
    for listed in files.values():
        assert set(listed) == {"glb", "ply", "points", "thumbnail"}
        assert all((folder / path).is_file() for path in listed.values())


def test_edits_are_honoured(pipeline: Any, export: Callable[..., Path]) -> None:
    store = pipeline.model.edits_store
    store.apply(Edit("rename", (300,), "moon"))
    store.apply(Edit("merge", (300, 1)))
    folder = export()
    (info,) = read_instances_json(folder / "instances.json")
    assert (info.id, info.name) == (300, "moon")
    mesh = _load(folder / "meshes" / "00300.ply")
    low, high = (CENTRES - RADII[:, None]).min(0), (CENTRES + RADII[:, None]).max(0)
    np.testing.assert_allclose(mesh.bounds, [low, high], atol=0.2)
    assert mesh.body_count == 2


def test_hidden_instances_are_left_out_unless_asked_for(pipeline: Any, export: Callable[..., Path]) -> None:
    pipeline.model.edits_store.apply(Edit("hide", (1,)))
    assert [info.id for info in read_instances_json(export() / "instances.json")] == [300]


def test_chosen_ids(pipeline: Any, export: Callable[..., Path]) -> None:
    pipeline.model.edits_store.apply(Edit("hide", (1,)))
    assert [info.id for info in read_instances_json(export(ids=(1,)) / "instances.json")] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resolution": 4}, "--resolution 4"), ({"num_points": 0}, "--num-points 0")],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.touch()
    exporter = ExportInstances(config, tmp_path / "out", **options)
    with pytest.raises(InputError, match=message):
        exporter.main()
    assert not (tmp_path / "out").exists()


def test_ids_that_are_not_there(export: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="--ids 7"):
        export(ids=(7,))


def test_strays_are_told_from_the_object() -> None:
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(5000, 3))
    ball *= 0.3 / np.linalg.norm(ball, axis=1, keepdims=True)
    streak = np.array([1.0, 0.5, 0.2]) * rng.uniform(0.3, 9, size=(900, 1)) + rng.normal(size=(900, 3)) * 0.05
    second = ball[:2000] * 0.8 + [0.9, 0.0, 0.0]  # a part of the same object, apart
    points = np.concatenate([ball, second, streak])
    kept = main_part(points)
    assert kept[:7000].mean() > 0.98
    assert kept[7000:].mean() < 0.1
