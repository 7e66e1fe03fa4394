"""What a head says about every place of one level, before any choice: the common ground of the two heads."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.backbones.half_precision import in_full_precision


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes that a head would propose at one level. K counts the cells in the order (x, y, z), anchors of one cell next
    to each other."""

    scores: Float[Tensor, "N K"]
    """In [0, 1]; -1 where a cell is not in its grid."""
    regressed: Float[Tensor, "N K outputs"]
    """What the head's `decode` takes."""
    references: Float[Tensor, "K numbers"]
    """Anchors or locations in voxels."""
    shape: Extent
    """Cells along x, y and z."""


def cells_as_rows(x: Float[Tensor, "N C X Y Z"], outputs: int) -> Float[Tensor, "N K outputs"]:
    """A map of C / outputs candidates per cell as a row for each."""
    return in_full_precision(x.permute(0, 2, 3, 4, 1).reshape(len(x), -1, outputs))
