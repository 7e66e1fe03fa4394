"""`nerf-rcnn visualize`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rcnn.commands.data_options import DataOptions, choose_device, report_skipped, samples, with_progress
from rcnn.commands.instance_contents import instance_contents

if TYPE_CHECKING:
    import torch

    from rcnn.data import GridDataset, GridSample
    from rcnn.roi_heads import NeRFRCNN
    from rcnn.rpn import NeRFRPN
    from rcnn.visualization import SceneContents


@dataclass
class Visualize:
    """Draw scenes with what a detector finds in them: OUT/<scene>.png, and .glb or .ply to turn around.

    Without --detector, grids with their true boxes alone.
    """

    out: Path
    """Folder for the results."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    detector: Path | None = None
    """detector.safetensors of a run, or converted weights."""
    split: str | None = None
    """Which scenes; all when not given."""
    limit: int = 20
    """Scenes, the first ones."""
    boxes: Literal["aabb", "obb"] = "aabb"
    """True boxes to draw without a detector."""
    top: int = 30
    """Detections of a scene, the best ones."""
    min_score: float = 0.2
    """Detections below are left out."""
    in_3d: Literal["none", "glb", "ply"] = "none"
    """Also write grid, boxes, objectness and instances in 3D, in world units."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Writes the pictures."""
        from rcnn.visualization import SceneFilesConfig, SheetConfig, write_scene_glb, write_scene_plys, write_sheet
        from rcnn.weights import load_detector

        device, model, kind = choose_device(self.device), None, self.boxes
        if self.detector is not None:
            model, notes = load_detector(self.detector, device)
            kind = "obb" if notes.rpn.rotated else "aabb"
        scenes = self.data.open(self.split, kind, needs_truth=False)
        count = min(self.limit, len(scenes))
        sheet = SheetConfig(max_detections=self.top, min_score=self.min_score)
        files = SceneFilesConfig(max_detections=self.top, min_score=self.min_score)
        for scene, contents in with_progress(_contents(model, scenes, count, device), count, "Drawing"):
            assert scene.frame is not None  # without augmentation
            write_sheet(self.out / f"{scene.name}.png", contents, scene.name, sheet)
            if self.in_3d == "glb":
                write_scene_glb(self.out / f"{scene.name}.glb", contents, scene.frame, files)
            elif self.in_3d == "ply":
                write_scene_plys(self.out / scene.name, contents, scene.frame, files)
        print(f"{count} scenes in {self.out}")
        report_skipped(scenes)


def _contents(
    model: NeRFRPN | NeRFRCNN | None, scenes: GridDataset, count: int, device: torch.device
) -> Iterator[tuple[GridSample, SceneContents]]:
    from rcnn.detecting import detect, find_instances
    from rcnn.roi_heads import NeRFRCNN
    from rcnn.visualization import SceneContents

    if model is None:
        for scene in samples(scenes, count):
            yield scene, SceneContents.of(scene.features, truth=scene.boxes)
    elif isinstance(model, NeRFRCNN):
        for scene in samples(scenes, count):
            found = find_instances(model, scene.features).instances.to("cpu")
            yield scene, instance_contents(scene, found)
    else:
        for found in detect(model, samples(scenes, count), device, heatmaps=True):
            scene, boxes, scores = found.scene, found.proposals.boxes, found.proposals.scores
            yield (
                scene,
                SceneContents.of(scene.features, truth=scene.boxes, boxes=boxes, scores=scores, heatmap=found.heatmap),
            )
