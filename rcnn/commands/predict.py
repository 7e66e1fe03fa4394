"""`nerf-rcnn predict`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rcnn.commands.data_options import DataOptions, choose_device, report_skipped, samples, with_progress
from rcnn.commands.instance_contents import instance_contents
from rcnn.errors import InputError

if TYPE_CHECKING:
    import torch

    from rcnn.data import GridDataset, GridFrame
    from rcnn.roi_heads import NeRFRCNN
    from rcnn.rpn import NeRFRPN
    from rcnn.visualization import SceneContents


@dataclass
class Predict:
    """Find the objects of a density grid: boxes, classes and masks, and a picture of them.

    Writes OUTPUT, an .npz file with masks, boxes in world units, labels and scores, and beside it a .png and a .glb to
    look at. With --data instead of a grid, OUTPUT is a folder for the files of all scenes. A NeRF-RPN finds boxes
    alone.
    """

    grid: Annotated[Path | None, tyro.conf.Positional] = None
    """Density grid (.npz), from `ns-export density` for example."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """File, or folder with --data, for the results; GRID with the ending .instances.npz when not given."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    split: str | None = None
    """Which scenes of --data; all when not given."""
    detector: Path | None = None
    """detector.safetensors of a run, or converted weights; those that come with this package when not given."""
    top: int = 300
    """Objects of a scene, the best ones."""
    min_score: float | None = None
    """Objects below are left out; 0.4 when not given, and 0 with a NeRF-RPN."""
    tile: int | None = None
    """For scenes of several rooms: look at the grid in overlapping parts of so many voxels along each side."""
    look: Literal["none", "png", "glb", "ply"] | None = None
    """Also a picture, or that and files to turn around; glb for one grid and none with --data when not given."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Writes the results."""
        from rcnn.roi_heads import NeRFRCNN
        from rcnn.weights import load_detector, load_instance_detector

        if (self.grid is None) == (not self.data.data):
            raise InputError("give one density grid, or --data with folders of scenes")
        if self.tile is not None and self.tile < 32:
            raise InputError(f"--tile must be at least 32 voxels, got {self.tile}")
        device = choose_device(self.device)
        load = load_instance_detector if self.detector is None else load_detector
        model, notes = load(self.detector, device)  # type: ignore[arg-type]
        if self.grid is not None:
            scenes = self.data.open_grid(self.grid)
            outputs = [self.output or self.grid.with_suffix(".instances.npz")]
            if outputs[0].suffix != ".npz":
                raise InputError(f"--output {outputs[0]}: must end in .npz")
        else:
            if self.output is None:
                raise InputError("--output is missing; give a folder for the results")
            boxes = "obb" if notes.rpn.rotated else "aabb"
            scenes = self.data.open(self.split, boxes, needs_truth=False)
            outputs = [self.output / f"{scene.name}.npz" for scene in scenes.scenes]
        run = self._instances if isinstance(model, NeRFRCNN) else self._proposals
        run(model, scenes, outputs, device)  # type: ignore[arg-type]
        print(f"{outputs[0] if len(outputs) == 1 else f'{len(outputs)} scenes in {self.output}'}")
        report_skipped(scenes)

    def _proposals(self, model: NeRFRPN, scenes: GridDataset, outputs: list[Path], device: torch.device) -> None:
        from rcnn.detecting import detect, write_proposals
        from rcnn.visualization import SceneContents

        found_in = with_progress(detect(model, samples(scenes), device), len(scenes), "Detecting")
        for found, output in zip(found_in, outputs, strict=True):
            scene = found.scene
            x, y, z = scene.features.shape[1:]
            count = int((found.proposals.scores >= (self.min_score or 0.0)).sum())
            proposals = found.proposals.top(min(self.top, count))
            assert scene.frame is not None  # without augmentation
            write_proposals(output, proposals, scene.frame, (x, y, z))
            contents = SceneContents.of(
                scene.features, truth=scene.boxes, boxes=proposals.boxes, scores=proposals.scores
            )  # fmt: skip
            self._draw(output, scene.name, contents, scene.frame)

    def _instances(self, model: NeRFRCNN, scenes: GridDataset, outputs: list[Path], device: torch.device) -> None:
        from rcnn.detecting import find_instances
        from rcnn.instances import write_instances

        least = 0.4 if self.min_score is None else self.min_score
        for scene, output in zip(with_progress(samples(scenes), len(scenes), "Detecting"), outputs, strict=True):
            found = find_instances(model, scene.features.to(device), self.tile)
            if found.remark is not None:
                print(f"{scene.name}: {found.remark}", file=sys.stderr)
            instances = found.instances.select((found.instances.scores >= least).nonzero()[: self.top, 0]).to("cpu")
            assert scene.frame is not None  # without augmentation
            write_instances(output, instances, scene.frame)
            self._draw(output, scene.name, instance_contents(scene, instances), scene.frame)
            if self.grid is not None:
                counts = ", ".join(f"{count} {name}" for name, count in Counter(instances.names).most_common())
                print(f"{len(instances)} objects{': ' if len(instances) else ''}{counts}")

    def _draw(self, output: Path, name: str, contents: SceneContents, frame: GridFrame) -> None:
        from rcnn.visualization import SceneFilesConfig, SheetConfig, write_scene_glb, write_scene_plys, write_sheet

        look = self.look or ("glb" if self.grid is not None else "none")
        if look == "none":
            return
        write_sheet(output.with_suffix(".png"), contents, name, SheetConfig(max_detections=self.top, min_score=0.0))
        files = SceneFilesConfig(max_detections=self.top, min_score=0.0)
        if look == "glb":
            write_scene_glb(output.with_suffix(".glb"), contents, frame, files)
        elif look == "ply":
            write_scene_plys(output.with_suffix(""), contents, frame, files)
