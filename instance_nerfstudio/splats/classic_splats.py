"""Antialiased splats for viewers that don't antialias, which most don't.

Such a viewer widens each Gaussian by a blur of half a pixel and leaves its opacity alone: of Gaussians that are thinner
than that, and antialiased training makes many, it draws a haze. Antialiased rasterization lowers opacities by what the
blur adds, in every view anew (Mip-Splatting, Yu et al., CVPR 2024, arXiv:2311.16493). A file has one opacity for all
views: here it loses most of what it loses where the training cameras stand. So that Gaussians don't leave holes when
they are seen from nearer, where the blur is nothing beside them, they become a little wider, as by Mip-Splatting's 3D
smoothing filter.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModel
from instance_nerfstudio.splats.rasterize import BLUR
from instance_nerfstudio.splats.splat_parameters import SplatParameters

# Variances, in square pixels of the training views: by how much Gaussians become wider, and the blur whose gain they
# lose in opacity. More of either is better at the photos' resolution and worse from nearer. Of nine pairs these are
# among the best two over once, twice and four times that resolution in two rooms: the optimum is flat.
_FILTER, _LOST_BLUR = 0.05, 0.2
# Of more training views as many are looked from, evenly chosen.
_MOST_VIEWS = 200
# An opacity of 0 or 1 has no finite logit.
_LEAST = 1e-6


@torch.no_grad()
def classic_splats(model: InstanceSplatfactoModel, cameras: Cameras) -> SplatParameters:
    """The Gaussians of a model, in its frame, with the sizes and opacities that suit a viewer without antialiasing.

    Gaussians that no training view sees stay as they are, and so do all of a model that isn't antialiased itself.

    Args:
        model: in evaluation mode.
        cameras: those of the training views.
    """
    splats = SplatParameters.of(model.gauss_params)
    if model.config.rasterize_mode != "antialiased":
        return splats
    kept, pixel = torch.zeros_like(splats.opacities[:, 0]), torch.zeros_like(splats.opacities[:, 0])
    views = torch.zeros_like(kept)
    for index in range(0, len(cameras), -(-len(cameras) // _MOST_VIEWS)):
        camera = cameras[index : index + 1]
        info = model.picture(camera).info
        seen = info["radii"][0] > 0  # the rest of what gsplat says of the others is not initialized
        kept[seen] += _kept_opacity(info["conics"][0][seen])
        pixel[seen] += info["depths"][0][seen] / float(camera.fx)
        views[seen] += 1
    seen = views > 0
    kept, pixel = (torch.where(seen, total / views.clamp(min=1), rest) for total, rest in ((kept, 1.0), (pixel, 0.0)))
    opacities = (splats.opacities.sigmoid() * kept[:, None]).clamp(_LEAST, 1 - _LEAST)
    wider = splats.scales.exp().square() + _FILTER * pixel[:, None].square()
    return replace(
        splats,
        scales=torch.where(seen[:, None], wider.log() / 2, splats.scales),
        opacities=torch.where(seen[:, None], opacities.logit(), splats.opacities),
    )


def exported_classic(eval_setup: Callable[..., Any]) -> Callable[..., Any]:
    """nerfstudio's `eval_setup` for an export of splats: ours become classic ones once they are loaded."""

    def setup(*args: Any, **kwargs: Any) -> Any:
        loaded = eval_setup(*args, **kwargs)
        pipeline = loaded[1]
        if isinstance(pipeline.model, InstanceSplatfactoModel):
            splats = classic_splats(pipeline.model, pipeline.datamanager.train_dataset.cameras)
            pipeline.model.gauss_params["scales"].data = splats.scales
            pipeline.model.gauss_params["opacities"].data = splats.opacities
        return loaded

    return setup


def _kept_opacity(conics: Float[Tensor, "gaussians 3"]) -> Float[Tensor, " gaussians"]:
    """What is left of the opacity of Gaussians that a blur makes wider, if their sum over all pixels is to stay.

    Args:
        conics: inverse covariances in the picture, which have the rasterizer's blur in them: xx, xy, yy.
    """
    x, xy, y = conics.double().unbind(-1)
    area = 1 / (x * y - xy * xy)  # determinant of the covariance
    trace = (x + y) * area
    other = _LOST_BLUR - BLUR
    thin, wide = area - BLUR * trace + BLUR**2, area + other * trace + other**2
    return (thin / wide).clamp(0, 1).sqrt().to(conics.dtype)
