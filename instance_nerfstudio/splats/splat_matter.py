"""Gaussians as pieces of matter: where each lies, how far it reaches, and how much it weighs."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from instance_nerfstudio.splats.splat_parameters import SplatParameters

# Logarithm; limited, so that nothing overflows. No scene has Gaussians as large.
_LARGEST_SCALE = 30.0
# A Gaussian's disc weighs at most as much as this many median ones: the largest are often the strays themselves.
_HEAVIEST = 16.0


@dataclass(frozen=True)
class SplatMatter:
    """Ellipsoids of Gaussians, float64, in the frame of the splats."""

    centres: Float[np.ndarray, "gaussians 3"]
    deviations: Float[np.ndarray, "gaussians 3"]
    """Standard deviations, the largest first."""
    axes: Float[np.ndarray, "gaussians 3 3"]
    """Unit vectors along them, one a row."""
    opacities: Float[np.ndarray, " gaussians"]

    @classmethod
    def of(cls, splats: SplatParameters) -> "SplatMatter":
        """That of Gaussians whose parameters are finite."""
        deviations, order = splats.scales.double().clamp(max=_LARGEST_SCALE).exp().sort(dim=1, descending=True)
        axes = splats.axes().double().gather(1, order[..., None].expand(-1, -1, 3))
        values = (splats.means.double(), deviations, axes, splats.opacities[:, 0].double().sigmoid())
        return cls(*(value.cpu().numpy() for value in values))

    def __len__(self) -> int:
        return len(self.centres)

    def select(self, which: np.ndarray) -> "SplatMatter":
        """Some of the Gaussians, by mask or place."""
        return SplatMatter(**{name: values[which] for name, values in vars(self).items()})

    def weights(self) -> Float[np.ndarray, " gaussians"]:
        """Opacity times the area of the disc, which is what a Gaussian covers in a picture.

        The largest discs are limited, by the median of these Gaussians. Not the volume, which is next to nothing for
        flat ones; nor the number, by which bare surfaces of few large Gaussians would count for little.
        """
        areas = self.deviations[:, 0] * self.deviations[:, 1]
        return self.opacities * np.minimum(areas, _HEAVIEST * np.median(areas)) if len(areas) else areas

    def robust_bounds(self, outside: float) -> Float[np.ndarray, "2 3"]:
        """Corners of the box around nearly all matter, Gaussians reaching to one standard deviation.

        Args:
            outside: share of the matter that lies over each side, by weight.
        """
        reaches = np.sqrt(((self.deviations[..., None] * self.axes) ** 2).sum(axis=1))
        weights = self.weights()
        low = [_heaviest_end(self.centres[:, axis] - reaches[:, axis], weights, outside) for axis in range(3)]
        high = [-_heaviest_end(-self.centres[:, axis] - reaches[:, axis], weights, outside) for axis in range(3)]
        return np.array([low, high])


def _heaviest_end(values: np.ndarray, weights: np.ndarray, outside: float) -> float:
    """The smallest value below which, itself included, lies more than a share of the weight."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    place = np.searchsorted(cumulative, outside * cumulative[-1], side="right")
    return float(values[order[min(place, len(values) - 1)]])
