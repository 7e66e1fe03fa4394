"""Names of the weights in NeRF-RPN's published checkpoints (`backbone_state_dict`) and of the same weights here.

Shapes agree. Kernels `[out, in, x, y, z]`, biases of relative positions and merged patches are in the same order, so
that a conversion only renames. `\\1` and so on stand for the groups of a pattern; an empty name means that the entry,
an index that follows from the window, has no counterpart.

* `ResNet_FPN_256` keeps its laterals and 3³ convolutions coarsest first; here all levels are finest first.
* `VGG_FPN` is one list: stem convolution, norm, ReLU, pooling, then the stages with three modules per convolution.
  Published weights for grids below 160 voxels were trained without the stem's strides and don't fit.
* `SwinTransformer_FPN` differs in the patch embedding and the pyramid only.
"""

import re

from rcnn.backbones.build import BackboneConfig
from rcnn.backbones.resnet import ResNetConfig
from rcnn.backbones.vgg import VGGConfig

RESNET_NAMES: tuple[tuple[str, str], ...] = (
    (r"conv1\.(\w+)", r"stem.conv.\1"),
    (r"bn1\.(\w+)", r"stem.norm.\1"),
    (r"layers\.(\d+)\.(\d+)\.conv(\d)\.(\w+)", r"stages.\1.\2.conv\3.conv.\4"),
    (r"layers\.(\d+)\.(\d+)\.bn(\d)\.(\w+)", r"stages.\1.\2.conv\3.norm.\4"),
    (r"layers\.(\d+)\.(\d+)\.downsample\.0\.(\w+)", r"stages.\1.\2.shortcut.conv.\3"),
    (r"layers\.(\d+)\.(\d+)\.downsample\.1\.(\w+)", r"stages.\1.\2.shortcut.norm.\3"),
    *((rf"latlayers\.{i}\.(\w+)", rf"fpn.laterals.{3 - i}.\1") for i in range(4)),
    *((rf"smooths\.{i}\.(\w+)", rf"fpn.outputs.{2 - i}.\1") for i in range(3)),
)

_PYRAMID_NAMES = (
    (r"fpn_neck\.lateral_convs\.(\d)\.(\w+)", r"fpn.laterals.\1.\2"),
    (r"fpn_neck\.fpn_convs\.(\d)\.(\w+)", r"fpn.outputs.\1.\2"),
)

VGG_NAMES: tuple[tuple[str, str], ...] = (
    (r"layers\.0\.(\w+)", r"stem.conv.\1"),
    (r"layers\.1\.(\w+)", r"stem.norm.\1"),
    *((rf"layers\.{4 + s}\.{3 * i}\.(\w+)", rf"stages.{s}.{i}.conv.\1") for s in range(4) for i in range(4)),
    *((rf"layers\.{4 + s}\.{3 * i + 1}\.(\w+)", rf"stages.{s}.{i}.norm.\1") for s in range(4) for i in range(4)),
    *_PYRAMID_NAMES,
)

SWIN_NAMES: tuple[tuple[str, str], ...] = (
    (r"patch_partition\.0\.(\w+)", r"patch_embed.conv.\1"),
    (r"patch_partition\.2\.(\w+)", r"patch_embed.norm.\1"),
    (r"stages\..*\.relative_position_index", ""),
    (r"(stages\..*)", r"\1"),
    *_PYRAMID_NAMES,
)


def name_from_published(config: BackboneConfig, published: str) -> str | None:
    """The name here of a published backbone weight; empty for one that is not needed, None for an unknown one."""
    names = (
        RESNET_NAMES if isinstance(config, ResNetConfig) else VGG_NAMES if isinstance(config, VGGConfig) else SWIN_NAMES
    )
    for pattern, name in names:
        if match := re.fullmatch(pattern, published):
            return match.expand(name)
    return None
