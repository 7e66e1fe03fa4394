"""Trains detectors on generated rooms and scores them on radiance fields of rooms that they have never seen.

    python tests/benchmarks/train_detectors.py --out /data/detectors [--lanes compact,swin_fcos_aabb resnet50]

Makes the rooms, grids of the training and validation rooms straight from their surfaces, and radiance fields of the
test rooms (which needs a GPU and `instance_nerfstudio`); trains; writes OUT/<name>.json with all scores, pictures of
all test rooms, and a table. Detectors of one lane are trained one after another, lanes at the same time; they take the
GPUs in turn. All of it goes on where it stopped when it is started again. `--ship compact` at last puts that detector,
in half precision, where `nerf-rcnn predict` finds it by default, and the two smallest test rooms, rounded, where a test
looks for them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    # A script's folder comes first, and there a benchmark has the name of the package roi_align3d.
    sys.path.pop(0)

from rcnn.grids import read_density_grid, write_density_grid
from rcnn.weights import SHIPPED, load_detector, save_detector

# Pictures of training rooms need no more pixels than show the colour of every voxel.
SMALL = ("--width", "160", "--height", "120")
REFINEMENT = Path(__file__).with_name("fit_mask_refinement.py")
FIXTURES = Path(__file__).parents[1] / "rcnn" / "fixtures"
SCORES = ("R50", "AP25", "AP50", "mAP50", "maskAP25", "maskAP50", "maskAP", "maskmAP50")


@dataclass(frozen=True)
class Recipe:
    """One detector: a command of `nerf-rcnn`, and how many thousands of steps it takes."""

    command: str
    options: tuple[str, ...]
    steps: float


RECIPES = {
    "compact": Recipe("train", ("--backbone", "compact", "--lr", "5e-4"), 3),
    "resnet50": Recipe("train", ("--backbone", "resnet50"), 3),
    "resnet50_fcos_aabb": Recipe("train-rpn", ("--backbone", "resnet50"), 2.5),
    "resnet50_fcos_obb": Recipe("train-rpn", ("--backbone", "resnet50", "--boxes", "obb"), 2.5),
    "resnet50_anchor_aabb": Recipe("train-rpn", ("--backbone", "resnet50", "--head", "anchor"), 2.5),
    "resnet50_anchor_obb": Recipe("train-rpn", ("--backbone", "resnet50", "--head", "anchor", "--boxes", "obb"), 2.5),
    "swin_fcos_aabb": Recipe("train-rpn", ("--backbone", "swin_s"), 2.5),
    "swin_fcos_obb": Recipe("train-rpn", ("--backbone", "swin_s", "--boxes", "obb"), 2.5),
}


@dataclass
class TrainDetectors:
    """Options of the benchmark."""

    out: Path
    """Folder for rooms, grids, runs and scores."""
    lanes: tuple[str, ...] = ("compact",)
    """Names of detectors, with commas between those that wait for each other."""
    train_rooms: int = 200
    test_rooms: int = 20
    val_rooms: int = 12
    seed: int = 0
    """Of the rooms and of the training."""
    time_factor: float = 1.0
    """All runs this much longer."""
    num_workers: int = 12
    """Processes that make rooms."""
    loaders: int = 4
    """Processes that load scenes, for each lane."""
    radiance: bool = True
    """Test on radiance fields; else on grids made like those for training, which needs no GPU."""
    ship: str | None = None
    """The detector that is to come with this package."""
    deadline: float | None = None
    """Seconds from the start in which nothing more is begun, and what runs is told to stop."""

    def main(self) -> None:
        """Runs what is not there yet."""
        self._begin = time.monotonic()
        names = [lane.split(",") for lane in self.lanes]
        if unknown := {name for lane in names for name in lane} - RECIPES.keys():
            raise SystemExit(f"{', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
        self.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1 + len(names)) as pool:
            self._rooms("test", self.test_rooms, ())
            fields = pool.submit(self._test_grids)
            for split, count in (("val", self.val_rooms), ("train", self.train_rooms)):
                self._rooms(split, count, SMALL)
                self._voxelize(split)
            jobs = [pool.submit(self._lane, lane, fields, _gpu(n)) for n, lane in enumerate(names)]
            for job in [fields, *jobs]:
                job.result()
        self._table()
        if self.ship is not None:
            self._ship(self.ship)

    def _rooms(self, split: str, count: int, options: Sequence[str]) -> None:
        self._nerf_rcnn(
            "rooms", "make", "--out", f"rooms/{split}", "--split", split, "--count", str(count), "--seed",
            str(self.seed), "--num-workers", str(self.num_workers), *options, log=f"rooms_{split}",
        )  # fmt: skip

    def _voxelize(self, split: str) -> None:
        options = ("--out", f"data/{split}", "--num-workers", str(self.num_workers))
        self._nerf_rcnn("rooms", "voxelize", f"rooms/{split}", *options, log=f"voxelize_{split}")

    def _test_grids(self) -> None:
        if not self.radiance:
            self._voxelize("test")
            return
        command = ("-m", "instance_nerfstudio.cli", "fit-grids", "rooms/test", "--table", "fields.csv")
        self._run(*command, "--devices", "cuda:0", log="fields")
        link = self.out / "data" / "test"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(Path("..") / "rooms" / "test")

    def _lane(self, names: Sequence[str], fields: Any, gpu: str | None) -> None:
        for name in names:
            recipe = RECIPES[name]
            steps = round(1000 * recipe.steps * self.time_factor)
            common = ("--data", "data", "--cache", "cache")
            self._nerf_rcnn(
                recipe.command, *common, "--out", f"runs/{name}", "--steps", str(steps), "--validate-every",
                str(max(1, steps // 3)), "--seed", str(self.seed), "--devices", "1", "--num-workers",
                str(self.loaders), *recipe.options, log=f"train_{name}", gpu=gpu,
            )  # fmt: skip
            fields.result()
            detector = ("--detector", f"runs/{name}/detector.safetensors")
            if recipe.command == "train":  # masks are judged once more, by what the validation rooms teach
                refinement = (str(REFINEMENT), *common, *detector, "--split", "val", "--write")
                self._run(*refinement, log=f"refine_{name}", gpu=gpu)
            self._nerf_rcnn("eval", *common, *detector, "--out", f"{name}.json", log=f"eval_{name}", gpu=gpu)
            pictures = ("--split", "test", "--out", f"pictures/{name}", "--limit", str(self.test_rooms))
            self._nerf_rcnn("visualize", *common, *detector, *pictures, log=f"pictures_{name}", gpu=gpu)

    def _nerf_rcnn(self, *arguments: str, log: str, gpu: str | None = None) -> None:
        self._run("-m", "rcnn.cli", *arguments, log=log, gpu=gpu)

    def _run(self, *arguments: str, log: str, gpu: str | None = None) -> None:
        """Python with these arguments, to its end; its words go to a file. Without a GPU's name it sees all of them."""
        left = None if self.deadline is None else self.deadline - (time.monotonic() - self._begin)
        if left is not None and left <= 0:
            raise SystemExit(f"{log}: no time left; the same command goes on")
        (self.out / "logs").mkdir(exist_ok=True)
        path = self.out / "logs" / f"{log}.txt"
        start = time.monotonic()
        with path.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.out, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
            )  # fmt: skip
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                process.terminate()  # a training says from which step it goes on
                code = process.wait()
        if code != 0:
            lines = path.read_text(errors="replace").strip().splitlines() or [""]
            raise SystemExit(f"{log}: {lines[-1]} (all of it in {path})")
        now = time.monotonic()
        print(f"[{now - self._begin:.0f} s] {log}: {now - start:.0f} s", flush=True)

    def _table(self) -> None:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        kind = "radiance fields" if self.radiance else "voxelized rooms"
        table = Table("detector", *SCORES, title=f"{self.test_rooms} test rooms, {kind}, trained on {machine}")
        for name in RECIPES:
            path = self.out / f"{name}.json"
            if path.is_file():
                scores = json.loads(path.read_text())
                table.add_row(name, *(f"{scores[s]:.3f}" if s in scores else "" for s in SCORES))
        Console(width=130).print(table)

    def _ship(self, name: str) -> None:
        run = self.out / "runs" / name
        model, notes = load_detector(run / "detector.safetensors")
        recipe = RECIPES[name]
        command = " ".join(["python", "tests/benchmarks/train_detectors.py", "--lanes", name, "--ship", name])
        scores = json.loads((self.out / f"{name}.json").read_text())
        training = {
            **notes.training,
            "command": command,
            "recipe": [recipe.command, *recipe.options],
            "rooms": {"train": self.train_rooms, "val": self.val_rooms, "test": self.test_rooms, "seed": self.seed},
        }
        metrics = {"validation": notes.metrics, "test": {s: scores[s] for s in SCORES if s in scores}}
        save_detector(SHIPPED, model.state_dict(), replace(notes, training=training, metrics=metrics), torch.float16)
        print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB")
        grids = sorted((self.out / "data" / "test").glob("*/grid/density.npz"), key=lambda path: path.stat().st_size)
        for path in grids[:2]:
            write_fixture(path, FIXTURES / "test" / path.parent.parent.name / "grid")


def write_fixture(source: Path, folder: Path) -> None:
    """A density grid with its truth, small enough for a repository: colours and opacities in steps of 1/64."""
    grid = read_density_grid(source)
    colour_and_opacity = np.moveaxis(grid.rgb_alpha(), 0, -1)
    steps = np.rint(colour_and_opacity * 63).astype(np.uint8)
    steps[steps[..., 3] == 0, :3] = 32  # nobody sees the colour of nothing
    rounded = replace(grid, rgbsigma=steps * 4, density_kind="alpha", alpha_distance=None)
    folder.mkdir(parents=True, exist_ok=True)
    write_density_grid(folder / source.name, rounded)
    shutil.copyfile(source.with_name("truth.npz"), folder / "truth.npz")


def _gpu(lane: int) -> str | None:
    """The name of a lane's GPU among those that may be used."""
    count = torch.cuda.device_count()
    if count == 0:
        return None
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return names.split(",")[lane % count]


if __name__ == "__main__":
    tyro.cli(TrainDetectors).main()
