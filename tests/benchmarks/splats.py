"""Trains `instance-splatfacto` on furnished rooms, beside `instance-nerfacto` and plain splatfacto, and prints a table.

    python tests/benchmarks/splats.py ROOM [ROOM ...] [--no-plain] [--output results.json] [--pictures FOLDER]

Gaussians start on the surfaces of the NeRF, for both kinds of splats; with `--teacher-views N` `instance-splatfacto`
also learns from views of the NeRF between the photos. The first room also waits for gsplat to compile its kernels,
which is told apart. Needs a CUDA GPU.
"""

import gc
import json
import sys
import tempfile
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if Path(sys.path[0]).name == "benchmarks":
    sys.path.pop(0)  # a benchmark there has the name of a package

from instance_nerfstudio.splats.splat_pipeline import SplatPipelineConfig
from instance_nerfstudio.splats.start_points import use_start_points

FRAME = (640, 480)
FRAMES = 60
COLUMNS = {
    "nerf_miou": "mIoU nerfacto", "miou": "mIoU trained", "lifted_miou": "mIoU lifted", "psnr": "PSNR",
    "plain_psnr": "PSNR splatfacto", "seconds": "training s", "plain_seconds": "splatfacto s", "lift_seconds": "lift s",
    "frame_ms": "rgb + ids ms", "shown_ms": "with overlay ms", "gaussians": "Gaussians",
}  # fmt: skip


@dataclass
class Benchmark:
    """Options of the benchmark."""

    rooms: tyro.conf.Positional[tuple[Path, ...]]
    """Scene folders with instance masks."""
    iterations: int | None = None
    """Of the splats; each method's own when not given."""
    nerf_iterations: int = 10000
    """Of the NeRF."""
    teacher_views: int = SplatPipelineConfig.teacher_views
    """Views between the photos that the NeRF shows the splats; masks are those of the scene either way."""
    plain: bool = True
    """Also train nerfstudio's splatfacto."""
    output: Path | None = None
    """JSON file for all numbers, written after each room."""
    pictures: Path | None = None
    """Folder for the evaluation pictures of the splats."""

    def main(self) -> None:
        """Runs room after room."""
        build_seconds = build_gsplat()
        results: dict[str, dict[str, float]] = {}
        for room in self.rooms:
            with tempfile.TemporaryDirectory() as folder:
                results[room.name] = self.run(room.resolve(), Path(folder))
            tell(results[room.name])
            if self.output is not None:
                content = {"machine": machine(), "gsplat_build_seconds": build_seconds, "results": results}
                self.output.write_text(json.dumps(content, indent=1))
        print(f"gsplat's kernels were compiled in {build_seconds:.0f} s")
        print_table(results)

    def run(self, room: Path, folder: Path) -> dict[str, float]:
        """Everything on one room."""
        from instance_nerfstudio.method_config import instance_nerfacto, instance_splatfacto
        from instance_nerfstudio.splats.lift import held_out_miou, lift, lifted_instead
        from instance_nerfstudio.splats.teacher import learn_from

        trainer, seconds = train(instance_nerfacto.config, room, folder / "nerf", self.nerf_iterations)
        nerf = evaluate(trainer.pipeline)
        row = {"nerf_miou": nerf["instance_miou"], "nerf_psnr": nerf["psnr"], "nerf_seconds": seconds}
        start = perf_counter()
        lesson = learn_from(trainer.base_dir / "config.yml", folder / "lesson", True, self.teacher_views)
        row["lesson_seconds"] = perf_counter() - start
        tell(row)
        del trainer
        forget()

        config: Any = deepcopy(instance_splatfacto.config)
        config.pipeline.datamanager.start_points = lesson.points
        config.pipeline.datamanager.teacher_views = lesson.views
        trainer, row["seconds"] = train(config, room, folder / "splats", self.iterations)
        pipeline: Any = trainer.pipeline
        pictures = self.pictures / room.name if self.pictures else None
        splats = evaluate(pipeline, pictures)
        row |= {"miou": splats["instance_miou"], "psnr": splats["psnr"], "gaussians": pipeline.model.num_points}
        row["frame_ms"], row["shown_ms"] = frame_milliseconds(pipeline)
        with Progress(disable=True) as progress:
            lift(pipeline, progress)  # compiles and allocates
            torch.cuda.synchronize()
            start = perf_counter()
            lifted = lift(pipeline, progress)
            torch.cuda.synchronize()
        row["lift_seconds"] = perf_counter() - start
        with lifted_instead(pipeline.model, lifted):
            row["lifted_miou"] = held_out_miou(pipeline) or float("nan")
        tell(row)
        del trainer, pipeline, lifted
        forget()
        if self.plain:
            row["plain_psnr"], row["plain_seconds"] = plain_splatfacto(room, lesson.points, folder, self.iterations)
            forget()
        return row


def tell(row: dict[str, float]) -> None:
    """What is known of a room: a run that is cut off has told what it measured."""
    print({key: round(value, 4) for key, value in row.items()}, flush=True)


