"""RoIAlign of boxes turned about z."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from roi_align3d.arguments import Boxes, check_features, check_scale, make_rois, make_sampling
from roi_align3d.operator import pool
from roi_align3d.sampling import Pyramid


def roi_align_rotated_3d(
    input: Float[Tensor, "N C X Y Z"],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
) -> Float[Tensor, "K C P Q R"]:
    """:func:`roi_align_3d` in the frame of each box, which is turned about z; for a yaw of 0 the same result.

    A function of its own, since seven numbers per row mean an axis-aligned box with its batch index in one and a
    rotated box without in the other: a mistaken format would go unnoticed.

    Args:
        input: as there.
        boxes: `Tensor[K, 8]` of (batch index, cx, cy, cz, w, l, h, yaw), or one `Tensor[L, 7]` per grid: centre, sizes
            along the box's own x, y and z, and the angle from the grid's x axis to the box's, in radians,
            counter-clockwise seen from above.
        output_size: bins along the box's x, y, z.
        spatial_scale: voxels of `input` per unit of `boxes`.
        sampling_ratio: as there.
        aligned: as there; False enlarges boxes under one voxel about their centre.

    Returns:
        `[K, C, P, Q, R]`, and zeros for the boxes that give zeros there.

    Raises:
        TypeError: as there.
        ValueError: as there.
    """
    check_features((input,))
    check_scale(spatial_scale)
    sampling = make_sampling(output_size, sampling_ratio, aligned, "roi_align")
    return pool((input,), make_rois(boxes, input, 7), Pyramid((spatial_scale,), ()), sampling)


class RoIAlignRotated3D(nn.Module):
    """See :func:`roi_align_rotated_3d`."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Float[Tensor, "N C X Y Z"], boxes: Boxes) -> Float[Tensor, "K C P Q R"]:
        return roi_align_rotated_3d(
            input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
