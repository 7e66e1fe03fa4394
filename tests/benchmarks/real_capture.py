"""Trains `instance-nerfacto` on a real capture that has no masks, and draws what it learnt.

    python tests/benchmarks/real_capture.py SCENE BOXES.json [--downscale 2] --output FOLDER

A radiance field is trained first. Its depth puts every pixel of every photo into the world, where hand-placed boxes
name the instance: approximate masks, with the field's own errors in them. The field then stays frozen while the
instance head trains on them. Scores compare held-out views with masks made the same way: agreement, not truth. Look at
FOLDER/contact_sheet.png.

BOXES.json (`real_capture_boxes/` holds two) lists instances with `id`, `category`, `margin` (by which boxes grow on
each side, per axis) and `parts`: boxes `[cx, cy, cz, w, l, h, yaw]`, or `center`, `size`, `rotation` with the box's
axes as columns, in the frame of transforms.json.
"""

import json
import math
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from instance_field import machine, override
from jaxtyping import Float, Int32
from numpy import ndarray
from PIL import Image
from rich.console import Console
from rich.progress import Progress, track

INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")


@dataclass
class RealCapture:
    """Options of the benchmark."""

    scene: tyro.conf.Positional[Path]
    """Scene folder with transforms.json."""
    boxes: tyro.conf.Positional[Path]
    """The instances' boxes."""
    output: Path
    """Folder for pictures and numbers."""
    downscale: int = 1
    """Photos are reduced by this factor."""
    doubt: float = 0.05
    """Points outside all boxes but this close to one stay unlabelled: depth is not exact."""
    radiance_iterations: int = 5000
    """Iterations of the radiance field."""
    instance_iterations: int = 2000
    """Iterations of the instance head."""
    method: str = "instance-nerfacto"
    """`instance-nerfacto` or `instance-nerfacto-cpu`."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Overrides of the method's options, in both trainings."""

    def main(self) -> None:
        """Trains twice, and draws the contact sheet."""
        from instance_nerfstudio.contact_sheet import write_contact_sheet
        from instance_nerfstudio.masks.instances_json import InstanceInfo

        records = json.loads(self.boxes.read_text())["instances"]
        infos = [InstanceInfo(id=record["id"], category=record["category"]) for record in records]
        self.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            scene = reduced_copy(self.scene, Path(folder) / self.scene.name, self.downscale)
            radiance, seconds = self.train(scene, Path(folder), self.radiance_iterations, use_instances=False)
            metrics = {"psnr_radiance": self.evaluate(radiance)["psnr"], "seconds_radiance": seconds}
            write_masks(radiance.pipeline, scene, records, self.doubt)
            run = radiance.config.get_base_dir()
            head, seconds = self.train(scene, Path(folder), self.instance_iterations, radiance_checkpoint=run)
            metrics |= self.evaluate(head, self.output / "eval") | {"seconds_instances": seconds}
        write_contact_sheet(self.output / "contact_sheet.png", self.output / "eval", infos, metrics)
        (self.output / "metrics.json").write_text(json.dumps({"machine": machine(), **metrics}, indent=1))
        keys = ("psnr", "instance_miou", "pq_scene", "seconds_radiance", "seconds_instances")
        Console().print(self.scene.name, machine(), {key: round(metrics[key], 3) for key in keys})

    def train(self, scene: Path, folder: Path, iterations: int, **model: Any) -> tuple[Any, float]:
        """A trainer after its training, and the seconds of it."""
        from nerfstudio.configs.method_configs import all_methods

        from instance_nerfstudio.training import train_quietly

        config: Any = deepcopy(all_methods[self.method])
        config.data = config.pipeline.datamanager.data = scene
        config.output_dir = folder / "runs"
        config.max_num_iterations = config.steps_per_save = iterations
        config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 10**9
        for name, value in model.items():
            setattr(config.pipeline.model, name, value)
        for option in self.set:
            override(config, option)
        with Progress() as progress:
            return train_quietly(config, progress)

    def evaluate(self, trainer: Any, pictures: Path | None = None) -> dict[str, float]:
        """Scores of the held-out views."""
        loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
        return trainer.pipeline.get_average_image_metrics(loader, "eval", output_path=pictures)


def reduced_copy(scene: Path, folder: Path, factor: int, every: int = 1) -> Path:
    """The scene with every `every`-th photo, `factor` times smaller, as a folder that may be written to."""
    meta = json.loads((scene / "transforms.json").read_text())
    meta["frames"] = meta["frames"][::every]
    for record in (meta, *meta["frames"]):
        record |= {key: record[key] / factor for key in INTRINSICS if key in record}
    for frame in meta["frames"]:
        target = folder / frame["file_path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(scene / frame["file_path"])
        photo.reduce(factor).save(target, quality=95) if factor > 1 else photo.save(target, quality=95)
        width, height = Image.open(target).size
    meta |= {"w": width, "h": height}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@torch.no_grad()
def write_masks(pipeline: Any, scene: Path, boxes: list[dict], doubt: float) -> None:
    """Masks of all photos, from the radiance field's depth and the boxes."""
    from instance_nerfstudio.export.views import dataset_views, scene_to_world
    from instance_nerfstudio.masks.instance_masks import UNLABELLED, write_instance_mask

    transform, scale = pipeline.model.world_to_scene
    views = dataset_views(pipeline.datamanager, pipeline.model.camera_optimizer, "all")
    (scene / "instance_masks").mkdir()
    for view in track(views, "Masks from boxes"):
        camera = view.camera.to(pipeline.device)
        rays = camera.generate_rays(0, keep_shape=True)
        depth = pipeline.model.get_outputs_for_camera(camera)["depth"]
        points = rays.origins + rays.directions * depth
        world = scene_to_world(points.reshape(-1, 3), transform, scale).reshape(points.shape)
        ids = ids_in_boxes(world.numpy(), boxes)
        ids[(ids == 0) & (ids_in_boxes(world.numpy(), boxes, doubt) > 0)] = UNLABELLED
        write_instance_mask(scene / "instance_masks" / f"{view.name}.png", ids)


def ids_in_boxes(
    points: Float[ndarray, "height width 3"], boxes: list[dict], extra: float = 0.0
) -> Int32[ndarray, "height width"]:
    """Id of the smallest box around each point, 0 outside all; boxes grow by their own margin and `extra`."""
    parts = [(*box_frame(part), np.asarray(box["margin"]) + extra, box["id"]) for box in boxes for part in box["parts"]]
    ids = np.zeros(points.shape[:2], np.int32)
    for centre, size, axes, margin, number in sorted(parts, key=lambda part: -math.prod(part[1])):
        ids[(np.abs((points - centre) @ axes) <= size / 2 + margin).all(-1)] = number
    return ids


def box_frame(part: list[float] | dict[str, Any]) -> tuple[ndarray, ndarray, ndarray]:
    """Centre, size, and a matrix whose columns are the box's axes in the world."""
    if isinstance(part, dict):
        return np.asarray(part["center"]), np.asarray(part["size"]), np.asarray(part["rotation"])
    cosine, sine = math.cos(part[6]), math.sin(part[6])
    axes = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return np.asarray(part[:3]), np.asarray(part[3:6]), axes


if __name__ == "__main__":
    start = perf_counter()
    tyro.cli(RealCapture).main()
    Console().print(f"{perf_counter() - start:.0f} s in all")
