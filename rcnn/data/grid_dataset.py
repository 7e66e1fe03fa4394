"""Density grids with their boxes as a data set of torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import Dataset

from rcnn.data.augment import AugmentationConfig, augment
from rcnn.data.sample import GridFrame, GridSample, SampleKey
from rcnn.data.scene_reading import (
    SceneReadingConfig,
    SceneTruth,
    grid_features,
    open_grid,
    read_instance_rows,
    read_proposals,
    read_truth,
)
from rcnn.data.scenes import SceneFiles
from rcnn.errors import InputError
from rcnn.grids import DensityGrid
from rcnn.worker_pool import core_count

_MAX_THREADS = 8


class GridDataset(Dataset[GridSample]):
    """Scenes of a split.

    All files are checked when it is made, so that training does not end at a bad one hours later; the first time,
    compressed grids are copied to the cache and others read once. Boxes stay in memory, grids on the disk: a sample
    maps its grid, makes floats of it and lets go of it.

    Args:
        scenes: from `find_scenes`.
        reading: how they are read.
        augmentation: random changes; None for scenes as they are.
        categories: names that labels stand for; those that occur, sorted, when None. Give a test set those of training.
        needs_truth: whether a scene without truth is an error.
        masks: whether instance maps are wanted; a scene with boxes alone is an error then.
        proposals: folder with a file of proposals for each scene, from `nerf-rcnn predict` with a NeRF-RPN; None for
            scenes without.
        skip_bad: whether bad scenes are left out, and listed in `skipped`, instead of being an error.
        seed: of the augmentation.
        progress: shows how far the check is.

    Raises:
        InputError: a bad scene, or none that is good.
    """

    def __init__(
        self,
        scenes: Sequence[SceneFiles],
        reading: SceneReadingConfig | None = None,
        augmentation: AugmentationConfig | None = None,
        categories: Sequence[str] | None = None,
        needs_truth: bool = True,
        masks: bool = False,
        proposals: Path | None = None,
        skip_bad: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.reading = reading or SceneReadingConfig()
        self.augmentation = augmentation
        self.masks = masks
        self.proposals = proposals
        self.seed = seed
        self.skipped: dict[str, str] = {}
        """Scenes that were left out, and why, one line each."""
        self.scenes: list[SceneFiles] = []
        """The others."""
        self._truth: list[SceneTruth | None] = []
        known = None if categories is None else frozenset(categories)
        for files, found in zip(scenes, self._check(scenes, needs_truth, known, skip_bad, progress), strict=True):
            if isinstance(found, InputError):
                self.skipped[files.name] = str(found)
            else:
                self.scenes.append(files)
                self._truth.append(found)
        if not self.scenes:
            reason = f"; the first: {next(iter(self.skipped.values()))}" if self.skipped else ""
            raise InputError(f"none of {len(scenes)} scenes can be used{reason}")
        names = {name for truth in self._truth if truth is not None for name in truth.categories}
        self.categories: tuple[str, ...] = tuple(sorted(names)) if categories is None else tuple(categories)
        self._label = {name: label for label, name in enumerate(self.categories)}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: int | SampleKey) -> GridSample:
        """A scene; with augmentation it depends on seed, epoch (0 for a mere index) and index alone."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]  # raises IndexError, on which plain loops end
        files, truth = self.scenes[index], self._truth[index]
        grid = open_grid(files, self.reading)
        features, frame = grid_features(grid, self.reading.hide_unseen), GridFrame.of(grid)
        proposals = None if self.proposals is None else self._read_proposals(files, grid)
        if truth is None:
            return GridSample(files.name, features, None, None, frame, None, proposals)
        instances = read_instance_rows(files, grid) if self.masks else None
        boxes = torch.tensor(truth.boxes)
        labels = torch.tensor([self._label[name] for name in truth.categories], dtype=torch.int64)
        if self.augmentation is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            obb = None if truth.obb is None else torch.from_numpy(truth.obb)
            features, boxes, keep, instances, proposals = augment(
                self.augmentation, features, boxes, rng, obb, instances, proposals
            )
            labels, frame = labels[keep], None
        return GridSample(files.name, features, boxes, labels, frame, instances, proposals)

    def _read_proposals(self, files: SceneFiles, grid: DensityGrid) -> Tensor:
        assert self.proposals is not None
        return read_proposals(self.proposals / f"{files.name}.npz", self.reading.boxes, grid)

    def report(self) -> str | None:
        """One line for each scene that was left out, to show when training ends; None if there is none."""
        if not self.skipped:
            return None
        lines = [f"  {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([f"{len(self.skipped)} of {len(self.skipped) + len(self)} scenes were skipped:", *lines])

    def _check(
        self,
        scenes: Sequence[SceneFiles],
        needs_truth: bool,
        known: frozenset[str] | None,
        skip_bad: bool,
        progress: Progress | None,
    ) -> list[SceneTruth | InputError | None]:
        def check(files: SceneFiles) -> SceneTruth | InputError | None:
            try:
                grid = open_grid(files, self.reading)
                truth = read_truth(files, self.reading, grid, self.masks)
                if self.proposals is not None:
                    self._read_proposals(files, grid)
                if truth is None and needs_truth:
                    raise InputError(f"{files.grid}: has no truth beside it; leave scene {files.name!r} out")
                if truth is not None and known is not None and (new := sorted(set(truth.categories) - known)):
                    raise InputError(
                        f"{files.truth_file}: category {new[0]!r} was not in training; leave scene {files.name!r} out"
                    )
                return truth
            except InputError as error:
                if not skip_bad:
                    raise
                return error

        task = None if progress is None else progress.add_task("Checking scenes", total=len(scenes))
        results: list[SceneTruth | InputError | None] = []
        # Decompression lets other threads run.
        with ThreadPoolExecutor(min(_MAX_THREADS, core_count())) as pool:
            try:
                for result in pool.map(check, scenes):
                    results.append(result)
                    if progress is not None and task is not None:
                        progress.advance(task)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results
