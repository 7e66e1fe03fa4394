"""`instance-splatfacto` on the scene of two balls, without a GPU."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from ball_scene import CENTRES, IDS, RADII, shrunken_config, train, write_scene
from rich.progress import Progress
from splat_scene import small_splats

from instance_nerfstudio.edits.instance_edits import Edit, InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.export_instances import ExportInstances
from instance_nerfstudio.export.export_masks import ExportMasks
from instance_nerfstudio.load_run import load_run
from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json
from instance_nerfstudio.splats.classic_splats import classic_splats, exported_classic
from instance_nerfstudio.splats.lift import held_out_miou, lift, lifted_instead
from instance_nerfstudio.splats.lift_command import lift_splats
from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.splat_ply import read_splat_ply
from instance_nerfstudio.splats.start_points import use_start_points
from instance_nerfstudio.splats.teacher import learn_from
from instance_nerfstudio.viewer.picking import pick


@pytest.fixture(scope="module")
def trained_splats(closed_network: None, shared_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    config = small_splats(shared_scene, tmp_path_factory.mktemp("splats") / "out")
    config.max_num_iterations = 120
    return train(config)


@pytest.fixture
def model(trained_splats: Any) -> Iterator[Any]:
    model = trained_splats.pipeline.model
    yield model
    model.instance_panel.live = False


def _training_cameras(trainer: Any) -> Any:
    return trainer.pipeline.datamanager.train_dataset.cameras


def _camera(trainer: Any, view: int = 0) -> Any:
    return _training_cameras(trainer)[view : view + 1]


def _drawable(splats: SplatParameters) -> torch.Tensor:
    """Opacities of those that are written."""
    return splats.opacities[splats.finite() & splats.visible()]


def _truth(scene: Path, view: int = 0) -> np.ndarray:
    return read_instance_mask(scene / "instance_masks" / f"{view}.png")


def _iou(predicted: np.ndarray, truth: np.ndarray, instance: int) -> float:
    both = (predicted == instance) & (truth == instance)
    return float(both.sum() / ((predicted == instance) | (truth == instance)).sum())


def test_splats_learn_colours_and_instances(trained_splats: Any, model: Any, shared_scene: Path) -> None:
    metrics = trained_splats.pipeline.get_average_eval_image_metrics()
    assert metrics["instance_miou"] > 0.5
    assert "lpips" not in metrics
    outputs = model.render(_camera(trained_splats))
    assert outputs["instance_ids"].dtype == torch.int32
    assert {name: output.shape[-1] for name, output in outputs.items()} == {
        "rgb": 3, "depth": 1, "accumulation": 1, "background": 3, "instance_ids": 1, "instance_confidence": 1,
        "instances": 3, "instances_overlay": 3,
    }  # fmt: skip
    found = outputs["instance_ids"][..., 0].numpy()
    assert min(_iou(found, _truth(shared_scene), i) for i in IDS) > 0.5
    # Densification has made more of them, and each has a feature.
    assert model.num_points != 500
    assert len(model.instance_features) == len(model.means)
    shown = model.get_outputs_for_camera(_camera(trained_splats))
    assert "instance_ids" not in shown, "nerfstudio's viewer has no colormap for integers"
    assert next(iter(shown)) == "rgb"


def test_instances_leave_colours_as_splatfacto_trains_them(
    closed_network: None, shared_scene: Path, tmp_path: Path
) -> None:
    runs = []
    for instances in (True, False):
        config = small_splats(shared_scene, tmp_path / str(instances), use_instances=instances, instance_start_step=0)
        config.max_num_iterations = 6
        runs.append(train(config).pipeline.model)
    for name, values in runs[1].gauss_params.items():
        assert torch.equal(values, runs[0].gauss_params[name]), name
    assert "instance_features" not in runs[1].gauss_params
    assert bool(runs[0].instance_features.any())


def test_gradients_of_instances_reach_features_alone(trained_splats: Any, model: Any) -> None:
    pipeline = trained_splats.pipeline
    pipeline.train()
    model.zero_grad()
    camera, batch = pipeline.datamanager.next_train(0)
    outputs = model(camera)
    losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    losses["instance_loss"].backward()
    pipeline.eval()
    reached = {name for name, values in model.named_parameters() if values.grad is not None and values.grad.any()}
    model.zero_grad()
    assert reached == {"gauss_params.instance_features", "instance_head.classifier.weight"}


def test_depth_is_along_rays(trained_splats: Any, model: Any) -> None:
    camera = _camera(trained_splats)
    outputs = model.render(camera)
    rays = camera.generate_rays(camera_indices=0)
    solid = (outputs["accumulation"] > 0.9)[..., 0] & (outputs["instance_ids"] > 0)[..., 0]
    parsed = trained_splats.pipeline.datamanager.train_dataparser_outputs
    points = (rays.origins + rays.directions * outputs["depth"])[solid] / parsed.dataparser_scale
    points = (points - parsed.dataparser_transform[:, 3]) @ parsed.dataparser_transform[:, :3]
    centres = torch.from_numpy(CENTRES).float()
    radii = torch.from_numpy(RADII).float()
    outside = ((points[:, None] - centres).norm(dim=-1) - radii).abs().amin(dim=1)
    assert float(outside.median()) < 0.15
    seen = model.get_outputs_for_camera(camera)["depth"]
    corner = outputs["depth"][0, 0, 0] / seen[0, 0, 0]
    height, width = seen.shape[:2]
    expected = float(torch.tensor([(width - 1) / 2, (height - 1) / 2, float(camera.fx)]).norm() / camera.fx)
    assert float(corner) == pytest.approx(expected, rel=1e-4)


def test_hidden_instances_are_whole_gaussians(trained_splats: Any, model: Any, shared_scene: Path) -> None:
    camera, truth = _camera(trained_splats), _truth(shared_scene)
    whole = model.render(camera)
    hidden = model.render(camera, edits=InstanceEdits(hidden=frozenset({300})))
    assert not bool((hidden["instance_ids"] == 300).any())
    ids, opacities = model.gaussian_ids(), model.opacities.data.clone()
    assert min(int((ids == instance).sum()) for instance in IDS) > 20
    try:
        model.opacities.data[ids == 300] = -30
        torch.testing.assert_close(hidden["rgb"], model.render(camera)["rgb"])
    finally:
        model.opacities.data = opacities
    assert float((hidden["rgb"] - whole["rgb"]).abs()[truth == 300].mean()) > 0.03
    alone = model.render(camera, edits=InstanceEdits(isolated=frozenset({1})))
    assert set(alone["instance_ids"].unique().tolist()) <= {0, 1}
    assert float(alone["accumulation"][truth == 300].mean()) < 0.5
    nothing = InstanceEdits(hidden=frozenset({0, 1, 300}))
    empty = model.render(camera, edits=nothing)
    assert not bool(empty["instance_ids"].any())
    assert empty["rgb"].shape == whole["rgb"].shape
    merged = InstanceEdits().after(Edit("merge", (1, 300)), IDS)
    assert 300 not in model.gaussian_ids(merged)
    assert int((model.gaussian_ids(merged) == 1).sum()) == int((ids > 0).sum())


def test_unseen_gaussians_abstain(trained_splats: Any, model: Any) -> None:
    features = model.instance_features
    before = features.data.clone()
    try:
        features.data[:7] = 0
        ids = model.gaussian_ids()
        assert (ids[:7] == -1).all()
        assert (ids[7:] >= 0).sum() >= len(ids) - 7 - int((before[7:] == 0).all(-1).sum())
    finally:
        features.data = before


def test_a_click_finds_the_ball(trained_splats: Any, model: Any, shared_scene: Path) -> None:
    camera, truth = _camera(trained_splats), _truth(shared_scene)
    rays = camera.generate_rays(camera_indices=0)
    for instance in IDS:
        rows, columns = np.nonzero(truth == instance)
        row, column = int(np.median(rows)), int(np.median(columns))
        picked = pick(model, rays.origins[row, column].tolist(), rays.directions[row, column].tolist())
        assert picked.instance == instance


def test_runs_are_opened_without_masks_and_photos_labels(trained_splats: Any, model: Any) -> None:
    pipeline = load_run(trained_splats.base_dir / "config.yml")
    assert pipeline.model.instance_head.instance_ids.tolist() == [0, *IDS]
    again = pipeline.model.render(_camera(trained_splats))
    whole = model.render(_camera(trained_splats))
    assert (again["instance_ids"] == whole["instance_ids"]).float().mean() > 0.999
    torch.testing.assert_close(again["rgb"], whole["rgb"], atol=1e-4, rtol=0)


def test_exports(trained_splats: Any, model: Any, shared_scene: Path, tmp_path: Path) -> None:
    pipeline, config = trained_splats.pipeline, trained_splats.base_dir / "config.yml"
    masks, objects = tmp_path / "masks", tmp_path / "objects"
    masks.mkdir()
    ExportMasks(config, masks, cameras="train").export(pipeline, masks)
    exported = read_instance_mask(masks / "instance_masks" / "0.png")
    assert min(_iou(exported, _truth(shared_scene), i) for i in IDS) > 0.5
    objects.mkdir()
    with Progress(disable=True) as progress:
        infos, solid = ExportInstances(config, objects, thumbnail_size=64).export(pipeline, objects, progress)
    assert [info.id for info in infos] == list(IDS)
    assert solid == 2
    everything, ids = read_splat_ply(objects / "splats.ply")
    assert ids is not None
    assert torch.equal(everything.opacities, _drawable(classic_splats(model, _training_cameras(trained_splats))))
    assert set(ids.tolist()) <= {-1, 0, *IDS}
    for info, centre, radius in zip(infos, CENTRES, RADII, strict=True):
        one, own = read_splat_ply(objects / "splats" / f"{info.id:05d}.ply")
        assert own is not None
        assert set(own.tolist()) == {info.id}
        assert len(one) == int((ids == info.id).sum())
        distance = (one.means - torch.from_numpy(centre).float()).norm(dim=-1)
        assert abs(float(distance.median()) - radius) < 0.2, "in the world frame"
        cloud: Any = trimesh.load(objects / "splats" / f"{info.id:05d}.ply")
        assert cloud.vertices.shape == (len(one), 3)
        assert info.box_world is not None
        assert (objects / "thumbnails" / f"{info.id:05d}.png").is_file()
    files = json.loads((objects / "instances.json").read_text())
    assert "splats/00300.ply" in json.dumps(files)


def test_exports_for_a_viewer_that_antialiases(trained_splats: Any, model: Any, tmp_path: Path) -> None:
    export = ExportInstances(trained_splats.base_dir / "config.yml", tmp_path, antialiased_viewer=True)
    with Progress(disable=True) as progress:
        export.export(trained_splats.pipeline, tmp_path, progress)
    everything, _ids = read_splat_ply(tmp_path / "splats.ply")
    assert torch.equal(everything.opacities, _drawable(SplatParameters.of(model.gauss_params)))


def test_the_stock_export_of_splats_gets_classic_ones(trained_splats: Any, model: Any) -> None:
    config = trained_splats.base_dir / "config.yml"
    loaded = exported_classic(lambda path, test_mode: (None, load_run(path), test_mode))(config, test_mode="inference")
    assert loaded[2] == "inference"
    expected = classic_splats(model, _training_cameras(trained_splats))
    torch.testing.assert_close(loaded[1].model.opacities, expected.opacities)
    torch.testing.assert_close(loaded[1].model.scales, expected.scales)
    assert (loaded[1].model.opacities < model.opacities).float().mean() > 0.5
    other = SimpleNamespace(model=SimpleNamespace())
    assert exported_classic(lambda: (None, other))() == (None, other)


def test_lifting_needs_no_training(trained_splats: Any, model: Any, shared_scene: Path) -> None:
    pipeline = trained_splats.pipeline
    features = model.instance_features
    with Progress(disable=True) as progress:
        lifted = lift(pipeline, progress)
    with lifted_instead(model, lifted):
        assert model.config.instance_feature_dim == 3  # background and two balls: one-hot
        score = held_out_miou(pipeline)
        assert score is not None
        assert score > 0.5
        # Each class keeps its matter: whoever is inside a ball is of that ball or hidden in it.
        assert set(model.gaussian_ids().tolist()) <= {-1, 0, *IDS}
    assert model.instance_features is features
    assert model.config.instance_feature_dim == 16


def test_a_plain_run_is_lifted(trained_splats: Any, model: Any, tmp_path: Path, capsys: Any) -> None:
    run = _plain_run(trained_splats, tmp_path / "outputs" / "scene" / "splatfacto" / "run")
    config = lift_splats(run / "config.yml", rasterizer="reference", device="cpu")
    assert config.parent.parent == tmp_path / "outputs" / "scene" / "instance-splatfacto"
    pipeline = load_run(config)
    assert pipeline.model.config.background_color == "white", "the run's own options"
    torch.testing.assert_close(pipeline.model.means, model.means)
    score = held_out_miou(pipeline)
    assert score is not None
    assert score > 0.5
    again = lift_splats(config, device="cpu")
    assert again != config
    with pytest.raises(InputError, match="no such file"):
        lift_splats(tmp_path / "outputs" / "scene" / "splatfacto" / "run" / "other.yml", device="cpu")
    with pytest.raises(InputError, match="no such file"):
        lift_splats(tmp_path / "nowhere" / "config.yml", device="cpu")


def test_masks_of_another_scene(trained_splats: Any, tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other", ids=(4, 5))
    with pytest.raises(InputError, match="not those of the masks"):
        lift_splats(trained_splats.base_dir / "config.yml", other / "instance_masks", device="cpu")


def test_one_instance(closed_network: None, tmp_path: Path) -> None:
    """K = 1, seen in one view only."""
    scene = write_scene(tmp_path / "scene", ids=(7, 8))
    masks = sorted((scene / "instance_masks").glob("*.png"))
    write_instance_mask(masks[0], 7 * (_truth(scene) == 7))
    for mask in masks[1:]:
        mask.unlink()
    write_instances_json(scene / "instances.json", [InstanceInfo(7)])
    config = small_splats(scene, tmp_path / "out")
    config.max_num_iterations = 12
    trainer: Any = train(config)
    assert trainer.pipeline.model.instance_head.instance_ids.tolist() == [0, 7]
    with Progress(disable=True) as progress:
        lifted = lift(trainer.pipeline, progress)
    assert bool((lifted.classes == 1).any())
    abstains = lifted.classes < 0  # what only the unlabelled views see
    assert not bool(lifted.features[abstains].any())


def test_a_nerf_teaches(closed_network: None, shared_scene: Path, trained_once: Any, tmp_path: Path) -> None:
    lesson = learn_from(trained_once.base_dir / "config.yml", tmp_path / "lesson", True)
    assert lesson.masks is not None
    assert len(list(lesson.masks.glob("*.png"))) == 4
    cloud: Any = trimesh.load(lesson.points)
    assert len(cloud.vertices) > 100
    assert learn_from(tmp_path / "gone.yml", tmp_path / "lesson", True) == lesson, "a run that is gone on with"
    bare = shrunken_config(shared_scene, tmp_path / "bare", use_instances=False)
    bare.max_num_iterations = 1
    plain = learn_from(train(bare).base_dir / "config.yml", tmp_path / "plain", True)
    assert plain.masks is None
    config = small_splats(shared_scene, tmp_path / "out")
    config.pipeline.datamanager.start_points = None
    config.pipeline.teacher = trained_once.base_dir / "config.yml"
    config.pipeline.teacher_views = 2
    config.max_num_iterations = 2
    pipeline = train(config).pipeline
    model = pipeline.model
    assert 1 <= len(pipeline.datamanager._teacher_views) <= 2
    assert model.num_points == len(cloud.vertices)
    assert model.instance_head.instance_ids.tolist() == trained_once.pipeline.model.instance_head.instance_ids.tolist()
    with pytest.raises(InputError, match=r"gone\.yml: no such file"):
        learn_from(tmp_path / "gone.yml", tmp_path / "other", True)


def test_start_points_that_are_none(shared_scene: Path, trained_splats: Any, tmp_path: Path) -> None:
    outputs = trained_splats.pipeline.datamanager.train_dataparser_outputs
    with pytest.raises(InputError, match="no such file"):
        use_start_points(outputs, tmp_path / "none.ply")
    (tmp_path / "text.ply").write_text("not a ply")
    with pytest.raises(InputError, match=r"text\.ply: not a PLY point cloud"):
        use_start_points(outputs, tmp_path / "text.ply")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_no_gpu_is_one_line(shared_scene: Path, tmp_path: Path) -> None:
    config = small_splats(shared_scene, tmp_path / "out", rasterizer="gsplat")
    with pytest.raises(InputError, match="instance-splatfacto needs a CUDA device"):
        train(config)


def _plain_run(trainer: Any, folder: Path) -> Path:
    """A run as `ns-train splatfacto` leaves it, with the Gaussians of another."""
    import yaml
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.models.splatfacto import SplatfactoModelConfig

    config: Any = method_configs["splatfacto"]
    own = trainer.config.pipeline
    names = [name for name in SplatfactoModelConfig.__dataclass_fields__ if name != "_target"]
    config.pipeline.model = SplatfactoModelConfig(**{name: getattr(own.model, name) for name in names})
    config.data = config.pipeline.datamanager.data = config.pipeline.datamanager.dataparser.data = own.datamanager.data
    config.output_dir, config.experiment_name, config.timestamp = folder.parents[2], folder.parents[1].name, folder.name
    models = folder / "nerfstudio_models"
    models.mkdir(parents=True)
    state = {name: value for name, value in trainer.pipeline.state_dict().items() if "instance_" not in name}
    torch.save({"step": 79, "pipeline": state}, models / "step-000000079.ckpt")
    (folder / "config.yml").write_text(yaml.dump(config))
    return folder
