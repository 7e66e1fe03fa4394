"""What a rasterizer needs to know of Gaussians besides their colours."""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians in the world frame, with activated parameters."""

    means: Float[Tensor, "N 3"]
    """Centres, in world units."""
    quats: Float[Tensor, "N 4"]
    """Rotations as quaternions (w, x, y, z) of any length."""
    scales: Float[Tensor, "N 3"]
    """Standard deviations along the rotated axes, in world units; not their logarithms."""
    opacities: Float[Tensor, " N"]
    """0 to 1; not their logits."""

    def __len__(self) -> int:
        return len(self.means)

    def select(self, which: Bool[Tensor, " N"] | Int[Tensor, " M"]) -> "Gaussians":
        """Those of a mask or an index, in its order."""
        return Gaussians(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def detach(self) -> "Gaussians":
        """The same Gaussians, cut off from what they were computed from."""
        return Gaussians(**{field.name: getattr(self, field.name).detach() for field in fields(self)})
