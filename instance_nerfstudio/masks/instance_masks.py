"""Instance maps on disk: reading, writing, resizing, and finding the map that belongs to an image."""

import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Integer
from PIL import PngImagePlugin

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instances_json import (
    MASKS_FOLDER,
    MAX_ID,
    InstanceInfo,
    find_instances_json,
    read_instances_json,
    write_instances_json,
)
from rcnn.safe_files import read_json, write_atomically

__all__ = [
    "BACKGROUND",
    "MAX_ID",
    "PNG_UNLABELLED",
    "UNLABELLED",
    "InstanceInfo",
    "find_instance_masks",
    "find_instances_json",
    "read_instance_mask",
    "read_instances_json",
    "resize_labels",
    "write_instance_mask",
    "write_instances_json",
]

UNLABELLED = -1
BACKGROUND = 0
PNG_UNLABELLED = 65535

HDF5_DATASET = "cp_instance_id_segmaps"
SUFFIXES = (".png", ".npy", ".hdf5", ".h5")
# Stock transforms.json, and the three files of Blender scenes.
TRANSFORMS_FILES = ("transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json")
# 268 megapixels, 1 GiB as int32: a file of a few kilobytes can claim more.
MAX_PIXELS = 2**28

_DOWNSCALED = re.compile(r"(.+)_\d+")
_PNG_HEADER = struct.Struct(">8s4x4sIIBB")
_PNG_GREY = 0
_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}
_SAVE_AS = "save one integer id per pixel, 0 background, 1.. instances, as a 16-bit single-channel PNG"


def read_instance_mask(path: Path) -> Int32[np.ndarray, "height width"]:
    """Reads an instance map: -1 unlabelled, 0 background, 1..65534 instances.

    Formats: PNG with one channel of up to 16 bits or with a palette (its indices are the ids), `.npy`, and `.hdf5` or
    `.h5` with the dataset `cp_instance_id_segmaps`. 65535 means unlabelled in unsigned 16-bit data, -1 in signed data.

    Raises:
        InputError: no such file, damaged, not integers, not (H, W), ids out of range, or more than 2^28 pixels.
    """
    path = Path(path)
    readers = {".png": _read_png, ".npy": _read_npy, ".hdf5": _read_hdf5, ".h5": _read_hdf5}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown format of an instance mask; use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such instance mask; create it or remove its entry from the scene")
    try:
        ids = reader(path)
    except InputError:
        raise
    # Decoders answer damage with many exceptions (OSError, SyntaxError, zlib.error, struct.error, KeyError, ...).
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as an instance mask ({reason}); write it again") from error
    unlabelled = ids == PNG_UNLABELLED if ids.dtype.kind == "u" and ids.dtype.itemsize == 2 else None
    low, high = int(ids.min()), int(ids.max() if unlabelled is None else ids.max(where=~unlabelled, initial=0))
    if low < UNLABELLED or high > MAX_ID:
        raise InputError(f"{path}: ids span {low}..{high}, allowed are -1..{MAX_ID}; renumber the instances from 1")
    ids = ids.astype(np.int32)
    if unlabelled is not None:
        ids[unlabelled] = UNLABELLED
    return ids


def write_instance_mask(path: Path, ids: Integer[np.ndarray, "height width"]) -> None:
    """Writes a 16-bit PNG, whole or not at all; missing folders are created.

    Raises:
        InputError: `path` is no `.png`, `ids` are not integers of shape (H, W), or an id is outside -1..65534.
    """
    path, ids = Path(path), np.asarray(ids)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: instance masks are written as .png; change the suffix")
    _check_array(path, ids.shape, ids.dtype)
    if ids.min() < UNLABELLED or ids.max() > MAX_ID:
        raise InputError(f"{path}: ids span {ids.min()}..{ids.max()}, a mask holds -1..{MAX_ID}; renumber them from 1")
    data = ids.astype(np.int32)
    encoded, buffer = cv2.imencode(".png", np.where(data < 0, PNG_UNLABELLED, data).astype(np.uint16))
    if not encoded:
        raise InputError(f"{path}: a map of shape {ids.shape} cannot be encoded as PNG; write it in smaller parts")
    write_atomically(path, buffer.tobytes())


