"""Contracts of the mask sources: real models with random weights built from their configs, without a network."""

import builtins
import json
import pickle
import shutil
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from instance_nerfstudio.segments.class_table import load_class_table
from instance_nerfstudio.segments.mask_rcnn import MaskRCNNConfig, build_mask_rcnn, load_mask_rcnn, save_mask_rcnn
from instance_nerfstudio.segments.photos import name_photos
from instance_nerfstudio.segments.segment import make_source, segment_images
from instance_nerfstudio.segments.segments_folder import SegmentsFolder, read_segments
from instance_nerfstudio.segments.settings import FlattenConfig, SegmentConfig, TrackingConfig
from instance_nerfstudio.segments.view_segments import ViewSegments
from instance_nerfstudio.segments.weights_file import read_weights

SIZES = ((48, 64), (48, 64), (70, 50))
ANYTHING = FlattenConfig(min_score=0.0, doubtful_score=0.0, min_area=0.0, min_visible=0.01)
"""Random weights are sure of nothing."""


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return paths


def check(folder: SegmentsFolder, photos: list[Path], some: bool = True) -> None:
    """What every source promises, read back from disk."""
    again = read_segments(folder.path)
    assert set(again.records) == {photo.name for photo in photos}
    assert not some or again.count > 0
    for photo, size in zip(photos, SIZES, strict=True):
        view = again.view(photo)
        assert view.ids.dtype == np.int32
        assert view.ids.shape == size
        assert view.ids.min() >= -1
        assert max(view.ids.max(), 0) == len(view.categories) == len(view.scores)
        shown = np.unique(view.ids[view.ids > 0])
        assert all(view.categories[number - 1] for number in shown)
        assert ((view.scores >= 0) & (view.scores <= 1)).all()
        if not again.tracks:
            assert shown.tolist() == list(range(1, len(view.scores) + 1))


def same(one: Path, other: Path) -> bool:
    return all(file.read_bytes() == (other / file.name).read_bytes() for file in one.iterdir())


@pytest.fixture(scope="module")
def mask_rcnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    config = MaskRCNNConfig(("chair", "table"), "resnet18", min_size=48, max_size=64, proposals=10, detections=3)
    save_mask_rcnn(path, build_mask_rcnn(config).state_dict(), config, {"data": "none"})
    return path


def test_mask_rcnn(photos: list[Path], tmp_path: Path, mask_rcnn: Path) -> None:
    config = SegmentConfig("torchvision", str(mask_rcnn), flatten=ANYTHING)
    check(segment_images(photos, tmp_path / "one", config, "cpu"), photos)
    sure = replace(config, flatten=FlattenConfig(min_score=1.0, doubtful_score=1.0))
    folder = segment_images(photos, tmp_path / "none", sure, "cpu")
    check(folder, photos, some=False)
    assert folder.count == 0


def test_mask_rcnn_files(tmp_path: Path, mask_rcnn: Path) -> None:
    model, config = load_mask_rcnn(mask_rcnn)
    assert config.categories == ("chair", "table")
    assert not model.training
    missing = SegmentConfig("torchvision", str(tmp_path / "gone.safetensors"))
    with pytest.raises(InputError, match=r"gone\.safetensors: no such file; check --weights"):
        make_source(missing, "cpu")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(mask_rcnn.read_bytes()[:1000])
    notes = json.loads(mask_rcnn.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps(notes))
    with pytest.raises(InputError, match="is no whole safetensors file"):
        load_mask_rcnn(copy)
    copy.write_bytes(mask_rcnn.read_bytes())
    notes["mask_rcnn"]["categories"].append("lamp")
    copy.with_suffix(".json").write_text(json.dumps(notes))
    with pytest.raises(InputError, match=r"copy\.safetensors: does not fit copy\.json") as caught:
        load_mask_rcnn(copy)
    assert "\n" not in str(caught.value)


