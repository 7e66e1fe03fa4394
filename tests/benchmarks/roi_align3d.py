"""Times RoIAlign in 3D against the least time that its memory traffic takes on the same device.

    python tests/benchmarks/roi_align3d.py [--device cpu] [--output results.json]

The floor of a forward pass is the feature voxels that boxes cover, read once, and the result, written once, over the
bandwidth of a large copy. Forward and backward together also read the gradient of the result and write that of the
features. Every workload is first compared with the reference.

On CUDA, times are the device's alone: it is kept busy until the host has submitted the whole call. What a call costs
the host is measured on its own, for calls in a row that the device has not begun with; forward without gradients.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

if __name__ == "__main__":
    # A script's folder comes first, and there this file has the name of the package.
    sys.path.pop(0)

from roi_align3d import multiscale_roi_align_3d
from roi_align3d.reference import roi_align_reference
from roi_align3d.sampling import Sampling, assign_levels, make_pyramid

CANONICAL_SCALE, CANONICAL_LEVEL, STRIDE = 160.0, 4, 4
COLUMNS = ("forward ms", "floor", "ratio", "fwd+bwd ms", "floor", "ratio", "host us", "fwd+bwd")
CALLS_IN_A_ROW = 40  # a device queues 1024 operations


@dataclass(frozen=True)
class Workload:
    """Boxes with edges of 2 to 24 voxels of the finest level, log-uniform, anywhere in it."""

    name: str
    levels: tuple[int, ...]
    """Voxels per axis, finest first."""
    boxes: int
    bins: int
    channels: int
    dtype: torch.dtype
    sampling_ratio: int
    mode: str = "roi_align"


def workloads(device: str) -> list[Workload]:
    """The table's rows."""
    if device == "cpu":
        return [Workload("40³", (40,), 128, 7, 64, torch.float32, ratio) for ratio in (1, 2, -1)]
    rows = []
    for name, levels, boxes, bins in (
        ("40³", (40,), 1000, 7),
        ("40³", (40,), 512, 10),
        ("40³", (40,), 512, 5),
        ("40³+20³+10³+5³", (40, 20, 10, 5), 512, 7),
    ):
        rows.append(Workload(name, levels, boxes, bins, 256, torch.float32, 1))
        rows.append(Workload(name, levels, boxes, bins, 256, torch.float32, 1, "crop_and_resize"))
        rows.append(Workload(name, levels, boxes, bins, 256, torch.float16, 2))
    return rows


