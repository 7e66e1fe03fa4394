"""Work on many rays in as large pieces as the device's memory takes."""

from collections.abc import Callable

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.errors import InputError


def in_chunks(
    function: Callable[[int, int], None],
    count: int,
    chunk: int,
    remedy: str,
    report: Callable[[int], object] = lambda _: None,
    smallest: int = 1,
) -> int:
    """Calls `function(start, end)` for consecutive ranges; where memory runs out, goes on with chunks half as large.

    Args:
        function: must be repeatable for a range that failed.
        count: end of the last range.
        chunk: length of a range at first.
        remedy: what the user can change about it, for the messages.
        report: called with what is done.
        smallest: length of a range below which it is not worth going on.

    Returns:
        The length that fitted.

    Raises:
        InputError: a range of the smallest length does not fit either.
    """
    start = 0
    while start < count:
        end = min(start + chunk, count)
        try:
            function(start, end)
        except torch.cuda.OutOfMemoryError:
            chunk = (end - start) // 2
            end = start
        if end == start:  # outside of the handler: its traceback would keep the failed chunk's tensors alive
            torch.cuda.empty_cache()
            if chunk < smallest:
                raise InputError(f"out of GPU memory for even a few rays; free some of it, or {remedy}")
            CONSOLE.print(
                f"Out of GPU memory: going on with chunks of {chunk} rays ({remedy}).", highlight=False, soft_wrap=True
            )
        start = end
        report(start)
    return chunk
