"""What viewers without antialiasing show of exported splats, at one, two and four times the photos' resolution.

    python tests/benchmarks/classic_viewers.py FOLDER [--size 96 72] [--iterations 1000]

Makes a generated room at three sizes in FOLDER, trains `instance-splatfacto` on the smallest with and without
antialiasing, from points on the true surfaces, and compares held-out views of all sizes with the truth. For photos of
320x240 and more it needs a GPU; the default size takes minutes without one.
"""

import json
import math
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from splats import evaluate, train

from instance_nerfstudio.splats.classic_splats import classic_splats
from rcnn.rooms.seen_space import METRES

ZOOMS = (1, 2, 4)
STEPS = ("warmup_length", "stop_screen_size_at", "stop_split_at", "instance_start_step", "sh_degree_interval")
# Points per photo.
POINTS = 250
# Pixels of a Gaussian's radius from which it is split: as many as splatfacto allows in photos 320 pixels wide.
LARGE = 16


@dataclass
class Benchmark:
    """Options of the benchmark."""

    folder: tyro.conf.Positional[Path]
    """Gets the rooms, which are kept if they are there, and the runs."""
    size: tuple[int, int] = (96, 72)
    """Pixels of the photos: width and height."""
    iterations: int = 1000
    """Of the splats; their schedule shrinks with them."""
    densify_grad_thresh: float = 0.004
    """As in splatfacto; smaller photos have larger gradients."""
    seed: int = 5
    """Of the room."""

    def main(self) -> None:
        """Makes, trains, draws, prints."""
        for zoom in ZOOMS:
            self._make(zoom)
        table = Table(title="PSNR of held-out views [dB]")
        for column in ("splats", "drawn", *(f"x {zoom}" for zoom in ZOOMS)):
            table.add_column(column)
        for mode in ("antialiased", "classic"):
            pipeline = self._train(mode)
            model = pipeline.model
            splats = f"{mode}, {model.num_points}"
            table.add_row(splats, f"{mode}, as trained", *self._psnr(pipeline))
            if mode == "antialiased":
                exported = classic_splats(model, pipeline.datamanager.train_dataset.cameras)
                model.config.rasterize_mode = "classic"
                table.add_row(splats, "classic, as trained", *self._psnr(pipeline))
                model.gauss_params["scales"].data = exported.scales
                model.gauss_params["opacities"].data = exported.opacities
                table.add_row(splats, "classic, as exported", *self._psnr(pipeline))
        Console(width=110).print(table)

    def _room(self, zoom: int) -> Path:
        return self.folder / f"rooms_{zoom}" / "room_0000"

    def _make(self, zoom: int) -> None:
        width, height = (str(zoom * side) for side in self.size)
        sizes = ["--width", width, "--height", height, "--resolution", "64"]
        command = ["rooms", "make", "--split", "test", "--count", "1", "--seed", str(self.seed), *sizes]
        subprocess.run([sys.executable, "-m", "rcnn.cli", *command, "--out", str(self._room(zoom).parent)], check=True)

    def _train(self, mode: str) -> Any:
        from instance_nerfstudio.method_config import instance_splatfacto

        config: Any = deepcopy(instance_splatfacto.config)
        model, shorter = config.pipeline.model, self.iterations / config.max_num_iterations
        model.rasterize_mode, model.densify_grad_thresh = mode, self.densify_grad_thresh
        model.split_screen_size = LARGE / self.size[0]
        for step in STEPS:
            setattr(model, step, max(1, int(getattr(model, step) * shorter)))
        if not torch.cuda.is_available():
            config.machine.device_type, model.rasterizer = "cpu", "reference"
        config.pipeline.datamanager.start_points = self._surface_points()
        trainer, seconds = train(config, self._room(1), self.folder / f"run_{mode}", self.iterations)
        scores = evaluate(trainer.pipeline)
        print(mode, f"{seconds:.0f} s, {scores['psnr']:.2f} dB, mIoU {scores['instance_miou']:.3f}", flush=True)
        return trainer.pipeline

    def _surface_points(self) -> Path:
        """Places that the training photos see, by their depth, with their colours, in the world frame."""
        room, path, random = self._room(1), self.folder / "points.ply", np.random.default_rng(0)
        scene = json.loads((room / "transforms.json").read_text())
        points, colours = [], []
        for frame in scene["frames"]:
            if frame["file_path"] not in scene["train_filenames"]:
                continue
            depth = np.array(Image.open(room / frame["depth_file_path"])) * METRES
            v, u = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
            rays = [(u - scene["cx"]) / scene["fl_x"], (scene["cy"] - v) / scene["fl_y"], -np.ones_like(u)]
            seen = (np.stack(rays, axis=-1) * depth[..., None])[depth > 0]
            drawn, pose = random.permutation(len(seen))[:POINTS], np.array(frame["transform_matrix"])
            points.append(seen[drawn] @ pose[:3, :3].T + pose[:3, 3])
            colours.append(np.array(Image.open(room / frame["file_path"]).convert("RGB"))[depth > 0][drawn])
        trimesh.PointCloud(np.concatenate(points), colors=np.concatenate(colours)).export(path)
        return path

    @torch.no_grad()
    def _psnr(self, pipeline: Any) -> list[str]:
        """Of all held-out views, at each zoom."""
        dataset, means = pipeline.datamanager.eval_dataset, []
        for zoom in ZOOMS:
            cameras = deepcopy(dataset.cameras)
            cameras.rescale_output_resolution(float(zoom))
            values = []
            for index, photo in enumerate(dataset.image_filenames):
                truth = np.array(Image.open(self._room(zoom) / "images" / photo.name).convert("RGB")) / 255
                rgb = pipeline.model(cameras[index : index + 1].to(pipeline.device))["rgb"].cpu().numpy()
                values.append(-10 * math.log10(np.square(rgb - truth).mean()))
            means.append(f"{sum(values) / len(values):.2f}")
        return means


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
