"""Trains `instance-nerfacto` on furnished rooms and prints held-out quality, speed and memory.

    python tests/benchmarks/instance_field.py ROOM [ROOM ...] [--iterations N] [--output results.json]

A ROOM is a scene folder with instance masks. `--demo` adds the room of `instance-nerf demo`. `--set` overrides options
of the method by their dotted names, e.g. `--set pipeline.model.instance_start_step=0`.
"""

import ast
import json
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

COLUMNS = ("instance_miou", "pq_scene", "pq", "psnr", "ssim", "ms_per_iteration", "seconds", "ms_per_view", "peak_gib")


@dataclass
class Benchmark:
    """Options of the benchmark."""

    scenes: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Scene folders."""
    demo: bool = False
    """Also the room of `instance-nerf demo`."""
    method: str = "instance-nerfacto"
    """`instance-nerfacto` or `instance-nerfacto-cpu`."""
    iterations: int | None = None
    """Iterations in all; the method's own number by default."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Overrides of the method's options."""
    output: Path | None = None
    """JSON file for all numbers."""
    pictures: Path | None = None
    """Folder for the evaluation pictures."""

    def main(self) -> None:
        """Runs scene after scene and prints the table."""
        scenes = list(self.scenes)
        results: dict[str, dict[str, float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            if self.demo:
                from rcnn.rooms import make_room

                scenes.append(make_room(Path(folder) / "demo"))
            for scene in scenes:
                results[scene.name] = self.run(scene.resolve(), Path(folder))
                Console().print(scene.name, {k: round(v, 4) for k, v in results[scene.name].items() if k in COLUMNS})
        if self.output is not None:
            self.output.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
        print_table(results)

    def run(self, scene: Path, folder: Path) -> dict[str, float]:
        """Trains on one scene and measures."""
        from nerfstudio.configs.method_configs import all_methods

        from instance_nerfstudio.training import train_quietly

        config: Any = deepcopy(all_methods[self.method])
        config.data = config.pipeline.datamanager.data = scene
        config.output_dir = folder
        config.max_num_iterations = self.iterations or config.max_num_iterations
        config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 10**9
        for option in self.set:
            override(config, option)
        on_gpu = config.machine.device_type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with Progress() as progress:
            trainer, seconds = train_quietly(config, progress)
        peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
        loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
        start = perf_counter()
        pictures = self.pictures / scene.name if self.pictures else None
        metrics = trainer.pipeline.get_average_image_metrics(loader, "eval", output_path=pictures)
        metrics |= {
            "ms_per_iteration": 1000 * seconds / config.max_num_iterations,
            "seconds": seconds,
            "ms_per_view": 1000 * (perf_counter() - start) / len(loader),
            "peak_gib": peak,
        }
        return metrics


def override(config: Any, option: str) -> None:
    """Sets `a.b.c=value` on nested dataclasses and dictionaries."""
    name, _, text = option.partition("=")
    *path, last = name.split(".")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    for part in path:
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    if isinstance(config, dict):
        config[last] = value
    elif hasattr(config, last):
        setattr(config, last, value)
    else:
        raise SystemExit(f"no such option: {name}")


def machine() -> str:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


def print_table(results: dict[str, dict[str, float]]) -> None:
    """One row per scene, and their mean."""
    table = Table(title=machine())
    for column in ("scene", *COLUMNS):
        table.add_column(column, justify="right")
    rows = dict(results)
    if len(rows) > 1:
        rows["mean"] = {c: sum(r.get(c, float("nan")) for r in results.values()) / len(results) for c in COLUMNS}
    for name, row in rows.items():
        table.add_row(name, *(f"{row.get(column, float('nan')):.3f}" for column in COLUMNS))
    Console(width=140).print(table)


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