def test_published_mask_rcnn_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Path]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"no weights of Mask R-CNN there; download 177 MB with python -c"):
        make_source(SegmentConfig("torchvision"), "cpu")
    cached = tmp_path / "checkpoints" / "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"coco-73cbd019\.pth: cannot be read as weights"):
        make_source(SegmentConfig("torchvision"), "cpu")
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    torch.save(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict(), cached)
    source = make_source(SegmentConfig("torchvision", flatten=ANYTHING), "cpu")
    source._model.transform.min_size, source._model.roi_heads.detections_per_img = (48,), 3  # type: ignore[attr-defined]
    ((place, view),) = source.segment(name_photos(photos)[:1], ())
    assert place == 0
    assert view is not None
    assert view.ids.shape == SIZES[0]


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def mask2former(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Panoptic: knows walls."""
    folder = tmp_path_factory.mktemp("mask2former")
    backbone = transformers.SwinConfig(
        image_size=32, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=20,
        id2label={0: "chair", 1: "wall-other-merged", 2: "table-merged"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 48, "longest_edge": 80}
    transformers.Mask2FormerImageProcessor(size=size, size_divisor=32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def eomt(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Instances alone. Pads photos to squares."""
    folder = tmp_path_factory.mktemp("eomt")
    config = transformers.EomtConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=8, num_queries=10,
        num_blocks=2, num_upscale_blocks=1, mlp_ratio=2, num_register_tokens=1, id2label={0: "chair", 1: "couch"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.EomtForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 64}
    transformers.EomtImageProcessor(size=size, do_pad=True).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("model", ["mask2former", "eomt"])
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_universal_models(
    model: str, task: Any, photos: list[Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = SegmentConfig("transformers", request.getfixturevalue(model), task=task, flatten=ANYTHING)
    folder = segment_images(photos, tmp_path / "one", config, "cpu")
    check(folder, photos)
    categories = {segment.category for record in folder.records.values() for segment in record.segments}
    assert categories <= {"chair", "table", "sofa"}
    segment_images(photos, tmp_path / "two", config, "cpu")
    assert same(tmp_path / "one", tmp_path / "two")
    sure = replace(config, flatten=FlattenConfig(min_score=1.0, doubtful_score=1.0))
    check(segment_images(photos, tmp_path / "none", sure, "cpu"), photos, some=False)
    elsewhere = {"panoptic": -1, "instance": 0}[task]
    assert (read_segments(tmp_path / "none").view(photos[0]).ids == elsewhere).all()


def test_what_a_model_knows_decides_how_it_is_read(mask2former: str, eomt: str) -> None:
    tasks = [
        make_source(SegmentConfig("transformers", weights), "cpu").info.settings["task"]
        for weights in (mask2former, eomt)
    ]
    assert tasks == ["panoptic", "instance"]


def test_masks_lie_where_the_model_saw_them(eomt: str, tmp_path: Path) -> None:
    """A square in the photo comes back as the same pixels, although the photo is resized and padded to a square."""
    source: Any = make_source(SegmentConfig("transformers", eomt), "cpu")

    class Bright(torch.nn.Module):
        """A query for a bright thing, at a quarter of the resolution, and one for the padding."""

        def forward(self, pixel_values: torch.Tensor) -> Any:
            bright = torch.nn.functional.avg_pool2d(pixel_values[:, :1], 4)
            logits = torch.cat([4 * bright, -4 * bright], 1)
            classes = torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]])
            return type("Output", (), {"masks_queries_logits": logits, "class_queries_logits": classes})

    source._model = Bright()
    for size in ((96, 128), (128, 40)):
        photo = np.zeros((*size, 3), np.uint8)
        photo[32:64, 8:32] = 255
        found = source._detect(photo)
        true = torch.from_numpy(photo[..., 0] > 0)
        iou = (found.masks[0] & true).sum() / (found.masks[0] | true).sum()
        assert found.masks.shape == (1, *size)
        assert iou > 0.85


