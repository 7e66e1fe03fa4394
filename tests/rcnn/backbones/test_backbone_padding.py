"""Padding a batch changes nothing inside the grids, whatever the padding holds."""

from dataclasses import replace

import pytest
import torch
from backbone_cases import NARROW, SIZES, random_grids, randomize_norms, spoil_padding, sum_of_squares
from torch import nn

from rcnn.backbones import STRIDES, GridBatch, SwinConfig, build_backbone
from rcnn.backbones.norms import BatchNorm, GroupNorm
from rcnn.backbones.padding import Padding, pack_cells, unpack_cells


@pytest.mark.parametrize("name", NARROW)
def test_padded_grids_get_what_they_get_alone(name: str) -> None:
    """Outputs, and gradients of all weights, in double precision."""
    torch.manual_seed(0)
    config = NARROW[name]
    if isinstance(config, SwinConfig):
        config = replace(config, stochastic_depth=0.0)
    model = build_backbone(config).double()
    randomize_norms(model)
    # BatchNorm in training takes statistics over the batch.
    model.train(not any(isinstance(module, BatchNorm) for module in model.modules()))
    grids = [grid.double() for grid in random_grids()]
    batch = spoil_padding(GridBatch.collate(grids))
    together = model(batch)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(sum_of_squares(together), parameters)
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for n, grid in enumerate(grids):
        alone = model(GridBatch.collate([grid]))
        for stride, padded, single in zip(STRIDES, together, alone, strict=True):
            extent = tuple(-(-voxels // stride) for voxels in SIZES[n])
            assert single.shape == (1, config.out_channels, *extent)
            x, y, z = extent
            torch.testing.assert_close(padded[n : n + 1, :, :x, :y, :z], single, rtol=0, atol=1e-9)
            assert padded[n].count_nonzero() == single.count_nonzero()
        for total, gradient in zip(sums, torch.autograd.grad(sum_of_squares(alone), parameters), strict=True):
            total += gradient
    torch.testing.assert_close(sums, list(gradients), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", ["bottleneck", "vgg"])
def test_batch_norm_learns_from_the_cells_inside(name: str) -> None:
    torch.manual_seed(0)
    (grid,) = random_grids([(34, 40, 20)])
    batch = GridBatch(torch.full((2, 4, 50, 41, 24), float("nan")), ((34, 40, 20),) * 2)
    batch.features[:, :, :34, :40, :20] = grid
    models = [build_backbone(NARROW[name]).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    plain = models[0](GridBatch.collate([grid.double()] * 2))
    padded = models[1](batch.to("cpu"))
    for alone, level in zip(plain, padded, strict=True):
        x, y, z = alone.shape[2:]
        torch.testing.assert_close(level[:, :, :x, :y, :z], alone, rtol=0, atol=1e-9)
    for (key, first), second in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, msg=key)
    statistics = models[1].state_dict()
    assert statistics["stem.norm.num_batches_tracked"] == 1
    assert (statistics["stem.norm.running_mean"] != 0).all()


def test_batch_norm_has_the_gradients_of_its_formula() -> None:
    torch.manual_seed(0)
    shape, extents = (3, 4, 7), ((3, 2, 7), (2, 4, 1))
    norm = BatchNorm(12).double()
    randomize_norms(nn.ModuleDict({"norm": norm}))
    x = torch.randn(2, 12, *shape, dtype=torch.double).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    padding = Padding.of(extents, shape, x.device)
    rows = pack_cells(x, padding)
    normal = (rows - rows.mean(0)) * (rows.var(0, unbiased=False) + norm.eps).rsqrt() * norm.weight + norm.bias
    expected = unpack_cells(normal, extents, shape)
    change = torch.randn_like(expected)
    leaves = (x, norm.weight, norm.bias)
    out = norm(x, padding)
    torch.testing.assert_close(out, expected)
    gradients = [torch.autograd.grad(y, leaves, change) for y in (out, expected)]
    torch.testing.assert_close(*gradients)


def test_norms_are_those_of_torch() -> None:
    x = torch.randn(2, 8, 3, 4, 5)
    for ours, torchs in ((BatchNorm(8), nn.BatchNorm3d(8)), (GroupNorm(4, 8), nn.GroupNorm(4, 8))):
        randomize_norms(nn.ModuleDict({"norm": ours}))
        torchs.load_state_dict(ours.state_dict())
        for training in (True, False):
            ours.train(training)
            torchs.train(training)
            torch.testing.assert_close(ours(x), torchs(x))
            torch.testing.assert_close(dict(ours.named_buffers()), dict(torchs.named_buffers()))


def test_batch_statistics_by_hand() -> None:
    """Values 1, 3 of one grid and 8 of another: mean 4, variance 26/3, unbiased 13."""
    x = torch.full((2, 1, 2, 1, 1), 1e6)
    x[0, 0, :, 0, 0] = torch.tensor([1.0, 3.0])
    x[1, 0, 0] = 8
    norm = BatchNorm(1)
    padding = Padding.of(((2, 1, 1), (1, 1, 1)), (2, 1, 1), x.device)
    y = norm(x, padding)
    expected = torch.tensor([-3.0, -1, 4, 0]) / (26 / 3 + 1e-5) ** 0.5
    torch.testing.assert_close(y.flatten(), expected)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.4]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9 + 1.3]))
