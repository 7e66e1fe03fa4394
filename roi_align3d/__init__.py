"""RoIAlign in 3D for PyTorch: averaged trilinear pooling of boxes in voxel grids.

Needs torch and jaxtyping; on CUDA it runs as Triton kernels, which come with torch, and on CPUs without a compiler.
"""

from roi_align3d.multiscale_roi_align import MultiScaleRoIAlign3D, multiscale_roi_align_3d
from roi_align3d.roi_align import RoIAlign3D, roi_align_3d
from roi_align3d.roi_align_rotated import RoIAlignRotated3D, roi_align_rotated_3d

__all__ = [
    "MultiScaleRoIAlign3D",
    "RoIAlign3D",
    "RoIAlignRotated3D",
    "multiscale_roi_align_3d",
    "roi_align_3d",
    "roi_align_rotated_3d",
]
