"""The one operator behind every public function, registered with `torch.library`.

Features, results and their gradients are [.., C, X, Y, Z] in channels-last memory. Registered on the dispatch keys by
hand: a differentiable call costs a quarter of the host time that `torch.library.custom_op` or `register_autograd` take
with lists of tensors, and `torch.compile` and `torch.export` trace it alike. The dispatcher itself takes longer than
the launch of a kernel, since it calls Python once per key with every list converted anew, so :func:`pool` goes past it
where all it would do is to pick the implementation. There is no autocast rule, hence no cast: fp16 and bf16 features
are pooled as they are.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import has_torch_function

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

_PLAIN_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_PLAIN_KEYS = frozenset(
    keys.raw_repr()
    for below in (torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect),)
    for keys in (below, below.add(torch._C.DispatchKey.ADInplaceOrView))
)
"""Dispatch keys that a thread includes of itself, in inference mode and out of it."""


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
    if torch.compiler.is_compiling() or not _goes_to_kernels(rois, *features):
        return _forward(list(features), rois, *pyramid, *sampling)
    if torch.is_grad_enabled() and (rois.requires_grad or any([level.requires_grad for level in features])):
        return _RoIAlign.apply(None, rois, (*pyramid, *sampling), *features)
    return _kernels().forward(features, rois, pyramid, sampling)


def _goes_to_kernels(*tensors: Tensor) -> bool:
    """Whether the dispatcher would only pass these to the CUDA kernels: no subclass, no mode, no transform."""
    for tensor in tensors:
        if (
            type(tensor) not in _PLAIN_TENSORS
            or not tensor.is_cuda
            or tensor.dtype == torch.float64
            or tensor.layout != torch.strided
            or tensor.is_neg()
        ):
            return False
    return (
        torch._C._dispatch_tls_local_include_set().raw_repr() in _PLAIN_KEYS
        and not has_torch_function(tensors)
        and _kernels() is not None
    )


class _RoIAlign(torch.autograd.Function):
    """Below the dispatcher's autograd key, and with no `keyset` without it."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, rois: Tensor, options: tuple, *features: Tensor) -> Tensor:
        ctx.options = options
        ctx.shapes = [size for level in features for size in level.shape]
        # The gradient for features needs their shapes only; what nobody differentiates is not kept alive.
        ctx.save_for_backward(rois, *(features if ctx.needs_input_grad[1] else ()))
        if keyset is None:
            return _kernels().forward(features, rois, *_options(*options))
        return _forward.redispatch(keyset, features, rois, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        rois, *features = ctx.saved_tensors
        gradient = gradients[0]
        # With gradients enabled, second derivatives may be asked for, which the dispatcher's autograd key refuses.
        direct = not torch.is_grad_enabled() and _goes_to_kernels(gradient, rois, *features)
        of_features: Sequence[Tensor | None] = [None] * (len(ctx.shapes) // 5)
        if any(ctx.needs_input_grad[3:]):
            # The deterministic implementation returns views, which the dispatcher keeps autograd from noticing.
            to_kernels = direct and not torch.are_deterministic_algorithms_enabled()
            of_features = (_cuda_backward if to_kernels else _backward)(gradient, ctx.shapes, rois, *ctx.options)
        of_rois = None
        if ctx.needs_input_grad[1]:
            of_rois = (_cuda_backward_rois if direct else _backward_rois)(gradient, features, rois, *ctx.options)
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
    return _from_channels_last(features[0].new_empty(rois.shape[0], *output_size, features[0].shape[1]))


@torch.library.register_fake(_backward)
def _fake_backward(gradient: Tensor, shapes: list[int], *_: Any) -> list[Tensor]:
    return [_from_channels_last(gradient.new_empty(n, x, y, z, c)) for n, c, x, y, z in _unflatten(shapes)]


@torch.library.register_fake(_backward_rois)
def _fake_backward_rois(gradient: Tensor, features: list[Tensor], rois: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(rois, memory_format=torch.contiguous_format)


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 4, 1)


def _from_channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 4, 1, 2, 3)


def _unflatten(shapes: list[int]) -> list[list[int]]:
    return [shapes[i : i + 5] for i in range(0, len(shapes), 5)]


def _options(
    scales: Sequence[float], volumes: Sequence[float], output_size: Sequence[int], *rule: Any
) -> tuple[Pyramid, Sampling]:
    p, q, r = output_size
    return Pyramid(tuple(scales), tuple(volumes)), Sampling((p, q, r), *rule)


def _vectorized_forward(features: Sequence[Tensor], rois: Tensor, *options: Any) -> Tensor:
    levels = [_to_channels_last(level) for level in features]
    pyramid, sampling = _options(*options)
    shape = (rois.shape[0], features[0].shape[1], *sampling.output_size)
    # Results of autograd functions must not be views, or they could not be modified in place.
    pooled = torch.empty(
        shape, dtype=features[0].dtype, device=features[0].device, memory_format=torch.channels_last_3d
    )
    vectorized.forward(levels, rois, pyramid, sampling, _to_channels_last(pooled))
    return pooled


def _vectorized_backward(gradient: Tensor, shapes: list[int], rois: Tensor, *options: Any) -> list[Tensor]:
    channels_last = [(n, x, y, z, c) for n, c, x, y, z in _unflatten(shapes)]
    sums = vectorized.features_backward(_to_channels_last(gradient), channels_last, rois, *_options(*options))
    return [_from_channels_last(total) for total in sums]


def _vectorized_backward_rois(gradient: Tensor, features: Sequence[Tensor], rois: Tensor, *options: Any) -> Tensor:
    levels = [_to_channels_last(level) for level in features]
    return vectorized.rois_backward(_to_channels_last(gradient), levels, rois, *_options(*options))


def _cpu_forward(features: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    grids = features[0].shape[0]
    unknown = ~vectorized.names_a_grid(rois, grids)
    if unknown.any():
        row = int(unknown.nonzero()[0])
        raise ValueError(f"RoI {row} of {len(rois)} has batch index {rois[row, 0].item()}, but there are {grids} grids")
    return _vectorized_forward(features, rois, *options)


@cache
def _kernels() -> Any:
    """The Triton kernels, imported with the first CUDA tensor; None where there is no Triton."""
    if find_spec("triton") is None:
        return None
    from roi_align3d import kernels

    return kernels


def _cuda_forward(features: Sequence[Tensor], rois: Tensor, *options: Any) -> Tensor:
    kernels = _kernels()
    if kernels is None or rois.dtype == torch.float64 or features[0].dtype == torch.float64:
        return _vectorized_forward(features, rois, *options)
    return kernels.forward(features, rois, *_options(*options))


def _cuda_backward(gradient: Tensor, shapes: list[int], rois: Tensor, *options: Any) -> list[Tensor]:
    kernels = _kernels()
    # Atomic additions come in any order.
    if (
        kernels is None
        or rois.dtype == torch.float64
        or gradient.dtype == torch.float64
        or torch.are_deterministic_algorithms_enabled()
    ):
        return _vectorized_backward(gradient, shapes, rois, *options)
    return kernels.features_backward(gradient, _unflatten(shapes), rois, *_options(*options))


def _cuda_backward_rois(gradient: Tensor, features: Sequence[Tensor], rois: Tensor, *options: Any) -> Tensor:
    kernels = _kernels()
    if kernels is None or rois.dtype == torch.float64 or gradient.dtype == torch.float64:
        return _vectorized_backward_rois(gradient, features, rois, *options)
    return kernels.rois_backward(gradient, features, rois, *_options(*options))


for _name, _autograd, _cpu, _cuda in (
    ("roi_align", _autograd_forward, _cpu_forward, _cuda_forward),
    ("roi_align_backward", _autograd_backward, _vectorized_backward, _cuda_backward),
    ("roi_align_backward_rois", _autograd_backward_rois, _vectorized_backward_rois, _cuda_backward_rois),
):
    _library.impl(_name, _autograd, "Autograd", with_keyset=True)
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
