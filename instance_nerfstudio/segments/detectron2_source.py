"""detectron2's models as a mask source: Mask2Former with its published checkpoints, and Mask R-CNN of the model zoo.

Written against detectron2's documented API (`get_cfg`, `build_model`, `ResizeShortestEdge`, the models' output format).
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.query_masks import split_pieces
from instance_nerfstudio.segments.segments_folder import SourceInfo
from instance_nerfstudio.segments.settings import FlattenConfig
from instance_nerfstudio.segments.view_segments import ViewSegments
from instance_nerfstudio.segments.weights_file import fingerprint, read_weights

if TYPE_CHECKING:
    import torch

INSTALL = (
    "git clone https://github.com/facebookresearch/detectron2 && "
    "FORCE_CUDA=1 pip install --no-build-isolation 'setuptools<81' ./detectron2"
)
MASK2FORMER = (
    "git clone https://github.com/facebookresearch/Mask2Former && "
    "(cd Mask2Former/mask2former/modeling/pixel_decoder/ops && sh make.sh) && export PYTHONPATH=$PWD/Mask2Former"
)
# Not in checkpoints that were written for use alone.
_OPTIONAL = ("pixel_mean", "pixel_std", "criterion.empty_weight", "num_batches_tracked")


class Detectron2Source:
    """A model of detectron2.

    Args:
        weights: checkpoint, `.pkl` or `.pth`; read without running code from it.
        config_file: the model's `.yaml`, with the files that it is based on.
        device: where it runs.
        table: what classes are called here; its `names` stand in where detectron2 has none for the data set.
        config: which masks become segments.
        settings: what else the result depends on.

    Raises:
        InputError: detectron2, Mask2Former or a file is missing, or the weights do not fit.
    """

    sequential = False

    def __init__(
        self,
        weights: str | None,
        config_file: Path | None,
        device: torch.device,
        table: ClassTable,
        config: FlattenConfig,
        settings: dict[str, Any],
    ) -> None:
        if importlib.util.find_spec("detectron2") is None:
            raise InputError(f"--source detectron2: needs detectron2, which is not on PyPI; {INSTALL}")
        if weights is None or config_file is None:
            raise InputError("--source detectron2: needs --weights CHECKPOINT and --detectron2-config FILE.yaml")
        for path in (Path(weights), config_file):
            if not path.is_file():
                raise InputError(f"{path}: no such file; check --weights and --detectron2-config")
        import detectron2  # type: ignore[import-not-found]
        from detectron2.data import MetadataCatalog, transforms as T  # type: ignore[import-not-found]
        from detectron2.modeling import build_model  # type: ignore[import-not-found]

        self._cfg = _read_config(config_file, str(device), config)
        self._model = build_model(self._cfg).eval()
        _load_weights(self._model, Path(weights))
        datasets = self._cfg.DATASETS.TEST
        metadata = MetadataCatalog.get(datasets[0]) if len(datasets) else None
        self._stuff = tuple(getattr(metadata, "stuff_classes", ()) or table.names)
        self._things = tuple(getattr(metadata, "thing_classes", ()) or table.names)
        self._resize = T.ResizeShortestEdge(
            [self._cfg.INPUT.MIN_SIZE_TEST, self._cfg.INPUT.MIN_SIZE_TEST], self._cfg.INPUT.MAX_SIZE_TEST
        )
        self._table, self._config = table, config
        settings = {**settings, "detectron2_config": config_file.name, "weights_sha256": fingerprint(Path(weights))}
        self.info = SourceInfo("detectron2", str(detectron2.__version__), Path(weights).name, settings)

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[tuple[int, ViewSegments]]:
        """As `MaskSource` says."""
        for place in range(len(done), len(photos)):
            yield place, flatten(self._detect(photos[place]), self._table, self._config)

    def _detect(self, photo: Photo) -> Detections:
        import torch

        rgb = photo.rgb()
        height, width = rgb.shape[:2]
        image = rgb if self._cfg.INPUT.FORMAT == "RGB" else np.ascontiguousarray(rgb[..., ::-1])
        resized = self._resize.get_transform(image).apply_image(image)
        pixels = torch.as_tensor(np.ascontiguousarray(resized.astype("float32").transpose(2, 0, 1)))
        with torch.no_grad():
            result = self._model([{"image": pixels, "height": height, "width": width}])[0]
        if "panoptic_seg" in result:
            return self._panoptic(*result["panoptic_seg"])
        if "instances" not in result:
            raise InputError(f"{photo.path}: the model of --detectron2-config finds no instances; choose another")
        found = result["instances"]
        labels = [self._name(self._things, int(label)) for label in found.pred_classes.tolist()]
        return Detections(found.pred_masks.bool(), found.scores.float(), labels)

    def _panoptic(self, segments: torch.Tensor, infos: Sequence[dict[str, Any]]) -> Detections:
        """Mask2Former's panoptic result has no scores; all are above its threshold, which stands for them."""
        import torch

        # 0.8 in the published configs; models other than Mask2Former have none.
        least = float(getattr(_mask_former(self._cfg), "OBJECT_MASK_THRESHOLD", 1.0))
        masks, scores, names = [], [], []
        for info in infos:
            mask = segments == info["id"]
            pieces = [mask] if info["isthing"] else split_pieces(mask)  # stuff comes in one segment per class
            masks += pieces
            scores += [float(info.get("score", max(least, self._config.min_score)))] * len(pieces)
            classes = self._things if info["isthing"] else self._stuff
            names += [self._name(classes, int(info["category_id"]))] * len(pieces)
        every = torch.stack(masks) if masks else segments.new_zeros((0, *segments.shape))
        return Detections(every.bool(), torch.tensor(scores), names, complete=True)

    @staticmethod
    def _name(names: Sequence[str], number: int) -> str:
        return names[number] if number < len(names) else f"class {number}"


