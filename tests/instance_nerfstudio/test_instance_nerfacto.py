"""The model: nerfacto untouched beneath it, outputs per ray, and what each loss trains."""

import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.image_metrics import UnavailableLPIPS
from instance_nerfstudio.instance_pipeline import InstancePipeline

RADIANCE = ("field", "proposal_networks", "camera_optimizer")


def start(pipeline: InstancePipeline, step: int = 10**6, **trainer_options: Any) -> list[TrainingCallback]:
    """What a trainer does before iteration `step`."""
    options = {"load_dir": None, "load_checkpoint": None, **trainer_options}
    trainer: Any = SimpleNamespace(config=SimpleNamespace(**options))
    attributes = TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=pipeline, trainer=trainer)
    callbacks = pipeline.get_training_callbacks(attributes)
    run(callbacks, step)
    pipeline.train()
    return callbacks


def run(callbacks: list[TrainingCallback], step: int) -> None:
    for callback in callbacks:
        callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)


def radiance_parameters(pipeline: InstancePipeline) -> list[tuple[str, nn.Parameter]]:
    return [(k, v) for k, v in pipeline.model.named_parameters() if k.split(".")[0] in RADIANCE]


def write_voxels(path: Any, rows: int = 2) -> None:
    """Detections of the two spheres, as boxes of voxels, in the world of the scene."""
    masks = np.zeros((rows, 8, 8, 8), dtype=bool)
    masks[0, 1:3, 3:5, 3:5] = True
    masks[1, 5:7, 3:5, 3:5] = True
    np.savez(path, masks=masks, scores=np.ones(rows), bbox_min=np.full(3, -1.0), bbox_max=np.full(3, 1.0))


def test_outputs_are_per_ray_and_float(trained):
    """An integer output would freeze the viewer for every client."""
    model = trained.pipeline.model
    camera = trained.pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = model.get_outputs_for_camera(camera)
    assert {"rgb", "depth", "accumulation", "instances", "instances_overlay", "instance_confidence"} <= set(outputs)
    assert "instance_ids" not in outputs
    for name, value in outputs.items():
        assert value.shape[:2] == (24, 32), name
        assert value.shape[2] in (1, 3), name
        assert value.dtype == torch.float32, name
        assert not value.requires_grad, name
    for name in ("rgb", "instances", "instances_overlay", "instance_confidence"):
        assert outputs[name].min() >= 0
        assert outputs[name].max() <= 1


def test_render_adds_ids_and_keeps_the_mode(trained):
    model = trained.pipeline.model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    model.train()
    outputs = model.render(camera)
    assert model.training
    assert outputs["instance_ids"].dtype == torch.int32
    assert outputs["instance_ids"].shape == (24, 32, 1)
    assert {0, 300} <= set(outputs["instance_ids"].unique().tolist()) <= {0, 1, 300}
    model.eval()
    assert torch.equal(model.render(camera)["instance_ids"], outputs["instance_ids"])
    assert not model.training


def test_outputs_do_not_depend_on_the_chunks(trained, monkeypatch):
    model = trained.pipeline.model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    chunked = model.render(camera)
    monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", 10**6)
    whole = model.render(camera)
    assert set(whole) == set(chunked)
    for name, value in whole.items():
        torch.testing.assert_close(value, chunked[name], atol=1e-4, rtol=1e-4)


def test_logits_are_kept_on_demand_only(trained, monkeypatch):
    model = trained.pipeline.model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    assert "instance_logits" not in model.render(camera)
    monkeypatch.setattr(model, "keep_logits", True)
    outputs = model.render(camera)
    best = model.instance_head.instance_ids[outputs["instance_logits"].argmax(-1)]
    assert torch.equal(best, outputs["instance_ids"][..., 0])


