"""A frozen radiance field: read from another run, never changed, refused where it does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.frozen_field.radiance_checkpoint import adopt_radiance_options, find_checkpoint, load_radiance

PARTS = ("field", "proposal_networks", "camera_optimizer")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the trained run's folder."""
    return Path(shutil.copytree(trained.base_dir, tmp_path / "run"))


def radiance(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.split(".")[0] in PARTS}


def test_field_stays_as_it_is_and_the_head_learns(trained, make_config, train, shared_scene, tmp_path):
    config = make_config(shared_scene, tmp_path, radiance_checkpoint=trained.base_dir, instance_start_step=1000)
    config.max_num_iterations = 30
    trainer = train(config)
    theirs, ours = trained.pipeline.model, trainer.pipeline.model
    frozen = radiance(ours.state_dict())
    assert len(frozen) > 5
    for key, value in radiance(theirs.state_dict()).items():
        assert torch.equal(frozen[key], value), key
    assert list(trainer.optimizers.optimizers) == ["instance_head"]
    assert ours.instance_head.classifier.weight.abs().max() > 0.01
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    outputs = ours.render(camera)
    torch.testing.assert_close(outputs["rgb"], theirs.render(camera)["rgb"])
    truth = trainer.pipeline.datamanager.train_dataset[0]["instances"]
    assert (outputs["instance_ids"] == truth).float().mean() > (truth == 0).float().mean()


def test_frozen_training_leaves_out_what_no_loss_reads(make_pipeline, trained):
    pipeline = make_pipeline(radiance_checkpoint=trained.base_dir)
    pipeline.train()
    pipeline.model.instances_active = True
    outputs, losses, metrics = pipeline.get_train_loss_dict(0)
    assert "rgb" not in outputs
    assert set(losses) == {"instance_loss"}
    assert set(metrics) == {"instance_accuracy"}
    assert not outputs["accumulation"].requires_grad
    assert outputs["instance_logits"].requires_grad
    assert set(pipeline.get_param_groups()) == {"instance_head"}


@pytest.mark.parametrize("options", [{"use_instances": False}, {"use_instance_loss": False}])
def test_frozen_field_without_anything_to_train(make_pipeline, tmp_path, options):
    with pytest.raises(InputError, match=r"radiance-checkpoint: .*nothing trains"):
        make_pipeline(radiance_checkpoint=tmp_path, **options)


@pytest.mark.parametrize("given", ["", "config.yml", "nerfstudio_models", "nerfstudio_models/step-000000059.ckpt"])
def test_ways_to_name_a_run(run, given):
    assert find_checkpoint(run / given) == run / "nerfstudio_models/step-000000059.ckpt"


def test_latest_checkpoint_is_taken(run):
    for step in (3, 1000, 200):
        (run / f"nerfstudio_models/step-{step:09d}.ckpt").touch()
    assert find_checkpoint(run).name == "step-000001000.ckpt"
    (run / "nerfstudio_models/step-000000070.tmp").touch()
    assert find_checkpoint(run / "nerfstudio_models/step-000000200.ckpt").name == "step-000000200.ckpt"


@pytest.mark.parametrize("given", ["nowhere", "config.yml", "step-000000001.ckpt"])
def test_run_without_a_checkpoint(tmp_path, given):
    (tmp_path / "config.yml").touch()
    with pytest.raises(InputError, match=f"{given}: no checkpoint there"):
        find_checkpoint(tmp_path / given)


def test_no_such_config(run):
    with pytest.raises(InputError, match=r"other\.yml: no such file; give the config\.yml of a run"):
        find_checkpoint(run / "other.yml")


def test_copies_the_three_parts_alone(make_pipeline, trained, run):
    model = make_pipeline().model
    head = {key: value.clone() for key, value in model.instance_head.state_dict().items()}
    load_radiance(model, run)
    for key, value in radiance(trained.pipeline.model.state_dict()).items():
        assert torch.equal(model.state_dict()[key], value), key
    for key, value in model.instance_head.state_dict().items():
        assert torch.equal(value, head[key]), key


def check_refused(model: nn.Module, run: Path, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        load_radiance(model, run)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"hidden_dim": 24}, {"log2_hashmap_size": 11}, {"num_proposal_iterations": 2}])
def test_run_of_another_size(make_pipeline, run, options):
    check_refused(make_pipeline(**options).model, run, r"step-000000059\.ckpt: its .* does not fit")


def test_run_of_fewer_views(make_pipeline, run, scene, edit_transforms):
    edit_transforms(scene, lambda meta: meta["train_filenames"].pop())
    check_refused(make_pipeline(scene).model, run, r"step-000000059\.ckpt: its field does not fit")


@pytest.mark.parametrize("change", ["transform", "scale"])
def test_run_in_another_frame(make_pipeline, run, change):
    path = run / "dataparser_transforms.json"
    theirs = json.loads(path.read_text())
    if change == "scale":
        theirs["scale"] *= 1.001
    else:
        theirs["transform"][0][3] += 0.01
    path.write_text(json.dumps(theirs))
    check_refused(make_pipeline().model, run, r"dataparser_transforms\.json: ")
    path.unlink()
    load_radiance(make_pipeline().model, run)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": _half,
    "text": lambda path: path.write_text("hello"),
    "weights of something else": lambda path: torch.save({"weights": 1}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "code": lambda path: torch.save({"pipeline": nn.Linear(1, 1)}, path),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoints(make_pipeline, run, name):
    DAMAGE[name](run / "nerfstudio_models/step-000000059.ckpt")
    check_refused(make_pipeline().model, run, r"step-000000059\.ckpt: not a readable")


@pytest.mark.parametrize("text", ["{", "[]", '{"transform": [[1, 2], [3]], "scale": 1}', '{"scale": 1}'])
def test_damaged_frame(make_pipeline, run, text):
    (run / "dataparser_transforms.json").write_text(text)
    check_refused(make_pipeline().model, run, r"dataparser_transforms\.json: ")


def test_options_that_a_run_tells_are_adopted(make_config, shared_scene, tmp_path, run):
    checkpoint = find_checkpoint(run)
    saved = torch.load(checkpoint, weights_only=True)
    saved["pipeline"]["_model.field.embedding_appearance.embedding.weight"] = torch.zeros(4, 12)
    saved["pipeline"]["_model.camera_optimizer.pose_adjustment"] = torch.zeros(4, 6)
    saved["pipeline"]["_model.field.log2_hashmap_size"] = torch.tensor(17)
    torch.save(saved, checkpoint)
    (run / "config.yml").write_text("!!python/object:nobody.Loads\n  model:\n    average_init_density: 0.25\n")
    model = make_config(shared_scene, tmp_path).pipeline.model
    adopt_radiance_options(model, run)
    assert (model.use_appearance_embedding, model.appearance_embed_dim) == (True, 12)
    assert model.camera_optimizer.mode == "SO3xR3"
    assert (model.log2_hashmap_size, model.average_init_density) == (17, 0.25)

    for key in ("field.embedding_appearance.embedding.weight", "camera_optimizer.pose_adjustment"):
        del saved["pipeline"][f"_model.{key}"]
    torch.save(saved, checkpoint)
    adopt_radiance_options(model, run)
    assert (model.use_appearance_embedding, model.camera_optimizer.mode) == (False, "off")