def _mask_former(cfg: Any) -> Any:
    """The part of a config that Mask2Former adds and reads for its results; None for other models."""
    return getattr(getattr(cfg.MODEL, "MASK_FORMER", None), "TEST", None)


def _read_config(config_file: Path, device: str, config: FlattenConfig) -> Any:
    from detectron2.config import get_cfg  # type: ignore[import-not-found]

    cfg = get_cfg()
    if "MASK_FORMER" in _with_bases(config_file):
        try:
            from detectron2.projects.deeplab import add_deeplab_config  # type: ignore[import-not-found]
            from mask2former import add_maskformer2_config  # type: ignore[import-not-found]
        except ImportError as error:  # also when its operator was not compiled
            reason = " ".join(str(error).split())[:80]
            raise InputError(f"{config_file}: needs Mask2Former ({reason}); {MASK2FORMER}") from error

        add_deeplab_config(cfg)
        add_maskformer2_config(cfg)
    try:
        cfg.merge_from_file(str(config_file))
    except (KeyError, ValueError, OSError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{config_file}: is no config of detectron2 that is known here ({reason})") from error
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""  # read below; the config's own are a download
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min(config.min_score, config.doubtful_score)
    results = _mask_former(cfg)
    if results is not None and results.PANOPTIC_ON:  # what is not used costs memory
        results.SEMANTIC_ON = results.INSTANCE_ON = False
    cfg.freeze()
    return cfg


def _with_bases(config_file: Path) -> str:
    """Text of a config and of those that it is based on."""
    text, base = "", config_file
    for _ in range(8):
        part = base.read_text(encoding="utf-8", errors="replace")
        text += part
        lines = [line for line in part.splitlines() if line.startswith("_BASE_:")]
        if not lines:
            break
        base = base.parent / lines[0].partition(":")[2].strip().strip("\"'")
        if not base.is_file():
            raise InputError(f"{base}: no such file, named by {config_file}; copy the whole folder of configs")
    return text


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    weights = read_weights(path)
    missing: list[str] = []
    # Mask2Former renames the weights of its head unless they say that they are of its current version, which a .pkl
    # cannot say: with the names as they are first.
    for metadata in (getattr(model.state_dict(), "_metadata", None), None):
        named = OrderedDict(weights)
        named._metadata = metadata  # type: ignore[attr-defined]
        try:
            lacking, _ = model.load_state_dict(named, strict=False)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{path}: does not fit --detectron2-config ({reason})") from error
        missing = [name for name in lacking if not name.endswith(_OPTIONAL)]
        if not missing:
            return
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise InputError(f"{path}: lacks {missing[0]}{more} of the model of --detectron2-config; use those that belong")
