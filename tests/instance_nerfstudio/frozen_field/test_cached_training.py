"""The head trains on cached samples: nothing marches, the field stays, the best head is what is saved."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.models.nerfacto import NerfactoModel

from instance_nerfstudio.frozen_field.cached_training import CachedTraining
from instance_nerfstudio.instance_datamanager import InstanceDataManager

PARTS = ("field", "proposal_networks", "camera_optimizer")


@pytest.fixture
def frozen_config(trained, make_config, shared_scene, tmp_path):
    """`frozen_config(**model_options)`: a short run over the trained radiance field."""

    def make(**model: Any) -> Any:
        options = {"radiance_checkpoint": trained.base_dir, "use_label_regularization": False, **model}
        config = make_config(shared_scene, tmp_path, **options)
        config.max_num_iterations = 40
        config.pipeline.cached_training.steps_per_held_out = 10
        return config

    return make


@pytest.fixture
def scores(monkeypatch) -> list[float]:
    """What the head scores in turn, instead of what it would; with the classifier of each time in `seen`."""
    values: list[float] = []

    class Scores(list):
        seen: list[torch.Tensor] = []  # noqa: RUF012

    values = Scores()
    values.seen = []

    def score(self: CachedTraining) -> float:
        values.seen.append(self.head.classifier.weight.detach().clone())
        return values[len(values.seen) - 1] if len(values.seen) <= len(values) else 0.0

    monkeypatch.setattr(CachedTraining, "held_out_miou", score)
    return values


def test_head_learns_without_marching(trained, frozen_config, train, monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("a training batch was asked for")

    monkeypatch.setattr(InstanceDataManager, "next_train", refuse)
    config = frozen_config()
    trainer = train(config)
    theirs, ours = trained.pipeline.model.state_dict(), trainer.pipeline.model.state_dict()
    kept = [key for key in theirs if key.split(".")[0] in PARTS]
    assert len(kept) > 5
    assert all(torch.equal(ours[key], theirs[key]) for key in kept)
    loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
    assert trainer.pipeline.get_average_image_metrics(loader, "eval")["instance_miou"] > 0.8
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000039.ckpt"]
    optimizer = trainer.optimizers.optimizers["instance_head"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(config.optimizers["instance_head"]["scheduler"].lr_final)
    assert next(iter(optimizer.state.values()))["step"] == 40


def test_score_is_that_of_evaluation(trained, frozen_config, train, monkeypatch):
    """All held-out pixels, all samples: the cached score is the evaluated one."""
    monkeypatch.setattr("instance_nerfstudio.frozen_field.cached_training._DRAWS_PER_PIXEL", 1e-3)
    monkeypatch.setattr("instance_nerfstudio.frozen_field.cached_training._TRAINING_PIXELS_PER_HELD_OUT", 1)
    found = []
    score = CachedTraining.held_out_miou
    monkeypatch.setattr(CachedTraining, "held_out_miou", lambda self: found.append(score(self)) or found[-1])
    config = frozen_config()
    config.pipeline.cached_training.samples_per_ray = 64
    trainer = train(config)
    loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
    evaluated = trainer.pipeline.get_average_image_metrics(loader, "eval")["instance_miou"]
    assert max(found) == pytest.approx(evaluated, abs=0.005)
    assert found[0] < max(found)


def test_stops_when_nothing_rises_and_keeps_the_best(frozen_config, train, scores):
    scores += [0.5, 0.8, 0.7, 0.8, 0.6]
    config = frozen_config()
    config.max_num_iterations = 1000
    config.pipeline.cached_training.patience = 3
    trainer = train(config)
    assert len(scores.seen) == 5
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000050.ckpt"]
    weight = trainer.pipeline.model.instance_head.classifier.weight
    assert torch.equal(weight, scores.seen[1])
    assert not torch.equal(weight, scores.seen[4])
    saved = torch.load(trainer.checkpoint_dir / "step-000000050.ckpt", weights_only=True)
    assert torch.equal(saved["pipeline"]["_model.instance_head.classifier.weight"], weight)
    assert saved["step"] == 50


@pytest.mark.parametrize(("patience", "values"), [(0, [0.9] + [0.1] * 9), (2, [math.nan] * 4)])
def test_runs_to_the_end(frozen_config, train, scores, patience, values):
    scores += values
    config = frozen_config()
    config.pipeline.cached_training.patience = patience
    trainer = train(config)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000039.ckpt"]
    best = scores.seen[0] if patience == 0 else scores.seen[-1]
    assert torch.equal(trainer.pipeline.model.instance_head.classifier.weight, best)


def test_saves_on_time_and_resumes(frozen_config, train, monkeypatch):
    built = []
    init = CachedTraining.__init__
    monkeypatch.setattr(CachedTraining, "__init__", lambda self, *args: (built.append(args[1]), init(self, *args))[0])
    config = frozen_config()
    config.max_num_iterations, config.steps_per_save, config.save_only_latest_checkpoint = 30, 12, False
    trainer = train(config)
    names = sorted(path.name for path in trainer.checkpoint_dir.iterdir())
    assert names == [f"step-{step:09d}.ckpt" for step in (12, 24, 29)]
    resumed = frozen_config()
    resumed.load_dir, resumed.output_dir = trainer.checkpoint_dir, config.output_dir / "resumed"
    again = train(resumed)
    assert built == [30, 10]
    assert [path.name for path in again.checkpoint_dir.iterdir()] == ["step-000000039.ckpt"]
    assert next(iter(again.optimizers.optimizers["instance_head"].state.values()))["step"] == 40


def test_voxels_train_too(frozen_config, train, tmp_path):
    masks = np.zeros((2, 4, 4, 4), dtype=bool)
    masks[0, :2] = masks[1, 2:] = True
    corners = {"bbox_min": np.full(3, -1.0), "bbox_max": np.full(3, 1.0)}
    np.savez(tmp_path / "voxels.npz", masks=masks, scores=np.ones(2), **corners)
    config = frozen_config(instance_voxels=tmp_path / "voxels.npz")
    config.max_num_iterations = 3
    trainer = train(config)
    training = CachedTraining(trainer, 3)
    training.step()
    assert set(training.loss) == {"instance_loss", "voxel_loss"}
    assert all(loss > 0 for loss in training.loss.values())


def test_memory_bounds_the_cache(frozen_config, train):
    config = frozen_config()
    config.max_num_iterations = 3
    trainer = train(config)
    assert len(CachedTraining(trainer, 10).pixels.pixels) < 600  # ten batches of 256 need no more
    trainer.pipeline.config.cached_training.cache_bytes = 100_000
    small = CachedTraining(trainer, 10**6).samples
    assert 0.5e5 < sum(x.numel() * x.element_size() for x in vars(small).values()) < 1.2e5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: setattr(c.pipeline.model, "use_label_regularization", True), "compares whole patches"),
        (lambda c: setattr(c.pipeline.cached_training, "enabled", False), "enabled is off"),
        (lambda c: c.gradient_accumulation_steps.update(instance_head=2), "gradients accumulate"),
    ],
)
def test_rays_are_marched_where_samples_do_not_do(frozen_config, train, monkeypatch, change, reason):
    said = []
    monkeypatch.setattr("instance_nerfstudio.instance_trainer.CONSOLE.print", lambda text, **_: said.append(str(text)))
    marched = []
    march = NerfactoModel.forward
    monkeypatch.setattr(NerfactoModel, "forward", lambda self, rays: (marched.append(1), march(self, rays))[1])
    config = frozen_config()
    config.max_num_iterations = 3
    change(config)
    train(config)
    assert len(marched) >= 3
    assert any("marches its rays anew" in text and reason in text for text in said)
