"""The segments of one view, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class ViewSegments:
    """What a segmenter found in one photo; numbers mean nothing beyond the view. Segment s is row s - 1."""

    ids: Int[np.ndarray, "H W"]
    """int32: -1 unlabelled (no opinion), 0 background (no segment), 1..S segments."""
    categories: tuple[str, ...]
    """The class of each segment."""
    scores: Float[np.ndarray, "S"]
    """Confidence of each segment, in [0, 1]."""
