"""NeRF-RCNN: heads that classify the proposals of a NeRF-RPN, correct their boxes and fill them with 3D masks.

```python
model = NeRFRCNN(NeRFRCNNConfig(rpn=NeRFRPNConfig(BACKBONES["resnet50"]), categories=("chair", "table")))
losses = model.train()(batch, boxes, labels, instances)  # a dict of weighted terms
found = model.eval()(batch)  # for each grid boxes in voxels, classes, scores and masks
found = NeRFRCNN.from_pretrained("detector.safetensors")(read_density_grid(Path("density.npz")))
```
"""

from rcnn.roi_heads.box_head import BoxHead, BoxHeadConfig, BoxOutputs
from rcnn.roi_heads.detections import DetectionConfig, Detections, select_detections
from rcnn.roi_heads.mask_head import MaskHead, MaskHeadConfig
from rcnn.roi_heads.mask_targets import mask_targets
from rcnn.roi_heads.nerf_rcnn import FrozenPart, NeRFRCNN, NeRFRCNNConfig, compact_config
from rcnn.roi_heads.roi_heads import RoIHeads, RoIHeadsConfig
from rcnn.roi_heads.roi_losses import RoILossConfig, box_loss, class_loss, dice_loss, mask_loss
from rcnn.roi_heads.roi_pooling import RoIPoolingConfig, extend_edges, pool_rois
from rcnn.roi_heads.roi_targets import RoITargets, make_roi_targets

__all__ = [
    "BoxHead",
    "BoxHeadConfig",
    "BoxOutputs",
    "DetectionConfig",
    "Detections",
    "FrozenPart",
    "MaskHead",
    "MaskHeadConfig",
    "NeRFRCNN",
    "NeRFRCNNConfig",
    "RoIHeads",
    "RoIHeadsConfig",
    "RoILossConfig",
    "RoIPoolingConfig",
    "RoITargets",
    "box_loss",
    "class_loss",
    "compact_config",
    "dice_loss",
    "extend_edges",
    "make_roi_targets",
    "mask_loss",
    "mask_targets",
    "pool_rois",
    "select_detections",
]
