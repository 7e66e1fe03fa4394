"""Backbones narrow enough for tests, and random grids."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rcnn.backbones import BackboneConfig, GridBatch, ResNetConfig, SwinConfig, VGGConfig

NARROW: dict[str, BackboneConfig] = {
    "bottleneck": ResNetConfig(blocks=(1, 2, 1, 1), width=4, out_channels=8),
    "basic": ResNetConfig(blocks=(1, 1, 1, 1), block="basic", width=8, out_channels=8, norm="group", norm_groups=4),
    "vgg": VGGConfig(stages=((4, 8), (8,), (8,), (8,)), stem_width=4, out_channels=8),
    "vgg_group": VGGConfig(stages=((4,), (8,), (8,), (8,)), stem_width=4, out_channels=8, norm="group", norm_groups=2),
    "swin": SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), out_channels=8),
}

SIZES = ((37, 20, 13), (40, 33, 9), (12, 36, 21))
"""Voxels of three grids: odd sides, sides within one window of Swin at some stride, none the longest in all axes."""


def random_grids(sizes: Sequence[tuple[int, int, int]] = SIZES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(4, *size, generator=generator) for size in sizes]


def spoil_padding(batch: GridBatch) -> GridBatch:
    """The same batch with NaN where it is padded."""
    return GridBatch(batch.features.masked_fill(~batch.inside_at(1), float("nan")), batch.extents)


def sum_of_squares(levels: Sequence[Tensor]) -> Tensor:
    return torch.stack([level.square().sum() for level in levels]).sum()


def randomize_norms(module: torch.nn.Module) -> None:
    """Scales, shifts and running statistics as after training: fresh ones would hide what padding does to them."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if "norm" in name and tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=generator)


def _same_dtype(name: str, arguments: Sequence[Any]) -> None:
    dtypes = [a.dtype for a in tree_leaves(arguments) if isinstance(a, Tensor) and a.is_floating_point()]
    assert len(set(dtypes)) <= 1, f"{name} of {dtypes}"


class OneDtypeForKernels(TorchDispatchMode):
    """Fails at what CPUs take and CUDA refuses: layers and products of tensors of several dtypes, backward too.

    `calls` counts the operations that were looked at.
    """

    ARGUMENTS: ClassVar = {
        "addmm": 3, "mm": 2, "bmm": 2, "baddbmm": 3, "convolution": 3, "convolution_backward": 3, "index_add": 4,
        "native_layer_norm": 4, "native_group_norm": 3, "native_group_norm_backward": 3,
    }  # fmt: skip
    """How many of the first arguments must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.ARGUMENTS:
            _same_dtype(name, args[: self.ARGUMENTS[name]])
            self.calls[name] = self.calls.get(name, 0) + 1
        elif name == "native_layer_norm_backward":
            _same_dtype(name, (*args[:2], args[5]))
        return func(*args, **(kwargs or {}))


class OneDtypeForAttention(TorchFunctionMode):
    """The same for attention, of which the dispatcher sees no more than its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            _same_dtype("attention", (*args, *(kwargs or {}).values()))
            self.calls += 1
        return func(*args, **(kwargs or {}))
