"""The installed scripts, end to end: train, resume, evaluate, render, export, and train on what was exported."""

import json
import math
import os
import shlex
import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from rcnn.instance_palette import colour_instances_uint8
from rcnn.rooms import RoomConfig, make_room
from rcnn.rooms.irradiance import IrradianceConfig

pytestmark = pytest.mark.slow

ROOM = RoomConfig(
    width=64,
    height=48,
    num_views=12,
    num_held_out=2,
    samples_per_pixel=1,
    voxel_resolution=32,
    light=IrradianceConfig(sky_strata=2, light_strata=1, bounces=1, smoothing=1),
)
BED, WALLS, FURNITURE = 7, 40, 300  # with gaps, and one beyond 8 bits
NAMES = {BED: "bed", WALLS: "walls", FURNITURE: "furniture"}

# Options that any nerfacto-like method takes, and those of the instance methods.
SIZES = shlex.split("""
    --vis tensorboard --machine.device-type cpu --mixed-precision False --logging.steps-per-log 5
    --steps-per-eval-batch 10 --steps-per-eval-all-images 100000
    --pipeline.datamanager.train-num-rays-per-batch 256 --pipeline.datamanager.eval-num-rays-per-batch 128
    --pipeline.model.implementation torch --pipeline.model.num-levels 4 --pipeline.model.max-res 64
    --pipeline.model.log2-hashmap-size 12 --pipeline.model.hidden-dim 16 --pipeline.model.hidden-dim-color 16
    --pipeline.model.num-nerf-samples-per-ray 12
    --optimizers.fields.optimizer.lr 0.05 --optimizers.fields.scheduler.lr-final 0.05
    --optimizers.proposal-networks.optimizer.lr 0.05 --optimizers.proposal-networks.scheduler.lr-final 0.05
""")
HEAD_SIZES = shlex.split("""
    --pipeline.calibration-batches 2
    --optimizers.instance-head.optimizer.lr 0.05 --optimizers.instance-head.scheduler.lr-final 0.05
    --pipeline.model.instance-head.num-levels 4 --pipeline.model.instance-head.max-res 64
    --pipeline.model.instance-head.hidden-dim 16 --pipeline.model.instance-head.log2-hashmap-size 12
""")
TINY = [*SIZES, *HEAD_SIZES, "--pipeline.model.num-proposal-samples-per-ray", "24"]
TWO_PROPOSALS = ["--pipeline.model.num-proposal-samples-per-ray", "24", "16"]

FIRST_STEPS, ALL_STEPS = 120, 180


def make_tiny_room(folder: Path) -> Path:
    """A furnished room whose walls are an instance too: so short a training labels most pixels as the largest class,
    and masks of nothing but background would test little.
    """
    make_room(folder, ROOM)
    for path in (folder / "instance_masks").iterdir():
        ids = read_instance_mask(path)
        write_instance_mask(path, np.select([ids == 0, ids == 1], [WALLS, BED], FURNITURE))
    write_instances_json(folder / "instances.json", [InstanceInfo(i, name) for i, name in NAMES.items()])
    return folder


