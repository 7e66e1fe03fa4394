"""Views of generated rooms with true instances, and random crops of them to learn from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from instance_nerfstudio.masks.instance_masks import find_instance_masks, read_instance_mask
from instance_nerfstudio.segments.photos import Photo
from rcnn.safe_files import read_json

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Picture (H, W, 3) uint8, instances (H, W) int32, label of every instance (K + 1,)."""


class RoomViews:
    """All views of rooms with true instances.

    Args:
        folders: rooms, or folders of rooms.
        names: classes, the first of which is label 1.
        per_room: so many views of each room, evenly spaced; all when None.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[str], per_room: int | None = None) -> None:
        rooms = [room for folder in folders for room in _rooms(folder)]
        if not rooms:
            raise SystemExit(f"no rooms in {', '.join(str(folder) for folder in folders) or 'no folder'}; give --rooms")
        label = {name: number for number, name in enumerate(names, 1)}
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
