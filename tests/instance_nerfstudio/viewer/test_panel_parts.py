"""The parts of the panel that need no browser: selection, list, painting, picking, boxes, kept frames."""

import gc
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from instance_nerfstudio.edits.instance_edits import Edit
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.instance_survey import survey_instances
from instance_nerfstudio.masks.instances_json import InstanceInfo
from instance_nerfstudio.viewer.frames import Frames
from instance_nerfstudio.viewer.painting import HIGHLIGHT, PaintStyle, paint
from instance_nerfstudio.viewer.picking import camera_along, pick
from instance_nerfstudio.viewer.selection import (
    PAGE,
    InstanceRow,
    Selection,
    filter_rows,
    page_of,
    plain,
    rows_as_markdown,
)
from instance_nerfstudio.viewer.wireframes import BoxLayer, detector_boxes, instance_boxes
from rcnn.instance_palette import colour_instances

NEAR, FAR = 1, 300


def test_selection() -> None:
    selection = Selection()
    selection.pick(3, add=False)
    selection.pick(7, add=True)
    assert selection.ids == (3, 7)
    selection.pick(3, add=True)
    assert selection.ids == (7,)
    selection.pick(9, add=False)
    assert selection.ids == (9,)
    selection.keep({3, 7})
    assert selection.ids == ()


def test_two_thousand_instances_are_shown_in_pages() -> None:
    rows = [InstanceRow(InstanceInfo(i, "chair" if i % 2 else "lamp")) for i in range(1, 2001)]
    gc.collect()  # of the whole suite; in the middle of this it would count
    start = time.perf_counter()
    shown, page, pages = page_of(filter_rows(rows, ""), 500)
    text = rows_as_markdown(shown, {2000})
    assert time.perf_counter() - start < 0.5
    assert (page, pages) == (199, 200)
    assert [row.info.id for row in shown] == list(range(1991, 2001))
    assert text.count("\n") == PAGE - 1
    assert "✓ **2000**" in text
    assert len(filter_rows(rows, "LAMP")) == 1000
    assert [row.info.id for row in filter_rows(rows, " 1999 ")] == [1999]
    assert page_of([], 3) == ([], 0, 1)


def test_names_are_text_and_not_markup() -> None:
    assert plain("a{b}<c>") == r"a\{b\}\<c\>"
    row = InstanceRow(InstanceInfo(3, "cat*", name="{process.exit()} ä"), shown=False)
    text = rows_as_markdown([row], ())
    assert r"\{process\.exit\(\)\} ä" in text
    assert r"cat\*" in text
    assert "⊘" in text


def _outputs(ids: list[list[int]]) -> dict[str, torch.Tensor]:
    tensor = torch.tensor(ids, dtype=torch.int32)[..., None]
    return {
        "rgb": torch.full((*tensor.shape[:2], 3), 0.5),
        "instance_ids": tensor,
        "instance_confidence": torch.where(tensor == 7, 0.9, 0.2),
        "instances": colour_instances(tensor[..., 0]),
    }


INFOS = (InstanceInfo(3, "chair"), InstanceInfo(7, "bed"), InstanceInfo(9, "chair", colour=(255, 0, 51)))


def test_colours_by_instance_and_category() -> None:
    outputs = _outputs([[-1, 0, 3, 7, 9]])
    by_instance = paint(outputs, PaintStyle(INFOS))["instances"][0]
    assert torch.equal(by_instance[:4], colour_instances(torch.tensor([-1, 0, 3, 7])))
    assert (by_instance[4] * 255).round().tolist() == [255, 0, 51]
    by_category = paint(outputs, PaintStyle(INFOS, colour_by="category"))["instances"][0]
    assert torch.equal(by_category[2], by_category[4])
    assert not torch.equal(by_category[2], by_category[3])


def test_colours_by_confidence() -> None:
    colours = paint(_outputs([[0, 3, 7, 9]]), PaintStyle(INFOS, colour_by="confidence"))["instances"][0]
    assert torch.equal(colours[1], colours[3])
    assert not torch.equal(colours[1], colours[2])
    assert colours[0].max() < 0.2  # background


def test_opacity() -> None:
    outputs = _outputs([[0, 3]])
    assert torch.equal(paint(outputs, PaintStyle(INFOS, opacity=0.0))["instances_overlay"], outputs["rgb"])
    full = paint(outputs, PaintStyle(INFOS, opacity=1.0))
    assert torch.equal(full["instances_overlay"][0, 1], full["instances"][0, 1])


