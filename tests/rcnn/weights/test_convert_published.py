"""Checkpoints with the published names and shapes become detectors that compute the same."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.backbones import GridBatch, ResNetConfig
from rcnn.errors import InputError
from rcnn.roi_heads import (
    BoxHeadConfig,
    MaskHeadConfig,
    NeRFRCNN,
    NeRFRCNNConfig,
    RoIHeadsConfig,
    RoIPoolingConfig,
)
from rcnn.roi_heads.published_names import CATEGORIES
from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig
from rcnn.weights import convert_published, load_detector

BACKBONE = ResNetConfig(blocks=(1, 1, 1, 1), width=4, out_channels=8)
FCOS = NeRFRPNConfig(BACKBONE, FCOSHeadConfig(convs=2, norm_groups=4), rotated=True)
ANCHOR = NeRFRPNConfig(BACKBONE, AnchorHeadConfig(convs=2), rotated=True)
# From the names here to the published ones; the converter has the other direction.
PUBLISHED = (
    (r"backbone\.stem\.conv\.", "conv1."),
    (r"backbone\.stem\.norm\.", "bn1."),
    (r"backbone\.stages\.(\d)\.(\d)\.conv(\d)\.conv\.", r"layers.\1.\2.conv\3."),
    (r"backbone\.stages\.(\d)\.(\d)\.conv(\d)\.norm\.", r"layers.\1.\2.bn\3."),
    (r"backbone\.stages\.(\d)\.(\d)\.shortcut\.conv\.", r"layers.\1.\2.downsample.0."),
    (r"backbone\.stages\.(\d)\.(\d)\.shortcut\.norm\.", r"layers.\1.\2.downsample.1."),
    *((rf"backbone\.fpn\.laterals\.{i}\.", f"latlayers.{3 - i}.") for i in range(4)),
    *((rf"backbone\.fpn\.outputs\.{i}\.", f"smooths.{2 - i}.") for i in range(3)),
)
FCOS_HEAD = (
    *((rf"head\.objectness_tower\.{i}\.conv\.", f"head.cls_tower.{3 * i}.") for i in range(2)),
    *((rf"head\.objectness_tower\.{i}\.norm\.", f"head.cls_tower.{3 * i + 1}.") for i in range(2)),
    *((rf"head\.box_tower\.{i}\.conv\.", f"head.bbox_tower.{3 * i}.") for i in range(2)),
    *((rf"head\.box_tower\.{i}\.norm\.", f"head.bbox_tower.{3 * i + 1}.") for i in range(2)),
    (r"head\.objectness\.", "head.cls_logits."),
    (r"head\.box\.", "head.bbox_pred."),
    (r"head\.centerness\.", "head.centerness."),
    (r"head\.scales\.(\d)$", r"head.scales.\1.scale"),
)
ANCHOR_HEAD = (
    *((rf"head\.tower\.{i}\.", f"conv.{2 * i}.") for i in range(2)),
    (r"head\.objectness\.", "cls_logits."),
    (r"head\.box\.", "bbox_pred."),
)


def _renamed(weights: dict[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    result = {}
    for name, weight in weights.items():
        for pattern, published in names:
            if re.match(pattern, name):
                result[re.sub(pattern, published, name, count=1)] = weight
                break
    return result


def _checkpoint(path: Path, config: NeRFRPNConfig) -> NeRFRPN:
    torch.manual_seed(0)
    model = NeRFRPN(config).eval()
    weights = model.state_dict()
    backbone, anchors = _renamed(weights, PUBLISHED), isinstance(config.head, AnchorHeadConfig)
    head = _renamed(weights, ANCHOR_HEAD if anchors else FCOS_HEAD)
    if not anchors:
        head["head.scales.4.scale"] = torch.ones(())
    assert len(backbone) + len(head) - (not anchors) == len(weights)
    key = "rpn_head_state_dict" if anchors else "fcos_state_dict"
    args = {"backbone_type": "resnet", "rotated_bbox": True, "lr": 3e-4, "gpus": "0,1"}
    torch.save({"epoch": 159, "backbone_state_dict": backbone, key: head, "train_args": args}, path)
    return model


def test_anchor_free_checkpoints_compute_the_same(tmp_path: Path):
    model = _checkpoint(tmp_path / "published.pt", FCOS)
    notes = convert_published(tmp_path / "published.pt", tmp_path / "ours.safetensors", FCOS)
    assert notes.training == {"converted_from": "published.pt", "epoch": 159}
    loaded, _ = load_detector(tmp_path / "ours.safetensors")
    assert isinstance(loaded, NeRFRPN)
    batch = GridBatch.collate([torch.rand(4, 20, 16, 12)])
    for a, b in zip(model.outputs(batch)[:3], loaded.outputs(batch)[:3], strict=True):
        for ours, theirs in zip(a, b, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_anchors_and_the_sign_of_beta(tmp_path: Path):
    model = _checkpoint(tmp_path / "published.pt", ANCHOR)
    notes = convert_published(tmp_path / "published.pt", tmp_path / "ours.safetensors", ANCHOR)
    assert isinstance(notes.rpn.head, AnchorHeadConfig)
    assert notes.rpn.head.anchors.offset == 0
    loaded, _ = load_detector(tmp_path / "ours.safetensors")
    assert isinstance(loaded, NeRFRPN)
    batch = GridBatch.collate([torch.rand(4, 20, 16, 12)])
    for ours, theirs in zip(loaded.outputs(batch)[1], model.outputs(batch)[1], strict=True):
        torch.testing.assert_close(ours[..., :7], theirs[..., :7])
        torch.testing.assert_close(ours[..., 7], -theirs[..., 7])


def _published_rcnn(path: Path) -> NeRFRCNN:
    """A NeRF-RCNN of 10 classes whose background has a box and a mask of its own, which mean nothing."""
    torch.manual_seed(0)
    aabb = replace(FCOS, rotated=False)
    heads = RoIHeadsConfig(
        RoIPoolingConfig(mode="crop_and_resize"),
        BoxHeadConfig(hidden=16),
        MaskHeadConfig(channels=8, margin=0.0, detail_channels=0),
    )
    model = NeRFRCNN(NeRFRCNNConfig(aabb, heads, CATEGORIES)).eval()
    torch.nn.init.normal_(model.heads.box.deltas.weight)
    weights = model.state_dict()
    of_rpn = {name.removeprefix("rpn."): weight for name, weight in weights.items() if name.startswith("rpn.")}
    roi_heads = {}
    for name, published in (
        ("box.fc1", "box_head.fc6"), ("box.fc2", "box_head.fc7"), ("box.logits", "box_head.cls_score"),
        ("box.deltas", "box_head.bbox_pred"), *((f"mask.tower.{2 * i}", f"mask_head.{i}.0") for i in range(4)),
        ("mask.upsample", "mask_predictor.conv5_mask"), ("mask.logits", "mask_predictor.mask_fcn_logits"),
    ):  # fmt: skip
        background = {"box.deltas": 6, "mask.logits": 1}.get(name, 0)
        for part in ("weight", "bias"):
            weight = weights[f"heads.{name}.{part}"]
            roi_heads[f"{published}.{part}"] = torch.cat([torch.randn_like(weight[:background]), weight])
    head = _renamed(of_rpn, FCOS_HEAD) | {"head.scales.4.scale": torch.ones(())}
    content = {"backbone_state_dict": _renamed(of_rpn, PUBLISHED), "rpn_head_state_dict": head}
    torch.save({"epoch": 40, **content, "roi_heads_state_dict": roi_heads, "fcos_train_args": {"lr": 3e-4}}, path)
    return model


def test_instance_checkpoints_compute_the_same(tmp_path: Path):
    path = tmp_path / "published.pt"
    model = _published_rcnn(path)
    notes = convert_published(path, tmp_path / "ours.safetensors", replace(FCOS, rotated=False))
    assert isinstance(notes.config, NeRFRCNNConfig)
    assert notes.config.categories[2] == "chair"
    loaded = NeRFRCNN.from_pretrained(tmp_path / "ours.safetensors", "cpu")
    assert loaded.config.heads.pooling.mode == "crop_and_resize"
    batch = GridBatch.collate([torch.rand(4, 20, 16, 12)])
    proposals = [torch.tensor([[1.0, 2, 3, 9, 10, 11], [4, 0, 0, 16, 12, 8]])]
    ours, theirs = loaded.detect(batch, proposals)[0], model.detect(batch, proposals)[0]
    torch.testing.assert_close(ours.boxes, theirs.boxes)
    torch.testing.assert_close(ours.masks, theirs.masks)
    assert torch.equal(ours.labels, theirs.labels)
    assert len(ours) > 0
    convert_published(_rpn_checkpoint(tmp_path), tmp_path / "rpn.safetensors", FCOS)
    with pytest.raises(InputError, match="holds a NeRF-RPN"):
        NeRFRCNN.from_pretrained(tmp_path / "rpn.safetensors", "cpu")
    content = torch.load(path, weights_only=True)
    del content["roi_heads_state_dict"]["mask_predictor.conv5_mask.weight"]
    torch.save(content, path)
    with pytest.raises(InputError, match=r"the heads are incomplete \('mask.upsample.weight'\)"):
        convert_published(path, tmp_path / "ours.safetensors", replace(FCOS, rotated=False))


def _rpn_checkpoint(folder: Path) -> Path:
    _checkpoint(folder / "rpn.pt", FCOS)
    return folder / "rpn.pt"


def test_what_does_not_fit_is_one_line(tmp_path: Path):
    path, out = tmp_path / "published.pt", tmp_path / "ours.safetensors"

    def refused(message: str, config: NeRFRPNConfig = FCOS) -> None:
        with pytest.raises(InputError, match=message) as error:
            convert_published(path, out, config)
        assert "\n" not in str(error.value)
        assert not out.exists()

    refused("published.pt: cannot be read")
    _checkpoint(path, FCOS)
    refused("holds an fcos head; say --head fcos", ANCHOR)
    refused(r"another architecture \(.*box", replace(FCOS, rotated=False))
    refused("another architecture", replace(FCOS, backbone=replace(BACKBONE, width=8)))
    content = torch.load(path, weights_only=True)
    content["backbone_state_dict"]["layers.0.0.gate"] = torch.ones(1)
    torch.save(content, path)
    refused("layers.0.0.gate is no weight of this backbone")
    torch.save({"model": {}}, path)
    refused("give a checkpoint of NeRF-RPN")
    torch.save([1], path)
    refused("holds a list")
    path.write_bytes(b"not a checkpoint")
    refused("no checkpoint that can be read safely")
