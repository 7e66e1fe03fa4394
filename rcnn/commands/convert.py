"""`nerf-rcnn convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rcnn.commands.train import BackboneName, HeadName, rpn_config


@dataclass
class Convert:
    """Convert a published NeRF-RPN or NeRF-RCNN checkpoint (.pt) to weights for this package."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Of NeRF-RPN's run_fcos.py or run_rpn.py, or of Instance-NeRF's run_rcnn.py."""
    out: Path
    """The .safetensors file to write; notes go beside it."""
    backbone: BackboneName
    """Its network."""
    head: HeadName
    """Its RPN."""
    boxes: Literal["aabb", "obb"] = "aabb"
    """What it regresses; NeRF-RCNN's are aabb."""

    def main(self) -> None:
        """Writes the weights."""
        from rcnn.weights import convert_published

        convert_published(self.checkpoint, self.out, rpn_config(self.backbone, self.head, self.boxes == "obb"))
        print(f"{self.out}: use it with nerf-rcnn eval, predict or visualize")
