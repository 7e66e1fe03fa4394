"""Which labelled pixels a cache holds and how training draws from them: near boundaries, by instance, and any."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32
from nerfstudio.data.utils.data_utils import get_image_mask_tensor_from_path
from torch import Tensor

from instance_nerfstudio.instance_boundaries import boundary_mask
from instance_nerfstudio.instance_dataset import InstanceDataset

_IMAGES_AT_ONCE = 32


@dataclass
class CachedPixels:
    """Pixels chosen for a cache.

    Attributes:
        pixels: (image, row, column) of each, int32.
        targets: class of each, int32, never negative.
        pools: rows of `pixels` per pool, int64. The first holds any pixels, the second those near boundaries, the third
            the same number of each class, as far as there are, sorted by class.
        class_start: first row of the third pool of each class that it holds.
        class_count: number of its rows of that class.
    """

    pixels: Int32[Tensor, "pixels 3"]
    targets: Int32[Tensor, " pixels"]
    pools: tuple[Int[Tensor, " any"], Int[Tensor, " boundary"], Int[Tensor, " balanced"]]
    class_start: Int[Tensor, " present"]
    class_count: Int[Tensor, " present"]

    def draw(self, rays: int, shares: tuple[float, float]) -> Int[Tensor, " rays"]:
        """Random rows of `pixels`, without waiting for the device.

        Args:
            rays: number of rows.
            shares: share of the rows drawn near boundaries, and with every class equally likely; the rest are any.
        """
        anywhere, boundary, balanced = self.pools
        by_class = int(rays * shares[1])
        near = int(rays * shares[0]) if len(boundary) else 0
        device = anywhere.device
        present = torch.randint(len(self.class_start), (by_class,), device=device)
        count = self.class_count[present]
        # The product can round up to `count`.
        within = (torch.rand(by_class, device=device) * count).long().minimum(count - 1)
        return torch.cat(
            [
                boundary[torch.randint(max(len(boundary), 1), (near,), device=device)],
                balanced[self.class_start[present] + within],
                anywhere[torch.randint(len(anywhere), (rays - near - by_class,), device=device)],
            ]
        )


def choose_pixels(
    dataset: InstanceDataset,
    classify: Callable[[Int[Tensor, "height width"]], Int[Tensor, "height width"]],
    budget: int,
    shares: tuple[float, float],
    radius: int,
    device: torch.device,
) -> CachedPixels | None:
    """Chooses about `budget` labelled pixels of a dataset; all of them where there are no more.

    Each pool gets its share of the budget. Pixels near boundaries and of small instances come first: their pools are
    exhausted long before that of any pixels, which stays an even sample of all.

    Args:
        dataset: its masks are read twice, image by image, so that captures of any size fit.
        classify: class of each id, negative for pixels to leave out.
        budget: number of pixels, at least 1.
        shares: shares of the pool near boundaries and of that balanced over classes; the rest goes to any pixels.
        radius: how near a boundary counts as near, in pixels.
        device: where everything is computed and kept.

    Returns:
        The pixels; None when none is labelled.
    """
    per_class = torch.zeros(0, dtype=torch.long, device=device)
    near_boundaries = 0
    for _, targets, boundary in _classes(dataset, classify, radius, device):
        found = torch.bincount(targets[targets >= 0], minlength=len(per_class))
        found[: len(per_class)] += per_class
        per_class = found
        near_boundaries += int(boundary.sum())
    total = int(per_class.sum())
    if not total:
        return None
    keep_all = total <= budget
    near, balanced = shares
    quota = budget * balanced / max(int((per_class > 0).sum()), 1)
    chances = (
        1.0 if keep_all else budget * (1 - near - balanced) / total,
        1.0 if keep_all else budget * near / max(near_boundaries, 1),
        torch.ones(len(per_class), device=device) if keep_all else quota / per_class.clamp(min=1),
    )
    found_pixels, found_targets, found_pools = [], [], []
    for image, targets, boundary in _classes(dataset, classify, radius, device):
        labelled = targets >= 0
        random = torch.rand(3, *targets.shape, device=device)
        pools = torch.stack(
            [
                labelled & (random[0] < chances[0]),
                boundary & (random[1] < chances[1]),
                labelled & (random[2] < chances[2][targets.clamp(min=0).long()]),
            ]
        )
        place = pools.any(dim=0).nonzero()
        row, column = place.unbind(dim=-1)
        found_pixels.append(torch.cat([torch.full_like(place[:, :1], image), place], dim=-1).int())
        found_targets.append(targets[row, column].int())
        found_pools.append(pools[:, row, column])
    pixels, targets, pools = torch.cat(found_pixels), torch.cat(found_targets), torch.cat(found_pools, dim=-1)
    anywhere, boundary, even = (pool.nonzero()[:, 0] for pool in pools)
    if not len(anywhere):  # chance, in tiny budgets
        anywhere = torch.arange(len(pixels), device=device)
    if not len(anywhere):
        return None
    even = even if len(even) else anywhere
    even = even[targets[even].argsort(stable=True)]
    count = targets[even].unique_consecutive(return_counts=True)[1]
    return CachedPixels(pixels, targets, (anywhere, boundary, even), count.cumsum(0) - count, count)


def _classes(
    dataset: InstanceDataset, classify: Callable[[Tensor], Tensor], radius: int, device: torch.device
) -> Iterator[tuple[int, Int[Tensor, "height width"], Bool[Tensor, "height width"]]]:
    """Image number, class of its pixels (negative: left out), and which of those are next to a boundary."""
    images = [i for i, path in enumerate(dataset.mask_paths) if path is not None]
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(images), _IMAGES_AT_ONCE):
            batch: Sequence[int] = images[first : first + _IMAGES_AT_ONCE]
            for image, (ids, usable) in zip(batch, pool.map(lambda i: _read(dataset, i), batch), strict=True):
                labels = torch.from_numpy(ids).to(device)
                targets = classify(labels)
                if usable is not None:
                    targets = torch.where(usable.to(device), targets, -1)
                yield image, targets, boundary_mask(labels, radius) & (targets >= 0)


def _read(dataset: InstanceDataset, image: int) -> tuple[np.ndarray, Bool[Tensor, "height width"] | None]:
    """Instance ids of an image, and the pixels that nerfstudio's `mask` lets through."""
    cameras = dataset.cameras
    ids = dataset.labels(image, int(cameras.height[image]), int(cameras.width[image]))
    masks = dataset._dataparser_outputs.mask_filenames
    if masks is None:
        return ids, None
    return ids, get_image_mask_tensor_from_path(masks[image], dataset.scale_factor)[..., 0].bool()
