"""Whatever is wrong with a scene ends in one line that names the file and the remedy, and leaves no half of a run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_commands import environment, script

from instance_nerfstudio.errors import InputError, show_input_errors_as_one_line
from instance_nerfstudio.masks.instance_masks import UNLABELLED, read_instance_mask, write_instance_mask

MASK = Path("instance_masks/1.png")  # of a training view


@dataclass
class Case:
    """How a scene is spoilt, and what the message must say of it."""

    spoil: Callable[[Path], object]
    file: str
    """The file to blame, relative to the scene."""
    remedy: str


def _edit_transforms(scene: Path, change: Callable[[dict], object]) -> None:
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def _replace_by_array(scene: Path, array: np.ndarray) -> None:
    (scene / MASK).unlink()
    np.save((scene / MASK).with_suffix(".npy"), array)


def _empty_masks(scene: Path) -> None:
    for path in (scene / "instance_masks").glob("*.png"):
        write_instance_mask(path, np.zeros_like(read_instance_mask(path)))


def _rename_masks(scene: Path) -> None:
    for path in (scene / "instance_masks").glob("*.png"):
        path.rename(path.with_name(f"mask_{path.name}"))


def _nan_pose(meta: dict) -> None:
    meta["frames"][2]["transform_matrix"][0][3] = float("nan")


ONE_CHANNEL = "save one integer id per pixel, 0 background, 1.. instances, as a 16-bit single-channel PNG"
CASES = {
    "missing mask that a frame names": Case(
        lambda scene: _edit_transforms(scene, lambda meta: meta["frames"][0].update(instance_mask_path="m/gone.png")),
        "m/gone.png",
        "correct it",
    ),
    "mask that is no image": Case(lambda scene: (scene / MASK).write_bytes(b"not a picture"), str(MASK), ONE_CHANNEL),
    "truncated mask": Case(lambda scene: os.truncate(scene / MASK, 60), str(MASK), "write it again"),
    "empty mask file": Case(lambda scene: os.truncate(scene / MASK, 0), str(MASK), ONE_CHANNEL),
    "mask of another size": Case(
        lambda scene: write_instance_mask(scene / MASK, np.ones((24, 24), np.int32)),
        str(MASK),
        "write the mask at the size of the image",
    ),
    "mask of real numbers": Case(
        lambda scene: _replace_by_array(scene, np.ones((24, 32), np.float32)),
        "instance_masks/1.npy",
        ONE_CHANNEL,
    ),
    "mask of three channels": Case(
        lambda scene: cv2.imwrite(str(scene / MASK), np.zeros((24, 32, 3), np.uint8)), str(MASK), ONE_CHANNEL
    ),
    "id out of range": Case(
        lambda scene: _replace_by_array(scene, np.full((24, 32), 65536, np.int32)),
        "instance_masks/1.npy",
        "renumber the instances from 1",
    ),
    "no masks": Case(
        lambda scene: shutil.rmtree(scene / "instance_masks"), "instance_masks", "put one PNG per image there"
    ),
    "masks of nothing but background": Case(_empty_masks, "instance_masks", "ids 1..65534 mark instances"),
    "masks whose names match no image": Case(
        _rename_masks, "instance_masks/mask_0.png", "name masks like their images"
    ),
    "one view": Case(
        lambda scene: _edit_transforms(scene, lambda meta: meta.update(frames=meta["frames"][:1])),
        "transforms.json",
        "needs at least 2, and 20 or more to be useful",
    ),
    "pose that is not a number": Case(
        lambda scene: _edit_transforms(scene, _nan_pose), "transforms.json", "repair or remove that frame"
    ),
}


def shown_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: InputError) -> str:
    """What a command prints that ends with this error: it must be one line."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_input_errors_as_one_line()
    capsys.readouterr()
    sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("name", CASES)
def test_bad_scene(
    name: str,
    scene: Path,
    tmp_path: Path,
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = CASES[name]
    case.spoil(scene)
    config = make_config(scene, tmp_path / "outputs")
    with pytest.raises(InputError) as caught:
        config.pipeline.datamanager.setup(device="cpu", test_mode="val")
    line = shown_line(monkeypatch, capsys, caught.value)
    assert str(scene / case.file) in line
    assert case.remedy in line


def test_frame_without_a_mask_is_allowed(scene: Path, tmp_path: Path, make_config: Callable[..., Any]) -> None:
    (scene / MASK).unlink()
    manager = make_config(scene, tmp_path).pipeline.datamanager.setup(device="cpu", test_mode="val")
    dataset = manager.train_dataset
    labels = {path.name: dataset[i]["instances"] for i, path in enumerate(dataset.image_filenames)}
    assert (labels.pop("1.png") == UNLABELLED).all()
    assert all((label >= 0).all() for label in labels.values())
    assert manager.next_train(0)[1]["instances"].shape == (256, 1)


def test_no_cuda_device(
    scene: Path,
    tmp_path: Path,
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = make_config(scene, tmp_path / "outputs")
    config.machine.device_type = "cuda"
    with pytest.raises(InputError) as caught:
        config.setup(local_rank=0, world_size=1)
    line = shown_line(monkeypatch, capsys, caught.value)
    assert "no CUDA device" in line
    assert "instance-nerfacto-cpu" in line
    assert "--machine.device-type cpu" in line


# One error of the trainer, one of the data manager, one of reading a mask. The others go the same way.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("instance-nerfacto", None),
        ("instance-nerfacto-cpu", "pose that is not a number"),
        ("instance-nerfacto-cpu", "truncated mask"),
    ],
)
def test_ns_train_ends_in_one_line(scene: Path, tmp_path: Path, method: str, name: str | None) -> None:
    if name is not None:
        CASES[name].spoil(scene)
    before = sorted(path for path in scene.rglob("*"))
    (tmp_path / "torch").mkdir()
    done = subprocess.run(
        [script("ns-train"), method, "--data", "scene", "--timestamp", "now", "--vis", "tensorboard"],
        cwd=tmp_path,
        env=environment(tmp_path / "torch"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "rror" not in done.stdout
    assert len([line for line in done.stderr.splitlines() if "rror" in line]) == 1
    last = done.stderr.splitlines()[-1]
    expected = "no CUDA device" if name is None else CASES[name].file
    assert last.startswith("error: ")
    assert expected in last
    # nerfstudio writes down the options before it reads the scene. Nothing else of the run is there.
    assert [path.name for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == ["config.yml"]
    assert sorted(path for path in scene.rglob("*")) == before
