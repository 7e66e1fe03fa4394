"""Times the detectors: backbone, inference and training step, with peak memory.

    python tests/benchmarks/rcnn_speed.py [--masks] [--device cpu --resolution 48 --runs 1] [--output results.json]

One grid of random values, random weights, 2500 boxes before suppression: NeRF-RPN's own benchmark. With `--masks`
NeRF-RCNN: 300 proposals, and 100 instances with classes and masks that are pasted into the grid. Before a backbone is
timed, its maps in half precision are compared with those in single precision, and the proposals of one grid alone with
those of the same grid in a padded batch.
"""

import json
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

if __name__ == "__main__":
    # A script's folder comes first, and there a benchmark has the name of the package roi_align3d.
    sys.path.pop(0)

from rcnn.backbones import BACKBONES, BackboneName, GridBatch
from rcnn.boxes import enclosing_aabb
from rcnn.roi_heads import DetectionConfig, NeRFRCNN, NeRFRCNNConfig, RoIHeadsConfig
from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig, ProposalConfig


@dataclass
class Benchmark:
    """Options of the benchmark."""

    backbones: tuple[BackboneName, ...] = ("resnet50", "vgg_EF", "swin_s")
    """Networks to time."""
    head: str = "fcos"
    """`fcos` or `anchor`."""
    rotated: bool = False
    """OBBs instead of AABBs."""
    masks: bool = False
    """NeRF-RCNN instead of NeRF-RPN."""
    classes: int = 20
    """Of NeRF-RCNN."""
    resolution: int = 160
    """Voxels along each side."""
    batch: int = 4
    """Grids of a training step."""
    objects: int = 20
    """True boxes of a grid."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """`cuda` or `cpu`."""
    precision: str = "bf16"
    """`bf16`, by autocast, or `fp32`."""
    runs: int = 20
    """Timed calls per number."""
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        torch.set_float32_matmul_precision("high")
        rows = [self._measure(name) for name in self.backbones]
        machine = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        title = (
            f"{'NeRF-RCNN' if self.masks else 'NeRF-RPN'}, {machine}, torch {torch.__version__}, "
            f"{self.resolution}³ voxels, {self.head}, "
            f"{'OBB' if self.rotated else 'AABB'}, {self.precision}, ms: median (largest)"
        )
        table = Table(title=title)
        for column in rows[0]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console(width=140).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps({"machine": title, "rows": rows}, indent=1))

    def _measure(self, name: BackboneName) -> dict[str, Any]:
        torch.manual_seed(0)
        head = FCOSHeadConfig() if self.head == "fcos" else AnchorHeadConfig()
        rpn = NeRFRPNConfig(BACKBONES[name], head, self.rotated, ProposalConfig(pre_nms_top_k=2500))
        model: NeRFRPN | NeRFRCNN = NeRFRPN(rpn)
        if self.masks:
            # As many as there can be: random weights are sure of nothing.
            heads = RoIHeadsConfig(detections=DetectionConfig(score_threshold=0.0))
            names = tuple(f"class {label}" for label in range(self.classes))
            model = NeRFRCNN(NeRFRCNNConfig(rpn, heads, names, mask_threshold=0.01, mask_nms_iou=1.0))
        model.to(self.device).eval()
        features = model.rpn.backbone if isinstance(model, NeRFRCNN) else model.backbone
        self._check(features)
        one = self._grids(1)
        with torch.inference_mode(), self._half():
            backbone = self._times(lambda: features(one))
            inference = self._times(lambda: model(one))
            memory = self._peak_gb(lambda: model(one))
        model.train()
        several, boxes = self._grids(self.batch), [self._boxes(seed) for seed in range(self.batch)]
        truth: list[Any] = [boxes]
        if self.masks:
            labels = [torch.arange(len(b), device=self.device) % self.classes for b in boxes]
            truth = [boxes, labels, [self._instances(b) for b in boxes]]
        optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=self.device == "cuda")

        def step() -> None:
            optimizer.zero_grad()
            with self._half():
                losses = model(several, *truth)
            sum(losses.values()).backward()  # type: ignore[union-attr]
            optimizer.step()

        training = self._times(step)
        return {
            "backbone": name,
            "backbone alone": backbone,
            "inference": inference,
            "peak GB": f"{memory:.2f}",
            f"training step of {self.batch}": training,
            "its peak GB": f"{self._peak_gb(step):.2f}",
        }

    def _check(self, backbone: torch.nn.Module) -> None:
        """Raises SystemExit when half precision or padding changes what a grid gets by more than rounding."""
        one = self._grids(1)
        with torch.inference_mode():
            exact = backbone(one)
            with self._half():
                rough = backbone(one)
            for level, (a, b) in enumerate(zip(exact, rough, strict=True)):
                error = float((a - b.float()).norm() / a.norm())
                if not error < 0.05:
                    raise SystemExit(f"level {level} differs by {error:.1%} between precisions")
            small = one.features[0, :, : self.resolution // 2]
            padded = backbone(GridBatch.collate([small, one.features[0]]))
            for level, (a, b) in enumerate(zip(backbone(GridBatch.collate([small])), padded, strict=True)):
                x = a.shape[2]
                error = float((a[0] - b[0, :, :x]).norm() / a.norm())
                if not error < 0.02:  # TF32
                    raise SystemExit(f"level {level} differs by {error:.1%} when the grid is padded")

    def _grids(self, count: int) -> GridBatch:
        generator = torch.Generator().manual_seed(1)
        n = self.resolution
        return GridBatch.collate(list(torch.rand(count, 4, n, n, n, generator=generator))).to(self.device)

    def _boxes(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centre, size = torch.rand(2, self.objects, 3, generator=generator)
        size = self.resolution * (0.05 + 0.25 * size)
        centre = size / 2 + centre * (self.resolution - size)
        yaw = torch.zeros(self.objects, 1)
        obb, aabb = torch.cat([centre, size, yaw], 1), torch.cat([centre - size / 2, centre + size / 2], 1)
        return (obb if self.rotated else aabb).to(self.device)

    def _instances(self, boxes: Tensor) -> Tensor:
        """Each box full of its object."""
        place = torch.arange(self.resolution, device=boxes.device) + 0.5
        result = torch.zeros((self.resolution,) * 3, dtype=torch.int32, device=boxes.device)
        for row, box in enumerate(enclosing_aabb(boxes)):
            x, y, z = ((place > low) & (place < high) for low, high in zip(box[:3], box[3:], strict=True))
            result[x[:, None, None] & y[:, None] & z] = row + 1
        return result

    def _half(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _times(self, call: Callable[[], object]) -> str:
        for _ in range(min(3, self.runs)):
            call()
        times = []
        for _ in range(self.runs):
            self._wait()
            start = perf_counter()
            call()
            self._wait()
            times.append(1000 * (perf_counter() - start))
        return f"{statistics.median(times):.1f} ({max(times):.1f})"

    def _peak_gb(self, call: Callable[[], object]) -> float:
        if self.device != "cuda":
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 1e9

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
