"""Detectors on disk: what is written is what is read, and damage is one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.backbones import BACKBONES, GridBatch, ResNetConfig, SwinConfig, VGGConfig
from rcnn.errors import InputError
from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig
from rcnn.weights import DetectorNotes, config_from_json, config_to_json, load_detector, read_notes, save_detector
from rcnn.weights.detector_file import CONFIGS

SMALL = NeRFRPNConfig(
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), block="basic", width=4, out_channels=8, norm="group"),
    head=FCOSHeadConfig(convs=1, norm_groups=4),
    rotated=True,
)


@pytest.mark.parametrize(
    "config",
    [
        *(NeRFRPNConfig(backbone=backbone) for backbone in BACKBONES.values()),
        NeRFRPNConfig(backbone=SwinConfig(embed_dim=48), head=AnchorHeadConfig(convs=2), rotated=True),
        NeRFRPNConfig(backbone=VGGConfig(norm="group", checkpointing=True)),
    ],
)
def test_configs_survive_json(config: NeRFRPNConfig):
    assert config_from_json(json.loads(json.dumps(config_to_json(config))), CONFIGS) == config


def test_unknown_configs_are_refused():
    data = config_to_json(SMALL)
    for change, message in (
        ({"type": "Popen"}, "'Popen' is no config of this version"),
        ({"colour": 1}, "NeRFRPNConfig has no colour in this version"),
        ({"backbone": {"type": "VGGConfig", "stages": [[8]]}}, "VGG needs 4 stages"),
    ):
        with pytest.raises(ValueError, match=message):
            config_from_json({**data, **change}, CONFIGS)
    assert config_from_json({"type": "NeRFRPNConfig"}, CONFIGS) == NeRFRPNConfig(), "defaults for what is not there"


def test_a_detector_comes_back(tmp_path: Path):
    torch.manual_seed(0)
    model = NeRFRPN(SMALL).eval()
    path = tmp_path / "runs" / "small.safetensors"
    notes = DetectorNotes(SMALL, {"folders": ["rooms"]}, {"steps": 3}, {"ap50": 0.5})
    save_detector(path, model.state_dict(), notes)
    loaded, found = load_detector(path)
    assert found == notes
    assert not loaded.training
    batch = GridBatch.collate([torch.rand(4, 20, 16, 12)])
    for a, b in zip(model(batch)[0].boxes, loaded(batch)[0].boxes, strict=True):
        torch.testing.assert_close(a, b)
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.json", "small.safetensors"]


def test_damage_is_one_line(tmp_path: Path):
    path = tmp_path / "small.safetensors"
    model = NeRFRPN(SMALL)
    save_detector(path, model.state_dict(), DetectorNotes(SMALL))
    weights, notes = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            load_detector(path)
        assert "\n" not in str(error.value)

    path.write_bytes(weights[:-100])
    refused("small.safetensors: is no whole safetensors file")
    path.write_bytes(weights)
    for change, message in (
        ({"format_version": 99}, "small.json: has format version 99, not 1"),
        ({"config": {"type": "Unknown"}}, "small.json: 'Unknown' is no config"),
        ({"config": {"type": "ResNetConfig"}}, "holds no NeRFRPNConfig"),
        ({"metrics": [1]}, "must be objects"),
        ({"config": config_to_json(replace(SMALL, rotated=False))}, r"box.weight is \[8, .*instead of \[6, "),
        ({"config": config_to_json(replace(SMALL, head=AnchorHeadConfig()))}, "another architecture than small.json"),
    ):
        path.with_suffix(".json").write_text(json.dumps({**notes, **change}))
        refused(message)
    path.with_suffix(".json").write_text("{")
    refused("is not valid JSON")
    path.with_suffix(".json").unlink()
    refused("small.json is not beside it")
    path.unlink()
    refused("small.json: cannot be read")
    with pytest.raises(InputError, match=r"detectors end in \.safetensors"):
        read_notes(tmp_path / "model.pt")