class Inputs:
    """One set of inputs; several in turn keep caches from holding the next call's."""

    def __init__(self, workload: Workload, device: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.workload = workload
        self.scales = [1 / (STRIDE * 2**level) for level in range(len(workload.levels))]
        self.features = []
        for size in workload.levels:
            level = torch.randn(1, workload.channels, size, size, size, generator=generator).to(device, workload.dtype)
            self.features.append(level.to(memory_format=torch.channels_last_3d).requires_grad_())
        extent = STRIDE * workload.levels[0]
        edges = STRIDE * 2 * 12 ** torch.rand(workload.boxes, 3, generator=generator)
        centres = torch.rand(workload.boxes, 3, generator=generator) * extent
        self.rois = torch.cat([torch.zeros(workload.boxes, 1), centres - edges / 2, centres + edges / 2], 1).to(device)
        shape = (workload.boxes, workload.channels, *(workload.bins,) * 3)
        upstream = torch.randn(shape, generator=generator).to(device, workload.dtype)
        self.upstream = upstream.to(memory_format=torch.channels_last_3d)

    def forward(self) -> Tensor:
        w = self.workload
        return multiscale_roi_align_3d(
            self.features, self.rois, w.bins, self.scales, w.sampling_ratio, True, CANONICAL_SCALE, CANONICAL_LEVEL,
            mode=w.mode,
        )  # fmt: skip

    def step(self) -> None:
        """Forward and backward."""
        torch.autograd.grad(self.forward(), self.features, self.upstream)

    def touched_voxels(self) -> int:
        """Feature voxels that a box covers, each counted once."""
        rois = self.rois.cpu()
        chosen = assign_levels(rois, make_pyramid(self.scales, CANONICAL_SCALE, CANONICAL_LEVEL))
        total = 0
        for level, size in enumerate(self.workload.levels):
            covered = torch.zeros(size, size, size, dtype=torch.bool)
            for box in rois[chosen == level] * self.scales[level]:
                low = (box[1:4] - 0.5).floor().clamp(min=0).int().tolist()
                high = (box[4:7] - 0.5).ceil().clamp(max=size - 1).int().tolist()
                covered[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1] = True
            total += int(covered.sum())
        return total

    def check(self) -> None:
        """Compares a few boxes with the reference."""
        w = self.workload
        pyramid = make_pyramid(self.scales, CANONICAL_SCALE, CANONICAL_LEVEL)
        sampling = Sampling((w.bins, w.bins, w.bins), w.sampling_ratio, True, w.mode == "crop_and_resize")
        some = slice(0, w.boxes, max(w.boxes // 8, 1))
        with torch.no_grad():
            exact = [level.float() for level in self.features]
            expected = roi_align_reference(exact, self.rois[some], pyramid, sampling)
            tolerance = 1e-4 if w.dtype == torch.float32 else 4e-3
            torch.testing.assert_close(self.forward()[some].float(), expected, atol=tolerance, rtol=tolerance)


def median_ms(calls: list[Callable[[], object]], device: str, runs: int) -> float:
    """Median time of a call, taking the calls in turn."""
    for call in calls:
        call()
    if device == "cpu":
        times = []
        for run in range(runs):
            start = perf_counter()
            calls[run % len(calls)]()
            times.append(1000 * (perf_counter() - start))
        return statistics.median(times)
    times, cycles = [], 400_000
    while len(times) < runs:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)
        begin.record()
        calls[len(times) % len(calls)]()
        end.record()
        device_waited = begin.query()
        end.synchronize()
        if not device_waited:
            times.append(begin.elapsed_time(end))
        elif cycles < 10**9:
            cycles *= 2
        else:
            raise RuntimeError("the call waits for the device, so it cannot be timed without the host")
    return statistics.median(times)


def host_us(call: Callable[[], object], device: str) -> float:
    """Median time until a call returns to Python, in a row of calls that the device has not begun with."""
    if device == "cpu":
        return float("nan")
    call()
    cycles = 100_000_000
    while cycles < 10**10:
        begin = torch.cuda.Event()
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        begin.record()
        times = []
        for _ in range(CALLS_IN_A_ROW):
            start = perf_counter()
            call()
            times.append(1e6 * (perf_counter() - start))
        if not begin.query():
            return statistics.median(times)
        cycles *= 2
    raise RuntimeError("the call waits for the device, so the host cannot be timed without it")


def copy_bandwidth(device: str) -> float:
    """Bytes read and written per second by a copy too large for caches."""
    size = 2**28 if device == "cpu" else 2**31
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (1e-3 * median_ms([lambda: target.copy_(source)], device, 15))


@dataclass
class Benchmark:
    """Options of the benchmark."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """`cuda` or `cpu`."""
    runs: int = 60
    """Timed calls per number."""
    inputs: int = 4
    """Sets of inputs that take turns."""
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        bandwidth = copy_bandwidth(self.device)
        rows = [self.measure(workload, bandwidth) for workload in workloads(self.device)]
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        title = f"{name}, torch {torch.__version__}, copies {bandwidth / 1e9:.0f} GB/s"
        table = Table(title=title)
        for column in ("level", "boxes", "bins", "dtype", "samples", *COLUMNS):
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
        Console(width=160).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps({"machine": title, "rows": rows}, indent=1))

    def measure(self, workload: Workload, bandwidth: float) -> list[object]:
        """One row."""
        inputs = [Inputs(workload, self.device, seed) for seed in range(self.inputs)]
        inputs[0].check()
        size = torch.finfo(workload.dtype).bits // 8
        result = inputs[0].upstream.numel() * size
        read = statistics.mean(i.touched_voxels() for i in inputs) * workload.channels * size
        gradient = sum(level.numel() for level in inputs[0].features) * size
        forward_floor = 1000 * (read + result) / bandwidth
        step_floor = forward_floor + 1000 * (result + gradient) / bandwidth
        with torch.no_grad():
            forward = median_ms([i.forward for i in inputs], self.device, self.runs)
            forward_host = host_us(inputs[0].forward, self.device)
        step = median_ms([i.step for i in inputs], self.device, self.runs)
        step_host = host_us(inputs[0].step, self.device)
        samples = "corners" if workload.mode == "crop_and_resize" else workload.sampling_ratio
        return [
            workload.name, workload.boxes, f"{workload.bins}³", str(workload.dtype).removeprefix("torch."), samples,
            forward, forward_floor, forward / forward_floor, step, step_floor, step / step_floor, forward_host,
            step_host,
        ]  # fmt: skip


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
