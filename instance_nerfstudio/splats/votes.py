"""How much each Gaussian counts for each class of a labelled view."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instance_nerfstudio.splats.rasterize import CHANNELS_AT_ONCE, Picture


def view_votes(
    picture: Picture,
    classes: Int[Tensor, "H W"],
    num_classes: int,
    out: Float[Tensor, "N K"] | None = None,
) -> Float[Tensor, "N K"]:
    """Sums of each Gaussian's blending weights over the pixels of each class.

    A pixel is linear in the values blended into it, its derivatives are the weights. So one backward pass gives the
    votes for as many classes as are blended at once, exactly, without a list of who covers which pixel.

    Args:
        picture: of the view.
        classes: 0 to K - 1; pixels of -1 give nothing. On the picture's device.
        num_classes: K.
        out: votes of other views to add to, in place.

    Returns:
        Votes, `out` where it was given. 0 for Gaussians that the view does not see.

    Raises:
        ValueError: another size than the picture's, or a class of K or more.
    """
    size = tuple(picture.accumulation.shape[:2])
    if classes.shape != size:
        raise ValueError(f"classes for {tuple(classes.shape)} pixels, but the picture has {size}")
    present = classes.unique()
    present = present[present >= 0].long()
    if len(present) and present[-1] >= num_classes:
        raise ValueError(f"class {int(present[-1])} among the pixels, but there are only {num_classes} classes")
    conics = picture.info["conics"]
    votes = conics.new_zeros(conics.shape[1], num_classes) if out is None else out
    if not len(present):
        return votes
    for some in present.split(CHANNELS_AT_ONCE):
        with torch.enable_grad():
            values = conics.new_zeros(conics.shape[1], len(some)).requires_grad_()
            blended = picture.composite(values)
        of_class = (classes[..., None] == some).to(blended.dtype)
        (new_votes,) = torch.autograd.grad(blended, values, of_class)
        votes.index_add_(1, some, new_votes)
    return votes
