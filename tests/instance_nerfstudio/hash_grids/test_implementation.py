"""Which implementation a model gets, what is said about it, and checkpoints between them."""

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.frozen_field.radiance_checkpoint import adopt_radiance_options, find_checkpoint, load_radiance
from instance_nerfstudio.hash_grids import implementation
from instance_nerfstudio.hash_grids.hash_grid import HashGrid
from instance_nerfstudio.hash_grids.implementation import choose_implementation, in_nerfstudios_terms
from instance_nerfstudio.instance_head import InstanceHeadConfig


@pytest.fixture
def console(monkeypatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(CONSOLE, "file", file)
    return file


@pytest.fixture
def problems(monkeypatch):
    """`problems(tcnn=..., triton=...)`: what keeps them from being used on a CUDA device; None if nothing does."""

    def set_problems(tcnn: str | None, triton: str | None, installed: bool = True) -> None:
        monkeypatch.setattr(implementation, "tcnn_problem", lambda device: tcnn)
        monkeypatch.setattr(implementation, "triton_problem", lambda device: triton)
        monkeypatch.setattr(implementation, "find_spec", lambda name: SimpleNamespace() if installed else None)

    return set_problems


@pytest.mark.parametrize(
    ("wanted", "tcnn", "triton", "chosen", "said"),
    [
        ("auto", None, None, "tcnn", ""),
        ("auto", "tcnn crashed", None, "triton", "tcnn crashed. Using triton instead.\n"),
        ("auto", "tcnn crashed", "GPU too old", "torch", "tcnn crashed; GPU too old. Using torch instead.\n"),
        ("tcnn", None, None, "tcnn", ""),
        ("tcnn", "tcnn crashed", None, "triton", "tcnn crashed. Using triton instead.\n"),
        ("triton", None, None, "triton", ""),
        ("triton", None, "GPU too old", "torch", "GPU too old. Using torch instead.\n"),
        ("torch", None, None, "torch", ""),
    ],
)
def test_choice(problems, console, wanted, tcnn, triton, chosen, said):
    problems(tcnn, triton)
    assert choose_implementation(wanted, "cuda") == chosen
    assert console.getvalue() == said


def test_auto_says_nothing_where_nothing_can_be_mended(problems, console):
    problems("tcnn is not installed", None, installed=False)
    assert choose_implementation("auto", "cuda") == "triton"
    problems("tcnn needs CUDA", "Triton needs CUDA")
    assert choose_implementation("auto", "cpu") == "torch"
    assert console.getvalue() == ""


@pytest.mark.parametrize("wanted", ["tcnn", "triton"])
def test_a_cpu_gets_torch_and_one_line(console, wanted):
    assert choose_implementation(wanted, "cpu") == "torch"
    assert console.getvalue().count("\n") == 1
    assert console.getvalue().endswith("Using torch instead.\n")


def test_why_triton_can_not_be_used(monkeypatch):
    problem, device = implementation.triton_problem.__wrapped__, torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Old")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(implementation, "find_spec", lambda name: None)
    assert problem(device) == "Triton is not installed (it comes with torch's CUDA builds for Linux)"
    monkeypatch.setattr(implementation, "find_spec", lambda name: SimpleNamespace())
    assert problem(device) == "NVIDIA Old has compute capability 6.1, Triton needs 7.0"
    # No compiler, no driver: whatever the first launch raises is the reason, in one line.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))

    def zeros(*_, **__):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(torch, "zeros", zeros)
    assert problem(device) == "Triton does not run here (Failed to find C compiler.)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_is_chosen_on_the_gpu(console):
    assert choose_implementation("triton", "cuda") == "triton"
    assert console.getvalue() == ""


def test_nerfstudio_gets_its_own_names_for_a_while():
    config = SimpleNamespace(implementation="auto")
    with in_nerfstudios_terms(config, "triton"):
        assert config.implementation == "torch"
    assert config.implementation == "auto"


def grids(module: torch.nn.Module) -> list[HashGrid]:
    return [child for child in module.modules() if isinstance(child, HashGrid)]


def test_triton_reaches_every_grid_and_shares_checkpoints(make_pipeline, monkeypatch):
    monkeypatch.setattr(implementation, "triton_problem", lambda device: None)
    fused, plain = make_pipeline(implementation="triton").model, make_pipeline(implementation="torch").model
    assert fused.config.implementation == "triton"
    assert len(grids(fused)) == len(grids(plain)) == 3
    assert all(grid.fused for grid in grids(fused))
    assert not any(grid.fused for grid in grids(plain))
    for ours, theirs in ((fused, plain), (plain, fused)):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))


