"""Evaluation over all views, and calibration."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.evaluation.calibration import fit_temperature
from instance_nerfstudio.evaluation.metrics import InstanceMetrics
from instance_nerfstudio.instance_pipeline import InstancePipeline

PER_VIEW = {"psnr", "ssim", "instance_miou", "pq", "sq", "rq"}
SPEED = {"num_rays_per_sec", "fps"}
WHOLE_SCENE = {"pq_scene", "sq_scene", "rq_scene", "pq_scene_pl", "sq_scene_pl", "rq_scene_pl"}


def render_the_truth(pipeline: InstancePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces `render` by one that knows the held-out views."""
    dataset, model = pipeline.datamanager.eval_dataset, pipeline.model
    render, labels = model.render, [dataset[i]["instances"] for i in range(len(dataset))]

    def answer(camera, **_):
        same = (dataset.cameras.camera_to_worlds == camera.camera_to_worlds).flatten(1).all(1)
        return {**render(camera), "instance_ids": labels[int(same.nonzero())].clamp(min=0)}

    monkeypatch.setattr(model, "render", answer)


def test_averages_and_their_names(trained):
    """Pictures are averaged over the views; instances are scored over all views at once."""
    averages = trained.pipeline.get_average_eval_image_metrics()
    assert set(averages) == PER_VIEW | SPEED | WHOLE_SCENE
    views, scene = [], InstanceMetrics(trained.pipeline.category_numbers())
    for camera, batch in trained.pipeline.datamanager.fixed_indices_eval_dataloader:
        outputs = trained.pipeline.model.render(camera)
        views.append(trained.pipeline.model.get_image_metrics_and_images(outputs, batch)[0])
        scene.update(outputs["instance_ids"][..., 0], batch["instances"][..., 0])
    assert len(views) == 2
    for name in ("psnr", "ssim"):
        assert averages[name] == pytest.approx((views[0][name] + views[1][name]) / 2, rel=1e-5)
    expected = scene.compute()
    assert 0 < expected["instance_miou"] < 1
    assert {name: averages[name] for name in expected} == pytest.approx(expected)


def test_spread_over_the_views(trained):
    averages = trained.pipeline.get_average_eval_image_metrics(get_std=True)
    assert {f"{name}_std" for name in PER_VIEW | SPEED} < set(averages)
    views = []
    for camera, batch in trained.pipeline.datamanager.fixed_indices_eval_dataloader:
        outputs = trained.pipeline.model.render(camera)
        views.append(trained.pipeline.model.get_image_metrics_and_images(outputs, batch)[0]["psnr"])
    assert averages["psnr_std"] == pytest.approx(abs(views[0] - views[1]) / math.sqrt(2), rel=1e-3)


def test_truth_scores_one(trained, monkeypatch):
    render_the_truth(trained.pipeline, monkeypatch)
    averages = trained.pipeline.get_average_eval_image_metrics()
    for name in WHOLE_SCENE | {"instance_miou", "pq", "sq", "rq"}:
        assert averages[name] == pytest.approx(1.0), name


def test_ids_that_swap_between_views_cost_the_scene_and_not_the_views(trained, monkeypatch):
    render_the_truth(trained.pipeline, monkeypatch)
    render, calls = trained.pipeline.model.render, []

    def swap_in_one_view(camera, **_):
        outputs = render(camera)
        calls.append(camera)
        if len(calls) == 1:
            ids = outputs["instance_ids"]
            outputs["instance_ids"] = torch.where(ids > 0, 301 - ids, ids)
        return outputs

    monkeypatch.setattr(trained.pipeline.model, "render", swap_in_one_view)
    monkeypatch.setattr(trained.pipeline.datamanager, "instances", [])  # one category, or every match is lost
    averages = trained.pipeline.get_average_eval_image_metrics()
    assert averages["pq"] == pytest.approx(1.0)
    assert averages["pq_scene"] < 0.6


def test_view_without_a_mask_counts_in_no_instance_metric(trained, monkeypatch):
    dataset = trained.pipeline.datamanager.eval_dataset
    render_the_truth(trained.pipeline, monkeypatch)
    monkeypatch.setattr(dataset, "mask_paths", [dataset.mask_paths[0], None])
    averages = trained.pipeline.get_average_eval_image_metrics(get_std=True)
    assert all(math.isfinite(value) for value in averages.values())
    assert set(averages) >= PER_VIEW | WHOLE_SCENE
    for name in ("instance_miou", "pq", "pq_scene"):
        assert averages[name] == pytest.approx(1.0), name


def test_scene_without_held_out_masks_reports_pictures_alone(trained, monkeypatch):
    monkeypatch.setattr(trained.pipeline.datamanager.eval_dataset, "mask_paths", [None, None])
    assert set(trained.pipeline.get_average_eval_image_metrics()) == {"psnr", "ssim"} | SPEED


def test_every_image_has_the_same_metrics(trained, monkeypatch):
    """nerfstudio takes the names from the first image."""
    dataset = trained.pipeline.datamanager.eval_dataset
    monkeypatch.setattr(dataset, "mask_paths", [None, dataset.mask_paths[1]])
    names = []
    for camera, batch in trained.pipeline.datamanager.fixed_indices_eval_dataloader:
        metrics, images = trained.pipeline.model.get_image_metrics_and_images(
            trained.pipeline.model.render(camera), batch
        )
        assert all(isinstance(value, float) for value in metrics.values())
        names.append((set(metrics), set(images)))
    assert names[0] == names[1]