def resize_labels(
    ids: Integer[np.ndarray, "height_in width_in"], height: int, width: int, source: Path | str = "instance mask"
) -> Integer[np.ndarray, "height width"]:
    """Nearest neighbour with cell centres: pixel i of the result takes pixel floor((i + 0.5) · in / out).

    Args:
        ids: map at another resolution of the same image.
        height, width: size of the image in pixels.
        source: the mask's file, for the error.

    Raises:
        InputError: the aspect ratios differ by more than the rounding of one pixel, so the map is of another image.
    """
    height_in, width_in = ids.shape
    if (height_in, width_in) == (height, width):
        return ids
    # |h_in·w - h·w_in| over the longest side is the misfit, in pixels of the smaller map, of its shorter side.
    if abs(height_in * width - height * width_in) > max(height_in, width_in, height, width):
        raise InputError(
            f"{source}: mask is {width_in}x{height_in} but its image is {width}x{height}, a different shape; "
            "write the mask at the size of the image"
        )
    rows = (2 * np.arange(height) + 1) * height_in // (2 * height)
    columns = (2 * np.arange(width) + 1) * width_in // (2 * width)
    return ids[rows[:, None], columns]


def find_instance_masks(
    image_paths: Sequence[Path], data: Path, masks_dir: Path | None = None, required: bool = True
) -> list[Path | None]:
    """The instance mask of each image, by name, so that it works with every dataparser of nerfstudio.

    A frame's `instance_mask_path` in transforms.json (relative to that file) wins over the scene's own folder, but not
    over a folder that is given: these masks are asked for. For `images/left/x.jpg` it is the first of `images/left/x`,
    `left/x` and `x` in the folder, as .png, .npy, .hdf5 or .h5. Images that nerfstudio loads downscaled
    (`images_2/x.jpg`) take the mask of the original.

    Args:
        image_paths: the images as the dataparser loads them.
        data: the scene's folder or its transforms.json.
        masks_dir: folder of the masks; by default `instance_masks` in the scene's folder.
        required: whether a scene without any mask is an error.

    Returns:
        One path per image; None where an image has no mask, that is, is unlabelled.

    Raises:
        InputError: no masks at all; a named file or folder is missing; masks are there but none is of these images; two
            images would share a mask; two files could be the mask of one image; transforms.json is damaged.
    """
    scene, frames = _read_frames(Path(data))
    folder = scene / MASKS_FOLDER if masks_dir is None else Path(masks_dir)
    if masks_dir is not None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of instance masks; create it or leave the option out")
        frames = dict.fromkeys(frames)
    files = _list_masks(folder)
    if not files and not any(frames.values()):
        if required:
            raise InputError(
                f"{folder}: no instance masks; put one PNG per image there, named like the image, "
                "or name them by 'instance_mask_path' in transforms.json"
            )
        return [None] * len(image_paths)

    images = [Path(os.path.abspath(path)) for path in image_paths]
    matches = [_find_frame(image, frames) for image in images]
    origins = [image if frame is None else frame for image, frame in zip(images, matches, strict=True)]
    # The other split's images count too: nerfstudio asks for train and eval separately. Only when the frames are
    # evidently these images, or one image could pass for two.
    known = dict.fromkeys(origins if None in matches else [*origins, *frames])
    found: dict[Path, Path | None] = {}
    owners: dict[Path, Path] = {}
    for image in known:
        explicit, named = frames.get(image), None
        if explicit is None:
            named = _find_by_name(image, scene, files)
        found[image] = explicit or named
        other = image if named is None else owners.setdefault(named, image)
        if other != image:
            raise InputError(
                f"{named}: would be the mask of both {other} and {image}; "
                "put masks into subfolders named like the images' or name them by 'instance_mask_path'"
            )
    if images and files and not any(found.values()) and not _of_other_split(images, scene, files):
        example = next(iter(files.values()))[0]
        raise InputError(f"{example}: no mask here matches an image, e.g. {images[0]}; name masks like their images")
    for origin in origins:
        mask = found[origin]
        if mask is not None and not mask.is_file():
            raise InputError(f"{mask}: no such instance mask, named for {origin} by 'instance_mask_path'; correct it")
    return [found[origin] for origin in origins]


