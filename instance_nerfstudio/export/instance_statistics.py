"""What an export learns of each instance from the rendered views: its confidence, and its box in the world."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from nerfstudio.cameras.cameras import Cameras
from numpy import ndarray
from torch import Tensor

from instance_nerfstudio.masks.instances_json import InstanceInfo

# Depth errs most at the rim of an object: these shares of its surface points lie outside its box, per axis and side.
BOX_QUANTILES = (0.01, 0.99)
# Below this opacity a ray has hit too little for its depth to be a surface.
SURFACE_ACCUMULATION = 0.5
# Surface points kept per instance over all views, 12 bytes each.
_POINTS_PER_INSTANCE = 100_000
_LEAST_POINTS_PER_VIEW = 32


class InstanceStatistics:
    """Gathers views, then describes the instances in them.

    Args:
        to_world: scene -> world, both (points, 3).
        num_views: how many views will come, to share out the points that are kept.
    """

    def __init__(self, to_world: Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points 3"]], num_views: int):
        self._to_world = to_world
        self._points_per_view = max(_LEAST_POINTS_PER_VIEW, _POINTS_PER_INSTANCE // max(1, num_views))
        self._confidence: defaultdict[int, float] = defaultdict(float)
        self._pixels: defaultdict[int, int] = defaultdict(int)
        self._points: defaultdict[int, list[ndarray]] = defaultdict(list)

    def add(
        self,
        camera: Cameras,
        ids: Int32[ndarray, "height width"],
        confidence: Float32[ndarray, "height width"],
        depth: Float32[ndarray, "height width"],
        accumulation: Float32[ndarray, "height width"],
    ) -> None:
        """Adds a view; `camera` is one camera in the scene frame, `depth` the distance along each ray."""
        labels = ids.clip(min=0).ravel()
        pixels, sums = np.bincount(labels), np.bincount(labels, weights=confidence.ravel())
        seen = [int(i) for i in np.flatnonzero(pixels) if i > 0]
        surface = ((accumulation > SURFACE_ACCUMULATION) & np.isfinite(depth)).ravel()
        chosen = []
        for i in seen:
            self._confidence[i] += float(sums[i])
            self._pixels[i] += int(pixels[i])
            places = np.flatnonzero((labels == i) & surface)
            chosen.append(places[:: -(-len(places) // self._points_per_view) or 1])
        if not any(map(len, chosen)):
            return
        places = np.concatenate(chosen)
        rows, columns = np.divmod(places, ids.shape[1])
        coords = torch.from_numpy(np.stack([rows, columns], axis=-1)).float() + 0.5
        rays = camera.to("cpu").generate_rays(camera_indices=0, coords=coords)
        scene = rays.origins + rays.directions * torch.from_numpy(depth.ravel()[places])[:, None]
        world = self._to_world(scene).float().numpy()
        for i, points in zip(seen, np.split(world, np.cumsum([len(part) for part in chosen])[:-1]), strict=True):
            self._points[i].append(points)

    def describe(self, known: Sequence[InstanceInfo]) -> list[InstanceInfo]:
        """The instances that are known or were seen, by id.

        Known instances keep what is known, and get a box where they have none. Others get their mean confidence as
        score, and the palette's colour.
        """
        infos = {info.id: info for info in known}
        for i in self._pixels:
            infos.setdefault(i, InstanceInfo(id=i, score=self._confidence[i] / self._pixels[i]))
        described = []
        for i, info in sorted(infos.items()):
            box = info.box_world if info.box_world is not None else self._box(i)
            described.append(replace(info, box_world=box))
        return described

    def _box(self, instance: int) -> tuple[float, ...] | None:
        if not any(map(len, self._points[instance])):
            return None
        low_high = np.quantile(np.concatenate(self._points[instance]).astype(np.float64), BOX_QUANTILES, axis=0)
        return tuple(low_high.ravel().tolist())
