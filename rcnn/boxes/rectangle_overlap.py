"""Area that two rotated rectangles share: exact, without sorting vertices or testing what lies inside.

In the frame of the first rectangle, [-a, a] x [-b, b], Green's theorem turns the area that it shares with a polygon
into an integral along the polygon's edges,

    area = -∮ [|x| <= a] clamp(y, -b, b) dx,

and along one edge that is the clipped step in x times the mean of a clamped linear function. Every term is continuous
in the corners, so that identical, touching, nested and flat rectangles need no rule of their own, and every difference
is taken near the first rectangle's centre, so that large coordinates cost no digits.

The terms of rectangles that are apart cancel but for rounding. Such pairs are told by their sides' directions, of which
one separates them (separating axis theorem), and share exactly 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def rectangle_overlap(first: Float[Tensor, "*#N 7"], second: Float[Tensor, "*#N 7"]) -> Float[Tensor, "*N"]:
    """Area shared by the footprints of two sets of OBBs, element by element; differentiable.

    Args:
        first: rectangles as OBBs, of which cx, cy, w, l and yaw count; negative sides are taken as 0.
        second: likewise.

    Returns:
        Areas, not negative; exactly 0 for rectangles that are apart by more than rounding; NaN where one has a NaN.
    """
    cos1, sin1 = first[..., 6].cos(), first[..., 6].sin()
    cos2, sin2 = second[..., 6].cos(), second[..., 6].sin()
    cos, sin = cos1 * cos2 + sin1 * sin2, cos1 * sin2 - sin1 * cos2
    apart_x, apart_y = second[..., 0] - first[..., 0], second[..., 1] - first[..., 1]
    x, y = cos1 * apart_x + sin1 * apart_y, cos1 * apart_y - sin1 * apart_x
    along, across = (0.5 * second[..., axis].clamp(min=0) for axis in (3, 4))
    a, b = (0.5 * first[..., axis].clamp(min=0) for axis in (3, 4))
    apart = _apart(x, y, cos, sin, a, b, along, across)
    a, b = a[..., None], b[..., None]

    u_x, u_y, v_x, v_y = cos * along, sin * along, sin * across, cos * across
    x0 = torch.stack([x + u_x - v_x, x - u_x - v_x, x - u_x + v_x, x + u_x + v_x], -1)
    y0 = torch.stack([y + u_y + v_y, y - u_y + v_y, y - u_y - v_y, y + u_y - v_y], -1)
    x1, y1 = x0.roll(-1, -1), y0.roll(-1, -1)
    clipped0, clipped1 = _clamp(x0, a), _clamp(x1, a)
    run = x1 - x0
    upright = run == 0
    safe_run = torch.where(upright, 1, run)
    rise = y1 - y0
    # Beyond [0, 1] lie only edges apart from the rectangle, whose clipped step is 0 whatever their height.
    start = y0 + torch.where(upright, 0, (clipped0 - x0) / safe_run).clamp(0, 1) * rise
    end = y0 + torch.where(upright, 1, (clipped1 - x0) / safe_run).clamp(0, 1) * rise
    area = ((clipped0 - clipped1) * _clamped_mean(start, end, b)).sum(-1)
    # A product, since NaN stays NaN.
    return area.clamp(min=0) * ~apart


@torch.no_grad()
def _apart(
    x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, a: Tensor, b: Tensor, along: Tensor, across: Tensor
) -> Bool[Tensor, "*N"]:
    """Whether a direction of a side separates the rectangles, the second seen in the frame of the first."""
    cos_size, sin_size = cos.abs(), sin.abs()
    return (
        (x.abs() >= a + cos_size * along + sin_size * across)
        | (y.abs() >= b + sin_size * along + cos_size * across)
        | ((cos * x + sin * y).abs() >= along + cos_size * a + sin_size * b)
        | ((cos * y - sin * x).abs() >= across + sin_size * a + cos_size * b)
    )


def _clamp(value: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(value, limit), -limit)


def _clamped_mean(start: Tensor, end: Tensor, limit: Tensor) -> Tensor:
    """Mean of clamp(y, -limit, limit) for y from start to end.

    The trapezoid of the clamped ends, and what it misses because the clamped function has kinks. Either a share or its
    factor is exactly 0 with all derivatives unless a kink is crossed, so that a step of rounding size does no harm.
    """
    step = end - start
    level = step == 0
    safe_step = torch.where(level, 1, step)
    above = ((end - limit).relu() - (start - limit).relu()) / safe_step
    below = ((-limit - start).relu() - (-limit - end).relu()) / safe_step
    middle = 0.5 * (_clamp(start, limit) + _clamp(end, limit))
    return middle + above * (limit - middle) - below * (limit + middle)
