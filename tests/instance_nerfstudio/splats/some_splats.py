"""Random splats, and balls covered with them, for tests."""

import numpy as np
import torch

from instance_nerfstudio.splats.splat_parameters import SplatParameters


def some_splats(count: int, degree: int, seed: int = 0) -> SplatParameters:
    """Gaussians with random parameters, all of which can be drawn."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    return SplatParameters(
        draw(3), 0.3 * draw(3) - 2, draw(4), draw(3), draw((degree + 1) ** 2 - 1, 3), draw(1).clamp(min=-5)
    )


def flat_splats(points: np.ndarray, size: float = 0.02, opacity: float = 0.9) -> SplatParameters:
    """Opaque little discs, all of one size, lying flat (z up)."""
    count = len(points)
    scales = torch.full((count, 3), size).log()
    scales[:, 2] -= 3
    return SplatParameters(
        torch.tensor(points, dtype=torch.float32).reshape(count, 3),
        scales,
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.zeros(count, 3),
        torch.zeros(count, 3, 3),
        torch.full((count, 1), opacity).logit(),
    )


def joined(*parts: SplatParameters) -> SplatParameters:
    """All Gaussians of several, in order."""
    return SplatParameters(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})
