"""Which scenes a split has, and where their files lie: folders of rooms, and the published data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from rcnn.errors import InputError
from rcnn.grids.find_grids import GRID_FILE, GRID_FOLDER, TRUTH_FILE
from rcnn.grids.npz import read_npz
from rcnn.grids.published import Layout, PublishedScene, listed_scenes
from rcnn.safe_files import read_json

BoxKind = Literal["aabb", "obb"]
DataLayout = Literal["rooms", "3dfront", "hypersim", "scannet", "general", "nerf-rcnn"]
"""`rooms` are folders with a density grid and its truth; the others are described in `rcnn.grids.published`."""


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene. That they exist is found out when they are opened."""

    name: str
    """Unique in its split."""
    grid: Path
    truth: Path | None = None
    """Of a room."""
    published: PublishedScene | None = None
    """Of a scene of a published data set."""

    @property
    def truth_file(self) -> Path:
        """The file to name when the truth is wrong."""
        if self.published is not None:
            return self.published.metadata or self.published.boxes or self.grid
        return self.truth or self.grid


def find_scenes(
    root: Path,
    split: str | None,
    layout: DataLayout = "rooms",
    boxes: BoxKind = "aabb",
    split_file: Path | None = None,
    grid_folder: str = GRID_FOLDER,
) -> list[SceneFiles]:
    """The scenes of a split, in the order of the split file, else by name. Nothing is opened but that file.

    Args:
        root: rooms: a folder with folders `train`, `val` and `test` of rooms, one with rooms and a split file, or
            one of rooms alone (with `split` None). `general`: the CSV file. Others: the data set's folder.
        split: `train`, `val` or `test`; None for all scenes.
        layout: of the data.
        boxes: which boxes are wanted; some data sets keep the two kinds in folders of their own.
        split_file: JSON (`{"train": [names], ...}`) or NPZ (arrays `train_scenes` or `train`, ...). When None, the
            one in `root`: `dataset_split.json` or `*_split.npz`.
        grid_folder: folder in a room that has the grid and its truth, as `instance-nerf fit-grids` and
            `nerf-rcnn rooms voxelize` write it.

    Raises:
        InputError: no such folder, split or split file, a damaged one, or a split without scenes.
    """
    if layout not in get_args(DataLayout):
        raise InputError(f"{root}: unknown layout {layout!r}; use one of {', '.join(get_args(DataLayout))}")
    if layout == "general":
        if split is not None:
            raise InputError(f"{root}: a CSV file is one split; give one file for each split")
        listed = [SceneFiles(scene.name, scene.grid, published=scene) for scene in listed_scenes(root)]
        return _checked(listed, root, "its table")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check the path")
    if layout == "rooms" and split is not None and split_file is None and (root / split).is_dir():
        root, split = root / split, None
    if split_file is None and split is not None:
        split_file = _split_file(root, layout)
    if split_file is None:
        return _checked(_all_scenes(root, layout, boxes, grid_folder), root, "the folder")
    if split is None:
        names = [name for listed in read_split(split_file).values() for name in listed]
        names = list(dict.fromkeys(names))
    else:
        names = _listed(split_file, split)
    if layout == "rooms":
        scenes = [_room(name, root / name, grid_folder) for name in names]
    else:
        scenes = [_published(root, name, layout, boxes) for name in names]
    return _checked(scenes, split_file, f"split {split}" if split else "the file")


def read_split(path: Path) -> dict[str, list[str]]:
    """The scene names of each split of a split file; names are paths inside the data's folder.

    Raises:
        InputError: no such file, a damaged one, or names that are none.
    """
    if path.suffix == ".npz":
        content = {name.removesuffix("_scenes"): array for name, array in read_npz(path).items()}
        if wrong := [name for name, array in content.items() if array.ndim != 1 or array.dtype.kind not in "USif"]:
            raise InputError(f"{path}: {wrong[0]} is no list of scene names; save a one-dimensional array of strings")
        listed = {name: [str(item) for item in array] for name, array in content.items() if array.dtype.kind in "US"}
        listed |= {name: [] for name, array in content.items() if array.size == 0}
    else:
        listed = read_json(path)
    for split, names in listed.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: {split} must be a list of scene names; correct it")
        for name in names:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
                raise InputError(f"{path}: {split} names {name!r}, which is no scene of this folder; correct it")
    return listed


def _listed(path: Path, split: str) -> list[str]:
    splits = read_split(path)
    if split not in splits:
        raise InputError(f"{path}: has no split {split!r}; it has {', '.join(splits) or 'none'}")
    return splits[split]


def _split_file(root: Path, layout: DataLayout) -> Path:
    found = sorted([*root.glob("*_split.npz"), *root.glob("dataset_split.json")])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{root}: has {len(found)} split files ({', '.join(f.name for f in found)}); name one of them")
    needed = "a folder for each split, or dataset_split.json" if layout == "rooms" else "*_split.npz"
    raise InputError(f"{root}: needs {needed}; check the path, or give a split file")


def _all_scenes(root: Path, layout: DataLayout, boxes: BoxKind, grid_folder: str) -> list[SceneFiles]:
    if layout != "rooms":
        return [_published(root, file.stem, layout, boxes) for file in sorted((root / "features").glob("*.npz"))]
    if (root / grid_folder).is_dir() or (root / GRID_FILE).is_file():
        return [_room(root.resolve().name, root, grid_folder)]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    # A room without its grid is a mistake to report, any other folder is none of ours.
    marks = (grid_folder, GRID_FILE, "transforms.json")
    return [_room(path.name, path, grid_folder) for path in folders if any((path / mark).exists() for mark in marks)]


def _room(name: str, room: Path, grid_folder: str) -> SceneFiles:
    folder = room if (room / GRID_FILE).is_file() else room / grid_folder
    truth = folder / TRUTH_FILE
    return SceneFiles(name, folder / GRID_FILE, truth if truth.is_file() else None)


def _published(root: Path, name: str, layout: Layout, boxes: BoxKind) -> SceneFiles:
    grid = root / "features" / f"{name}.npz"
    places = {"boxes": root / boxes / f"{name}.npy"}
    if layout == "nerf-rcnn":
        places = {"masks": root / "masks" / f"{name}.npy", "metadata": root / "metadata" / f"{name}.json"}
    found = {key: path for key, path in places.items() if path.is_file()}
    return SceneFiles(name, grid, published=PublishedScene(name, grid, **found))


def _checked(scenes: list[SceneFiles], source: Path, what: str) -> list[SceneFiles]:
    if not scenes:
        raise InputError(f"{source}: {what} has no scenes; check the path and the layout")
    names = [scene.name for scene in scenes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{source}: {what} has scene {twice!r} twice; names must differ")
    return scenes