def test_selection_is_framed_in_every_picture() -> None:
    ids = torch.zeros(9, 9, dtype=torch.int32)
    ids[3:6, 3:6] = 3
    outputs = _outputs(ids.tolist())
    untouched = {name: output.clone() for name, output in outputs.items()}
    painted = paint(outputs, PaintStyle(INFOS, selected=(3,)))
    for name in ("rgb", "instances", "instances_overlay"):
        assert painted[name][2, 4].tolist() == pytest.approx(HIGHLIGHT)
        assert not torch.allclose(painted[name][4, 4], untouched["rgb"][4, 4])
        assert torch.equal(painted[name][0, 0], paint(outputs, PaintStyle(INFOS))[name][0, 0])
    assert all(torch.equal(outputs[name], untouched[name]) for name in outputs)  # a kept frame stays as it is


def test_run_without_instances_is_shown_as_it_is() -> None:
    outputs = {"rgb": torch.zeros(2, 2, 3)}
    assert paint(outputs, PaintStyle()) == outputs


@pytest.fixture
def balls(make_pipeline: Any, put_balls: Any) -> Any:
    pipeline = make_pipeline(test_mode="inference", num_proposal_samples_per_ray=(256,), num_nerf_samples_per_ray=128)
    model = pipeline.eval().model
    model.scene_survey = None  # the cameras of the data look at other balls
    put_balls(model, [[0.0, 0.0, 0.4], [0.0, 0.0, -0.5]], [0.2, 0.3])
    return model


def test_pick_finds_what_is_in_front(balls: Any) -> None:
    picked = pick(balls, (0.0, 0.0, 1.2), (0.0, 0.0, -2.0))
    assert picked.instance == NEAR
    assert picked.confidence > 0.9
    assert picked.point == pytest.approx((0.0, 0.0, 0.6), abs=0.03)
    assert pick(balls, (0.9, 0.9, 1.2), (0.0, 0.0, -1.0)).instance is None


def test_pick_goes_through_what_is_hidden(balls: Any) -> None:
    balls.edits_store.apply(Edit("hide", (NEAR,)))
    assert pick(balls, (0.0, 0.0, 1.2), (0.0, 0.0, -1.0)).instance == FAR
    assert balls.class_edits is None


class OneBall:
    """A model that knows cameras and no rays: a ball of instance 7 around the origin, seen as if by a rasterizer."""

    radius, device = 0.5, torch.device("cpu")
    camera_optimizer = SimpleNamespace(config=SimpleNamespace(mode="off"))

    def render(self, camera: Cameras, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        rays = camera.generate_rays(camera_indices=0)
        along = -(rays.origins * rays.directions).sum(-1, keepdim=True)
        square = along**2 - rays.origins.square().sum(-1, keepdim=True) + self.radius**2
        hit = (square > 0) & (along > 0)
        return {
            "depth": torch.where(hit, along - square.clamp(min=0).sqrt(), 10.0),
            "accumulation": hit.float(),
            "instance_ids": torch.where(hit, 7, 0).int(),
            "instance_confidence": torch.full_like(along, 0.75),
        }


@pytest.mark.parametrize("direction", [(0.0, 0.0, -1.0), (0.0, 2.0, 0.0), (-1.0, 0.0, 0.0), (0.3, -0.4, 0.8)])
def test_pick_asks_for_one_pixel_along_the_ray(direction: tuple[float, float, float]) -> None:
    ahead = np.array(direction) / np.linalg.norm(direction)
    model: Any = OneBall()
    picked = pick(model, tuple(-2.0 * ahead), direction)
    assert (picked.instance, picked.confidence) == (7, 0.75)
    assert picked.point == pytest.approx(tuple(-0.5 * ahead), abs=1e-5)
    assert pick(model, tuple(2.0 * ahead), direction).instance is None
    camera = camera_along((1.0, 2.0, 3.0), direction)
    assert (int(camera.width), int(camera.height)) == (1, 1)
    pose = camera.camera_to_worlds[0, :, :3]
    assert torch.allclose(pose.T @ pose, torch.eye(3), atol=1e-6)
    assert float(torch.linalg.det(pose)) == pytest.approx(1.0)


def test_survey_needs_cameras_alone() -> None:
    poses = torch.cat([camera_along((0.0, 0.0, z), (0.0, 0.0, -z)).camera_to_worlds for z in (2.0, -2.0)])
    cameras = Cameras(poses, 60.0, 60.0, 32.0, 24.0, width=64, height=48)
    model: Any = OneBall()
    survey = survey_instances(model, cameras, 32, 10, lambda done, views: None)
    surface = survey.surface((7,))
    assert len(surface) > 100
    assert torch.allclose(surface.norm(dim=1), torch.tensor(OneBall.radius), atol=1e-4)
    assert float(surface[:, 2].min()) < -0.45
    assert float(surface[:, 2].max()) > 0.45


POSE = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1.2]]])
CAMERA = Cameras(POSE, 20.0, 20.0, 8.0, 6.0, width=16, height=12)


