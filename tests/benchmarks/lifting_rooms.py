"""Rooms for the lifting benchmark: true masks and where pixels are, spoilt segments, spoilt detections."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage, sparse

from instance_nerfstudio.lift import InstanceGrid, ViewProjection
from instance_nerfstudio.masks.instance_masks import read_instance_mask
from instance_nerfstudio.masks.instances_json import read_instances_json
from instance_nerfstudio.segments.view_segments import ViewSegments
from rcnn.grids.npz import read_npz
from rcnn.rooms.seen_space import METRES


@dataclass(frozen=True)
class Corruption:
    """How segments are spoilt."""

    dropped: float = 0.2
    """Share of segments that are missing."""
    cut: float = 0.15
    """Share of segments that are cut in two."""
    joined: float = 0.1
    """Share of segments that are joined with one that they touch."""
    ragged: float = 1.5
    """Standard deviation of what borders are moved by, in pixels."""
    seed: int = 0


@dataclass(frozen=True)
class SpoiltDetector:
    """How the true objects become what a mediocre detector might find."""

    dropped: float = 0.25
    """Share of objects that it misses."""
    joined: float = 0.1
    """Share of objects that it takes for one with the nearest other."""
    moved: float = 1.0
    """Standard deviation of each mask's shift along each axis, in voxels."""
    grown: float = 0.5
    """Share of masks that are a voxel too large; as many are a voxel too small."""
    other_class: float = 0.1
    """Share of wrong classes."""


@dataclass(frozen=True)
class Room:
    """The training views of a room, in the order of the camera's path."""

    name: str
    truth: list[np.ndarray]
    """Ids of objects, 0 background."""
    voxels: list[np.ndarray]
    """The flat voxel that each pixel sees, by the depth map, -1 for none."""
    objects: InstanceGrid
    """The true objects; row k is object k + 1."""

    def project(self, grid: InstanceGrid) -> list[ViewProjection]:
        """A grid's instances in the views, by the depth maps."""
        owners = [np.where(seen >= 0, grid.ids.ravel()[np.maximum(seen, 0)], 0).ravel() for seen in self.voxels]
        shown = [np.bincount(self._owners(grid, np.unique(seen)), minlength=grid.count + 1) for seen in self.voxels]
        whole = np.bincount(self._owners(grid, np.unique(np.concatenate(self.voxels))), minlength=grid.count + 1)
        views = []
        for seen, owner, count in zip(self.voxels, owners, shown, strict=True):
            pixels = np.flatnonzero(owner)
            rows = (np.ones(len(pixels), np.float32), (owner[pixels] - 1, pixels))
            weights = sparse.csr_matrix(rows, shape=(grid.count, owner.size))
            visible = (count / np.maximum(whole, 1))[1:].astype(np.float32)
            height, width = seen.shape
            views.append(ViewProjection((height, width), weights, visible, seen))
        return views

    @staticmethod
    def _owners(grid: InstanceGrid, voxels: np.ndarray) -> np.ndarray:
        return grid.ids.ravel()[voxels[voxels >= 0]]


