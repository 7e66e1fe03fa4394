"""`ns-export masks` against a scene whose ids, depths and boxes are known exactly: rectangles on a floor."""

import json
import math
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import tyro
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from instance_nerfstudio.edits.edits_file import EditsStore, RunIdentity
from instance_nerfstudio.edits.instance_edits import Edit
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export import atomic_folder as atomic_folder_module, writers as export_writers
from instance_nerfstudio.export.coco_files import BACKGROUND_SEGMENT, bounding_boxes, encode_rle
from instance_nerfstudio.export.export_masks import ExportMasks
from instance_nerfstudio.export.views import corrected_cameras, scene_to_world
from instance_nerfstudio.masks.instance_masks import find_instance_masks, read_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, find_instances_json, read_instances_json
from rcnn.instance_palette import colour_instances_uint8

# id -> (x1, y1, x2, y2) on the floor z = 0 of the world, and the confidence that the field has in it.
RECTANGLES = {1: (-1.0, -0.6, -0.2, 0.6), 300: (0.1, -0.5, 0.5, 0.5), 65534: (0.7, -0.2, 1.1, 0.4)}
CONFIDENCE = {0: 0.8, 1: 0.9, 300: 0.5, 65534: 0.7}


def _rotation(x: float, z: float) -> torch.Tensor:
    cx, sx, cz, sz = math.cos(x), math.sin(x), math.cos(z), math.sin(z)
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_x


TRANSFORM = torch.cat([_rotation(0.4, 1.1), torch.tensor([[0.3], [-0.2], [0.5]])], dim=1)
SCALE = 0.4


def _cameras(number: int, height: int = 36, width: int = 48) -> Cameras:
    """Cameras two and a half units above the floor, in the scene frame; the last one looks up, at nothing."""
    poses = []
    for i in range(number):
        tilt = math.pi if i == number - 1 else 0.5 * math.sin(i)
        world = _rotation(tilt, 0.7 * i)
        centre = torch.tensor([0.2 * math.cos(i), 0.2 * math.sin(i), 2.5])
        centre = SCALE * (TRANSFORM[:, :3] @ centre + TRANSFORM[:, 3])
        poses.append(torch.cat([TRANSFORM[:, :3] @ world, centre[:, None]], dim=1))
    return Cameras(torch.stack(poses), 40.0, 41.0, width / 2, height / 2, width=width, height=height)


class FakeModel:
    """Casts rays at the floor; records the cameras it was given."""

    device = torch.device("cpu")

    def __init__(self, mode: Literal["off", "SO3xR3", "SE3"], num_train: int) -> None:
        self.instance_head = SimpleNamespace(instance_ids=torch.tensor([0, *RECTANGLES], dtype=torch.int32))
        self.camera_optimizer = CameraOptimizer(CameraOptimizerConfig(mode=mode), num_train, "cpu")
        if mode != "off":
            torch.nn.init.uniform_(self.camera_optimizer.pose_adjustment, -0.1, 0.1)
        self.edits_store = EditsStore(None, lambda: RunIdentity("fake", tuple(RECTANGLES)))
        self.rendered: list[Cameras] = []
        self.fail_at: int | None = None
        self.error: BaseException = KeyboardInterrupt()

    def render(self, camera: Cameras) -> dict[str, torch.Tensor]:
        assert camera.shape == (1,)
        if self.fail_at == len(self.rendered):
            raise self.error
        self.rendered.append(deepcopy(camera))
        rays = camera.generate_rays(camera_indices=0)
        origin = scene_to_world(rays.origins.reshape(-1, 3), TRANSFORM, SCALE)
        ahead = scene_to_world((rays.origins + rays.directions).reshape(-1, 3), TRANSFORM, SCALE)
        steps = -origin[:, 2] / (ahead - origin)[:, 2]
        point = origin + steps[:, None] * (ahead - origin)
        hit = steps > 0
        ids = torch.zeros(len(point), dtype=torch.int32)
        for i, (x1, y1, x2, y2) in RECTANGLES.items():
            inside = (point[:, 0] >= x1) & (point[:, 0] <= x2) & (point[:, 1] >= y1) & (point[:, 1] <= y2)
            ids[hit & inside] = i
        ids = self.edits_store.current().merge_ids(ids)
        confidence = torch.zeros(len(point))
        for i, value in CONFIDENCE.items():
            confidence[ids == i] = value
        shape = (int(camera.height), int(camera.width), 1)
        return {
            "rgb": torch.full((*shape[:2], 3), 0.25),
            "depth": torch.where(hit, steps, 1000.0).float().view(shape),
            "accumulation": hit.float().view(shape),
            "instance_ids": ids.view(shape),
            "instance_confidence": confidence.view(shape),
        }