def test_pictures_are_written(trained, tmp_path):
    trained.pipeline.get_average_eval_image_metrics(output_path=tmp_path / "new/pictures")
    names = {path.name for path in (tmp_path / "new/pictures").iterdir()}
    keys = {"img", "accumulation", "depth", "prop_depth_0", "instances", "instance_confidence"}
    assert names == {f"eval_{key}_{view:04d}.png" for key in keys for view in range(2)}
    assert Image.open(tmp_path / "new/pictures/eval_instances_0001.png").size == (96, 24)


def test_evaluation_without_instances(make_pipeline):
    pipeline = make_pipeline(use_instances=False)
    assert set(pipeline.get_average_eval_image_metrics()) == {"psnr", "ssim"} | SPEED
    metrics, _ = pipeline.get_eval_image_metrics_and_images(0)
    assert set(metrics) == {"psnr", "ssim", "num_rays"}


def test_plain_radiance_field_needs_no_masks(scene, make_pipeline):
    shutil.rmtree(scene / "instance_masks")
    (scene / "instances.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no instance masks"):
        make_pipeline(scene)
    pipeline = make_pipeline(scene, use_instances=False)
    _, losses, _ = pipeline.get_train_loss_dict(0)
    assert "instance_loss" not in losses
    assert "rgb_loss" in losses
    assert set(pipeline.get_average_eval_image_metrics()) == {"psnr", "ssim"} | SPEED


def test_one_image_and_one_batch_while_training(trained):
    pipeline = trained.pipeline
    pipeline.train()
    metrics, images = pipeline.get_eval_image_metrics_and_images(0)
    assert set(metrics) == PER_VIEW | {"num_rays"}
    assert metrics["num_rays"] == 24 * 32
    assert "instances" in images
    _, losses, metrics = pipeline.get_eval_loss_dict(0)
    assert {"rgb_loss", "instance_loss"} <= set(losses)
    assert "instance_accuracy" in metrics
    assert not losses["instance_loss"].requires_grad
    assert pipeline.training
    assert pipeline.model.training
    assert not pipeline.model.keep_logits


def test_categories_come_from_instances_json(trained, monkeypatch):
    assert trained.pipeline.category_numbers() == {1: 1, 300: 2}
    monkeypatch.setattr(trained.pipeline.datamanager, "instances", [])
    assert trained.pipeline.category_numbers() is None


def held_out(pipeline: InstancePipeline) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and ids of all held-out pixels."""
    logits, targets, ids = [], [], []
    pipeline.model.keep_logits = True
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        outputs = pipeline.model.render(camera)
        logits.append(outputs["instance_logits"].flatten(0, 1))
        targets.append(pipeline.model.instance_head.targets(batch["instances"].flatten()).long())
        ids.append(outputs["instance_ids"])
    pipeline.model.keep_logits = False
    return torch.cat(logits), torch.cat(targets), torch.cat(ids)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_changes_the_temperature_and_no_prediction(trained, training):
    pipeline = trained.pipeline
    pipeline.config.calibration_batches, before = 12, pipeline.config.calibration_batches
    temperature = pipeline.model.instance_head.temperature.fill_(0.3)
    weights = pipeline.model.instance_head.classifier.weight.clone()
    logits, targets, ids = held_out(pipeline)
    pipeline.train(training)
    pipeline.calibrate()
    pipeline.config.calibration_batches = before
    assert pipeline.training == pipeline.model.training == training
    assert not pipeline.model.keep_logits
    assert temperature is pipeline.model.instance_head.temperature
    assert torch.equal(held_out(pipeline)[2], ids)
    assert torch.equal(pipeline.model.instance_head.classifier.weight, weights)
    # Drawn at random, so near the best of all pixels and better than what was there.
    fitted = float(temperature)
    assert fitted == pytest.approx(fit_temperature(logits, targets), rel=0.3)
    assert F.cross_entropy(logits / fitted, targets) < F.cross_entropy(logits / 0.3, targets)


def test_calibration_without_a_held_out_mask(trained, monkeypatch):
    dataset = trained.pipeline.datamanager.eval_dataset
    monkeypatch.setattr(dataset, "mask_paths", [None, None])
    trained.pipeline.datamanager.setup_eval()
    trained.pipeline.model.instance_head.temperature.fill_(0.3)
    trained.pipeline.calibrate()
    monkeypatch.undo()
    trained.pipeline.datamanager.setup_eval()
    assert trained.pipeline.model.instance_head.temperature == 1.0


def test_scene_without_held_out_views_calibrates_on_training_views(scene, edit_transforms, make_pipeline):
    edit_transforms(scene, lambda meta: meta.update(val_filenames=[], test_filenames=[]))
    pipeline = make_pipeline(scene)
    assert len(pipeline.datamanager.eval_dataset) == 0
    pipeline.model.instance_head.classifier.weight.data.normal_()
    pipeline.calibrate()
    assert pipeline.model.instance_head.temperature > 0


def test_ids_fit_through_the_test_mode_of_the_scripts(trained, make_pipeline, tmp_path):
    """`ns-eval` builds the pipeline without reading masks, then loads the checkpoint."""
    checkpoint = next(Path(trained.checkpoint_dir).glob("*.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    pipeline = make_pipeline(test_mode="test")
    pipeline.load_pipeline(state["pipeline"], state["step"])
    pipeline.eval()
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    assert torch.equal(
        pipeline.model.render(camera)["instance_ids"], trained.pipeline.model.render(camera)["instance_ids"]
    )
