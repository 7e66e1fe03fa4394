"""What every mask source promises, read back from disk."""

from pathlib import Path

import numpy as np

from instance_nerfstudio.segments.segments_folder import SegmentsFolder, read_segments
from instance_nerfstudio.segments.settings import FlattenConfig

SIZES = ((48, 64), (48, 64), (70, 50))
ANYTHING = FlattenConfig(min_score=0.0, doubtful_score=0.0, min_area=0.0, min_visible=0.01)
"""Random weights are sure of nothing."""


def check(folder: SegmentsFolder, photos: list[Path], some: bool = True) -> None:
    """What every source promises, read back from disk."""
    again = read_segments(folder.path)
    assert set(again.records) == {photo.name for photo in photos}
    assert not some or again.count > 0
    for photo, size in zip(photos, SIZES, strict=True):
        view = again.view(photo)
        assert view.ids.dtype == np.int32
        assert view.ids.shape == size
        assert view.ids.min() >= -1
        assert max(view.ids.max(), 0) == len(view.categories) == len(view.scores)
        shown = np.unique(view.ids[view.ids > 0])
        assert all(view.categories[number - 1] for number in shown)
        assert ((view.scores >= 0) & (view.scores <= 1)).all()
        if not again.tracks:
            assert shown.tolist() == list(range(1, len(view.scores) + 1))


def same(one: Path, other: Path) -> bool:
    return all(file.read_bytes() == (other / file.name).read_bytes() for file in one.iterdir())
