"""Shifted windows on packed tokens, against torchvision's on dense ones and by hand."""

import pytest
import torch
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from rcnn.backbones import GridBatch, SwinConfig, build_backbone
from rcnn.backbones.half_precision import cast_together
from rcnn.backbones.padding import pack_cells, unpack_cells
from rcnn.backbones.stochastic_depth import add_residual, draw_factors, factors_of_rows
from rcnn.backbones.swin_blocks import SwinBlock, WindowAttention
from rcnn.backbones.token_rows import merge_map, to_places, to_rows, window_map

CPU = torch.device("cpu")


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("extent", [(8, 12, 5), (6, 7, 9), (5, 5, 5)])
def test_attention_is_that_of_torchvision(extent: tuple[int, int, int], shifted: bool) -> None:
    torch.manual_seed(0)
    shift = [2, 2, 2] if shifted else [0, 0, 0]
    theirs = ShiftedWindowAttention3d(12, [4, 4, 4], shift, 3).double()
    ours = WindowAttention(12, 3, 4).double()
    weights = {key: value for key, value in theirs.state_dict().items() if key != "relative_position_index"}
    weights["qkv.bias"].uniform_()
    ours.load_state_dict(weights)
    dense = torch.randn(2, *extent, 12, dtype=torch.double)
    rows = ours(dense.reshape(-1, 12), window_map((extent, extent), 4, shifted, CPU))
    torch.testing.assert_close(rows.reshape(dense.shape), theirs(dense))


def test_an_axis_within_one_window_is_not_shifted() -> None:
    """Its tokens all see each other; torchvision, whose window shrinks there, is asked for one of that size."""
    torch.manual_seed(0)
    ours = WindowAttention(4, 1, 4).double()
    tokens = torch.randn(8 * 4 * 8, 4, dtype=torch.double)
    changed = tokens.clone()
    changed[3 * 8] += 1  # (0, 3, 0)
    windows = window_map(((8, 4, 8),), 4, True, CPU)
    with torch.no_grad():
        seen = (ours(changed, windows) - ours(tokens, windows)).abs().sum(1).reshape(8, 4, 8) > 1e-12
    assert seen.nonzero().amin(0).tolist() == [0, 0, 0]
    assert seen.nonzero().amax(0).tolist() == [1, 3, 1]  # the shifted window's first half along x and z, all of y
    assert seen.sum() == 2 * 4 * 2


def test_windows_of_several_grids_are_their_own() -> None:
    torch.manual_seed(0)
    ours = WindowAttention(4, 2, 4).double()
    extents = ((5, 9, 3), (2, 2, 2), (8, 4, 11))
    grids = [torch.randn(a * b * c, 4, dtype=torch.double) for a, b, c in extents]
    for shifted in (False, True):
        alone = [ours(g, window_map((e,), 4, shifted, CPU)) for g, e in zip(grids, extents, strict=True)]
        torch.testing.assert_close(ours(torch.cat(grids), window_map(extents, 4, shifted, CPU)), torch.cat(alone))


def test_rows_return_from_their_places() -> None:
    extents = ((5, 2, 3), (1, 7, 4))
    rows = torch.randn(30 + 28, 3, dtype=torch.double, requires_grad=True)
    for map in (window_map(extents, 4, True, CPU).map, merge_map(extents, CPU)):
        places = to_places(rows, map)
        assert len(places) == len(map.rows) > len(rows)
        assert places.count_nonzero() == rows.numel()
        assert torch.equal(to_rows(places, map), rows)
        assert torch.autograd.gradcheck(lambda x, map=map: to_places(x, map).sin(), (rows,))
        assert torch.autograd.gradcheck(lambda x, map=map: to_rows(x, map).sin(), (places.detach().requires_grad_(),))


def test_merging_order() -> None:
    """x fastest, as published weights expect; missing children of odd sides are zero."""
    extent = (3, 2, 2)
    x = (torch.arange(12.0) + 1).reshape(1, 1, *extent)
    merged = to_places(pack_cells(x, None), merge_map((extent,), CPU)).reshape(2, 8)
    cube = x[0, 0]
    order = [(i, j, k) for k in range(2) for j in range(2) for i in range(2)]
    assert merged[0].tolist() == [cube[i, j, k].item() for i, j, k in order]
    assert merged[1].tolist() == [cube[2, j, k].item() if i == 0 else 0 for i, j, k in order]
    assert torch.equal(unpack_cells(pack_cells(x, None), (extent,), extent), x)


