"""Alpha blending of projected Gaussians in plain torch: what gsplat's kernel does, on any device and in any precision.

It works through tiles and, where many Gaussians meet, rows of tiles, and computes the weights anew in the backward
pass. So it holds a few arrays of `MOST_ELEMENTS` at a time, however large the picture.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_ALPHA = 1 / 255
"""A Gaussian that covers less of a pixel is skipped there."""
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would leave no more than this."""
MOST_ELEMENTS = 1 << 22
"""(pixel, Gaussian) pairs worked on at a time."""


def rasterize_to_pixels(
    means2d: Float[Tensor, "1 N 2"],
    conics: Float[Tensor, "1 N 3"],
    colors: Float[Tensor, "1 N D"],
    opacities: Float[Tensor, "1 N"],
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Int[Tensor, "1 tile_rows tile_columns"],
    flatten_ids: Int[Tensor, " intersections"],
    absgrad: bool = False,
) -> tuple[Float[Tensor, "1 H W D"], Float[Tensor, "1 H W 1"]]:
    """`gsplat.rasterize_to_pixels` of one camera: same arguments, same pictures, same gradients.

    Args:
        means2d: projected centres, in pixels; pixel (0, 0) has its centre at (0.5, 0.5).
        conics: xx, xy and yy of the inverse of the projected covariances.
        colors: any values to blend.
        opacities: 0 to 1.
        image_width: W.
        image_height: H.
        tile_size: edge of the square tiles, in pixels.
        isect_offsets: where the Gaussians of each tile begin in `flatten_ids`.
        flatten_ids: Gaussians of all tiles, from front to back in each.
        absgrad: whether the backward pass leaves the sum of the absolute values of the pixels' gradients as
            `means2d.absgrad`.

    Returns:
        Blended values, and how much of each pixel is covered.
    """
    starts = [*isect_offsets.flatten().tolist(), len(flatten_ids)]
    tiles = _Tiles(image_width, image_height, tile_size, isect_offsets.shape[2], starts, flatten_ids.long())
    return _Blend.apply(means2d, conics, colors, opacities, tiles, absgrad)  # pyright: ignore[reportReturnType]


class _Part(NamedTuple):
    """A block of pixels and the Gaussians that may cover them."""

    ids: Tensor
    """Gaussians from front to back. [M]"""
    rows: slice
    columns: slice


