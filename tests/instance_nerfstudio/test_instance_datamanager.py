"""From a scene on disk to batches with labels, and what is said of scenes that can't be trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_datamanager import InstanceDataManager, InstanceDataManagerConfig
from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask


def load(scene: Path, test_mode: str = "val", **options: Any) -> InstanceDataManager:
    options = {"data": scene, "dataparser": NerfstudioDataParserConfig(), **options}
    config = InstanceDataManagerConfig(train_num_rays_per_batch=64, eval_num_rays_per_batch=64, **options)
    return config.setup(device="cpu", test_mode=test_mode)


def check_labels(scene: Path, manager: InstanceDataManager) -> None:
    """The labels of a batch are those of its pixels in the mask files."""
    for following, dataset in (
        (manager.next_train, manager.train_dataset),
        (manager.next_eval, manager.eval_dataset),
    ):
        rays, batch = following(0)
        assert rays.origins.shape == (64, 3)
        assert batch["instances"].dtype == torch.int32
        assert batch["instances"].shape == (64, 1)
        for label, (camera, row, column) in zip(batch["instances"], batch["indices"].tolist(), strict=True):
            mask = read_instance_mask(scene / "instance_masks" / dataset.image_filenames[camera].name)
            assert label == mask[row, column]


def test_labels_in_batches(shared_scene):
    manager = load(shared_scene)
    check_labels(shared_scene, manager)
    assert len(manager.train_dataset) == 4
    assert len(manager.eval_dataset) == 2
    assert manager.train_dataset.metadata["instance_ids"].tolist() == [0, 1, 300]
    assert [info.category for info in manager.instances] == ["ball", "globe"]


def test_labels_of_images_of_different_sizes(tmp_path, write_scene):
    scene = write_scene(tmp_path / "scene", sizes=[(32, 24), (24, 32), (48, 24), (20, 20), (32, 24), (24, 24)])
    check_labels(scene, load(scene))


def test_data_may_be_transforms_json(shared_scene):
    check_labels(shared_scene, load(shared_scene / "transforms.json"))


def test_data_may_be_given_to_the_dataparser(scene):
    manager = load(scene, data=None, dataparser=NerfstudioDataParserConfig(data=scene))
    check_labels(scene, manager)
    shutil.rmtree(scene / "images")
    (scene / "transforms.json").write_text("{")
    with pytest.raises(InputError, match=r"transforms\.json: "):
        load(scene, data=None, dataparser=NerfstudioDataParserConfig(data=scene))


def test_frame_without_a_mask_is_unlabelled(scene):
    (scene / "instance_masks/2.png").unlink()
    dataset = load(scene).train_dataset
    unlabelled = [bool((dataset[i]["instances"] == -1).all()) for i in range(4)]
    assert unlabelled == [False, False, True, False]


def test_masks_of_held_out_views_may_be_missing(scene):
    for name in ("4.png", "5.png"):
        (scene / "instance_masks" / name).unlink()
    _, batch = load(scene).next_eval(0)
    assert (batch["instances"] == -1).all()


def test_scene_without_masks(scene):
    shutil.rmtree(scene / "instance_masks")
    with pytest.raises(InputError, match="instance_masks: no instance masks") as caught:
        load(scene)
    assert "\n" not in str(caught.value)
    for mode in ("inference", "test"):
        dataset = load(scene, test_mode=mode).train_dataset
        assert (dataset[0]["instances"] == -1).all()


def test_broken_masks_do_not_stop_other_commands(scene):
    """`ns-viewer` and `ns-export` take ids from the checkpoint and need no mask."""
    (scene / "instance_masks/0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"0\.png: "):
        load(scene)
    assert load(scene, test_mode="inference").train_dataset.metadata["instance_ids"].tolist() == [0, 1, 300]


def test_ids_of_instances_json_count_too(scene):
    (scene / "instances.json").write_text(json.dumps({"instances": [{"id": 17}]}))
    assert load(scene).train_dataset.metadata["instance_ids"].tolist() == [0, 1, 17, 300]
    (scene / "instances.json").unlink()
    manager = load(scene)
    assert manager.train_dataset.metadata["instance_ids"].tolist() == [0, 1, 300]
    assert manager.instances == []


def test_masks_elsewhere(scene):
    shutil.move(scene / "instance_masks", scene / "other")
    assert load(scene, masks_dir=scene / "other").train_dataset.scan_instance_ids() == [1, 300]
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load(scene, masks_dir=scene / "nowhere")


def test_explicit_mask_path_wins(scene, edit_transforms):
    write_instance_mask(scene / "better.png", np.full((24, 32), 42))
    edit_transforms(scene, lambda meta: meta["frames"][1].update(instance_mask_path="better.png"))
    manager = load(scene)
    assert (manager.train_dataset[1]["instances"] == 42).all()
    assert not (manager.train_dataset[0]["instances"] == 42).any()
    assert 42 in manager.train_dataset.metadata["instance_ids"]


def test_npy_and_hdf5_masks(scene):
    masks = [read_instance_mask(scene / f"instance_masks/{i}.png") for i in range(2)]
    for i in range(2):
        (scene / f"instance_masks/{i}.png").unlink()
    np.save(scene / "instance_masks/0.npy", masks[0])
    with h5py.File(scene / "instance_masks/1.hdf5", "w") as file:
        file["cp_instance_id_segmaps"] = masks[1]
    dataset = load(scene).train_dataset
    for i in range(2):
        assert np.array_equal(dataset[i]["instances"][..., 0], masks[i])


def _all_background(scene: Path) -> None:
    for path in (scene / "instance_masks").iterdir():
        write_instance_mask(path, np.zeros((24, 32), dtype=np.int32))


def _edit(scene: Path, change: Any) -> None:
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def _pose(value: Any) -> Any:
    return lambda scene: _edit(scene, lambda meta: meta["frames"][2].update(transform_matrix=value))


NAN = np.full((4, 4), np.nan).tolist()
# What is wrong -> (how it got so, what the message names).
UNUSABLE = {
    "missing folder": (shutil.rmtree, "scene: no such folder"),
    "broken transforms.json": (lambda scene: (scene / "transforms.json").write_text('{"frames": ['), "transforms.json"),
    "binary transforms.json": (
        lambda scene: (scene / "transforms.json").write_bytes(b"\xff\xfe\x00"),
        "transforms.json",
    ),
    "no transforms.json": (lambda scene: (scene / "transforms.json").unlink(), r"transforms\.json: no such file"),
    "list in transforms.json": (lambda scene: (scene / "transforms.json").write_text("[1]"), "transforms.json"),
    "no frames": (lambda scene: _edit(scene, lambda meta: meta.pop("frames")), "transforms.json"),
    "frame without a path": (lambda scene: _edit(scene, lambda meta: meta["frames"][1].pop("file_path")), "transforms"),
    "path is a number": (lambda scene: _edit(scene, lambda meta: meta["frames"][1].update(file_path=3)), "transforms"),
    "empty frames": (lambda scene: _edit(scene, lambda meta: meta.update(frames=[])), "transforms.json"),
    "single view": (lambda scene: _edit(scene, lambda meta: meta.update(frames=meta["frames"][:1])), "transforms.json"),
    "single training view": (
        lambda scene: _edit(scene, lambda meta: meta.update(train_filenames=meta["train_filenames"][:1])),
        "scene: 1 training view",
    ),
    "NaN pose": (_pose(NAN), r"transforms\.json: the pose of images/2\.png"),
    "infinite pose": (_pose([[np.inf] * 4] * 4), r"transforms\.json: the pose of images/2\.png"),
    "pose that overflows": (_pose([[1e300] * 4] * 4), "finite"),
    "pose of text": (_pose([["a"] * 4] * 4), r"transforms\.json: the pose of images/2\.png"),
    "2x2 pose": (_pose([[1, 0], [0, 1]]), r"transforms\.json: the pose of images/2\.png"),
    "ragged pose": (_pose([[1] * 5, [1] * 3, [1] * 4, [1] * 4]), r"transforms\.json: the pose of images/2\.png"),
    "no pose": (lambda scene: _edit(scene, lambda meta: meta["frames"][1].pop("transform_matrix")), "transforms.json"),
    "background only": (_all_background, "instance_masks"),
    "mask of another shape": (
        lambda scene: write_instance_mask(scene / "instance_masks/1.png", np.ones((32, 24), dtype=np.int32)),
        r"1\.png",
    ),
    "colour mask": (
        lambda scene: cv2.imwrite(str(scene / "instance_masks/1.png"), np.zeros((24, 32, 3), np.uint8)),
        r"1\.png",
    ),
    "mask of real numbers": (
        lambda scene: (
            (scene / "instance_masks/1.png").unlink(),
            np.save(scene / "instance_masks/1.npy", np.ones((24, 32), dtype=np.float32)),
        ),
        r"1\.npy",
    ),
    "named mask is missing": (
        lambda scene: _edit(scene, lambda meta: meta["frames"][0].update(instance_mask_path="gone.png")),
        r"gone\.png",
    ),
    "broken instances.json": (lambda scene: (scene / "instances.json").write_text("{"), r"instances\.json"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_scenes(scene, name):
    spoil, named = UNUSABLE[name]
    spoil(scene)
    with pytest.raises(InputError, match=named) as caught:
        load(scene)
    assert "\n" not in str(caught.value)
