"""Masks that another program made, in all formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_contract import SIZES, check

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from instance_nerfstudio.segments.segment import make_source, segment_images
from instance_nerfstudio.segments.segments_folder import read_segments
from instance_nerfstudio.segments.settings import SegmentConfig


def write_masks(folder: Path) -> dict[str, np.ndarray]:
    """In each format one."""
    maps = {}
    for n, size in enumerate(SIZES):
        maps[f"{n}.png"] = np.zeros(size, np.int32)
        maps[f"{n}.png"][10:30, 5:25], maps[f"{n}.png"][30:40, 30:45] = 9, 4
    folder.mkdir()
    write_instance_mask(folder / "0.png", maps["0.png"])
    np.save(folder / "1.npy", maps["1.png"])
    Image.fromarray(maps["2.png"].astype(np.uint8)).save(folder / "2.png")
    return maps


def test_folder(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    folder = segment_images(photos, tmp_path / "out", config)
    check(folder, photos)
    assert not folder.tracks
    for photo in photos:
        view = folder.view(photo)
        np.testing.assert_array_equal(view.ids, np.select([maps[photo.name] == 4, maps[photo.name] == 9], [1, 2], 0))
        assert view.categories == ("object", "object")
    # Masks that changed are read again.
    write_instance_mask(tmp_path / "masks" / "0.png", 1 * (maps["0.png"] == 9))
    assert segment_images(photos, tmp_path / "out", config).view(photos[0]).categories == ("object",)


def test_folder_with_instances_of_the_whole_scene(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    infos = [InstanceInfo(4, "curtain", 0.75), InstanceInfo(9, "sofa", 0.25)]
    write_instances_json(tmp_path / "masks" / "instances.json", infos)
    folder = segment_images(photos, tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    check(folder, photos)
    view = folder.view(photos[0])
    assert folder.tracks
    assert view.categories == ("", "", "", "curtain")  # the user's own names; the sofa is below --min-score
    np.testing.assert_array_equal(view.ids, np.select([maps["0.png"] == 4, maps["0.png"] == 9], [4, -1], 0))


def test_folder_with_segments_info(photos: list[Path], tmp_path: Path) -> None:
    """As the original Instance-NeRF's Mask2Former script writes them."""
    maps = write_masks(tmp_path / "masks")
    infos = [{"id": 4, "isthing": False, "category_id": 131}, {"id": 9, "isthing": True, "category_id": 57}]
    (tmp_path / "masks" / "0.json").write_text(json.dumps(infos))
    folder = segment_images(photos[:1], tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    view = folder.view(photos[0])
    assert view.categories == ("sofa",)
    np.testing.assert_array_equal(view.ids, np.select([maps["0.png"] == 4, maps["0.png"] == 9], [0, 1], -1))
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    (tmp_path / "masks" / "0.json").write_text(json.dumps(infos[:1]))
    with pytest.raises(InputError, match=r"0\.png: has segment 9, which 0\.json does not list"):
        segment_images(photos[:1], tmp_path / "out", config)
    (tmp_path / "masks" / "0.json").write_text("{}{")
    with pytest.raises(InputError, match=r"0\.json: is no list of"):
        segment_images(photos[:1], tmp_path / "out", config)


def test_folder_that_skips_photos_or_has_other_sizes(photos: list[Path], tmp_path: Path) -> None:
    maps = write_masks(tmp_path / "masks")
    (tmp_path / "masks" / "1.npy").unlink()
    config = SegmentConfig("folder", masks=tmp_path / "masks")
    folder = segment_images(photos, tmp_path / "out", config)
    assert [folder.is_skipped(photo) for photo in photos] == [False, True, False]
    assert (folder.view(photos[1]).ids == -1).all()
    assert folder.view(photos[1]).categories == ()
    write_instance_mask(tmp_path / "masks" / "1.png", maps["1.png"][::2, ::2])
    assert segment_images(photos, tmp_path / "out", config).view(photos[1]).ids.shape == SIZES[1]
    write_instance_mask(tmp_path / "masks" / "1.png", maps["1.png"][:, :40])
    with pytest.raises(
        InputError, match=r"1\.png: mask is 40x48 but its image is 64x48, .* write the mask at the size"
    ):
        segment_images(photos, tmp_path / "out", config)
    assert read_segments(tmp_path / "out").is_skipped(photos[1]) is False
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(mask.with_stem(f"frame{mask.stem}"))
    with pytest.raises(InputError, match="no mask here matches an image"):
        segment_images(photos, tmp_path / "out", config)
    with pytest.raises(InputError, match="needs --masks FOLDER"):
        make_source(SegmentConfig("folder"))
    with pytest.raises(InputError, match="gone: no such folder; check --masks"):
        make_source(SegmentConfig("folder", masks=tmp_path / "gone"))


def test_true_masks_of_the_scene_are_not_taken(photos: list[Path], tmp_path: Path) -> None:
    """transforms.json names true masks for training; the folder's own count."""
    write_instance_mask(tmp_path / "truth.png", np.ones(SIZES[0], np.int32))
    frames = [{"file_path": "images/0.png", "instance_mask_path": "truth.png"}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    maps = write_masks(tmp_path / "masks")
    folder = segment_images(photos[:1], tmp_path / "out", SegmentConfig("folder", masks=tmp_path / "masks"))
    np.testing.assert_array_equal(folder.view(photos[0]).ids > 0, maps["0.png"] > 0)
