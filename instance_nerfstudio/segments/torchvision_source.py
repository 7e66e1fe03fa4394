"""torchvision's Mask R-CNN as a mask source: COCO's published weights, or those of one's own training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.mask_rcnn import load_mask_rcnn
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import SourceInfo
from instance_nerfstudio.segments.settings import FlattenConfig
from instance_nerfstudio.segments.view_segments import ViewSegments
from instance_nerfstudio.segments.weights_file import fingerprint, read_weights

if TYPE_CHECKING:
    import torch
    from torchvision.models.detection import MaskRCNN

DOWNLOAD = "python -c \"from torchvision.models.detection import maskrcnn_resnet50_fpn_v2 as f; f(weights='COCO_V1')\""


class TorchvisionSource:
    """A Mask R-CNN.

    Args:
        weights: a `.safetensors` file with its `.json`; a state dict of `maskrcnn_resnet50_fpn_v2` or
            `maskrcnn_resnet50_fpn` for COCO's classes; None for the published one in torch's cache.
        device: where it runs.
        table: what classes are called here.
        config: which masks become segments.
        settings: what else the result depends on.

    Raises:
        InputError: the weights are missing or damaged.
    """

    sequential = False

    def __init__(
        self,
        weights: str | None,
        device: torch.device,
        table: ClassTable,
        config: FlattenConfig,
        settings: dict[str, Any],
    ) -> None:
        import torchvision

        self._device, self._table, self._config = device, table, config
        if weights is not None and weights.endswith(".safetensors"):
            model, architecture = load_mask_rcnn(Path(weights))
            self._names = ("background", *architecture.categories)
        else:
            path = _cached() if weights is None else Path(weights)
            model = _load_coco(path)
            from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

            self._names = tuple(MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"])
        # Doubtful ones come too; the default of 0.05 leaves out more than --doubtful-score 0 asks for.
        model.roi_heads.score_thresh = min(config.doubtful_score, config.min_score)  # type: ignore[assignment]
        self._model = model.to(device).eval()
        if weights is not None:
            settings = {**settings, "weights_sha256": fingerprint(Path(weights))}
        self.info = SourceInfo("torchvision", torchvision.__version__, weights or "COCO_V1", settings)

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[tuple[int, ViewSegments]]:
        """As `MaskSource` says."""
        import torch

        for place in range(len(done), len(photos)):
            photo = torch.from_numpy(photos[place].rgb().copy()).to(self._device)
            with torch.inference_mode():
                found = self._model([photo.permute(2, 0, 1).float() / 255])[0]
            detections = Detections(
                found["masks"][:, 0] > 0.5, found["scores"], [self._names[label] for label in found["labels"].tolist()]
            )
            yield place, flatten(detections, self._table, self._config)


def _cached() -> Path:
    """The published weights in torch's cache."""
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

    name = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise InputError(f"{path}: no weights of Mask R-CNN there; download 177 MB with {DOWNLOAD}, or give --weights")
    return path


def _load_coco(path: Path) -> MaskRCNN:
    from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
    from torchvision.models.detection._utils import overwrite_eps

    weights = read_weights(path)
    # Version 2 has a convolution more in each head.
    build = maskrcnn_resnet50_fpn_v2 if "rpn.head.conv.1.0.weight" in weights else maskrcnn_resnet50_fpn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(weights=None, weights_backbone=None)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: is no Mask R-CNN of torchvision for COCO ({reason}); download it again") from error
    if build is maskrcnn_resnet50_fpn:  # as torchvision does with these weights
        overwrite_eps(model, 0.0)
    return model