def environment(torch_home: Path) -> dict[str, str]:
    """Without a GPU, without a proxy, and with an empty cache of weights."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    # One thread: models this small lose by more, and by far where the cores are shared.
    extra = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    return {**kept, **extra, "TORCH_HOME": str(torch_home)}


def script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def call(folder: Path, name: str, *arguments: str, torch_home: str = "torch") -> str:
    """Runs an installed script in `folder` and returns what it printed."""
    done = subprocess.run(
        [script(name), *arguments],
        cwd=folder,
        env=environment(folder / torch_home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "nerfstudio_models").iterdir())


def weights(run: Path, prefix: str, name: str | None = None) -> dict[str, torch.Tensor]:
    """Weights under `prefix` in the last checkpoint of a run, or in the one of that name."""
    path = run / "nerfstudio_models" / (name or checkpoints(run)[-1])
    # Plain nerfstudio writes NumPy scalars, which importing the plugin allows.
    import instance_nerfstudio.method_config  # noqa: F401

    state = torch.load(path, map_location="cpu", weights_only=True)["pipeline"]
    found = {key: value for key, value in state.items() if key.startswith(f"_model.{prefix}")}
    assert found
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def scalars(run: Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def result_folder(folder: Path, method: str, timestamp: str) -> Path:
    return folder / "outputs" / "room" / method / timestamp


def ids_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_instance_mask(path) for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands run, with the scene `room`."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "torch").mkdir()
    make_tiny_room(folder / "room")
    return folder


def held_out(work: Path) -> list[str]:
    listed = json.loads((work / "room" / "transforms.json").read_text())["val_filenames"]
    return sorted(Path(name).stem for name in listed)


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    arguments = ["--data", "room", "--timestamp", "first", "--max-num-iterations", str(FIRST_STEPS), *TINY]
    arguments += ["--pipeline.model.instance-start-step", "5", "--steps-per-eval-image", "20"]
    call(work, "ns-train", "instance-nerfacto-cpu", *arguments)
    return result_folder(work, "instance-nerfacto-cpu", "first")


@pytest.fixture(scope="module")
def resumed(work: Path, trained: Path) -> Path:
    arguments = ["--data", "room", "--timestamp", "second", "--max-num-iterations", str(ALL_STEPS), *TINY]
    arguments += ["--pipeline.model.instance-start-step", "5", "--steps-per-eval-image", "100000"]
    arguments += ["--load-dir", str((trained / "nerfstudio_models").relative_to(work))]
    call(work, "ns-train", "instance-nerfacto-cpu", *arguments)
    return result_folder(work, "instance-nerfacto-cpu", "second")


@pytest.fixture(scope="module")
def exported(work: Path, resumed: Path) -> Path:
    arguments = ["--load-config", str(resumed / "config.yml"), "--output-dir", "masks_eval", "--cameras", "eval"]
    call(work, "ns-export", "masks", *arguments, "--format", "png", "coco", "panoptic")
    return work / "masks_eval"


def test_train(trained: Path) -> None:
    assert checkpoints(trained) == [f"step-{FIRST_STEPS - 1:09d}.ckpt"]
    assert (trained / "config.yml").is_file()
    assert (trained / "dataparser_transforms.json").is_file()


def test_tensorboard_shows_instances(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loss = scalars(trained, "Train Loss Dict/instance_loss")
    assert min(loss) == 5  # the start step
    assert all(math.isfinite(value) for value in loss.values())
    assert np.mean(list(loss.values())[-5:]) < 0.9 * np.mean(list(loss.values())[:5])
    events = EventAccumulator(str(trained))
    events.Reload()
    picture = events.Images("Eval Images/instances")[-1]
    assert (picture.width, picture.height) == (3 * ROOM.width, ROOM.height)  # truth, prediction, error
    assert "Eval Images Metrics/pq" in events.Tags()["scalars"]


def test_weights_of_lpips_are_neither_needed_nor_fetched(work: Path, trained: Path) -> None:
    assert not any(path.is_file() for path in (work / "torch").rglob("*"))


def test_resume_ends_where_it_was_meant_to(trained: Path, resumed: Path) -> None:
    assert checkpoints(resumed) == [f"step-{ALL_STEPS - 1:09d}.ckpt"]
    steps = scalars(resumed, "Train Loss")
    assert FIRST_STEPS <= min(steps) < FIRST_STEPS + 5
    assert max(steps) < ALL_STEPS
    first, second = (list(scalars(run, "Train Loss Dict/instance_loss").values()) for run in (trained, resumed))
    assert np.mean(second[:3]) < first[0]  # goes on from what was learnt
    assert not same(weights(trained, "instance_head"), weights(resumed, "instance_head"))


def test_eval(work: Path, resumed: Path) -> None:
    call(work, "ns-eval", "--load-config", str(resumed / "config.yml"), "--output-path", "scores.json")
    scores = json.loads((work / "scores.json").read_text())["results"]
    names = {"psnr", "ssim", "instance_miou", "pq", "sq", "rq", "pq_scene", "pq_scene_pl"}
    assert names <= scores.keys()
    assert all(math.isfinite(value) for value in scores.values())
    assert scores["psnr"] > 8
    for name in names - {"psnr"}:
        assert 0 <= scores[name] <= 1
    assert scores["instance_miou"] > 0.05  # the walls are found at the least
    assert "lpips" not in scores


def test_render_agrees_with_export(work: Path, resumed: Path, exported: Path) -> None:
    outputs = ["rgb", "instances", "instances_overlay", "instance_confidence"]
    arguments = ["--load-config", str(resumed / "config.yml"), "--output-path", "renders", "--image-format", "png"]
    call(work, "ns-render", "dataset", *arguments, "--rendered-output-names", *outputs)
    ids = ids_in(exported / "instance_masks")
    for output in outputs:
        pictures = {path.stem: np.asarray(Image.open(path)) for path in (work / "renders/test" / output).iterdir()}
        assert sorted(pictures) == held_out(work)
        assert all(picture.shape == (ROOM.height, ROOM.width, 3) for picture in pictures.values())
        if output == "instances":
            for name, picture in pictures.items():
                assert np.array_equal(picture, colour_instances_uint8(ids[name]))


def test_exported_masks_are_named_like_their_images(work: Path, exported: Path) -> None:
    ids = ids_in(exported / "instance_masks")
    assert sorted(ids) == held_out(work)
    shown = np.unique(np.stack(list(ids.values())))
    assert len(shown) > 1
    assert set(shown.tolist()) <= {0, *NAMES}
    described = json.loads((exported / "instances.json").read_text())["instances"]
    assert {row["id"]: row["category"] for row in described} == NAMES


def test_exported_coco_file_holds_the_masks(work: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(exported / "coco.json"))
    ids = ids_in(exported / "instance_masks")
    images = {image["id"]: Path(image["file_name"]) for image in coco.loadImgs(coco.getImgIds())}
    assert sorted(path.name for path in images.values()) == [f"{name}.png" for name in held_out(work)]
    area = 0
    annotations: list[Any] = coco.loadAnns(coco.getAnnIds())
    for annotation in annotations:
        mask = coco.annToMask(annotation).astype(bool)
        assert np.array_equal(mask, ids[images[annotation["image_id"]].stem] == annotation["instance_id"])
        assert coco.loadCats(annotation["category_id"])[0]["name"] == NAMES[annotation["instance_id"]]
        area += int(mask.sum())
    assert area == sum(int((view > 0).sum()) for view in ids.values())


def test_exported_panoptic_files_hold_the_masks(exported: Path) -> None:
    content = json.loads((exported / "panoptic.json").read_text())
    ids = ids_in(exported / "instance_masks")
    assert len(content["annotations"]) == len(ids)
    for annotation in content["annotations"]:
        picture = np.asarray(Image.open(exported / "panoptic" / annotation["file_name"])).astype(np.int32)
        segments = picture @ np.array([1, 256, 256**2])
        view = ids[Path(annotation["file_name"]).stem]
        listed = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        for instance in NAMES:
            assert np.array_equal(segments == instance, view == instance)
            assert listed.get(instance, 0) == (view == instance).sum()


def test_stock_exports_are_still_there(work: Path) -> None:
    shown = call(work, "ns-export", "pointcloud", "--help")
    assert "--load-config" in shown
    assert "--num-points" in shown


def test_exported_masks_train_a_second_model(work: Path, resumed: Path) -> None:
    arguments = ["--load-config", str(resumed / "config.yml"), "--output-dir", "masks_all", "--cameras", "all"]
    call(work, "ns-export", "masks", *arguments)
    masks = work / "masks_all" / "instance_masks"
    images = [path.name for path in (work / "room" / "images").iterdir()]
    assert sorted(path.name for path in masks.glob("*.png")) == sorted(images)

    arguments = ["--data", "room", "--timestamp", "again", "--max-num-iterations", "12", *TINY]
    arguments += ["--pipeline.model.instance-start-step", "2", "--steps-per-eval-image", "100000"]
    call(work, "ns-train", "instance-nerfacto-cpu", *arguments, "--pipeline.datamanager.masks-dir", str(masks))
    run = result_folder(work, "instance-nerfacto-cpu", "again")
    assert weights(run, "instance_head.instance_ids").popitem()[1].tolist() == [0, *NAMES]
    assert len(scalars(run, "Train Loss Dict/instance_loss")) > 0


@pytest.fixture
def killed(work: Path) -> Path:
    """A run that is killed while it writes a checkpoint, the third or a later one."""
    arguments = ["--data", "room", "--timestamp", "killed", "--max-num-iterations", "100000", "--steps-per-save", "3"]
    arguments += ["--save-only-latest-checkpoint", "False", "--steps-per-eval-image", "100000", *TINY]
    run = result_folder(work, "instance-nerfacto-cpu", "killed")
    with (work / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [script("ns-train"), "instance-nerfacto-cpu", *arguments, "--pipeline.model.instance-start-step", "2"],
            cwd=work,
            env=environment(work / "torch"),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 200
            while len(list(run.glob("nerfstudio_models/*.ckpt"))) < 2 or not list(run.glob(".checkpoint-*/*.ckpt")):
                assert process.poll() is None, (work / "killed.log").read_text()[-4000:]
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return run


def test_killed_run_resumes(work: Path, killed: Path) -> None:
    saved = checkpoints(killed)
    assert all(name.endswith(".ckpt") for name in saved)
    for name in saved:
        weights(killed, "instance_head", name)  # none is half-written
    last = int(saved[-1].removeprefix("step-").removesuffix(".ckpt"))

    arguments = ["--data", "room", "--timestamp", "revived", "--max-num-iterations", str(last + 9), *TINY]
    arguments += ["--pipeline.model.instance-start-step", "2", "--steps-per-eval-image", "100000"]
    call(work, "ns-train", "instance-nerfacto-cpu", *arguments, "--load-dir", str(killed / "nerfstudio_models"))
    assert checkpoints(result_folder(work, "instance-nerfacto-cpu", "revived")) == [f"step-{last + 8:09d}.ckpt"]


@pytest.fixture(scope="module")
def nerfacto(work: Path) -> Path:
    """A run of nerfstudio's own nerfacto. It wants AlexNet for LPIPS, here one of zeros."""
    import torchvision

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.alexnet().state_dict().items()}
    cache = work / "torch_alexnet" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    # A single zero stretched over each shape: the file stays small.
    zeros = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    torch.save(zeros, cache / "alexnet-owt-7be5be79.pth")
    arguments = ["--data", "room", "--timestamp", "plain", "--max-num-iterations", "10", *SIZES, *TWO_PROPOSALS]
    arguments += ["--steps-per-eval-image", "100000"]
    call(work, "ns-train", "nerfacto", *arguments, torch_home="torch_alexnet")
    return result_folder(work, "nerfacto", "plain")