class _Tiles(NamedTuple):
    width: int
    height: int
    size: int
    per_row: int
    starts: list[int]
    ids: Tensor

    def parts(self) -> Iterator[_Part]:
        for tile, (start, end) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            if start == end:
                continue
            y, x = (index * self.size for index in divmod(tile, self.per_row))
            columns = slice(x, min(x + self.size, self.width))
            last_row = min(y + self.size, self.height)
            rows = max(1, MOST_ELEMENTS // ((columns.stop - x) * (end - start)))
            for row in range(y, last_row, rows):
                yield _Part(self.ids[start:end], slice(row, min(row + rows, last_row)), columns)


class _Weights(NamedTuple):
    """How much the Gaussians of a part count for its pixels. [rows columns M] where not said otherwise"""

    weights: Tensor
    alphas: Tensor
    """0 where a Gaussian is skipped."""
    transmittances: Tensor
    """Before each Gaussian."""
    dx: Tensor
    """From the pixels' centres to the Gaussians'. [columns M]"""
    dy: Tensor
    """[rows M]"""


def _weights(means2d: Tensor, conics: Tensor, opacities: Tensor, part: _Part) -> _Weights:
    def from_pixels(pixels: slice, means: Tensor) -> Tensor:
        centres = torch.arange(pixels.start, pixels.stop, device=means.device, dtype=means.dtype) + 0.5
        return means - centres[:, None]

    xx, xy, yy = conics[part.ids].unbind(-1)
    x, y = means2d[part.ids].unbind(-1)
    dx, dy = from_pixels(part.columns, x), from_pixels(part.rows, y)
    sigmas = (0.5 * yy * dy.square())[:, None] + (0.5 * xx * dx.square())
    sigmas = sigmas.addcmul_((xy * dy)[:, None], dx)
    # Beyond exp(-10) every alpha is skipped, and exponentials that are no normal numbers take many times as long.
    alphas = (opacities[part.ids] * torch.exp(-sigmas.clamp(max=10))).clamp_(max=MOST_ALPHA)
    alphas *= (sigmas >= 0) & (alphas >= LEAST_ALPHA)
    after = (1 - alphas).cumprod(dim=-1)
    # What follows the Gaussian that finishes a pixel finds it finished too: transmittances never rise.
    alphas *= after > LEAST_TRANSMITTANCE
    transmittances = torch.cat((torch.ones_like(after[..., :1]), after[..., :-1]), dim=-1)
    return _Weights(alphas * transmittances, alphas, transmittances, dx, dy)


class _Blend(torch.autograd.Function):
    """Blends the colours and a channel of ones, the accumulation, tile by tile."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        tiles: _Tiles,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        blended = colors.new_zeros(1, tiles.height, tiles.width, colors.shape[-1])
        covered = colors.new_zeros(1, tiles.height, tiles.width, 1)
        for part in tiles.parts():
            weights = _weights(means2d[0], conics[0], opacities[0], part).weights
            blended[0, part.rows, part.columns] = weights @ colors[0, part.ids]
            covered[0, part.rows, part.columns] = weights.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(means2d, conics, colors, opacities)
        ctx.tiles, ctx.absgrad = tiles, absgrad
        return blended, covered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means2d, conics, colors, opacities = ctx.saved_tensors
        of_blended, of_covered = gradients
        needs_means, needs_conics, needs_colors, needs_opacities = ctx.needs_input_grad[:4]
        needs_geometry = needs_means or needs_conics or needs_opacities
        of_means, of_conics, of_colors, of_opacities, absolute = (
            torch.zeros_like(tensor[0]) for tensor in (means2d, conics, colors, opacities, means2d)
        )
        for part in ctx.tiles.parts():
            weighed = _weights(means2d[0], conics[0], opacities[0], part)
            of_pixels = of_blended[0, part.rows, part.columns]
            if needs_colors:
                by_gaussian = weighed.weights.flatten(0, 1).T @ of_pixels.flatten(0, 1)
                of_colors.index_add_(0, part.ids, by_gaussian)
            if not needs_geometry:
                continue
            of_weights = of_pixels @ colors[0, part.ids].T + of_covered[0, part.rows, part.columns]
            of_sigmas = _of_sigmas(weighed, of_weights)
            in_column, in_row = of_sigmas.sum(dim=0), of_sigmas.sum(dim=1)
            opacity, conic = opacities[0, part.ids], conics[0, part.ids]
            if needs_opacities:  # a Gaussian of no opacity is skipped everywhere
                by_gaussian = -in_row.sum(dim=0) / opacity.clamp(min=LEAST_ALPHA)
                of_opacities.index_add_(0, part.ids, by_gaussian)
            xy = ((of_sigmas * weighed.dy[:, None]).sum(dim=0) * weighed.dx).sum(dim=0)
            if needs_conics:
                xx, yy = (in_column * weighed.dx.square()).sum(dim=0), (in_row * weighed.dy.square()).sum(dim=0)
                of_conics.index_add_(0, part.ids, torch.stack((xx / 2, xy, yy / 2), dim=-1))
            if needs_means:
                x, y = (in_column * weighed.dx).sum(dim=0), (in_row * weighed.dy).sum(dim=0)
                of_means.index_add_(0, part.ids, _sigma_gradient(conic, x, y))
            if ctx.absgrad:
                by_pixel = _sigma_gradient(conic, weighed.dx[None], weighed.dy[:, None]) * of_sigmas[..., None]
                absolute.index_add_(0, part.ids, by_pixel.abs_().sum(dim=(0, 1)))
        if ctx.absgrad:
            means2d.absgrad = absolute[None]  # as gsplat does: its strategy reads it there
        return of_means[None], of_conics[None], of_colors[None], of_opacities[None], None, None


def _of_sigmas(weighed: _Weights, of_weights: Tensor) -> Tensor:
    """Gradients of the exponents from those of the weights. [rows columns M]"""
    products = weighed.weights * of_weights
    behind = products.flip(-1).cumsum(dim=-1).flip(-1) - products
    of_alphas = weighed.transmittances * of_weights - behind / (1 - weighed.alphas)
    # Clamped alphas do not depend on the exponent, skipped ones are 0.
    return of_alphas * -weighed.alphas * (weighed.alphas < MOST_ALPHA)


def _sigma_gradient(conic: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Gradients of the exponents with respect to the centres. [... M 2]"""
    xx, xy, yy = conic.unbind(-1)
    return torch.stack((xx * dx + xy * dy, xy * dx + yy * dy), dim=-1)
