"""Labels beside each image, whatever size nerfstudio loads it at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_dataset import InstanceDataset
from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask


def load(scene: Path, scale: float = 1.0, with_masks: bool = True, **parser: Any) -> InstanceDataset:
    outputs = NerfstudioDataParserConfig(data=scene, **parser).setup().get_dataparser_outputs("train")
    names = [path.stem for path in outputs.image_filenames]
    masks = [scene / "instance_masks" / f"{name}.png" for name in names]
    return InstanceDataset(outputs, scale, masks if with_masks else None)


def test_labels_are_those_of_the_file(shared_scene):
    dataset = load(shared_scene)
    for i, image in enumerate(dataset.image_filenames):
        labels = dataset[i]["instances"]
        assert labels.shape == (24, 32, 1)
        assert labels.dtype == torch.int32
        stored = read_instance_mask(shared_scene / "instance_masks" / f"{image.stem}.png")
        assert np.array_equal(labels[..., 0], stored)
        assert set(labels.unique().tolist()) == {0, 1, 300}


def test_labels_of_downscaled_images_are_nearest_and_invent_nothing(scene):
    (scene / "images_2").mkdir()
    for path in (scene / "images").iterdir():
        Image.open(path).resize((16, 12)).save(scene / "images_2" / path.name)
    dataset = load(scene, downscale_factor=2)
    assert dataset.image_filenames[0].parent.name == "images_2"
    for i, image in enumerate(dataset.image_filenames):
        item = dataset[i]
        assert item["image"].shape == (12, 16, 3)
        stored = read_instance_mask(scene / "instance_masks" / image.name)
        assert np.array_equal(item["instances"][..., 0], stored[1::2, 1::2])
    assert dataset.scan_instance_ids() == [1, 300]


@pytest.mark.parametrize("scale", [0.5, 0.7])
def test_labels_follow_camera_res_scale_factor(shared_scene, scale):
    dataset = load(shared_scene, scale=scale)
    item = dataset[0]
    assert item["instances"].shape[:2] == item["image"].shape[:2] == (int(24 * scale), int(32 * scale))
    assert set(item["instances"].unique().tolist()) == {0, 1, 300}
    assert dataset.scan_instance_ids() == [1, 300]


def test_images_without_a_mask_are_unlabelled(shared_scene):
    assert (load(shared_scene, with_masks=False)[0]["instances"] == -1).all()
    dataset = load(shared_scene)
    dataset.mask_paths[1] = None
    assert (dataset[1]["instances"] == -1).all()
    assert (dataset[0]["instances"] >= 0).all()
    assert dataset.scan_instance_ids() == [1, 300]


def test_ids_of_all_masks_without_background_and_unlabelled(scene):
    write_instance_mask(scene / "instance_masks/1.png", np.where(np.arange(32) < 9, 65534, -1)[None].repeat(24, 0))
    write_instance_mask(scene / "instance_masks/2.png", np.where(np.arange(32) < 9, 40000, 0)[None].repeat(24, 0))
    assert load(scene).scan_instance_ids() == [1, 300, 40000, 65534]


@pytest.mark.parametrize("value", [0, -1])
def test_masks_without_an_instance(scene, value):
    for path in (scene / "instance_masks").iterdir():
        write_instance_mask(path, np.full((24, 32), value))
    with pytest.raises(InputError, match=r"instance_masks: .*background only") as caught:
        load(scene).scan_instance_ids()
    assert "\n" not in str(caught.value)


def test_mask_of_another_shape(scene):
    write_instance_mask(scene / "instance_masks/1.png", np.ones((24, 24), dtype=np.int32))
    dataset = load(scene)
    for read in (dataset.scan_instance_ids, lambda: dataset[1]):
        with pytest.raises(InputError, match=r"1\.png: mask is 24x24") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_model_learns_the_frame_of_the_scene(shared_scene):
    metadata = load(shared_scene).metadata
    assert metadata["dataparser_transform"].shape == (3, 4)
    assert metadata["dataparser_scale"] == pytest.approx(1 / 2.2, rel=0.2)


def test_labels_stay_on_the_cpu(shared_scene):
    assert {"image", "instances"} <= set(load(shared_scene).exclude_batch_keys_from_device)
