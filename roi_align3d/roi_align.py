"""RoIAlign of axis-aligned boxes: torchvision's `roi_align`, one dimension up."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from roi_align3d.arguments import Boxes, check_features, check_scale, make_rois, make_sampling
from roi_align3d.operator import pool
from roi_align3d.sampling import Pyramid


def roi_align_3d(
    input: Float[Tensor, "N C X Y Z"],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    *,
    mode: str = "roi_align",
) -> Float[Tensor, "K C P Q R"]:
    """Averages trilinear samples in each of `P * Q * R` equal bins of every box (He et al. 2017, section 3).

    A sample on the grid or up to one voxel outside reads the grid with its border repeated, one further out is zero;
    both count in the average. Differentiable once, in `input` and, if they require it, in `boxes`.

    Args:
        input: fp32, fp16, bf16 or fp64. Any layout; `torch.channels_last_3d` saves a copy. Reduced-precision features
            are summed in fp32, on CUDA with weights rounded to their type, and stay what they are under autocast. fp64
            is slow on CUDA.
        boxes: `Tensor[K, 7]` of (batch index, x1, y1, z1, x2, y2, z2), or one `Tensor[L, 6]` per grid. Voxel i of the
            grid covers [i, i + 1) in box coordinates times `spatial_scale`. Any float dtype; positions are computed in
            fp32, or in fp64 if boxes or features are.
        output_size: bins along x, y, z, or one number for all three.
        spatial_scale: voxels of `input` per unit of `boxes`.
        sampling_ratio: samples per bin along each axis. 0 or less takes as many as the bin is long in voxels, rounded
            up.
        aligned: boxes and voxels agree as above. False omits the half voxel and makes every box at least one voxel
            large, as Faster R-CNN once did.
        mode: "crop_and_resize" takes one sample per bin, the first on the box's lower corner and the last on the upper
            (a single one in the middle), voxel i lying on i, zero outside the outermost voxels' centres; then
            `sampling_ratio` and `aligned` are ignored. For checkpoints that were trained with it.

    Returns:
        `[K, C, P, Q, R]` in the dtype of `input`, in channels-last memory. Boxes that are NaN, infinite or beyond 2^20
        voxels, boxes off the grid, and, with adaptive sampling, boxes whose size is zero or negative give zeros and
        have no gradient. A negative size with a fixed `sampling_ratio` mirrors the box. Infinite or NaN features may
        reach every bin of a box that reads them.

    Raises:
        TypeError: `input` or `boxes` are no tensors.
        ValueError: wrong shape, dtype, device or option, or a batch index that names no grid; the last is not
            detected on CUDA, which would have to be waited for: the rows of such boxes are NaN.
    """
    check_features((input,))
    check_scale(spatial_scale)
    sampling = make_sampling(output_size, sampling_ratio, aligned, mode)
    return pool((input,), make_rois(boxes, input, 6), Pyramid((spatial_scale,), ()), sampling)


class RoIAlign3D(nn.Module):
    """See :func:`roi_align_3d`."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = True,
        *,
        mode: str = "roi_align",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode

    def forward(self, input: Float[Tensor, "N C X Y Z"], boxes: Boxes) -> Float[Tensor, "K C P Q R"]:
        return roi_align_3d(
            input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, mode=self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, mode={self.mode!r}"
        )
