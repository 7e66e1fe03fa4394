"""SAM 2 of Hugging Face's transformers as a mask source: objects keep their ids along the sequence of photos.

Every few photos there is a keyframe, whose masks come from a grid of points that SAM is asked about, or from another
mask source. What is not tracked yet becomes a new object there, and all objects are tracked up to the next keyframe.
An object that was lost and comes back gets a new id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import BACKGROUND, MAX_ID, UNLABELLED
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.hub_checkpoint import load_pretrained, quiet, require_transformers
from instance_nerfstudio.segments.mask_source import Detections, MaskSource
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import SourceInfo, to_json
from instance_nerfstudio.segments.settings import FlattenConfig, TrackingConfig
from instance_nerfstudio.segments.view_segments import ViewSegments
from instance_nerfstudio.segments.weights_file import fingerprint

if TYPE_CHECKING:
    import torch

DEFAULT_WEIGHTS = "facebook/sam2.1-hiera-large"
# SAM knows no classes.
OBJECT = "object"


class Sam2Source:
    """SAM 2, as a tracker.

    Args:
        weights: folder of a checkpoint or its name in the cache; None for `DEFAULT_WEIGHTS`.
        tracking: how objects are found and followed.
        seeds: the other source that `tracking.seeds` asks for.
        device: where it runs.
        table: what classes are called here.
        config: which masks of the grid become segments.
        settings: what else the result depends on.

    Raises:
        InputError: transformers or the checkpoint is missing, or it is of another kind.
    """

    sequential = True

    def __init__(
        self,
        weights: str | None,
        tracking: TrackingConfig,
        seeds: MaskSource | None,
        device: torch.device,
        table: ClassTable,
        config: FlattenConfig,
        settings: dict[str, Any],
    ) -> None:
        require_transformers("sam2")
        import transformers
        from transformers import AutoConfig, Sam2Model, Sam2VideoModel, Sam2VideoProcessor, pipeline

        weights = weights or DEFAULT_WEIGHTS
        kind = load_pretrained(AutoConfig, weights).model_type
        if kind != "sam2_video":
            raise InputError(f"{weights}: is a {kind}, not a SAM 2; choose other weights")
        self._processor = load_pretrained(Sam2VideoProcessor, weights)
        self._tracker = load_pretrained(Sam2VideoModel, weights).to(device).eval()
        self._seeds, self._generate = seeds, None
        if seeds is None:
            model = load_pretrained(Sam2Model, weights).to(device).eval()
            with quiet():
                self._generate = pipeline(
                    "mask-generation", model=model, image_processor=self._processor.image_processor, device=device
                )
        self._device, self._tracking, self._table, self._config = device, tracking, table, config
        if seeds is not None:
            seeded = to_json(seeds.info, {})
            settings = {**settings, "seeds_from": {key: seeded[key] for key in ("model", "version", "settings")}}
        if Path(weights).exists():
            settings = {**settings, "weights_sha256": fingerprint(Path(weights))}
        self.info = SourceInfo("sam2", transformers.__version__, weights, settings, tracks=True)

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[tuple[int, ViewSegments]]:
        """As `MaskSource` says. Goes on from the last keyframe before the end of `done`."""
        every = self._tracking.keyframe_every
        start = max(len(done) - 1, 0) // every * every
        objects: list[tuple[str, float]] = []
        for earlier in done[: start + 1]:
            objects += [("", 0.0)] * (len(earlier.categories) - len(objects))
            for row, name in enumerate(earlier.categories):
                if name:
                    objects[row] = (name, float(earlier.scores[row]))
        if done:
            ids = done[start].ids
        else:
            ids = self._add_new(photos[0], None, objects)
            yield 0, _view(ids, objects)
        for key in range(start, len(photos) - 1, every):
            window = photos[key : key + every + 1]
            for place, tracked in enumerate(self._track(window, ids), 1):
                ids = self._add_new(window[place], tracked, objects) if place == every else tracked
                yield key + place, _view(ids, objects)

    def _track(self, window: Sequence[Photo], ids: Int32[np.ndarray, "H W"]) -> Iterator[Int32[np.ndarray, "H W"]]:
        """Where the objects of the first photo are in the others; elsewhere there is no opinion."""
        import torch
        import torch.nn.functional as F

        numbers = [int(number) for number in np.unique(ids) if number > 0]
        if not numbers:
            for photo in window[1:]:
                yield np.full(photo.size(), UNLABELLED, np.int32)
            return
        session = self._processor.init_video_session(inference_device=self._device)
        for photo in window:
            session.add_new_frame(self._processor.image_processor(images=photo.rgb(), return_tensors="pt").pixel_values)
        session.video_height, session.video_width = ids.shape
        masks = [torch.from_numpy(ids == number) for number in numbers]
        self._processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=numbers, input_masks=masks)
        with closing(self._tracker.propagate_in_video_iterator(session, start_frame_idx=0)) as frames:
            for frame in frames:
                if frame.frame_idx == 0:
                    continue
                size = window[frame.frame_idx].size()
                logits = F.interpolate(frame.pred_masks.float(), size, mode="bilinear", align_corners=False)[:, 0]
                logits[frame.object_score_logits.flatten() <= 0] = -1.0  # hidden, or out of the picture
                best, owner = logits.max(0)
                known = torch.tensor([*frame.object_ids], dtype=torch.int32, device=owner.device)[owner]
                yield torch.where(best > 0, known, UNLABELLED).int().cpu().numpy()

    def _add_new(
        self, photo: Photo, tracked: Int32[np.ndarray, "H W"] | None, objects: list[tuple[str, float]]
    ) -> Int32[np.ndarray, "H W"]:
        """A keyframe's map: tracked objects stay, other masks become new objects at the end of the list."""
        found = self._seed(photo)
        ids = np.full(found.ids.shape, UNLABELLED, np.int32) if tracked is None else tracked.copy()
        free = ids <= 0
        ids[free] = np.minimum(found.ids, BACKGROUND)[free]
        for row, name in enumerate(found.categories):
            mask = found.ids == row + 1
            new = mask & free
            if new.sum() <= self._tracking.new_share * mask.sum() or len(objects) == MAX_ID:
                ids[new] = UNLABELLED
                continue
            objects.append((name, float(found.scores[row])))
            ids[new] = len(objects)
        return ids

    def _seed(self, photo: Photo) -> ViewSegments:
        """Masks of one photo by itself."""
        if self._seeds is not None:
            (_, found), *_ = self._seeds.segment([photo], ())
            if found is None:
                return ViewSegments(np.full(photo.size(), UNLABELLED, np.int32), (), np.zeros(0, np.float32))
            return found
        import torch
        from PIL import Image

        assert self._generate is not None
        with torch.inference_mode(), quiet():
            result = self._generate(
                Image.fromarray(photo.rgb()),
                points_per_crop=self._tracking.points_per_side,
                pred_iou_thresh=self._tracking.min_quality,
                stability_score_thresh=self._tracking.min_stability,
            )
        masks = [torch.as_tensor(np.asarray(mask)) for mask in result["masks"]]
        every = torch.stack(masks).bool() if masks else torch.zeros((0, *photo.size()), dtype=torch.bool)
        scores = torch.as_tensor(result["scores"]).float().cpu().clamp(0, 1)
        large = every.flatten(1).float().mean(1) > self._tracking.background_area
        view = flatten(
            Detections(every[~large], scores[~large], [OBJECT] * int((~large).sum())), self._table, self._config
        )
        # What no mask covers is unknown, what a large one covers background.
        covered = every[large].any(0).numpy()
        return ViewSegments(np.where((view.ids == 0) & ~covered, UNLABELLED, view.ids), view.categories, view.scores)


def _view(ids: Int32[np.ndarray, "H W"], objects: Sequence[tuple[str, float]]) -> ViewSegments:
    """With the rows of the objects that are in the view; the others are empty."""
    shown = {int(number) for number in np.unique(ids) if number > 0}
    rows = [objects[n - 1] if n in shown else ("", 0.0) for n in range(1, max(shown, default=0) + 1)]
    return ViewSegments(ids, tuple(name for name, _ in rows), np.array([score for _, score in rows], np.float32))
