"""Objects taken away from a field of two opaque balls whose pictures are known from ray casting."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from instance_nerfstudio.edits.instance_edits import Edit, InstanceEdits
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel

RADII = torch.tensor([0.2, 0.32])
COLOURS = torch.tensor([[0.9, 0.9, 0.9], [0.8, 0.1, 0.1], [0.1, 0.2, 0.9]])
NEAR, FAR = 1, 300  # the near ball hides a part of the far one


@pytest.fixture
def scene_of_balls(make_pipeline: Any, put_balls: Any) -> tuple[InstanceNerfactoModel, Cameras, np.ndarray]:
    """Model, a camera, and which balls each of its rays meets (H, W, 2), the near one first."""
    model = make_pipeline(test_mode="inference", num_proposal_samples_per_ray=(256,), num_nerf_samples_per_ray=128)
    model = model.eval().model
    model.scene_survey = None  # the cameras of the data look at other balls
    pose = torch.tensor([[[1.0, 0, 0, 0.05], [0, 1, 0, 0.02], [0, 0, 1, 1.2]]])
    camera = Cameras(pose, 40.0, 40.0, 16.0, 12.0, width=32, height=24)
    centres = torch.tensor([[0.05, 0.0, 0.4], [0.0, 0.1, -0.5]])
    put_balls(model, centres, RADII)
    rays = camera.generate_rays(camera_indices=0)
    offset = rays.origins[..., None, :] - centres
    along = -(offset * rays.directions[..., None, :]).sum(-1)
    closest = (offset + along[..., None] * rays.directions[..., None, :]).norm(dim=-1)
    return model, camera, (closest < RADII).numpy()


def _inner(mask: np.ndarray) -> np.ndarray:
    """Without the pixels at the rim, whose samples may miss."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _hide(*ids: int) -> InstanceEdits:
    return InstanceEdits().after(Edit("hide", ids), (NEAR, FAR))


def test_hidden_matter_leaves_colour_depth_and_ids(scene_of_balls: Any) -> None:
    model, camera, hit = scene_of_balls
    whole, without = model.render(camera), model.render(camera, edits=_hide(NEAR))
    both, near_alone = _inner(hit[..., 0] & hit[..., 1]), _inner(hit[..., 0] & ~hit[..., 1])
    assert both.sum() > 10
    assert near_alone.sum() > 10
    ids, ids_without = whole["instance_ids"][..., 0].numpy(), without["instance_ids"][..., 0].numpy()
    assert (ids[both] == NEAR).all()
    assert (ids_without[both] == FAR).all()
    assert (ids_without[near_alone] == 0).all()
    assert np.allclose(whole["rgb"].numpy()[both], COLOURS[1], atol=0.02)
    assert np.allclose(without["rgb"].numpy()[both], COLOURS[2], atol=0.02)
    assert (without["depth"].numpy()[both] > whole["depth"].numpy()[both] + 0.3).all()
    # Nothing is behind it: black, and not the colour that nerfacto continues a picture with.
    assert (without["rgb"].numpy()[near_alone] < 0.02).all()
    assert (without["accumulation"].numpy()[near_alone] < 0.02).all()


def test_the_rest_of_the_picture_stays(scene_of_balls: Any) -> None:
    model, camera, hit = scene_of_balls
    whole, without = model.render(camera), model.render(camera, edits=_hide(NEAR))
    untouched = ~hit[..., 0] & _inner(~hit[..., 0])
    for name in ("rgb", "depth", "instance_ids", "instances"):
        assert torch.equal(whole[name][untouched], without[name][untouched]), name


def test_isolated_matter_is_alone(scene_of_balls: Any) -> None:
    model, camera, hit = scene_of_balls
    edits = InstanceEdits().after(Edit("isolate", (FAR,)), (NEAR, FAR))
    alone = model.render(camera, edits=edits)
    far, nothing = _inner(hit[..., 1]), _inner(~hit[..., 1])
    assert (alone["instance_ids"][..., 0].numpy()[far] == FAR).all()
    assert np.allclose(alone["rgb"].numpy()[far], COLOURS[2], atol=0.02)
    assert (alone["accumulation"].numpy()[nothing] < 0.02).all()
    # Not even what nerfacto continues a picture with, where the whole field lets light through.
    assert (model.render(camera)["rgb"].numpy()[_inner(~hit.any(-1))] > 0.5).all()
    assert (alone["rgb"].numpy()[nothing] < 0.02).all()
    assert (alone["instance_ids"][..., 0].numpy()[nothing] == 0).all()


def test_hiding_what_is_not_there_changes_nothing(scene_of_balls: Any) -> None:
    model, camera, _ = scene_of_balls
    whole = model.render(camera)
    again = model.render(camera, edits=InstanceEdits().after(Edit("rename", (NEAR,), "a"), (NEAR, FAR)))
    for name, output in whole.items():
        assert torch.equal(output, again[name]), name
    assert model.class_edits is None


def test_merged_instances_are_one(scene_of_balls: Any) -> None:
    model, camera, hit = scene_of_balls
    edits = InstanceEdits().after(Edit("merge", (FAR, NEAR)), (NEAR, FAR))
    outputs = model.render(camera, edits=edits)
    assert set(outputs["instance_ids"].unique().tolist()) == {0, FAR}
    assert (outputs["instance_ids"][..., 0].numpy()[_inner(hit.any(-1))] == FAR).all()
    gone = model.render(camera, edits=edits.after(Edit("hide", (FAR,)), (NEAR, FAR)))
    assert (gone["accumulation"].numpy()[_inner(hit.any(-1))] < 0.02).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hidden_matter_on_a_gpu_is_as_on_a_cpu(trained: Any) -> None:
    model, cameras = trained.pipeline.model, trained.pipeline.datamanager.train_dataset.cameras[:1]
    edits = InstanceEdits().after(Edit("hide", (1,)), (1, 300))
    expected = model.render(cameras, edits=edits)
    try:
        outputs = model.to("cuda").render(cameras.to("cuda"), edits=edits)
        assert (outputs["rgb"].cpu() - expected["rgb"]).abs().mean() < 0.02
        assert (outputs["instance_ids"].cpu() == expected["instance_ids"]).float().mean() > 0.98
    finally:
        model.to("cpu")


def test_a_run_knows_its_edits(trained: Any, tmp_path: Path) -> None:
    """Beside config.yml, where every command that loads the run finds them."""
    config = trained.config
    run = config.get_base_dir()
    assert trained.pipeline.model.edits_store.path == run / "instance_edits.json"
    assert trained.pipeline.model.identity().name == f"{run.parent.name}/{run.name}"
    assert trained.pipeline.model.identity().instance_ids == (1, 300)


def test_scores_merge_the_truth_and_show_what_is_hidden(trained: Any) -> None:
    pipeline = trained.pipeline
    loader = pipeline.datamanager.fixed_indices_eval_dataloader
    store = pipeline.model.edits_store
    plain = pipeline.get_average_image_metrics(loader, "eval")
    try:
        store.apply(Edit("hide", (1,)))
        assert pipeline.get_average_image_metrics(loader, "eval")["psnr"] == pytest.approx(plain["psnr"])
        store.apply(Edit("merge", (300, 1)))
        merged = pipeline.get_average_image_metrics(loader, "eval")
        assert merged["instance_miou"] > plain["instance_miou"] - 0.1  # half of it, were the truth not merged
        assert json.loads(store.path.read_text())["edits"][-1] == {"action": "merge", "ids": [300, 1]}
    finally:
        while store.undo() is not None:
            pass