def test_checkpoints_of_another_kind(eomt: str, transformers: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"facebook/nothing: is not in the Hugging Face cache.*`hf download facebook/nothing`"
    ):
        make_source(SegmentConfig("transformers", "facebook/nothing"), "cpu")
    with pytest.raises(InputError, match=r"gone: is no folder with a whole checkpoint"):
        make_source(SegmentConfig("transformers", str(tmp_path / "gone")), "cpu")
    transformers.SwinConfig().save_pretrained(tmp_path / "swin")
    with pytest.raises(InputError, match="is a swin, not a Mask2Former, MaskFormer or EoMT"):
        make_source(SegmentConfig("transformers", str(tmp_path / "swin")), "cpu")
    with pytest.raises(InputError, match="is a eomt, not a SAM 2"):
        make_source(SegmentConfig("sam2", eomt), "cpu")
    shutil.copytree(eomt, tmp_path / "semantic")
    transformers.EomtImageProcessor(do_split_image=True).save_pretrained(tmp_path / "semantic")
    with pytest.raises(InputError, match="is a model for semantic classes; choose a panoptic or an instance one"):
        make_source(SegmentConfig("transformers", str(tmp_path / "semantic")), "cpu")
    (tmp_path / "semantic" / "model.safetensors").write_bytes(b"half a file")
    transformers.EomtImageProcessor().save_pretrained(tmp_path / "semantic")
    with pytest.raises(InputError, match="semantic: is no folder with a whole checkpoint") as caught:
        make_source(SegmentConfig("transformers", str(tmp_path / "semantic")), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["transformers", "sam2"])
def test_transformers_is_not_installed(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"--source {source}: needs transformers; pip install"):
        make_source(SegmentConfig(source), "cpu")