def read_room(folder: Path, depth_noise: float = 0.0) -> Room:
    """Reads a room of `nerf-rcnn rooms make`; depths can be made as wrong as a field's, by so many metres."""
    rng = np.random.default_rng(0)
    scene = json.loads((folder / "transforms.json").read_text())
    if not all("depth_file_path" in frame for frame in scene["frames"]):
        raise SystemExit(f"{folder}: has no depth maps; make rooms with nerf-rcnn rooms make")
    boxes = read_npz(folder / "gt_voxels.npz")
    infos = read_instances_json(folder / "instances.json")
    count = max(info.id for info in infos)
    names = {info.id: info.category for info in infos}
    categories = tuple(names.get(number, "object") for number in range(1, count + 1))
    low, high = boxes["bbox_min"].astype(float), boxes["bbox_max"].astype(float)
    # An object owns the voxels that its surface touches: those are what rays end in.
    ids = np.where(boxes["surface"] > 0, boxes["surface"], boxes["instances"]).astype(np.int32)
    objects = InstanceGrid(ids, low, high, categories, np.ones(count, np.float32))
    training = set(scene["train_filenames"])
    masks, voxels = [], []
    for frame in scene["frames"]:
        if frame["file_path"] not in training:
            continue
        depth = cv2.imread(str(folder / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED) * METRES
        noise = ndimage.gaussian_filter(rng.standard_normal(depth.shape), 2)
        depth = np.where(depth > 0, depth + depth_noise * noise / noise.std(), 0)
        x, y = np.meshgrid(np.arange(depth.shape[1]) + 0.5, np.arange(depth.shape[0]) + 0.5)
        rays = np.stack([(x - scene["cx"]) / scene["fl_x"], -(y - scene["cy"]) / scene["fl_y"], -np.ones_like(x)], -1)
        pose = np.array(frame["transform_matrix"])
        points = (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
        points = points.clip(low + 1e-6, high - 1e-6)  # millimetres beyond a wall are rounding
        voxels.append(np.where(depth > 0, objects.voxels_of(points), -1))
        masks.append(read_instance_mask(folder / frame["instance_mask_path"]))
    return Room(folder.name, masks, voxels, objects)


def spoil(ids: np.ndarray, corruption: Corruption, rng: np.random.Generator) -> np.ndarray:
    """One view's true mask as a poor segmenter might see it."""
    height, width = ids.shape
    noise = [ndimage.gaussian_filter(rng.standard_normal(ids.shape), 2) for _ in range(2)]
    rows, columns = np.indices(ids.shape)
    rows, columns = (
        np.rint(axis + corruption.ragged * n / n.std()).astype(int).clip(0, size - 1)
        for axis, n, size in zip((rows, columns), noise, (height, width), strict=True)
    )
    segments = ids[rows, columns]
    numbers = [number for number in np.unique(segments) if number > 0]
    for number in numbers:
        mask = segments == number
        if rng.random() < corruption.joined:
            around = segments[ndimage.binary_dilation(mask, iterations=2) & ~mask]
            around = around[around > 0]
            if len(around):
                segments[mask] = rng.choice(around)
                continue
        if rng.random() < corruption.cut:
            place = np.argwhere(mask)
            side = (place - place.mean(0)) @ rng.standard_normal(2) > 0
            segments[tuple(place[side].T)] = segments.max() + 1
    for number in np.unique(segments[segments > 0]):
        if rng.random() < corruption.dropped:
            segments[segments == number] = 0
    names = np.concatenate([[0], 1 + rng.permutation(int(segments.max(initial=0)))])
    return names[segments].astype(np.int32)


def name_segments_by_truth(segments: np.ndarray, truth: np.ndarray, categories: tuple[str, ...]) -> ViewSegments:
    """Segments with the classes of what they mostly show; scores say nothing."""
    count = int(segments.max(initial=0))
    shown = shared_pixels(segments, truth)[1:].argmax(1)
    names = tuple(categories[number - 1] if number > 0 else "object" for number in shown)
    return ViewSegments(segments, names, np.full(count, 0.9, np.float32))


def shared_pixels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels of each pair of ids, from 0 on."""
    table = np.zeros((int(one.max(initial=0)) + 1, int(other.max(initial=0)) + 1))
    labelled = (one >= 0) & (other >= 0)
    np.add.at(table, (one[labelled], other[labelled]), 1)
    return table


def spoil_objects(objects: InstanceGrid, spoilt: SpoiltDetector, rng: np.random.Generator) -> InstanceGrid:
    """The true objects as a mediocre detector might find them."""
    present = [int(number) for number in np.unique(objects.ids[objects.ids > 0])]
    centres = {number: np.argwhere(objects.ids == number).mean(0) for number in present}
    ids, categories = np.zeros_like(objects.ids), []
    gone: set[int] = set()
    for number in present:
        if number in gone or rng.random() < spoilt.dropped:
            continue
        mask = objects.ids == number
        if rng.random() < spoilt.joined:
            other = min((n for n in present if n != number), key=lambda n: np.abs(centres[n] - centres[number]).sum())
            mask |= objects.ids == other
            gone.add(other)
        shift = np.rint(spoilt.moved * rng.standard_normal(3)).astype(int)
        mask = ndimage.shift(mask.astype(np.uint8), shift, order=0) > 0
        chance = rng.random()
        if chance < spoilt.grown:
            mask = ndimage.binary_dilation(mask)
        elif chance > 1 - spoilt.grown and ndimage.binary_erosion(mask).sum() > 8:
            mask = ndimage.binary_erosion(mask)
        name = objects.categories[number - 1]
        categories.append(str(rng.choice(objects.categories)) if rng.random() < spoilt.other_class else name)
        ids[mask] = len(categories)
    scores = rng.uniform(0.6, 1.0, len(categories)).astype(np.float32)
    return InstanceGrid(ids, objects.bbox_min, objects.bbox_max, tuple(categories), scores)
