"""Pictures of a field from between the photos, and splats that learn from them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ball_scene import shrunken_config, train
from PIL import Image
from splat_scene import small_splats

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.splats.pinhole import VIEW, ray_lengths
from instance_nerfstudio.splats.teacher import learn_from
from instance_nerfstudio.splats.teacher_views import poses_between, read_teacher_views, render_teacher_views


def _ring(count: int) -> torch.Tensor:
    """Cameras on a circle of radius 2 that look at its centre."""
    angles = torch.arange(count, dtype=torch.float64) * 2 * torch.pi / count
    back = torch.stack([angles.cos(), angles.sin(), torch.zeros(count, dtype=torch.float64)], -1)
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64).expand(count, 3)
    return torch.stack([torch.linalg.cross(up, back), up, back, 2 * back], dim=-1)


def test_poses_lie_between_cameras_that_look_the_same_way() -> None:
    ring = _ring(24)
    between = poses_between(ring.float(), 200, seed=0)
    assert len(between) == 200
    for first, pose in between:
        rotation, position = pose[:, :3], pose[:, 3]
        torch.testing.assert_close(rotation.T @ rotation, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(rotation) > 0
        assert 1.2 < float(position.norm()) < 2  # on a chord
        assert rotation[:, 2] @ position / position.norm() > 0.9  # still looks at the centre, up to the other's tilt
        assert rotation[:, 2] @ ring[first, :, 2] > -0.2
    assert len({first for first, _ in between}) > 15
    again = poses_between(ring.float(), 200, seed=0)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(between, again, strict=True))


def test_cameras_that_look_apart_have_nothing_between_them() -> None:
    assert poses_between(_ring(3).float(), 10, seed=0) == []
    assert poses_between(_ring(24)[:1].float(), 10, seed=0) == []


@pytest.fixture(scope="module")
def views(trained_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    training = trained_once.pipeline.training
    trained_once.pipeline.eval()
    render_teacher_views(trained_once.pipeline, folder, 3, with_masks=True)
    trained_once.pipeline.train(training)
    return folder


def test_views_are_what_the_field_looks_like_from_there(views: Path, trained_once: Any) -> None:
    pipeline = trained_once.pipeline
    found = read_teacher_views(views, pipeline.datamanager.train_dataparser_outputs)
    assert 1 <= len(found) <= 3
    taken = pipeline.datamanager.train_dataset.cameras
    known = set(pipeline.model.instance_head.instance_ids.tolist())
    for camera, view in found:
        assert camera.shape == (1,)
        assert int(camera.width) == int(taken.width[0])
        assert view["image"].dtype == torch.uint8
        assert view["instances"].dtype == torch.int32
        assert set(view["instances"].unique().tolist()) <= known | {-1}
        assert not any(torch.allclose(camera.camera_to_worlds[0], pose) for pose in taken.camera_to_worlds)
        with torch.no_grad(), pipeline.model.edited():
            outputs = pipeline.model.render(camera.to(pipeline.model.device))
        assert (outputs["rgb"].clamp(0, 1).cpu() * 255 - view["image"]).abs().max() < 2
        covered = (outputs["accumulation"] >= 0.5).cpu()
        assert covered.any()
        expected = (outputs["depth"].cpu() / ray_lengths(camera)).where(covered, torch.zeros(()))
        torch.testing.assert_close(view["teacher_depth"], expected, rtol=1e-3, atol=1e-4)


def test_views_move_with_the_scene_frame_of_the_splats(views: Path) -> None:
    plain = SimpleNamespace(dataparser_transform=torch.eye(4)[:3], dataparser_scale=1.0)
    turned = torch.tensor([[0.0, -1, 0, 3], [1, 0, 0, -1], [0, 0, 1, 2]])
    other = SimpleNamespace(dataparser_transform=turned, dataparser_scale=0.5)
    found = (read_teacher_views(views, each) for each in (plain, other))  # type: ignore[arg-type]
    for (before, seen), (after, shrunken) in zip(*found, strict=True):
        torch.testing.assert_close(shrunken["teacher_depth"], 0.5 * seen["teacher_depth"])
        world = before.camera_to_worlds[0]
        torch.testing.assert_close(after.camera_to_worlds[0, :, 3], 0.5 * (turned[:, :3] @ world[:, 3] + turned[:, 3]))
        torch.testing.assert_close(after.camera_to_worlds[0, :, :3], turned[:, :3] @ world[:, :3])


def test_splats_learn_from_views_in_their_turn(
    closed_network: None, shared_scene: Path, views: Path, tmp_path: Path
) -> None:
    config = small_splats(shared_scene, tmp_path / "out")
    config.max_num_iterations = 3
    config.pipeline.datamanager.teacher_views = views
    datamanager = train(config).pipeline.datamanager
    count = len(json.loads((views / "transforms.json").read_text())["frames"])
    photos = len(datamanager.train_dataset)
    rounds = 10
    served = [datamanager.next_train(step) for step in range(rounds * (photos + count))]
    numbers = [camera.metadata[VIEW] for camera, _ in served]
    assert sum(number >= photos for number in numbers) == rounds * count
    assert set(numbers) == set(range(photos + count))
    for camera, batch in served:
        assert ("cam_idx" in camera.metadata) == (camera.metadata[VIEW] < photos)
        assert batch["image"].shape[:2] == batch["instances"].shape[:2] == (int(camera.height), int(camera.width))
    # However many views there are, every second picture is a photo.
    datamanager._teacher_views.extend(datamanager._teacher_views * photos)
    numbers = [datamanager.next_train(step)[0].metadata[VIEW] for step in range(2 * photos)]
    assert sum(number < photos for number in numbers) == photos


def test_depths_of_views_pull_gaussians_to_the_surface(
    closed_network: None, shared_scene: Path, views: Path, tmp_path: Path
) -> None:
    config = small_splats(shared_scene, tmp_path / "out")
    config.max_num_iterations = 1
    config.pipeline.datamanager.teacher_views = views
    pipeline = train(config).pipeline
    model, datamanager = pipeline.model, pipeline.datamanager
    model.train()
    camera, batch = datamanager._teacher_views[0]
    photo, its_batch = datamanager._photo_cameras[0], datamanager.cached_train[0]
    losses = model.get_loss_dict(model.get_outputs(camera), dict(batch))
    model.zero_grad()
    losses["depth_loss"].backward()
    assert losses["depth_loss"] > 0
    assert model.gauss_params["means"].grad.abs().sum() > 0
    outputs = model.get_outputs(photo)
    assert outputs["depth"] is None, "photos have no depths to learn, and rendering them takes time"
    assert "depth_loss" not in model.get_loss_dict(outputs, dict(its_batch))
    model.config.depth_loss_mult = 0.0
    assert "depth_loss" not in model.get_loss_dict(model.get_outputs(camera), dict(batch))


def test_fewer_than_no_views_are_refused(shared_scene: Path, tmp_path: Path) -> None:
    config = small_splats(shared_scene, tmp_path / "out")
    config.pipeline.teacher_views = -1
    with pytest.raises(InputError, match=r"^--pipeline.teacher-views -1: must be 0 or more$"):
        train(config)


def test_large_photos_have_smaller_views(trained_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = trained_once.pipeline.datamanager.train_dataset.cameras
    monkeypatch.setattr("instance_nerfstudio.splats.teacher_views._LONGEST_SIDE", int(taken.width[0]) // 2)
    training = trained_once.pipeline.training
    trained_once.pipeline.eval()
    render_teacher_views(trained_once.pipeline, tmp_path, 1, with_masks=True)
    trained_once.pipeline.train(training)
    ((camera, view),) = read_teacher_views(tmp_path, trained_once.pipeline.datamanager.train_dataparser_outputs)
    size = (int(camera.height), int(camera.width))
    assert size[1] == int(taken.width[0]) // 2
    assert all(picture.shape[:2] == size for picture in view.values())
    torch.testing.assert_close(camera.fx / camera.width, taken.fx[:1].cpu() / taken.width[:1].cpu())


def test_a_teacher_without_instances_shows_none(closed_network: None, shared_scene: Path, tmp_path: Path) -> None:
    bare = shrunken_config(shared_scene, tmp_path / "bare", use_instances=False)
    bare.max_num_iterations = 1
    lesson = learn_from(train(bare).base_dir / "config.yml", tmp_path / "lesson", True, views=2)
    assert lesson.views is not None
    assert not (lesson.views / "instance_masks").exists()
    outputs: Any = SimpleNamespace(dataparser_transform=torch.eye(4)[:3], dataparser_scale=1.0)
    for _, view in read_teacher_views(lesson.views, outputs):
        assert (view["instances"] == -1).all()
    pictures = sorted((lesson.views / "images").glob("*.png"))
    assert all(np.asarray(Image.open(picture)).ndim == 3 for picture in pictures)
    assert learn_from(tmp_path / "gone.yml", tmp_path / "lesson", True, views=2) == lesson
