"""The one operator behind every public function, registered with `torch.library`.

Features and results are channels last here. Registered on the dispatch keys by hand: a differentiable call costs a
quarter of the host time that `torch.library.custom_op` or `register_autograd` take with lists of tensors, and
`torch.compile` and `torch.export` trace it alike. There is no autocast rule, hence no cast: fp16 and bf16 features are
pooled as they are.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from roi_align3d import vectorized
from roi_align3d.sampling import Pyramid, Sampling

_OPTIONS = "float[] scales, float[] volumes, int[] output_size, int sampling_ratio, bool aligned, bool crop_and_resize"

_library = torch.library.Library("roi_align3d", "DEF")
_library.define(f"roi_align(Tensor[] features, Tensor rois, {_OPTIONS}) -> Tensor")
_library.define(f"roi_align_backward(Tensor gradient, SymInt[] shapes, Tensor rois, {_OPTIONS}) -> Tensor[]")
_library.define(f"roi_align_backward_rois(Tensor gradient, Tensor[] features, Tensor rois, {_OPTIONS}) -> Tensor")

_forward = torch.ops.roi_align3d.roi_align.default
_backward = torch.ops.roi_align3d.roi_align_backward.default
_backward_rois = torch.ops.roi_align3d.roi_align_backward_rois.default


def pool(
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K C P Q R"]:
    """Pools every RoI from its level of the pyramid; arguments are already checked.

    Args:
        features: levels, finest first, equal in N, C, dtype and device.
        rois: `[K, 7]` (batch index, x1, y1, z1, x2, y2, z2) or `[K, 8]` (batch index, centre, size, yaw).
        pyramid: scale of each level and how RoIs choose one.
        sampling: output size and rule for the samples.

    Raises:
        ValueError: a batch index names no grid (on CPU; such rows are NaN on CUDA, which is not waited for).
    """
    channels_last = [level.permute(0, 2, 3, 4, 1) for level in features]
    return _forward(channels_last, rois, *pyramid, *sampling).permute(0, 4, 1, 2, 3)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, rois: Tensor, options: tuple, *features: Tensor) -> Tensor:
        ctx.options = options
        ctx.shapes = [size for level in features for size in level.shape]
        # The gradient for features needs their shapes only; what nobody differentiates is not kept alive.
        ctx.save_for_backward(rois, *(features if ctx.needs_input_grad[1] else ()))
        return _forward.redispatch(keyset, features, rois, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        rois, *features = ctx.saved_tensors
        of_features: Sequence[Tensor | None] = [None] * (len(ctx.shapes) // 5)
        if any(ctx.needs_input_grad[3:]):
            of_features = _backward(gradients[0], ctx.shapes, rois, *ctx.options)
        of_rois = None
        if ctx.needs_input_grad[1]:
            of_rois = _backward_rois(gradients[0], features, rois, *ctx.options)
        return None, of_rois, None, *of_features


class _DifferentiableOnce(torch.autograd.Function):
    """Runs an operator whose derivative is not implemented, and says so when it is asked for."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, operator: Any, arguments: tuple, *_: Tensor) -> Any:
        result = operator.redispatch(keyset, *arguments)
        return tuple(result) if isinstance(result, list) else result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        raise RuntimeError("RoIAlign in 3D has no second derivatives: its gradients cannot be differentiated again")


