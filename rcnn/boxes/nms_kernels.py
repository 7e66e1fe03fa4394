"""Greedy suppression as Triton kernels: bitmasks of who suppresses whom, and a sweep over them on the device.

Boxes are taken in rounds of `ROUND` in the order of their scores. One kernel writes, for each box of the round that is
still there, a bit for every later box that it would suppress; one program resolves the round; one kernel removes what
the boxes kept suppress further on. The host only counts rounds and waits for nothing.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalOperand=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.boxes.conversions import box_volume

ROUND = 2048
_ROWS, _SPREAD_WORDS = 16, 32
_WORD = tl.constexpr(64)


def suppress(
    boxes: Float[Tensor, "N columns"], groups: Int[Tensor, "N"] | None, threshold: float, rotated: bool
) -> Bool[Tensor, "N"]:
    """Which boxes a greedy sweep keeps; see :func:`rcnn.boxes.nms_blocks.suppress_in_blocks`.

    Memory: `ROUND` bits per box.
    """
    count = len(boxes)
    words = triton.cdiv(count, 64)
    table = _prepare(boxes, rotated)
    grouped = groups is not None
    groups = groups.long().contiguous() if grouped else boxes.new_zeros(1, dtype=torch.int64)
    height = min(ROUND, 64 * words)
    bits = torch.empty(height, words, dtype=torch.int64, device=boxes.device)
    removed = torch.zeros(words, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(64 * words, dtype=torch.int8, device=boxes.device)
    # Triton launches on the current device.
    with torch.cuda.device_of(boxes):
        for first in range(0, count, ROUND):
            first_word = first // 64
            blocks = min(height // 64, words - first_word)
            find_suppressed[(64 * blocks // _ROWS, words - first_word)](
                bits, removed, table, groups, count, first, words, threshold,
                rotated=rotated, grouped=grouped, rows=_ROWS, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
            resolve_round[(1,)](
                bits, removed, kept, count, first_word, blocks, words, block_words=ROUND // 64, num_warps=4
            )  # fmt: skip
            after = words - first_word - blocks
            if after > 0:
                spread_round[(triton.cdiv(after, _SPREAD_WORDS),)](
                    bits, removed, kept, first_word, blocks, words, block_words=_SPREAD_WORDS, num_warps=4
                )  # fmt: skip
    return kept[:count].bool()


def _prepare(boxes: Float[Tensor, "N columns"], rotated: bool) -> Float[Tensor, "fields N"]:
    """What the kernel needs of each box, field after field."""
    volume = box_volume(boxes)
    if not rotated:
        return torch.cat([boxes.T, volume[None]]).contiguous()
    half = 0.5 * boxes[:, 3:6].clamp(min=0)
    # A little wider than the circle about the footprint, so that no pair is lost by rounding.
    radius = half[:, :2].norm(dim=1) * (1 + 1e-5)
    yaw = boxes[:, 6]
    return torch.cat([boxes[:, :3].T, half.T, torch.stack([yaw.cos(), yaw.sin(), volume, radius])]).contiguous()


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _clamp(value, limit):
    return tl.maximum(tl.minimum(value, limit), -limit)


@triton.jit
def _along_edge(x0, y0, x1, y1, a, b):
    """One edge's part of the shared area; see `rcnn.boxes.rectangle_overlap`."""
    clipped0, clipped1 = _clamp(x0, a), _clamp(x1, a)
    run, rise = x1 - x0, y1 - y0
    upright = run == 0
    safe_run = tl.where(upright, 1.0, run)
    from_start = tl.where(upright, 0.0, tl.math.div_rn(clipped0 - x0, safe_run))
    to_end = tl.where(upright, 1.0, tl.math.div_rn(clipped1 - x0, safe_run))
    start = y0 + tl.minimum(tl.maximum(from_start, 0.0), 1.0) * rise
    end = y0 + tl.minimum(tl.maximum(to_end, 0.0), 1.0) * rise
    step = end - start
    safe_step = tl.where(step == 0, 1.0, step)
    above = tl.math.div_rn(tl.maximum(end - b, 0.0) - tl.maximum(start - b, 0.0), safe_step)
    below = tl.math.div_rn(tl.maximum(-b - start, 0.0) - tl.maximum(-b - end, 0.0), safe_step)
    middle = 0.5 * (_clamp(start, b) + _clamp(end, b))
    return (clipped0 - clipped1) * (middle + above * (b - middle) - below * (b + middle))


