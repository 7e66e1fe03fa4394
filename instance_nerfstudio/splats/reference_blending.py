"""Alpha blending of projected Gaussians in plain torch: what gsplat's kernel does, on any device and in any precision.

Instead of tiles it works on pairs of a pixel and a Gaussian that covers it, sorted by pixel and depth, many rows of the
picture at a time. Few pairs need little memory, and there is no loop over anything but those rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_SIZE = 16
"""gsplat's. It matters: a Gaussian counts only in the tiles that the box of its radius touches, there everywhere."""
LEAST_ALPHA = 1 / 255
"""A Gaussian that covers less of a pixel is skipped there."""
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would leave no more than this."""
MOST_PAIRS = 1 << 21
"""Pairs worked on at a time, as far as whole rows allow."""


@dataclass(frozen=True)
class Pairs:
    """Gaussians and the pixels of some rows that they cover, sorted by pixel and from front to back."""

    rows: slice
    pixels: Int[Tensor, " pairs"]
    """Row-major in these rows."""
    ids: Int[Tensor, " pairs"]
    """Gaussians."""
    starts: Int[Tensor, " starts"]
    """Where the pairs of each pixel begin, and the end: one more than pixels."""
    alphas: Float[Tensor, " pairs"]
    transmittances: Float[Tensor, " pairs"]
    """Before each Gaussian."""
    dx: Float[Tensor, " pairs"]
    """From the pixel's centre to the Gaussian's."""
    dy: Float[Tensor, " pairs"]

    @property
    def weights(self) -> Float[Tensor, " pairs"]:
        return self.alphas * self.transmittances


class Coverage:
    """Which of N projected Gaussians cover which pixels of a picture, and how much. Nothing here is differentiated."""

    @torch.no_grad()
    def __init__(
        self,
        means2d: Float[Tensor, "N 2"],
        conics: Float[Tensor, "N 3"],
        opacities: Float[Tensor, " N"],
        radii: Int[Tensor, " N"],
        depths: Float[Tensor, " N"],
        width: int,
        height: int,
    ) -> None:
        self.means2d, self.conics, self.opacities = means2d.detach(), conics.detach(), opacities.detach()
        self.width, self.height = width, height
        front_to_back = depths.argsort(stable=True)
        self._ids = front_to_back[((radii > 0) & (opacities >= LEAST_ALPHA))[front_to_back]]
        centres, radius = self.means2d[self._ids], radii[self._ids, None]
        # The radius is 3 standard deviations or more; beyond this many, alpha is too small. One pixel for rounding.
        reach = radius * (2 * (self.opacities[self._ids, None] / LEAST_ALPHA).log()).sqrt() / 3 + 1
        first = ((centres - radius) / TILE_SIZE).floor() * TILE_SIZE
        end = ((centres + radius) / TILE_SIZE).ceil() * TILE_SIZE
        size = centres.new_tensor([width, height])
        self._first = first.maximum((centres - reach).floor()).clamp(min=0).minimum(size).long()
        self._end = end.minimum((centres + reach).ceil()).clamp(min=0).minimum(size).long()
        wide, (_, y0), (_, y1) = (self._end - self._first)[:, 0], self._first.unbind(1), self._end.unbind(1)
        in_rows = wide.new_zeros(height + 1).index_add_(0, y0, wide).index_add_(0, y1, -wide).cumsum(0)
        self._bands = _bands(in_rows[:height].tolist())
        self._only: Pairs | None = None

    def pairs(self) -> Iterator[Pairs]:
        """All pairs, band by band. They are kept where one band is all, else made anew each time."""
        if len(self._bands) == 1:
            if self._only is None:
                self._only = self._pairs(self._bands[0])
            yield self._only
        else:
            yield from map(self._pairs, self._bands)

    @torch.no_grad()
    def _pairs(self, rows: slice) -> Pairs:
        x0, y0 = self._first[:, 0], self._first[:, 1].clamp(min=rows.start)
        wide, high = self._end[:, 0] - x0, (self._end[:, 1].clamp(max=rows.stop) - y0).clamp(min=0)
        counts = wide * high
        before = counts.cumsum(0) - counts
        nth = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        # index_select is twice as fast as brackets.
        ids, x0, y0, wide, before = torch.stack((self._ids, x0, y0, wide, before)).index_select(1, nth)
        nth_pixel = torch.arange(len(nth), device=counts.device) - before
        row, column = y0 + nth_pixel // wide, x0 + nth_pixel % wide

        projected = torch.cat((self.means2d, self.conics, self.opacities[:, None]), dim=1)
        x, y, xx, xy, yy, opacities = projected.T.index_select(1, ids)
        dx, dy = x - (column + 0.5), y - (row + 0.5)
        sigmas = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
        alphas = (opacities * torch.exp(-sigmas)).clamp_(max=MOST_ALPHA)
        covered = ((sigmas >= 0) & (alphas >= LEAST_ALPHA)).nonzero()[:, 0]
        # Pairs come from front to back, and stay so within each pixel.
        pixels, order = ((row - rows.start) * self.width + column)[covered].sort(stable=True)
        covered = covered[order]

        starts = self._starts(pixels, rows)
        logs = torch.log1p(-alphas[covered].double())
        after = logs.cumsum(0)
        before = after - logs
        of_pixel = before[starts[pixels]]
        unfinished = (after - of_pixel > math.log(LEAST_TRANSMITTANCE)).nonzero()[:, 0]
        pixels, covered = pixels[unfinished], covered[unfinished]
        transmittances = (before - of_pixel)[unfinished].exp().to(alphas.dtype)
        starts = self._starts(pixels, rows)
        return Pairs(rows, pixels, ids[covered], starts, alphas[covered], transmittances, dx[covered], dy[covered])

    def _starts(self, pixels: Tensor, rows: slice) -> Tensor:
        every = torch.arange((rows.stop - rows.start) * self.width + 1, device=pixels.device)
        return torch.searchsorted(pixels, every)


def _bands(in_rows: list[int]) -> list[slice]:
    """Successive rows with at most `MOST_PAIRS` pairs together, or single rows."""
    bands, start, pairs = [], 0, 0
    for row, count in enumerate(in_rows):
        if row > start and pairs + count > MOST_PAIRS:
            bands.append(slice(start, row))
            start, pairs = row, 0
        pairs += count
    return [*bands, slice(start, len(in_rows))]


def blend(
    means2d: Float[Tensor, "1 N 2"],
    conics: Float[Tensor, "1 N 3"],
    colours: Float[Tensor, "1 N D"],
    opacities: Float[Tensor, "1 N"],
    coverage: Coverage,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "1 H W D"], Float[Tensor, "1 H W 1"]]:
    """Blends the Gaussians' values into one picture, as `gsplat.rasterize_to_pixels` does.

    Args:
        means2d: projected centres, in pixels; pixel (0, 0) has its centre at (0.5, 0.5).
        conics: xx, xy and yy of the inverse of the projected covariances.
        colours: any values to blend.
        opacities: 0 to 1.
        coverage: of the same centres, conics and opacities.
        absgrad: whether the backward pass leaves the sum of the absolute values of the pixels' gradients as
            `means2d.absgrad`.

    Returns:
        Blended values, and how much of each pixel is covered.
    """
    # How much is covered is what a value of 1 blends to.
    values = torch.cat((colours, torch.ones_like(colours[..., :1])), dim=-1)
    blended: Tensor = _Blend.apply(means2d, conics, values, opacities, coverage, absgrad)  # pyright: ignore
    return blended[..., :-1], blended[..., -1:]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        values: Tensor,
        opacities: Tensor,
        coverage: Coverage,
        absgrad: bool,
    ) -> Tensor:
        blended = values.new_zeros(1, coverage.height, coverage.width, values.shape[-1])
        for pairs in coverage.pairs():
            if not len(pairs.ids):
                continue
            sums = F.embedding_bag(
                pairs.ids, values[0], pairs.starts, mode="sum",
                per_sample_weights=pairs.weights, include_last_offset=True,
            )  # fmt: skip
            blended[0, pairs.rows] = sums.reshape(-1, coverage.width, sums.shape[-1])
        ctx.save_for_backward(means2d, values)
        ctx.coverage, ctx.absgrad = coverage, absgrad
        return blended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_blended: Tensor) -> tuple[Tensor | None, ...]:
        means2d, values = ctx.saved_tensors
        needs_means, needs_conics, needs_values, needs_opacities = ctx.needs_input_grad[:4]
        opacities = ctx.coverage.opacities
        of_values = torch.zeros_like(values[0])
        # Of the centres, the conics, the opacities times these, and absolute ones of the centres.
        of_geometry = means2d.new_zeros(len(opacities), 8)
        for pairs in ctx.coverage.pairs():
            of_pixels = of_blended[0, pairs.rows].flatten(0, 1).index_select(0, pairs.pixels)
            if needs_values:
                of_values.index_add_(0, pairs.ids, of_pixels * pairs.weights[:, None])
            if needs_means or needs_conics or needs_opacities:
                of_sigmas = _of_sigmas(pairs, (of_pixels * values[0].index_select(0, pairs.ids)).sum(dim=-1))
                conics = ctx.coverage.conics.T.index_select(1, pairs.ids)
                of_geometry.index_add_(0, pairs.ids, _of_geometry(pairs, of_sigmas, conics))
        of_means, of_conics, of_logs, absolute = of_geometry.split((2, 3, 1, 2), dim=-1)
        if ctx.absgrad:
            means2d.absgrad = absolute[None]  # as gsplat does: its strategy reads it there
        of_opacities = of_logs[:, 0] / opacities.clamp(min=LEAST_ALPHA)  # less opaque ones are skipped everywhere
        return of_means[None], of_conics[None], of_values[None], of_opacities[None], None, None


def _of_sigmas(pairs: Pairs, of_weights: Tensor) -> Tensor:
    """Gradients of the exponents from those of the weights."""
    through = (pairs.weights * of_weights).double().cumsum(0)
    behind = (through[pairs.starts[pairs.pixels + 1] - 1] - through).to(of_weights.dtype)
    of_alphas = pairs.transmittances * of_weights - behind / (1 - pairs.alphas)
    # Clamped alphas do not depend on the exponent.
    return of_alphas * -pairs.alphas * (pairs.alphas < MOST_ALPHA)


def _of_geometry(pairs: Pairs, of_sigmas: Tensor, conics: Tensor) -> Tensor:
    """What each pair adds to the eight gradients of its Gaussian, whose conics come as [3 pairs]. [pairs 8]"""
    dx, dy = pairs.dx, pairs.dy
    xx, xy, yy = conics
    of_x, of_y = of_sigmas * (xx * dx + xy * dy), of_sigmas * (xy * dx + yy * dy)
    of_conics = (of_sigmas * dx * dx / 2, of_sigmas * dx * dy, of_sigmas * dy * dy / 2)
    return torch.stack((of_x, of_y, *of_conics, -of_sigmas, of_x.abs(), of_y.abs()), dim=-1)
