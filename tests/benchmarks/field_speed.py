"""Times the parts of `instance-nerfacto` on a GPU: joint iterations, the head alone, rendering.

    python tests/benchmarks/field_speed.py ROOM [--output results.json]

A ROOM is a scene folder with instance masks. Instances are cut into more of them, on copies of its masks, for the rows
with K instances: times do not depend on what the masks mean. Iterations are timed in runs of 50, after the field and
its graphs have settled; numbers are medians over the runs. Quality is measured by `instance_field.py`.
"""

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

WARM_UP, RUN, RUNS = 150, 50, 9


@dataclass
class FieldSpeed:
    """Options of the benchmark."""

    scene: tyro.conf.Positional[Path]
    """Scene folder."""
    torch_rows: bool = True
    """Also the plain torch implementation, iteration by iteration."""
    radiance_iterations: int = 4000
    """Iterations of the radiance field under the head."""
    output: Path | None = None
    """JSON file for all numbers."""

    def main(self) -> None:
        """Measures and prints the table."""
        rows: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            few, many = (cut_instances(self.scene, Path(folder) / f"k{count}", count) for count in (32, 512))
            joint = {
                "joint iteration, K = 32": (few, {}),
                "joint iteration, K = 512": (many, {}),
                "the same without the head": (few, {"use_instances": False}),
            }
            if self.torch_rows:
                joint["joint iteration, K = 32, torch, not recorded"] = (few, {"implementation": "torch"})
            for name, (scene, options) in joint.items():
                recorded = "torch" not in name
                rows[f"{name}: ms"] = joint_milliseconds(scene, Path(folder), options, recorded)
            rows["share of the head: %"] = 100 * (
                1 - rows["the same without the head: ms"] / rows["joint iteration, K = 32: ms"]
            )
            rows |= head_alone(self.scene.resolve(), Path(folder), self.radiance_iterations)
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        table = Table(title=f"{name}, torch {torch.__version__}, {self.scene.name}")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for what, value in rows.items():
            table.add_row(what, f"{value:.4g}")
        Console(width=100).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps({"machine": table.title, "rows": rows}, indent=1))


def cut_instances(scene: Path, copy: Path, count: int) -> Path:
    """The scene with its instances cut into `count`, by pixel blocks."""
    from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask

    shutil.copytree(scene, copy, ignore=shutil.ignore_patterns("instance_masks", "instances.json"))
    for i, path in enumerate(sorted((scene / "instance_masks").glob("*.png"))):
        labels = read_instance_mask(path)
        row, column = np.indices(labels.shape) // 8
        pieces = 1 + (labels * 7919 + row * 104729 + column * 1299709 + i * 31) % count
        write_instance_mask(copy / "instance_masks" / path.name, np.where(labels > 0, pieces, labels))
    return copy


def method(scene: Path, folder: Path, iterations: int, **options: Any) -> Any:
    """`instance-nerfacto` with `options` of its model, saving and evaluating nothing on the way."""
    from nerfstudio.configs.method_configs import all_methods

    config: Any = deepcopy(all_methods["instance-nerfacto"])
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = folder
    config.max_num_iterations = iterations
    config.steps_per_save = config.steps_per_eval_image = 10**9
    config.steps_per_eval_batch = config.steps_per_eval_all_images = 10**9
    for name, value in options.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
    return config


def joint_milliseconds(scene: Path, folder: Path, options: dict[str, Any], recorded: bool) -> float:
    """Median time of an iteration inside nerfstudio's training loop, instances training from the start."""
    from instance_nerfstudio.instance_trainer import InstanceTrainer
    from instance_nerfstudio.training import train_quietly

    config = method(scene, folder, WARM_UP + RUN * RUNS, instance_start_step=0, **options)
    if not recorded:
        config.pipeline.datamanager.resident_bytes = 0
    times: list[float] = []
    train_iteration = InstanceTrainer.train_iteration

    def timed(self: InstanceTrainer, step: int) -> Any:
        if step >= WARM_UP and (step - WARM_UP) % RUN == 0:
            torch.cuda.synchronize()
            times.append(perf_counter())
        return train_iteration(self, step)

    InstanceTrainer.train_iteration = timed  # type: ignore[method-assign]
    try:
        with Progress() as progress:
            trainer, _ = train_quietly(config, progress)
        assert isinstance(trainer, InstanceTrainer)
        assert (trainer._recorded is not None) == recorded
    finally:
        InstanceTrainer.train_iteration = train_iteration  # type: ignore[method-assign]
    return 1000 / RUN * statistics.median(b - a for a, b in pairwise(times))


def head_alone(scene: Path, folder: Path, radiance_iterations: int) -> dict[str, float]:
    """The head over a frozen field: time per step, time to its best, and of rendering."""
    import instance_nerfstudio.frozen_field.cached_training as cached
    from instance_nerfstudio.training import train_quietly

    with Progress() as progress:
        radiance, seconds = train_quietly(
            method(scene, folder / "radiance", radiance_iterations, use_instances=False), progress
        )
        run = radiance.base_dir
        del radiance
        config = method(scene, folder / "head", 5000, radiance_checkpoint=run)
        config.pipeline.datamanager.train_num_rays_per_batch = 8192
        config.pipeline.cached_training.patience = 0
        scores: list[tuple[float, float]] = []
        kept: list[cached.CachedTraining] = []
        start = perf_counter()
        build, score = cached.CachedTraining.__init__, cached.CachedTraining.score

        def built(self: Any, *arguments: Any) -> None:
            nonlocal start
            start = perf_counter()
            build(self, *arguments)
            kept.append(self)

        def scored(self: Any, step: int) -> bool:
            torch.cuda.synchronize()
            scores.append((perf_counter() - start, self.held_out_miou()))
            return score(self, step)

        cached.CachedTraining.__init__ = built  # type: ignore[method-assign,assignment]
        cached.CachedTraining.score = scored  # type: ignore[method-assign]
        try:
            trainer, _ = train_quietly(config, progress)
        finally:
            cached.CachedTraining.__init__ = build  # type: ignore[method-assign]
            cached.CachedTraining.score = score  # type: ignore[method-assign]
    best = max(miou for _, miou in scores)
    pipeline = trainer.pipeline
    camera, _ = pipeline.datamanager.next_eval_image(0)
    metrics = pipeline.get_average_image_metrics(pipeline.datamanager.fixed_indices_eval_dataloader, "eval")
    return {
        f"radiance field of {radiance_iterations} iterations: s": seconds,
        "head-only iteration, 8192 rays: ms": median_milliseconds(kept[0].step, 50),
        "head to within 0.5 points of its best, cache included: s": next(t for t, m in scores if m >= best - 0.005),
        "its best held-out mIoU on cached pixels": best,
        "held-out instance mIoU": metrics["instance_miou"],
        "PSNR": metrics["psnr"],
        f"rendering rgb and instances, {int(camera.width)}x{int(camera.height)}: ms": median_milliseconds(
            lambda: pipeline.model.render(camera), 1
        ),
    }


def median_milliseconds(call: Callable[[], Any], calls: int) -> float:
    """Median over 20 runs of the time of a call, `calls` of them in a row."""
    times = []
    for _ in range(21):
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        times.append(1000 * (perf_counter() - start) / calls)
    return statistics.median(times[1:])


if __name__ == "__main__":
    tyro.cli(FieldSpeed).main()
