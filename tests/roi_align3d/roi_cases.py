"""Inputs for the tests of RoIAlign: drawn by Hypothesis, or fixed and small."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from roi_align3d.reference import roi_align_reference
from roi_align3d.sampling import Pyramid, Sampling, make_pyramid


class Case(NamedTuple):
    """Arguments of every backend; features are [N, C, X, Y, Z]."""

    features: list[Tensor]
    rois: Tensor
    pyramid: Pyramid
    sampling: Sampling

    def to(self, device: str, dtype: torch.dtype) -> "Case":
        """Features in `dtype`, boxes as they are."""
        features = [level.to(device, dtype) for level in self.features]
        return self._replace(features=features, rois=self.rois.to(device))

    def channels_last(self) -> list[Tensor]:
        """Features as backends take them, [N, X, Y, Z, C]."""
        return [level.permute(0, 2, 3, 4, 1) for level in self.features]

    def reference(self) -> Tensor:
        """What every backend has to return, [K, C, P, Q, R]."""
        return roi_align_reference(self.features, self.rois, self.pyramid, self.sampling)

    def reference_gradients(self, upstream: Tensor) -> list[Tensor]:
        """Gradients of the levels, then of the boxes; zeros where nothing is read."""
        leaves = [t.detach().clone().requires_grad_() for t in (*self.features, self.rois)]
        pooled = roi_align_reference(leaves[:-1], leaves[-1], self.pyramid, self.sampling)
        if not pooled.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        return list(torch.autograd.grad(pooled, leaves, upstream, allow_unused=True, materialize_grads=True))


def make_case(
    seed: int = 0, grids: int = 2, channels: int = 3, shape: tuple[int, int, int] = (6, 5, 7), levels: int = 2,
    count: int = 4, rotated: bool = False, output_size: tuple[int, int, int] = (2, 3, 2), sampling_ratio: int = 2,
    aligned: bool = True, crop_and_resize: bool = False, dtype: torch.dtype = torch.float32, largest: float = 6.0,
) -> Case:  # fmt: skip
    """Random features and boxes, some of them across the rim."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(columns: int, low: float, high: float) -> Tensor:
        return torch.rand(count, columns, generator=generator, dtype=dtype) * (high - low) + low

    features = [
        torch.randn(grids, channels, *(-(-size // 2**level) for size in shape), generator=generator, dtype=dtype)
        for level in range(levels)
    ]
    batch = torch.randint(max(grids, 1), (count, 1), generator=generator).to(dtype)
    centre = uniform(3, -1, 1 + max(shape))
    size = uniform(3, 0.5, largest)
    if rotated:
        rois = torch.cat([batch, centre, size, uniform(1, -4, 4)], dim=1)
    else:
        rois = torch.cat([batch, centre - size / 2, centre + size / 2], dim=1)
    pyramid = make_pyramid([0.5**level for level in range(levels)], largest / 2, 1)
    return Case(features, rois, pyramid, Sampling(output_size, sampling_ratio, aligned, crop_and_resize))


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype, one_kernel: bool = False) -> Case:
    """Any shape, options and boxes: inverted, empty, on voxel centres and faces, far outside.

    With `one_kernel` only what GPU kernels are not compiled anew for.
    """
    rotated = not one_kernel and draw(st.booleans())
    grids, channels, levels = (draw(st.integers(1, most)) for most in (3, 3, 3))
    if one_kernel:
        channels, levels = 3, 2
    shapes = [[draw(st.integers(1, 6)) for _ in range(3)] for _ in range(levels)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    features = [torch.randn(grids, channels, *shape, generator=generator, dtype=dtype) for shape in shapes]
    # Quarters hit centres and faces, where rounding decides; sums of a third and an irrational hit neither.
    position = st.one_of(st.integers(-12, 40).map(lambda i: i / 4), st.floats(-30, 30, width=32))
    size = st.one_of(st.integers(-4, 40).map(lambda i: i / 4), st.floats(-2, 12, width=32))
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        low = [draw(position) for _ in range(3)]
        extent = [draw(size) for _ in range(3)]
        box = (
            [*low, *extent, draw(st.floats(-7, 7, width=32))]
            if rotated
            else [*low, *map(sum, zip(low, extent, strict=True))]
        )
        rows.append([draw(st.integers(0, grids - 1)), *box])
    rois = torch.tensor(rows, dtype=dtype).reshape(-1, 8 if rotated else 7)
    # With 1.5 a level may have the scale of the one before, and drop out.
    factors = [[1.0, 0.75] if one_kernel and level > 0 else [1.0, 0.75, 1.5] for level in range(levels)]
    scales = [draw(st.sampled_from(factors[level])) * 0.5**level for level in range(levels)]
    sampling = (
        Sampling((3, 2, 3), -1, True, False)
        if one_kernel
        else Sampling(
            (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            draw(st.sampled_from([-1, 1, 2, 3])),
            draw(st.booleans()),
            not rotated and draw(st.booleans()),
        )
    )
    scales = sorted(set(scales), reverse=True)
    return Case(features[: len(scales)], rois, make_pyramid(scales, 4.0, 1), sampling)