def test_training_lowers_every_loss(trained, make_pipeline):
    """The head starts at equal probabilities and ends clearly below them; colours come nearer too."""
    losses = []
    for pipeline in (make_pipeline(), trained.pipeline):
        start(pipeline)
        torch.manual_seed(1)
        _, loss, metrics = pipeline.get_train_loss_dict(0)
        losses.append({**loss, **metrics})
    before, after = losses
    assert float(before["instance_loss"]) == pytest.approx(math.log(3), rel=1e-5)
    assert after["instance_loss"] < 0.6 * before["instance_loss"]
    assert after["instance_accuracy"] > before["instance_accuracy"]
    assert after["rgb_loss"] < 0.5 * before["rgb_loss"]
    assert after["psnr"] > before["psnr"] + 3


def as_nerfacto(pipeline: InstancePipeline) -> NerfactoModel:
    """Plain nerfacto with the same options and weights."""
    ours = pipeline.model
    theirs = NerfactoModel(ours.config, ours.scene_box, ours.num_train_data, metadata={})
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith("instance_head.")})
    return theirs


@pytest.fixture
def quick_lpips(tmp_path, monkeypatch):
    """An LPIPS whose weights are there, and that does not read them."""

    class Fake(nn.Module):
        def __init__(self, normalize: bool) -> None:
            super().__init__()

        def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
            return torch.tensor(0.25)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").touch()
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Fake)


@pytest.mark.parametrize("use_instances", [False, True])
@pytest.mark.parametrize("options", [{}, {"predict_normals": True}, {"use_gradient_scaling": True}])
def test_radiance_field_trains_and_renders_as_nerfactos(make_pipeline, quick_lpips, options, use_instances):
    camera_optimizer = CameraOptimizerConfig(mode="SO3xR3")
    pipeline = make_pipeline(
        use_instances=use_instances, camera_optimizer=camera_optimizer, distortion_loss_mult=1.0, **options
    )
    start(pipeline)
    theirs = as_nerfacto(pipeline)
    theirs.proposal_sampler.set_anneal(1.0)
    rays, batch = pipeline.datamanager.next_train(0)
    gradients, outputs, losses = [], [], []
    for model in (pipeline.model, theirs):
        model.train()
        torch.manual_seed(3)
        outputs.append(model(rays[:]))
        metrics = model.get_metrics_dict(outputs[-1], batch)
        losses.append(model.get_loss_dict(outputs[-1], batch, metrics))
        sum(losses[-1].values(), torch.zeros(())).backward()
        gradients.append({k: p.grad for k, p in model.named_parameters() if k.split(".")[0] in RADIANCE})
        losses[-1]["psnr"] = metrics["psnr"]
    assert set(losses[0]) - set(losses[1]) == ({"instance_loss", "label_regularization"} if use_instances else set())
    for name, value in losses[1].items():
        torch.testing.assert_close(losses[0][name], value, msg=name)
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, atol=1e-6, rtol=1e-3, msg=name)
    assert gradients[0]["camera_optimizer.pose_adjustment"] is not None

    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    theirs.eval()
    rendered = theirs.get_outputs_for_camera(camera)
    ours = pipeline.model.get_outputs_for_camera(camera)
    assert set(rendered) == {name for name in ours if "instance" not in name}
    for name, value in rendered.items():
        torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_instance_losses_leave_the_radiance_field_alone(make_pipeline, tmp_path):
    write_voxels(tmp_path / "voxels.npz")
    pipeline = make_pipeline(
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"), instance_voxels=tmp_path / "voxels.npz"
    )
    nn.init.normal_(pipeline.model.instance_head.classifier.weight)
    start(pipeline)
    _, losses, _ = pipeline.get_train_loss_dict(0)
    own = ("instance_loss", "label_regularization", "voxel_loss")
    for name in own:
        assert losses[name] > 0
    sum((losses[name] for name in own), torch.zeros(())).backward()
    touched = [name for name, p in radiance_parameters(pipeline) if p.grad is not None and p.grad.abs().sum() > 0]
    assert touched == []
    assert all(p.grad is not None for p in pipeline.model.instance_head.parameters())
    losses["rgb_loss"].backward()
    assert any(p.grad is not None for _, p in radiance_parameters(pipeline))