def _autograd_forward(keyset: Any, features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    keyset = keyset & torch._C._after_autograd_keyset
    if torch.is_grad_enabled() and (rois.requires_grad or any(level.requires_grad for level in features)):
        return _RoIAlign.apply(keyset, rois, options, *features)
    return _forward.redispatch(keyset, features, rois, *options)


def _autograd_backward(keyset: Any, gradient: Tensor, shapes: list[int], rois: Tensor, *options: Any) -> list[Tensor]:
    keyset = keyset & torch._C._after_autograd_keyset
    arguments = (gradient, shapes, rois, *options)
    return list(_DifferentiableOnce.apply(keyset, _backward, arguments, gradient, rois))


def _autograd_backward_rois(
    keyset: Any, gradient: Tensor, features: list[Tensor], rois: Tensor, *options: Any
) -> Tensor:
    keyset = keyset & torch._C._after_autograd_keyset
    arguments = (gradient, features, rois, *options)
    return _DifferentiableOnce.apply(keyset, _backward_rois, arguments, gradient, rois, *features)


@torch.library.register_fake(_forward)
def _fake_forward(
    features: list[Tensor], rois: Tensor, scales: list[float], volumes: list[float], output_size: list[int], *_: Any
) -> Tensor:
    return features[0].new_empty(rois.shape[0], *output_size, features[0].shape[4])


@torch.library.register_fake(_backward)
def _fake_backward(gradient: Tensor, shapes: list[int], *_: Any) -> list[Tensor]:
    return [gradient.new_empty(shape) for shape in _unflatten(shapes)]


@torch.library.register_fake(_backward_rois)
def _fake_backward_rois(gradient: Tensor, features: list[Tensor], rois: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(rois, memory_format=torch.contiguous_format)


def _unflatten(shapes: list[int]) -> list[list[int]]:
    return [shapes[i : i + 5] for i in range(0, len(shapes), 5)]


def _options(scales: list[float], volumes: list[float], output_size: list[int], *rule: Any) -> tuple[Pyramid, Sampling]:
    p, q, r = output_size
    return Pyramid(tuple(scales), tuple(volumes)), Sampling((p, q, r), *rule)


def _cpu_forward(features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    grids = features[0].shape[0]
    unknown = ~vectorized.names_a_grid(rois, grids)
    if unknown.any():
        row = int(unknown.nonzero()[0])
        raise ValueError(f"RoI {row} of {len(rois)} has batch index {rois[row, 0].item()}, but there are {grids} grids")
    return vectorized.forward(features, rois, *_options(*options))


def _vectorized_backward(gradient: Tensor, shapes: list[int], rois: Tensor, *options: Any) -> list[Tensor]:
    return vectorized.features_backward(gradient, _unflatten(shapes), rois, *_options(*options))


def _vectorized_backward_rois(gradient: Tensor, features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    return vectorized.rois_backward(gradient, features, rois, *_options(*options))


@cache
def _kernels() -> Any:
    """The Triton kernels, imported with the first CUDA tensor; None where there is no Triton."""
    if find_spec("triton") is None:
        return None
    from roi_align3d import kernels

    return kernels


def _cuda_forward(features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    if _kernels() is None or torch.float64 in (rois.dtype, features[0].dtype):
        return vectorized.forward(features, rois, *_options(*options))
    return _kernels().forward(features, rois, *_options(*options))


def _cuda_backward(gradient: Tensor, shapes: list[int], rois: Tensor, *options: Any) -> list[Tensor]:
    # Atomic additions come in any order.
    if (
        torch.are_deterministic_algorithms_enabled()
        or _kernels() is None
        or torch.float64 in (rois.dtype, gradient.dtype)
    ):
        return _vectorized_backward(gradient, shapes, rois, *options)
    return _kernels().features_backward(gradient, _unflatten(shapes), rois, *_options(*options))


def _cuda_backward_rois(gradient: Tensor, features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    if _kernels() is None or torch.float64 in (rois.dtype, gradient.dtype):
        return _vectorized_backward_rois(gradient, features, rois, *options)
    return _kernels().rois_backward(gradient, features, rois, *_options(*options))


for _name, _autograd, _cpu, _cuda in (
    ("roi_align", _autograd_forward, _cpu_forward, _cuda_forward),
    ("roi_align_backward", _autograd_backward, _vectorized_backward, _cuda_backward),
    ("roi_align_backward_rois", _autograd_backward_rois, _vectorized_backward_rois, _cuda_backward_rois),
):
    _library.impl(_name, _autograd, "Autograd", with_keyset=True)
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
