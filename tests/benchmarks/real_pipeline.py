"""Puts a real capture that has no masks through all of `instance-nerf run`, and scores it by hand-placed boxes.

    python tests/benchmarks/real_pipeline.py SCENE BOXES.json [--downscale 4] [--every 2] --output FOLDER

The radiance field of the `radiance` stage puts pixels into the world, where the boxes name the instance (see
`real_capture.py`): approximate masks, with the field's own errors in them. The scene gets them as its own masks, which
the pipeline scores held-out views by and reads nowhere else. Segments of single photos are spoilt copies (see
`lifting_rooms.py`): numbers mean nothing beyond a photo, a fifth is missing, others are cut or joined, borders ragged.
The detector has only ever seen generated rooms.

Every way to go on from there (`--ways`) has a run folder of its own in FOLDER; give the same command again to go on.
Look at FOLDER/held_out.png and at each report.html.
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from instance_field import machine
from jaxtyping import Int32
from lifting_rooms import Corruption, shared_pixels, spoil
from numpy import ndarray
from PIL import Image
from real_capture import reduced_copy, write_masks
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from instance_nerfstudio.masks.instance_masks import read_instance_mask, resize_labels, write_instance_mask

if __name__ == "__main__":
    # A script's folder comes first, and there a benchmark has the name of the package roi_align3d.
    sys.path.pop(0)

PICTURE_WIDTH = 240


@dataclass
class RealPipeline:
    """Options of the benchmark."""

    scene: tyro.conf.Positional[Path]
    """Scene folder with transforms.json."""
    boxes: tyro.conf.Positional[Path]
    """The instances' boxes."""
    output: Path
    """Folder for the reduced scene, the run folders, pictures and numbers."""
    downscale: int = 1
    """Photos are reduced by this factor."""
    every: int = 1
    """Every so manieth photo is taken."""
    doubt: float = 0.05
    """Points outside all boxes but this close to one count nowhere in scores: depth is not exact."""
    radiance_iterations: int | None = None
    """Iterations of the radiance field; what suits the machine when not given."""
    ways: tuple[str, ...] = ("consensus,predict", "consensus,none")
    """Matchers, and what stands for the detector: `predict`, `none`, or a file of instances."""
    refine_rounds: int = 1
    """Rounds of refinement."""
    corruption: Corruption = field(default_factory=Corruption)

    def main(self) -> None:
        """Runs every way, prints the table, and draws the held-out views."""
        records = json.loads(self.boxes.read_text())["instances"]
        scene = self.output / "scene" / self.scene.name
        if not scene.is_dir():
            copy = scene.with_name(f".{scene.name}")
            shutil.rmtree(copy, ignore_errors=True)
            reduced_copy(self.scene, copy, self.downscale, self.every).rename(scene)
        base = self.output / "base"
        for stage in ("radiance", "density"):  # of all ways
            self.run(scene, base, stage)
        spoilt = self.output / "segments"
        if not spoilt.is_dir():
            self.write_references(scene, base, records)
            self.write_spoilt(scene / "instance_masks", spoilt)
        results = {}
        for way in self.ways:
            folder = self.folder_of(way)
            if not folder.is_dir():
                shutil.copytree(base, folder)
            matcher, detect = way.split(",")
            stages = self.run(scene, folder, None, matcher, detect, spoilt)
            results[way] = self.measure(scene, folder, stages)
        facts = {"machine": machine(), "boxes": len(records), "corruption": asdict(self.corruption)}
        (self.output / "results.json").write_text(json.dumps({**facts, "ways": results}, indent=1))
        self.print(results)
        self.draw(scene, spoilt, list(results))

    def folder_of(self, way: str) -> Path:
        """The run folder."""
        return self.output / way.replace(",", "-").replace("/", "-")

    def run(
        self, scene: Path, folder: Path, only: str | None, matcher: Any = "consensus", detect: str = "none",
        masks: Path | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """`instance-nerf run`, or one of its stages."""
        from instance_nerfstudio.pipeline.options import (
            DetectOptions,
            MatchOptions,
            RadianceOptions,
            RefineOptions,
            SceneOptions,
        )
        from instance_nerfstudio.pipeline.run_scene import run_scene
        from instance_nerfstudio.segments.settings import SegmentConfig

        found = Path(detect) if detect not in ("predict", "none") else None
        options = SceneOptions(
            scene,
            radiance=RadianceOptions(radiance_iterations=self.radiance_iterations),
            detect=DetectOptions(detect="none" if detect == "none" else "predict", instances=found),
            segment=SegmentConfig(source="folder", masks=masks),
            match=MatchOptions(matcher),
            refine=RefineOptions(refine_rounds=self.refine_rounds),
        )
        return run_scene(options, folder, Console(), only)

    def write_references(self, scene: Path, folder: Path, records: list[dict]) -> None:
        """The scene's own masks, of all photos."""
        from instance_nerfstudio.pipeline.open_field import open_field

        stage = json.loads((folder / "radiance" / "stage.json").read_text())
        shutil.rmtree(scene / "instance_masks", ignore_errors=True)
        write_masks(open_field(folder / "radiance" / stage["result"]["config"], scene), scene, records, self.doubt)

    def write_spoilt(self, references: Path, target: Path) -> None:
        """Segments of all photos. A segmenter knows no boxes: doubtful pixels go with the nearest that are not."""
        rng = np.random.default_rng(self.corruption.seed)
        work = target.with_name(f".{target.name}")
        shutil.rmtree(work, ignore_errors=True)
        for path in sorted(references.glob("*.png")):
            ids = read_instance_mask(path)
            if (ids >= 0).any():
                nearest = ndimage.distance_transform_edt(ids < 0, return_distances=False, return_indices=True)
                ids = ids[tuple(np.asarray(nearest))]
            ids = np.maximum(ids, 0)
            write_instance_mask(work / path.name, spoil(ids, self.corruption, rng))
        work.rename(target)

    def measure(self, scene: Path, folder: Path, stages: dict[str, Any]) -> dict[str, Any]:
        """What the stages say, and how well the steps before the field do."""
        from instance_nerfstudio.lift.association_scores import association_scores
        from instance_nerfstudio.lift.view_projection import read_projections

        views = json.loads((folder / "project" / "views.json").read_text())["views"]
        training = [view["name"] for view in views if not view["held_out"]]
        truth = {name: read_instance_mask(scene / "instance_masks" / f"{name}.png") for name in training}
        matched = [read_instance_mask(folder / "match" / "instance_masks" / f"{name}.png") for name in training]
        projected = read_projections(folder / "project" / "projections.npz")
        detected = [at_size(projected[name].ids(), ids) for name, ids in truth.items()]
        last = stages["refine-1"].result if "refine-1" in stages else {}
        return {
            "psnr": stages["radiance"].result["psnr"],
            "detector": stages["detect"].result["summary"],
            "detector_scores": asdict(association_scores(detected, list(truth.values()))),
            "detector_found": found_boxes(detected, list(truth.values())),
            "matched_scores": asdict(association_scores(matched, list(truth.values()))),
            "instances": stages["export"].result["instances"],
            "truth": stages["export"].result["truth"],
            "agreement": [stages["train"].result["agreement"], last.get("agreement")],
            "refinement_kept": last.get("kept"),
            "seconds": {name: stage.seconds for name, stage in stages.items()},
        }

    def print(self, results: dict[str, dict[str, Any]]) -> None:
        """One row per way."""
        columns = "detected", "of them at IoU 0.25", "matched PQ", "instances", "agreement", "refined", "PQ scene", "s"
        table = Table("way", *columns, title=f"{self.scene.name}, {machine()}")
        for way, result in results.items():
            before, after = result["agreement"]
            kept = "" if after is None else f"{after:.3f} {'kept' if result['refinement_kept'] else 'not kept'}"
            table.add_row(
                way,
                str(result["detector_scores"]["found"]),
                str(result["detector_found"]),
                f"{result['matched_scores']['pq_scene']:.3f}",
                str(result["instances"]),
                f"{before:.3f}",
                kept,
                f"{result['truth'].get('pq_scene', float('nan')):.3f}",
                f"{sum(result['seconds'].values()):.0f}",
            )
        Console(width=150).print(table)

    def draw(self, scene: Path, spoilt: Path, ways: list[str]) -> None:
        """Held-out views in rows: photo, boxes, segments, and each way's field, in the colours of the boxes."""
        folders = [self.folder_of(way) for way in ways]
        views = json.loads((folders[0] / "project" / "views.json").read_text())["views"]
        held_out = [view for view in views if view["held_out"]]
        truth = [read_instance_mask(scene / "instance_masks" / f"{view['name']}.png") for view in held_out]
        columns = [truth, [read_instance_mask(spoilt / f"{view['name']}.png") for view in held_out]]
        for folder in folders:
            maps = [read_instance_mask(folder / "export" / "instance_masks" / f"{v['name']}.png") for v in held_out]
            columns.append(renamed(maps, truth))
        rows = []
        for place, view in enumerate(held_out):
            photo = Image.open(scene / view["photo"]).convert("RGB")
            size = (PICTURE_WIDTH, round(PICTURE_WIDTH * photo.height / photo.width))
            small = np.asarray(photo.resize(size))
            rows.append(np.hstack([small, *(coloured(small, column[place]) for column in columns)]))
        Image.fromarray(np.vstack(rows)).save(self.output / "held_out.png")


def at_size(ids: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The map at the size of another."""
    height, width = other.shape
    return resize_labels(ids, height, width)


def iou_table(maps: list[np.ndarray], truth: list[np.ndarray]) -> np.ndarray:
    """IoU of each id with each true one, over all views; id 1 is row 0. Where there is no truth nothing counts."""
    shape = (max(int(ids.max()) for ids in maps) + 1, max(int(ids.max()) for ids in truth) + 1)
    table = np.zeros(shape)
    for ids, wanted in zip(maps, truth, strict=True):
        part = shared_pixels(np.where(wanted < 0, -1, np.maximum(ids, 0)), wanted)
        table[: part.shape[0], : part.shape[1]] += part
    both = table[1:, 1:]
    return both / np.maximum(table[1:].sum(1)[:, None] + table[:, 1:].sum(0) - both, 1)


def found_boxes(maps: list[np.ndarray], truth: list[np.ndarray], least: float = 0.25) -> int:
    """How many boxes have an instance of this IoU, one to one."""
    iou = iou_table(maps, truth)
    return int((iou[linear_sum_assignment(iou, maximize=True)] >= least).sum())


def renamed(maps: list[np.ndarray], truth: list[np.ndarray]) -> list[np.ndarray]:
    """Ids of the true instances that they show, one to one; others come after these."""
    iou = iou_table(maps, truth)
    names = np.arange(len(iou) + 1) + iou.shape[1]
    names[0] = 0
    for row, column in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[row, column] > 0:
            names[row + 1] = column + 1
    return [np.where(ids < 0, -1, names[np.maximum(ids, 0)]).astype(np.int32) for ids in maps]


def coloured(photo: np.ndarray, ids: Int32[ndarray, "height width"]) -> np.ndarray:
    """Instances over a grey photo; without an opinion it is dark."""
    from rcnn.instance_palette import overlay

    fitted = at_size(ids, photo[..., 0])
    grey = photo.mean(-1, keepdims=True).repeat(3, -1) * np.where(fitted < 0, 0.4, 0.8)[..., None]
    blended = overlay(torch.from_numpy(grey / 255).float(), torch.from_numpy(fitted.astype(np.int64)), 0.7, True)
    return (blended.numpy() * 255).round().astype(np.uint8)


if __name__ == "__main__":
    tyro.cli(RealPipeline).main()
