"""RoIAlign in 3D as Triton kernels, one launch for all levels of a pyramid. Imported with the first CUDA tensor."""

from roi_align3d.kernels.launch import features_backward, forward, rois_backward

__all__ = ["features_backward", "forward", "rois_backward"]
