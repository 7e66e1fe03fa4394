"""Mask R-CNN with random weights, its files, and the devices it runs on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from source_contract import ANYTHING, SIZES, check

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.mask_rcnn import load_mask_rcnn
from instance_nerfstudio.segments.photos import name_photos
from instance_nerfstudio.segments.segment import make_source, segment_images
from instance_nerfstudio.segments.settings import FlattenConfig, SegmentConfig


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


@pytest.mark.parametrize(("device", "message"), [("cuda:99", "CUDA device"), ("nothing", "no such device")])
def test_devices_that_are_not_there(device: str, message: str, mask_rcnn: Path) -> None:
    with pytest.raises(InputError, match=f"--device {device}: .*{message}"):
        make_source(SegmentConfig("torchvision", str(mask_rcnn)), device)
