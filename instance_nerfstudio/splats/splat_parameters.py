"""The numbers that make up Gaussian splats, as splatfacto learns and stores them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# gsplat's rasteriser skips Gaussians of less opacity than 1 / 255.
_LEAST_LOGIT = -5.5373


@dataclass(frozen=True)
class SplatParameters:
    """Parameters of Gaussians, all on one device. In the frame of the model unless said otherwise."""

    means: Float[Tensor, "gaussians 3"]
    scales: Float[Tensor, "gaussians 3"]
    """Logarithms of the standard deviations along the three axes."""
    quats: Float[Tensor, "gaussians 4"]
    """Rotation of the axes, w x y z; of any length but 0."""
    features_dc: Float[Tensor, "gaussians 3"]
    """Spherical harmonics coefficient of degree 0, RGB."""
    features_rest: Float[Tensor, "gaussians bases 3"]
    """Those of the higher degrees, RGB: 0, 3, 8, 15 or 24 bases in gsplat's order and signs."""
    opacities: Float[Tensor, "gaussians 1"]
    """Logits."""

    @classmethod
    def of(cls, gauss_params: Mapping[str, Tensor] | torch.nn.ParameterDict) -> "SplatParameters":
        """Those of a splatfacto model, from its `gauss_params`, detached."""
        splats = cls(**{field.name: gauss_params[field.name].detach() for field in fields(cls)})
        if splats.features_rest.shape[1] == 0:
            from nerfstudio.models.splatfacto import RGB2SH

            # Without view dependence, splatfacto keeps logits of colours instead.
            return cls(**{**vars(splats), "features_dc": RGB2SH(splats.features_dc.sigmoid())})
        return splats

    def __len__(self) -> int:
        return len(self.means)

    def select(self, which: Bool[Tensor, " gaussians"] | Int[Tensor, " chosen"]) -> "SplatParameters":
        """Some of the Gaussians, by mask or place."""
        return SplatParameters(**{name: values[which] for name, values in vars(self).items()})

    def finite(self) -> Bool[Tensor, " gaussians"]:
        """Gaussians all of whose parameters are finite: after an optimisation, some may not be."""
        finite = torch.ones(len(self), dtype=torch.bool, device=self.means.device)
        for values in vars(self).values():
            finite &= values.flatten(1).isfinite().all(dim=1)
        return finite

    def visible(self) -> Bool[Tensor, " gaussians"]:
        """Gaussians that are opaque enough for the rasteriser to draw them."""
        return self.opacities[:, 0] >= _LEAST_LOGIT

    def axes(self) -> Float[Tensor, "gaussians 3 3"]:
        """Unit vectors along the axes of each Gaussian, one a row."""
        from gsplat.utils import normalized_quat_to_rotmat

        return normalized_quat_to_rotmat(torch.nn.functional.normalize(self.quats, dim=1)).transpose(1, 2)
