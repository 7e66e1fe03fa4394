"""What every mask source does, and the masks that most of them begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jaxtyping import Bool, Float

from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import SourceInfo
from instance_nerfstudio.segments.view_segments import ViewSegments

if TYPE_CHECKING:
    from torch import Tensor


Result = tuple[int, ViewSegments | None]
"""Place of a photo and its segments; None where the source has nothing for it."""


class MaskSource(Protocol):
    """Finds segments in photos."""

    @property
    def info(self) -> SourceInfo:
        """Where the segments come from."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether a photo's segments depend on those of the photos before it."""
        ...

    def segment(
        self, photos: Sequence[Photo], done: Sequence[ViewSegments]
    ) -> Iterator[tuple[int, ViewSegments | None]]:
        """Segments photos one after another.

        Args:
            photos: in order, to be read one by one.
            done: segments that the first photos have from an earlier run. Empty unless the source is `sequential`.

        Yields:
            A result for every place from `len(done)` on. A sequential source may begin further ahead, to end where it
            would have without interruption.

        Raises:
            InputError: something that the user can mend.
        """
        ...


@dataclass(frozen=True, eq=False)
class Detections:
    """Masks as a segmenter gives them, which may overlap."""

    masks: Bool[Tensor, "N H W"]
    scores: Float[Tensor, "N"]
    """In [0, 1]."""
    names: Sequence[str]
    """The segmenter's own names of the classes, N of them."""
    complete: bool = False
    """Whether walls and floors have masks too, so that a pixel without a mask is unknown and not background."""
