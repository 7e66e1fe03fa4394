"""What is in a box, and where it really is: the box head of NeRF-RCNN."""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class BoxHeadConfig:
    """Box head of NeRF-RCNN."""

    bins: int = 5
    """Of a box along each side."""
    hidden: int = 512
    """Width of the two hidden layers."""
    class_agnostic: bool = False
    """Whether a box is corrected in one way, or in one for each class."""


class BoxOutputs(NamedTuple):
    """Of K boxes."""

    logits: Float[Tensor, "K 1+classes"]
    """Background first."""
    deltas: Float[Tensor, "K groups columns"]
    """Offsets from the boxes, `rcnn.boxes.encode_aabb_deltas` or `encode_obb_deltas`, for each class or for all."""


class BoxHead(nn.Module):
    """Two fully connected layers, and one for each output."""

    def __init__(self, config: BoxHeadConfig, channels: int, classes: int, rotated: bool) -> None:
        """
        Args:
            config: of the layers.
            channels: of the features.
            classes: without the background.
            rotated: whether boxes are OBBs.
        """
        super().__init__()
        self.groups = 1 if config.class_agnostic else classes
        self.columns = 7 if rotated else 6
        self.fc1 = nn.Linear(channels * config.bins**3, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        self.logits = nn.Linear(config.hidden, 1 + classes)
        self.deltas = nn.Linear(config.hidden, self.groups * self.columns)
        # As Fast R-CNN does: the first boxes are the proposals.
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Float[Tensor, "K C bins bins bins"]) -> BoxOutputs:
        """
        Args:
            pooled: features of boxes.
        """
        x = F.relu(self.fc1(pooled.flatten(1)))
        x = F.relu(self.fc2(x))
        return BoxOutputs(self.logits(x), self.deltas(x).view(-1, self.groups, self.columns))