def compare_fields(make_pipeline, device: str) -> None:
    """Density, normals, and the gradients for poses and tables, of a nerfacto field whose normals are predicted."""
    results = []
    for name in ("triton", "torch"):
        model = make_pipeline(implementation=name, predict_normals=True).model.to(device)
        for grid in grids(model.field):
            torch.nn.init.uniform_(grid.hash_table, generator=torch.Generator(device).manual_seed(0))
        origins = (torch.rand(300, 4, 3, generator=torch.Generator().manual_seed(1)) * 3 - 1.5).to(device)
        origins.requires_grad_()
        zeros = torch.zeros_like(origins[..., :1])
        frustums = Frustums(origins, torch.ones_like(origins), zeros, zeros, zeros)
        density, geometry = model.field.get_density(RaySamples(frustums))
        normals = model.field.get_normals()
        (density.log() + geometry.sum(-1, keepdim=True)).sum().backward()
        results.append([density, normals, origins.grad, *(grid.hash_table.grad for grid in grids(model.field))])
    # A sample on a vertex has the slope of one side or of the other.
    for ours, theirs in zip(*results, strict=True):
        near = torch.isclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=1e-3)
        assert near.float().mean() > 0.999


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fused_field_matches_torch_on_the_gpu(make_pipeline, monkeypatch):
    monkeypatch.setattr(implementation, "triton_problem", lambda device: None)
    compare_fields(make_pipeline, "cuda")


@pytest.mark.parametrize("name", ["triton", "torch"])
def test_head_alone(name):
    config = InstanceHeadConfig(num_levels=2, max_res=32, log2_hashmap_size=5)
    head = config.setup(geometry_dim=3, instance_ids=torch.tensor([0, 4]), implementation=name)
    assert [grid.fused for grid in grids(head)] == [name == "triton"]
    assert head(torch.rand(5, 3), torch.rand(5, 3)).shape == (5, 64)  # on a CPU both are torch


def test_what_auto_found_is_written_down(make_pipeline):
    pipeline = make_pipeline(implementation="auto")
    saved = []
    config = SimpleNamespace(load_dir=None, load_checkpoint=None)
    config.save_config = lambda: saved.append(pipeline.config.model.implementation)
    trainer: Any = SimpleNamespace(config=config, local_rank=0)
    pipeline.get_training_callbacks(TrainingCallbackAttributes(None, None, pipeline, trainer))
    assert saved == ["torch"]


@pytest.fixture
def tcnn_run(trained, tmp_path):
    """A run whose checkpoint has the layout of tiny-cuda-nn."""
    checkpoint = find_checkpoint(trained.base_dir)
    saved = torch.load(checkpoint, weights_only=True)
    state = {key: value for key, value in saved["pipeline"].items() if "mlp_base" not in key}
    state["_model.field.mlp_base.model.params"] = torch.zeros(100)
    torch.save({"pipeline": state}, tmp_path / "step-000000001.ckpt")
    return tmp_path


def test_the_layout_of_tcnn_is_refused(make_pipeline, tcnn_run):
    pipeline = make_pipeline()
    with pytest.raises(InputError, match=r"step-000000001\.ckpt: holds parameters of tiny-cuda-nn"):
        load_radiance(pipeline.model, tcnn_run)
    state = torch.load(find_checkpoint(tcnn_run), weights_only=True)["pipeline"]
    before = copy.deepcopy(pipeline.model.state_dict())
    with pytest.raises(InputError, match="holds parameters of tiny-cuda-nn"):
        pipeline.load_pipeline(state, 1)  # as resuming and every ns-* command do
    assert all(torch.equal(value, before[key]) for key, value in pipeline.model.state_dict().items())


def test_the_layout_of_torch_is_refused_by_tcnn(make_pipeline, trained):
    model = make_pipeline().model
    model.field.register_parameter("params", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(InputError, match=r"was trained without tiny-cuda-nn; .*implementation triton"):
        load_radiance(model, trained.base_dir)


def test_auto_follows_the_frozen_run(make_config, shared_scene, tmp_path, trained, tcnn_run, monkeypatch):
    for run, cuda, expected in (
        (trained.base_dir, False, "torch"),
        (trained.base_dir, True, "triton"),
        (tcnn_run, True, "tcnn"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        model = make_config(shared_scene, tmp_path, implementation="auto").pipeline.model
        adopt_radiance_options(model, run)
        assert model.implementation == expected
    model = make_config(shared_scene, tmp_path, implementation="torch").pipeline.model
    adopt_radiance_options(model, trained.base_dir)
    assert model.implementation == "torch"
