"""Scores how well segments of single views become objects that all views share, on rooms with exact truth.

    python tests/benchmarks/lifting.py ROOM... [--output results.json]

Rooms are those of `nerf-rcnn rooms make`. The segments are the true masks of the training views, spoilt by chance:
every view numbers them anew, a fifth is missing, some are cut in two, some are joined with a neighbour, and all borders
are ragged. Surfaces are those of the rooms' depth maps. Scores are of the training views' own masks, before a field
learns from them; "perfect" is a matcher that knows which object each segment shows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from instance_nerfstudio.evaluation.metrics import InstanceMetrics
from instance_nerfstudio.lift import ConsensusConfig, find_consensus, vote
from instance_nerfstudio.masks.instance_masks import read_instance_mask
from rcnn.rooms.seen_space import METRES

RESOLUTION = 160


@dataclass(frozen=True)
class Corruption:
    """How segments are spoilt."""

    dropped: float = 0.2
    """Share of segments that are missing."""
    cut: float = 0.15
    """Share of segments that are cut in two."""
    joined: float = 0.1
    """Share of segments that are joined with one that they touch."""
    ragged: float = 1.5
    """Standard deviation of what borders are moved by, in pixels."""
    seed: int = 0


@dataclass
class Lifting:
    """Options of the benchmark."""

    rooms: tyro.conf.Positional[tuple[Path, ...]]
    """Rooms with depth maps and masks."""
    corruption: Corruption = field(default_factory=Corruption)
    consensus: ConsensusConfig = field(default_factory=ConsensusConfig)
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        rows = [self._measure(room) for room in self.rooms]
        table = Table("room", *rows[0], title=f"view consensus, {self.corruption}")
        for room, row in zip(self.rooms, rows, strict=True):
            table.add_row(room.name, *(f"{value:.3f}" for value in row.values()))
        table.add_row("mean", *(f"{np.mean([row[name] for row in rows]):.3f}" for name in rows[0]))
        Console(width=150).print(table)
        if self.output is not None:
            options = {"corruption": asdict(self.corruption), "consensus": asdict(self.consensus)}
            self.output.write_text(json.dumps({**options, "rooms": rows}, indent=1))

    def _measure(self, room: Path) -> dict[str, float]:
        truth, voxels = read_views(room)
        rng = np.random.default_rng(self.corruption.seed)
        segments = [spoil(ids, self.corruption, rng) for ids in truth]
        start = perf_counter()
        found = find_consensus(segments, voxels, self.consensus)
        seconds = perf_counter() - start
        maps = [found.instance_map(view, ids) for view, ids in enumerate(segments)]
        abstained = np.mean([(ids < 0).sum() / max(1, (s > 0).sum()) for ids, s in zip(maps, segments, strict=True)])
        perfect = [matched_to_truth(ids, wanted) for ids, wanted in zip(segments, truth, strict=True)]
        return {
            "perfect": scene_quality(perfect, truth),
            "perfect, voted": scene_quality(vote(perfect, voxels), truth),
            "PQ scene": scene_quality(maps, truth),
            "PQ scene, voted": scene_quality(vote(maps, voxels), truth),
            "objects": float(len(np.unique(np.concatenate(truth, axis=None))) - 1),
            "found": float(found.count),
            **association(maps, truth),
            "abstained": float(abstained),
            "seconds": seconds,
        }


def matched_to_truth(segments: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The ids that a perfect matcher gives to segments: those of what they mostly show."""
    best = shared_pixels(segments, truth).argmax(1).astype(np.int32)
    best[0] = 0
    return np.where(segments < 0, -1, best[np.maximum(segments, 0)]).astype(np.int32)


def shared_pixels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels of each pair of ids, from 0 on."""
    table = np.zeros((int(one.max(initial=0)) + 1, int(other.max(initial=0)) + 1))
    labelled = (one >= 0) & (other >= 0)
    np.add.at(table, (one[labelled], other[labelled]), 1)
    return table


def scene_quality(maps: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """PQ of objects over all views."""
    metrics = InstanceMetrics()
    for ids, wanted in zip(maps, truth, strict=True):
        metrics.update(torch.from_numpy(ids), torch.from_numpy(wanted))
    return metrics.compute()["pq_scene"]


def association(maps: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, float]:
    """Found objects that hold more than a fifth of another's pixels, and true ones of which more than a fifth lies in
    others than their main one."""
    table = shared_pixels(np.concatenate(maps, axis=None), np.concatenate(truth, axis=None))[1:, 1:]

    def impure(rows: np.ndarray) -> float:
        sums = rows.sum(1)
        return float(((sums > 0) & (rows.max(1) < 0.8 * sums)).sum())

    return {"over-merged": impure(table), "over-split": impure(table.T)}


def read_views(room: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True masks of the training views, and the voxel that each pixel sees."""
    scene = json.loads((room / "transforms.json").read_text())
    if not all("depth_file_path" in frame for frame in scene["frames"]):
        raise SystemExit(f"{room}: has no depth maps; make rooms with nerf-rcnn rooms make")
    low, high = np.array(scene["room_bbox"])
    edge = float((high - low).max()) / RESOLUTION
    shape = np.ceil((high - low) / edge - 1e-6).astype(int)
    training = set(scene["train_filenames"])
    masks, voxels = [], []
    for frame in scene["frames"]:
        if frame["file_path"] not in training:
            continue
        depth = cv2.imread(str(room / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED) * METRES
        x, y = np.meshgrid(np.arange(depth.shape[1]) + 0.5, np.arange(depth.shape[0]) + 0.5)
        rays = np.stack([(x - scene["cx"]) / scene["fl_x"], -(y - scene["cy"]) / scene["fl_y"], -np.ones_like(x)], -1)
        pose = np.array(frame["transform_matrix"])
        points = (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
        place = np.floor((points - low) / edge).astype(int).clip(0, shape - 1)
        flat = (place[..., 0] * shape[1] + place[..., 1]) * shape[2] + place[..., 2]
        voxels.append(np.where(depth > 0, flat, -1))
        masks.append(read_instance_mask(room / frame["instance_mask_path"]))
    return masks, voxels


def spoil(ids: np.ndarray, corruption: Corruption, rng: np.random.Generator) -> np.ndarray:
    """One view's true mask as a poor segmenter might see it."""
    height, width = ids.shape
    noise = [ndimage.gaussian_filter(rng.standard_normal(ids.shape), 2) for _ in range(2)]
    rows, columns = np.indices(ids.shape)
    rows, columns = (
        np.rint(axis + corruption.ragged * n / n.std()).astype(int).clip(0, size - 1)
        for axis, n, size in zip((rows, columns), noise, (height, width), strict=True)
    )
    segments = ids[rows, columns]
    numbers = [number for number in np.unique(segments) if number > 0]
    for number in numbers:
        mask = segments == number
        if rng.random() < corruption.joined:
            around = segments[ndimage.binary_dilation(mask, iterations=2) & ~mask]
            around = around[around > 0]
            if len(around):
                segments[mask] = rng.choice(around)
                continue
        if rng.random() < corruption.cut:
            place = np.argwhere(mask)
            side = (place - place.mean(0)) @ rng.standard_normal(2) > 0
            segments[tuple(place[side].T)] = segments.max() + 1
    for number in np.unique(segments[segments > 0]):
        if rng.random() < corruption.dropped:
            segments[segments == number] = 0
    names = np.concatenate([[0], 1 + rng.permutation(int(segments.max(initial=0)))])
    return names[segments].astype(np.int32)


if __name__ == "__main__":
    tyro.cli(Lifting).main()
