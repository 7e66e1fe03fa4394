"""Silence of nerfstudio's console."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from nerfstudio.utils.rich_utils import CONSOLE


@contextmanager
def hushed_console() -> Iterator[None]:
    """Keeps nerfstudio's own messages from tearing a progress bar apart."""
    file = CONSOLE.file
    CONSOLE.file = io.StringIO()
    try:
        yield
    finally:
        CONSOLE.file = file
