"""Mask2Former, EoMT and SAM 2 with random weights, built from their configs without a network."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from source_contract import ANYTHING, check, same

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.photos import name_photos
from instance_nerfstudio.segments.segment import make_source, segment_images
from instance_nerfstudio.segments.segments_folder import read_segments
from instance_nerfstudio.segments.settings import FlattenConfig, SegmentConfig, TrackingConfig
from instance_nerfstudio.segments.view_segments import ViewSegments


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
