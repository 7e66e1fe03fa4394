"""The backbones by name and by config."""

from typing import Literal

from rcnn.backbones.resnet import ResNetConfig, ResNetFPN
from rcnn.backbones.swin import SwinConfig, SwinFPN
from rcnn.backbones.vgg import VGGFPN, VGGConfig

BackboneConfig = ResNetConfig | VGGConfig | SwinConfig
Backbone = ResNetFPN | VGGFPN | SwinFPN
BackboneName = Literal["resnet18", "resnet50", "vgg_AF", "vgg_EF", "swin_t", "swin_s", "swin_b", "swin_l"]

BACKBONES: dict[BackboneName, BackboneConfig] = {
    "resnet18": ResNetConfig(blocks=(2, 2, 2, 2), block="basic"),
    "resnet50": ResNetConfig(),
    "vgg_AF": VGGConfig(stages=((64, 128), (256, 256), (512, 512), (512, 512))),
    "vgg_EF": VGGConfig(),
    "swin_t": SwinConfig(depths=(2, 2, 6, 2)),
    "swin_s": SwinConfig(),
    # NeRF-RPN's script gives this width the heads of swin_s, which don't divide it and fail; these are the paper's.
    "swin_b": SwinConfig(embed_dim=128, heads=(4, 8, 16, 32)),
    "swin_l": SwinConfig(embed_dim=192, heads=(6, 12, 24, 48)),
}
"""NeRF-RPN's backbones, and ResNet-18. `dataclasses.replace` changes options."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """A backbone with random weights. Calling it with a `GridBatch` gives one map per stride in its `strides`."""
    match config:
        case ResNetConfig():
            return ResNetFPN(config)
        case VGGConfig():
            return VGGFPN(config)
        case SwinConfig():
            return SwinFPN(config)