def _read_png(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header = file.read(_PNG_HEADER.size)
        if len(header) < _PNG_HEADER.size or header[:8] != b"\x89PNG\r\n\x1a\n":
            raise InputError(f"{path}: is not a PNG file or is empty; {_SAVE_AS}")
        _, _, width, height, depth, kind = _PNG_HEADER.unpack(header)
        if kind in _PNG_CHANNELS:
            raise InputError(f"{path}: has {_PNG_CHANNELS[kind]} channels, an instance mask has one; {_SAVE_AS}")
        _check_size(path, height, width)
        file.seek(0)
        # Not Image.open: its limit on pixels is a global setting, and ours above has taken its place.
        ids = np.asarray(PngImagePlugin.PngImageFile(file))
    # Pillow stretches grey of 2 and 4 bits to 0..255; the ids are the stored samples.
    stretch = {2: 85, 4: 17}.get(depth, 1) if kind == _PNG_GREY else 1
    _check_array(path, ids.shape, ids.dtype)
    return ids if stretch == 1 else ids // stretch


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{path}: is not a plain .npy file (pickles are refused); save it with numpy.save")
    try:
        # Maps the file, so that only the header is read before the checks.
        stored = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" in str(error):
            raise InputError(f"{path}: holds pickled Python objects, which are refused; {_SAVE_AS}") from error
        raise
    _check_array(path, stored.shape, stored.dtype)
    return np.array(stored)


def _read_hdf5(path: Path) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        stored = file.get(HDF5_DATASET)
        if not isinstance(stored, h5py.Dataset):
            raise InputError(f"{path}: has no dataset {HDF5_DATASET!r} but {sorted(file)[:5]}; store the ids there")
        _check_array(path, stored.shape, stored.dtype)
        return np.asarray(stored[()])


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind not in "iub":
        raise InputError(f"{path}: ids are of type {dtype}, not integers; {_SAVE_AS}")
    if len(shape) == 3:
        raise InputError(f"{path}: has shape {shape}, {shape[-1]} channels instead of one; {_SAVE_AS}")
    if len(shape) != 2:
        raise InputError(f"{path}: has shape {shape}, expected (height, width); {_SAVE_AS}")
    _check_size(path, *shape)


def _check_size(path: Path, height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(f"{path}: claims {width}x{height} pixels, allowed are 1 to {MAX_PIXELS}; write it again")


def _read_frames(data: Path) -> tuple[Path, dict[Path, Path | None]]:
    """The scene's folder, and each frame's image with its explicit mask, as far as transforms files list them."""
    if data.suffix == ".json":
        scene, files = data.parent, [data]
    else:
        scene = data.parent if data.is_file() else data
        files = [scene / name for name in TRANSFORMS_FILES if (scene / name).is_file()]
    frames: dict[Path, Path | None] = {}
    for file in files:
        listed = read_json(file).get("frames") or []
        if not isinstance(listed, list):
            raise InputError(f"{file}: 'frames' is no list; make the file again with ns-process-data")
        for frame in listed:
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise InputError(f"{file}: a frame has no 'file_path'; add the image's path to each frame")
            mask = frame.get("instance_mask_path")
            if mask is not None and not isinstance(mask, str):
                raise InputError(f"{file}: 'instance_mask_path' of {frame['file_path']} is no text; give a file's path")
            image = Path(os.path.abspath(scene / frame["file_path"]))
            frames[image] = None if mask is None else scene / mask
    return scene, frames


def _find_frame(image: Path, frames: dict[Path, Path | None]) -> Path | None:
    """The frame an image was loaded for: itself, without its suffix (Blender scenes), or downscaled."""
    for candidate in (image, image.with_suffix(""), *_undo_downscaling(image)):
        if candidate in frames:
            return candidate
    if _DOWNSCALED.fullmatch(image.parent.name):
        # nerfstudio drops subfolders when it downscales: images/left/x.jpg becomes images_2/x.jpg.
        same_name = [frame for frame in frames if frame.name == image.name]
        return same_name[0] if len(same_name) == 1 else None
    return None


def _undo_downscaling(path: Path) -> Iterator[Path]:
    """The path with the `_2` of one folder removed, for each folder that has such a suffix, innermost first."""
    parts = path.parts
    for place in range(len(parts) - 2, -1, -1):
        if match := _DOWNSCALED.fullmatch(parts[place]):
            yield Path(*parts[:place], match[1], *parts[place + 1 :])


def _find_by_name(image: Path, scene: Path, files: dict[str, list[Path]]) -> Path | None:
    root = Path(os.path.abspath(scene))
    name = image.relative_to(root) if image.is_relative_to(root) else image.relative_to(image.anchor)
    name = name.with_suffix("")
    # The longest matching tail of the path wins; at each length the folder as it is before the undownscaled one.
    for start in range(len(name.parts)):
        tail = Path(*name.parts[start:])
        for path in (tail, *_undo_downscaling(tail)):
            masks = files.get(path.as_posix(), [])
            if len(masks) > 1:
                raise InputError(f"{masks[0]}: {masks[1].name} is a mask of {image} too; keep one of them")
            if masks:
                return masks[0]
    return None


def _list_masks(folder: Path) -> dict[str, list[Path]]:
    """Masks by their path in the folder without suffix; hidden files (unfinished or of the system) left out."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            files[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(files)


def _of_other_split(images: list[Path], scene: Path, files: dict[str, list[Path]]) -> bool:
    """Whether masks match files beside the images: then only this part of the images is without masks."""
    folders = {image.parent for image in images if image.parent.is_dir()}
    return any(_find_by_name(path, scene, files) is not None for folder in folders for path in folder.iterdir())