@pytest.fixture(scope="module")
def sam2(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    folder, side = tmp_path_factory.mktemp("sam2"), 64
    backbone = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, image_size=[side, side], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=128,
    )  # fmt: skip
    config = transformers.Sam2VideoConfig(
        vision_config=vision, image_size=side,
        prompt_encoder_config={"hidden_size": 128, "image_size": side, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        memory_attention_hidden_size=128, memory_attention_num_layers=1, memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4], memory_encoder_hidden_size=128, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32, memory_fuser_num_layers=1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Sam2VideoModel(config).save_pretrained(folder)
    whole, quarter = ({"height": n, "width": n} for n in (side, side // 4))
    images = transformers.Sam2ImageProcessor(size=whole, mask_size=quarter)
    videos = transformers.Sam2VideoVideoProcessor(size=whole)
    transformers.Sam2VideoProcessor(images, videos).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("seeds", ["grid", "torchvision"])
def test_sam2(seeds: Any, photos: list[Path], tmp_path: Path, sam2: str, mask_rcnn: Path) -> None:
    tracking = TrackingConfig(
        keyframe_every=2, seeds=seeds, seed_weights=str(mask_rcnn), points_per_side=3, min_quality=0.0,
        min_stability=0.0, background_area=1.0,
    )  # fmt: skip
    config = SegmentConfig("sam2", sam2, tracking=tracking, flatten=ANYTHING)
    folder = segment_images(photos, tmp_path / "one", config, "cpu")
    check(folder, photos)
    assert folder.tracks
    views = [folder.view(photo) for photo in photos]
    shown = [set(np.unique(view.ids[view.ids > 0]).tolist()) for view in views]
    assert shown[1] <= shown[0]  # no keyframe: nothing new
    categories = {number: views[0].categories[number - 1] for number in shown[0]}
    assert set(categories.values()) <= ({"object"} if seeds == "grid" else {"chair", "table"})
    for view, numbers in zip(views, shown, strict=True):
        for number in numbers & shown[0]:
            assert view.categories[number - 1] == categories[number]
            assert view.scores[number - 1] == views[0].scores[number - 1]
    # From any place where it was killed it ends in the same segments.
    for kept in (1, 2) if seeds == "grid" else ():
        again = tmp_path / f"killed{kept}"
        shutil.copytree(tmp_path / "one", again)
        for photo in photos[kept:]:
            (again / photo.name).unlink()
        segment_images(photos, again, config, "cpu")
        assert same(tmp_path / "one", again)


def test_sam2_follows_what_it_is_told(photos: list[Path], sam2: str, mask_rcnn: Path) -> None:
    """Ids, classes and new objects, with a tracker that moves every mask by one pixel to the right."""
    tracking = TrackingConfig(keyframe_every=2, seeds="torchvision", seed_weights=str(mask_rcnn))
    source: Any = make_source(SegmentConfig("sam2", sam2, tracking=tracking), "cpu")
    first, later = np.zeros((48, 64), np.int32), np.zeros((48, 64), np.int32)
    first[10:20, 10:20] = 1
    first[40:, :] = -1
    later[10:20, 12:22] = 1  # the same object
    later[30:40, 40:50] = 2  # a new one
    seeds = {
        "0.png": ViewSegments(first, ("sofa",), np.array([0.5])),
        "2.png": ViewSegments(later, ("chair", "lamp"), np.array([0.6, 0.7])),
    }
    source._seed = lambda photo: seeds[photo.name]
    for path in photos:
        Image.new("RGB", (64, 48)).save(path)

    def move(session: Any, start_frame_idx: int) -> Iterator[Any]:
        masks = [session.mask_inputs_per_obj[i][0] for i in range(len(session.obj_ids))]
        for frame in range(start_frame_idx, session.num_frames):
            moved = torch.cat([torch.roll(mask, frame, dims=3) for mask in masks])
            score = torch.ones(len(masks), 1)
            output = {"frame_idx": frame, "object_ids": session.obj_ids, "object_score_logits": score}
            yield SimpleNamespace(**output, pred_masks=20 * moved - 10)

    source._tracker = SimpleNamespace(propagate_in_video_iterator=move)
    views = dict(source.segment(name_photos(photos), ()))
    assert list(views) == [0, 1, 2]
    assert np.array_equal(views[0].ids, first)
    rows, columns = np.nonzero(views[1].ids == 1)
    # Between squares of 64 pixels and the photo's 48 rows, borders may move by one.
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [10, 19, 11, 20], atol=1)
    assert 9 <= columns.max() - columns.min() <= 10
    assert set(np.unique(views[1].ids)) == {-1, 1}  # elsewhere nothing is known between keyframes
    assert views[2].categories == ("sofa", "lamp")
    np.testing.assert_allclose(views[2].scores, [0.5, 0.7])
    assert (views[2].ids[30:40, 40:50] == 2).all()
    assert set(np.unique(views[2].ids)) == {0, 1, 2}


class Cfg(dict):
    """detectron2's CfgNode, as far as a config is read and written by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def merge_from_file(self, path: str) -> None:
        text = Path(path).read_text()
        if "UNKNOWN" in text:
            raise KeyError("Non-existent config key: UNKNOWN")
        self.MODEL.MASK_ON = "MASK_FORMER" not in text

    def freeze(self) -> None:
        pass


class FakeDetectron2Model(torch.nn.Module):
    """Answers in the format of detectron2's documentation ("Model Output Format")."""

    def __init__(self, cfg: Cfg) -> None:
        super().__init__()
        self.panoptic = "MASK_FORMER" in cfg.MODEL
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.seen: list[torch.Tensor] = []

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (one,) = inputs
        self.seen.append(one["image"])
        height, width = one["height"], one["width"]
        if self.panoptic:
            segments = torch.zeros(height, width, dtype=torch.int32)
            segments[:10], segments[20:30, :10], segments[20:30, 20:30], segments[35:45, :20] = 1, 2, 2, 3
            infos = [
                {"id": 1, "isthing": False, "category_id": 131},  # wall-other-merged
                {"id": 2, "isthing": False, "category_id": 121},  # table-merged, in two pieces
                {"id": 3, "isthing": True, "category_id": 57},  # couch
            ]
            return [{"panoptic_seg": (segments, infos), "sem_seg": None}]
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        masks[0, :20, :20], masks[1, 25:45, :20], masks[2] = True, True, True
        fields = {
            "pred_masks": masks,
            "scores": torch.tensor([0.9, 0.7, 0.2]),
            "pred_classes": torch.tensor([56, 57, 0]),
        }
        return [{"instances": SimpleNamespace(**fields)}]


@pytest.fixture
def detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the part of detectron2's and Mask2Former's API that the source uses."""
    names = load_class_table("coco").names
    metadata = SimpleNamespace(thing_classes=list(names[:80]), stuff_classes=list(names))

    class ResizeShortestEdge:
        def __init__(self, sides: list[int], longest: int) -> None:
            assert sides == [24, 24]
            assert longest == 100

        def get_transform(self, image: np.ndarray) -> Any:
            assert image.dtype == np.uint8
            return SimpleNamespace(apply_image=lambda picture: picture[::2, ::2])

    def get_cfg() -> Cfg:
        model = Cfg(WEIGHTS="detectron2://download", ROI_HEADS=Cfg(SCORE_THRESH_TEST=0.05), DEVICE="cuda")
        return Cfg(
            MODEL=model, DATASETS=Cfg(TEST=("coco_2017_val",)),
            INPUT=Cfg(MIN_SIZE_TEST=24, MAX_SIZE_TEST=100, FORMAT="BGR"),
        )  # fmt: skip

    def add_maskformer2_config(cfg: Cfg) -> None:
        test = Cfg(SEMANTIC_ON=True, INSTANCE_ON=True, PANOPTIC_ON=True, OBJECT_MASK_THRESHOLD=0.8)
        cfg.MODEL.MASK_FORMER = Cfg(TEST=test)

    def build_model(cfg: Cfg) -> FakeDetectron2Model:
        assert cfg.MODEL.WEIGHTS == ""
        assert cfg.MODEL.DEVICE == "cpu"
        return FakeDetectron2Model(cfg)

    modules: dict[str, dict[str, Any]] = {
        "detectron2": {"__version__": "0.6"},
        "detectron2.config": {"get_cfg": get_cfg},
        "detectron2.data": {
            "MetadataCatalog": SimpleNamespace(get=lambda name: metadata),
            "transforms": SimpleNamespace(ResizeShortestEdge=ResizeShortestEdge),
        },
        "detectron2.modeling": {"build_model": build_model},
        "detectron2.projects": {},
        "detectron2.projects.deeplab": {"add_deeplab_config": lambda cfg: None},
        "mask2former": {"add_maskformer2_config": add_maskformer2_config},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint as they are published: a pickle of NumPy arrays, and its config on another one."""
    weights = tmp_path / "model_final.pkl"
    weights.write_bytes(pickle.dumps({"model": OrderedDict(weight=np.ones(2, np.float32)), "__author__": "someone"}))
    (tmp_path / "base.yaml").write_text(
        'MODEL:\n  META_ARCHITECTURE: "MaskFormer"\n  MASK_FORMER:\n    DEC_LAYERS: 10\n'
    )
    (tmp_path / "panoptic.yaml").write_text("_BASE_: base.yaml\n")
    (tmp_path / "rcnn.yaml").write_text("MODEL:\n  MASK_ON: True\n")
    return weights


def test_detectron2_panoptic(photos: list[Path], tmp_path: Path, detectron2: None, published: Path) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "panoptic.yaml")
    folder = segment_images(photos[:2], tmp_path / "out", config, "cpu")
    view = folder.view(photos[0])
    assert view.categories == ("table", "table", "sofa")
    np.testing.assert_allclose(view.scores, 0.8)
    assert view.ids.shape == SIZES[0]
    assert set(np.unique(view.ids[:10])) == {0}
    assert len({view.ids[25, 5], view.ids[25, 25], view.ids[40, 5]} - {0, -1}) == 3
    assert view.ids[47, 63] == -1


def test_detectron2_instances(photos: list[Path], tmp_path: Path, detectron2: None, published: Path) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "rcnn.yaml")
    folder = segment_images(photos, tmp_path / "out", config, "cpu")
    check(folder, photos)
    assert folder.view(photos[0]).categories == ("chair", "sofa")
    source: Any = make_source(config, "cpu")
    list(source.segment(name_photos(photos)[:1], ()))
    (seen,) = source._model.seen
    # BGR, as the config says, channels first.
    expected = np.asarray(Image.open(photos[0]))[::2, ::2, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(seen.numpy(), expected.astype(np.float32))
    assert source._model.weight.tolist() == [1, 1]


def test_detectron2_files(tmp_path: Path, detectron2: None, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SegmentConfig("detectron2", str(published), detectron2_config=tmp_path / "panoptic.yaml")
    published.write_bytes(pickle.dumps({"model": {"other": np.ones(2)}}))
    with pytest.raises(InputError, match=r"model_final\.pkl: lacks weight of the model"):
        make_source(config, "cpu")
    published.write_bytes(pickle.dumps({"model": {"weight": np.ones(3)}}))
    with pytest.raises(InputError, match=r"model_final\.pkl: does not fit --detectron2-config"):
        make_source(config, "cpu")
    published.write_bytes(pickle.dumps({"model": {"weight": Path("/")}}))
    with pytest.raises(InputError, match=r"names pathlib\.PosixPath, which is refused"):
        make_source(config, "cpu")
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(InputError, match=r"base\.yaml: no such file, named by .*panoptic\.yaml"):
        make_source(config, "cpu")
    (tmp_path / "rcnn.yaml").write_text("UNKNOWN: 1\n")
    with pytest.raises(InputError, match="is no config of detectron2 that is known here"):
        make_source(replace(config, detectron2_config=tmp_path / "rcnn.yaml"), "cpu")
    (tmp_path / "base.yaml").write_text("MODEL:\n  MASK_FORMER: {}\n")
    monkeypatch.setitem(sys.modules, "mask2former", None)
    with pytest.raises(InputError, match=r"needs Mask2Former .*; git clone .*Mask2Former .* sh make\.sh"):
        make_source(config, "cpu")
    with pytest.raises(InputError, match="needs --weights CHECKPOINT and --detectron2-config"):
        make_source(SegmentConfig("detectron2"), "cpu")


def test_detectron2_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs detectron2, which is not on PyPI; git clone .* pip install"):
        make_source(SegmentConfig("detectron2"), "cpu")


def test_pickles_run_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return builtins.exec, ("raise SystemExit('ran')",)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(InputError, match=r"builtins\.exec, which is refused"):
        read_weights(path)
    whole = pickle.dumps({"weight": np.arange(6.0).reshape(2, 3), "epoch": 3})
    path.write_bytes(whole)
    assert {name: weight.tolist() for name, weight in read_weights(path).items()} == {"weight": [[0, 1, 2], [3, 4, 5]]}
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"evil\.pkl: cannot be read as weights"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"epoch": 3}))
    with pytest.raises(InputError, match=r"evil\.pkl: holds no weights"):
        read_weights(path)


