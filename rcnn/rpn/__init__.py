"""The region proposal network: heads over the features of density grids, their losses, and proposals.

```python
model = NeRFRPN(NeRFRPNConfig(backbone=BACKBONES["resnet50"], head=FCOSHeadConfig(), rotated=True))
losses = model.train()(batch, boxes)  # a dict of weighted terms: sum(losses.values()).backward()
proposals = model.eval()(batch)  # for each grid boxes in voxels, scores and levels
```
"""

from rcnn.rpn.anchor_head import AnchorHead, AnchorHeadConfig, AnchorOutputs
from rcnn.rpn.anchor_losses import AnchorLossConfig, anchor_losses
from rcnn.rpn.candidates import Candidates
from rcnn.rpn.fcos_head import FCOSHead, FCOSHeadConfig, FCOSOutputs
from rcnn.rpn.fcos_losses import FCOSLossConfig, centerness, fcos_losses, focal_loss
from rcnn.rpn.heatmap import objectness_heatmap
from rcnn.rpn.location_assignment import LocationAssignmentConfig, assign_locations, level_locations
from rcnn.rpn.nerf_rpn import NeRFRPN, NeRFRPNConfig
from rcnn.rpn.proposals import ProposalConfig, Proposals, select_proposals
from rcnn.rpn.published_names import head_from_published, head_name_from_published

__all__ = [
    "AnchorHead",
    "AnchorHeadConfig",
    "AnchorLossConfig",
    "AnchorOutputs",
    "Candidates",
    "FCOSHead",
    "FCOSHeadConfig",
    "FCOSLossConfig",
    "FCOSOutputs",
    "LocationAssignmentConfig",
    "NeRFRPN",
    "NeRFRPNConfig",
    "ProposalConfig",
    "Proposals",
    "anchor_losses",
    "assign_locations",
    "centerness",
    "fcos_losses",
    "focal_loss",
    "head_from_published",
    "head_name_from_published",
    "level_locations",
    "objectness_heatmap",
    "select_proposals",
]
