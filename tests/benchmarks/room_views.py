"""Views of generated rooms with true instances, and random crops of them to learn from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from instance_nerfstudio.masks.instance_masks import find_instance_masks, read_instance_mask
from instance_nerfstudio.segments.photos import Photo
from rcnn.safe_files import read_json

MIN_PIXELS = 12
"""Smaller pieces of objects are not to be found."""
Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Picture (H, W, 3) uint8, instances (H, W) int32, label of every instance (K + 1,)."""


class Truth(NamedTuple):
    """What is to be found in pictures of one size. Object k of a picture has number k + 1 in its map."""

    ids: Integer[Tensor, "pictures height width"]
    boxes: Float[Tensor, "pictures most 4"]
    """Corners (x, y), (x, y) in pixels. Those that pad have an area too."""
    labels: Int64[Tensor, "pictures most"]
    """From 1 on; 0 pads."""


class RoomViews:
    """All views of rooms with true instances.

    Args:
        folders: rooms, or folders of rooms.
        label: of every class that is to be found, from 1 on.
        per_room: so many views of each room, evenly spaced; all when None.
    """

    def __init__(self, folders: Sequence[Path], label: Mapping[str, int], per_room: int | None = None) -> None:
        rooms = [room for folder in folders for room in _rooms(folder)]
        if not rooms:
            raise SystemExit(f"no rooms in {', '.join(str(folder) for folder in folders) or 'no folder'}; give --rooms")
        self._views: list[tuple[Path, Path, np.ndarray]] = []
        for room in rooms:
            photos = sorted(room / frame["file_path"] for frame in read_json(room / "transforms.json")["frames"])
            known = {
                info["id"]: label.get(info["category"], 0) for info in read_json(room / "instances.json")["instances"]
            }
            labels = np.array([known.get(i, 0) for i in range(max(known, default=0) + 1)], np.int64)
            pairs = [(p, m) for p, m in zip(photos, find_instance_masks(photos, room), strict=True) if m is not None]
            count = min(per_room or len(pairs), len(pairs))
            chosen = np.linspace(0, len(pairs) - 1, count).round().astype(int)
            self._views += [(*pairs[i], labels) for i in chosen]

    def __len__(self) -> int:
        return len(self._views)

    def read(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8, instances (H, W) int32, label of every instance."""
        photo, mask, labels = self._views[place]
        return Photo(photo, photo.name).rgb(), read_instance_mask(mask), labels


class Crops(Dataset[Sample]):
    """Random views, each scaled, cropped or padded to one size. Sample i is the same whenever it is asked for.

    Args:
        views: to choose from.
        size: height and width of the samples.
        seed: of everything random.
        first, last: the samples.
        augment: also mirror them, change their size and their colours, and blur them.
    """

    def __init__(
        self, views: RoomViews, size: tuple[int, int], seed: int, first: int, last: int, augment: bool
    ) -> None:
        self._views, self._size, self._seed, self._augment = views, size, seed, augment
        self._first, self._last = first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)
        number = self._first + index
        epoch, place = divmod(number, len(self._views))
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._views))
        picture, ids, labels = self._views.read(int(order[place]))
        rng = np.random.default_rng((self._seed, 1, number))
        height, width = self._size
        scale = max(height / picture.shape[0], width / picture.shape[1])
        if self._augment:
            scale *= np.exp(rng.uniform(np.log(0.7), np.log(1.8)))
            picture = _recolour(picture, rng)
        left, top = (rng.uniform() if self._augment else 0.5 for _ in range(2))
        x, y = left * (width - picture.shape[1] * scale), top * (height - picture.shape[0] * scale)
        # Pixel centres: (i + 0.5) · scale + offset.
        matrix = np.array([[scale, 0, x + 0.5 * scale - 0.5], [0, scale, y + 0.5 * scale - 0.5]])
        if self._augment and rng.uniform() < 0.5:
            matrix[0] = [-matrix[0, 0], 0, width - 1 - matrix[0, 2]]
        picture = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
        ids = cv2.warpAffine(ids.astype(np.int16), matrix, (width, height), flags=cv2.INTER_NEAREST).astype(np.int32)
        return torch.from_numpy(picture), torch.from_numpy(ids), torch.from_numpy(labels)


def find_objects(
    ids: np.ndarray, labels: np.ndarray
) -> tuple[Int64[np.ndarray, "K"], Float[np.ndarray, "K 4"], Int64[np.ndarray, "K"]]:
    """Numbers, boxes and labels of what is to be found in a view of instances (H, W) with a label each."""
    counts = np.bincount(ids.clip(0).ravel(), minlength=len(labels))
    numbers = np.flatnonzero((counts >= MIN_PIXELS) & (labels > 0))
    places = ndimage.find_objects(ids)
    corners = [[x.start, y.start, x.stop, y.stop] for y, x in (places[number - 1] for number in numbers)]
    return numbers, np.array(corners, np.float32).reshape(-1, 4), labels[numbers]


def collate(samples: Sequence[Sample]) -> tuple[UInt8[Tensor, "pictures height width 3"], Truth]:
    """A batch: pictures, and what is to be found in them."""
    views = [(ids.numpy(), *find_objects(ids.numpy(), labels.numpy())) for _, ids, labels in samples]
    most = max(1, *(len(numbers) for _, numbers, _, _ in views))
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(views), most, 1))
    labels = np.zeros((len(views), most), np.int64)
    maps = np.zeros((len(views), *views[0][0].shape), np.int16)
    for row, (ids, numbers, corners, kinds) in enumerate(views):
        boxes[row, : len(numbers)], labels[row, : len(numbers)] = corners, kinds
        new = np.zeros(max(int(ids.max(initial=0)), 0) + 1, np.int16)
        new[numbers] = np.arange(1, len(numbers) + 1)
        maps[row] = new[ids.clip(0)]
    pictures = torch.stack([picture for picture, _, _ in samples])
    return pictures, Truth(*(torch.from_numpy(part) for part in (maps, boxes, labels)))


def _recolour(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast, white balance, saturation, noise, and blur of another camera."""
    value = picture.astype(np.float32) / 255
    value = value ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    grey = value.mean(2, keepdims=True)
    value = grey + (value - grey) * np.float32(np.exp(rng.normal(0, 0.25)))
    if rng.uniform() < 0.3:
        value = cv2.GaussianBlur(value, (0, 0), rng.uniform(0.3, 1.2))
    value += rng.normal(0, rng.uniform(0, 0.02), value.shape).astype(np.float32)
    return (value.clip(0, 1) * 255).round().astype(np.uint8)


def _rooms(folder: Path) -> Iterator[Path]:
    if (folder / "transforms.json").is_file():
        yield folder
    else:
        yield from sorted(p.parent for p in folder.glob("*/transforms.json") if not p.parent.name.startswith("."))
