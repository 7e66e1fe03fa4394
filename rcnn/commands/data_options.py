"""What the detectors' commands have in common: which scenes, which device, and how far they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rcnn.errors import InputError

if TYPE_CHECKING:
    import torch

    from rcnn.data import AugmentationConfig, GridDataset, GridSample, SceneFiles

Item = TypeVar("Item")


@dataclass
class DataOptions:
    """Which scenes, and how their files are read."""

    data: tuple[Path, ...] = ()
    """Folders with train, val and test rooms that have density grids, or published data sets."""
    layout: Literal["rooms", "3dfront", "hypersim", "scannet", "general", "nerf-rcnn"] = "rooms"
    """What the files look like; rooms are folders written by `instance-nerf fit-grids` or `rooms voxelize`."""
    split_file: Path | None = None
    """JSON or NPZ with the scenes of each split, where folders do not say."""
    density_kind: Literal["sigma", "log", "alpha"] | None = None
    """What the density channel holds, where neither the files nor their publication say."""
    cache: Path | None = None
    """Folder for uncompressed copies of grids; ~/.cache/instance-nerf/grids when not given."""
    skip_bad: bool = False
    """Go on without bad scenes, and list them at the end."""

    def open(
        self,
        split: str | None,
        boxes: Literal["aabb", "obb"],
        augmentation: AugmentationConfig | None = None,
        *,
        categories: Sequence[str] | None = None,
        needs_truth: bool = True,
        masks: bool = False,
        proposals: Path | None = None,
        seed: int = 0,
    ) -> GridDataset:
        """The scenes of a split in all folders, checked; the arguments are those of `GridDataset`."""
        from rcnn.data import find_scenes

        if not self.data:
            raise InputError("--data is missing; give folders with scenes")
        scenes = []
        for root in self.data:
            found = find_scenes(root, split if self.layout != "general" else None, self.layout, boxes, self.split_file)
            several = len(self.data) > 1
            scenes += [replace(scene, name=f"{root.name}/{scene.name}") if several else scene for scene in found]
        return self._open(
            scenes, boxes, augmentation=augmentation, categories=categories, needs_truth=needs_truth, masks=masks,
            proposals=proposals, skip_bad=self.skip_bad, seed=seed,
        )  # fmt: skip

    def open_grid(self, path: Path) -> GridDataset:
        """One density grid, without truth."""
        from rcnn.data import SceneFiles
        from rcnn.grids.published import PublishedScene

        published = None if self.layout == "rooms" else PublishedScene(path.stem, path)
        return self._open([SceneFiles(path.stem, path, published=published)], "aabb", needs_truth=False)

    def _open(self, scenes: Sequence[SceneFiles], boxes: Literal["aabb", "obb"], **options: Any) -> GridDataset:
        from rich.console import Console
        from rich.progress import Progress

        from rcnn.data import GridDataset, SceneReadingConfig

        reading = SceneReadingConfig(self.layout, boxes, self.density_kind)
        if self.cache is not None:
            reading = replace(reading, cache=self.cache)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            return GridDataset(scenes, reading, progress=progress, **options)


def choose_device(name: str | None) -> torch.device:
    """The device of that name; the GPU, where there is one, when None.

    Raises:
        InputError: this machine has none such.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)  # the only thing that tells whether it is there
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: is no device of this machine; use cpu or cuda") from error


def samples(scenes: GridDataset, count: int | None = None) -> Iterator[GridSample]:
    """Scenes one by one, the first ones."""
    return (scenes[index] for index in range(len(scenes) if count is None else count))


def report_skipped(scenes: GridDataset) -> None:
    """Lists the scenes that were left out."""
    if report := scenes.report():
        print(report, file=sys.stderr)


def with_progress(items: Iterator[Item], total: int, title: str) -> Iterator[Item]:
    """The items, under a progress bar."""
    from rich.console import Console
    from rich.progress import track

    yield from track(items, title, total, console=Console(stderr=True))
