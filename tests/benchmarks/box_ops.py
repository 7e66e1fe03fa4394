"""Times IoU and non-maximum suppression of boxes in 3D.

    python tests/benchmarks/box_ops.py [--device cpu] [--output results.json]

Boxes lie in a room of 160³ voxels with sides of 4 to 40, in clusters as a detector proposes them: every object has many
boxes a little apart. Each operator is first compared with double precision on a part of its input.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rcnn.boxes import batched_nms, box_iou, obb_to_aabb

EXTENT = 160.0
OBJECTS = 60
CLASSES = 10


def proposals(count: int, rotated: bool, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(OBJECTS, 3, generator=generator) * EXTENT
    sides = 4 * 10 ** torch.rand(OBJECTS, 3, generator=generator)
    yaws = torch.rand(OBJECTS, 1, generator=generator) * 6.28
    objects = torch.cat([places, sides, yaws], 1)
    chosen = torch.randint(0, OBJECTS, (count,), generator=generator)
    noise = torch.randn(count, 7, generator=generator)
    boxes = objects[chosen]
    boxes[:, :3] += 0.25 * boxes[:, 3:6] * noise[:, :3]
    boxes[:, 3:6] *= (0.2 * noise[:, 3:6]).exp()
    boxes[:, 6] += 0.2 * noise[:, 6]
    scores = torch.rand(count, generator=generator)
    return (boxes if rotated else obb_to_aabb(boxes)).to(device), scores.to(device), (chosen % CLASSES).to(device)


def check(rotated: bool, device: str, threshold: float) -> None:
    """Both operators in single precision against the CPU in double precision."""
    boxes, scores, classes = proposals(1500, rotated, device, seed=1)
    exact = box_iou(boxes.double().cpu(), boxes.double().cpu())
    torch.testing.assert_close(box_iou(boxes, boxes).cpu().double(), exact, atol=1e-5, rtol=0)
    kept = batched_nms(boxes, scores, classes, threshold).cpu()
    overlaps = exact[kept][:, kept].fill_diagonal_(0)
    same = (classes[kept][:, None] == classes[kept]).cpu()
    if (overlaps[same] > threshold + 1e-5).any():
        raise SystemExit("two boxes that were kept overlap")
    dropped = torch.ones(len(boxes), dtype=torch.bool)
    dropped[kept] = False
    higher = (scores[kept][:, None] >= scores).cpu() & (classes[kept][:, None] == classes).cpu()
    if not ((exact[kept] > threshold - 1e-5) & higher).any(0)[dropped].all():
        raise SystemExit("a box was dropped that no kept box of a higher score overlaps")


def times_ms(call: Callable[[], object], device: str, runs: int) -> tuple[float, float]:
    """Median and largest time of a call until its result is there."""
    for _ in range(2):
        call()
    times = []
    for _ in range(runs):
        if device == "cuda":
            torch.cuda.synchronize()
        start = perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (perf_counter() - start))
    return statistics.median(times), max(times)


@dataclass
class Benchmark:
    """Options of the benchmark."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """`cuda` or `cpu`."""
    counts: tuple[int, ...] = (2500, 20_000)
    """Boxes to suppress."""
    pairs: tuple[int, int] = (1000, 10_000)
    """Boxes of the two sets whose IoU is computed."""
    threshold: float = 0.3
    """IoU above which a box is suppressed."""
    runs: int = 10
    """Timed calls per number."""
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        rows: list[dict[str, object]] = []
        for rotated in (False, True):
            check(rotated, self.device, self.threshold)
            kind = "OBB" if rotated else "AABB"
            first, second = (proposals(n, rotated, self.device, seed)[0] for seed, n in enumerate(self.pairs))
            median, largest = times_ms(lambda a=first, b=second: box_iou(a, b), self.device, self.runs)
            size = f"{self.pairs[0]} x {self.pairs[1]}"
            rows.append({"operator": "IoU", "boxes": kind, "size": size, "kept": "", "ms": median, "max ms": largest})
            for count in self.counts:
                for classes in (1, CLASSES):
                    boxes, scores, groups = proposals(count, rotated, self.device)
                    groups = groups if classes > 1 else torch.zeros_like(groups)
                    arguments = (boxes, scores, groups, self.threshold)
                    median, largest = times_ms(lambda a=arguments: batched_nms(*a), self.device, self.runs)
                    rows.append(
                        {
                            "operator": f"NMS, {classes} classes",
                            "boxes": kind,
                            "size": count,
                            "kept": len(batched_nms(*arguments)),
                            "ms": median,
                            "max ms": largest,
                        }
                    )
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        title = f"{name}, torch {torch.__version__}"
        table = Table(title=title)
        for column in rows[0]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
        Console(width=120).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps({"machine": title, "rows": rows}, indent=1))


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
