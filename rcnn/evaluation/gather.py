"""Metrics of several processes in each of them."""

from typing import TypeVar

import torch.distributed as dist

Part = TypeVar("Part")


def gather_objects(part: Part) -> list[Part]:
    """What every process of the default group gives; all must call it. Without a group, the one that is given.

    Objects are pickled between the processes of one training.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [part]
    parts: list[Part | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return [found for found in parts if found is not None]
