"""Scores how well segments of single views become objects that all views share, on rooms with exact truth.

    python tests/benchmarks/lifting.py ROOM... [--detector WEIGHTS.safetensors] [--output results.json]

Rooms are those of `nerf-rcnn rooms make`. The segments are the true masks of the training views, spoilt by chance:
every view numbers them anew, a fifth is missing, some are cut in two, some are joined with a neighbour, and all borders
are ragged. Surfaces are those of the rooms' depth maps. The detector's instances are the true objects, spoilt too, or,
with --detector, those that a NeRF-RCNN finds in the voxelized room. Scores are of the training views' masks, before a
field learns from them, as the matcher gives them and with one id for every voxel; "perfect" is a matcher that knows
which object each segment shows.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import tyro
from lifting_rooms import (
    Corruption,
    Room,
    SpoiltDetector,
    name_segments_by_truth,
    read_room,
    shared_pixels,
    spoil,
    spoil_objects,
)
from rich.console import Console
from rich.table import Table

from instance_nerfstudio.lift import (
    InstanceGrid,
    Matching,
    match_consensus,
    match_hungarian,
    match_seed,
    settle,
)
from instance_nerfstudio.lift.association_scores import AssociationScores, association_scores

if __name__ == "__main__":
    # A script's folder comes first, and there a benchmark has the name of the package roi_align3d.
    sys.path.pop(0)


@dataclass
class Lifting:
    """Options of the benchmark."""

    rooms: tyro.conf.Positional[tuple[Path, ...]]
    """Rooms with depth maps and masks."""
    corruption: Corruption = field(default_factory=Corruption)
    spoilt_detector: SpoiltDetector = field(default_factory=SpoiltDetector)
    depth_noise: float = 0.0
    """Standard deviation of what the depth maps are wrong by, in metres; a voxel is about 0.03."""
    detector: Path | None = None
    """detector.safetensors of a NeRF-RCNN, in place of spoilt true objects."""
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        results = [self._measure(read_room(room, self.depth_noise)) for room in self.rooms]
        names = list(results[0])
        columns = ("PQ scene", "switches", "merged", "split", "abstained", "wrong", "objects", "found")
        table = Table("matcher", *columns, "seconds", title=f"{len(self.rooms)} rooms, means")
        for name in names:
            scores = np.array([astuple(result[name][0]) for result in results], float).mean(0)
            seconds = np.mean([result[name][1] for result in results])
            shares = {0, 4, 5}
            cells = [f"{score:.3f}" if place in shares else f"{score:.1f}" for place, score in enumerate(scores)]
            table.add_row(name, *cells, f"{seconds:.1f}")
        Console(width=150).print(table)
        if self.output is not None:
            options = {"corruption": asdict(self.corruption), "depth_noise": self.depth_noise}
            options |= {"detector": asdict(self.spoilt_detector) if self.detector is None else str(self.detector)}
            rooms = {
                room.name: {name: {**asdict(scores), "seconds": time} for name, (scores, time) in result.items()}
                for room, result in zip(self.rooms, results, strict=True)
            }
            self.output.write_text(json.dumps({**options, "rooms": rooms}, indent=1))

    def _measure(self, room: Room) -> dict[str, tuple[AssociationScores, float]]:
        rng = np.random.default_rng(self.corruption.seed)
        spoilt = [spoil(ids, self.corruption, rng) for ids in room.truth]
        segments = [
            name_segments_by_truth(ids, truth, room.objects.categories)
            for ids, truth in zip(spoilt, room.truth, strict=True)
        ]
        none = InstanceGrid.empty(room.objects.bbox_min, room.objects.bbox_max, room.objects.shape)
        found = spoil_objects(room.objects, self.spoilt_detector, rng) if self.detector is None else self._detect(room)
        perfect = [matched_to_truth(ids, truth) for ids, truth in zip(spoilt, room.truth, strict=True)]
        projected = room.project(found)
        runs: dict[str, Callable[[], Matching]] = {
            "perfect": lambda: Matching(perfect, ()),
            "seed": lambda: match_seed(segments, projected, found),
            "hungarian": lambda: match_hungarian(segments, projected, found),
            "consensus": lambda: match_consensus(segments, projected, found),
            "consensus, no detector": lambda: match_consensus(segments, room.project(none), none),
        }
        results = {}
        for name, run in runs.items():
            start = perf_counter()
            matching = run()
            seconds = perf_counter() - start
            results[name] = (association_scores(matching.maps, room.truth), seconds)
            settled = settle(matching, projected)
            results[f"{name}, voted"] = (association_scores(settled.maps, room.truth), seconds)
        return results

    def _detect(self, room: Room) -> InstanceGrid:
        import torch

        from rcnn.data import GridFrame
        from rcnn.detecting import find_instances
        from rcnn.rooms.voxelize import VoxelizeConfig, voxelize_room
        from rcnn.weights import load_detector

        assert self.detector is not None
        folder = next(path for path in self.rooms if path.name == room.name)
        grid, _ = voxelize_room(folder, VoxelizeConfig())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _ = load_detector(self.detector, device)
        found = find_instances(model, grid).instances.to("cpu")  # type: ignore[arg-type]
        instances = InstanceGrid.of(found, GridFrame.of(grid))
        if instances.shape != room.objects.shape:
            raise SystemExit(f"{folder}: voxelized at {instances.shape}, its truth is {room.objects.shape}")
        return instances


def matched_to_truth(segments: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The ids that a perfect matcher gives to segments: those of what they mostly show."""
    best = shared_pixels(segments, truth).argmax(1).astype(np.int32)
    best[0] = 0
    return np.where(segments < 0, -1, best[np.maximum(segments, 0)]).astype(np.int32)


if __name__ == "__main__":
    tyro.cli(Lifting).main()