def test_without_instances_there_is_no_head_to_train(make_pipeline):
    pipeline = make_pipeline(use_instances=False)
    assert set(pipeline.get_param_groups()) == {"fields", "proposal_networks"}
    start(pipeline)
    outputs, losses, metrics = pipeline.get_train_loss_dict(0)
    assert not [name for name in {*outputs, *losses, *metrics} if "instance" in name or "label" in name]
    assert not [name for name in pipeline.model.render(pipeline.datamanager.eval_dataset.cameras[:1]) if "inst" in name]
    assert set(make_pipeline().get_param_groups()) == {"fields", "proposal_networks", "instance_head"}


def test_instances_start_at_their_step(make_pipeline):
    pipeline = make_pipeline(instance_start_step=5)
    callbacks = start(pipeline, step=4)
    sampler = pipeline.datamanager.train_pixel_sampler
    _, losses, _ = pipeline.get_train_loss_dict(4)
    assert "instance_loss" not in losses
    assert not sampler.use_patches
    run(callbacks, 5)
    _, losses, _ = pipeline.get_train_loss_dict(5)
    assert {"instance_loss", "label_regularization"} <= set(losses)
    assert sampler.use_patches


def test_losses_can_be_switched_off(make_pipeline):
    pipeline = make_pipeline(use_label_regularization=False)
    start(pipeline)
    _, losses, _ = pipeline.get_train_loss_dict(0)
    assert "instance_loss" in losses
    assert "label_regularization" not in losses
    assert not pipeline.datamanager.train_pixel_sampler.use_patches
    pipeline = make_pipeline(use_instance_loss=False)
    start(pipeline)
    assert "instance_loss" not in pipeline.get_train_loss_dict(0)[1]


def test_multipliers_scale_their_losses(make_pipeline, tmp_path):
    write_voxels(tmp_path / "voxels.npz")
    pipeline = make_pipeline(instance_voxels=tmp_path / "voxels.npz")
    model = pipeline.model
    nn.init.normal_(model.instance_head.classifier.weight)
    start(pipeline)
    rays, batch = pipeline.datamanager.next_train(0)
    outputs = model(rays)
    metrics = model.get_metrics_dict(outputs, batch)
    losses = []
    for factor in (1.0, 3.0):
        model.config.instance_loss_mult *= factor
        model.config.label_regularization_mult *= factor
        model.config.voxel_loss_mult *= factor
        torch.manual_seed(2)
        losses.append(model.get_loss_dict(outputs, batch, metrics))
    for name in ("instance_loss", "label_regularization", "voxel_loss"):
        assert losses[0][name] > 0
        torch.testing.assert_close(losses[1][name], 3 * losses[0][name])
    assert losses[1]["rgb_loss"] == losses[0]["rgb_loss"]


def test_regularization_sees_the_patches_alone(make_pipeline):
    """Single pixels that follow the patches in a batch are no neighbours."""
    pipeline = make_pipeline()
    start(pipeline)
    model = pipeline.model
    rays, batch = pipeline.datamanager.next_train(0)
    outputs = model(rays)
    metrics = model.get_metrics_dict(outputs, batch)
    count = batch["patch_rays"]
    assert 0 < count < 256
    outputs["instance_logits"] = torch.randn(256, 3)
    outputs["instance_logits"][:count] = 1.0
    assert model.get_loss_dict(outputs, batch, metrics)["label_regularization"] == 0
    outputs["instance_logits"][1] += 1.0
    assert model.get_loss_dict(outputs, batch, metrics)["label_regularization"] > 0


def test_batch_without_labels_trains(make_pipeline):
    pipeline = make_pipeline()
    start(pipeline)
    rays, batch = pipeline.datamanager.next_train(0)
    batch["instances"].fill_(-1)
    outputs = pipeline.model(rays)
    metrics = pipeline.model.get_metrics_dict(outputs, batch)
    losses = pipeline.model.get_loss_dict(outputs, batch, metrics)
    assert losses["instance_loss"] == 0
    assert metrics["instance_accuracy"] == 0
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in pipeline.model.parameters())