def build_gsplat() -> float:
    """Seconds until gsplat has rasterized for the first time."""
    from instance_nerfstudio.splats.gaussians import Gaussians
    from instance_nerfstudio.splats.rasterize import rasterize

    start = perf_counter()
    means, quats, scales = (torch.rand(8, width, device="cuda") for width in (3, 4, 3))
    gaussians = Gaussians(means, quats, scales, torch.rand(8, device="cuda"))
    picture = rasterize(
        gaussians, torch.rand(8, 3, device="cuda"), torch.eye(4, device="cuda"), torch.eye(3, device="cuda") * 20,
        16, 16, sh_degree=None, depth=False, absgrad=False, antialiased=False, rasterizer="gsplat",
    )  # fmt: skip
    picture.composite(torch.rand(8, 16, device="cuda"))
    torch.cuda.synchronize()
    return perf_counter() - start


def train(method: Any, room: Path, folder: Path, iterations: int | None) -> tuple[Any, float]:
    """Trains one of our methods without any evaluation on the way; the trainer, and seconds of the loop."""
    from instance_nerfstudio.training import train_quietly

    config = deepcopy(method)
    config.data = config.pipeline.datamanager.data = room
    config.output_dir = folder
    config.max_num_iterations = iterations or config.max_num_iterations
    config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 10**9
    config.steps_per_save = 10**9
    with Progress() as progress:
        return train_quietly(config, progress)


@dataclass
class PointedDataParserConfig(NerfstudioDataParserConfig):
    """nerfstudio's own, for which points come from elsewhere."""

    _target: type = field(default_factory=lambda: PointedDataParser)
    points: Path = Path()


class PointedDataParser(Nerfstudio):
    """Reads points without open3d."""

    config: PointedDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **options: Any) -> DataparserOutputs:
        outputs = super()._generate_dataparser_outputs(split, **options)
        use_start_points(outputs, self.config.points)
        return outputs


def plain_splatfacto(room: Path, points: Path, folder: Path, iterations: int | None) -> tuple[float, float]:
    """PSNR and seconds of nerfstudio's own method with its own trainer, from the same points."""
    from nerfstudio.configs.method_configs import method_configs

    from instance_nerfstudio.compat import lpips_without_download

    config: Any = deepcopy(method_configs["splatfacto"])
    config.data = config.pipeline.datamanager.data = room
    config.pipeline.datamanager.dataparser = PointedDataParserConfig(points=points)
    config.output_dir, config.vis = folder / "plain", "tensorboard"
    config.max_num_iterations = iterations or config.max_num_iterations
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_save = 10**9
    config.set_timestamp()
    with redirect_stdout(StringIO()), lpips_without_download():
        config.save_config()
        torch.manual_seed(config.machine.seed)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        start = perf_counter()
        trainer.train()
        torch.cuda.synchronize()
        seconds = perf_counter() - start
        trainer.pipeline.eval()
        psnr = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    return float(psnr), seconds


@torch.no_grad()
def evaluate(pipeline: Any, pictures: Path | None = None) -> dict[str, float]:
    """Metrics of the held-out views."""
    pipeline.eval()
    loader = pipeline.datamanager.fixed_indices_eval_dataloader
    return pipeline.get_average_image_metrics(loader, "eval", 0, output_path=pictures)


@torch.no_grad()
def frame_milliseconds(pipeline: Any) -> tuple[float, float]:
    """Medians of a frame's time: colours and ids alone, and all that the viewer shows."""
    model = pipeline.model
    cameras = deepcopy(pipeline.datamanager.train_dataset.cameras)
    cameras.rescale_output_resolution(FRAME[0] / float(cameras.width[0]))
    cameras = cameras.to(model.device)
    times: tuple[list[float], list[float]] = ([], [])
    for frame in range(FRAMES + 10):
        camera = cameras[frame % len(cameras) :][:1]
        for kind, render in enumerate((model, model.render)):
            torch.cuda.synchronize()
            start = perf_counter()
            outputs = render(camera)
            torch.cuda.synchronize()
            if frame >= 10:
                times[kind].append(1000 * (perf_counter() - start))
            assert outputs["instance_ids"].shape[:2] == (FRAME[1], FRAME[0])
    return median(times[0]), median(times[1])


def forget() -> None:
    """Gives back the memory of what is gone."""
    gc.collect()
    torch.cuda.empty_cache()


def machine() -> str:
    """What the numbers were measured on."""
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def print_table(results: dict[str, dict[str, float]]) -> None:
    """One row per room, and their mean."""
    table = Table(title=machine())
    for column in ("room", *COLUMNS.values()):
        table.add_column(column, justify="right")
    rows = dict(results)
    rows["mean"] = {key: sum(r.get(key, float("nan")) for r in results.values()) / len(results) for key in COLUMNS}
    for name, row in rows.items():
        table.add_row(name, *(f"{row.get(key, float('nan')):.3f}" for key in COLUMNS))
    Console(width=170).print(table)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("skipped: needs a CUDA GPU")
    tyro.cli(Benchmark).main()
