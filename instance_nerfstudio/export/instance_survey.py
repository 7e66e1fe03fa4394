"""A look at the scene from its training views: where each instance's surface is seen, and from which cameras."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from scipy import ndimage
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.export.density_visibility import DepthMaps
from instance_nerfstudio.export.instance_statistics import SURFACE_ACCUMULATION
from instance_nerfstudio.export.views import corrected_cameras, shrink_cameras
from instance_nerfstudio.masks.instances_json import InstanceInfo

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel

# Cells along the longest side of the box of an instance's points, by which stray ones are told from the object.
_CELLS = 32
# A part of an instance that is apart from the rest belongs to it if it holds this share of the largest part's points.
_PART = 0.2
# A cell counts if it holds this share of the fullest cell's points.
_SPARSE = 0.02
_ROUNDS = 6
# Of the points that are left, per axis and side.
_QUANTILES = (0.005, 0.995)


@dataclass(frozen=True)
class InstanceSurvey:
    """Small pictures of the training views, in the scene frame."""

    views: DepthMaps
    """Cameras and depth."""
    ids: Int[Tensor, "views height width"]
    """Instance of each ray; -1 where the ray hits no surface, and in the padding of smaller maps."""
    confidence: Float[Tensor, "views height width"]
    """Probability of that instance."""

    def surface(self, parts: Sequence[int]) -> Float[Tensor, "points 3"]:
        """Where rays end on an instance of these parts, without the strays far from most of each."""
        return torch.cat([self._surface(part) for part in parts])

    def _surface(self, instance: int) -> Float[Tensor, "points 3"]:
        view, row, column = (self.ids == instance).nonzero(as_tuple=True)
        if not len(view):
            return self.views.positions[:0]
        coords = torch.stack([row, column], dim=-1) + 0.5
        rays = self.views.cameras.generate_rays(camera_indices=view[:, None], coords=coords)
        points = rays.origins + rays.directions * self.views.depth[view, row, column][:, None]
        return points[torch.from_numpy(main_part(points.double().cpu().numpy())).to(points.device)]

    def best_view(self, parts: Sequence[int]) -> int | None:
        """The view that shows most of an instance of these parts; None when none does."""
        pixels = torch.isin(self.ids, torch.tensor(parts, device=self.ids.device)).flatten(1).sum(dim=1)
        return int(pixels.argmax()) if len(pixels) and bool(pixels.any()) else None

    def describe(
        self, infos: Sequence[InstanceInfo], known: Collection[int], to_world: Float[np.ndarray, "4 4"]
    ) -> list[InstanceInfo]:
        """Fills in what the scene doesn't say: the box around what is seen, and the mean confidence as score.

        Args:
            infos: instances before any merge.
            known: ids whose score is known.
            to_world: scene -> world.
        """
        flat = self.ids.flatten().long().clamp(min=0)
        total = torch.bincount(flat, weights=self.confidence.flatten().double()).cpu()
        pixels = torch.bincount(flat).cpu()
        described = []
        for info in infos:
            count = int(pixels[info.id]) if info.id < len(pixels) else 0
            if info.box_world is None and count:
                surface = self._surface(info.id).double().cpu().numpy() @ to_world[:3, :3].T + to_world[:3, 3]
                info = replace(info, box_world=tuple(robust_bounds(surface).ravel().tolist()))
            if info.id not in known:
                info = replace(info, score=float(total[info.id]) / count if count else 0.0)
            described.append(info)
        return described


def survey_instances(
    model: "InstanceModel",
    cameras: Cameras,
    longest_side: int,
    max_views: int,
    advance: Callable[[int, int], object],
    lock: AbstractContextManager | None = None,
) -> InstanceSurvey:
    """Renders the training views at low resolution, without any edits.

    Args:
        model: in evaluation mode.
        cameras: training cameras, before what the camera optimizer learned of them.
        longest_side: pixels of the longer side.
        max_views: evenly chosen when there are more.
        advance: called with how many views are looked at, from none to all, and with how many there are.
        lock: held while a view is rendered, where other threads render too.
    """
    cameras = deepcopy(corrected_cameras(cameras, model.camera_optimizer))
    if len(cameras) > max_views:
        cameras = cameras[np.linspace(0, len(cameras) - 1, max_views).round().astype(int)]
    shrink_cameras(cameras, longest_side)
    cameras = cameras.to(model.device)
    shape = (len(cameras), int(cameras.height.max()), int(cameras.width.max()))
    depth, accumulation, confidence = (torch.zeros(shape, device=model.device) for _ in range(3))
    ids = torch.full(shape, -1, dtype=torch.int32, device=model.device)
    advance(0, len(cameras))
    for view in range(len(cameras)):
        with lock or nullcontext():
            outputs = model.render(cameras[view : view + 1], edits=InstanceEdits())
        height, width = outputs["depth"].shape[:2]
        opaque = (outputs["accumulation"] > SURFACE_ACCUMULATION) & outputs["depth"].isfinite()
        depth[view, :height, :width] = outputs["depth"][..., 0]
        accumulation[view, :height, :width] = outputs["accumulation"][..., 0]
        confidence[view, :height, :width] = outputs["instance_confidence"][..., 0]
        ids[view, :height, :width] = torch.where(opaque, outputs["instance_ids"], -1)[..., 0]
        advance(view + 1, len(cameras))
    return InstanceSurvey(DepthMaps(cameras, depth, accumulation), ids, confidence)


def main_part(points: Float[np.ndarray, "points 3"]) -> np.ndarray:
    """Which points belong to the large connected parts.

    Labels leak to a few rays elsewhere in the scene, and rays at dark or shiny surfaces end metres behind them. Cells
    with few points are empty; as the box shrinks, so do the cells.
    """
    kept = np.ones(len(points), bool)
    for _ in range(_ROUNDS):
        chosen = points[kept]
        low, high = chosen.min(axis=0), chosen.max(axis=0)
        edge = max(float((high - low).max()) / _CELLS, 1e-9)
        cells = tuple(np.minimum(((chosen - low) / edge).astype(int), _CELLS - 1).T)
        counts = np.zeros((_CELLS,) * 3, int)
        np.add.at(counts, cells, 1)
        occupied = counts >= _SPARSE * counts.max()
        parts: np.ndarray = ndimage.label(occupied, np.ones((3, 3, 3)))[0]  # type: ignore[assignment,index]
        part = parts[cells]
        sizes = np.bincount(part)
        sizes[0] = 0
        large = (part > 0) & (sizes[part] >= _PART * sizes.max())
        kept[kept] = large
        if large.all():
            break
    return kept


def robust_bounds(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "2 3"]:
    """Corners of the box around nearly all points."""
    return np.quantile(points, _QUANTILES, axis=0)
