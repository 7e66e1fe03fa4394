"""The progress bar of work on many things, one after another."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def item_progress(console: Console | None = None) -> Progress:
    """Shows how many are done and how long the rest will take.

    Args:
        console: where; standard error when None.
    """
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(bar_width=50),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console or Console(stderr=True))
