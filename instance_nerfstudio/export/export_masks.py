"""`ns-export masks`: instance masks of a trained field, from the captured cameras or along a path."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress, track
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.coco_files import CocoFile, PanopticFiles
from instance_nerfstudio.export.instance_statistics import InstanceStatistics
from instance_nerfstudio.export.views import (
    DATASET_FPS,
    Frame,
    View,
    dataset_views,
    path_views,
    scaled_views,
    scene_to_world,
)
from instance_nerfstudio.export.writers import (
    ImageFolders,
    OverlayVideo,
    Writer,
    check_video_encoder,
    check_video_size,
)
from instance_nerfstudio.load_run import load_run
from instance_nerfstudio.masks.instance_masks import UNLABELLED
from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, MASKS_FOLDER, InstanceInfo, write_instances_json
from rcnn.instance_palette import overlay

# All that an export can leave in its folder, and so all that --overwrite may delete.
EXPORT_ENTRIES = (
    MASKS_FOLDER,
    "colour",
    "overlay",
    "panoptic",
    INSTANCES_FILE,
    "coco.json",
    "panoptic.json",
    "overlay.mp4",
)


@dataclass
class ExportMasks:
    """Render the instance masks of a trained instance-nerfacto from any cameras.

    `instances.json` describes the instances. `--format png` adds `instance_masks/` (16-bit ids: 0 background, 65535
    unlabelled), `colour/` and `overlay/`; `coco` adds `coco.json`; `panoptic` adds `panoptic.json` and `panoptic/`.
    Masks are named like their images, so that `--pipeline.datamanager.masks-dir <output-dir>/instance_masks` trains on
    them.
    """

    load_config: Path
    """Path to the config YAML file of the trained run."""
    output_dir: Path
    """Folder to create. It appears when everything is rendered, and not at all otherwise."""
    cameras: Literal["train", "eval", "all", "path"] = "all"
    """Cameras to render: of the training images, the held-out images, both, or those of --camera-path."""
    camera_path: Path | None = None
    """Camera path (JSON) saved by the viewer, for --cameras path. Its crop box is not applied."""
    scale: float = 1.0
    """Resolution relative to the full-size images (or the camera path): 0.5 renders half as many rows and columns."""
    format: tuple[Literal["png", "coco", "panoptic"], ...] = ("png",)
    """One or more formats, e.g. --format png coco."""
    min_confidence: float = 0.0
    """Pixels whose instance is less probable than this become unlabelled."""
    min_area: int = 0
    """Instances with fewer pixels than this in a view become unlabelled there."""
    video: bool = False
    """Also write the overlays as overlay.mp4."""
    eval_num_rays_per_chunk: int | None = None
    """Rays rendered at once, if not as configured for the run: fewer need less memory."""
    overwrite: bool = False
    """Replace an earlier export in the output folder, once the new one is complete."""

    def main(self) -> None:
        """Loads the run and exports it.

        Raises:
            InputError: the run, the options or the output folder are unusable.
        """
        if (self.cameras == "path") != (self.camera_path is not None):
            raise InputError(f"--cameras {self.cameras}: --cameras path and --camera-path <file> belong together")
        if self.video:
            check_video_encoder()
        with atomic_folder(self.output_dir, self.overwrite, EXPORT_ENTRIES) as folder:
            pipeline = load_run(self.load_config, self.eval_num_rays_per_chunk)
            num_views, num_instances = self.export(pipeline, folder)
        CONSOLE.print(
            f"[bold green]:white_check_mark: Masks of {num_instances} instances in {num_views} views: {self.output_dir}"
        )

    def export(self, pipeline: Any, folder: Path, progress: Progress | None = None) -> tuple[int, int]:
        """Renders the chosen views into an existing, empty folder.

        Args:
            pipeline: a trained instance pipeline, in evaluation mode.
            folder: gets all files.
            progress: gets a task; a progress bar of its own is shown when None.

        Returns:
            Number of views, and of instances described in `instances.json`.

        Raises:
            InputError: the pipeline has no instance field, or the options don't fit its scene.
        """
        model, datamanager = pipeline.model, pipeline.datamanager
        if not hasattr(model, "render") or not hasattr(model, "instance_head"):
            raise InputError(
                f"{self.load_config}: not an instance-nerfacto run; train one with ns-train instance-nerfacto"
            )
        views, fps = self._views(pipeline)
        edits = model.edits_store.current()
        ids = sorted({i for i in edits.merge_ids(model.instance_head.instance_ids).tolist() if i > 0})
        infos = [info for info in datamanager.instances if edits.merged.get(info.id, info.id) in ids]
        known = edits.describe(infos)
        categories = {i: edits.categories.get(i, InstanceInfo.category) for i in ids}
        categories |= {info.id: info.category for info in known}
        outputs = datamanager.train_dataparser_outputs
        to_world = partial(
            scene_to_world,
            dataparser_transform=outputs.dataparser_transform,
            dataparser_scale=outputs.dataparser_scale,
        )
        statistics = InstanceStatistics(to_world, len(views))

        with ExitStack() as stack:
            writers: list[Writer] = []
            if "png" in self.format:
                writers.append(stack.enter_context(ImageFolders(folder)))
            if "coco" in self.format:
                writers.append(stack.enter_context(CocoFile(folder / "coco.json", categories)))
            if "panoptic" in self.format:
                writers.append(stack.enter_context(PanopticFiles(folder, categories)))
            if self.video:
                writers.append(stack.enter_context(OverlayVideo(folder / "overlay.mp4", fps)))
            title = "Rendering instance masks"
            for view in (
                track(views, title, console=CONSOLE) if progress is None else progress.track(views, description=title)
            ):
                frame = self._render(model, view, edits, statistics)
                for writer in writers:
                    writer.add(frame)

        infos = [edits.relabel(info) for info in statistics.describe(known) if edits.shows(info.id)]
        write_instances_json(folder / INSTANCES_FILE, infos)
        if "png" in self.format:
            # Training looks for the description beside the masks.
            write_instances_json(folder / MASKS_FOLDER / INSTANCES_FILE, infos)
        return len(views), len(infos)

    def _views(self, pipeline: Any) -> tuple[list[View], float]:
        """The views at the resolution asked for, and the frames per second of a video of them."""
        if self.cameras == "path":
            assert self.camera_path is not None
            views, fps = path_views(self.camera_path)
        else:
            views = dataset_views(pipeline.datamanager, pipeline.model.camera_optimizer, self.cameras)
            fps = DATASET_FPS
        views = scaled_views(views, self.scale)
        if self.video:
            check_video_size(views)
        return views, fps

    def _render(self, model: Any, view: View, edits: InstanceEdits, statistics: InstanceStatistics) -> Frame:
        outputs = model.render(view.camera.to(model.device))
        if "instance_ids" not in outputs:
            raise InputError(
                f"{self.load_config}: was trained with --pipeline.model.use-instances False; train it anew"
            )
        frame = frame_of(view, outputs, edits, self.min_confidence, self.min_area)
        depth, accumulation = (outputs[key][..., 0].float().cpu().numpy() for key in ("depth", "accumulation"))
        statistics.add(view.camera, frame.ids, frame.confidence, depth, accumulation)
        return frame


def frame_of(
    view: View, outputs: dict[str, Tensor], edits: InstanceEdits, min_confidence: float = 0.0, min_area: int = 0
) -> Frame:
    """What the writers take of a rendered view.

    Args:
        view: the view.
        outputs: what `InstanceModel.render` returned for it.
        edits: those that it was rendered with.
        min_confidence: see `reject_pixels`.
        min_area: see `reject_pixels`.
    """
    confidence = outputs["instance_confidence"][..., 0].float().cpu().numpy()
    ids = reject_pixels(outputs["instance_ids"][..., 0].cpu().numpy(), confidence, min_confidence, min_area)
    labels = torch.from_numpy(ids).to(outputs["rgb"].device)  # where it was rendered, pictures take no time
    colours = edits.colour(labels)
    blended = overlay(outputs["rgb"].clamp(0.0, 1.0), labels, colours=colours)
    colour, blended = ((picture * 255).round().byte().cpu().numpy() for picture in (colours, blended))
    return Frame(view, ids, confidence, colour, blended)


def reject_pixels(
    ids: Int32[np.ndarray, "height width"],
    confidence: Float32[np.ndarray, "height width"],
    min_confidence: float,
    min_area: int,
) -> Int32[np.ndarray, "height width"]:
    """Marks pixels that are less confident, or instances that are smaller in this view, as unlabelled (-1)."""
    ids = np.where(confidence < min_confidence, UNLABELLED, ids).astype(np.int32)
    area = np.bincount(ids.clip(min=0).ravel())
    small = area < min_area
    small[0] = False
    return np.where(small[ids.clip(min=0)], UNLABELLED, ids).astype(np.int32)