def _dataset(scene: Path, names: list[str], cameras: Cameras) -> SimpleNamespace:
    return SimpleNamespace(image_filenames=[scene / name for name in names], cameras=cameras)


def _pipeline(
    scene: Path,
    train: tuple[str, ...] = ("images/a.jpg", "images/b.jpg", "images/c.jpg"),
    held_out: tuple[str, ...] = ("images/d.jpg", "images/e.jpg"),
    mode: Literal["off", "SO3xR3", "SE3"] = "off",
    instances: tuple[InstanceInfo, ...] = (),
) -> Any:
    cameras = _cameras(len(train) + len(held_out))
    datamanager = SimpleNamespace(
        train_dataset=_dataset(scene, list(train), cameras[: len(train)]),
        eval_dataset=_dataset(scene, list(held_out), cameras[len(train) :]),
        train_dataparser_outputs=SimpleNamespace(dataparser_transform=TRANSFORM, dataparser_scale=SCALE),
        instances=list(instances),
    )
    return SimpleNamespace(datamanager=datamanager, model=FakeModel(mode, len(train)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the whole command on a pipeline that needs no checkpoint; returns the output folder."""
    config = tmp_path / "run" / "config.yml"
    config.parent.mkdir()
    config.touch()

    def export(pipeline: Any, **options: Any) -> Path:
        def load_run(load_config: Path, eval_num_rays_per_chunk: int | None) -> Any:
            assert load_config == config
            return pipeline

        monkeypatch.setattr("instance_nerfstudio.export.export_masks.load_run", load_run)
        exporter = ExportMasks(**{"load_config": config, "output_dir": tmp_path / "out", **options})
        exporter.main()
        return exporter.output_dir

    return export


def _expected(pipeline: Any, place: int, split: str = "train_dataset") -> np.ndarray:
    cameras = getattr(pipeline.datamanager, split).cameras[place : place + 1]
    return FakeModel("off", 1).render(cameras)["instance_ids"][..., 0].numpy()


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_png_export_holds_exact_ids_colours_and_overlays(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    out = run(pipeline)
    folders = ("instance_masks", "colour", "overlay")
    pictures = {f"{folder}/{name}.png" for folder in folders for name in "abcde"}
    assert _files(out) == pictures | {"instances.json", "instance_masks/instances.json"}
    seen = set()
    for split, names in (("train_dataset", "abc"), ("eval_dataset", "de")):
        for place, name in enumerate(names):
            ids = read_instance_mask(out / "instance_masks" / f"{name}.png")
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, _expected(pipeline, place, split))
            colours = np.asarray(Image.open(out / "colour" / f"{name}.png"))
            np.testing.assert_array_equal(colours, colour_instances_uint8(ids))
            blended = np.asarray(Image.open(out / "overlay" / f"{name}.png")).astype(float)
            half = 0.5 * 0.25 * 255 + 0.5 * colours
            wanted = np.where(ids[..., None] > 0, half, 0.25 * 255)
            np.testing.assert_allclose(blended, wanted, atol=0.51)
            seen |= set(np.unique(ids).tolist())
    assert seen == {0, *RECTANGLES}


def test_training_finds_exported_masks_of_images_in_folders(tmp_path: Path, run: Callable[..., Path]) -> None:
    scene = tmp_path / "scene"
    pipeline = _pipeline(
        scene, train=("train/r_0.png", "train/deep/r_0.png", "train/r_1.png"), held_out=("test/r_0.png",)
    )
    masks = run(pipeline) / "instance_masks"
    images = pipeline.datamanager.train_dataset.image_filenames
    found = find_instance_masks(images, scene, masks)
    assert found == [masks / "train/r_0.png", masks / "train/deep/r_0.png", masks / "train/r_1.png"]
    for place, path in enumerate(found):
        assert path is not None
        np.testing.assert_array_equal(read_instance_mask(path), _expected(pipeline, place))
    np.testing.assert_array_equal(read_instance_mask(masks / "test/r_0.png"), _expected(pipeline, 0, "eval_dataset"))
    description = find_instances_json(scene, masks)
    assert description is not None
    assert {info.id for info in read_instances_json(description)} == set(RECTANGLES)


def test_images_that_differ_by_suffix_only_keep_both_masks(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", train=("images/a.jpg", "images/a.png"), held_out=("images/b.jpg",))
    masks = run(pipeline) / "instance_masks"
    np.testing.assert_array_equal(read_instance_mask(masks / "a.png"), _expected(pipeline, 0))
    np.testing.assert_array_equal(read_instance_mask(masks / "a.png.png"), _expected(pipeline, 1))
    # The name doesn't depend on which split is exported.
    only = run(pipeline, cameras="eval", output_dir=tmp_path / "only")
    assert _files(only / "instance_masks") == {"b.png", "instances.json"}


def test_image_in_both_splits_is_one_training_view(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", train=("images/a.jpg", "images/b.jpg"), held_out=("images/b.jpg",))
    masks = run(pipeline) / "instance_masks"
    assert len(pipeline.model.rendered) == 2
    np.testing.assert_array_equal(read_instance_mask(masks / "b.png"), _expected(pipeline, 1))


@pytest.mark.parametrize(("cameras", "names"), [("train", "abc"), ("eval", "de"), ("all", "abcde")])
def test_split_is_chosen(tmp_path: Path, run: Callable[..., Path], cameras: str, names: str) -> None:
    out = run(_pipeline(tmp_path / "scene"), cameras=cameras)
    assert _files(out / "colour") == {f"{name}.png" for name in names}


def test_scene_without_held_out_views_is_one_line(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", held_out=())
    with pytest.raises(InputError, match="--cameras eval: the scene has no such views"):
        run(pipeline, cameras="eval")


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_training_cameras_are_where_training_rays_were(
    tmp_path: Path, run: Callable[..., Path], mode: Literal["SO3xR3", "SE3"]
) -> None:
    pipeline = _pipeline(tmp_path / "scene", mode=mode)
    run(pipeline)
    model, datamanager = pipeline.model, pipeline.datamanager
    trained = datamanager.train_dataset.cameras
    for place in range(3):
        rays = trained.generate_rays(camera_indices=place, keep_shape=False)
        uncorrected = rays.origins.clone()
        model.camera_optimizer.apply_to_raybundle(rays)
        assert (rays.origins - uncorrected).abs().max() > 1e-3
        _assert_same_rays(model.rendered[place], rays)
    for place in range(2):
        _assert_same_rays(model.rendered[3 + place], datamanager.eval_dataset.cameras.generate_rays(place))


def _assert_same_rays(camera: Cameras, rays: RayBundle) -> None:
    rendered = camera.generate_rays(camera_indices=0).flatten()
    torch.testing.assert_close(rendered.origins, rays.origins.reshape(-1, 3))
    torch.testing.assert_close(rendered.directions, rays.directions.reshape(-1, 3), atol=2e-6, rtol=0)


def test_correction_agrees_with_nerfstudio_for_each_camera(tmp_path: Path) -> None:
    cameras = _cameras(4)
    optimizer = FakeModel("SO3xR3", 4).camera_optimizer
    before = cameras.camera_to_worlds.clone()
    corrected = corrected_cameras(cameras, optimizer)
    for i in range(4):
        camera = cameras[i : i + 1]
        camera.metadata = {"cam_idx": i}
        torch.testing.assert_close(corrected.camera_to_worlds[i], optimizer.apply_to_camera(camera)[0].detach())
    torch.testing.assert_close(cameras.camera_to_worlds, before, rtol=0, atol=0)


def test_scale_changes_resolution_but_not_field_of_view(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    out = run(pipeline, scale=0.5, cameras="train")
    assert read_instance_mask(out / "instance_masks/a.png").shape == (18, 24)
    half, full = pipeline.model.rendered[0], pipeline.datamanager.train_dataset.cameras[0]
    assert (float(half.fx), float(half.fy), float(half.cx), float(half.cy)) == (20.0, 20.5, 12.0, 9.0)
    assert (float(full.fx), int(full.width)) == (40.0, 48)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e-3])
def test_useless_scale_is_one_line(tmp_path: Path, run: Callable[..., Path], scale: float) -> None:
    with pytest.raises(InputError, match="--scale"):
        run(_pipeline(tmp_path / "scene"), scale=scale)


def test_unsure_pixels_and_small_instances_become_unlabelled(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    truth = _expected(pipeline, 0)
    area = int((truth == 65534).sum())
    assert 0 < area < (truth == 1).sum()
    out = run(pipeline, min_confidence=0.6, min_area=area + 1)
    ids = read_instance_mask(out / "instance_masks/a.png")
    np.testing.assert_array_equal(ids, np.where(np.isin(truth, (300, 65534)), -1, truth))
    kept = run(pipeline, min_confidence=0.6, min_area=area, output_dir=tmp_path / "kept")
    ids = read_instance_mask(kept / "instance_masks/a.png")
    np.testing.assert_array_equal(ids, np.where(truth == 300, -1, truth))


def test_instances_get_score_and_box_in_the_world(tmp_path: Path, run: Callable[..., Path]) -> None:
    known = InstanceInfo(300, "chair", 0.25, (1, 2, 3), (0.0, 0.0, 0.0, 1.0, 1.0, 1.0))
    unboxed = InstanceInfo(65534, "lamp", 0.75)
    stranger = InstanceInfo(12, "not in the field")
    out = run(_pipeline(tmp_path / "scene", instances=(known, unboxed, stranger)))
    infos = {info.id: info for info in read_instances_json(out / "instances.json")}
    assert set(infos) == set(RECTANGLES)
    assert infos[300] == known
    assert (infos[65534].category, infos[65534].score) == ("lamp", 0.75)
    assert infos[1].category == "object"
    assert infos[1].score == pytest.approx(CONFIDENCE[1], abs=1e-6)
    for i in (1, 65534):
        x1, y1, x2, y2 = RECTANGLES[i]
        # A pixel covers 2.5 / 40 of a unit, so the outermost pixel may miss the edge by about one.
        assert infos[i].box_world == pytest.approx((x1, y1, 0.0, x2, y2, 0.0), abs=0.1)
        assert infos[i].box_world[5] == pytest.approx(0.0, abs=1e-5)  # type: ignore[index]


def test_unseen_instance_keeps_its_description(tmp_path: Path, run: Callable[..., Path]) -> None:
    """The last camera sees nothing: what is not in the scene's file is not described."""
    known = InstanceInfo(1, "sofa", 0.5)
    pipeline = _pipeline(tmp_path / "scene", held_out=("images/d.jpg",), instances=(known,))
    out = run(pipeline, cameras="eval", format=("png", "coco", "panoptic"))
    assert not read_instance_mask(out / "instance_masks/d.png").any()
    assert read_instances_json(out / "instances.json") == [known]
    assert json.loads((out / "coco.json").read_text())["annotations"] == []


def test_box_leaves_out_stray_depths(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    render = pipeline.model.render

    def with_strays(camera: Cameras) -> dict[str, torch.Tensor]:
        outputs = render(camera)
        ids = outputs["instance_ids"].flatten()
        strays = torch.nonzero(ids == 1)[:2]
        outputs["depth"].view(-1)[strays] = 50.0
        return outputs

    pipeline.model.render = with_strays
    infos = {info.id: info for info in read_instances_json(run(pipeline) / "instances.json")}
    assert infos[1].box_world == pytest.approx((-1.0, -0.6, 0.0, -0.2, 0.6, 0.0), abs=0.15)


def test_encode_rle_by_hand() -> None:
    ids = np.array([[5, 0, 2], [5, 2, 2]], dtype=np.int32)  # down the columns: 5 5 0 2 2 2
    assert encode_rle(ids) == {5: [0, 2, 4], 0: [2, 1, 3], 2: [3, 3]}
    assert bounding_boxes(ids) == {5: [0, 0, 1, 2], 0: [1, 0, 1, 1], 2: [1, 0, 2, 2]}


def test_encode_rle_agrees_with_pycocotools() -> None:
    ids = np.random.default_rng(0).integers(-1, 4, (37, 23)).astype(np.int32)
    for i, counts in encode_rle(ids).items():
        compressed: Any = coco_mask.frPyObjects({"size": [37, 23], "counts": counts}, 37, 23)  # type: ignore[arg-type]
        np.testing.assert_array_equal(coco_mask.decode(compressed), ids == i)


def test_coco_file_is_pixel_exact(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", instances=(InstanceInfo(1, "sofa"), InstanceInfo(300, "chair")))
    out = run(pipeline, format=("coco",), cameras="train")
    assert _files(out) == {"coco.json", "instances.json"}
    coco = COCO(str(out / "coco.json"))
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "chair", 2: "object", 3: "sofa"}
    category_of = {1: 3, 300: 1, 65534: 2}
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == ["a.jpg", "b.jpg", "c.jpg"]
    for place, image in enumerate(images):
        truth = _expected(pipeline, place)
        decoded = np.zeros_like(truth)
        annotations: list[Any] = list(coco.loadAnns(coco.getAnnIds(imgIds=image["id"])))
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            assert not decoded[mask].any()
            i = annotation["instance_id"]
            decoded[mask] = i
            compressed: Any = coco.annToRLE(annotation)
            assert annotation["area"] == mask.sum() == coco_mask.area(compressed)
            assert annotation["bbox"] == coco_mask.toBbox(compressed).tolist()
            assert annotation["category_id"] == category_of[i]
            assert annotation["score"] == pytest.approx(CONFIDENCE[i], abs=1e-6)
        assert truth.any()
        np.testing.assert_array_equal(decoded, truth)
        assert (image["height"], image["width"]) == truth.shape
    assert len(coco.getAnnIds()) == len(set(coco.getAnnIds()))


def test_panoptic_files_are_pixel_exact(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", instances=(InstanceInfo(1, "sofa"),))
    out = run(pipeline, format=("panoptic",), cameras="train", min_confidence=0.6)
    assert _files(out) == {"panoptic.json", "instances.json", *(f"panoptic/{name}.png" for name in "abc")}
    content = json.loads((out / "panoptic.json").read_text())
    categories = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
    assert categories == {1: ("object", 1), 2: ("sofa", 1), 3: ("background", 0)}
    assert len(content["annotations"]) == 3
    for place, annotation in enumerate(content["annotations"]):
        truth = _expected(pipeline, place)
        rgb = np.asarray(Image.open(out / "panoptic" / annotation["file_name"])).astype(np.int64)
        segments = rgb @ [1, 256, 65536]
        wanted = np.where(truth == 0, BACKGROUND_SEGMENT, truth)
        np.testing.assert_array_equal(segments, np.where(truth == 300, 0, wanted))
        assert {info["id"] for info in annotation["segments_info"]} == set(np.unique(segments).tolist()) - {0}
        for info in annotation["segments_info"]:
            mask = segments == info["id"]
            compressed: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert (info["area"], info["iscrowd"]) == (mask.sum(), 0)
            assert info["bbox"] == coco_mask.toBbox(compressed).tolist()
            assert info["category_id"] == {1: 2, 65534: 1, BACKGROUND_SEGMENT: 3}[info["id"]]
        image = content["images"][place]
        assert (image["id"], image["file_name"]) == (annotation["image_id"], f"{'abc'[place]}.jpg")


def test_all_formats_at_once(tmp_path: Path, run: Callable[..., Path]) -> None:
    out = run(_pipeline(tmp_path / "scene"), format=("panoptic", "png", "coco"), cameras="eval")
    assert {path.split("/")[0] for path in _files(out)} == {
        "instance_masks", "colour", "overlay", "panoptic", "instances.json", "coco.json", "panoptic.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "formats"),
    [
        ([], ("png",)),
        (["--format", "coco"], ("coco",)),
        (["--format", "png", "coco", "panoptic"], ("png", "coco", "panoptic")),
    ],
)
def test_command_line(arguments: list[str], formats: tuple[str, ...]) -> None:
    required = ["--load-config", "config.yml", "--output-dir", "out"]
    command: Any = tyro.conf.FlagConversionOff[ExportMasks]
    options = tyro.cli(command, args=[*required, *arguments, "--video", "True"])
    assert (options.format, options.video, options.output_dir) == (formats, True, Path("out"))


def _write_path(path: Path, **changes: Any) -> Path:
    pose = torch.eye(4)
    pose[:3] = _cameras(3).camera_to_worlds[0]
    frame = {"camera_to_world": pose.flatten().tolist(), "fov": 50.0, "aspect": 1.5}
    content = {"camera_path": [frame] * 3, "render_height": 20, "render_width": 30, "fps": 24, "seconds": 0.5}
    path.write_text(json.dumps(content | changes))
    return path


def test_camera_path_is_named_by_frame(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene", mode="SO3xR3")
    out = run(pipeline, cameras="path", camera_path=_write_path(tmp_path / "path.json"), scale=2.0)
    assert _files(out / "instance_masks") == {"00000.png", "00001.png", "00002.png", "instances.json"}
    ids = read_instance_mask(out / "instance_masks/00002.png")
    assert ids.shape == (40, 60)
    rendered = pipeline.model.rendered[2]
    torch.testing.assert_close(rendered.camera_to_worlds[0], _cameras(3).camera_to_worlds[0])
    np.testing.assert_array_equal(ids, FakeModel("off", 1).render(rendered)["instance_ids"][..., 0].numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_path": [{"fov": 3}]}, "not a camera path"),
        ({"camera_path": []}, "not a camera path"),
        ({"camera_type": "vr180"}, "stereo"),
    ],
)
def test_bad_camera_path_is_one_line(
    tmp_path: Path, run: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = _write_path(tmp_path / "path.json", **changes)
    with pytest.raises(InputError, match=f"path.json: .*{message}") as error:
        run(_pipeline(tmp_path / "scene"), cameras="path", camera_path=path)
    assert "\n" not in str(error.value)


def test_camera_path_that_is_no_json_or_not_there(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    (tmp_path / "path.json").write_text("{")
    with pytest.raises(InputError, match="not a camera path"):
        run(pipeline, cameras="path", camera_path=tmp_path / "path.json")
    with pytest.raises(InputError, match="no such file"):
        run(pipeline, cameras="path", camera_path=tmp_path / "other.json")
    with pytest.raises(InputError, match="belong together"):
        run(pipeline, cameras="path")
    with pytest.raises(InputError, match="belong together"):
        run(pipeline, cameras="train", camera_path=tmp_path / "path.json")


def _interrupt(pipeline: Any, _: pytest.MonkeyPatch) -> type[BaseException]:
    pipeline.model.fail_at = 2
    return KeyboardInterrupt


def _fail_at_first(pipeline: Any, _: pytest.MonkeyPatch) -> type[BaseException]:
    pipeline.model.fail_at, pipeline.model.error = 0, RuntimeError("out of memory")
    return RuntimeError


def _fail_to_rename(_: Any, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if "-partial-" in Path(source).name:
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(atomic_folder_module.os, "replace", refuse)
    return OSError


@pytest.mark.parametrize("break_it", [_interrupt, _fail_at_first, _fail_to_rename])
def test_failing_export_leaves_nothing(
    tmp_path: Path,
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Any, pytest.MonkeyPatch], type[BaseException]],
) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    error = break_it(pipeline, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        run(pipeline, format=("png", "coco", "panoptic"), video=True, output_dir=tmp_path / "new/parent/out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("break_it", [_interrupt, _fail_to_rename])
def test_failing_overwrite_keeps_the_earlier_export(
    tmp_path: Path,
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Any, pytest.MonkeyPatch], type[BaseException]],
) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    out = run(pipeline)
    pipeline.model.rendered.clear()
    earlier = {path: (out / path).read_bytes() for path in _files(out)}
    error = break_it(pipeline, monkeypatch)
    with pytest.raises(error):
        run(pipeline, overwrite=True, scale=0.5)
    assert {path: (out / path).read_bytes() for path in _files(out)} == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_unwritten_folder_is_there_only_at_the_end(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    render = pipeline.model.render

    def look(camera: Cameras) -> dict[str, torch.Tensor]:
        assert not (tmp_path / "out").exists()
        return render(camera)

    pipeline.model.render = look
    out = run(pipeline)
    # As open to others as any folder made here.
    (tmp_path / "plain").mkdir()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_output_is_refused_or_replaced(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    (tmp_path / "out").mkdir()
    out = run(pipeline, format=("png", "coco"))  # an empty folder is no reason to stop
    pipeline.model.rendered.clear()
    with pytest.raises(InputError, match=r"out: is not empty.*--overwrite True"):
        run(pipeline)
    assert pipeline.model.rendered == []
    assert (out / "coco.json").is_file()
    run(pipeline, overwrite=True, cameras="eval")
    assert not (out / "coco.json").exists()
    assert _files(out / "colour") == {"d.png", "e.png"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_overwrite_never_deletes_what_no_export_wrote(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    out = run(pipeline)
    (out / "transforms.json").touch()
    with pytest.raises(InputError, match=r"holds transforms\.json, which no export wrote"):
        run(pipeline, overwrite=True)
    assert (out / "transforms.json").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        run(pipeline, overwrite=True, output_dir=tmp_path / "file")
    with pytest.raises(InputError, match="can't be created"):
        run(pipeline, output_dir=tmp_path / "file" / "out")


def test_video_shows_the_overlays(tmp_path: Path, run: Callable[..., Path]) -> None:
    import av

    pipeline = _pipeline(tmp_path / "scene")
    path = _write_path(tmp_path / "path.json", render_height=101, render_width=151)
    out = run(pipeline, video=True, cameras="path", camera_path=path)
    with av.open(str(out / "overlay.mp4")) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert rate == 6  # three frames in half a second
    assert [frame.shape for frame in frames] == [(100, 150, 3)] * 3
    overlay = np.asarray(Image.open(out / "overlay/00001.png"))[:100, :150].astype(float)
    contrast = np.abs(overlay - overlay.mean((0, 1))).mean()
    assert contrast > 8
    assert np.abs(frames[1] - overlay).mean() < contrast / 4


def test_video_without_encoder_stops_before_rendering(
    tmp_path: Path, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    monkeypatch.setattr(export_writers, "VIDEO_CODEC", "no-such-codec")
    with pytest.raises(InputError, match=r"--video True: no H\.264 encoder"):
        run(pipeline, video=True)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="pip install av"):
        run(pipeline, video=True)
    assert pipeline.model.rendered == []


def test_video_of_mixed_sizes_stops_before_rendering(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    pipeline.datamanager.eval_dataset.cameras = _cameras(2, 20, 30)
    with pytest.raises(InputError, match=r"different sizes, e\.g\. 30x20 and 48x36"):
        run(pipeline, video=True)
    assert pipeline.model.rendered == []
    out = run(pipeline)
    assert read_instance_mask(out / "instance_masks/d.png").shape == (20, 30)
    assert read_instance_mask(out / "instance_masks/a.png").shape == (36, 48)


def test_other_models_are_refused(tmp_path: Path, run: Callable[..., Path]) -> None:
    pipeline = _pipeline(tmp_path / "scene")
    render = pipeline.model.render
    pipeline.model.render = lambda camera: {k: v for k, v in render(camera).items() if k != "instance_ids"}
    with pytest.raises(InputError, match="use-instances"):
        run(pipeline)
    pipeline.model = SimpleNamespace(camera_optimizer=None)
    with pytest.raises(InputError, match=r"config\.yml: not an instance-nerfacto run"):
        run(pipeline)
    assert not (tmp_path / "out").exists()


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yml: no such file; give the config"):
        ExportMasks(load_config=tmp_path / "missing.yml", output_dir=tmp_path / "out").main()
    assert not (tmp_path / "out").exists()


def test_edits_name_colour_and_merge_what_is_exported(run: Callable[..., Path], tmp_path: Path) -> None:
    pipeline = _pipeline(tmp_path / "scene", instances=(InstanceInfo(1, "rug"), InstanceInfo(300, "rug")))
    edits = pipeline.model.edits_store
    edits.apply(Edit("rename", (1,), "red rug"))
    edits.apply(Edit("categorize", (65534,), "mat"))
    edits.apply(Edit("recolour", (1,), (250, 10, 20)))
    edits.apply(Edit("merge", (1, 300)))
    edits.apply(Edit("hide", (65534,)))  # its matter is the model's affair, and this one has none
    folder = run(pipeline, format=("png", "coco"))
    infos = {info.id: info for info in read_instances_json(folder / "instances.json")}
    assert set(infos) == {1}
    assert (infos[1].name, infos[1].category, infos[1].colour) == ("red rug", "rug", (250, 10, 20))
    names = {category["name"] for category in json.loads((folder / "coco.json").read_text())["categories"]}
    assert names == {"rug", "mat"}
    ids = _expected(pipeline, 0)
    colour = np.asarray(Image.open(folder / "colour" / "a.png"))
    assert (colour[(ids == 1) | (ids == 300)] == (250, 10, 20)).all()
    assert np.array_equal(read_instance_mask(folder / "instance_masks" / "a.png") == 1, (ids == 1) | (ids == 300))
    assert np.array_equal(colour[ids == 65534], colour_instances_uint8(ids[ids == 65534]))
