"""Options of the mask sources. In a file of their own, since what uses them loads torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from instance_nerfstudio.errors import InputError


@dataclass(frozen=True)
class FlattenConfig:
    """Which masks become segments, and which is in front where masks overlap."""

    min_score: float = 0.5
    """Masks below this score are no segments."""
    doubtful_score: float = 0.3
    """Pixels that only masks of scores from here to `min_score` cover have no opinion, instead of being background."""
    min_area: float = 2e-4
    """Smaller shares of the photo are no segments either, and have no opinion. 15 pixels of 320x240."""
    front_inside: float = 0.8
    """A mask is in front of one of another class if more than this share of it lies inside that one, ..."""
    front_size: float = 0.5
    """... if it is smaller than this share of that one, ..."""
    front_score: float = 0.75
    """... and if its score is above this share of that one's; what lies inside background always is. Otherwise the mask
    of the higher score is in front."""
    min_visible: float = 0.4
    """A mask of which a smaller share is left, the rest being behind others, is one of something found already."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must lie in [0, 1]")


@dataclass(frozen=True)
class TrackingConfig:
    """How SAM 2 finds objects and follows them."""

    keyframe_every: int = 8
    """Photos from one keyframe to the next."""
    seeds: Literal["grid", "transformers", "torchvision", "detectron2"] = "grid"
    """Where a keyframe's masks come from: SAM itself, without classes, or another source, with its classes."""
    seed_weights: str | None = None
    """Weights of that other source."""
    points_per_side: int = 32
    """Of the grid."""
    min_quality: float = 0.8
    """Least IoU that SAM expects of a mask of the grid."""
    min_stability: float = 0.9
    """Least IoU of such a mask with itself, drawn more and less generously."""
    background_area: float = 0.3
    """A mask of the grid that covers more than this share of the photo is background: a wall or a floor."""
    new_share: float = 0.5
    """A mask is a new object if more than this share of it is not in tracked ones."""

    def __post_init__(self) -> None:
        if min(self.keyframe_every, self.points_per_side) < 1:
            raise InputError("--keyframe-every and --points-per-side must be at least 1")
        for name in ("min_quality", "min_stability", "background_area", "new_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must lie in [0, 1]")


@dataclass(frozen=True)
class SegmentConfig:
    """Which segmenter looks at the photos, and what becomes of its masks."""

    source: Literal["transformers", "sam2", "torchvision", "detectron2", "folder"] = "transformers"
    """`transformers`: Mask2Former or EoMT. `sam2`: SAM 2, whose ids are the same in all views. `torchvision`: Mask
    R-CNN. `detectron2`: Mask2Former's published checkpoints. `folder`: masks that another program made."""
    weights: str | None = None
    """A folder, a file, or the name of a checkpoint in the Hugging Face cache; nothing is downloaded. By default
    `facebook/mask2former-swin-large-coco-panoptic`, `facebook/sam2.1-hiera-large`, or COCO's of torchvision."""
    masks: Path | None = None
    """Folder of the masks of `--source folder`."""
    detectron2_config: Path | None = None
    """The model's .yaml file for `--source detectron2`."""
    task: Literal["auto", "panoptic", "instance"] = "auto"
    """How a model of `transformers` is read; `auto`: as panoptic if it knows walls and floors."""
    classes: str = "coco"
    """What the segmenter's classes are called here: `coco`, `ade20k`, or a JSON file."""
    flatten: FlattenConfig = field(default_factory=FlattenConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    replace: bool = False
    """Delete segments in the same folder that were made in another way."""