@pytest.mark.parametrize("disable_scene_contraction", [False, True])
def test_voxel_loss_teaches_the_points_of_the_voxels(make_pipeline, write_scene, tmp_path, disable_scene_contraction):
    scene = write_scene(tmp_path / "scene", ids=(1, 2))
    write_voxels(tmp_path / "voxels.npz")
    pipeline = make_pipeline(
        scene,
        instance_voxels=tmp_path / "voxels.npz",
        voxels_per_batch=200,
        disable_scene_contraction=disable_scene_contraction,
    )
    start(pipeline)
    model = pipeline.model
    assert model.voxels is not None
    optimizer = torch.optim.Adam(model.instance_head.parameters(), lr=0.05)
    outputs, batch = {"instance_logits": torch.zeros(1, 3)}, {"instances": torch.full((1, 1), -1)}
    for _ in range(100):
        optimizer.zero_grad()
        model.get_loss_dict(outputs, batch)["voxel_loss"].backward()
        optimizer.step()
    points, labels = model.voxels.sample(300)
    found = model.instance_head.instance_ids[model.instance_logits_at(points).argmax(-1)]
    assert (found == labels).float().mean() > 0.95


def test_voxels_of_unknown_instances_teach_nothing(make_pipeline, tmp_path):
    """The scene knows the ids 1 and 300; row 2 of the detections is 2."""
    masks = np.zeros((2, 4, 4, 4), dtype=bool)
    masks[1] = True
    np.savez(tmp_path / "v.npz", masks=masks, scores=np.ones(2), bbox_min=-np.ones(3), bbox_max=np.ones(3))
    pipeline = make_pipeline(instance_voxels=tmp_path / "v.npz")
    start(pipeline)
    assert pipeline.get_train_loss_dict(0)[1]["voxel_loss"] == 0


def test_voxel_file_is_read_in_training_only(make_pipeline, tmp_path):
    pipeline = make_pipeline(instance_voxels=tmp_path / "gone.npz", test_mode="inference")
    pipeline.model.render(pipeline.datamanager.train_dataset.cameras[:1])
    with pytest.raises(InputError, match=r"gone\.npz"):
        start(make_pipeline(instance_voxels=tmp_path / "gone.npz"))
    start(make_pipeline(instance_voxels=tmp_path / "gone.npz", use_voxel_loss=False))


def test_points_and_rays_share_one_frame(trained):
    """Logits at a sphere's centre, given in world units, name that sphere."""
    model = trained.pipeline.model
    transform, scale = model.world_to_scene
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    rays = camera.generate_rays(camera_indices=0)
    outputs = model.render(camera)
    opaque = outputs["accumulation"][..., 0] > 0.98
    points = (rays.origins + rays.directions * outputs["depth"])[opaque]
    ids = model.instance_head.instance_ids[model.instance_logits_at(points).argmax(-1)]
    assert (ids == outputs["instance_ids"][..., 0][opaque]).float().mean() > 0.8
    assert transform.shape == (3, 4)
    assert scale > 0


def test_evaluation_without_lpips(trained):
    model = trained.pipeline.model
    assert isinstance(model.lpips, UnavailableLPIPS)
    camera, batch = trained.pipeline.datamanager.next_eval_image(0)
    metrics, images = model.get_image_metrics_and_images(model.render(camera), batch)
    assert set(metrics) == {"psnr", "ssim", "instance_miou", "pq", "sq", "rq"}
    for name, image in images.items():
        assert image.ndim == 3, name
        assert image.shape[2] == 3, name
        assert image.min() >= 0, name
        assert image.max() <= 1, name
    assert images["instances"].shape == (24, 96, 3)


