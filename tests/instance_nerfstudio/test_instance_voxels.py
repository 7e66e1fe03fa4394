"""Points drawn from a detector's masks: where they lie, what they are called, and which files are refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_voxels import InstanceVoxels

SHAPE = (3, 4, 5)
BBOX_MIN, BBOX_MAX = np.array([-1.0, 2.0, 0.5]), np.array([0.5, 3.0, 4.5])
SCALE = 0.37


def _transform() -> torch.Tensor:
    a, b = 0.7, -0.4
    about_z = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = torch.tensor([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return torch.cat([about_z @ about_x, torch.tensor([[0.3], [-2.0], [1.1]])], dim=1)


TRANSFORM = _transform()


def detections(**changes: Any) -> dict[str, Any]:
    masks = np.zeros((1, *SHAPE), dtype=bool)
    masks[0, 2, 1, 3] = True
    parts = {"masks": masks, "scores": np.ones(len(masks)), "bbox_min": BBOX_MIN, "bbox_max": BBOX_MAX, **changes}
    return {key: value for key, value in parts.items() if value is not None}


def load(folder: Path, **changes: Any) -> InstanceVoxels:
    np.savez_compressed(folder / "detections.npz", **detections(**changes))
    return InstanceVoxels(folder / "detections.npz", TRANSFORM, SCALE)


def to_world(points: torch.Tensor) -> torch.Tensor:
    return (points / SCALE - TRANSFORM[:, 3]) @ TRANSFORM[:, :3]


def test_points_fill_their_voxel(tmp_path):
    torch.manual_seed(0)
    points, labels = load(tmp_path).sample(2000)
    assert points.shape == (2000, 3)
    assert labels.shape == (2000,)
    assert labels.dtype == torch.int32
    assert (labels == 1).all()
    # Voxel (2, 1, 3) of a 3 x 4 x 5 grid between the two corners.
    low, high = torch.tensor([-0.0, 2.25, 2.9]), torch.tensor([0.5, 2.5, 3.7])
    place = (to_world(points) - low) / (high - low)
    assert place.min() > -1e-4
    assert place.max() < 1 + 1e-4
    assert (place.amin(0) < 0.05).all()
    assert (place.amax(0) > 0.95).all()
    torch.testing.assert_close(place.mean(0), torch.full((3,), 0.5), atol=0.03, rtol=0)


def test_voxels_keep_their_ids(tmp_path):
    masks = np.zeros((3, *SHAPE), dtype=bool)
    masks[0, 0, 0, 0] = masks[1, 1, 0, 0] = masks[2, 2, 0, 0] = True
    points, labels = load(tmp_path, masks=masks, scores=np.array([0.2, 0.9, 0.5])).sample(600)
    column = ((to_world(points)[:, 0] + 1.0) / 0.5).floor()
    assert torch.equal(labels, column.int() + 1)
    assert set(labels.tolist()) == {1, 2, 3}


@pytest.mark.parametrize(("scores", "winner"), [([0.9, 0.3], 1), ([0.3, 0.9], 2)])
def test_overlap_goes_to_the_higher_score(tmp_path, scores, winner):
    masks = np.zeros((2, *SHAPE), dtype=bool)
    masks[:, 1, 1, 1] = True
    voxels = load(tmp_path, masks=masks, scores=np.array(scores))
    assert voxels.indices.tolist() == [[1, 1, 1]]
    assert voxels.labels.tolist() == [winner]


def test_checkpoint_holds_no_voxels(tmp_path):
    assert not load(tmp_path).state_dict()


MASKS = detections()["masks"]
MALFORMED = {
    "no masks key": {"masks": None},
    "no scores key": {"scores": None},
    "no bbox_min key": {"bbox_min": None},
    "no bbox_max key": {"bbox_max": None},
    "masks of one instance without K": {"masks": MASKS[0]},
    "masks with channels": {"masks": MASKS[..., None]},
    "more scores than masks": {"scores": np.ones(2)},
    "a single number as scores": {"scores": np.array(1.0)},
    "corner of two numbers": {"bbox_min": BBOX_MIN[:2]},
    "swapped corners": {"bbox_min": BBOX_MAX, "bbox_max": BBOX_MIN},
    "flat box": {"bbox_max": np.array([0.5, 2.0, 4.5])},
    "NaN in a corner": {"bbox_min": np.array([np.nan, 2.0, 0.5])},
    "no voxel": {"masks": np.zeros_like(MASKS)},
    "no instance": {"masks": MASKS[:0], "scores": np.ones(0)},
    "pickled masks": {"masks": np.array([{"a": 1}], dtype=object)},
    "text as scores": {"scores": np.array(["high"])},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_contents(tmp_path, name):
    with pytest.raises(InputError, match=r"detections\.npz: ") as caught:
        load(tmp_path, **MALFORMED[name])
    assert "\n" not in str(caught.value)


def _truncated(path: Path) -> None:
    np.savez_compressed(path, **detections())
    path.write_bytes(path.read_bytes()[:-200])


def _damaged(path: Path) -> None:
    np.savez_compressed(path, **detections(masks=np.random.default_rng(0).random((4, 20, 20, 20)) > 0.5))
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, MASKS)


FILES = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a detector output"),
    "truncated": _truncated,
    "damaged": _damaged,
    "one array instead of an archive": _array,
}


@pytest.mark.parametrize("name", FILES)
def test_malformed_files(tmp_path, name):
    path = tmp_path / "detections.npz"
    FILES[name](path)
    with pytest.raises(InputError, match=r"detections\.npz: ") as caught:
        InstanceVoxels(path, TRANSFORM, SCALE)
    assert "\n" not in str(caught.value)