def test_head_trains_over_a_frozen_nerfacto(work: Path, nerfacto: Path) -> None:
    arguments = ["--data", "room", "--timestamp", "frozen", "--max-num-iterations", "40", *SIZES, *HEAD_SIZES]
    arguments += [*TWO_PROPOSALS, "--steps-per-eval-image", "100000", "--steps-per-save", "10"]
    arguments += ["--save-only-latest-checkpoint", "False"]
    call(work, "ns-train", "instance-nerfacto", *arguments, "--pipeline.model.radiance-checkpoint", str(nerfacto))
    run = result_folder(work, "instance-nerfacto", "frozen")
    for part in ("field.", "proposal_networks.", "camera_optimizer."):
        assert same(weights(nerfacto, part), weights(run, part))
    early, late = checkpoints(run)[0], checkpoints(run)[-1]
    assert late == "step-000000039.ckpt"
    assert not same(weights(run, "instance_head.", early), weights(run, "instance_head.", late))
    loss = scalars(run, "Train Loss Dict/instance_loss")
    assert min(loss) == 0  # a ready field needs no start step
    assert list(loss.values())[-1] < 0.9 * loss[0]


def test_edits_are_honoured_by_later_commands(work: Path, trained: Path) -> None:
    config = str(trained / "config.yml")
    outputs = ["--load-config", config, "--image-format", "png", "--rendered-output-names", "rgb", "instances"]
    call(work, "ns-render", "dataset", *outputs, "--output-path", "whole")
    call(work, "instance-nerf", "edit", "--load-config", config, "--action", "merge", "--ids", str(BED), str(FURNITURE))
    call(work, "instance-nerf", "edit", "--load-config", config, "--action", "hide", "--ids", str(WALLS))
    try:
        call(work, "ns-render", "dataset", *outputs, "--output-path", "edited")
        colours = {i: colour_instances_uint8(np.array(i)) for i in NAMES}
        for name in held_out(work):
            whole, edited = (
                np.asarray(Image.open(work / folder / "test" / "instances" / f"{name}.png"))
                for folder in ("whole", "edited")
            )
            assert (whole == colours[WALLS]).all(-1).any()
            assert not (edited == colours[WALLS]).all(-1).any()
            assert not (edited == colours[FURNITURE]).all(-1).any()
            photos = [np.asarray(Image.open(work / f / "test" / "rgb" / f"{name}.png")) for f in ("whole", "edited")]
            assert photos[1].mean() < photos[0].mean() - 10  # empty space is black
        arguments = ["--output-dir", "objects", "--resolution", "24", "--survey-size", "48"]
        call(work, "ns-export", "instances", "--load-config", config, *arguments)
        described = json.loads((work / "objects" / "instances.json").read_text())
        assert [row["id"] for row in described["instances"]] == [BED]
        assert described["files"].keys() == {str(BED)}

        (trained / "instance_edits.json").write_text("{}")
        done = subprocess.run(
            [script("ns-render"), "dataset", *outputs, "--output-path", "broken"],
            cwd=work,
            env=environment(work / "torch"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert "instance_edits.json" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        (trained / "instance_edits.json").unlink()