def write_masks(folder: Path) -> dict[str, np.ndarray]:
    """In each format one."""
    maps = {}
    for n, size in enumerate(SIZES):
        maps[f"{n}.png"] = np.zeros(size, np.int32)
        maps[f"{n}.png"][10:30, 5:25], maps[f"{n}.png"][30:40, 30:45] = 9, 4
    folder.mkdir()
    write_instance_mask(folder / "0.png", maps["0.png"])
    np.save(folder / "1.npy", maps["1.png"])
    Image.fromarray(maps["2.png"].astype(np.uint8)).save(folder / "2.png")
    return maps


def test_folder(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    folder = segment_images(photos, tmp_path / "out", config)
    check(folder, photos)
    assert not folder.tracks
    for photo in photos:
        view = folder.view(photo)
        np.testing.assert_array_equal(view.ids, np.select([maps[photo.name] == 4, maps[photo.name] == 9], [1, 2], 0))
        assert view.categories == ("object", "object")
    # Masks that changed are read again.
    write_instance_mask(tmp_path / "masks" / "0.png", 1 * (maps["0.png"] == 9))
    assert segment_images(photos, tmp_path / "out", config).view(photos[0]).categories == ("object",)


def test_folder_with_instances_of_the_whole_scene(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    infos = [InstanceInfo(4, "curtain", 0.75), InstanceInfo(9, "sofa", 0.25)]
    write_instances_json(tmp_path / "masks" / "instances.json", infos)
    folder = segment_images(photos, tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    check(folder, photos)
    view = folder.view(photos[0])
    assert folder.tracks
    assert view.categories == ("", "", "", "curtain")  # the user's own names; the sofa is below --min-score
    np.testing.assert_array_equal(view.ids, np.select([maps["0.png"] == 4, maps["0.png"] == 9], [4, -1], 0))


def test_folder_with_segments_info(photos: list[Path], tmp_path: Path) -> None:
    """As the original Instance-NeRF's Mask2Former script writes them."""
    maps = write_masks(tmp_path / "masks")
    infos = [{"id": 4, "isthing": False, "category_id": 131}, {"id": 9, "isthing": True, "category_id": 57}]
    (tmp_path / "masks" / "0.json").write_text(json.dumps(infos))
    folder = segment_images(photos[:1], tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    view = folder.view(photos[0])
    assert view.categories == ("sofa",)
    np.testing.assert_array_equal(view.ids, np.select([maps["0.png"] == 4, maps["0.png"] == 9], [0, 1], -1))
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    (tmp_path / "masks" / "0.json").write_text(json.dumps(infos[:1]))
    with pytest.raises(InputError, match=r"0\.png: has segment 9, which 0\.json does not list"):
        segment_images(photos[:1], tmp_path / "out", config)
    (tmp_path / "masks" / "0.json").write_text("{}{")
    with pytest.raises(InputError, match=r"0\.json: is no list of"):
        segment_images(photos[:1], tmp_path / "out", config)


def test_folder_that_skips_photos_or_has_other_sizes(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    (tmp_path / "masks" / "1.npy").unlink()
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    folder = segment_images(photos, tmp_path / "out", config)
    assert [folder.is_skipped(photo) for photo in photos] == [False, True, False]
    assert (folder.view(photos[1]).ids == -1).all()
    assert folder.view(photos[1]).categories == ()
    write_instance_mask(tmp_path / "masks" / "1.png", maps["1.png"][::2, ::2])
    assert segment_images(photos, tmp_path / "out", config).view(photos[1]).ids.shape == SIZES[1]
    write_instance_mask(tmp_path / "masks" / "1.png", maps["1.png"][:, :40])
    with pytest.raises(
        InputError, match=r"1\.png: mask is 40x48 but its image is 64x48, .* write the mask at the size"
    ):
        segment_images(photos, tmp_path / "out", config)
    assert read_segments(tmp_path / "out").is_skipped(photos[1]) is False
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(mask.with_stem(f"frame{mask.stem}"))
    with pytest.raises(InputError, match="no mask here matches an image"):
        segment_images(photos, tmp_path / "out", config)
    with pytest.raises(InputError, match="needs --masks FOLDER"):
        make_source(SegmentConfig("folder"))
    with pytest.raises(InputError, match="gone: no such folder; check --masks"):
        make_source(SegmentConfig("folder", masks=tmp_path / "gone"))


def test_true_masks_of_the_scene_are_not_taken(photos: list[Path], tmp_path: Path) -> None:
    """transforms.json names true masks for training; the folder's own count."""
    write_instance_mask(tmp_path / "truth.png", np.ones(SIZES[0], np.int32))
    frames = [{"file_path": "images/0.png", "instance_mask_path": "truth.png"}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    maps = write_masks(tmp_path / "masks")
    folder = segment_images(photos[:1], tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    np.testing.assert_array_equal(folder.view(photos[0]).ids > 0, maps["0.png"] > 0)


@pytest.mark.parametrize(("device", "message"), [("cuda:99", "CUDA device"), ("nothing", "no such device")])
def test_devices_that_are_not_there(device: str, message: str, mask_rcnn: Path) -> None:
    with pytest.raises(InputError, match=f"--device {device}: .*{message}"):
        make_source(SegmentConfig("torchvision", str(mask_rcnn)), device)
