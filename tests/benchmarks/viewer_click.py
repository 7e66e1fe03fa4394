"""Times what the viewer does between a click and the highlighted frame, beside a frame that it renders anyway.

    python tests/benchmarks/viewer_click.py ROOM [--method instance-nerfacto] [--size 512]

Trains shortly, then plays frames and clicks as the panel does: a click renders one pixel and paints the frame that is
kept; where the camera has moved since, the frame is rendered too.
"""

import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if Path(sys.path[0]).name == "benchmarks":
    sys.path.pop(0)  # a benchmark there has the name of a package


@dataclass
class Benchmark:
    """Options of the benchmark."""

    room: tyro.conf.Positional[Path]
    """Scene folder with instance masks."""
    method: str = "instance-nerfacto"
    """A method of this package."""
    iterations: int = 2500
    """Of the training; instances begin after 2000 by default."""
    size: int = 512
    """Pixels of the longer side of a frame."""
    clicks: int = 40
    """Of which the medians are told."""

    @torch.no_grad()
    def main(self) -> None:
        """Trains, clicks and prints."""
        from nerfstudio.configs.method_configs import all_methods

        from instance_nerfstudio.masks.instances_json import InstanceInfo
        from instance_nerfstudio.training import train_quietly
        from instance_nerfstudio.viewer.frames import Frames
        from instance_nerfstudio.viewer.painting import PaintStyle, paint
        from instance_nerfstudio.viewer.picking import pick

        config: Any = deepcopy(all_methods[self.method])
        config.data = config.pipeline.datamanager.data = self.room.resolve()
        config.max_num_iterations = self.iterations
        config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 10**9
        with tempfile.TemporaryDirectory() as folder, Progress() as progress, torch.enable_grad():
            config.output_dir = Path(folder)
            trainer, _ = train_quietly(config, progress)
        model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
        cameras = deepcopy(datamanager.train_dataset.cameras)
        cameras.rescale_output_resolution(self.size / float(cameras.width[0]))
        cameras = cameras.to(model.device)
        infos = tuple(InstanceInfo(i) for i in model.instance_head.instance_ids.tolist() if i > 0)
        style, frames = PaintStyle(infos=infos), Frames(model, print)
        times: dict[str, list[float]] = {"frame": [], "click": [], "highlighted frame": []}
        hits = 0
        for click in range(self.clicks + 5):
            camera = cameras[click % len(cameras) :][:1]
            rays = camera.generate_rays(camera_indices=0)
            height, width = rays.shape
            place = ((37 * click) % height, (61 * click) % width)
            origin, direction = (part[place].tolist() for part in (rays.origins, rays.directions))

            def show(camera: Any = camera, style: PaintStyle = style) -> dict[str, torch.Tensor]:
                # To the host, as the viewer sends it.
                return {k: v.cpu() for k, v in paint(frames.render(camera, None), style).items() if k == "rgb"}

            frame_seconds, _ = timed(show)
            pick_seconds, picked = timed(lambda o=origin, d=direction: pick(model, o, d))
            hits += picked.instance is not None
            chosen = replace(style, selected=(picked.instance,) if picked.instance else ())
            highlight_seconds, _ = timed(lambda style=chosen, show=show: show(style=style))
            if click >= 5:
                times["frame"].append(frame_seconds)
                times["click"].append(pick_seconds)
                times["highlighted frame"].append(highlight_seconds)
        table = Table("", "ms, median", title=f"{machine(model)}, {self.method}, {width}x{height}, {hits} hits")
        for name, seconds in times.items():
            table.add_row(name, f"{1000 * median(seconds):.1f}")
        beyond = [a + b for a, b in zip(times["click"], times["highlighted frame"], strict=True)]
        table.add_row("from click to highlight", f"{1000 * median(beyond):.1f}")
        Console().print(table)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of some work, the device's included, and what it returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start, result


def machine(model: Any) -> str:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}"


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
