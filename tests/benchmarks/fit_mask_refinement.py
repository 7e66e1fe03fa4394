"""Fits the refinement of masks (`NeRFRCNNConfig.mask_refinement`) to rooms that the detector was not trained on.

    python tests/benchmarks/fit_mask_refinement.py --detector detector.safetensors --data rooms --split val [--write]

Every object that the detector finds teaches the regression which voxels around its mask are its own. Rooms on which
scores will be reported must not be among those. `--write` puts the weights into the detector's notes.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

if __name__ == "__main__":
    # A script's folder comes first, and there a benchmark has the name of the package roi_align3d.
    sys.path.pop(0)

from rcnn.backbones import GridBatch
from rcnn.boxes import box_iou
from rcnn.commands.data_options import DataOptions
from rcnn.data import GridSample
from rcnn.instances.paste_masks import paste_channels
from rcnn.instances.refine_masks import opacity_means, smoothed_masks, voxel_traits
from rcnn.roi_heads import NeRFRCNN
from rcnn.safe_files import write_atomically
from rcnn.weights import load_instance_detector
from rcnn.weights.config_json import config_to_json

# Detections that teach: surer than this, with a box that agrees with an object's by more than that.
SURE, AGREEMENT = 0.1, 0.3
# Voxels with less of the mask in the 3³ voxels around teach nothing, as they are never asked about.
POSSIBLE = 0.03


@dataclass
class FitMaskRefinement:
    """Options of the benchmark."""

    data: DataOptions
    """Rooms with grids and masks."""
    detector: Path | None = None
    """The one that comes with the package when not given."""
    split: str | None = None
    """Which rooms; all when not given."""
    names: tuple[str, ...] = ()
    """Of these rooms alone."""
    voxels: int = 1000
    """Of each object at most."""
    write: bool = False
    """Whether the weights go into the detector's notes."""
    seed: int = 0
    """Of the voxels."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the detector runs."""

    def main(self) -> None:
        """Prints the weights."""
        from rcnn.weights import SHIPPED

        path = self.detector or SHIPPED
        model, notes = load_instance_detector(path)
        model.to(self.device)
        rooms = self.data.open(self.split, "aabb", masks=True, categories=model.config.categories)
        generator = torch.Generator().manual_seed(self.seed)
        traits, own, shares, used = [], [], [], 0
        for number in track(range(len(rooms)), "Detecting", transient=True):
            scene = rooms[number]
            if self.names and scene.name not in self.names:
                continue
            used += 1
            for found, mine in voxels_of_objects(model, scene, torch.device(self.device)):
                some = torch.randperm(len(mine), generator=generator)[: self.voxels]
                traits.append(found[some].numpy())
                own.append(mine[some].numpy())
                shares.append(np.full(len(some), 1 / max(len(some), 1)))
        if not traits:
            raise SystemExit(f"{path}: finds no object of the {used} rooms, so there is nothing to learn from")
        weights = fit(np.concatenate(traits), np.concatenate(own), np.concatenate(shares))
        Console().print(f"{used} rooms, {len(own)} objects: {json.dumps(weights)}", highlight=False)
        if self.write:
            file = path.with_suffix(".json")
            content = json.loads(file.read_text())
            content["config"] = config_to_json(replace(notes.config, mask_refinement=tuple(weights)))
            write_atomically(file, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


@torch.inference_mode()
def voxels_of_objects(
    model: NeRFRCNN, scene: GridSample, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of every object that is found, traits (V, T) of the voxels in question, and whether they are its own (V,)."""
    assert scene.boxes is not None
    assert scene.instances is not None
    features, boxes = scene.features.to(device), scene.boxes.to(device)
    found = model.detect(GridBatch.collate([features]))[0]
    assert found.masks is not None
    assert found.mask_boxes is not None
    x, y, z = scene.instances.shape
    around, ids = opacity_means(features[3]), scene.instances.to(device).reshape(-1)
    agreement = box_iou(found.boxes, boxes)
    result = []
    for row in range(len(found) if len(boxes) else 0):
        if found.scores[row] < SURE or agreement[row].max() < AGREEMENT:
            continue
        number = int(agreement[row].argmax()) + 1

        def learn(values: torch.Tensor, voxels: torch.Tensor, number: int = number) -> torch.Tensor:
            rows = values[:, 1] > POSSIBLE
            traits, own = voxel_traits(values[rows], around[voxels[rows]]), ids[voxels[rows]] == number
            result.append((traits.cpu(), own.cpu()))
            return values[:, 0]

        box = found.mask_boxes[row : row + 1]
        paste_channels(smoothed_masks(found.masks[row : row + 1], box), box, (x, y, z), 0.5, learn)
    return result


def fit(traits: np.ndarray, own: np.ndarray, shares: np.ndarray) -> list[float]:
    """The constant and the weights of the traits (V, T), each object counting alike (`shares`)."""
    scaler = StandardScaler()
    regression = LogisticRegression(max_iter=500)
    regression.fit(scaler.fit_transform(traits), own, shares * len(shares) / shares.sum())
    factors = np.asarray(regression.coef_)[0] / np.asarray(scaler.scale_)
    constant = np.asarray(regression.intercept_)[0] - float(factors @ np.asarray(scaler.mean_))
    return [round(float(value), 4) for value in (constant, *factors)]


if __name__ == "__main__":
    tyro.cli(FitMaskRefinement, config=(tyro.conf.OmitArgPrefixes,)).main()