@triton.jit
def _apart(x, y, cos, sin, a, b, along, across):
    """Whether a direction of a side separates the rectangles; see `rcnn.boxes.rectangle_overlap`."""
    cos_size, sin_size = tl.abs(cos), tl.abs(sin)
    of_first = (tl.abs(x) >= a + cos_size * along + sin_size * across) | (
        tl.abs(y) >= b + sin_size * along + cos_size * across
    )
    of_second = (tl.abs(cos * x + sin * y) >= along + cos_size * a + sin_size * b) | (
        tl.abs(cos * y - sin * x) >= across + sin_size * a + cos_size * b
    )
    return of_first | of_second


@triton.jit
def _bit(words, lanes):
    """Bits of words."""
    return ((words >> lanes) & 1) != 0


@triton.jit(do_not_specialize=["count", "first", "words"])
def find_suppressed(
    bits, removed, table, groups, count, first, words, threshold,
    rotated: tl.constexpr, grouped: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Word `first / 64 + program 1` of rows `first + rows * program 0` and so on of `bits` [ROUND, words]."""
    # Indices into fields and bits pass 2^31 for millions of boxes.
    size = count.to(tl.int64)
    local = tl.program_id(0) * rows + tl.arange(0, rows)
    i = first + local
    word = first // _WORD + tl.program_id(1)
    lane = tl.arange(0, _WORD)
    j = word * _WORD + lane
    gone = tl.load(removed + word)
    row_gone = _bit(tl.load(removed + i // _WORD, mask=i < count, other=-1), (i % _WORD).to(tl.int64))
    pairs = (~row_gone & (i < count))[:, None] & (~_bit(gone, lane.to(tl.int64)) & (j < count))[None, :]
    pairs = pairs & (i[:, None] < j[None, :])
    result = tl.zeros([rows], dtype=tl.int64)
    if tl.max(tl.max(pairs.to(tl.int32), 1), 0) > 0:
        if grouped:
            group_i = tl.load(groups + i, mask=i < count, other=0)
            group_j = tl.load(groups + j, mask=j < count, other=0)
            pairs = pairs & (group_i[:, None] == group_j[None, :])
        of_i, of_j = table + i[:, None], table + j[None, :]
        in_i, in_j = (i < count)[:, None], (j < count)[None, :]
        if rotated:
            x = tl.load(of_j, mask=in_j, other=0.0) - tl.load(of_i, mask=in_i, other=0.0)
            y = tl.load(of_j + size, mask=in_j, other=0.0) - tl.load(of_i + size, mask=in_i, other=0.0)
            z = tl.load(of_j + 2 * size, mask=in_j, other=0.0) - tl.load(of_i + 2 * size, mask=in_i, other=0.0)
            c = tl.load(of_i + 5 * size, mask=in_i, other=0.0)
            half_z = tl.load(of_j + 5 * size, mask=in_j, other=0.0)
            height = tl.minimum(c, z + half_z) - tl.maximum(-c, z - half_z)
            reach = tl.load(of_i + 9 * size, mask=in_i, other=0.0) + tl.load(of_j + 9 * size, mask=in_j, other=0.0)
            pairs = pairs & (height > 0) & (x * x + y * y <= reach * reach)
        if tl.max(tl.max(pairs.to(tl.int32), 1), 0) > 0:
            if rotated:
                a = tl.load(of_i + 3 * size, mask=in_i, other=0.0)
                b = tl.load(of_i + 4 * size, mask=in_i, other=0.0)
                cos1 = tl.load(of_i + 6 * size, mask=in_i, other=0.0)
                sin1 = tl.load(of_i + 7 * size, mask=in_i, other=0.0)
                volume1 = tl.load(of_i + 8 * size, mask=in_i, other=0.0)
                along = tl.load(of_j + 3 * size, mask=in_j, other=0.0)
                across = tl.load(of_j + 4 * size, mask=in_j, other=0.0)
                cos2 = tl.load(of_j + 6 * size, mask=in_j, other=0.0)
                sin2 = tl.load(of_j + 7 * size, mask=in_j, other=0.0)
                volume2 = tl.load(of_j + 8 * size, mask=in_j, other=0.0)
                cos, sin = cos1 * cos2 + sin1 * sin2, cos1 * sin2 - sin1 * cos2
                x, y = cos1 * x + sin1 * y, cos1 * y - sin1 * x
                apart = _apart(x, y, cos, sin, a, b, along, across)
                u_x, u_y, v_x, v_y = cos * along, sin * along, sin * across, cos * across
                x0, y0 = x + u_x - v_x, y + u_y + v_y
                x1, y1 = x - u_x - v_x, y - u_y + v_y
                x2, y2 = x - u_x + v_x, y - u_y - v_y
                x3, y3 = x + u_x + v_x, y + u_y - v_y
                area = _along_edge(x0, y0, x1, y1, a, b) + _along_edge(x1, y1, x2, y2, a, b)
                area += _along_edge(x2, y2, x3, y3, a, b) + _along_edge(x3, y3, x0, y0, a, b)
                shared = tl.where(apart, 0.0, tl.maximum(area, 0.0) * tl.maximum(height, 0.0))
            else:
                shared = tl.zeros([rows, _WORD], dtype=tl.float32) + 1.0
                for axis in tl.static_range(3):
                    low_i = tl.load(of_i + axis * size, mask=in_i, other=0.0)
                    low_j = tl.load(of_j + axis * size, mask=in_j, other=0.0)
                    high_i = tl.load(of_i + (axis + 3) * size, mask=in_i, other=0.0)
                    high_j = tl.load(of_j + (axis + 3) * size, mask=in_j, other=0.0)
                    shared *= tl.maximum(tl.minimum(high_i, high_j) - tl.maximum(low_i, low_j), 0.0)
                volume1 = tl.load(of_i + 6 * size, mask=in_i, other=0.0)
                volume2 = tl.load(of_j + 6 * size, mask=in_j, other=0.0)
            union = volume1 + volume2 - shared
            iou = tl.minimum(tl.where(union == 0, 0.0, tl.math.div_rn(shared, tl.where(union == 0, 1.0, union))), 1.0)
            found = pairs & (iou > threshold)
            one = tl.full([rows, _WORD], 1, dtype=tl.int64)
            result = tl.sum(tl.where(found, one << lane.to(tl.int64)[None, :], 0), 1)
    tl.store(bits + local.to(tl.int64) * words + word, result)


@triton.jit(do_not_specialize=["count", "first_word", "blocks", "words"])
def resolve_round(bits, removed, kept, count, first_word, blocks, words, block_words: tl.constexpr):
    """Writes `kept` for a round of `blocks` times 64 boxes, one program for all."""
    lane = tl.arange(0, _WORD)
    shift = lane.to(tl.int64)
    column = tl.arange(0, block_words)
    inside = column < blocks
    gone = tl.load(removed + first_word + column, mask=inside, other=0)
    for block in range(blocks):
        row = bits + (block * _WORD + shift) * words + first_word
        own = tl.load(row + block)
        already = tl.sum(tl.where(column == block, gone, 0), 0)
        there = ~_bit(already, shift) & ((first_word + block) * _WORD + lane < count)
        keep = there
        changing = 1
        # As `rcnn.boxes.nms_blocks.resolve`.
        while changing > 0:
            hit = tl.reduce(tl.where(keep, own, 0), 0, _either)
            again = there & ~_bit(hit, shift)
            changing = tl.sum((again != keep).to(tl.int32), 0)
            keep = again
        tl.store(kept + (first_word + block) * _WORD + lane, keep.to(tl.int8))
        ahead = keep[:, None] & (inside & (column > block))[None, :]
        gone |= tl.reduce(tl.load(row[:, None] + column[None, :], mask=ahead, other=0), 0, _either)


@triton.jit(do_not_specialize=["first_word", "blocks", "words"])
def spread_round(bits, removed, kept, first_word, blocks, words, block_words: tl.constexpr):
    """Marks as `removed` what the kept boxes of a round suppress after it."""
    lane = tl.arange(0, _WORD).to(tl.int64)
    column = first_word + blocks + tl.program_id(0) * block_words + tl.arange(0, block_words)
    inside = column < words
    gone = tl.load(removed + column, mask=inside, other=0)
    for block in range(blocks):
        keep = tl.load(kept + (first_word + block) * _WORD + lane) != 0
        row = bits + (block * _WORD + lane) * words
        found = tl.load(row[:, None] + column[None, :], mask=keep[:, None] & inside[None, :], other=0)
        gone |= tl.reduce(found, 0, _either)
    tl.store(removed + column, gone, mask=inside)
