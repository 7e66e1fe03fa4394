"""NeRF-RCNN learns two rooms, from nothing, from a NeRF-RPN and on given proposals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_rooms import TINY, TINY_HEADS, write_toy_rooms

from rcnn.data import GridDataset, SceneReadingConfig, find_scenes
from rcnn.detecting import detect, write_proposals
from rcnn.errors import InputError
from rcnn.roi_heads import NeRFRCNN, NeRFRCNNConfig
from rcnn.rpn import NeRFRPN
from rcnn.training import Experiment, OptimizationConfig, RCNNModule, RunConfig, train_rcnn
from rcnn.weights import DetectorNotes, initialize, load_detector, save_detector

FAST = OptimizationConfig(lr=3e-3, gradient_clip=1.0, warmup=0.1, ema_decay=0.9)
RUN = RunConfig(Path("unset"), steps=40, batch_size=2, accelerator="cpu", num_workers=0, validate_every=40, pictures=1)
CATEGORIES = ("block", "tower")
CONFIG = NeRFRCNNConfig(TINY, TINY_HEADS, CATEGORIES)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_rooms(tmp_path_factory.mktemp("toy"), train=2, val=2, stepped=True)


def _data(rooms: Path, split: str, **options: object) -> GridDataset:
    reading = SceneReadingConfig(cache=rooms / "cache")
    return GridDataset(find_scenes(rooms, split), reading, categories=CATEGORIES, masks=True, **options)  # type: ignore[arg-type]


def test_two_rooms_are_learnt_to_their_masks(rooms: Path, tmp_path: Path) -> None:
    run = replace(RUN, out=tmp_path / "run")
    # The validation rooms are those of training: what is asked is whether it can learn them.
    path = train_rcnn(
        run, Experiment(CONFIG, FAST, None), _data(rooms, "train"), _data(rooms, "val"), {"folder": "toy"}
    )
    model, notes = load_detector(path)
    assert isinstance(model, NeRFRCNN)
    assert notes.metrics["maskAP50"] >= 0.95
    assert notes.metrics["maskmAP50"] >= 0.95
    assert notes.metrics["AP50"] >= 0.95
    assert notes.config == CONFIG
    assert (notes.training["init"], notes.training["freeze"]) == (None, "none")


@pytest.mark.parametrize("freeze", ["head", "rpn"])
def test_what_is_frozen_stays(rooms: Path, tmp_path: Path, freeze: str) -> None:
    torch.manual_seed(0)
    rpn = NeRFRPN(TINY)
    save_detector(tmp_path / "rpn.safetensors", rpn.state_dict(), DetectorNotes(TINY))
    run = replace(RUN, out=tmp_path / "run", steps=2, validate_every=2)
    path = train_rcnn(
        run, Experiment(CONFIG, replace(FAST, ema_decay=0.0), None), _data(rooms, "train"), _data(rooms, "val"), {},
        tmp_path / "rpn.safetensors", freeze,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = load_detector(path)[0].state_dict()
    moved = {name.split(".")[0] for name, w in rpn.state_dict().items() if not torch.equal(weights[f"rpn.{name}"], w)}
    assert moved == ({"backbone"} if freeze == "head" else set())


def test_given_proposals_are_learnt(rooms: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rpn = NeRFRPN(TINY).eval()
    for split in ("train", "val"):
        plain = GridDataset(find_scenes(rooms, split), SceneReadingConfig(cache=rooms / "cache"))
        for found in detect(rpn, plain, torch.device("cpu")):  # type: ignore[arg-type]
            x, y, z = found.scene.features.shape[1:]
            assert found.scene.frame is not None
            path = tmp_path / split / f"{found.scene.name}.npz"
            write_proposals(path, found.proposals.top(9), found.scene.frame, (x, y, z))
    scenes = _data(rooms, "train", proposals=tmp_path / "train")
    assert scenes[0].proposals is not None
    assert len(scenes[0].proposals) == 9
    run = replace(RUN, out=tmp_path / "run", steps=1, validate_every=1)
    validation = _data(rooms, "val", proposals=tmp_path / "val")
    path = train_rcnn(run, Experiment(CONFIG, FAST, None), scenes, validation, {})
    assert load_detector(path)[1].training["freeze"] == "head", "which nothing would teach"
    with pytest.raises(InputError, match=r"room_0000\.npz: no such file"):
        _data(rooms, "train", proposals=tmp_path / "nowhere")


def test_other_classes_are_learnt_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "first.safetensors"
    model = NeRFRCNN(CONFIG)
    save_detector(path, model.state_dict(), DetectorNotes(CONFIG), torch.float16)
    other = NeRFRCNN(replace(CONFIG, categories=("lamp", "bed")))
    left = initialize(other, path)
    assert {name.rsplit(".", 1)[0] for name in left} == {"heads.box.logits", "heads.box.deltas", "heads.mask.logits"}
    torch.testing.assert_close(other.heads.box.fc1.weight, model.heads.box.fc1.weight, atol=1e-3, rtol=1e-3)
    assert initialize(NeRFRCNN(CONFIG), path) == []
    with pytest.raises(InputError, match="of another architecture"):
        initialize(NeRFRCNN(replace(CONFIG, rpn=replace(TINY, rotated=True))), path)


def test_a_run_that_is_stopped_says_where_it_goes_on(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = RCNNModule.training_step

    def interrupted(self: RCNNModule, *arguments: object) -> torch.Tensor:
        if self.global_step == 3:
            raise KeyboardInterrupt
        return learn(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RCNNModule, "training_step", interrupted)
    run = replace(RUN, out=tmp_path / "run", checkpoint_every=2)
    experiment = Experiment(CONFIG, FAST, None)
    with pytest.raises(SystemExit, match="stopped at step 3; the same command goes on from step 2"):
        train_rcnn(run, experiment, _data(rooms, "train"), _data(rooms, "val"), {})
