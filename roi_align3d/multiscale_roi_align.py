"""RoIAlign over a feature pyramid: every box reads one level, all of them in one launch."""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from roi_align3d.arguments import Boxes, check_features, check_scale, make_rois, make_sampling
from roi_align3d.operator import pool
from roi_align3d.sampling import Pyramid, make_pyramid


def multiscale_roi_align_3d(
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = True,
    canonical_scale: float = 160.0,
    canonical_level: float = 4,
    *,
    mode: str = "roi_align",
    rotated: bool = False,
) -> Float[Tensor, "K C P Q R"]:
    """:func:`roi_align_3d` from the level that suits each box (Lin et al. 2017, eq. 1).

    A level's number is `-log2(spatial_scale)`. A box reads level
    `floor(canonical_level + log2(edge / canonical_scale) + 1e-6)`, or the closest there is, where `edge` is the
    geometric mean of its edges. Levels are chosen on the device, without waiting for it.

    Args:
        features: levels `[N, C, X, Y, Z]`, finest first, alike but for their resolution.
        boxes: as in :func:`roi_align_3d`, or in :func:`roi_align_rotated_3d` if `rotated`.
        output_size: bins along x, y, z, or one number for all three.
        spatial_scales: voxels per unit of `boxes` on each level, descending.
        sampling_ratio: as there.
        aligned: as there.
        canonical_scale: edge, in units of `boxes`, of a box that reads `canonical_level`. A density grid is about 160
            voxels wide.
        canonical_level: number of the level that such boxes read.
        mode: as there; only "roi_align" for rotated boxes.
        rotated: what `boxes` are.

    Returns:
        `[K, C, P, Q, R]`, rows in the order of the boxes.

    Raises:
        TypeError: as there.
        ValueError: as there, or scales that do not descend or do not number as many as levels.
    """
    if isinstance(features, Tensor) or len(features) == 0:
        raise ValueError("features must be a list of at least one level")
    check_features(features)
    if len(spatial_scales) != len(features):
        raise ValueError(f"{len(spatial_scales)} spatial_scales for {len(features)} levels")
    if rotated and mode != "roi_align":
        raise ValueError(f"rotated boxes have no mode {mode!r}")
    rois = make_rois(boxes, features[0], 7 if rotated else 6)
    # A compiler warns of caches and ignores them.
    checked_pyramid = _checked_pyramid if torch.compiler.is_compiling() else _cached_pyramid
    pyramid = checked_pyramid(tuple(spatial_scales), canonical_scale, canonical_level)
    return pool(features, rois, pyramid, make_sampling(output_size, sampling_ratio, aligned, mode))


def _checked_pyramid(scales: tuple[float, ...], canonical_scale: float, canonical_level: float) -> Pyramid:
    for scale in (*scales, canonical_scale):
        check_scale(scale)
    if any(fine <= coarse for fine, coarse in itertools.pairwise(scales)):
        raise ValueError(f"spatial_scales must descend: {list(scales)}")
    return make_pyramid(scales, canonical_scale, canonical_level)


_cached_pyramid = lru_cache(_checked_pyramid)


class MultiScaleRoIAlign3D(nn.Module):
    """See :func:`multiscale_roi_align_3d`."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scales: Sequence[float],
        sampling_ratio: int = -1,
        aligned: bool = True,
        canonical_scale: float = 160.0,
        canonical_level: float = 4,
        *,
        mode: str = "roi_align",
        rotated: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scales = tuple(spatial_scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.mode = mode
        self.rotated = rotated

    def forward(self, features: Sequence[Float[Tensor, "N C _ _ _"]], boxes: Boxes) -> Float[Tensor, "K C P Q R"]:
        return multiscale_roi_align_3d(
            features, boxes, self.output_size, self.spatial_scales, self.sampling_ratio, self.aligned,
            self.canonical_scale, self.canonical_level, mode=self.mode, rotated=self.rotated,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scales={self.spatial_scales}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, canonical_scale={self.canonical_scale}, "
            f"canonical_level={self.canonical_level}, mode={self.mode!r}, rotated={self.rotated}"
        )
