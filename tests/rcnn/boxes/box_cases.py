"""Boxes for tests, and IoU by brute force: polygons clipped edge by edge in double precision."""

import math
from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

Point = tuple[float, float]


def random_boxes(
    count: int,
    rotated: bool,
    seed: int = 0,
    extent: float = 10.0,
    largest: float = 6.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Boxes with sides of 0.5 to `largest` and centres in a cube, most of which overlap others."""
    generator = torch.Generator().manual_seed(seed)
    centers, sides, yaws = (torch.rand(count, n, generator=generator, dtype=torch.float64) for n in (3, 3, 1))
    centers, sides = extent * centers, 0.5 + (largest - 0.5) * sides
    if rotated:
        return torch.cat([centers, sides, (2 * yaws - 1) * 4], 1).to(dtype)
    return torch.cat([centers - sides / 2, centers + sides / 2], 1).to(dtype)


def crowded_boxes(count: int, rotated: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 boxes, half of them near copies of others, as a detector finds them; scores; one of four groups each."""
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(count, rotated, count, extent=160 * (count / 9000) ** (1 / 3), largest=30)
    scores, groups = torch.rand(count, generator=generator), torch.randint(0, 4, (count,), generator=generator)
    originals = count - count // 2
    boxes[originals:], groups[originals:] = boxes[: count // 2], groups[: count // 2]
    shift = torch.rand(count // 2, 3, generator=generator)
    boxes[originals:, :3] += shift
    if not rotated:
        boxes[originals:, 3:] += shift
    return boxes, scores, groups


def assert_greedy(kept: Tensor, ious: Tensor, scores: Tensor, threshold: float, tolerance: float = 3e-6) -> None:
    """Whether rows are what NMS keeps, where rounding of the IoU by the tolerance may decide either way.

    Greedy is who comes in the order of the scores, is suppressed by nobody kept before, and leaves out nobody else.
    Boxes that are apart (an IoU of 0) may not suppress each other at any threshold.

    Args:
        kept: result of NMS.
        ious: of all pairs, exact; 0 for pairs of different groups.
        scores: of the boxes.
        threshold: on the IoU.
        tolerance: rounding of the IoU.
    """
    rank = torch.empty_like(scores, dtype=torch.int64)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores))
    assert (rank[kept].diff() > 0).all()
    strongest = torch.where(rank[kept, None] < rank, ious[kept], 0).amax(0)
    dropped = torch.ones(len(scores), dtype=torch.bool)
    dropped[kept] = False
    assert (strongest[kept] <= threshold + tolerance).all()
    assert (strongest[dropped] > max(threshold - tolerance, 0)).all()


def clip(polygon: list[Point], inside: Callable[[Point], float]) -> list[Point]:
    """Sutherland and Hodgman: the part of a polygon where a linear function is not negative."""
    result: list[Point] = []
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        d0, d1 = inside((x0, y0)), inside((x1, y1))
        if d0 >= 0:
            result.append((x0, y0))
        if (d0 >= 0) != (d1 >= 0):
            t = d0 / (d0 - d1)
            result.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
    return result


def exact_area(first: Sequence[float], second: Sequence[float]) -> float:
    """Area that two rectangles (cx, cy, w, l, yaw) share."""
    cx, cy, w, l, yaw = second
    cos, sin = math.cos(yaw), math.sin(yaw)
    polygon = [
        (cx + cos * u - sin * v, cy + sin * u + cos * v)
        for u, v in ((w / 2, l / 2), (-w / 2, l / 2), (-w / 2, -l / 2), (w / 2, -l / 2))
    ]
    cx, cy, w, l, yaw = first
    cos, sin = math.cos(yaw), math.sin(yaw)
    for normal, reach in (((cos, sin), w / 2), ((-cos, -sin), w / 2), ((-sin, cos), l / 2), ((sin, -cos), l / 2)):

        def inside(p: Point, n: Point = normal, r: float = reach) -> float:
            return r - (p[0] - cx) * n[0] - (p[1] - cy) * n[1]

        polygon = clip(polygon, inside)
    turns = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return 0.5 * abs(sum((x0 - cx) * (y1 - cy) - (x1 - cx) * (y0 - cy) for (x0, y0), (x1, y1) in turns))


def exact_iou(first: Tensor, second: Tensor) -> float:
    """IoU of two OBBs, computed from their values as they are."""
    a, b = first.double().tolist(), second.double().tolist()
    area = exact_area([*a[:2], *a[3:5], a[6]], [*b[:2], *b[3:5], b[6]])
    height = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    shared = area * max(height, 0.0)
    union = math.prod(a[3:6]) + math.prod(b[3:6]) - shared
    return shared / union if union > 0 else 0.0


def greedy(ious: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """NMS as one writes it down."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
    kept: list[int] = []
    for i in order:
        if not any(groups[i] == groups[j] and ious[j, i] > threshold for j in kept):
            kept.append(i)
    return kept


_SIDES = st.one_of(st.sampled_from([0.0, 1e-3, 1.0, 2.0]), st.floats(0.01, 30))
_CENTERS = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -1.0]), st.floats(-15, 15))
_YAWS = st.one_of(
    st.sampled_from([0.0, math.pi / 4, math.pi / 2, -math.pi / 2, math.pi, 1e-7, -1e-4]), st.floats(-7, 7)
)
_OBB = st.tuples(_CENTERS, _CENTERS, _CENTERS, _SIDES, _SIDES, _SIDES, _YAWS)


def obbs(positive: bool = False) -> st.SearchStrategy[Tensor]:
    """One OBB, float64, often flat, aligned or in line with others."""
    boxes = _OBB.filter(lambda box: min(box[3:6]) > 0) if positive else _OBB
    return boxes.map(lambda box: torch.tensor(box, dtype=torch.float64))
