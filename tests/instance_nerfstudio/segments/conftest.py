"""Photos of noise, and a Mask R-CNN with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from source_contract import SIZES

from instance_nerfstudio.segments.mask_rcnn import MaskRCNNConfig, build_mask_rcnn, save_mask_rcnn


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def mask_rcnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    config = MaskRCNNConfig(("chair", "table"), "resnet18", min_size=48, max_size=64, proposals=10, detections=3)
    save_mask_rcnn(path, build_mask_rcnn(config).state_dict(), config, {"data": "none"})
    return path