def test_evaluation_with_lpips(make_pipeline, quick_lpips):
    pipeline = make_pipeline()
    camera, batch = pipeline.datamanager.next_eval_image(0)
    metrics, _ = pipeline.model.get_image_metrics_and_images(pipeline.model.render(camera), batch)
    assert metrics["lpips"] == 0.25


def test_lpips_is_left_as_it_was(make_pipeline):
    """Other models of the same process build their own."""
    import torchmetrics.image.lpip as lpip

    make_pipeline()
    assert lpip.LearnedPerceptualImagePatchSimilarity.__name__ == "LearnedPerceptualImagePatchSimilarity"


def test_picture_of_errors_is_red_where_labels_differ(trained):
    model = trained.pipeline.model
    camera, batch = trained.pipeline.datamanager.next_eval_image(0)
    outputs = model.render(camera)
    batch = dict(batch)
    batch["instances"] = outputs["instance_ids"].clone()
    batch["instances"][0, 0] = 300 if outputs["instance_ids"][0, 0] != 300 else 1
    batch["instances"][1, 1] = -1
    metrics, images = model.get_image_metrics_and_images(outputs, batch)
    red = images["instances"][:, 64:, 0]
    assert red[0, 0] == 1
    assert red.sum() == 1
    assert metrics["pq"] > 0


@pytest.mark.parametrize("contraction", [True, False])
def test_head_is_asked_where_the_field_is(make_pipeline, contraction):
    """Both see the same normalised positions, or their features would not belong together."""
    pipeline = make_pipeline(disable_scene_contraction=not contraction)
    model = pipeline.model.eval()
    asked = []
    model.instance_head.register_forward_hook(lambda module, given, _: asked.append(given[0]))
    seen = []
    model.field.mlp_base.register_forward_hook(lambda module, given, _: seen.append(given[0]))
    rays, _ = pipeline.datamanager.next_train(0)
    with torch.no_grad():
        model(rays)
    torch.testing.assert_close(asked[0].reshape(-1, 3), seen[0].reshape(-1, 3))


def test_resuming_with_masks_of_new_instances(make_pipeline, scene, tmp_path):
    pipeline = make_pipeline()
    head = pipeline.model.instance_head
    head.load_state_dict(
        {
            **head.state_dict(),
            "instance_ids": torch.tensor([0, 1], dtype=torch.int32),
            "classifier.weight": head.classifier.weight[:2],
        }
    )
    with pytest.raises(InputError, match=r"models: .*\[300\]") as caught:
        start(pipeline, load_dir=tmp_path / "models")
    assert "\n" not in str(caught.value)


def test_out_of_memory_while_rendering_halves_the_chunk(trained, monkeypatch):
    model = trained.pipeline.model
    camera = trained.pipeline.datamanager.eval_dataset.cameras[:1]
    whole = model.render(camera)
    console, forward, chunks = io.StringIO(), model.forward, []

    def small_memory(ray_bundle: RayBundle) -> dict[str, Any]:
        chunks.append(len(ray_bundle))
        if len(ray_bundle) > 250:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(ray_bundle)

    monkeypatch.setattr(CONSOLE, "file", console)
    monkeypatch.setattr(model, "forward", small_memory)
    monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", 1 << 15)
    halved = model.render(camera)
    assert chunks == [768, 384, 192, 192, 192, 192]
    assert [line.split(" rays ")[0][-3:] for line in console.getvalue().splitlines()] == ["384", "192"]
    for name, value in whole.items():
        torch.testing.assert_close(halved[name], value, msg=name)

    chunks.clear()
    model.render(camera)
    assert chunks == [192] * 4  # the next picture knows
    chunks.clear()
    monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", 180)
    model.render(camera)
    assert chunks == [154] * 4 + [152]
    assert model.config.eval_num_rays_per_chunk == 180
    monkeypatch.setattr(model, "forward", lambda ray_bundle: small_memory(camera.generate_rays(0)))
    with pytest.raises(InputError, match="out of GPU memory"):
        model.render(camera)  # not even one ray fits