def test_resting_camera_is_rendered_once(balls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[Cameras] = []
    render = balls.render
    monkeypatch.setattr(balls, "render", lambda camera, obb: rendered.append(camera) or render(camera, obb))
    frames = Frames(balls, lambda _: None)
    first = frames.render(CAMERA, None)
    assert frames.render(CAMERA, None) is first
    balls.edits_store.apply(Edit("rename", (NEAR,), "a"))
    frames.render(CAMERA, None)
    balls.edits_store.apply(Edit("hide", (NEAR,)))
    hidden = frames.render(CAMERA, None)
    assert not torch.equal(hidden["rgb"], first["rgb"])
    balls.edits_store.undo()
    assert torch.equal(frames.render(CAMERA, None)["rgb"], first["rgb"])
    assert len(rendered) == 4
    frames.keeps = False  # in training
    frames.render(CAMERA, None)
    frames.render(CAMERA, None)
    assert len(rendered) == 6


def test_failure_is_told_and_leaves_the_viewer_alive(balls: Any) -> None:
    said: list[str] = []
    frames = Frames(balls, said.append)
    names = frames.safely(lambda: frames.render(CAMERA, None), CAMERA)

    def fail() -> Any:
        raise InputError("out of GPU memory\nand more")

    black = frames.safely(fail, CAMERA)
    assert said == ["out of GPU memory"]
    assert {name: output.shape for name, output in black.items()} == {
        name: output.shape for name, output in names.items()
    }
    assert not any(output.any() for output in black.values())

    def interrupt() -> Any:
        raise IOChangeException  # how nerfstudio stops a frame when the camera moves

    with pytest.raises(IOChangeException):
        frames.safely(interrupt, CAMERA)


def test_boxes_of_instances_and_detector(tmp_path: Path) -> None:
    infos = [
        InstanceInfo(1, box_world=(0, 0, 0, 1, 2, 4)),
        InstanceInfo(2, obb_world=(1, 1, 1, 2, 2, 2, 0.5), box_world=(0, 0, 0, 2, 2, 2)),
        InstanceInfo(3),
    ]
    boxes, colours = instance_boxes(infos)
    assert boxes.tolist() == [[0.5, 1, 2, 1, 2, 4, 0], [1, 1, 1, 2, 2, 2, 0.5]]
    assert colours.tolist() == [list(info.colour or ()) for info in infos[:2]]
    drawn: list[Any] = []
    removed: list[str] = []

    def add(name: str, mesh: Any) -> Any:
        drawn.append(mesh)
        return SimpleNamespace(remove=lambda: removed.append(name))

    to_scene = np.diag([0.5, 0.5, 0.5, 1.0])
    layer = BoxLayer(SimpleNamespace(scene=SimpleNamespace(add_mesh_trimesh=add)), "/boxes", to_scene)  # type: ignore[arg-type]
    layer.show(boxes[:1], colours[:1])
    np.testing.assert_allclose(drawn[0].bounds, [[0, 0, 0], [5, 10, 20]], atol=0.4)
    layer.show(boxes, colours)
    layer.hide()
    layer.hide()
    assert removed == ["/boxes"] * 2
    path = tmp_path / "found.npz"
    np.savez(path, boxes=boxes[:, :6], scores=np.array([0.9, 0.1]))
    found = detector_boxes(path)
    assert found is not None
    assert found[0].shape == (2, 6)
    assert not np.array_equal(found[1][0], found[1][1])
    path.write_bytes(b"PK\x03\x04")
    assert detector_boxes(path) is None
    assert detector_boxes(tmp_path / "none.npz") is None
    assert detector_boxes(None) is None
