"""Instance maps on disk: round trips, every kind of bad file, and which mask belongs to which image."""

import json
import math
import os
import struct
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks import instance_masks
from instance_nerfstudio.masks.instance_masks import (
    MAX_ID,
    InstanceInfo,
    find_instance_masks,
    find_instances_json,
    read_instance_mask,
    read_instances_json,
    resize_labels,
    write_instance_mask,
    write_instances_json,
)
from rcnn.instance_palette import colour_instances_uint8

IDS = np.array([[-1, 0, 1, 255], [256, 32767, 32768, MAX_ID]], dtype=np.int32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, rows: bytes, colour_type: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _npy_header(shape: tuple[int, ...], descr: str = "<i4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def _hdf5(path: Path, name: str, data: object) -> None:
    with h5py.File(path, "w") as file:
        file[name] = data


def _error(call, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message, "no remedy"
    return message


# Reading and writing


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "0001.png"
    write_instance_mask(path, IDS)
    ids = read_instance_mask(path)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, IDS)
    assert [file.name for file in path.parent.iterdir()] == ["0001.png"]
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.dtype == np.uint16
    assert stored[0, 0] == 65535


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32])
def test_round_trip_of_any_integer_type(tmp_path, dtype):
    ids = np.array([[0, 1, 5], [7, 100, 2]], dtype=dtype)
    for name in ("a.png", "a.npy", "a.h5", "a.hdf5"):
        path = tmp_path / name
        if name == "a.png":
            write_instance_mask(path, ids)
        elif name == "a.npy":
            np.save(path, ids)
        else:
            _hdf5(path, "cp_instance_id_segmaps", ids)
        read = read_instance_mask(path)
        assert read.dtype == np.int32
        assert np.array_equal(read, ids)


def test_unlabelled_values(tmp_path):
    np.save(tmp_path / "signed.npy", np.array([[-1, 0, 3]], dtype=np.int64))
    np.save(tmp_path / "unsigned.npy", np.array([[65535, 0, 3]], dtype=np.uint16))
    np.save(tmp_path / "swapped.npy", np.array([[65535, 0, 3]], dtype=">u2"))
    _hdf5(tmp_path / "unsigned.h5", "cp_instance_id_segmaps", np.array([[65535, 0, 3]], dtype=np.uint16))
    for path in tmp_path.iterdir():
        assert read_instance_mask(path).tolist() == [[-1, 0, 3]]
    np.save(tmp_path / "all.npy", np.full((2, 2), 65535, dtype=np.uint16))
    assert read_instance_mask(tmp_path / "all.npy").tolist() == [[-1, -1], [-1, -1]]
    # In 8 bits 255 is an instance like any other.
    cv2.imwrite(str(tmp_path / "eight.png"), np.array([[255, 0]], dtype=np.uint8))
    assert read_instance_mask(tmp_path / "eight.png").tolist() == [[255, 0]]


def test_palette_png_holds_its_indices(tmp_path):
    ids = np.array([[0, 1, 2], [7, 200, 255]], dtype=np.uint8)
    image = Image.fromarray(ids)
    image.putpalette([value for i in range(256) for value in (255 - i, 3, i)])
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert np.array_equal(read_instance_mask(tmp_path / "a.png"), ids)


@pytest.mark.parametrize(
    ("depth", "row", "ids"), [(1, b"\x60", [0, 1, 1, 0]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])]
)
def test_narrow_png_holds_its_samples(tmp_path, depth, row, ids):
    (tmp_path / "a.png").write_bytes(_png(4, 1, depth, b"\x00" + row))
    assert read_instance_mask(tmp_path / "a.png").tolist() == [ids]


@pytest.mark.parametrize("suffix", [".png", ".npy", ".h5"])
def test_result_can_be_written_to(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        write_instance_mask(path, IDS)
    elif suffix == ".npy":
        np.save(path, IDS)
    else:
        _hdf5(path, "cp_instance_id_segmaps", IDS)
    read_instance_mask(path)[:] = 0
    assert np.array_equal(read_instance_mask(path), IDS)


def _grey(path: Path) -> bytes:
    write_instance_mask(path, np.arange(4096).reshape(64, 64) % 977)
    return path.read_bytes()


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=array.dtype == object)


