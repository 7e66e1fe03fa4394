"""Mask2Former, MaskFormer and EoMT of Hugging Face's transformers as a mask source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.hub_checkpoint import load_pretrained, require_transformers
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.query_masks import instance_detections, panoptic_detections
from instance_nerfstudio.segments.segments_folder import SourceInfo
from instance_nerfstudio.segments.settings import FlattenConfig
from instance_nerfstudio.segments.view_segments import ViewSegments
from instance_nerfstudio.segments.weights_file import fingerprint

if TYPE_CHECKING:
    import torch

DEFAULT_WEIGHTS = "facebook/mask2former-swin-large-coco-panoptic"
"""The network and the classes of the original Instance-NeRF."""

KINDS = ("mask2former", "maskformer", "eomt", "eomt_dinov3")

Task = Literal["auto", "panoptic", "instance"]


class TransformersSource:
    """A universal segmentation model: a class and a mask per query.

    Args:
        weights: folder of a checkpoint or its name in the cache; None for `DEFAULT_WEIGHTS`.
        task: how the queries are read; `auto` is `panoptic` if the model knows walls and floors, else `instance`.
        device: where it runs.
        table: what classes are called here.
        config: which masks become segments.
        settings: what else the result depends on.

    Raises:
        InputError: transformers or the checkpoint is missing, or it is of another kind.
    """

    sequential = False

    def __init__(
        self,
        weights: str | None,
        task: Task,
        device: torch.device,
        table: ClassTable,
        config: FlattenConfig,
        settings: dict[str, Any],
    ) -> None:
        require_transformers("transformers")
        import transformers
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForUniversalSegmentation

        weights = weights or DEFAULT_WEIGHTS
        architecture = load_pretrained(AutoConfig, weights)
        kind = architecture.model_type
        if kind not in KINDS:
            raise InputError(f"{weights}: is a {kind}, not a Mask2Former, MaskFormer or EoMT; choose other weights")
        self._processor = load_pretrained(AutoImageProcessor, weights)
        if getattr(self._processor, "do_split_image", False):
            raise InputError(f"{weights}: is a model for semantic classes; choose a panoptic or an instance one")
        model = load_pretrained(AutoModelForUniversalSegmentation, weights)
        self._model = model.to(device).eval()
        labels = architecture.id2label
        self._names = [labels[number] for number in sorted(labels)]
        background = [table.is_background(name) for name in self._names]
        self._panoptic = task == "panoptic" or (task == "auto" and any(background))
        # Which classes are stuff is nowhere in a checkpoint; COCO's say it in their names.
        stuff_names = set(table.names[80:]) if len(table.names) == 133 else set()
        self._stuff = {i for i, name in enumerate(self._names) if background[i] or name in stuff_names}
        self._device, self._table, self._config = device, table, config
        self._inner: dict[tuple[int, int], tuple[int, int]] = {}
        settings = {**settings, "task": "panoptic" if self._panoptic else "instance"}
        if Path(weights).exists():
            settings["weights_sha256"] = fingerprint(Path(weights))
        self.info = SourceInfo("transformers", transformers.__version__, weights, settings)

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[tuple[int, ViewSegments]]:
        """As `MaskSource` says."""
        for place in range(len(done), len(photos)):
            yield place, flatten(self._detect(photos[place].rgb()), self._table, self._config)

    def _detect(self, photo: np.ndarray) -> Detections:
        import torch
        import torch.nn.functional as F

        # Not the processor's own `post_process_*`: they stretch the masks of a padded photo to its size, padding
        # included, and go through 384 x 384 pixels.
        inputs = self._processor(images=photo, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._device)
        height, width = self._inner_size(photo)
        with torch.inference_mode():
            outputs = self._model(pixel_values=pixels)
            classes = outputs.class_queries_logits[0].float()
            # Queries that are nothing need no masks at the photo's size.
            low = min(self._config.min_score, self._config.doubtful_score)
            kept = classes.softmax(-1)[:, :-1].max(-1).values >= low
            classes, masks = classes[kept], outputs.masks_queries_logits[:, kept].float()
            if len(classes):
                masks = F.interpolate(masks, pixels.shape[-2:], mode="bilinear", align_corners=False)
                masks = F.interpolate(
                    masks[..., :height, :width], photo.shape[:2], mode="bilinear", align_corners=False
                )[0]
            else:
                masks = masks.new_zeros((0, *photo.shape[:2]))
            if self._panoptic:
                return panoptic_detections(classes, masks, self._names, self._stuff, self._config.min_score)
            return instance_detections(classes, masks, self._names, low)

    def _inner_size(self, photo: np.ndarray) -> tuple[int, int]:
        """Rows and columns of the model's input that show the photo; the others are padding, at the right and below."""
        size = (photo.shape[0], photo.shape[1])
        if size not in self._inner:
            resized = self._processor(images=photo, return_tensors="pt", do_pad=False)["pixel_values"]
            self._inner[size] = (resized.shape[-2], resized.shape[-1])
        return self._inner[size]