def test_stochastic_depth_drops_whole_grids_in_training() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, 1, 4, 4.0)
    extents = (*((2, 2, 2),) * 200, *((2, 1, 4),) * 200)
    tokens = torch.randn(3200, 4)
    windows = window_map(extents, 4, False, CPU)
    with torch.no_grad():
        factors = draw_factors(torch.tensor([0.5, 1.0]), 400)
        assert factors[0].unique().tolist() == [0, 2]
        assert (factors[1] == 1).all()
        assert 0.4 < (factors[0] > 0).float().mean() < 0.6
        rows = factors_of_rows(factors, extents)
        assert torch.equal(rows[0].reshape(400, 8), factors[0, :, None].expand(-1, 8))
        changed = block(tokens, windows, factors_of_rows(factors * torch.tensor([[1.0], [0.0]]), extents)) != tokens
        assert torch.equal(changed.reshape(400, 32).any(1), factors[0] > 0)
        torch.testing.assert_close(block(tokens, windows, torch.ones(2, 3200, 1)), block(tokens, windows))
    model = build_backbone(SwinConfig(embed_dim=4, heads=(1, 1, 1, 1)))
    keep = model.keep.tolist()  # type: ignore[union-attr]
    assert keep[::2] == pytest.approx([1 - 0.1 * i / 23 for i in range(24)])
    assert keep[::2] == keep[1::2]
    batch = GridBatch.collate([torch.rand(4, 32, 32, 32)] * 2)
    with torch.no_grad():
        levels = [model.train(training)(batch)[3] for training in (True, True, False, False)]
    assert not torch.equal(levels[0], levels[1])
    assert torch.equal(levels[2], levels[3])


def test_residuals_are_added_with_their_gradients() -> None:
    tokens, residual = (torch.randn(6, 3, dtype=torch.double, requires_grad=True) for _ in range(2))
    factors = torch.rand(6, 1, dtype=torch.double)
    torch.testing.assert_close(add_residual(tokens, residual, factors), tokens + residual * factors)
    grads = torch.autograd.grad(add_residual(tokens, residual, factors).sin().sum(), (tokens, residual))
    want = torch.autograd.grad((tokens + residual * factors).sin().sum(), (tokens, residual))
    torch.testing.assert_close(grads, want)
    half = residual.detach().bfloat16().requires_grad_()
    total = add_residual(tokens.detach().float(), half, factors.float())
    assert total.dtype == torch.float32
    (grad,) = torch.autograd.grad(total.sum(), half)
    torch.testing.assert_close(grad, factors.bfloat16().expand(-1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_cast_together(dtype: torch.dtype) -> None:
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]
    cast = cast_together(weights, dtype)
    assert [torch.equal(a, b.to(dtype)) for a, b in zip(cast, weights, strict=True)] == [True, True]
    grads = torch.autograd.grad(cast[0].square().sum() + cast[1].sum(), weights)
    want = torch.autograd.grad(weights[0].to(dtype).square().sum() + weights[1].to(dtype).sum(), weights)
    torch.testing.assert_close(grads, want)


def test_the_last_voxels_count() -> None:
    """Beyond the last whole patch too."""
    model = build_backbone(SwinConfig(embed_dim=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), out_channels=4)).eval()
    grid = torch.rand(4, 17, 16, 16)
    with torch.no_grad():
        before = model(GridBatch.collate([grid]))[0]
        grid[:, 16] += 1
        after = model(GridBatch.collate([grid]))[0]
    assert not torch.equal(before[:, :, 4], after[:, :, 4])


@torch.no_grad()
def test_weights_that_are_cast_once_follow_those_they_were_cast_from() -> None:
    torch.manual_seed(0)
    block, other = SwinBlock(8, 2, 4, 4.0).eval(), SwinBlock(8, 2, 4, 4.0).eval()
    tokens, windows = torch.randn(64, 8), window_map(((4, 4, 4),), 4, False, CPU, torch.bfloat16)

    def run(block: SwinBlock) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return block(tokens, windows)

    before = run(block)
    assert torch.equal(run(block), before)
    block.attn.relative_position_bias_table.mul_(-20)
    changed = run(block)
    assert not torch.equal(changed, before)
    block.load_state_dict(other.state_dict())
    assert torch.equal(run(block), run(other))
    with torch.enable_grad():  # attention takes another way there, and rounds otherwise
        torch.testing.assert_close(run(block), run(other), atol=0.03, rtol=0)
    # As moving averages are put in the place of weights: without a trace in their versions.
    block.train()
    for weight in block.parameters():
        weight.data.copy_(weight.data * 1.5)
    block.eval()
    got = run(block)
    with torch.enable_grad():
        torch.testing.assert_close(got, run(block).detach(), atol=0.03, rtol=0)
    assert (got - run(other)).abs().max() > 0.1


def test_maps_made_in_inference_serve_training() -> None:
    extents = ((5, 6, 9),)
    with torch.inference_mode():
        kept = merge_map(extents, CPU)
    assert merge_map(extents, CPU) is kept
    tokens = torch.randn(5 * 6 * 9, 3, requires_grad=True)
    to_places(tokens, kept).square().sum().backward()
    torch.testing.assert_close(tokens.grad, 2 * tokens.detach())