BAD_MASKS = {
    "missing": ("a.png", lambda path: None, "no such"),
    "a folder": ("a.png", lambda path: path.mkdir(), "no such"),
    "unknown format": ("a.tiff", lambda path: path.write_bytes(b"II*\0"), "unknown format"),
    "empty png": ("a.png", lambda path: path.write_bytes(b""), "not a PNG"),
    "jpeg named png": ("a.png", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(64)), "not a PNG"),
    "only a header": ("a.png", lambda path: path.write_bytes(_grey(path)[:40]), "cannot be read"),
    "truncated png": ("a.png", lambda path: path.write_bytes(_grey(path)[:-100]), "cannot be read"),
    "damaged png": (
        "a.png",
        lambda path: path.write_bytes((data := _grey(path))[:60] + bytes(40) + data[100:]),
        "cannot be read",
    ),
    "rgb png": ("a.png", lambda path: cv2.imwrite(str(path), np.zeros((2, 2, 3), np.uint8)), "3 channels"),
    "rgba png": ("a.png", lambda path: cv2.imwrite(str(path), np.zeros((2, 2, 4), np.uint8)), "4 channels"),
    "grey and alpha": ("a.png", lambda path: Image.new("LA", (2, 2)).save(path), "2 channels"),
    "16-bit rgb": ("a.png", lambda path: cv2.imwrite(str(path), np.zeros((2, 2, 3), np.uint16)), "3 channels"),
    "png bomb": ("a.png", lambda path: path.write_bytes(_png(2**16, 2**15, 1, b"")), "65536x32768"),
    "png without size": ("a.png", lambda path: path.write_bytes(_png(0, 5, 8, b"")), "0x5"),
    "float npy": ("a.npy", lambda path: _save(path, np.zeros((2, 2))), "float64"),
    "complex npy": ("a.npy", lambda path: _save(path, np.zeros((2, 2), complex)), "complex128"),
    "text npy": ("a.npy", lambda path: _save(path, np.array([["a"]])), "<U1"),
    "object npy": ("a.npy", lambda path: _save(path, np.array([[1, None]], dtype=object)), "pickled"),
    "pickle named npy": ("a.npy", lambda path: path.write_bytes(b"\x80\x04\x95" + bytes(90)), "pickles are refused"),
    "npz named npy": ("a.npy", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(90)), "not a plain .npy"),
    "flat npy": ("a.npy", lambda path: _save(path, np.zeros(4, int)), r"(4,)"),
    "scalar npy": ("a.npy", lambda path: _save(path, np.array(3)), "()"),
    "rgb npy": ("a.npy", lambda path: _save(path, np.zeros((2, 2, 3), int)), "3 channels"),
    "one channel too many": ("a.npy", lambda path: _save(path, np.zeros((2, 2, 1), int)), "1 channels"),
    "empty npy": ("a.npy", lambda path: _save(path, np.zeros((0, 4), int)), "a.npy"),
    "truncated npy": ("a.npy", lambda path: path.write_bytes(_npy_header((8, 8)) + bytes(99)), "cannot be read"),
    "npy bomb": ("a.npy", lambda path: path.write_bytes(_npy_header((2**20, 2**20))), "a.npy"),
    "damaged npy header": ("a.npy", lambda path: path.write_bytes(_npy_header((8, 8))[:30]), "cannot be read"),
    "ids too large": ("a.npy", lambda path: _save(path, np.array([[0, 65535]], np.int32)), "0..65535"),
    "ids too large, unsigned": ("a.npy", lambda path: _save(path, np.array([[2**32 - 1]], np.uint32)), "4294967295"),
    "ids too small": ("a.npy", lambda path: _save(path, np.array([[-2, 4]])), "-2..4"),
    "not an hdf5": ("a.hdf5", lambda path: path.write_bytes(b"nothing"), "cannot be read"),
    "hdf5 without the dataset": ("a.h5", lambda path: _hdf5(path, "masks", np.zeros((2, 2), int)), "masks"),
    "hdf5 with a group instead": (
        "a.h5",
        lambda path: _hdf5(path, "cp_instance_id_segmaps/a", np.zeros((2, 2), int)),
        "no dataset",
    ),
    "hdf5 of floats": ("a.h5", lambda path: _hdf5(path, "cp_instance_id_segmaps", np.zeros((2, 2))), "float64"),
    "hdf5 of rgb": (
        "a.h5",
        lambda path: _hdf5(path, "cp_instance_id_segmaps", np.zeros((2, 2, 3), np.uint8)),
        "3 channels",
    ),
    "hdf5 of text": ("a.h5", lambda path: _hdf5(path, "cp_instance_id_segmaps", "text"), "not integers"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks(tmp_path, name):
    file, make, expected = BAD_MASKS[name]
    path = tmp_path / file
    make(path)
    message = _error(read_instance_mask, path)
    assert str(path) in message
    assert expected in message


def test_pickles_are_not_run(tmp_path):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    np.save(tmp_path / "a.npy", np.array([[Canary()]], dtype=object), allow_pickle=True)
    _error(read_instance_mask, tmp_path / "a.npy")
    assert not (tmp_path / "canary").exists()


def test_bomb_in_hdf5_is_not_unpacked(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("cp_instance_id_segmaps", (2**16, 2**16), "i4", chunks=(1024, 1024), compression="gzip")
    assert "65536x65536" in _error(read_instance_mask, tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([[0, MAX_ID + 1]]), "65535"),
        (np.array([[0, -2]]), "-2"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2, 1), int), "1 channels"),
        (np.zeros(3, int), "(3,)"),
        (np.zeros((0, 3), int), "3x0"),
    ],
)
def test_write_refuses(tmp_path, ids, expected):
    assert expected in _error(write_instance_mask, tmp_path / "a.png", ids)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_other_suffixes(tmp_path):
    assert "a.npy" in _error(write_instance_mask, tmp_path / "a.npy", IDS)


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    mask, info = tmp_path / "a.png", tmp_path / "instances.json"
    write_instance_mask(mask, IDS)
    write_instances_json(info, [InstanceInfo(1)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                write_instance_mask(mask, IDS[::-1])
            with pytest.raises(KeyboardInterrupt):
                write_instances_json(info, [InstanceInfo(2)])
            with pytest.raises(KeyboardInterrupt):
                write_instance_mask(tmp_path / "b.png", IDS)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    write_instance_mask(tmp_path / "a.png", IDS)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


# Resizing


def test_resize_takes_the_pixel_under_the_centre():
    ids = np.arange(16, dtype=np.int32).reshape(4, 4)
    assert resize_labels(ids, 2, 2).tolist() == [[5, 7], [13, 15]]
    assert np.array_equal(resize_labels(ids, 4, 4), ids)
    assert np.array_equal(resize_labels(ids, 8, 8), ids.repeat(2, 0).repeat(2, 1))
    # 3 -> 2: centres at 0.75 and 2.25; 2 -> 3: at 1/3, 1, 5/3.
    row = np.array([[10, 11, 12]] * 3)
    assert resize_labels(row, 2, 2)[0].tolist() == [10, 12]
    assert resize_labels(np.array([[1, 2]] * 2), 3, 3)[0].tolist() == [1, 2, 2]


@pytest.mark.parametrize("size", [(135, 239), (33, 59), (271, 479), (2174, 3838)])
def test_resize_follows_the_formula_and_invents_nothing(size):
    ids = np.random.default_rng(0).choice([-1, 0, 5, 40000], (1087, 1919)).astype(np.int32)
    small = resize_labels(ids, *size)
    assert small.dtype == ids.dtype
    assert small.shape == size
    for i, j in ((0, 0), (size[0] // 3, size[1] // 2), (size[0] - 1, size[1] - 1)):
        row, column = math.floor((i + 0.5) * 1087 / size[0]), math.floor((j + 0.5) * 1919 / size[1])
        assert small[i, j] == ids[row, column]
    assert set(np.unique(small)) <= {-1, 0, 5, 40000}


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1080, 1920), (1087, 1919), (1919, 1087), (999, 1001), (4032, 3024), (241, 37)])
def test_resize_accepts_every_rounding(size, factor):
    full = np.zeros(size, dtype=np.int32)
    for scaled in (
        [side // factor for side in size],
        [round(side / factor) for side in size],
        [math.ceil(side / factor) for side in size],
    ):
        assert resize_labels(full, *scaled).shape == (*scaled,)
        # The other way round: masks at a lower resolution than the photos.
        assert resize_labels(np.zeros(scaled, dtype=np.int32), *size).shape == size


@pytest.mark.parametrize("size", [(240, 320), (322, 240), (320, 242), (160, 122), (640, 486), (320, 320)])
def test_resize_refuses_a_mask_of_another_shape(size):
    message = _error(resize_labels, np.zeros((320, 240), dtype=np.int32), *size, source=Path("masks/x.png"))
    assert "masks/x.png" in message
    assert "240x320" in message
    assert f"{size[1]}x{size[0]}" in message


# Finding


@pytest.fixture
def scene(tmp_path):
    return _Scene(tmp_path / "scene")


class _Scene:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def images(self, *names: str) -> list[Path]:
        for name in names:
            self._touch(self.root / name)
        return [self.root / name for name in names]

    def masks(self, *names: str, folder: str = "instance_masks") -> list[Path]:
        for name in names:
            self._touch(self.root / folder / name)
        return [self.root / folder / name for name in names]

    def transforms(self, *frames: tuple[str, str | None] | str, name: str = "transforms.json") -> Path:
        pairs = [(frame, None) if isinstance(frame, str) else frame for frame in frames]
        content = [{"file_path": path} | ({"instance_mask_path": mask} if mask else {}) for path, mask in pairs]
        (self.root / name).write_text(json.dumps({"frames": content}))
        return self.root / name

    @staticmethod
    def _touch(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_by_stem(scene):
    images = scene.images("images/1.jpg", "images/2.png", "images/3.jpg", "images/4.jpg", "images/5.v2.jpg")
    masks = scene.masks("1.png", "2.npy", "3.hdf5", "4.h5", "5.v2.png")
    assert find_instance_masks(images, scene.root) == masks
    assert find_instance_masks(images[::-1], scene.root) == masks[::-1]


def test_find_leaves_images_without_a_mask_unlabelled(scene):
    images = scene.images("images/1.jpg", "images/10.jpg")
    masks = scene.masks("10.png")
    assert find_instance_masks(images, scene.root) == [None, *masks]


def test_masks_that_are_asked_for_win_over_those_that_transforms_name(scene):
    images = scene.images("images/1.jpg", "images/2.jpg")
    scene.transforms(("images/1.jpg", "instance_masks/1.png"), ("images/2.jpg", "instance_masks/2.png"))
    own, others = scene.masks("1.png", "2.png"), scene.masks("1.png", folder="others")
    assert find_instance_masks(images, scene.root) == own
    assert find_instance_masks(images, scene.root, scene.root / "others") == [*others, None]


def test_find_takes_no_hidden_or_foreign_file(scene):
    images = scene.images("images/1.jpg", "images/2.jpg")
    scene.masks(".1.png", "1.txt", "instances.json", "1.png.tmp")
    masks = scene.masks("2.PNG")
    assert find_instance_masks(images, scene.root) == [None, *masks]


def test_find_takes_hidden_files_for_no_masks(scene):
    images = scene.images("images/1.jpg")
    scene.masks("._1.png")
    assert "no instance masks" in _error(find_instance_masks, images, scene.root)


def test_find_in_subfolders(scene):
    images = scene.images("images/left/1.jpg", "images/right/1.jpg", "images/2.jpg")
    masks = scene.masks("left/1.png", "right/1.png", "2.png")
    assert find_instance_masks(images, scene.root) == masks


def test_find_prefers_the_longest_path(scene):
    images = scene.images("images/left/1.jpg", "images/2.jpg")
    scene.masks("1.png", "2.png")
    masks = scene.masks("left/1.png", "images/2.png")
    assert find_instance_masks(images, scene.root) == masks


def test_find_for_downscaled_images(scene):
    masks = scene.masks("1.png", "left/2.png")
    for transforms in (False, True):
        if transforms:
            scene.transforms("images/1.jpg", "images/left/2.jpg")
        images = scene.images("images_4/1.jpg", "images_4/left/2.jpg")
        assert find_instance_masks(images, scene.root) == masks


def test_find_for_downscaled_images_whose_subfolder_was_dropped(scene):
    scene.transforms("images/left/1.jpg", "images/right/2.jpg")
    masks = scene.masks("left/1.png", "right/2.png")
    images = scene.images("images_2/1.jpg", "images_2/2.jpg")
    assert find_instance_masks(images, scene.root) == masks


def test_numbered_folders_are_not_taken_for_downscaled_ones(scene):
    images = scene.images("cam_1/1.jpg", "cam_2/1.jpg")
    masks = scene.masks("cam_1/1.png", "cam_2/1.png")
    assert find_instance_masks(images, scene.root) == masks
    scene.transforms("cam_1/1.jpg", "cam_2/1.jpg")
    assert find_instance_masks(images, scene.root) == masks


def test_explicit_path_wins(scene):
    scene.masks("1.png", "2.png")
    other = scene.masks("a.npy", folder="other")
    transforms = scene.transforms(("./images/1.jpg", "other/a.npy"), "images/2.jpg")
    images = scene.images("images/1.jpg", "images/2.jpg")
    for data in (scene.root, transforms):
        assert find_instance_masks(images, data) == [*other, scene.root / "instance_masks/2.png"]
    downscaled = scene.images("images_2/2.jpg", "images_2/1.jpg")
    assert find_instance_masks(downscaled, transforms) == [scene.root / "instance_masks/2.png", *other]


def test_explicit_paths_need_no_folder(scene):
    masks = scene.masks("a.png", folder="elsewhere")
    transforms = scene.transforms(("images/1.jpg", str(masks[0])), "images/2.jpg", name="low.json")
    images = scene.images("images/1.jpg", "images/2.jpg")
    assert find_instance_masks(images, transforms) == [*masks, None]
    assert find_instance_masks(images[1:], transforms) == [None]


def test_explicit_paths_of_other_images_only(scene):
    scene.masks("a.png", folder="elsewhere")
    scene.transforms(("images/1.jpg", "elsewhere/a.png"))
    assert find_instance_masks(scene.images("photos/2.jpg"), scene.root) == [None]


def test_explicit_path_to_nothing(scene):
    scene.masks("1.png")
    scene.transforms(("images/1.jpg", "other/1.png"))
    message = _error(find_instance_masks, scene.images("images/1.jpg"), scene.root)
    assert "other/1.png" in message
    assert "images/1.jpg" in message


def test_relative_scene_path(scene, monkeypatch):
    scene.images("images/1.jpg")
    scene.masks("1.png")
    scene.transforms("images/1.jpg")
    monkeypatch.chdir(scene.root.parent)
    for images in ([Path("scene/images/1.jpg")], [scene.root / "images/1.jpg"]):
        (found,) = find_instance_masks(images, Path("scene"))
        assert found is not None
        assert found.samefile(scene.root / "instance_masks/1.png")


def test_other_folder_of_masks(scene):
    images = scene.images("images/1.jpg")
    scene.masks("1.png")
    masks = scene.masks("1.png", folder="lifted/round_2")
    assert find_instance_masks(images, scene.root, masks[0].parent) == masks
    assert "nowhere" in _error(find_instance_masks, images, scene.root, scene.root / "nowhere", required=False)


def test_images_outside_the_scene(scene, tmp_path):
    images = [tmp_path / "photos" / "left" / "1.jpg"]
    masks = scene.masks("left/1.png")
    assert find_instance_masks(images, scene.root) == masks


@pytest.mark.parametrize("with_transforms", [False, True])
def test_same_stem_in_two_folders(scene, with_transforms):
    images = scene.images("images/left/1.jpg", "images/right/1.jpg")
    scene.masks("1.png")
    if with_transforms:
        scene.transforms("images/left/1.jpg", "images/right/1.jpg")
    message = _error(find_instance_masks, images, scene.root)
    assert "left/1.jpg" in message
    assert "right/1.jpg" in message
    assert "instance_mask_path" in message
    # One of them being in the other split changes nothing.
    if with_transforms:
        _error(find_instance_masks, images[:1], scene.root)
        scene.transforms("images/left/1.jpg", ("images/right/1.jpg", "instance_masks/1.png"))
        assert find_instance_masks(images, scene.root) == [scene.root / "instance_masks/1.png"] * 2


def test_same_stem_with_two_suffixes(scene):
    scene.masks("1.png")
    _error(find_instance_masks, scene.images("images/1.jpg", "images/1.png"), scene.root)


def test_blender_scene(scene):
    for split in ("train", "test"):
        scene.transforms(f"./{split}/r_0", name=f"transforms_{split}.json")
    images = scene.images("train/r_0.png", "test/r_0.png")
    masks = scene.masks("r_0.png")
    for image in images:
        assert "r_0" in _error(find_instance_masks, [image], scene.root)
    masks[0].unlink()
    masks = scene.masks("train/r_0.png", "test/r_0.png")
    assert [find_instance_masks([image], scene.root)[0] for image in images] == masks


def test_two_masks_for_one_image(scene):
    scene.masks("1.png", "1.npy", "2.png")
    message = _error(find_instance_masks, scene.images("images/1.jpg", "images/2.jpg"), scene.root)
    assert "1.png" in message
    assert "1.npy" in message


def test_no_mask_of_these_images(scene):
    images = scene.images("images/frame_1.jpg", "images/frame_2.jpg")
    scene.masks("1.png", "2.png")
    for required in (True, False):
        message = _error(find_instance_masks, images, scene.root, required=required)
        assert "1.png" in message
        assert "frame_1.jpg" in message


@pytest.mark.parametrize("with_transforms", [False, True])
def test_only_the_other_split_has_masks(scene, with_transforms):
    images = scene.images("images/1.jpg", "images/2.jpg")
    scene.masks("1.png")
    if with_transforms:
        scene.transforms("images/1.jpg", "images/2.jpg")
    assert find_instance_masks(images[1:], scene.root) == [None]


@pytest.mark.parametrize("empty_folder", [False, True])
def test_no_masks_at_all(scene, empty_folder):
    images = scene.images("images/1.jpg", "images/2.jpg")
    if empty_folder:
        (scene.root / "instance_masks").mkdir()
    message = _error(find_instance_masks, images, scene.root)
    assert "no instance masks" in message
    assert str(scene.root / "instance_masks") in message
    assert find_instance_masks(images, scene.root, required=False) == [None, None]
    assert find_instance_masks([], scene.root, required=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"frames": 3}',
        '{"frames": [3]}',
        '{"frames": [{}]}',
        '{"frames": [{"file_path": "images/1.jpg", "instance_mask_path": 4}]}',
        "\udcff",
        "[" * 100_000,
    ],
)
def test_damaged_transforms(scene, text):
    images = scene.images("images/1.jpg")
    scene.masks("1.png")
    (scene.root / "transforms.json").write_text(text, errors="surrogateescape")
    assert "transforms.json" in _error(find_instance_masks, images, scene.root)


def test_missing_transforms(scene):
    assert "gone.json" in _error(find_instance_masks, scene.images("images/1.jpg"), scene.root / "gone.json")


# instances.json


def test_instances_round_trip(tmp_path):
    box = (0.0, 1.0, 2.0, 3.5, 4.0, 5.0)
    infos = [
        InstanceInfo(3, "chair", 0.75, (1, 2, 255), box, (*box, 0.5)),
        InstanceInfo(65534, box_world=None),
        InstanceInfo(1, "Stühle", 1.0, None, box),
    ]
    path = tmp_path / "new" / "instances.json"
    write_instances_json(path, infos, format_version=1)
    assert read_instances_json(path) == infos
    content = json.loads(path.read_text())
    assert content["format_version"] == 1
    assert list(content["instances"][0]) == ["id", "category", "score", "colour", "aabb", "obb"]
    assert list(content["instances"][1]) == ["id", "category", "score", "colour", "aabb"]
    write_instances_json(path, [])
    assert read_instances_json(path) == []


def test_instances_of_numpy_numbers(tmp_path):
    info = InstanceInfo(1)
    # What a detector's arrays hold, contrary to the annotations.
    vars(info).update(id=np.int32(1), score=np.float32(0.5), box_world=np.arange(6, dtype=np.float32))
    write_instances_json(tmp_path / "a.json", [info])
    assert read_instances_json(tmp_path / "a.json") == [
        InstanceInfo(1, score=0.5, box_world=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    ]


def test_instances_of_a_simulated_room(tmp_path):
    record = {"id": 2, "category": "table", "aabb": [2, 2, 0, 3, 3, 0.5], "obb": [2.9, 2.4, 0.2, 1, 0.7, 0.5, 3.14159]}
    content = {"kind": "living", "instances": [record | {"pixels": 281638, "asset": "a#b"}, {"id": 9}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    table, bare = read_instances_json(tmp_path / "a.json")
    assert table == InstanceInfo(
        2, "table", 1.0, None, tuple(map(float, record["aabb"])), tuple(map(float, record["obb"]))
    )
    assert table.colour == tuple(colour_instances_uint8(np.array([2]))[0])
    assert (bare.id, bare.category, bare.box_world, bare.obb_world) == (9, "object", None, None)


BAD_INSTANCES = {
    "no json": "{",
    "a list": "[]",
    "no instances": "{}",
    "instances no list": '{"instances": {"1": {}}}',
    "instance no object": '{"instances": [1]}',
    "no id": '{"instances": [{"category": "chair"}]}',
    "id of text": '{"instances": [{"id": "1"}]}',
    "id of bool": '{"instances": [{"id": true}]}',
    "fractional id": '{"instances": [{"id": 1.5}]}',
    "background id": '{"instances": [{"id": 0}]}',
    "negative id": '{"instances": [{"id": -1}]}',
    "large id": '{"instances": [{"id": 65535}]}',
    "id twice": '{"instances": [{"id": 4}, {"id": 5}, {"id": 4}]}',
    "category of number": '{"instances": [{"id": 1, "category": 3}]}',
    "score of text": '{"instances": [{"id": 1, "score": "high"}]}',
    "score not finite": '{"instances": [{"id": 1, "score": NaN}]}',
    "score huge": '{"instances": [{"id": 1, "score": 1' + "0" * 400 + "}]}",
    "short box": '{"instances": [{"id": 1, "aabb": [0, 0, 0, 1, 1]}]}',
    "box no list": '{"instances": [{"id": 1, "aabb": 6}]}',
    "box of text": '{"instances": [{"id": 1, "aabb": "000111"}]}',
    "box not finite": '{"instances": [{"id": 1, "aabb": [0, 0, 0, 1, 1, Infinity]}]}',
    "box inside out": '{"instances": [{"id": 1, "aabb": [0, 0, 2, 1, 1, 1]}]}',
    "long obb": '{"instances": [{"id": 1, "obb": [0, 0, 0, 1, 1, 1, 0, 0]}]}',
    "nested box": '{"instances": [{"id": 1, "aabb": [[0, 0, 0], [1, 1, 1]]}]}',
    "colour of two": '{"instances": [{"id": 1, "colour": [0, 0]}]}',
    "colour too bright": '{"instances": [{"id": 1, "colour": [0, 0, 256]}]}',
    "fractional colour": '{"instances": [{"id": 1, "colour": [0.5, 0, 0]}]}',
}


@pytest.mark.parametrize("name", BAD_INSTANCES)
def test_bad_instances(tmp_path, name):
    path = tmp_path / "instances.json"
    path.write_text(BAD_INSTANCES[name])
    assert str(path) in _error(read_instances_json, path)


def test_missing_instances(tmp_path):
    assert "gone.json" in _error(read_instances_json, tmp_path / "gone.json")


@pytest.mark.parametrize(
    "infos",
    [
        [InstanceInfo(0)],
        [InstanceInfo(MAX_ID + 1)],
        [InstanceInfo(2), InstanceInfo(2)],
        [InstanceInfo(1, score=math.nan)],
        [InstanceInfo(1, box_world=(0.0, 0.0, 0.0))],
    ],
)
def test_write_refuses_bad_instances(tmp_path, infos):
    _error(write_instances_json, tmp_path / "instances.json", infos)
    assert list(tmp_path.iterdir()) == []


def test_find_instances_json(scene):
    assert find_instances_json(scene.root) is None
    own = scene.root / "instances.json"
    own.touch()
    assert find_instances_json(scene.root) == own
    assert find_instances_json(scene.transforms()) == own
    masks = scene.root / "instance_masks"
    masks.mkdir()
    assert find_instances_json(scene.root, masks) == own
    (masks / "instances.json").touch()
    assert find_instances_json(scene.root) == masks / "instances.json"


def test_find_instances_json_of_other_masks(scene):
    (scene.root / "instances.json").touch()
    lifted = scene.root / "lifted"
    lifted.mkdir()
    assert find_instances_json(scene.root, lifted) is None
    (lifted / "instances.json").touch()
    assert find_instances_json(scene.root, lifted) == lifted / "instances.json"


def test_limits_agree():
    assert instance_masks.PNG_UNLABELLED == MAX_ID + 1 == np.iinfo(np.uint16).max
