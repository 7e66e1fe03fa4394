"""Backbones of the detector: from padded batches of density grids to pyramids of features of strides 4, 8, 16 and 32.

```python
batch = GridBatch.collate([grid.rgb_alpha() as tensors, of any sizes])
maps = build_backbone(BACKBONES["swin_s"])(batch)  # 4 maps [N, 256, ceil(X / s), ceil(Y / s), ceil(Z / s)]
inside = batch.inside_at(4)  # which cells of the first lie in their grid; the others are zero
```
"""

from rcnn.backbones.build import BACKBONES, Backbone, BackboneConfig, BackboneName, build_backbone
from rcnn.backbones.feature_pyramid import STRIDES, FeaturePyramid
from rcnn.backbones.grid_batch import GridBatch
from rcnn.backbones.norms import NormKind
from rcnn.backbones.padding import Extent, Padding, zero_padding_
from rcnn.backbones.published_names import name_from_published
from rcnn.backbones.resnet import ResNetConfig, ResNetFPN
from rcnn.backbones.swin import SwinConfig, SwinFPN
from rcnn.backbones.vgg import VGGFPN, VGGConfig

__all__ = [
    "BACKBONES",
    "STRIDES",
    "VGGFPN",
    "Backbone",
    "BackboneConfig",
    "BackboneName",
    "Extent",
    "FeaturePyramid",
    "GridBatch",
    "NormKind",
    "Padding",
    "ResNetConfig",
    "ResNetFPN",
    "SwinConfig",
    "SwinFPN",
    "VGGConfig",
    "build_backbone",
    "name_from_published",
    "zero_padding_",
]
